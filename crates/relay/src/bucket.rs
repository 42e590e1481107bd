//! Token buckets. What a rate brings is exact over any time: the fraction of a byte that a short
//! time brings is kept for the next.

#[cfg(test)]
mod tests;

use crate::address::NANOS_PER_SECOND;
use crate::quota::Bandwidth;

/// What a rate has brought since it was last asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    at_ns: u64,
    /// Billionths of a byte.
    fraction: u64,
}

impl Flow {
    pub(crate) fn starting(now_ns: u64) -> Self {
        Self { at_ns: now_ns, fraction: 0 }
    }

    /// The whole bytes of the time until `now_ns`, and no more than `most`. A clock that goes
    /// back brings nothing until it has caught up.
    pub(crate) fn advance(&mut self, bytes_per_second: u64, now_ns: u64, most: u64) -> u64 {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = self.at_ns.max(now_ns);
        let brought = u128::from(elapsed_ns) * u128::from(bytes_per_second);
        let brought = brought + u128::from(self.fraction);
        let per_byte = u128::from(NANOS_PER_SECOND);
        if brought / per_byte >= u128::from(most) {
            self.fraction = 0;
            return most;
        }
        self.fraction = (brought % per_byte) as u64;
        (brought / per_byte) as u64
    }
}

/// A limit that one allocation has for itself, in one direction.
///
/// It is brought up to date with every datagram: time that passed while it was full must not count
/// once it is not. Counted in billionths of a byte, no division is needed for that; bursts beyond
/// 18 GB are cut to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    billionths: u64,
    at_ns: u64,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(limit: &Bandwidth, now_ns: u64) -> Self {
        Self { billionths: billionths(limit.burst_bytes), at_ns: now_ns }
    }

    /// An empty one.
    pub(crate) fn empty(now_ns: u64) -> Self {
        Self { billionths: 0, at_ns: now_ns }
    }

    /// Whether `len` bytes may pass now. A clock that goes back brings nothing until it has
    /// caught up.
    pub(crate) fn has(&mut self, limit: &Bandwidth, len: u64, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = self.at_ns.max(now_ns);
        let brought = elapsed_ns.saturating_mul(limit.bytes_per_second);
        let all = self.billionths.saturating_add(brought);
        self.billionths = all.min(billionths(limit.burst_bytes));
        self.billionths >= billionths(len)
    }

    /// Takes back what was allowed and then not needed.
    pub(crate) fn put_back(&mut self, limit: &Bandwidth, len: u64) {
        let all = self.billionths.saturating_add(billionths(len));
        self.billionths = all.min(billionths(limit.burst_bytes));
    }

    /// Lets pass what [`Self::has`] allowed.
    pub(crate) fn take(&mut self, len: u64) {
        self.billionths = self.billionths.saturating_sub(billionths(len));
    }
}

fn billionths(bytes: u64) -> u64 {
    bytes.saturating_mul(NANOS_PER_SECOND)
}
