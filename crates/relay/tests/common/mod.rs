//! A world for the rules: servers, a port pool, a virtual clock, and a shell that does at once
//! what the rules want. [`client`] has the clients that live in it.

#![allow(dead_code, reason = "each test binary includes this file and uses a part of it")]

pub(crate) mod client;
pub(crate) mod second_path;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnway_relay::alternate::Selection;
use turnway_relay::auth::{
    Auth, AuthConfig, OAuthConfig, OAuthKey, OAuthSecret, StaticUser, UserCredential,
};
use turnway_relay::discovery::Discovery;
use turnway_relay::effect::VolumeSpent;
use turnway_relay::ledger::{Last, Release};
use turnway_relay::limits::Limits;
use turnway_relay::offload::Late;
use turnway_relay::policy::{Policy, PolicyConfig};
use turnway_relay::ports::{Parity, PortPool};
use turnway_relay::shared::{AllocationCount, LivePorts, SourceLimiter};
use turnway_relay::{
    AllocationId, BindFailure, Bound, Client, Config, ConnectionId, Direction, Effect, Event,
    IcmpError, IpFields, Ledger, Mirror, Now, Protocol, Quotas, Realm, RealmId, Realms, Reason,
    Record, RelayAddr, RelayId, Route, Seed, Server, Shared, Stats, Tickets, Want,
};
use turnway_wire::{ChannelData, Data, Family, Message, Method, XorPeerAddress};

use second_path::FakePath;

/// When every test begins: 2023-11-14, and a monotonic clock that is something else.
pub(crate) const EPOCH_S: u64 = 1_700_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The transport address all clients send to.
pub(crate) const LISTENER: &str = "203.0.113.7:3478";
/// The same for IPv6.
pub(crate) const LISTENER_V6: &str = "[2001:db8:7::7]:3478";
/// Peers that the policy of [`Settings::default`] permits.
pub(crate) const PEER: &str = "198.51.100.1:5000";
pub(crate) const PEER_V6: &str = "[2001:db8:99::1]:5000";
/// A peer that it denies.
pub(crate) const DENIED: &str = "10.0.0.1:5000";

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A realm beside the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Other {
    pub(crate) name: &'static str,
    pub(crate) users: Vec<(&'static str, &'static str)>,
    pub(crate) deny: Vec<&'static str>,
    pub(crate) origins: Vec<&'static str>,
}

/// How a world is made.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) realm: String,
    pub(crate) realms: Vec<Other>,
    pub(crate) users: Vec<(&'static str, &'static str)>,
    pub(crate) rest_secrets: Vec<&'static str>,
    pub(crate) enforce_expiry: bool,
    pub(crate) nonce_lifetime_s: u32,
    /// Whether tokens made with [`KID`] are honoured.
    pub(crate) oauth: bool,
    pub(crate) alternates: Selection,
    pub(crate) limits: Limits,
    pub(crate) quotas: Quotas,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) v4: bool,
    pub(crate) v6: bool,
    pub(crate) allow: Vec<&'static str>,
    pub(crate) deny: Vec<&'static str>,
    /// Local and external.
    pub(crate) relays: Vec<(&'static str, &'static str)>,
    pub(crate) ports: (u16, u16),
    pub(crate) servers: usize,
    pub(crate) cap: u32,
    /// Unauthenticated answers per second and source, and at once.
    pub(crate) source_rate: (u32, u32),
    pub(crate) ticket_secret: [u8; 32],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            realm: "example.org".into(),
            realms: Vec::new(),
            users: vec![("alice", "sesame"), ("bob", "hunter2")],
            rest_secrets: Vec::new(),
            enforce_expiry: true,
            nonce_lifetime_s: 3600,
            oauth: false,
            alternates: Selection::default(),
            limits: Limits::default(),
            quotas: Quotas::default(),
            discovery: None,
            v4: true,
            v6: true,
            allow: vec!["198.51.100.0/24", "2001:db8:99::/48"],
            deny: Vec::new(),
            relays: vec![("203.0.113.7", "203.0.113.7"), ("2001:db8:7::7", "2001:db8:7::7")],
            ports: (49152, 65535),
            servers: 1,
            cap: 10_000,
            source_rate: (0, 0),
            ticket_secret: [7; 32],
        }
    }
}

