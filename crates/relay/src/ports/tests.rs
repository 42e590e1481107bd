use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ALSO_HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const HERE_V6: IpAddr = IpAddr::V6(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Words that look random and are the same in every run (splitmix64).
fn words(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 32) as u32
    }
}

fn owner(name: &str) -> Arc<[u8]> {
    Arc::from(name.as_bytes())
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

//= rfc8656#section-7.2
//= type=test
//# Otherwise, the server allocates any available relayed transport
//# address.
#[test]
fn every_range_is_used_to_its_last_port() {
    for first in 0_u16..6 {
        for last in 0_u16..12 {
            let mut pool = PortPool::new(&[HERE], first..=last);
            let expected: BTreeSet<u16> = (first.max(1)..=last).collect();
            assert_eq!(pool.capacity(Family::V4), expected.len());
            let mut random = words(u64::from(first) * 100 + u64::from(last));
            let mut seen = BTreeSet::new();
            while let Some(port) = pool.claim(Family::V4, HERE, Parity::Any, &mut random) {
                assert!(seen.insert(port.port()), "port {port} twice");
            }
            assert_eq!(seen, expected);
            for &port in &seen {
                pool.release(at(HERE, port));
            }
            assert_eq!(pool.counts().free, expected.len());
        }
    }
}

//= rfc8656#section-7.2
//= type=test
//# If the request contains an EVEN-PORT attribute with the R bit set
//# to 0, then the server allocates a relayed transport address with
//# an even port number.
#[test]
fn even_claims_find_every_even_port_and_no_other() {
    for (first, last) in [(1, 10), (2, 10), (1, 9), (2, 9), (7, 7), (8, 8), (65_533, 65_535)] {
        let mut pool = PortPool::new(&[HERE], first..=last);
        let mut random = words(7);
        let mut seen = BTreeSet::new();
        while let Some(port) = pool.claim(Family::V4, HERE, Parity::Even, &mut random) {
            assert!(seen.insert(port.port()));
        }
        let expected: BTreeSet<u16> = (first..=last).filter(|port| port % 2 == 0).collect();
        assert_eq!(seen, expected, "{first}-{last}");
        let odd = (first..=last).filter(|port| port % 2 == 1).count();
        assert_eq!(pool.counts().free, odd);
    }
}

//= rfc8656#section-7.2
//= type=test
//# If the request contains an EVEN-PORT attribute with the R bit set
//# to 1, then the server looks for a pair of port numbers N and N+1
//# on the same IP address, where N is even.
#[test]
fn pair_claims_find_every_whole_pair() {
    for (first, last, pairs) in [
        (49_152, 49_161, 5),
        (49_153, 49_161, 4),
        (49_152, 49_160, 4),
        (49_153, 49_160, 3),
        (65_534, 65_535, 1),
        (49_153, 49_154, 0),
        (49_152, 49_152, 0),
    ] {
        let mut pool = PortPool::new(&[HERE], first..=last);
        let mut random = words(1);
        let mut claimed = Vec::new();
        while let Some(even) = pool.claim_pair(Family::V4, HERE, &mut random) {
            assert!(even.port().is_multiple_of(2) && even.port() < last);
            claimed.push(even);
        }
        assert_eq!(claimed.len(), pairs, "{first}-{last}");
        assert_eq!(pool.counts().claimed, 2 * pairs);
        // One half of a pair is not a pair; both are.
        for even in claimed {
            pool.release(even);
            assert_eq!(pool.claim_pair(Family::V4, HERE, &mut random), None);
            pool.release(at(HERE, even.port() + 1));
            assert_eq!(pool.claim_pair(Family::V4, HERE, &mut random), Some(even));
        }
    }
}

#[test]
fn ten_ports_serve_pairs_and_singles_to_the_last() {
    let mut pool = PortPool::new(&[HERE], 50_001..=50_010);
    let mut random = words(3);
    let mut claim = |pool: &mut PortPool| pool.claim(Family::V4, HERE, Parity::Any, &mut random);
    let mut random_pair = words(4);
    for _ in 0..4 {
        assert!(pool.claim_pair(Family::V4, HERE, &mut random_pair).is_some());
    }
    assert_eq!(pool.claim_pair(Family::V4, HERE, &mut random_pair), None);
    let rest: BTreeSet<_> = (0..2).map(|_| claim(&mut pool).expect("two are left")).collect();
    assert_eq!(rest, BTreeSet::from([at(HERE, 50_001), at(HERE, 50_010)]));
    assert_eq!(claim(&mut pool), None);
    assert_eq!(pool.counts(), Counts { claimed: 10, ..Counts::default() });
}

#[test]
fn the_address_the_client_uses_is_preferred_and_the_others_are_used_when_it_is_full() {
    let mut pool = PortPool::new(&[HERE, ALSO_HERE, HERE_V6, HERE], 100..=101);
    assert_eq!((pool.capacity(Family::V4), pool.capacity(Family::V6)), (4, 2));
    let mut random = words(5);
    let mut claim = |near| pool.claim(Family::V4, near, Parity::Any, &mut random);
    assert_eq!(claim(ALSO_HERE).map(|port| port.ip()), Some(ALSO_HERE));
    assert_eq!(claim(ALSO_HERE).map(|port| port.ip()), Some(ALSO_HERE));
    assert_eq!(claim(ALSO_HERE).map(|port| port.ip()), Some(HERE));
    assert_eq!(claim(ELSEWHERE).map(|port| port.ip()), Some(HERE));
    assert_eq!(claim(HERE), None);
    // An address of the other family says nothing about where to look.
    let v6 = pool.claim(Family::V6, HERE, Parity::Any, &mut random);
    assert_eq!(v6.map(|port| port.ip()), Some(HERE_V6));
}

#[test]
fn without_a_near_address_all_are_used_alike() {
    let mut random = words(6);
    let mut on_first = 0;
    for _ in 0..2_000 {
        let mut pool = PortPool::new(&[HERE, ALSO_HERE], 100..=109);
        let port = pool.claim(Family::V4, ELSEWHERE, Parity::Any, &mut random).expect("free");
        on_first += usize::from(port.ip() == HERE);
    }
    assert!((800..1_200).contains(&on_first), "{on_first} of 2000");
}

#[test]
fn claims_are_uniform_over_the_free_ports() {
    let mut pool = PortPool::new(&[HERE], 1_000..=1_009);
    let mut random = words(8);
    let mut hits = BTreeMap::new();
    for _ in 0..20_000 {
        let port = pool.claim(Family::V4, HERE, Parity::Any, &mut random).expect("free");
        *hits.entry(port.port()).or_insert(0_u32) += 1;
        pool.release(port);
    }
    assert_eq!(hits.len(), 10);
    assert!(hits.values().all(|hits| (1_800..2_200).contains(hits)), "{hits:?}");
}

#[test]
fn random_numbers_have_no_modulo_bias_and_a_stuck_source_does_not_hang() {
    // 2^32 words for 3 * 2^30 numbers: a plain modulo would favour the lowest third of them, a
    // plain multiplication every third one.
    let mut random = words(9);
    let numbers: Vec<u32> = (0..30_000).map(|_| below(3 << 30, &mut random)).collect();
    let low = numbers.iter().filter(|&&number| number < 1 << 30).count();
    assert!((9_500..10_500).contains(&low), "{low} of 30000 in the lowest third");
    let thirds = numbers.iter().filter(|&&number| number.is_multiple_of(3)).count();
    assert!((9_500..10_500).contains(&thirds), "{thirds} of 30000 are multiples of three");
    assert_eq!(below(10, &mut || 0), 0);
    assert_eq!(below(10, &mut || u32::MAX), 9);
    assert_eq!(below(1, &mut || 12_345), 0);
}

#[test]
fn a_reservation_is_for_its_owner_its_token_and_its_time() {
    let mut pool = PortPool::new(&[HERE], 100..=103);
    let mut random = words(10);
    let even = pool.claim_pair(Family::V4, HERE, &mut random).expect("free");
    let odd = at(HERE, even.port() + 1);
    pool.reserve(odd, *b"12345678", owner("alice"), 30);
    assert_eq!(pool.counts(), Counts { free: 2, claimed: 1, reserved: 1, set_aside: 0 });
    assert_eq!(pool.next_deadline_ns(), Some(30));

    assert_eq!(pool.take(*b"12345679", b"alice", 0), None, "another token");
    assert_eq!(pool.take(*b"12345678", b"bob", 0), None, "another owner");
    assert_eq!(pool.take(*b"12345678", b"", 0), None, "no owner");
    assert_eq!(pool.take(*b"12345678", b"alice", 30), None, "too late");
    assert_eq!(pool.take(*b"12345678", b"alice", 29), Some(odd));
    assert_eq!(pool.take(*b"12345678", b"alice", 29), None, "a second time");
    assert_eq!(pool.counts(), Counts { free: 2, claimed: 2, reserved: 0, set_aside: 0 });
    assert_eq!((pool.next_deadline_ns(), pool.expire(u64::MAX)), (None, None));

    pool.release(even);
    pool.release(odd);
    assert_eq!(pool.counts(), Counts { free: 4, ..Counts::default() });
}

//= rfc8656#section-7.2
//= type=test
//# The
//# server MUST hold this reservation for at least 30 seconds and MAY
//# choose to hold longer (e.g., until the allocation with port N
//# expires).
#[test]
fn a_reservation_lives_until_its_deadline_and_then_comes_back_once() {
    let mut pool = PortPool::new(&[HERE, HERE_V6], 100..=103);
    let mut random = words(11);
    let mut reserve = |family, token, until_ns| {
        let even = pool.claim_pair(family, HERE, &mut random).expect("free");
        let odd = at(even.ip(), even.port() + 1);
        pool.reserve(odd, token, owner("alice"), until_ns);
        odd
    };
    let late = reserve(Family::V6, [1; 8], 31_000_000_000);
    let early = reserve(Family::V4, [2; 8], 30_000_000_000);
    assert_eq!(pool.expire(29_999_999_999), None);
    assert_eq!(pool.expire(30_000_000_000), Some(early));
    assert_eq!(pool.expire(30_000_000_000), None);
    assert_eq!(pool.take([2; 8], b"alice", 0), None, "released");
    assert_eq!(pool.expire(u64::MAX), Some(late));
    assert_eq!(pool.expire(u64::MAX), None);
    assert_eq!(pool.counts(), Counts { free: 6, claimed: 2, reserved: 0, set_aside: 0 });
}

#[test]
fn ports_of_other_programs_are_left_alone_for_a_while() {
    let mut pool = PortPool::new(&[HERE], 100..=101);
    let mut random = words(12);
    let taken = pool.claim(Family::V4, HERE, Parity::Even, &mut random).expect("free");
    pool.set_aside(taken, 50);
    assert_eq!(pool.claim(Family::V4, HERE, Parity::Even, &mut random), None);
    assert_eq!(pool.claim_pair(Family::V4, HERE, &mut random), None);
    assert_eq!(pool.counts(), Counts { free: 1, claimed: 0, reserved: 0, set_aside: 1 });
    assert_eq!((pool.expire(49), pool.counts().set_aside), (None, 1));
    assert_eq!((pool.expire(50), pool.counts().free), (None, 2));
    assert_eq!(pool.claim_pair(Family::V4, HERE, &mut random), Some(taken));
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "is not a claimed port"))]
fn releasing_what_is_not_claimed_changes_nothing() {
    let mut pool = PortPool::new(&[HERE], 100..=101);
    let before = pool.counts();
    pool.release(at(HERE, 100));
    assert_eq!(pool.counts(), before);
}

