//! A simulated day: who comes when, what happens next, and what must be true at the end.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use turnway_relay::{AllocationId, FiveTuple, IcmpError, Protocol, RelayId, Stats, Transport};
use turnway_wire::{Family, Frame, frame};

use crate::messages::User;
use crate::network::{Author, Event, Network, Step};
use crate::payload::{Direction, Tag};
use crate::plan::{
    CLIENTS, DAY, HOUR, LISTENER_PORT, NANOS, OWN, PEER_PORT, SHARDS, UNIX_EPOCH_S, client_at,
    client_ip, local, shard_of,
};
use crate::record::Record;
use crate::relay::{REST_SECRETS, Relay, STATIC_USERS, static_name, static_password};
use crate::rng::Rng;
use crate::session::{Behaviour, Finish, Session, State, What, Wish};

pub(crate) struct World<'r> {
    pub(crate) relay: &'r mut Relay,
    pub(crate) net: Network,
    pub(crate) rng: Rng,
    pub(crate) record: Record,
    pub(crate) sessions: Vec<Session>,
    pub(crate) clients: Vec<ClientState>,
    /// The open relay sockets by shard, allocation and family.
    pub(crate) open: BTreeMap<(usize, AllocationId, usize), SocketAddr>,
    /// When each server's timer is set for.
    pub(crate) armed: [u64; SHARDS],
    /// A session that waits for a partner.
    pub(crate) lobby: Option<u32>,
    /// Relays that were closed lately: their ids must name nothing.
    pub(crate) stale: VecDeque<(usize, RelayId)>,
    /// What somebody on the path saw lately: sender, message, time.
    pub(crate) overheard: Vec<(turnway_relay::Client, Vec<u8>, u64)>,
    pub(crate) totals: Totals,
    start_ns: u64,
    loss_per_mille: u64,
}

/// One user's machine.
#[derive(Default)]
pub(crate) struct ClientState {
    next_port: u16,
    /// Which session listens at which address.
    pub(crate) ports: BTreeMap<SocketAddr, u32>,
    pub(crate) active: u32,
    /// The five-tuple of a session that ended without a word, and when.
    pub(crate) abandoned: Option<(FiveTuple, u64)>,
}

/// What happened in a day; shown, and looked at for whether enough of everything did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) sessions: u64,
    pub(crate) served: u64,
    pub(crate) allocations: u64,
    pub(crate) most_at_once: u64,
    pub(crate) pairs: u64,
    pub(crate) relayed: u64,
    /// Pings that should have come back, of UDP and TCP clients, and pings that did.
    pub(crate) expected: [u64; 2],
    pub(crate) heard: [u64; 2],
    pub(crate) refused: u64,
    pub(crate) expired_users: u64,
    pub(crate) forbidden: u64,
    pub(crate) borrowed: u64,
    pub(crate) moved: u64,
    pub(crate) retried: u64,
    pub(crate) reservations_expired: u64,
    pub(crate) attacks: u64,
    pub(crate) late_attacks: u64,
    pub(crate) overslept: u64,
    /// Datagrams that came to a port whose owner had changed meanwhile.
    pub(crate) to_next_owner: u64,
}

const FIRST_CLIENT_PORT: u16 = 2000;
/// How long an address must have been quiet before another session uses it.
const REUSE_AFTER_NS: u64 = 60 * NANOS;
const ATTACK_EVERY_NS: u64 = 4 * NANOS;

