//! People who have no right to anything: noise, forgeries, scans.

use std::net::{IpAddr, SocketAddr};

use turnway_relay::{Client, FiveTuple, IcmpError, Link, Transport};
use turnway_wire::{
    Builder, Class, Data, Family, IntegrityAlgorithm, IntegrityKey, Kind, Lifetime, LongTermKey,
    Method, Nonce, PasswordAlgorithm, Realm, RequestedTransport, Username, XorPeerAddress,
    channel_header, classify,
};

use crate::messages::{User, indication, request};
use crate::network::{Author, Event};
use crate::plan::{
    FIRST_PORT, LISTENER_PORT, NANOS, OWN, PEER_PORT, PORTS, REALM, client_ip, shard_of, stranger,
};
use crate::relay::{static_name, static_password};
use crate::session::{State, udp_link};
use crate::shell::TIMER_LATENESS;
use crate::world::World;

/// How long what was overheard is of use; see `REUSE_AFTER_NS` in `world.rs`.
const MEMORY_NS: u64 = 25 * NANOS;
/// A static user who wants others' allocations; no session is his.
pub(crate) const INSIDER: u64 = 0;
const MEMORY_LEN: usize = 64;
/// Where a transaction id begins.
const TRANSACTION_AT: usize = 8;

impl World<'_> {
    /// Somebody on the path writes down what a client sends.
    pub(crate) fn overhear(&mut self, from: Client, data: &[u8]) {
        if !self.rng.chance(50) {
            return;
        }
        let entry = (from, data.to_vec(), self.net.now_ns);
        if self.overheard.len() < MEMORY_LEN {
            self.overheard.push(entry);
        } else {
            let at = self.rng.index(MEMORY_LEN);
            self.overheard[at] = entry;
        }
    }

    pub(crate) fn attack(&mut self) {
        self.totals.attacks += 1;
        match self.rng.below(10) {
            0 => self.send_garbage(),
            1 => self.send_mutated(),
            2 => self.replay(),
            3 | 4 => self.scan_relays(),
            5 | 6 => self.forge_five_tuple(),
            7 => self.forge_icmp(),
            8 => self.flood(),
            _ => self.use_stale_relay(),
        }
    }

    fn hostile(&mut self, from: Client, data: Vec<u8>) {
        let author = Author::Hostile;
        self.net.datagram(Event::ToServer { author, from, data });
    }

    /// Some place to send from: a stranger's, to any listener.
    fn anywhere(&mut self) -> Client {
        let server = SocketAddr::new(OWN[self.rng.index(OWN.len())], LISTENER_PORT);
        let family = Family::of(server.ip());
        let mut client = stranger(self.rng.below(250), family);
        client.set_port(self.rng.range(1, 65_536) as u16);
        Client {
            tuple: FiveTuple { transport: Transport::Udp, client, server },
            link: Link(udp_link(server)),
            realm: Default::default(),
        }
    }

    /// The five-tuple of somebody's session.
    fn somebody(&mut self) -> Option<(u32, Client)> {
        let recent = self.sessions.len().min(300);
        if recent == 0 {
            return None;
        }
        let index = (self.sessions.len() - 1 - self.rng.index(recent)) as u32;
        let session = &self.sessions[index as usize];
        let udp = session.tuple.transport == Transport::Udp;
        (udp && session.state == State::Running).then(|| (index, session.address(index)))
    }

    fn send_garbage(&mut self) {
        for _ in 0..10 {
            let mut data = vec![0; 1 + self.rng.index(200)];
            self.rng.fill(&mut data);
            // Half of it looks a little like TURN.
            match self.rng.below(4) {
                0 => data[0] = 0,
                1 => data[0] = 0x40,
                _ => {}
            }
            if data.len() > 8 && data[0] == 0 {
                let len = (data.len() - 20.min(data.len())) as u16;
                data[2..4].copy_from_slice(&len.to_be_bytes());
                data[4..8].copy_from_slice(&turnway_wire::MAGIC_COOKIE.to_be_bytes());
            }
            let from = self.anywhere();
            self.hostile(from, data);
        }
    }

    fn memory(&mut self) -> Option<(Client, Vec<u8>)> {
        let oldest = self.net.now_ns.saturating_sub(MEMORY_NS);
        self.overheard.retain(|(_, _, time_ns)| *time_ns >= oldest);
        let at = self.rng.index(self.overheard.len().max(1));
        let (from, data, _) = self.overheard.get(at)?;
        Some((*from, data.clone()))
    }

    /// What a client sent, with some bits turned over, from its own address.
    fn send_mutated(&mut self) {
        for _ in 0..5 {
            let Some((from, from_owner)) = self.memory() else {
                return;
            };
            let mut data = from_owner.clone();
            let stun = classify(data[0]) == Kind::Stun;
            for _ in 0..self.rng.range(1, 5) {
                let at = self.rng.index(data.len());
                data[at] ^= 1 << self.rng.below(8);
            }
            if stun {
                // Its owner shall not take the answer for one to its own request, and no two
                // turns of one bit shall restore what was signed.
                data[TRANSACTION_AT] = !from_owner[TRANSACTION_AT];
            }
            self.hostile(from, data);
        }
    }

    /// What a client sent, once more.
    fn replay(&mut self) {
        let Some((from, data)) = self.memory() else {
            return;
        };
        let sender = self.sessions.iter().rposition(|session| session.tuple == from.tuple);
        if let Some(sender) = sender {
            let author = Author::Session(sender as u32);
            self.net.datagram(Event::ToServer { author, from, data });
        }
    }

    /// Datagrams from whom nobody gave a permission, or not lately, to open and closed ports.
    fn scan_relays(&mut self) {
        for _ in 0..5 {
            let ip = OWN[self.rng.index(OWN.len())];
            let port = FIRST_PORT + self.rng.below(u64::from(PORTS)) as u16;
            let mut to = SocketAddr::new(ip, port);
            let open = self.open.len();
            if open > 0 && self.rng.chance(700) {
                let at = self.rng.index(open);
                to = *self.open.values().nth(at).expect("there are as many");
            }
            let mut from = stranger(self.rng.below(250), Family::of(to.ip()));
            if self.rng.chance(500) {
                // Perhaps a permission that has run out.
                from = self.former_peer(to).unwrap_or(from);
            }
            self.net.datagram(Event::ToRelay {
                author: Author::Hostile,
                from,
                to,
                data: b"anybody there?".to_vec(),
            });
        }
    }

    /// Somebody who has, or once had, a permission for what is relayed at `to`.
    fn former_peer(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        let held = self.record.held.get(&self.record.socket(to)?.key)?;
        let family = |ip: &&IpAddr| Family::of(**ip) == Family::of(to.ip());
        let ips: Vec<_> = held.permissions.keys().filter(family).copied().collect();
        let at = self.rng.index(ips.len().max(1));
        Some(SocketAddr::new(*ips.get(at)?, PEER_PORT))
    }

    /// While a shard is late: uses at once, in every way, what has just run out.
    pub(crate) fn use_what_ran_out(&mut self, shard: usize) {
        let now_ns = self.net.now_ns;
        let ran_out = |end_ns: u64| end_ns <= now_ns && now_ns < end_ns + TIMER_LATENESS;
        let held = self.record.held.values().filter(|held| shard_of(&held.client.tuple) == shard);
        let late: Vec<_> = held
            .filter(|held| {
                held.relays.iter().flatten().any(|relay| ran_out(relay.expires_ns))
                    || held.permissions.values().any(|end_ns| ran_out(*end_ns))
                    || held.channels.values().any(|(_, end_ns)| ran_out(*end_ns))
            })
            .map(|held| {
                let relays: Vec<_> = held.relays.iter().flatten().map(|r| r.local).collect();
                let channels: Vec<_> = held.channels.iter().map(|(n, c)| (*n, c.0)).collect();
                let mut peers: Vec<_> = held.permissions.keys().copied().collect();
                peers.retain(|ip| channels.iter().all(|(_, peer)| peer.ip() != *ip));
                let peers = peers.into_iter().map(|ip| SocketAddr::new(ip, PEER_PORT));
                (held.client, relays, channels.clone(), peers.collect::<Vec<_>>())
            })
            .collect();
        for (client, relays, channels, mut peers) in late {
            self.totals.late_attacks += 1;
            for (number, peer) in channels {
                let data = [&channel_header(number, 5), b"wrong".as_slice()].concat();
                self.client_datagram(Author::Hostile, client, &data);
                peers.push(peer);
            }
            for peer in peers {
                self.use_peer(client, &relays, peer);
            }
        }
    }

    /// Sends to a peer, and from it, whether or not it is permitted.
    fn use_peer(&mut self, client: Client, relays: &[SocketAddr], peer: SocketAddr) {
        let data = indication(self.rng.bytes(), &|builder| {
            builder.add(&XorPeerAddress(peer))?;
            builder.add(&Data(b"from the wrong one"))
        });
        self.client_datagram(Author::Hostile, client, &data);
        for relay in relays.iter().filter(|relay| relay.is_ipv4() == peer.is_ipv4()) {
            self.peer_datagram(Author::Hostile, peer, *relay, b"to the wrong one");
            let Some(socket) = self.record.socket(*relay).copied() else { continue };
            let icmp_type = if peer.is_ipv4() { 3 } else { 1 };
            let family = socket.relay.family;
            let error = IcmpError { family, icmp_type, code: 1, data: 0 };
            self.icmp(socket.shard, socket.relay, peer, error);
        }
    }

    /// Requests and data from the address of somebody with an allocation.
    fn forge_five_tuple(&mut self) {
        let Some((index, from)) = self.somebody() else {
            return;
        };
        let transaction = self.rng.bytes();
        let delete = |builder: &mut Builder<'_>| builder.add(&Lifetime(0));
        let data = match self.rng.below(5) {
            0 => request(Method::REFRESH, transaction, None, &delete),
            1 => {
                let user = User::fixed("user1".to_owned(), "a guess".to_owned());
                self.signed_by_another(index, &user)
            }
            2 => {
                // Good credentials, even a good nonce; but the allocation is somebody else's.
                let (name, password) = (static_name(INSIDER), static_password(INSIDER));
                self.signed_by_another(index, &User::fixed(name, password))
            }
            3 => {
                let peer = stranger(self.rng.below(250), Family::V4);
                indication(transaction, &|builder| {
                    builder.add(&XorPeerAddress(peer))?;
                    builder.add(&Data(b"from the wrong one"))
                })
            }
            _ => {
                let number = 0x4000 + self.rng.below(0x1000) as u16;
                let mut data = channel_header(number, 5).to_vec();
                data.extend_from_slice(b"wrong");
                data
            }
        };
        self.hostile(from, data);
    }

    /// A request to end somebody's allocation, with that client's own nonce.
    fn signed_by_another(&mut self, index: u32, user: &User) -> Vec<u8> {
        let credentials = self.sessions[index as usize].credentials.as_ref();
        let nonce = credentials.map(|credentials| credentials.nonce.clone());
        let nonce = nonce.expect("a running session has credentials");
        let secret = user.password.as_bytes();
        let md5 = PasswordAlgorithm::Md5;
        let key = LongTermKey::derive(md5, &user.name, REALM.as_bytes(), secret);
        let key = IntegrityKey::new(IntegrityAlgorithm::Sha1, key.as_bytes());
        request(Method::REFRESH, self.rng.bytes(), None, &|builder| {
            builder.add(&Lifetime(0))?;
            builder.add(&Username(&user.name))?;
            builder.add(&Realm(REALM.as_bytes()))?;
            builder.add(&Nonce(&nonce))?;
            builder.integrity(&key)
        })
    }

    /// ICMP errors about datagrams that were or were never sent.
    fn forge_icmp(&mut self) {
        for _ in 0..5 {
            let open = self.open.len();
            if open == 0 {
                return;
            }
            let at = self.rng.index(open);
            let local = *self.open.values().nth(at).expect("there are as many");
            let socket = *self.record.socket(local).expect("open");
            let family = socket.relay.family;
            let peer = match self.rng.chance(500) {
                true => self.former_peer(local),
                false => None,
            };
            let strange = stranger(self.rng.below(250), family);
            let error = IcmpError {
                family,
                icmp_type: self.rng.below(13) as u8,
                code: self.rng.below(5) as u8,
                data: 0,
            };
            let peer = peer.unwrap_or(strange);
            self.icmp(socket.shard, socket.relay, peer, error);
        }
    }

    /// Many unauthenticated requests from one address: most get no answer.
    fn flood(&mut self) {
        let from = self.anywhere();
        let method = match self.rng.chance(500) {
            true => Method::ALLOCATE,
            false => Method::BINDING,
        };
        for _ in 0..100 {
            let transaction = self.rng.bytes();
            let data =
                request(method, transaction, None, &|builder| builder.add(&RequestedTransport(17)));
            self.hostile(from, data);
        }
        // And small ones, for the ratio of the answer.
        let from = self.anywhere();
        for (class, method) in [
            (Class::Request, Method::ALLOCATE),
            (Class::Request, Method::BINDING),
            (Class::Request, Method::CONNECT),
            (Class::Success, Method::ALLOCATE),
        ] {
            let mut data = [0; 20];
            let transaction = turnway_wire::TransactionId(self.rng.bytes());
            let builder = Builder::new(&mut data, class, method, transaction);
            let _ = builder.expect("20 bytes hold a header").finish();
            self.hostile(from, data.to_vec());
        }
        // A TURN client's five-tuple without an allocation.
        let mut silent = from;
        let family = Family::of(from.tuple.server.ip());
        silent.tuple.client.set_ip(client_ip(self.rng.below(1000) as u32, family));
        silent.tuple.client.set_port(1);
        self.hostile(silent, channel_header(0x4000, 0).to_vec());
    }

    /// The id of a relay that was closed names nothing, whoever has its place now.
    fn use_stale_relay(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let (shard, relay) = self.stale[self.rng.index(self.stale.len())];
        let now = self.now();
        let from = stranger(1, relay.family);
        let server = &mut self.relay.servers[shard];
        let route = server.route_peer(relay, from, 10, None, now);
        let turnway_relay::Route::Drop(reason) = route else {
            panic!("a closed relay relayed");
        };
        assert_eq!(reason, turnway_relay::Reason::NoAllocation);
        self.relay.tally[shard].peer_drops[reason.index()] += 1;
        let error = IcmpError { family: Family::V4, icmp_type: 3, code: 1, data: 0 };
        self.icmp(shard, relay, from, error);
    }
}
