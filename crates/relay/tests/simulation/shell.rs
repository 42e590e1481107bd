//! The server's side of the world: it does what a daemon does with routes and effects, and holds
//! every one of them against the record.

use std::net::SocketAddr;
use std::sync::Arc;

use turnway_relay::effect::{ChannelPath, Ended, Started};
use turnway_relay::ports::Parity;
use turnway_relay::{
    AllocationId, BindFailure, Bound, Client, Effect, EndReason, Event, FiveTuple, IcmpError,
    IpFields, Now, Protocol, Reason, RelayAddr, RelayId, Route, Transport, Want,
};
use turnway_wire::{ChannelData, Class, Data, Family, Kind, Message, Method, XorPeerAddress};
use turnway_wire::{classify, padding};

use crate::network::{Author, Event as NetEvent};
use crate::payload::{Direction, Tag};
use crate::plan::{self, MILLI, NANOS, OWN, UNIX_EPOCH_S, external, family_index, shard_of};
use crate::record::{Held, HeldRelay, Socket, key};
use crate::world::World;

/// Why a server does something.
pub(crate) enum Cause<'a> {
    Request { author: Author, from: Client, data: &'a [u8] },
    Icmp { key: crate::record::Key, peer: SocketAddr },
    Disconnected(FiveTuple),
    Time,
    Reload,
}

/// The longest a simulated shard takes to look at its timers.
pub(crate) const TIMER_LATENESS: u64 = 20 * NANOS;
/// How many closed relays are remembered.
const STALE_LEN: usize = 100;
const OUT_LEN: usize = 1500;

