//! [`SourceLimiter`]: a token bucket per source address, in memory that never grows.
//!
//! A source is an IPv4 address or an IPv6 /64, the least that one party has for itself. Its bucket
//! is one atomic word in a table of sets of [`WAYS`] words: a 16-bit tag that tells the sources of
//! a set apart, and the time at which the bucket will be full again, from which the number of
//! tokens follows (the generic cell rate algorithm). Where a set is full, the source closest to a
//! full bucket is forgotten.
//!
//! What is guaranteed, however many sources there are:
//!
//! * memory is that of the table;
//! * a source that stays within rate and burst is served. To be forgotten only helps a source: it
//!   comes back with a full bucket. The exception is one in 65,535 of the sources that share a
//!   set, which has the same tag and thus the same bucket; the seed is secret and new with each
//!   process, so nobody can choose to be that one;
//! * a source that is remembered gets at most `burst + rate * t` in any time `t`, from however many
//!   threads. It is remembered at least until [`WAYS`] other sources of its set (a random share of
//!   1 / (slots / [`WAYS`]) of all sources) have emptier buckets than it has. The limiter alone
//!   does not bound the sum over very many sources.

use core::hash::BuildHasher;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::FixedState;

use crate::address::{NANOS_PER_SECOND, canonical_ip};

/// Slots that are searched for a source: one cache line.
const WAYS: usize = 8;

/// Bits of a slot for the time; the others are the tag.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// No rate is limited above this: times must not wrap around within years.
const MAX_RATE: u32 = 1 << 20;

/// One line of the table. Empty slots are 0.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// Limits how often each source address may do something.
#[derive(Debug)]
pub struct SourceLimiter {
    sets: Box<[Set]>,
    hash: FixedState,
    /// Units of time in a second: `rate` times `token`.
    units_per_s: u64,
    /// Units in which one token comes back.
    token: u64,
    /// Units in which an empty bucket becomes full.
    full: u64,
}

impl SourceLimiter {
    /// Every source may do `burst` things at once (at least one) and `rate_per_s` a second over
    /// time; a rate of 0 is no limit, and one above 2^20 counts as 2^20.
    ///
    /// `slots` of 8 bytes are used, rounded up to a power of two; `seed` is random and secret.
    pub fn new(slots: usize, rate_per_s: u32, burst: u32, seed: u64) -> Self {
        let rate = rate_per_s.min(MAX_RATE);
        let burst = u64::from(burst.max(1));
        // The finest unit with which a bucket and many years fit in half the circle of times: 2^47
        // units are 17 years at 2^18 a second.
        let fits = |shift: &u32| u64::from(rate) << shift <= 1 << 18 && burst << shift <= 1 << 46;
        let shift = (1..=18).rev().find(fits).unwrap_or(0);
        let sets = if rate == 0 { 0 } else { slots.div_ceil(WAYS).next_power_of_two() };
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            hash: FixedState::with_seed(seed),
            units_per_s: u64::from(rate) << shift,
            token: 1 << shift,
            full: burst << shift,
        }
    }

    /// Whether `source` may do it once more at `mono_ns`. If so, it has.
    pub fn allow(&self, source: IpAddr, mono_ns: u64) -> bool {
        if self.sets.is_empty() {
            return true;
        }
        let (set, tag) = self.find(source);
        let now = Instants::at(mono_ns, self.units_per_s);
        loop {
            let (slot, seen) = choose(set, tag, now);
            let Some(full_at) = self.spend(seen, tag, now) else {
                return false;
            };
            let after = tag << TIME_BITS | full_at & TIME_MASK;
            // Another thread was faster: what it did counts, so look again. Each failure here is
            // a success there.
            if slot.compare_exchange(seen, after, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// When the bucket of `tag` will be full if it gives a token away now; `None` if it has none.
    ///
    /// Times are rounded so that no source ever gets more than `burst + rate * t`: up where a
    /// bucket starts to fill, down where it is asked what is in it.
    fn spend(&self, seen: u64, tag: u64, now: Instants) -> Option<u64> {
        let missing = if seen != 0 && seen >> TIME_BITS == tag { until(seen, now) } else { 0 };
        match u64::try_from(missing) {
            Err(_) | Ok(0) => Some(now.ceiling + self.token),
            Ok(missing) if missing + self.token <= self.full => Some(seen + self.token),
            Ok(_) => None,
        }
    }

    fn find(&self, source: IpAddr) -> (&Set, u64) {
        let hash = match canonical_ip(source) {
            IpAddr::V4(ip) => self.hash.hash_one((4_u8, u64::from(ip.to_bits()))),
            IpAddr::V6(ip) => self.hash.hash_one((6_u8, ip.to_bits() >> 64)),
        };
        // The lower bits choose the set, the upper ones are the tag; 0 marks an empty slot.
        let at = usize::try_from(hash & (self.sets.len() as u64 - 1)).expect("a set's index");
        (&self.sets[at], (hash >> TIME_BITS).max(1))
    }
}

/// A moment in units, rounded both ways.
#[derive(Clone, Copy)]
struct Instants {
    floor: u64,
    ceiling: u64,
}

impl Instants {
    /// Computed from the start of the clock each time, so that no error adds up.
    fn at(mono_ns: u64, units_per_s: u64) -> Self {
        let (seconds, rest) = (mono_ns / NANOS_PER_SECOND, mono_ns % NANOS_PER_SECOND);
        let whole = seconds.wrapping_mul(units_per_s);
        let part = rest * units_per_s;
        let nanoseconds = NANOS_PER_SECOND;
        Self {
            floor: whole.wrapping_add(part / nanoseconds),
            ceiling: whole.wrapping_add(part.div_ceil(nanoseconds)),
        }
    }
}

/// The source's slot and what is in it, or else the one it may have: an empty one, or that of the
/// source whose bucket is fullest.
fn choose(set: &Set, tag: u64, now: Instants) -> (&AtomicU64, u64) {
    let mut own: Option<(i64, (&AtomicU64, u64))> = None;
    let mut spare = (i64::MAX, (&set.0[0], 0));
    for slot in &set.0 {
        let seen = slot.load(Ordering::Relaxed);
        let missing = if seen == 0 { i64::MIN } else { until(seen, now) };
        if seen >> TIME_BITS == tag {
            // Threads that make room at once may write one source twice: the emptier of the two
            // buckets is the one that counts.
            if own.is_none_or(|(most, _)| missing > most) {
                own = Some((missing, (slot, seen)));
            }
        } else if missing < spare.0 {
            spare = (missing, (slot, seen));
        }
    }
    own.unwrap_or(spare).1
}

/// Units from now until the bucket in a slot is full, negative if that was in the past. Times are
/// on a circle of 2^48 units: the half ahead is the future, the half behind the past.
fn until(seen: u64, now: Instants) -> i64 {
    let ahead = seen.wrapping_sub(now.floor) & TIME_MASK;
    let to_top = u64::BITS - TIME_BITS;
    (ahead << to_top).cast_signed() >> to_top
}

#[cfg(test)]
mod tests;