/// The identifier of [`OAUTH_KEY`].
pub(crate) const KID: &str = "north";
/// What an authorization server makes tokens with for [`SERVER_NAME`].
pub(crate) const OAUTH_KEY: [u8; 32] = *b"01234567890123456789012345678901";
/// Another, that follows it.
pub(crate) const NEXT_KID: &str = "west";
pub(crate) const NEXT_OAUTH_KEY: [u8; 32] = [0x77; 32];
/// The name that tokens are made for.
pub(crate) const SERVER_NAME: &str = "turn.example.org";
/// By how much clocks may differ.
pub(crate) const CLOCK_SKEW_S: u32 = 5;

fn oauth() -> OAuthConfig {
    OAuthConfig {
        server_name: SERVER_NAME.into(),
        clock_skew_s: CLOCK_SKEW_S,
        keys: [(KID, OAUTH_KEY), (NEXT_KID, NEXT_OAUTH_KEY)]
            .map(|(kid, key)| OAuthKey {
                kid: kid.into(),
                secret: OAuthSecret::A256Gcm(key.into()),
                not_before_unix: None,
                not_after_unix: None,
            })
            .into(),
    }
}

impl Settings {
    pub(crate) fn config(&self) -> Arc<Config> {
        let others = self.realms.iter().zip(1..).map(|(other, number)| Realm {
            auth: self.auth(RealmId(number), other.name, &other.users),
            policy: self.policy(&other.deny),
            origins: other.origins.iter().map(ToString::to_string).collect(),
            server_names: Vec::new(),
        });
        let first = self.auth(RealmId::FIRST, &self.realm, &self.users);
        let first = Realm::new(first, self.policy(&self.deny));
        Arc::new(Config {
            realms: Realms::new(first, others.collect()),
            limits: self.limits.clone(),
            alternates: self.alternates.clone(),
            quotas: Arc::new(self.quotas.clone()),
            discovery: self.discovery.clone(),
            v4: self.v4,
            v6: self.v6,
        })
    }

    fn auth(&self, id: RealmId, realm: &str, users: &[(&'static str, &'static str)]) -> Auth {
        let user = |&(name, password): &(&str, &str)| StaticUser {
            name: name.into(),
            credential: UserCredential::Password(password.into()),
        };
        let auth = AuthConfig {
            id,
            realm: realm.into(),
            users: users.iter().map(user).collect(),
            users_elsewhere: false,
            rest_secrets: self.rest_secrets.iter().map(|s| s.as_bytes().to_vec()).collect(),
            rest_separator: b':',
            nonce_secret: b"sixteen bytes or more".to_vec(),
            nonce_lifetime_s: self.nonce_lifetime_s,
            enforce_expiry: self.enforce_expiry,
            oauth: self.oauth.then(oauth),
        };
        Auth::new(auth).unwrap()
    }

    fn policy(&self, deny: &[&str]) -> Policy {
        let nets = |texts: &[&str]| texts.iter().map(|net| net.parse().unwrap()).collect();
        let relays: Vec<_> = self.relays.iter().map(|&(l, e)| (ip(l), ip(e))).collect();
        Policy::new(PolicyConfig {
            allow: nets(&self.allow),
            deny: nets(deny),
            nat64: Vec::new(),
            listeners: relays.iter().map(|&(ip, _)| SocketAddr::new(ip, 3478)).collect(),
            own: Vec::new(),
            relays,
        })
    }
}