#[test]
fn a_range_that_holds_nothing_is_an_empty_pool() {
    #[expect(clippy::reversed_empty_ranges, reason = "what a broken config would say")]
    let mut pool = PortPool::new(&[HERE], 10..=5);
    let mut random = words(13);
    assert_eq!(pool.claim(Family::V4, HERE, Parity::Any, &mut random), None);
    assert_eq!(pool.counts(), Counts::default());
    let mut nowhere = PortPool::new(&[], 1..=5);
    assert_eq!(nowhere.claim(Family::V4, HERE, Parity::Any, &mut random), None);
}

#[test]
fn memory_stays_where_it_was() {
    let mut pool = PortPool::new(&[HERE], 49_152..=65_535);
    let mut random = words(14);
    let capacity = |pool: &PortPool| {
        let ports = &pool.addresses[0];
        ports.free.members.capacity() + ports.even.members.capacity() + ports.state.capacity()
    };
    let before = capacity(&pool);
    for round in 0_u64..20 {
        let mut held = 0_u64;
        while let Some(even) = pool.claim_pair(Family::V4, HERE, &mut random) {
            let token = (round << 32 | held).to_be_bytes();
            pool.reserve(at(HERE, even.port() + 1), token, owner("alice"), round);
            pool.set_aside(even, round);
            held += 1;
        }
        assert_eq!(held, 8_192);
        while pool.expire(round).is_some() {}
        assert_eq!(pool.counts().free, 16_384);
    }
    assert_eq!(capacity(&pool), before);
    assert_eq!(pool.next_deadline_ns(), None);
    assert!(pool.reservations.capacity() < 64, "{}", pool.reservations.capacity());
}

