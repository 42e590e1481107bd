//! Clients with channels, flows over them in small steps of time, and an ideal bucket for each
//! limit, which says by how much it was exceeded.

use std::net::SocketAddr;
use std::sync::Arc;

use turnway_relay::ledger::{Known, Periods, Used, limit_index};
use turnway_relay::quota::{Bandwidth, UserLimits};
use turnway_relay::{Direction, Quotas, Reason, Record, Traffic, Transport};
use turnway_wire::{AdditionalAddressFamily, Family, channel_header};

use crate::common::client::{Ask, TestClient};
use crate::common::second_path::{FakePath, Fate};
use crate::common::{PEER, PEER_V6, Settings, World, addr};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
pub(crate) const MS: u64 = 1_000_000;
const STEP_NS: u64 = MS;

/// Test randomness.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(end)) >> 64) as u64
    }
}

/// A client with one of its channels.
pub(crate) struct Guest {
    pub(crate) client: TestClient,
    pub(crate) number: u16,
    pub(crate) relay: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// Datagrams of one size in one direction of a guest's channel.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) guest: usize,
    pub(crate) way: Direction,
    pub(crate) size: u64,
    /// Bytes per second.
    pub(crate) load: u64,
    /// What comes in this time is sent at once at its end; 0: evenly.
    pub(crate) every_ns: u64,
    /// Bytes that wait to be sent, times a second in ns.
    due: u128,
    pub(crate) offered: u64,
    /// Payload bytes relayed by the second path, and by the rules.
    pub(crate) fast: u64,
    pub(crate) slow: u64,
    /// Payload bytes dropped by each.
    pub(crate) fast_drops: u64,
    pub(crate) slow_drops: u64,
}

impl Flow {
    /// Evenly to the peer.
    pub(crate) fn new(guest: usize, size: u64, load: u64) -> Self {
        Self {
            guest,
            way: Direction::ToPeer,
            size,
            load,
            every_ns: 0,
            due: 0,
            offered: 0,
            fast: 0,
            slow: 0,
            fast_drops: 0,
            slow_drops: 0,
        }
    }

    pub(crate) fn every(self, every_ns: u64) -> Self {
        Self { every_ns, ..self }
    }

    pub(crate) fn to_client(self) -> Self {
        Self { way: Direction::ToClient, ..self }
    }

    pub(crate) fn passed(&self) -> u64 {
        self.fast + self.slow
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.fast_drops + self.slow_drops
    }

    fn clear(&mut self) {
        (self.offered, self.fast, self.slow) = (0, 0, 0);
        (self.fast_drops, self.slow_drops) = (0, 0);
    }
}

/// Whose datagrams a limit holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    Allocation(usize),
    User(&'static str),
    All,
}

/// An ideal bucket.
pub(crate) struct Witness {
    scope: Scope,
    way: Direction,
    limit: Bandwidth,
    /// Bytes, times a second in ns.
    level: i128,
    worst: i128,
}

impl Witness {
    fn pass_time(&mut self) {
        self.level += i128::from(STEP_NS) * i128::from(self.limit.bytes_per_second);
        self.level = self.level.min(i128::from(self.limit.burst_bytes) * i128::from(SECOND_NS));
    }

    fn pass_bytes(&mut self, len: u64) {
        self.level -= i128::from(len) * i128::from(SECOND_NS);
        self.worst = self.worst.min(self.level);
    }

    /// The most bytes by which the limit was exceeded over any time so far.
    pub(crate) fn excess(&self) -> u64 {
        (-self.worst.min(0) / i128::from(SECOND_NS)) as u64
    }
}

/// See the module.
pub(crate) struct Net {
    pub(crate) world: World,
    pub(crate) path: FakePath,
    pub(crate) guests: Vec<Guest>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) witnesses: Vec<Witness>,
    pub(crate) rng: Rng,
    /// What was really relayed, and dropped for each reason, by both paths together.
    pub(crate) relayed: Traffic,
    pub(crate) drops: [u64; Reason::COUNT],
    /// Datagrams that the second path dropped: their reason is the mirror's to say.
    pub(crate) fast_dropped: u64,
}

