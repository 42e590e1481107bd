//! Token buckets in whole bytes. What a rate brings is exact over any time: the fraction of a
//! byte that a short time brings is kept for the next.

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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    bytes: u64,
    flow: Flow,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(limit: &Bandwidth, now_ns: u64) -> Self {
        Self { bytes: limit.burst_bytes, flow: Flow::starting(now_ns) }
    }

    /// An empty one.
    pub(crate) fn empty(now_ns: u64) -> Self {
        Self { bytes: 0, flow: Flow::starting(now_ns) }
    }

    /// Whether `len` bytes may pass now. Time is only looked at when what is left does not do.
    pub(crate) fn has(&mut self, limit: &Bandwidth, len: u64, now_ns: u64) -> bool {
        if self.bytes >= len && self.bytes <= limit.burst_bytes {
            return true;
        }
        self.bytes = self.bytes.min(limit.burst_bytes);
        let room = limit.burst_bytes - self.bytes;
        self.bytes += self.flow.advance(limit.bytes_per_second, now_ns, room);
        self.bytes >= len
    }

    /// Lets pass what [`Self::has`] allowed.
    pub(crate) fn take(&mut self, len: u64) {
        self.bytes = self.bytes.saturating_sub(len);
    }
}