/// The rules in a world where everything else goes well, unless a test wants otherwise.
pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) servers: Vec<Server>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: PortPool,
    pub(crate) ledger: Ledger,
    /// The relay sockets of each server.
    pub(crate) sockets: Vec<HashMap<RelayId, SocketAddr>>,
    /// What listeners of channels know: until when each may be relayed.
    pub(crate) channels: Vec<HashMap<(RelayId, u16), (SocketAddr, u64)>>,
    pub(crate) records: Vec<Record>,
    /// The protocols that were bound for.
    pub(crate) bound: Vec<Protocol>,
    /// What is to be connected, is joined, and was closed.
    pub(crate) connecting: Vec<Connecting>,
    pub(crate) spliced: Vec<(ConnectionId, Client)>,
    pub(crate) disconnected: Vec<ConnectionId>,
    /// A reply from another of the server's transport addresses: from where, to where, and what.
    pub(crate) elsewhere: Option<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// What a second data path relayed of an allocation and did not tell yet: datagrams and bytes
    /// to its peers. It is told when a channel goes down.
    pub(crate) untold: HashMap<AllocationId, (u64, u64)>,
    late: Late,
    /// A second data path that relays, and what keeps it up to date: one for each server.
    pub(crate) second: Option<(FakePath, Vec<Mirror<FakePath>>)>,
    /// What binding a socket of a family ends in from now on.
    pub(crate) broken: HashMap<Family, BindFailure>,
    externals: HashMap<IpAddr, IpAddr>,
    random: u64,
}

impl World {
    pub(crate) fn new(settings: &Settings) -> Self {
        let locals: Vec<IpAddr> = settings.relays.iter().map(|&(local, _)| ip(local)).collect();
        let (rate, burst) = settings.source_rate;
        let shared = Arc::new(Shared {
            live: LivePorts::new(&locals),
            allocations: AllocationCount::new(settings.cap),
            sources: SourceLimiter::new(1024, rate, burst, 7),
            tickets: Tickets::new(settings.ticket_secret),
        });
        let config = settings.config();
        let server = |index: usize| {
            let seed = Seed {
                shard: index as u16,
                random: 0x5EED + index as u64,
                first_session: (index as u64) << 48,
            };
            Server::new(Arc::clone(&config), Arc::clone(&shared), seed)
        };
        Self {
            now: Now { mono_ns: 77 * SECOND_NS, unix_s: EPOCH_S },
            ledger: Ledger::new(Arc::clone(&config.quotas), 77 * SECOND_NS),
            servers: (0..settings.servers).map(server).collect(),
            shared: Arc::clone(&shared),
            pool: PortPool::new(&locals, settings.ports.0..=settings.ports.1),
            sockets: vec![HashMap::new(); settings.servers],
            channels: vec![HashMap::new(); settings.servers],
            records: Vec::new(),
            bound: Vec::new(),
            connecting: Vec::new(),
            spliced: Vec::new(),
            disconnected: Vec::new(),
            elsewhere: None,
            untold: HashMap::new(),
            late: Late::default(),
            second: None,
            broken: HashMap::new(),
            externals: settings.relays.iter().map(|&(l, e)| (ip(l), ip(e))).collect(),
            random: 1,
        }
    }

    /// One server with [`Settings::default`].
    pub(crate) fn plain() -> Self {
        Self::new(&Settings::default())
    }

    /// Lets an event happen and does what the rules want. Gives the reply, if there is one.
    pub(crate) fn handle(&mut self, shard: usize, event: Event<'_>) -> Option<(Client, Vec<u8>)> {
        let mut out = [0xEE; 2048];
        self.servers[shard].handle(event, self.now, &mut out);
        self.carry_out(shard, &mut out)
    }