/// The reference: what a pool must do, as plain sets, with no thought for speed.
#[derive(Default)]
struct Model {
    free: BTreeSet<SocketAddr>,
    claimed: BTreeSet<SocketAddr>,
    reserved: BTreeMap<[u8; 8], (SocketAddr, u8, u64)>,
    set_aside: BTreeMap<SocketAddr, u64>,
}

impl Model {
    fn fits(&self, port: SocketAddr, family: Family, parity: Parity) -> bool {
        family_of(port.ip()) == family && (parity == Parity::Any || port.port().is_multiple_of(2))
    }

    fn candidates(&self, family: Family, parity: Parity) -> BTreeSet<SocketAddr> {
        self.free.iter().copied().filter(|&port| self.fits(port, family, parity)).collect()
    }

    fn pairs(&self, family: Family) -> BTreeSet<SocketAddr> {
        let both = |port: &SocketAddr| {
            port.port() < u16::MAX && self.free.contains(&at(port.ip(), port.port() + 1))
        };
        self.candidates(family, Parity::Even).into_iter().filter(both).collect()
    }

    fn next_deadline(&self) -> Option<u64> {
        let reserved = self.reserved.values().map(|held| held.2);
        reserved.chain(self.set_aside.values().copied()).min()
    }

    fn counts(&self) -> Counts {
        Counts {
            free: self.free.len(),
            claimed: self.claimed.len(),
            reserved: self.reserved.len(),
            set_aside: self.set_aside.len(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Claim(Family, u8, Parity),
    Pair(Family, u8),
    Release(prop::sample::Index),
    SetAside(prop::sample::Index, u64),
    Reserve(prop::sample::Index, u8, u64),
    Take(prop::sample::Index, u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let family = || prop::sample::select(vec![Family::V4, Family::V6]);
    let parity = prop::sample::select(vec![Parity::Any, Parity::Even]);
    let index = any::<prop::sample::Index>;
    prop::collection::vec(
        prop_oneof![
            6 => (family(), 0_u8..4, parity).prop_map(|(f, near, p)| Step::Claim(f, near, p)),
            4 => (family(), 0_u8..4).prop_map(|(f, near)| Step::Pair(f, near)),
            5 => index().prop_map(Step::Release),
            1 => (index(), 0_u64..20).prop_map(|(i, after)| Step::SetAside(i, after)),
            3 => (index(), 0_u8..3, 0_u64..20).prop_map(|(i, o, after)| Step::Reserve(i, o, after)),
            3 => (index(), 0_u8..3).prop_map(|(i, o)| Step::Take(i, o)),
            2 => (0_u64..10).prop_map(Step::Wait),
        ],
        0..250,
    )
}

/// A pool and the reference, driven side by side.
struct Pair<R> {
    pool: PortPool,
    model: Model,
    random: R,
    now_ns: u64,
    tokens: u64,
}

impl<R: FnMut() -> u32> Pair<R> {
    fn step(&mut self, step: Step) {
        let near = [HERE, ALSO_HERE, HERE_V6, ELSEWHERE];
        match step {
            Step::Claim(family, n, parity) => self.claim(family, near[n as usize], parity),
            Step::Pair(family, n) => self.claim_pair(family, near[n as usize]),
            Step::Release(index) => {
                if let Some(port) = self.any_claimed(&index) {
                    self.pool.release(port);
                    self.model.free.insert(port);
                }
            }
            Step::SetAside(index, after) => {
                if let Some(port) = self.any_claimed(&index) {
                    self.pool.set_aside(port, self.now_ns + after);
                    self.model.set_aside.insert(port, self.now_ns + after);
                }
            }
            Step::Reserve(index, user, after) => {
                if let Some(port) = self.any_claimed(&index) {
                    self.tokens += 1;
                    let token = self.tokens.to_be_bytes();
                    let until = self.now_ns + after;
                    self.pool.reserve(port, token, Arc::from([user].as_slice()), until);
                    self.model.reserved.insert(token, (port, user, until));
                }
            }
            Step::Take(index, user) => self.take(index.index(self.tokens as usize + 1), user),
            Step::Wait(nanoseconds) => self.wait(nanoseconds),
        }
        assert_eq!(self.pool.counts(), self.model.counts());
        assert_eq!(self.pool.next_deadline_ns(), self.model.next_deadline());
    }

    /// Takes some claimed port out of the model's set.
    fn any_claimed(&mut self, index: &prop::sample::Index) -> Option<SocketAddr> {
        let claimed: Vec<SocketAddr> = self.model.claimed.iter().copied().collect();
        if claimed.is_empty() {
            return None;
        }
        let port = *index.get(&claimed);
        self.model.claimed.remove(&port);
        Some(port)
    }

    fn claim(&mut self, family: Family, near: IpAddr, parity: Parity) {
        let candidates = self.model.candidates(family, parity);
        match self.pool.claim(family, near, parity, &mut self.random) {
            None => assert!(candidates.is_empty(), "free ports, but none given: {candidates:?}"),
            Some(port) => {
                assert!(candidates.contains(&port));
                assert!(port.ip() == near || candidates.iter().all(|other| other.ip() != near));
                self.model.free.remove(&port);
                self.model.claimed.insert(port);
            }
        }
    }

    fn claim_pair(&mut self, family: Family, near: IpAddr) {
        let candidates = self.model.pairs(family);
        match self.pool.claim_pair(family, near, &mut self.random) {
            None => assert!(candidates.is_empty(), "free pairs, but none given: {candidates:?}"),
            Some(even) => {
                assert!(candidates.contains(&even));
                assert!(even.ip() == near || candidates.iter().all(|other| other.ip() != near));
                for port in [even, at(even.ip(), even.port() + 1)] {
                    self.model.free.remove(&port);
                    self.model.claimed.insert(port);
                }
            }
        }
    }

    fn take(&mut self, token: usize, user: u8) {
        let token = (token as u64).to_be_bytes();
        let expected = self.model.reserved.get(&token).copied();
        let expected = expected.filter(|held| held.1 == user && held.2 > self.now_ns);
        let taken = self.pool.take(token, &[user], self.now_ns);
        assert_eq!(taken, expected.map(|held| held.0));
        if let Some(port) = taken {
            self.model.reserved.remove(&token);
            self.model.claimed.insert(port);
        }
    }

    fn wait(&mut self, nanoseconds: u64) {
        self.now_ns += nanoseconds;
        let now_ns = self.now_ns;
        let mut expired = BTreeSet::new();
        while let Some(port) = self.pool.expire(now_ns) {
            assert!(expired.insert(port), "{port} expired twice");
        }
        let due: Vec<_> = self
            .model
            .reserved
            .extract_if(.., |_, held| held.2 <= now_ns)
            .map(|(_, h)| h.0)
            .collect();
        assert_eq!(expired, due.iter().copied().collect());
        let back = self.model.set_aside.extract_if(.., |_, until| *until <= now_ns);
        self.model.free.extend(due.into_iter().chain(back.map(|(port, _)| port)));
    }
}

proptest! {
    #[test]
    fn behaves_as_plain_sets(
        first in 49_151_u16..49_155,
        width in 0_u16..12,
        seed in any::<u64>(),
        steps in steps(),
    ) {
        let addresses = [HERE, ALSO_HERE, HERE_V6];
        let ports = first..=first + width;
        let free = addresses.iter().flat_map(|&ip| ports.clone().map(move |port| at(ip, port)));
        let mut pair = Pair {
            model: Model { free: free.collect(), ..Model::default() },
            pool: PortPool::new(&addresses, ports),
            random: words(seed),
            now_ns: 0,
            tokens: 0,
        };
        let capacity = pair.pool.counts().free;
        prop_assert_eq!(
            capacity,
            pair.pool.capacity(Family::V4) + pair.pool.capacity(Family::V6)
        );
        for step in steps {
            pair.step(step);
        }
        // Everything comes back, and all of it can be used once more.
        pair.wait(1_000);
        for port in core::mem::take(&mut pair.model.claimed) {
            pair.pool.release(port);
            pair.model.free.insert(port);
        }
        prop_assert_eq!(pair.pool.counts(), Counts { free: capacity, ..Counts::default() });
        for family in [Family::V4, Family::V6] {
            while pair.pool.claim(family, ELSEWHERE, Parity::Any, &mut pair.random).is_some() {}
        }
        prop_assert_eq!(pair.pool.counts(), Counts { claimed: capacity, ..Counts::default() });
    }
}