impl World<'_> {
    pub(crate) fn now(&self) -> Now {
        Now { mono_ns: self.net.now_ns, unix_s: UNIX_EPOCH_S + self.net.now_ns / NANOS }
    }

    /// A datagram, or a frame of a stream, has come from a client's address.
    pub(crate) fn client_datagram(&mut self, author: Author, from: Client, data: &[u8]) {
        let shard = shard_of(&from.tuple);
        let now = self.now();
        let ip = match from.tuple.transport {
            Transport::Udp | Transport::Dtls => Some(IpFields { ttl: 64, tos: 0x88 }),
            Transport::Tcp | Transport::Tls => None,
        };
        let route = self.relay.servers[shard].route_client(&from, data, ip, now);
        let wanted = self.record.client_to_peer(&from.tuple, data, now.mono_ns);
        match route {
            Route::Request => self.request(shard, author, from, data),
            Route::Drop(reason) => {
                self.relay.tally[shard].client_drops[reason.index()] += 1;
                // What somebody hostile has broken may be refused for reasons of form.
                assert!(
                    author == Author::Hostile || wanted.is_none(),
                    "a permitted datagram was dropped: {reason} from {from:?}"
                );
            }
            Route::ToPeer { via, to, skip, len, dont_fragment: _, ip: sent } => {
                let Some((peer, payload)) = wanted else {
                    panic!("relayed to {to} without permission, from {from:?}");
                };
                let relayed = &data[usize::from(skip)..][..usize::from(len)];
                assert_eq!((to, relayed), (peer, payload), "to a wrong party");
                assert_eq!(sent, ip.map(|ip| IpFields { ttl: 63, ..ip }));
                assert!(!plan::FORBIDDEN.contains(&to.ip()), "relayed to {to}");
                let held = self.record.held.get_mut(&key(&from.tuple));
                let held = held.expect("just found");
                assert_eq!(via.allocation, held.id, "another client's relay socket");
                let relay = held.relays[family_index(via.family)].expect("open");
                let traffic = self.relay.tally[shard].traffic_mut(from.tuple.transport);
                for count in [&mut held.traffic, traffic] {
                    count.to_peer += 1;
                    count.to_peer_bytes += u64::from(len);
                }
                self.totals.relayed += 1;
                self.leave(author, relay.local, to, payload.to_vec());
            }
            Route::ToClient { .. } | Route::Lease | Route::Arriving | Route::Elsewhere { .. } => {
                panic!("a client's datagram went elsewhere")
            }
        }
    }

    /// A datagram leaves a relay socket for a peer, which may be a relay socket again.
    fn leave(&mut self, author: Author, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        self.net.datagram(if OWN.contains(&to.ip()) {
            NetEvent::ToRelay { author, from, to, data }
        } else {
            NetEvent::ToPeer { author, from: external(from), to, data }
        });
    }

    /// A datagram has come to a local relayed transport address.
    pub(crate) fn peer_datagram(
        &mut self,
        author: Author,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
    ) {
        let Some(socket) = self.record.socket(to).copied() else {
            return;
        };
        let now = self.now();
        let ip = IpFields { ttl: 9, tos: 2 };
        let server = &mut self.relay.servers[socket.shard];
        let route = server.route_peer(socket.relay, from, data.len(), Some(ip), now);
        let wanted = self.record.peer_to_client(&socket, from, now.mono_ns);
        let (client, prefix, pad) = match route {
            Route::Drop(reason) => {
                self.relay.tally[socket.shard].peer_drops[reason.index()] += 1;
                assert!(wanted.is_none(), "{reason}: dropped from permitted {from}");
                return;
            }
            Route::ToClient { to: client, prefix, pad, ip: sent } => {
                let stream = client.tuple.transport.is_stream();
                let one_hop_less = (!stream).then_some(IpFields { ttl: 8, ..ip });
                assert_eq!(sent, one_hop_less);
                (client, prefix, pad)
            }
            Route::ToPeer { .. }
            | Route::Request
            | Route::Lease
            | Route::Arriving
            | Route::Elsewhere { .. } => panic!("a peer's datagram went elsewhere"),
        };
        let Some((held, channel)) = wanted else {
            panic!("relayed from {from} to {client:?} without permission");
        };
        assert_eq!(client, held.client, "to a wrong party");
        let mut message = prefix.as_bytes().to_vec();
        message.extend_from_slice(data);
        message.extend_from_slice(&[0; 3][..usize::from(pad)]);
        check_framing(&message, client, channel, from, data);
        let owner = held.owner;
        self.check_addressee(author, to, owner, data);
        let held = self.record.held.get_mut(&socket.key).expect("just found");
        let traffic = self.relay.tally[socket.shard].traffic_mut(client.tuple.transport);
        for count in [&mut held.traffic, traffic] {
            count.to_client += 1;
            count.to_client_bytes += data.len() as u64;
        }
        self.totals.relayed += 1;
        self.send_to_client(client, message);
    }

    /// Whoever an honest datagram was meant for holds, or at least held, the port it came to.
    fn check_addressee(&mut self, author: Author, to: SocketAddr, owner: u32, data: &[u8]) {
        if author == Author::Hostile {
            return;
        }
        let tag = Tag::read(data).expect("honest payloads arrive as they were sent");
        let announced = external(to);
        let meant = match tag.direction {
            Direction::Echo => tag.session,
            Direction::Ping => {
                let sender = &self.sessions[tag.session as usize];
                sender.partner.expect("only partners ping a relay")
            }
        };
        let relays = &self.sessions[meant as usize].relays;
        assert!(relays.contains(&Some(announced)), "to a wrong party");
        // The port may be another's by now; a relay cannot know that somebody means the last one.
        self.totals.to_next_owner += u64::from(owner != meant);
    }

    /// A request has come; whatever follows from it is done before the next.
    fn request(&mut self, shard: usize, author: Author, from: Client, data: &[u8]) {
        let mut out = [0; OUT_LEN];
        let now = self.now();
        self.relay.servers[shard].handle(Event::Request { from, data }, now, &mut out);
        let cause = Cause::Request { author, from, data };
        if self.carry_out(shard, &cause, &mut out) > 0 {
            return;
        }
        let silent = match Message::parse(data) {
            Err(_) => Reason::Malformed,
            Ok(msg) => match (msg.class(), crate::messages::request_of(msg.method())) {
                (Class::Request, Some(_)) => Reason::RateLimited,
                (_, _) => Reason::Unexpected,
            },
        };
        assert!(
            author == Author::Hostile || silent != Reason::RateLimited,
            "an honest client was not answered"
        );
        self.relay.tally[shard].client_drops[silent.index()] += 1;
    }

    pub(crate) fn disconnected(&mut self, tuple: FiveTuple) {
        let shard = shard_of(&tuple);
        let now = self.now();
        let event = Event::Disconnected { tuple };
        self.relay.servers[shard].handle(event, now, &mut []);
        self.carry_out(shard, &Cause::Disconnected(tuple), &mut []);
    }

    pub(crate) fn icmp(
        &mut self,
        shard: usize,
        relay: RelayId,
        peer: SocketAddr,
        error: IcmpError,
    ) {
        let mut out = [0; OUT_LEN];
        let now = self.now();
        let held =
            |held: &&Held| held.id == relay.allocation && shard_of(&held.client.tuple) == shard;
        let held = self.record.held.values().find(held);
        let permitted = held.filter(|held| {
            let live = held.relay_live(relay.family, now.mono_ns);
            live && held.permitted(peer.ip(), now.mono_ns)
        });
        let cause = match permitted {
            Some(held) => Cause::Icmp { key: key(&held.client.tuple), peer },
            None => Cause::Time,
        };
        let event = Event::Icmp { relay, peer, error };
        self.relay.servers[shard].handle(event, now, &mut out);
        let tally = &mut self.relay.tally[shard];
        let before = tally.icmp_relayed;
        if self.carry_out(shard, &cause, &mut out) == 0 {
            let tally = &mut self.relay.tally[shard];
            assert_eq!(before, tally.icmp_relayed);
            tally.peer_drops[Reason::IcmpIgnored.index()] += 1;
        }
    }

    pub(crate) fn server_timer(&mut self, shard: usize) {
        self.armed[shard] = u64::MAX;
        let now = self.now();
        loop {
            let more = self.relay.servers[shard].expire(now);
            self.carry_out(shard, &Cause::Time, &mut []);
            if !more {
                break;
            }
        }
    }

    pub(crate) fn pool_timer(&mut self) {
        while self.relay.pool.expire(self.net.now_ns).is_some() {
            self.totals.reservations_expired += 1;
        }
    }

    pub(crate) fn reload(&mut self) {
        self.relay.config = Arc::new(crate::relay::config(self.relay.rest));
        let now = self.now();
        for shard in 0..plan::SHARDS {
            let event = Event::Configure(Arc::clone(&self.relay.config));
            self.relay.servers[shard].handle(event, now, &mut []);
            self.carry_out(shard, &Cause::Reload, &mut []);
        }
        self.record.drop_unreachable_channels();
    }

    /// Drains a server's effects; says how many replies there were.
    pub(crate) fn carry_out(&mut self, shard: usize, cause: &Cause<'_>, out: &mut [u8]) -> usize {
        let mut replies = 0;
        while let Some(effect) = self.relay.servers[shard].poll() {
            match effect {
                Effect::Reply { to, len } | Effect::Indicate { to, len } => {
                    replies += 1;
                    assert_eq!(replies, 1, "two replies to one call");
                    self.reply(shard, cause, to, &out[..len]);
                }
                Effect::ReplyFrom { .. } => panic!("there is no NAT behaviour discovery here"),
                Effect::Bind { allocation, want, protocol, near, owner, until_ns } => {
                    assert_eq!(protocol, Protocol::Udp, "nobody asks for TCP here");
                    let Cause::Request { from, .. } = cause else {
                        panic!("Bind without a request");
                    };
                    let order = Order { shard, allocation, client: *from, near, owner, until_ns };
                    let bound = self.bind(&order, want);
                    let now = self.now();
                    self.relay.servers[shard].handle(Event::Bound(bound), now, out);
                }
                Effect::Reserve { account, client } => {
                    let now = self.now();
                    let reserved = self.relay.ledger.reserve(&account, client, now.mono_ns);
                    self.relay.servers[shard].handle(Event::Reserved(reserved), now, out);
                }
                Effect::Release(mut release) => {
                    let now_ns = self.now().mono_ns;
                    self.relay.ledger.release(shard as u16, &mut release, now_ns);
                }
                Effect::Exchange => self.exchange(shard),
                Effect::Close { relay } => self.close(shard, relay),
                Effect::Connect { .. } | Effect::Splice { .. } | Effect::Disconnect { .. } => {
                    panic!("no allocation has connections here")
                }
                Effect::Depart { .. } => panic!("nobody is mobile here"),
                Effect::ChannelUp(path) => self.channel_up(shard, path),
                Effect::ChannelDown { relay, number, peer } => {
                    let gone = self.record.up.remove(&up_key(shard, relay, number));
                    assert_eq!(gone.map(|up| up.0), Some(peer.socket()), "ChannelDown unpaired");
                }
                Effect::Log(turnway_relay::Record::Started(started)) => {
                    self.started(shard, cause, &started);
                }
                Effect::Log(turnway_relay::Record::Ended(ended)) => {
                    self.ended(shard, cause, &ended);
                }
                Effect::Log(
                    turnway_relay::Record::AuthFailed(_)
                    | turnway_relay::Record::Moved(_)
                    | turnway_relay::Record::VolumeSpent(_),
                ) => {}
            }
        }
        self.arm(shard);
        replies
    }

    fn exchange(&mut self, shard: usize) {
        let now = self.now();
        let server = &mut self.relay.servers[shard];
        self.relay.ledger.exchange(shard as u16, server.exchange(), now.mono_ns);
        server.handle(Event::Exchanged, now, &mut []);
    }

    fn arm(&mut self, shard: usize) {
        if let Some(deadline_ns) = self.relay.servers[shard].deadline()
            && deadline_ns < self.armed[shard]
        {
            self.armed[shard] = deadline_ns;
            let late = if self.rng.chance(100) {
                let late = self.rng.range(TIMER_LATENESS / 4, TIMER_LATENESS);
                self.net.at(deadline_ns + late / 2, NetEvent::AttackLate(shard));
                late
            } else {
                self.rng.below(50 * MILLI)
            };
            self.net.at(deadline_ns + late, NetEvent::ServerTimer(shard));
        }
    }

    fn bind(&mut self, order: &Order, want: Want) -> Bound {
        let mut bound =
            Bound { allocation: order.allocation, v4: None, v6: None, reservation: None };
        if self.rng.chance(2) {
            let failure = Some(Err(BindFailure::NoDescriptor));
            (bound.v4, bound.v6) = (failure, failure);
            return bound;
        }
        let claimed = match want {
            Want::Any(family) => [Some((family, self.claim(order, family, Parity::Any))), None],
            Want::Even(family) => [Some((family, self.claim(order, family, Parity::Even))), None],
            Want::EvenAndReserve(family) => {
                let token = self.rng.bytes();
                let port = self.claim_pair(order, family, token);
                bound.reservation = port.map(|_| token);
                [Some((family, port)), None]
            }
            Want::Both { even } => {
                let parity = if even { Parity::Even } else { Parity::Any };
                [Family::V4, Family::V6]
                    .map(|family| Some((family, self.claim(order, family, parity))))
            }
            Want::Reserved(token) => {
                let now_ns = self.net.now_ns;
                let port = self.relay.pool.take(token, &order.owner, now_ns);
                let family = port.map_or(Family::V4, |port| Family::of(port.ip()));
                [Some((family, port)), None]
            }
        };
        for (family, port) in claimed.into_iter().flatten() {
            let address = port.map(|port| self.open(order, family, port));
            let address = Some(address.ok_or(BindFailure::NoPort));
            match family {
                Family::V4 => bound.v4 = address,
                Family::V6 => bound.v6 = address,
            }
        }
        bound
    }

    /// Claims a port; one in a hundred is in use by another program.
    fn claim(&mut self, order: &Order, family: Family, parity: Parity) -> Option<SocketAddr> {
        let near = order.near.ip();
        loop {
            let rng = &mut self.rng;
            let mut random = || rng.word() as u32;
            let port = self.relay.pool.claim(family, near, parity, &mut random)?;
            if !self.rng.chance(10) {
                return Some(port);
            }
            let until_ns = self.net.now_ns + 60 * NANOS;
            self.relay.pool.set_aside(port, until_ns);
            self.net.at(until_ns, NetEvent::PoolTimer);
        }
    }

    fn claim_pair(&mut self, order: &Order, family: Family, token: [u8; 8]) -> Option<SocketAddr> {
        let rng = &mut self.rng;
        let mut random = || rng.word() as u32;
        let pool = &mut self.relay.pool;
        let even = pool.claim_pair(family, order.near.ip(), &mut random)?;
        let odd = SocketAddr::new(even.ip(), even.port() + 1);
        pool.reserve(odd, token, Arc::clone(&order.owner), order.until_ns);
        self.net.at(order.until_ns, NetEvent::PoolTimer);
        Some(even)
    }

    fn open(&mut self, order: &Order, family: Family, local: SocketAddr) -> RelayAddr {
        let place = plan::port_index(local).expect("ports of the pool are in the plan");
        let socket = Socket {
            shard: order.shard,
            relay: RelayId { allocation: order.allocation, family },
            key: key(&order.client.tuple),
        };
        let before = self.record.sockets[place].replace(socket);
        assert!(before.is_none(), "{local} was leased twice");
        self.relay.shared.live.set(Protocol::Udp, local, true);
        let place = (order.shard, order.allocation, family_index(family));
        self.open.insert(place, local);
        RelayAddr { local, external: external(local) }
    }

    fn close(&mut self, shard: usize, relay: RelayId) {
        let place = (shard, relay.allocation, family_index(relay.family));
        let local = self.open.remove(&place).expect("closed once, and only what was opened");
        let place = plan::port_index(local).expect("opened");
        self.record.sockets[place] = None;
        self.relay.shared.live.set(Protocol::Udp, local, false);
        self.relay.pool.release(local);
        let first = up_key(shard, relay, 0);
        let last = up_key(shard, relay, u16::MAX);
        let left = self.record.up.range(first..=last).next();
        assert!(left.is_none(), "closed with a channel up: {left:?}");
        if self.stale.len() == STALE_LEN {
            self.stale.pop_front();
        }
        self.stale.push_back((shard, relay));
    }

    fn channel_up(&mut self, shard: usize, path: ChannelPath) {
        let up = up_key(shard, path.relay, path.number);
        self.record.up.insert(up, (path.peer.socket(), path.deadline_ns));
        let place = (shard, path.relay.allocation, up.3);
        assert!(self.open.contains_key(&place), "a channel of a closed relay");
    }

    fn started(&mut self, shard: usize, cause: &Cause<'_>, started: &Started) {
        let Cause::Request { author, from, data } = cause else {
            panic!("started without a request");
        };
        let Author::Session(owner) = *author else {
            panic!("somebody hostile got an allocation");
        };
        assert_eq!(started.tuple, from.tuple);
        assert_eq!(*started.user, *self.sessions[owner as usize].user.name);
        let expires_ns = self.net.now_ns + u64::from(started.lifetime_s) * NANOS;
        let relay = |announced: Option<SocketAddr>| {
            let local = plan::local(announced?);
            Some(HeldRelay { local, expires_ns })
        };
        let relays = [relay(started.v4), relay(started.v6)];
        let own = relays.iter().flatten().map(|relay| relay.local).next();
        let socket = own.and_then(|local| self.record.socket(local));
        let socket = socket.expect("an allocation has a relayed transport address");
        assert_eq!(socket.key, key(&from.tuple));
        let held = Held {
            owner,
            id: socket.relay.allocation,
            log_session: started.session,
            transaction: Message::parse(data).expect("granted").transaction_id().0,
            client: *from,
            relays,
            permissions: Default::default(),
            channels: Default::default(),
            traffic: Default::default(),
        };
        let before = self.record.held.insert(key(&from.tuple), held);
        assert!(before.is_none(), "two allocations on one five-tuple");
        let tally = &mut self.relay.tally[shard];
        tally.allocations_started += 1;
        *tally.allocations_mut(from.tuple.transport) += 1;
        self.totals.allocations += 1;
        let live = self.record.held.len() as u64;
        self.totals.most_at_once = self.totals.most_at_once.max(live);
    }

    fn ended(&mut self, shard: usize, cause: &Cause<'_>, ended: &Ended) {
        let held = self.record.held.remove(&key(&ended.tuple));
        let held = held.expect("only what started ends, and once");
        assert_eq!(ended.session, held.log_session);
        assert_eq!(ended.traffic, held.traffic, "the log disagrees with the record");
        let now_ns = self.net.now_ns;
        match ended.reason {
            EndReason::Expired => {
                let end = held.expires_ns();
                assert!(end <= now_ns, "{ended:?} ended early");
                assert!(now_ns <= end + TIMER_LATENESS, "{ended:?} ended late");
            }
            EndReason::Deleted => {
                let Cause::Request { from, author, .. } = cause else {
                    panic!("deleted without a request");
                };
                assert_eq!(from.tuple, ended.tuple);
                assert_ne!(*author, Author::Hostile);
            }
            EndReason::Killed | EndReason::UserRemoved => panic!("nobody was turned out"),
            EndReason::Disconnected => {
                assert!(matches!(cause, Cause::Disconnected(tuple) if *tuple == ended.tuple));
            }
            EndReason::Shutdown => panic!("nobody stopped the server"),
        }
        let tally = &mut self.relay.tally[shard];
        tally.allocations_ended[ended.reason.index()] += 1;
        *tally.allocations_mut(ended.tuple.transport) -= 1;
    }
}