    fn carry_out(&mut self, shard: usize, out: &mut [u8]) -> Option<(Client, Vec<u8>)> {
        let mut reply = None;
        while let Some(effect) = self.servers[shard].poll() {
            match effect {
                Effect::Reply { to, len } | Effect::Indicate { to, len } => {
                    assert!(reply.is_none(), "two replies to one event");
                    reply = Some((to, out[..len].to_vec()));
                }
                Effect::ReplyFrom { from, to, len } => {
                    assert!(reply.is_none() && self.elsewhere.is_none(), "two replies");
                    self.elsewhere = Some((from, to, out[..len].to_vec()));
                }
                Effect::Bind { allocation, want, protocol, near, owner, until_ns } => {
                    self.bound.push(protocol);
                    let bound = self.bind(shard, allocation, want, near.ip(), owner, until_ns);
                    self.servers[shard].handle(Event::Bound(bound), self.now, out);
                }
                Effect::Reserve { account, client } => {
                    let reserved = self.ledger.reserve(&account, client, self.now.mono_ns);
                    self.servers[shard].handle(Event::Reserved(reserved), self.now, out);
                }
                Effect::Release(release) => self.release(shard, *release, out),
                Effect::Exchange => self.exchange(shard),
                Effect::Close { relay } => {
                    let local = self.sockets[shard].remove(&relay);
                    let local = local.expect("a relay socket is closed once");
                    for protocol in [Protocol::Udp, Protocol::Tcp] {
                        self.shared.live.set(protocol, local, false);
                    }
                    self.pool.release(local);
                }
                Effect::Connect { connection, via, to } => {
                    let from = self.sockets[shard][&via];
                    self.connecting.push(Connecting { connection, from, to });
                }
                Effect::Splice { connection, client } => self.spliced.push((connection, client)),
                Effect::Disconnect { connection } => self.disconnected.push(connection),
                Effect::Depart { allocation, shard: to } => self.depart(shard, allocation, to),
                Effect::ChannelUp(path) => {
                    let known = (path.peer.socket(), path.deadline_ns);
                    self.channels[shard].insert((path.relay, path.number), known);
                    if let Some((_, mirrors)) = &mut self.second {
                        let local = self.sockets[shard][&path.relay];
                        mirrors[shard].up(&path, local, &self.servers[shard], self.now);
                    }
                }
                Effect::ChannelDown { relay, number, peer } => {
                    let known = self.channels[shard].remove(&(relay, number));
                    let (known, _) = known.expect("a channel goes down that is up");
                    assert_eq!(known, peer.socket());
                    self.tell(shard, relay.allocation);
                    if let Some((_, mirrors)) = &mut self.second {
                        mirrors[shard].down(relay, number, &mut self.servers[shard], self.now);
                    }
                }
                Effect::Log(mut record) => {
                    self.late.add_to_record(&mut record);
                    if let Some((_, mirrors)) = &mut self.second {
                        mirrors[shard].complete_record(&mut record);
                    }
                    self.records.push(record);
                }
            }
        }
        reply
    }

    fn release(&mut self, shard: usize, mut release: Release, out: &mut [u8]) {
        let server = &mut self.servers[shard];
        if let Some((_, mirrors)) = &mut self.second {
            mirrors[shard].complete_release(&mut release, server, self.now);
        }
        self.late.add_to_release(&mut release, server, self.now);
        self.ledger.release(shard as u16, &mut release, self.now.mono_ns);
        if let Some(Last { account, count, .. }) = &release.last
            && let (Some(period), true) = (count.spent, count.crossed)
        {
            let spent = VolumeSpent { account: Arc::clone(account), period };
            self.servers[shard].handle(Event::VolumeSpent(spent), self.now, out);
        }
    }

    /// An allocation goes on with another shard.
    fn depart(&mut self, shard: usize, id: AllocationId, to: u16) {
        let departure = self.servers[shard].depart(id).expect("what is to depart is there");
        let families: Vec<Family> = departure.families().collect();
        let to = usize::from(to);
        let arrived = self.servers[to].arrive(departure, self.now);
        for family in families {
            let socket = self.sockets[shard].remove(&RelayId { allocation: id, family });
            let socket = socket.expect("a relay socket departs once");
            self.sockets[to].insert(RelayId { allocation: arrived, family }, socket);
        }
        assert!(self.carry_out(to, &mut []).is_none());
    }