impl<'r> World<'r> {
    pub(crate) fn new(relay: &'r mut Relay, seed: u64, start_ns: u64) -> Self {
        let mut rng = Rng::new(seed);
        let loss_per_mille = rng.range(5, 40);
        let mut world = Self {
            relay,
            net: Network::new(start_ns, Rng::new(rng.word()), loss_per_mille),
            rng,
            record: Record::new(),
            sessions: Vec::new(),
            clients: (0..CLIENTS).map(|_| ClientState::default()).collect(),
            open: BTreeMap::new(),
            armed: [u64::MAX; SHARDS],
            lobby: None,
            stale: VecDeque::new(),
            overheard: Vec::new(),
            totals: Totals::default(),
            start_ns,
            loss_per_mille,
        };
        for client in 0..CLIENTS {
            let first_ns = start_ns + world.rng.below(2 * HOUR);
            world.net.at(first_ns, Event::Begin { client });
        }
        world.net.at(start_ns + 12 * HOUR, Event::Rush);
        world.net.at(start_ns + 7 * HOUR, Event::Reload);
        world.net.at(start_ns + 19 * HOUR, Event::Reload);
        world.net.at(start_ns, Event::Attack);
        (1..=24).for_each(|hour| world.net.at(start_ns + hour * HOUR, Event::Inspect));
        world
    }

    /// Lives through the day, and until everything that was left has expired.
    pub(crate) fn run(mut self) -> Totals {
        while let Some(event) = self.net.next() {
            self.happen(event);
        }
        self.finish();
        self.totals
    }