/// What an [`Effect::Bind`] says, with where it came from.
struct Order {
    shard: usize,
    allocation: AllocationId,
    client: Client,
    near: SocketAddr,
    owner: Arc<[u8]>,
    until_ns: u64,
}

fn up_key(shard: usize, relay: RelayId, number: u16) -> crate::record::UpKey {
    let id = relay.allocation;
    let family = family_index(relay.family);
    (shard, id.slot, id.generation, family, number)
}

/// A relayed datagram is framed as its client expects, and says who sent it.
fn check_framing(
    message: &[u8],
    client: Client,
    channel: Option<u16>,
    from: SocketAddr,
    payload: &[u8],
) {
    match channel {
        Some(number) => {
            let stream = client.tuple.transport.is_stream();
            let pad = if stream { padding(payload.len()) } else { 0 };
            assert_eq!(message.len(), 4 + payload.len() + pad);
            let parsed = ChannelData::parse(message).expect("ChannelData");
            assert_eq!((parsed.number, parsed.data), (number, payload));
        }
        None => {
            assert_eq!(classify(message[0]), Kind::Stun);
            let parsed = Message::parse(message).expect("a Data indication");
            assert_eq!((parsed.class(), parsed.method()), (Class::Indication, Method::DATA));
            let peer = parsed.get::<XorPeerAddress>().expect("well-formed");
            assert_eq!(peer, Some(XorPeerAddress(external(from))));
            assert_eq!(parsed.get::<Data<'_>>(), Ok(Some(Data(payload))));
        }
    }
}