    /// What `Route::Arriving` asks for: the client's allocation comes to where the client is.
    pub(crate) fn settle(&mut self, shard: usize, client: &Client) {
        if let Some(session) = self.servers[shard].settle(client) {
            let owner = self.home_of(session).expect("a session somebody has");
            let claimed = self.servers[owner].claim(session, &client.tuple, self.now);
            if !claimed {
                self.servers[shard].stop_expecting(session, &client.tuple);
            }
            assert!(self.carry_out(owner, &mut []).is_none());
        }
        assert!(self.carry_out(shard, &mut []).is_none());
    }

    /// What `Route::Elsewhere` asks for: the shard that has the session answers.
    pub(crate) fn elsewhere(
        &mut self,
        shard: usize,
        from: Client,
        data: &[u8],
        session: u64,
    ) -> Option<(Client, Vec<u8>)> {
        let Some(owner) = self.home_of(session) else {
            return self.handle(shard, Event::Request { from, data });
        };
        let answer = self.handle(owner, Event::Resume { from, data, shard: shard as u16 });
        if self.servers[owner].awaits(session, &from.tuple) {
            self.servers[shard].expect(&from, session, self.now);
        }
        answer
    }

    /// The shard that has a session.
    pub(crate) fn home_of(&self, session: u64) -> Option<usize> {
        let has = |server: &Server| server.find_session(session, self.now).is_some();
        self.servers.iter().position(has)
    }

    /// From now on there is a second data path with places for so many channels.
    pub(crate) fn offload(&mut self, places: u32) -> FakePath {
        let path = FakePath::new(places);
        let mirrors = (0..self.servers.len()).map(|_| Mirror::new(path.clone(), 7)).collect();
        self.second = Some((path.clone(), mirrors));
        path
    }

    /// The mirrors have their turns, if they are due.
    pub(crate) fn turn(&mut self) {
        let Some((_, mirrors)) = &mut self.second else { return };
        let (ledger, now) = (&mut self.ledger, self.now);
        for (shard, (mirror, server)) in mirrors.iter_mut().zip(&mut self.servers).enumerate() {
            mirror.turn(server, now, |server| {
                ledger.exchange(shard as u16, server.exchange(), now.mono_ns);
                server.handle(Event::Exchanged, now, &mut []);
            });
        }
    }

    /// The second data path tells what it relayed.
    fn tell(&mut self, shard: usize, allocation: AllocationId) {
        let Some((datagrams, bytes)) = self.untold.remove(&allocation) else { return };
        let (server, way) = (&mut self.servers[shard], Direction::ToPeer);
        if !server.relayed(allocation, way, datagrams, bytes, self.now) {
            self.late.count(way, datagrams, bytes);
        }
    }

    /// Lets a shard and the ledger speak.
    pub(crate) fn exchange(&mut self, shard: usize) {
        let server = &mut self.servers[shard];
        self.ledger.exchange(shard as u16, server.exchange(), self.now.mono_ns);
        server.handle(Event::Exchanged, self.now, &mut []);
    }

    fn bind(
        &mut self,
        shard: usize,
        allocation: AllocationId,
        want: Want,
        near: IpAddr,
        owner: Arc<[u8]>,
        until_ns: u64,
    ) -> Bound {
        let mut bound = Bound { allocation, v4: None, v6: None, reservation: None };
        let random = &mut self.random;
        let mut random = || splitmix(random) as u32;
        let mut claimed = Vec::new();
        match want {
            Want::Any(family) => {
                claimed.push((family, self.pool.claim(family, near, Parity::Any, &mut random)));
            }
            Want::Even(family) => {
                claimed.push((family, self.pool.claim(family, near, Parity::Even, &mut random)));
            }
            Want::Both { even } => {
                let parity = if even { Parity::Even } else { Parity::Any };
                for family in [Family::V4, Family::V6] {
                    claimed.push((family, self.pool.claim(family, near, parity, &mut random)));
                }
            }
            Want::EvenAndReserve(family) => {
                let even = self.pool.claim_pair(family, near, &mut random);
                if let Some(even) = even {
                    let token = splitmix(&mut self.random).to_be_bytes();
                    let next = SocketAddr::new(even.ip(), even.port() + 1);
                    self.pool.reserve(next, token, owner, until_ns);
                    bound.reservation = Some(token);
                }
                claimed.push((family, even));
            }
            Want::Reserved(token) => {
                let found = self.pool.take(token, &owner, self.now.mono_ns);
                let family = found.map_or(Family::V4, |port| Family::of(port.ip()));
                claimed.push((family, found));
            }
        }
        for (family, port) in claimed {
            let opened = self.open(shard, RelayId { allocation, family }, port);
            match family {
                Family::V4 => bound.v4 = Some(opened),
                Family::V6 => bound.v6 = Some(opened),
            }
        }
        bound
    }