    fn day_end(&self) -> u64 {
        self.start_ns + DAY
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToServer { author, from, data } => self.client_datagram(author, from, &data),
            Event::StreamToServer { session, data } => self.stream_to_server(session, &data),
            Event::Disconnected { session } => {
                self.sessions[session as usize].disconnected = true;
                self.disconnected(self.sessions[session as usize].tuple);
            }
            Event::ToClient { to, data } => {
                let client = client_at(to.ip()).map(|client| &self.clients[client as usize]);
                if let Some(&session) = client.and_then(|client| client.ports.get(&to)) {
                    self.heard(session, &data);
                }
            }
            Event::StreamToClient { session, data } => self.stream_to_client(session, &data),
            Event::ToPeer { author, from, to, data } => self.at_peer(author, from, to, &data),
            Event::ToRelay { author, from, to, data } => {
                self.peer_datagram(author, from, to, &data)
            }
            Event::Icmp { shard, relay, peer, error } => self.icmp(shard, relay, peer, error),
            Event::ServerTimer(shard) => self.server_timer(shard),
            Event::PoolTimer => self.pool_timer(),
            Event::Begin { client } => self.begin_and_plan_next(client),
            Event::Step { session, step } => self.step(session, step),
            Event::Retransmit { session, transaction, tries } => {
                self.retransmit(session, transaction, tries)
            }
            Event::Rush => self.rush(),
            Event::Attack => {
                self.attack();
                if self.net.now_ns + ATTACK_EVERY_NS < self.day_end() {
                    let wait = self.rng.below(2 * ATTACK_EVERY_NS);
                    self.net.after(wait, Event::Attack);
                }
            }
            Event::AttackLate(shard) => self.use_what_ran_out(shard),
            Event::Inspect => self.inspect(),
            Event::Reload => self.reload(),
        }
    }

    fn rush(&mut self) {
        for client in 0..CLIENTS {
            if self.clients[client as usize].active == 0 {
                self.begin(client);
            }
        }
    }

    fn begin_and_plan_next(&mut self, client: u32) {
        let session = self.begin(client);
        let gap = self.rng.range(20, 200) * 60 * NANOS;
        let ends_ns = self.sessions[session as usize].ends_ns;
        let next_ns = ends_ns.max(self.net.now_ns) + gap;
        if next_ns + 300 * NANOS < self.day_end() {
            self.net.at(next_ns, Event::Begin { client });
        }
    }

    /// Lets a client begin a session of some kind.
    fn begin(&mut self, client: u32) -> u32 {
        let transport = match self.rng.chance(250) {
            true => Transport::Tcp,
            false => Transport::Udp,
        };
        let server = OWN[self.rng.index(5) % 3];
        let tuple = self.new_tuple(client, transport, SocketAddr::new(server, LISTENER_PORT));
        let minutes = match self.rng.below(100) {
            0..70 => self.rng.range(2, 16),
            70..96 => self.rng.range(15, 60),
            _ => self.rng.range(60, 240),
        };
        let ends_ns = self.net.now_ns + minutes * 60 * NANOS + self.rng.below(60 * NANOS);
        let behaviour = match self.rng.below(100) {
            0..2 => Behaviour::WrongKey,
            2..4 if self.relay.rest => Behaviour::ShortLived,
            4..6 => Behaviour::Borrower,
            6..9 => Behaviour::Abuser,
            9..11 => Behaviour::Sleeper,
            _ => Behaviour::Honest,
        };
        let user = self.user(client, behaviour);
        let mut session = Session::new(client, tuple, Rc::new(user));
        session.behaviour = behaviour;
        session.wish = match self.rng.below(100) {
            0..60 => Wish::Any(Family::V4),
            60..72 => Wish::Any(Family::V6),
            72..80 => Wish::Even,
            80..90 => Wish::Pair,
            _ => Wish::Both,
        };
        session.wants_partner = session.wish != Wish::Any(Family::V6)
            && behaviour == Behaviour::Honest
            && self.rng.chance(150);
        session.lifetime_s = match self.rng.below(4) {
            0 => Some(self.rng.range(1, 7200) as u32),
            _ => None,
        };
        session.finish = match (self.rng.below(10), transport) {
            (0..6, _) => Finish::Delete,
            (6..8, Transport::Tcp | Transport::Tls) => Finish::Disconnect,
            (_, _) => Finish::Crash,
        };
        session.ends_ns = ends_ns.min(self.day_end() - 60 * NANOS);
        self.add(session)
    }

    fn add(&mut self, session: Session) -> u32 {
        let index = self.sessions.len() as u32;
        let client = &mut self.clients[session.client as usize];
        client.active += 1;
        if session.tuple.transport == Transport::Udp {
            client.ports.insert(session.tuple.client, index);
        }
        self.totals.sessions += 1;
        self.sessions.push(session);
        if self.rng.chance(100) {
            self.ask(index, What::Binding);
        }
        self.step(index, Step::Allocate);
        index
    }

    /// The second of two sessions with adjacent ports, as RTP and RTCP have.
    pub(crate) fn begin_second(&mut self, first: u32, token: [u8; 8]) {
        let first = &self.sessions[first as usize];
        let (client, transport, server) = (first.client, first.tuple.transport, first.tuple.server);
        let (user, ends_ns, behaviour) = (Rc::clone(&first.user), first.ends_ns, first.behaviour);
        let port = self.new_port(client);
        let tuple = FiveTuple {
            transport,
            client: SocketAddr::new(client_ip(client, Family::of(server.ip())), port),
            server,
        };
        let mut session = Session::new(client, tuple, user);
        session.wish = Wish::Reserved(token);
        session.ends_ns = ends_ns;
        session.behaviour = match behaviour {
            Behaviour::ShortLived => Behaviour::ShortLived,
            _ => Behaviour::Honest,
        };
        self.add(session);
    }

    fn new_tuple(&mut self, client: u32, transport: Transport, server: SocketAddr) -> FiveTuple {
        let now_ns = self.net.now_ns;
        // A program that crashed and starts again may get the same port.
        let abandoned = self.clients[client as usize].abandoned.take();
        if let Some((tuple, since_ns)) = abandoned
            && transport == Transport::Udp
            && since_ns + REUSE_AFTER_NS < now_ns
            && !self.clients[client as usize].ports.contains_key(&tuple.client)
        {
            return tuple;
        }
        let port = self.new_port(client);
        let ip = client_ip(client, Family::of(server.ip()));
        FiveTuple { transport, client: SocketAddr::new(ip, port), server }
    }

    fn new_port(&mut self, client: u32) -> u16 {
        let client = &mut self.clients[client as usize];
        client.next_port += 1;
        FIRST_CLIENT_PORT + client.next_port
    }

    /// Gives a session another local port.
    pub(crate) fn move_port(&mut self, index: u32) {
        let client = self.sessions[index as usize].client;
        let port = self.new_port(client);
        let session = &mut self.sessions[index as usize];
        let ports = &mut self.clients[client as usize].ports;
        ports.remove(&session.tuple.client);
        session.tuple.client.set_port(port);
        ports.insert(session.tuple.client, index);
        session.credentials = None;
    }

    fn user(&mut self, client: u32, behaviour: Behaviour) -> User {
        let now_s = UNIX_EPOCH_S + self.net.now_ns / NANOS;
        let timed =
            self.relay.rest && (client.is_multiple_of(2) || behaviour == Behaviour::ShortLived);
        let mut user = if timed {
            let lives_s = match behaviour {
                Behaviour::ShortLived => self.rng.range(100, 500),
                _ => 86_400,
            };
            let end = now_s + lives_s;
            let secret = REST_SECRETS[self.rng.index(REST_SECRETS.len())];
            User::timed(format!("{end}:client{client}"), secret)
        } else {
            let index = 1 + u64::from(client) % (STATIC_USERS - 1);
            User::fixed(static_name(index), static_password(index))
        };
        if behaviour == Behaviour::WrongKey {
            user.password.push('!');
        }
        user.modern = self.rng.chance(500);
        user.anonymous = user.modern && !self.relay.rest && self.rng.chance(500);
        user
    }

    fn stream_to_server(&mut self, index: u32, data: &[u8]) {
        let session = &mut self.sessions[index as usize];
        let mut stream = std::mem::take(&mut session.received[1]);
        let from = session.address(index);
        stream.extend_from_slice(data);
        let mut at = 0;
        while let Frame::Complete { len, payload } = frame(&stream[at..]) {
            self.client_datagram(Author::Session(index), from, &stream[at..at + payload]);
            at += len;
        }
        assert_ne!(frame(&stream[at..]), Frame::Invalid, "the stream lost its frames");
        stream.drain(..at);
        self.sessions[index as usize].received[1] = stream;
    }

    fn stream_to_client(&mut self, index: u32, data: &[u8]) {
        let mut stream = std::mem::take(&mut self.sessions[index as usize].received[0]);
        stream.extend_from_slice(data);
        let mut at = 0;
        while let Frame::Complete { len, payload } = frame(&stream[at..]) {
            self.heard(index, &stream[at..at + payload]);
            at += len;
        }
        assert_ne!(frame(&stream[at..]), Frame::Invalid, "the stream lost its frames");
        stream.drain(..at);
        self.sessions[index as usize].received[0] = stream;
    }

    /// A peer echoes pings to where they came from; at other ports nobody is.
    fn at_peer(&mut self, author: Author, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if to.port() != PEER_PORT {
            return self.unreachable(from, to);
        }
        let tag = Tag::read(data);
        if let Author::Session(session) = author {
            let tag = tag.expect("honest payloads arrive as they were sent");
            assert_eq!(tag.session, session);
            let relays = &self.sessions[session as usize].relays;
            assert!(relays.contains(&Some(from)), "from a wrong relay");
        }
        let Some(tag) = tag.filter(|tag| tag.direction == Direction::Ping) else {
            return;
        };
        let direction = Direction::Echo;
        let echo = Tag { direction, ..tag }.payload(data.len());
        self.net.datagram(Event::ToRelay { author, from: to, to: local(from), data: echo });
    }

    fn unreachable(&mut self, relay: SocketAddr, peer: SocketAddr) {
        let (family, icmp_type, code) = match Family::of(peer.ip()) {
            Family::V4 => (Family::V4, 3, 3),
            Family::V6 => (Family::V6, 1, 4),
        };
        let error = IcmpError { family, icmp_type, code, data: 0 };
        if let Some(socket) = self.record.socket(local(relay)) {
            let (shard, relay) = (socket.shard, socket.relay);
            self.net.datagram(Event::Icmp { shard, relay, peer, error });
        }
    }

    /// Holds gauges, pool and counts against the record, now.
    fn inspect(&mut self) {
        (0..SHARDS).for_each(|shard| self.server_timer(shard));
        self.pool_timer();
        let now_ns = self.net.now_ns;
        let mut gauges = vec![(0, 0, 0); SHARDS];
        for held in self.record.held.values() {
            let gauge = &mut gauges[shard_of(&held.client.tuple)];
            assert!(held.expires_ns() > now_ns, "an allocation outlived itself");
            let live = |ip| held.relay_live(Family::of(ip), now_ns);
            let permissions =
                held.permissions.iter().filter(|(ip, end)| **end > now_ns && live(**ip));
            let channels = held.channels.values();
            let channels = channels.filter(|(peer, end)| *end > now_ns && live(peer.ip()));
            gauge.0 += 1;
            gauge.1 += permissions.count() as u64;
            gauge.2 += channels.count() as u64;
        }
        for (server, (allocations, permissions, channels)) in self.relay.servers.iter().zip(gauges)
        {
            let stats = server.stats();
            assert_eq!(server.allocations(), allocations);
            assert_eq!((stats.permissions, stats.channels), (permissions, channels));
        }
        for (up, (peer, told_ns)) in &self.record.up {
            let (bound, end_ns) = self.record.channel_deadline(up).expect("bound");
            assert_eq!(bound, *peer);
            // Of a channel that waits for its permission it matters only that it is not used.
            assert!(end_ns == *told_ns || end_ns.max(*told_ns) <= now_ns, "{up:?}");
        }
        let sockets = self.record.sockets.iter().flatten().count();
        assert_eq!(self.open.len(), sockets);
        assert_eq!(self.relay.pool.counts().claimed, sockets);
        assert_eq!(self.relay.shared.allocations.count() as usize, self.record.held.len());
        self.compare_counters();
    }

    /// Every counter of every server is what the simulation counted.
    fn compare_counters(&mut self) {
        for (server, tally) in self.relay.servers.iter().zip(&mut self.relay.tally) {
            let stats: &Stats = server.stats();
            tally.permissions = stats.permissions;
            tally.channels = stats.channels;
            // Which of two causes hid behind a 401 is the server's to say.
            tally.auth_failures = stats.auth_failures;
            assert_eq!(stats, tally);
        }
    }

    /// The day is over and all that was left has expired: nothing remains.
    fn finish(&mut self) {
        self.inspect();
        assert!(self.record.held.is_empty() && self.record.up.is_empty() && self.open.is_empty());
        let counts = self.relay.pool.counts();
        let capacity = self.relay.pool.capacity(Family::V4) + self.relay.pool.capacity(Family::V6);
        assert_eq!(counts.free, capacity, "ports were lost: {counts:?}");
        for ip in OWN {
            let live =
                |port| self.relay.shared.live.contains(Protocol::Udp, SocketAddr::new(ip, port));
            assert!(!(1..=u16::MAX).any(live), "a port of {ip} is still live");
        }
        for server in &mut self.relay.servers {
            let stats = server.stats();
            assert_eq!((stats.permissions, stats.channels), (0, 0));
            assert_eq!(stats.total_allocations(), 0);
            assert_eq!((server.deadline(), server.allocations()), (None, 0));
            assert!(server.poll().is_none());
        }
        assert!(self.sessions.iter().all(|session| session.state == State::Gone));
        self.check_service();
    }

    /// Every honest client was served, and as well as the network allowed.
    fn check_service(&self) {
        let totals = &self.totals;
        assert_eq!(totals.served + totals.refused, totals.sessions, "{totals:?}");
        let arrives = 1.0 - self.loss_per_mille as f64 / 1000.0;
        for (place, legs) in [(0, 4), (1, 2)] {
            let share = totals.heard[place] as f64 / totals.expected[place] as f64;
            let wanted = arrives.powi(legs);
            assert!(
                (share - wanted).abs() < 0.015,
                "{share:.4} of the datagrams came back, {wanted:.4} should have ({totals:?})"
            );
        }
        // A late datagram for a port's last owner needs a common peer: it hardly ever happens.
        assert!(totals.to_next_owner * 5_000 < totals.relayed, "{totals:?}");
    }
}