impl Net {
    pub(crate) fn new(quotas: Quotas, shards: usize, seed: u64) -> Self {
        Self::with(&Settings { quotas, servers: shards, ..Settings::default() }, seed)
    }

    pub(crate) fn with(settings: &Settings, seed: u64) -> Self {
        let mut world = World::new(settings);
        let path = world.offload(100_000);
        Self {
            world,
            path,
            guests: Vec::new(),
            flows: Vec::new(),
            witnesses: Vec::new(),
            rng: Rng(seed),
            relayed: Traffic::default(),
            drops: [0; Reason::COUNT],
            fast_dropped: 0,
        }
    }

    /// Alice has one more client on a shard, with a channel.
    pub(crate) fn guest(&mut self, shard: usize, tcp: bool) -> usize {
        self.try_guest(shard, tcp).expect("it is admitted")
    }

    /// The same, if the rules admit it.
    pub(crate) fn try_guest(&mut self, shard: usize, tcp: bool) -> Option<usize> {
        let mut client = self.client("192.0.2.1", shard);
        if tcp {
            client.at.tuple.transport = Transport::Tcp;
        }
        self.admit(client)
    }

    /// The same of bob's over UDP.
    pub(crate) fn other_guest(&mut self, shard: usize) -> usize {
        let client = self.client("192.0.2.2", shard).of("bob", "hunter2");
        self.admit(client).expect("it is admitted")
    }

    /// One with relayed transport addresses of both families: a channel through each.
    pub(crate) fn dual_guest(&mut self, shard: usize) -> Option<[usize; 2]> {
        let mut client = self.client("192.0.2.1", shard);
        let family = AdditionalAddressFamily { family: Some(Family::V6) };
        let response = client.ask(&mut self.world, &Ask::allocate().with(family));
        let [v4, v6] = response.relayed()[..] else { return None };
        let first = self.channel(client, 0x4000, v4, PEER)?;
        let client = self.guests[first].client.clone();
        Some([first, self.channel(client, 0x4001, v6, PEER_V6)?])
    }

    fn client(&self, ip: &str, shard: usize) -> TestClient {
        TestClient::new(&format!("{ip}:{}", 10_000 + self.guests.len())).on(shard)
    }

    fn admit(&mut self, mut client: TestClient) -> Option<usize> {
        let response = client.ask(&mut self.world, &Ask::allocate());
        let relay = *response.relayed().first()?;
        let peer = format!("198.51.100.1:{}", 5_000 + self.guests.len());
        self.channel(client, 0x4000, relay, &peer)
    }

    fn channel(
        &mut self,
        mut client: TestClient,
        number: u16,
        relay: SocketAddr,
        peer: &str,
    ) -> Option<usize> {
        let response = client.ask(&mut self.world, &Ask::channel_bind(number, peer));
        self.guests.push(Guest { client, number, relay, peer: addr(peer) });
        (response.code() == 0).then_some(self.guests.len() - 1)
    }

    pub(crate) fn flow(&mut self, flow: Flow) -> usize {
        self.flows.push(flow);
        self.flows.len() - 1
    }

    /// From now on both directions of a scope are compared with a limit.
    pub(crate) fn witness(&mut self, scope: Scope, limit: Bandwidth) {
        for way in Direction::BOTH {
            let level = i128::from(limit.burst_bytes) * i128::from(SECOND_NS);
            self.witnesses.push(Witness { scope, way, limit, level, worst: 0 });
        }
    }

    /// The most that any witness saw too much.
    pub(crate) fn excess(&self) -> u64 {
        self.witnesses.iter().map(Witness::excess).max().unwrap_or(0)
    }

    pub(crate) fn run(&mut self, time_ns: u64) {
        for _ in 0..time_ns / STEP_NS {
            self.step();
        }
    }

    /// Runs so long and gives what became of the flows in that time.
    pub(crate) fn measure(&mut self, time_ns: u64) -> &[Flow] {
        self.flows.iter_mut().for_each(Flow::clear);
        self.run(time_ns);
        &self.flows
    }