    fn open(
        &mut self,
        shard: usize,
        relay: RelayId,
        port: Option<SocketAddr>,
    ) -> Result<RelayAddr, BindFailure> {
        let local = port.ok_or(BindFailure::NoPort)?;
        if let Some(&failure) = self.broken.get(&relay.family) {
            self.pool.release(local);
            return Err(failure);
        }
        let protocol = *self.bound.last().expect("said when it was asked for");
        self.shared.live.set(protocol, local, true);
        self.sockets[shard].insert(relay, local);
        Ok(RelayAddr {
            local,
            external: SocketAddr::new(self.externals[&local.ip()], local.port()),
        })
    }

    /// Time passes, and everyone does what is due.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.pass_unnoticed(seconds);
        self.expire();
    }

    /// Time passes while everyone is too busy to look at the clock.
    pub(crate) fn pass_unnoticed(&mut self, seconds: u64) {
        self.now.mono_ns += seconds * SECOND_NS;
        self.now.unix_s += seconds;
    }

    /// Does what is due.
    pub(crate) fn expire(&mut self) {
        assert!(self.expire_with_replies().is_empty());
    }

    /// The same where Connect requests may be answered. Gives the answers.
    pub(crate) fn expire_with_replies(&mut self) -> Vec<(Client, Vec<u8>)> {
        let mut replies = Vec::new();
        for shard in 0..self.servers.len() {
            let mut out = [0; 1500];
            while self.servers[shard].expire(self.now) {}
            assert!(self.carry_out(shard, &mut out).is_none());
            while self.servers[shard].expire_connection(self.now, &mut out) {
                replies.extend(self.carry_out(shard, &mut out));
            }
            let next = self.servers[shard].deadline();
            assert!(next.is_none_or(|next_ns| next_ns > self.now.mono_ns));
        }
        while self.pool.expire(self.now.mono_ns).is_some() {}
        replies
    }

    /// A peer connects to a relayed transport address. Gives what the client is told.
    pub(crate) fn peer_connects(
        &mut self,
        relay: SocketAddr,
        from: SocketAddr,
    ) -> Result<(ConnectionId, Client, Vec<u8>), Reason> {
        let (shard, relay) = self.owner_of(relay).expect("a bound relay socket");
        let mut out = [0xEE; 1500];
        let id = self.servers[shard].accept_peer(relay, from, self.now, &mut out)?;
        let (to, bytes) = self.carry_out(shard, &mut out).expect("the client is told");
        Ok((id, to, bytes))
    }

    /// Everyone reads a new configuration.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        let config = settings.config();
        for shard in 0..self.servers.len() {
            self.handle(shard, Event::Configure(Arc::clone(&config)));
        }
    }

    /// A peer sends a datagram to a relayed transport address, given as bound.
    pub(crate) fn peer_sends(
        &mut self,
        relay: SocketAddr,
        from: SocketAddr,
        payload: &[u8],
    ) -> Result<Delivered, Reason> {
        self.peer_sends_with(relay, from, payload, None)
    }

    /// The same with the header fields of the datagram.
    pub(crate) fn peer_sends_with(
        &mut self,
        relay: SocketAddr,
        from: SocketAddr,
        payload: &[u8],
        ip: Option<IpFields>,
    ) -> Result<Delivered, Reason> {
        let (shard, relay) = self.owner_of(relay).expect("a bound relay socket");
        let mut route = self.servers[shard].route_peer(relay, from, payload.len(), ip, self.now);
        if matches!(route, Route::Lease) {
            self.exchange(shard);
            route = self.servers[shard].route_peer(relay, from, payload.len(), ip, self.now);
        }
        match route {
            Route::ToClient { to, prefix, pad, ip } => {
                let mut bytes = prefix.as_bytes().to_vec();
                bytes.extend_from_slice(payload);
                bytes.resize(bytes.len() + usize::from(pad), 0);
                Ok(Delivered { to, bytes, ip })
            }
            Route::Drop(reason) => Err(reason),
            Route::ToPeer { .. }
            | Route::Request
            | Route::Lease
            | Route::Arriving
            | Route::Elsewhere { .. } => panic!("{route:?} for a peer's datagram"),
        }
    }

    /// An ICMP error comes back for a datagram sent from a relayed transport address to `peer`.
    pub(crate) fn icmp(
        &mut self,
        relay: SocketAddr,
        peer: SocketAddr,
        error: IcmpError,
    ) -> Option<(Client, Vec<u8>)> {
        let (shard, relay) = self.owner_of(relay).expect("a bound relay socket");
        self.handle(shard, Event::Icmp { relay, peer, error })
    }

    /// Which server has bound a relayed transport address.
    pub(crate) fn owner_of(&self, local: SocketAddr) -> Option<(usize, RelayId)> {
        self.sockets.iter().enumerate().find_map(|(shard, sockets)| {
            let found = sockets.iter().find(|&(_, &bound)| bound == local);
            found.map(|(&relay, _)| (shard, relay))
        })
    }

    /// The figures of all servers.
    pub(crate) fn stats(&self) -> Stats {
        let mut all = Stats::default();
        for server in &self.servers {
            all.add(server.stats());
        }
        all
    }

    pub(crate) fn drops_of_clients(&self, reason: Reason) -> u64 {
        self.stats().client_drops[reason.index()]
    }

    /// Asserts that nothing is left: no allocation, port, channel or permission, nowhere.
    pub(crate) fn assert_empty(&self) {
        let stats = self.stats();
        assert_eq!(stats.total_allocations(), 0);
        assert_eq!((stats.permissions, stats.channels, stats.connections), (0, 0, 0));
        assert_eq!(self.shared.allocations.count(), 0);
        let counts = self.pool.counts();
        assert_eq!((counts.claimed, counts.reserved, counts.set_aside), (0, 0, 0));
        assert!(self.sockets.iter().all(HashMap::is_empty));
        assert!(self.channels.iter().all(HashMap::is_empty));
        assert!(self.servers.iter().all(|s| s.allocations() == 0 && s.deadline().is_none()));
        assert_eq!((self.ledger.allocations(), self.ledger.users()), (0, 0));
    }
}

/// A connection to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connecting {
    pub(crate) connection: ConnectionId,
    /// The relayed transport address, as bound.
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// What a peer's datagram became on its way to the client.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) to: Client,
    /// All of it, as it goes out.
    pub(crate) bytes: Vec<u8>,
    pub(crate) ip: Option<IpFields>,
}

impl Delivered {
    /// Channel number and payload of a ChannelData message.
    pub(crate) fn channel(&self) -> Option<(u16, &[u8])> {
        ChannelData::parse(&self.bytes).map(|message| (message.number, message.data))
    }

    /// Peer and payload of a Data indication.
    pub(crate) fn data(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let message = Message::parse(&self.bytes).ok()?;
        assert_eq!(message.method(), Method::DATA);
        let XorPeerAddress(peer) = message.get().unwrap()?;
        let Data(payload) = message.get().unwrap()?;
        Some((peer, payload.to_vec()))
    }
}

/// A small generator of test randomness.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
