//! Shards with one ledger, senders on them, and time in small steps: in each the datagrams of all
//! senders come in random order.

use std::sync::Arc;

use super::super::{ASKS_PER_EXCHANGE, Admission, Meter, Meters, USERS_PER_EXCHANGE};
use crate::address::Now;
use crate::ledger::{Direction, Ledger, Release};
use crate::outcome::Reason;
use crate::quota::{Bandwidth, Quotas, UserLimits};

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// Test randomness.
#[derive(Clone)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(end)) >> 64) as u64
    }
}

/// Lengths of datagrams.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sizes {
    One(u64),
    /// Between both, every length alike.
    Mixed(u64, u64),
}

/// An allocation that sends in one direction.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) shard: usize,
    pub(super) account: u32,
    pub(super) sizes: Sizes,
    /// Bytes per second while it is on.
    pub(super) load: u64,
    /// Sends for the first and is silent for the second, in ns, over and over.
    pub(super) on_off: Option<(u64, u64)>,
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

impl Sender {
    /// One that never pauses.
    pub(super) fn constant(shard: usize, account: u32, size: u64, load: u64) -> Self {
        let sizes = Sizes::One(size);
        Self { shard, account, sizes, load, on_off: None, from_ns: 0, until_ns: u64::MAX }
    }
}

pub(super) struct Live {
    pub(super) sender: Sender,
    meter: Option<Meter>,
    /// Offered and not sent yet: billionths of a byte.
    due: u128,
    next_len: u64,
    pub(super) offered: u64,
    pub(super) passed: u64,
}

/// What passes under one limit, held to burst and rate by an ideal bucket.
pub(super) struct Witness {
    limit: Bandwidth,
    level: i128,
    /// What the clocks of shards may differ by.
    slack_ns: u64,
}

impl Witness {
    pub(super) fn new(limit: Bandwidth, slack_ns: u64) -> Self {
        let mut witness = Self { limit, level: 0, slack_ns };
        witness.level = witness.full();
        witness
    }

    fn full(&self) -> i128 {
        let slack = u128::from(self.slack_ns) * u128::from(self.limit.bytes_per_second);
        (u128::from(self.limit.burst_bytes) * u128::from(SECOND_NS) + slack) as i128
    }

    pub(super) fn pass_time(&mut self, step_ns: u64) {
        self.level += i128::from(step_ns) * i128::from(self.limit.bytes_per_second);
        self.level = self.level.min(self.full());
    }

    pub(super) fn pass_bytes(&mut self, len: u64) {
        self.level -= i128::from(len) * i128::from(SECOND_NS);
        assert!(self.level >= 0, "over the limit: {:?}", self.limit);
    }
}

/// See the module.
pub(super) struct Fleet {
    pub(super) now: Now,
    pub(super) ledger: Ledger,
    pub(super) shards: Vec<Meters>,
    pub(super) senders: Vec<Live>,
    pub(super) step_ns: u64,
    pub(super) rng: Rng,
    /// Of each user, by account; of the realm; of the server.
    pub(super) user_witnesses: Vec<Witness>,
    pub(super) realm_witness: Option<Witness>,
    pub(super) total_witness: Option<Witness>,
    pub(super) drops: [u64; Reason::COUNT],
    pub(super) exchanges: u64,
    queue: Vec<(u32, u64)>,
}

impl Fleet {
    pub(super) fn new(quotas: Quotas, shards: usize, step_ns: u64, seed: u64) -> Self {
        let quotas = Arc::new(quotas);
        let now = Now { mono_ns: 1000 * SECOND_NS, unix_s: 0 };
        Self {
            now,
            ledger: Ledger::new(Arc::clone(&quotas), now.mono_ns),
            shards: (0..shards).map(|_| Meters::new(Arc::clone(&quotas))).collect(),
            senders: Vec::new(),
            step_ns,
            rng: Rng(seed),
            user_witnesses: Vec::new(),
            realm_witness: None,
            total_witness: None,
            drops: [0; Reason::COUNT],
            exchanges: 0,
            queue: Vec::new(),
        }
    }