    pub(crate) fn step(&mut self) {
        self.world.now.mono_ns += STEP_NS;
        self.witnesses.iter_mut().for_each(Witness::pass_time);
        self.world.expire();
        self.world.turn();
        let now_ns = self.world.now.mono_ns;
        let mut queue = Vec::new();
        for (index, flow) in self.flows.iter_mut().enumerate() {
            flow.due += u128::from(flow.load) * u128::from(STEP_NS);
            if flow.every_ns > 0 && !now_ns.is_multiple_of(flow.every_ns) {
                continue;
            }
            let datagrams = flow.due / u128::from(flow.size * SECOND_NS);
            flow.due -= datagrams * u128::from(flow.size * SECOND_NS);
            queue.extend((0..datagrams).map(|_| index));
        }
        for place in (1..queue.len()).rev() {
            queue.swap(place, self.rng.below(place as u64 + 1) as usize);
        }
        for index in queue {
            self.send(index);
        }
    }

    fn send(&mut self, index: usize) {
        let Flow { guest, way, size, .. } = self.flows[index];
        let (fate, passed) = self.datagram(guest, way, size);
        let flow = &mut self.flows[index];
        flow.offered += size;
        match (fate, passed) {
            (Fate::Relayed, _) => flow.fast += size,
            (Fate::Dropped, _) => flow.fast_drops += size,
            (Fate::PassedUp, true) => flow.slow += size,
            (Fate::PassedUp, false) => flow.slow_drops += size,
        }
    }

    /// One datagram: what the second path did, and whether it passed.
    pub(crate) fn datagram(&mut self, guest: usize, way: Direction, size: u64) -> (Fate, bool) {
        let Guest { client, number, relay, peer } = &self.guests[guest];
        let now_ns = self.world.now.mono_ns;
        let fate = match way {
            Direction::ToPeer => self.path.client_sends(client.at.tuple, *number, size, now_ns),
            Direction::ToClient => self.path.peer_sends(*peer, *relay, size, now_ns),
        };
        if way == Direction::ToClient && self.world.owner_of(*relay).is_none() {
            assert_eq!(fate, Fate::PassedUp, "there is no such socket");
            return (fate, false);
        }
        let passed = match fate {
            Fate::Relayed => Ok(()),
            Fate::Dropped => {
                self.fast_dropped += 1;
                return (fate, false);
            }
            Fate::PassedUp => self.pass_up(guest, way, size),
        };
        match passed {
            Ok(()) => {
                self.relayed.add(Traffic::of(way, 1, size));
                let name: &str = &self.guests[guest].client.user;
                for witness in self.witnesses.iter_mut().filter(|witness| witness.way == way) {
                    if match witness.scope {
                        Scope::Allocation(of) => of == guest,
                        Scope::User(of) => of == name,
                        Scope::All => true,
                    } {
                        witness.pass_bytes(size);
                    }
                }
            }
            Err(reason) => self.drops[reason.index()] += 1,
        }
        (fate, passed.is_ok())
    }

    fn pass_up(&mut self, guest: usize, way: Direction, size: u64) -> Result<(), Reason> {
        static ZEROS: [u8; 1500] = [0; 1500];
        let Guest { client, number, relay, peer } = &self.guests[guest];
        let payload = &ZEROS[..size as usize];
        let (shard, number, relay) = (client.shard, *number, *relay);
        let passed = match way {
            Direction::ToPeer => {
                let mut data = channel_header(number, size as u16).to_vec();
                data.extend_from_slice(payload);
                if client.at.tuple.transport.is_stream() {
                    data.resize(data.len().next_multiple_of(4), 0);
                }
                client.datagram(&mut self.world, &data, None).map(drop)
            }
            Direction::ToClient => self.world.peer_sends(relay, *peer, payload).map(drop),
        };
        if passed.is_ok() {
            self.world.passed_up(shard, relay, way, number);
        }
        passed
    }

