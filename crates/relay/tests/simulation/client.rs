//! What a client does from its first Allocate to its last Refresh, like a real one.

use std::net::SocketAddr;

use turnway_relay::Transport;
use turnway_wire::{
    Builder, ChannelData, Class, Data, ErrorCode, Family, Kind, Lifetime, Message,
    ReservationToken, XorRelayedAddress, classify, padding,
};

use crate::messages::{Credentials, request};
use crate::network::{Author, Event, Step};
use crate::plan::{LISTENER_PORT, MILLI, NANOS, family_index};
use crate::session::{Behaviour, Finish, Pending, Session, State, What, Wish};
use crate::world::World;

/// Tries of a request over UDP (RFC 8489 section 6.2.1) and its first timeout.
const TRIES: u32 = 7;
const RTO_NS: u64 = 500 * MILLI;
const STREAM_TIMEOUT_NS: u64 = 39_500 * MILLI;

impl World<'_> {
    pub(crate) fn session(&mut self, index: u32) -> &mut Session {
        &mut self.sessions[index as usize]
    }

    /// Asks the server for something.
    pub(crate) fn ask(&mut self, index: u32, what: What) {
        let transaction = self.rng.bytes();
        let session = &self.sessions[index as usize];
        let signed = session.credentials.as_ref().filter(|_| what != What::Binding);
        let proof = signed.map(|credentials| (&*session.user, credentials));
        let fill = |builder: &mut Builder<'_>| session.fill(what, builder);
        let bytes = request(what.method(), transaction, proof, &fill);
        let session = self.session(index);
        session.pending.push(Pending { transaction, what, bytes: bytes.clone() });
        let timeout = match session.tuple.transport {
            Transport::Udp | Transport::Dtls => RTO_NS,
            Transport::Tcp | Transport::Tls => STREAM_TIMEOUT_NS,
        };
        self.send(index, bytes);
        let again = Event::Retransmit { session: index, transaction, tries: 1 };
        self.net.after(timeout, again);
    }

    pub(crate) fn retransmit(&mut self, index: u32, transaction: [u8; 12], tries: u32) {
        let session = self.session(index);
        let mut pending = session.pending.iter();
        let Some(at) = pending.position(|p| p.transaction == transaction) else {
            return;
        };
        let what = session.pending[at].what;
        if tries == TRIES || session.tuple.transport == Transport::Tcp {
            assert_eq!(what, What::Delete, "an honest client got no answer");
            return self.leave_server(index);
        }
        let bytes = session.pending[at].bytes.clone();
        self.send(index, bytes);
        let again = Event::Retransmit { session: index, transaction, tries: tries + 1 };
        self.net.after(RTO_NS << tries, again);
    }

    /// Sends a message to the server.
    pub(crate) fn send(&mut self, index: u32, mut data: Vec<u8>) {
        let session = &self.sessions[index as usize];
        let author = Author::Session(index);
        match session.tuple.transport {
            Transport::Udp | Transport::Dtls => {
                let from = session.address(index);
                self.overhear(from, &data);
                self.net.datagram(Event::ToServer { author, from, data });
            }
            Transport::Tcp | Transport::Tls => {
                if matches!(classify(data[0]), Kind::Channel | Kind::OldChannel) {
                    data.resize(data.len() + padding(data.len()), 0);
                }
                self.segments(index, true, data);
            }
        }
    }

    pub(crate) fn step(&mut self, index: u32, step: Step) {
        let state = self.session(index).state;
        match (step, state) {
            (_, State::Gone | State::Ending) => {}
            (Step::Allocate, State::Starting) => self.ask(index, What::Allocate),
            (Step::Allocate, State::Running) => {}
            (Step::End, State::Starting) => panic!("a session ended without service"),
            (Step::End, State::Running) => self.end_session(index),
            (_, State::Starting) => {}
            (Step::Refresh, State::Running) => self.ask(index, What::Refresh),
            (Step::Permissions, State::Running) => {
                self.ask(index, What::Permissions);
                self.later(index, 240 * NANOS, Step::Permissions);
            }
            (Step::Channel(at), State::Running) => {
                let bound = self.session(index).peers[at].bound;
                if bound && self.rng.chance(150) {
                    // Lets the channel run out, and goes on by Send and Data indications.
                    let peer = &mut self.session(index).peers[at];
                    (peer.bound, peer.by_channel) = (false, false);
                    return;
                }
                self.ask(index, What::Channel(at));
                self.later(index, 540 * NANOS, Step::Channel(at));
            }
            (Step::Data, State::Running) => self.send_data(index),
        }
    }

    pub(crate) fn later(&mut self, session: u32, delay_ns: u64, step: Step) {
        self.net.after(delay_ns, Event::Step { session, step });
    }

    pub(crate) fn end_session(&mut self, index: u32) {
        match self.session(index).finish {
            Finish::Delete => {
                self.session(index).state = State::Ending;
                self.ask(index, What::Delete);
            }
            Finish::Crash => self.crash(index),
            Finish::Disconnect => self.leave_server(index),
        }
    }

    /// Goes in good order: a connection is closed.
    pub(crate) fn leave_server(&mut self, index: u32) {
        let session = self.session(index);
        if session.tuple.transport == Transport::Tcp && session.state != State::Gone {
            let time_ns = session.stream_clock[1] + 1;
            self.net.at(time_ns, Event::Disconnected { session: index });
        }
        self.crash(index);
    }

    /// Is gone without a word.
    pub(crate) fn crash(&mut self, index: u32) {
        let now_ns = self.net.now_ns;
        let session = &mut self.sessions[index as usize];
        if session.state == State::Gone {
            return;
        }
        session.state = State::Gone;
        session.credentials = None;
        session.pending = Vec::new();
        session.peers = Vec::new();
        let place = match session.tuple.transport {
            Transport::Udp | Transport::Dtls => 0,
            Transport::Tcp | Transport::Tls => 1,
        };
        self.totals.expected[place] += u64::from(session.counted.count_ones());
        self.totals.heard[place] += u64::from((session.counted & session.heard).count_ones());
        let tuple = session.tuple;
        let client = &mut self.clients[session.client as usize];
        client.active -= 1;
        if tuple.transport == Transport::Udp {
            client.ports.remove(&tuple.client);
            let deleted = session.finish == Finish::Delete;
            client.abandoned = (!deleted).then_some((tuple, now_ns));
        }
    }

    /// A message has reached a session.
    pub(crate) fn heard(&mut self, index: u32, data: &[u8]) {
        if self.session(index).state == State::Gone {
            return;
        }
        match classify(data[0]) {
            Kind::Channel | Kind::OldChannel => {
                let message = ChannelData::parse(data).expect("our ChannelData parses");
                let payload = message.data.to_vec();
                self.payload(index, &payload);
            }
            Kind::Stun => {
                let msg = Message::parse(data).expect("our messages parse");
                match msg.class() {
                    Class::Success | Class::Error => self.answered(index, &msg),
                    Class::Indication => {
                        if let Ok(Some(Data(payload))) = msg.get() {
                            self.payload(index, payload);
                        }
                    }
                    Class::Request => panic!("the server asked something"),
                }
            }
            Kind::Zrtp | Kind::Dtls | Kind::Rtp | Kind::Other => panic!("not TURN"),
        }
    }

    pub(crate) fn answered(&mut self, index: u32, msg: &Message<'_>) {
        let session = self.session(index);
        let transaction = msg.transaction_id().0;
        let mut pending = session.pending.iter();
        let Some(at) = pending.position(|p| p.transaction == transaction) else {
            return;
        };
        let what = session.pending.swap_remove(at).what;
        assert_eq!(msg.method(), what.method());
        if what == What::Binding {
            return;
        }
        let signed = session.credentials.as_ref().map(|credentials| &credentials.key);
        let verified = signed.is_some_and(|key| msg.verify(key));
        if msg.class() == Class::Success {
            assert!(verified, "a success that the client cannot verify");
            return self.succeeded(index, what, msg);
        }
        let error = msg.get::<ErrorCode<'_>>().expect("well-formed");
        let code = error.expect("an error has a code").code;
        assert!(verified || matches!(code, 401 | 438), "{what:?}: unsigned {code}");
        self.failed(index, what, code, msg);
    }

    pub(crate) fn failed(&mut self, index: u32, what: What, code: u16, msg: &Message<'_>) {
        let unix_s = self.now().unix_s;
        let session = self.session(index);
        match (code, what) {
            (401, _) if session.credentials.is_some() => match session.behaviour {
                Behaviour::WrongKey => {
                    self.totals.refused += 1;
                    self.leave_server(index);
                }
                Behaviour::ShortLived => {
                    let end = std::str::from_utf8(&session.user.name).expect("ASCII");
                    let end = end.split(':').next().and_then(|end| end.parse().ok());
                    assert!(end.is_some_and(|end: u64| end <= unix_s), "refused too early");
                    self.totals.expired_users += 1;
                    self.leave_server(index);
                }
                Behaviour::Honest
                | Behaviour::Borrower
                | Behaviour::Sleeper
                | Behaviour::Abuser => {
                    panic!("right credentials were refused for {what:?}");
                }
            },
            (401 | 438, _) => {
                session.credentials = Credentials::new(&session.user, msg);
                session.nonce_borrowed = false;
                assert!(session.credentials.is_some(), "no challenge");
                if (code, session.behaviour) == (401, Behaviour::Borrower) {
                    self.borrow_nonce(index);
                }
                self.ask(index, what);
            }
            (437, What::Delete) => self.leave_server(index),
            // It was under way when the end overtook it.
            (437, _) if session.state == State::Ending => {}
            (437, _) if session.behaviour == Behaviour::Sleeper && what != What::Allocate => {
                self.totals.overslept += 1;
                self.leave_server(index);
            }
            (437, What::Allocate) => {
                // The port was another's, whose allocation lives on: take a new one.
                assert_eq!(session.tuple.transport, Transport::Udp);
                self.totals.moved += 1;
                self.move_port(index);
                self.ask(index, What::Allocate);
            }
            (508, What::Allocate) => {
                if let Wish::Reserved(_) = session.wish {
                    session.wish = Wish::Even;
                }
                self.totals.retried += 1;
                let wait = self.rng.range(1, 5) * NANOS;
                self.later(index, wait, Step::Allocate);
            }
            (403, What::ForbiddenPermission(_) | What::ForbiddenChannel(_)) => {
                self.totals.forbidden += 1;
            }
            (403, What::Channel(at)) if session.partner.is_some() => {
                // A private address of ours is a peer only as long as somebody relays there.
                session.peers[at].bound = false;
                let partner = session.partner.expect("just seen") as usize;
                assert_ne!(self.sessions[partner].state, State::Running);
            }
            (code, what) => panic!("{what:?} was answered with {code}"),
        }
    }

    /// Uses a nonce that was made for somebody else.
    pub(crate) fn borrow_nonce(&mut self, index: u32) {
        let own = self.session(index).tuple.client;
        let mut others = self.sessions.iter().rev().take(100);
        let other = others.find(|other| other.tuple.client != own && other.credentials.is_some());
        let nonce = other.and_then(|other| Some(other.credentials.as_ref()?.nonce.clone()));
        let session = self.session(index);
        if let (Some(credentials), Some(nonce)) = (&mut session.credentials, nonce) {
            credentials.nonce = nonce;
            session.nonce_borrowed = true;
            self.totals.borrowed += 1;
        }
    }

    pub(crate) fn succeeded(&mut self, index: u32, what: What, msg: &Message<'_>) {
        let session = self.session(index);
        assert_ne!(session.behaviour, Behaviour::WrongKey, "a wrong key was accepted");
        assert!(!session.nonce_borrowed, "another client's nonce was accepted");
        match what {
            What::Binding => {}
            What::Allocate => self.allocated(index, msg),
            What::Refresh => self.plan_refresh(index, msg),
            What::Delete => self.leave_server(index),
            What::Permissions => {
                session.peers.iter_mut().for_each(|peer| peer.permitted = true);
            }
            What::Channel(at) => session.peers[at].bound = true,
            What::ForbiddenPermission(peer) | What::ForbiddenChannel(peer) => {
                panic!("a permission for {peer} was granted");
            }
            What::OwnPermission(own) => {
                // Our listener stays out of reach; what the record permits decides.
                let listener = SocketAddr::new(own.ip(), LISTENER_PORT);
                self.send_indication(index, listener, b"GET / HTTP/1.0\r\n\r\n");
            }
        }
    }

    pub(crate) fn plan_refresh(&mut self, index: u32, msg: &Message<'_>) {
        let lifetime = msg.get::<Lifetime>().expect("well-formed");
        let granted = u64::from(lifetime.expect("every success has LIFETIME").0);
        assert!((600..=3600).contains(&granted));
        let wait_s = match self.session(index).behaviour {
            Behaviour::Sleeper => granted + self.rng.range(1, 5),
            _ => granted - 60,
        };
        self.later(index, wait_s * NANOS, Step::Refresh);
    }

    pub(crate) fn allocated(&mut self, index: u32, msg: &Message<'_>) {
        let now_ns = self.net.now_ns;
        let session = self.session(index);
        session.state = State::Running;
        for relay in msg.all::<XorRelayedAddress>() {
            let relay = relay.expect("well-formed").0;
            session.relays[family_index(Family::of(relay.ip()))] = Some(relay);
        }
        let even = [Wish::Even, Wish::Pair].contains(&session.wish);
        let port = session.relays.iter().flatten().next().expect("allocated").port();
        assert!(!even || port.is_multiple_of(2), "an odd port");
        let (ends_ns, behaviour, wish) = (session.ends_ns, session.behaviour, session.wish);
        self.totals.served += 1;
        self.plan_refresh(index, msg);
        if wish == Wish::Pair && self.rng.chance(800) {
            let token = msg.get::<ReservationToken>().expect("well-formed");
            let token = token.expect("a port was reserved").0;
            self.begin_second(index, token);
        }
        if self.session(index).wants_partner {
            self.meet(index);
        } else {
            self.choose_peers(index);
            self.start_relaying(index);
        }
        if behaviour == Behaviour::Abuser {
            self.abuse(index);
        }
        if self.session(index).state == State::Running {
            let end_ns = ends_ns.max(now_ns + NANOS);
            let (session, step) = (index, Step::End);
            self.net.at(end_ns, Event::Step { session, step });
        }
    }
}
