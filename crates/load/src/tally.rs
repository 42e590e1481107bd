//! What came of the datagrams of one allocation in one direction.

use serde::Serialize;

use crate::histogram::Histogram;

/// How far back a datagram that comes late can still be told from one that comes twice.
const WINDOW: u64 = 64;

/// What has come so far of one sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    /// The sequence number that comes next if all is in order.
    next: u64,
    /// Which of the last 64 have come, the latest in bit 0.
    seen: u64,
}

/// What an arrival is to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Later in the sequence than all others.
    InOrder,
    /// After one that was sent later.
    Late,
    /// It was here before.
    Again,
}

impl Arrivals {
    /// Takes in what has arrived.
    pub fn add(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            let ahead = sequence - self.next + 1;
            self.seen = if ahead < WINDOW { self.seen << ahead | 1 } else { 1 };
            self.next = sequence + 1;
            return Arrival::InOrder;
        }
        let back = self.next - 1 - sequence;
        if back >= WINDOW {
            return Arrival::Late;
        }
        let bit = 1 << back;
        if self.seen & bit != 0 {
            return Arrival::Again;
        }
        self.seen |= bit;
        Arrival::Late
    }
}

/// Datagrams of all allocations in one direction, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Taken by the kernel from the sender, within the measured time.
    pub sent: u64,
    /// Of these, received once and whole.
    pub received: u64,
    /// Of the sent ones, never seen again.
    pub lost: u64,
    /// Received once more.
    pub duplicated: u64,
    /// Received after one that was sent later.
    pub reordered: u64,
    /// Received otherwise than they were sent.
    pub corrupted: u64,
    /// Received whole by somebody they were not sent to, or from where they were not sent.
    pub misrouted: u64,
}

impl Counts {
    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.misrouted += other.misrouted;
    }

    /// Whether something arrived that should never arrive.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.corrupted == 0 && self.misrouted == 0
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// The usual ones.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let us = |ns: u64| ns as f64 / 1_000.0;
        Self {
            p50: us(histogram.quantile(0.5)),
            p99: us(histogram.quantile(0.99)),
            p999: us(histogram.quantile(0.999)),
            max: us(histogram.longest()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sequence: &[u64]) -> Vec<Arrival> {
        let mut arrivals = Arrivals::default();
        sequence.iter().map(|&number| arrivals.add(number)).collect()
    }

    #[test]
    fn order_gaps_repetitions_and_stragglers_are_told_apart() {
        use Arrival::{Again, InOrder, Late};
        assert_eq!(all(&[0, 1, 2]), [InOrder; 3]);
        assert_eq!(all(&[0, 5, 6]), [InOrder; 3], "a gap is no disorder");
        assert_eq!(all(&[0, 0, 1, 0]), [InOrder, Again, InOrder, Again]);
        assert_eq!(all(&[0, 2, 1, 1, 2]), [InOrder, InOrder, Late, Again, Again]);
        assert_eq!(all(&[63, 0, 0, 64, 0]), [InOrder, Late, Again, InOrder, Late]);
        assert_eq!(all(&[0, 64, 1, 1]), [InOrder, InOrder, Late, Again]);
        assert_eq!(all(&[0, 1_000, 999, 0]), [InOrder, InOrder, Late, Late]);
    }
}