    /// What the figures say is what happened. Counters that the mirrors have not read yet must be
    /// none.
    pub(crate) fn check_figures(&self) {
        let stats = self.world.stats();
        let mut relayed = stats.traffic_of(Transport::Udp);
        relayed.add(stats.traffic_of(Transport::Tcp));
        assert_eq!(relayed, self.relayed);
        let counted = stats.client_drops.iter().zip(&stats.peer_drops).map(|(a, b)| a + b);
        let mut below = 0;
        for ((counted, by_rules), reason) in counted.zip(self.drops).zip(Reason::ALL) {
            assert!(counted >= by_rules, "{reason}: {counted} counted, {by_rules} by the rules");
            let limit = limit_index(*reason).is_some();
            assert!(limit || counted == by_rules, "{reason} is no limit");
            below += counted - by_rules;
        }
        assert_eq!(below, self.fast_dropped);
    }

    /// The same when every mirror has looked at every channel.
    pub(crate) fn check_figures_after_a_turn(&mut self) {
        self.flows.clear();
        self.run(300 * MS);
        self.check_figures();
    }

    /// What the records of allocations that ended say was relayed.
    pub(crate) fn recorded(&self) -> Traffic {
        let mut all = Traffic::default();
        for record in &self.world.records {
            match record {
                Record::Ended(ended) => all.add(ended.traffic),
                Record::Started(_)
                | Record::AuthFailed(_)
                | Record::VolumeSpent(_)
                | Record::Moved(_) => {}
            }
        }
        all
    }

    /// Volume is counted from now on, or a new day begins.
    pub(crate) fn begin_day(&mut self, day: &str) {
        let periods = Periods { day: day.into(), month: "2023-11".into() };
        drop(self.world.ledger.usage().begin(periods, Known::default()));
    }

    /// The volume of everybody since it was asked last: to peers, to clients.
    pub(crate) fn volume(&mut self) -> (u64, u64) {
        let unsaved = self.world.ledger.usage().take_unsaved(usize::MAX);
        let sum = |of: fn(&Used) -> u64| unsaved.iter().map(|(_, used)| of(used)).sum();
        (sum(|used| used.to_peer), sum(|used| used.to_client))
    }

    /// Other limits for everybody.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        let quotas = Arc::clone(&settings.config().quotas);
        self.world.ledger.configure(quotas, self.world.now.mono_ns);
        self.world.configure(settings);
        self.world.expire();
    }
}

/// Which limit there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Allocation,
    User,
    Realm,
    Total,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Allocation, Self::User, Self::Realm, Self::Total];

    /// Only this limit.
    pub(crate) fn quotas(self, limit: Bandwidth) -> Quotas {
        let limit = Some(limit);
        let mut quotas = Quotas::default();
        match self {
            Self::Allocation => quotas.default.bandwidth_per_allocation = limit,
            Self::User => quotas.default.bandwidth = limit,
            Self::Realm => quotas.realm_bandwidth = limit,
            Self::Total => quotas.total_bandwidth = limit,
        }
        quotas
    }

    /// Whom it holds, if there is only one guest or one user.
    pub(crate) fn scope(self) -> Scope {
        match self {
            Self::Allocation => Scope::Allocation(0),
            Self::User => Scope::User("alice"),
            Self::Realm | Self::Total => Scope::All,
        }
    }
}

/// Limits of each user.
pub(crate) fn of_users(limits: UserLimits) -> Quotas {
    Quotas { default: limits, ..Quotas::default() }
}

/// The most a mirror lends to one direction of a channel.
pub(crate) fn chunk(limit: Bandwidth) -> u64 {
    (limit.bytes_per_second / 10).max(3_000).min(limit.burst_bytes / 4)
}

/// Rates from 64 kbit/s to 1 Gbit/s in bytes per second.
pub(crate) const RATES: [u64; 4] = [8_000, 125_000, 1_250_000, 125_000_000];

/// A size of datagrams that is usual at such a rate.
pub(crate) fn usual_size(rate: u64) -> u64 {
    if rate < 100_000 { 172 } else { 1_200 }
}