    /// A fleet where each user has one limit and nobody another.
    pub(super) fn of_users(limit: Bandwidth, shards: usize, step_ns: u64) -> Self {
        let limits = UserLimits { bandwidth: Some(limit), ..UserLimits::default() };
        Self::new(Quotas { default: limits, ..Quotas::default() }, shards, step_ns, 1)
    }

    pub(super) fn add(&mut self, mut sender: Sender) {
        let begin_ns = self.now.mono_ns;
        sender.from_ns = sender.from_ns.saturating_add(begin_ns);
        sender.until_ns = sender.until_ns.saturating_add(begin_ns);
        let next_len = sender.len(&mut self.rng);
        // Nobody begins together with another.
        let due = u128::from(self.rng.below(next_len + 1)) * u128::from(SECOND_NS);
        self.senders.push(Live { sender, meter: None, due, next_len, offered: 0, passed: 0 });
    }

    pub(super) fn run(&mut self, seconds: f64) {
        let end_ns = self.now.mono_ns + (seconds * SECOND_NS as f64) as u64;
        while self.now.mono_ns < end_ns {
            self.step();
        }
    }

    /// What each sender has passed in the next seconds.
    pub(super) fn measure(&mut self, seconds: f64) -> Vec<u64> {
        let before: Vec<u64> = self.senders.iter().map(|sender| sender.passed).collect();
        self.run(seconds);
        self.senders.iter().zip(before).map(|(sender, before)| sender.passed - before).collect()
    }

    pub(super) fn step(&mut self) {
        self.now.mono_ns += self.step_ns;
        let witnesses = self.user_witnesses.iter_mut();
        for witness in witnesses.chain(&mut self.realm_witness).chain(&mut self.total_witness) {
            witness.pass_time(self.step_ns);
        }
        for shard in 0..self.shards.len() {
            self.settle(shard);
        }
        self.gather();
        for place in 0..self.queue.len() {
            let (sender, len) = self.queue[place];
            self.send(sender as usize, len);
        }
        self.ledger.check_sums();
    }

    fn settle(&mut self, shard: usize) {
        let now_ns = self.now.mono_ns;
        if self.shards[shard].due_ns().is_some_and(|due_ns| due_ns <= now_ns)
            && self.shards[shard].settle(now_ns)
        {
            self.exchange(shard, now_ns);
        }
    }

    fn exchange(&mut self, shard: usize, now_ns: u64) {
        self.exchanges += 1;
        let meters = &mut self.shards[shard];
        let said = meters.exchange();
        assert!(said.asks.len() <= ASKS_PER_EXCHANGE, "{} asks at once", said.asks.len());
        assert!(said.counts.len() <= USERS_PER_EXCHANGE, "{} counts at once", said.counts.len());
        self.ledger.exchange(shard as u16, meters.exchange(), now_ns);
        meters.exchanged(now_ns, |_| {});
    }

    /// What is sent in this step, in random order.
    fn gather(&mut self) {
        self.queue.clear();
        let now_ns = self.now.mono_ns;
        for index in 0..self.senders.len() {
            let live = &mut self.senders[index];
            let here = (live.sender.from_ns..live.sender.until_ns).contains(&now_ns);
            if here != live.meter.is_some() {
                if here { self.join(index) } else { self.leave(index) }
            }
            let live = &mut self.senders[index];
            if !here || !live.sender.is_on(now_ns) {
                continue;
            }
            live.due += u128::from(self.step_ns) * u128::from(live.sender.load);
            while live.due >= u128::from(live.next_len) * u128::from(SECOND_NS) {
                live.due -= u128::from(live.next_len) * u128::from(SECOND_NS);
                self.queue.push((index as u32, live.next_len));
                live.next_len = live.sender.len(&mut self.rng);
            }
        }
        for place in (1..self.queue.len()).rev() {
            self.queue.swap(place, self.rng.below(place as u64 + 1) as usize);
        }
    }

    fn join(&mut self, index: usize) {
        let now_ns = self.now.mono_ns;
        let Sender { account: user, shard, .. } = self.senders[index].sender;
        let account: Arc<[u8]> = format!("user {user}").into_bytes().into();
        let client = core::net::IpAddr::from([192, 0, 2, 1]);
        let grant = self.ledger.reserve(&account, client, now_ns).expect("no count is limited");
        self.senders[index].meter = Some(self.shards[shard].join(&account, grant, now_ns));
    }

    fn leave(&mut self, index: usize) {
        let Live { meter, sender, .. } = &mut self.senders[index];
        let meter = meter.take().expect("it is here");
        let mut release: Release = self.shards[sender.shard].leave(&meter);
        self.ledger.release(sender.shard as u16, &mut release, self.now.mono_ns);
    }

    fn send(&mut self, index: usize, len: u64) {
        // Shards read their clocks at different times.
        let now_ns = self.now.mono_ns - self.rng.below(self.step_ns);
        let now = Now { mono_ns: now_ns, unix_s: 0 };
        let Live { sender, meter, .. } = &mut self.senders[index];
        let (shard, user) = (sender.shard, sender.account as usize);
        let meter = meter.as_mut().expect("who sends is here");
        let direction = Direction::ToPeer;
        let mut admission = self.shards[shard].admit(meter, direction, len as usize, now);
        if admission == Admission::Lease {
            self.exchange(shard, now_ns);
            let meter = self.senders[index].meter.as_mut().expect("as above");
            admission = self.shards[shard].admit(meter, direction, len as usize, now);
        }
        let live = &mut self.senders[index];
        live.offered += len;
        match admission {
            Admission::Pass => live.passed += len,
            Admission::Drop(reason) => {
                self.drops[reason.index()] += 1;
                return;
            }
            Admission::Lease => panic!("a datagram asks for leases once"),
        }
        let witness = self.user_witnesses.get_mut(user);
        for witness in
            witness.into_iter().chain(&mut self.realm_witness).chain(&mut self.total_witness)
        {
            witness.pass_bytes(len);
        }
    }

    /// Other limits for everybody; shards hear of it after the ledger, one by one.
    pub(super) fn configure(&mut self, quotas: Quotas) {
        let quotas = Arc::new(quotas);
        self.user_witnesses.clear();
        (self.realm_witness, self.total_witness) = (None, None);
        self.ledger.configure(Arc::clone(&quotas), self.now.mono_ns);
        for shard in 0..self.shards.len() {
            self.shards[shard].configure(Arc::clone(&quotas));
            (0..self.rng.below(3)).for_each(|_| self.step());
        }
    }

    /// From now on everything is held to these limits.
    pub(super) fn witness(&mut self, quotas: &Quotas, users: usize) {
        let witness = |limit| Witness::new(limit, self.step_ns);
        self.realm_witness = quotas.realm_bandwidth.map(witness);
        self.total_witness = quotas.total_bandwidth.map(witness);
        let limit = quotas.default.bandwidth;
        self.user_witnesses = limit.map_or(Vec::new(), |limit| {
            (0..users).map(|_| Witness::new(limit, self.step_ns)).collect()
        });
    }

    /// Everybody leaves.
    pub(super) fn disband(&mut self) {
        for index in 0..self.senders.len() {
            if self.senders[index].meter.is_some() {
                self.leave(index);
            }
        }
        assert_eq!((self.ledger.allocations(), self.ledger.users()), (0, 0));
    }
}

impl Sender {
    fn len(&self, rng: &mut Rng) -> u64 {
        match self.sizes {
            Sizes::One(len) => len,
            Sizes::Mixed(least, most) => least + rng.below(most - least + 1),
        }
    }

    fn is_on(&self, now_ns: u64) -> bool {
        self.on_off.is_none_or(|(on_ns, off_ns)| (now_ns - self.from_ns) % (on_ns + off_ns) < on_ns)
    }
}
