//! How often which latency: each power of two in 64 equal parts, so that a figure is at most
//! 1.6 % too large.

/// Parts of each power of two, as bits.
const PART_BITS: u32 = 6;
const PARTS: u64 = 1 << PART_BITS;

/// Nanoseconds that fit: 73 minutes; longer ones count as that.
const LONGEST: u64 = (1 << 42) - 1;

const BUCKETS: usize = bucket(LONGEST) + 1;

/// Counts of durations in nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    longest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = vec![0; BUCKETS].try_into().expect("it has this length");
        Self { counts, count: 0, longest: 0 }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn add(&mut self, nanoseconds: u64) {
        let nanoseconds = nanoseconds.min(LONGEST);
        self.counts[bucket(nanoseconds)] += 1;
        self.count += 1;
        self.longest = self.longest.max(nanoseconds);
    }

    /// Counts all that another one did.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// What a `share` of all (0 to 1) does not exceed; 0 where there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return end(index).min(self.longest);
            }
        }
        0
    }
}

const fn bucket(value: u64) -> usize {
    if value < PARTS {
        return value as usize;
    }
    let power = value.ilog2() - PART_BITS;
    (power as u64 * PARTS + (value >> power)) as usize
}

/// The largest value in a bucket.
const fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let power = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_ends_at_most_a_64th_above_it() {
        let values = (0..2_000).chain((0..42).map(|bit| 1 << bit)).chain([LONGEST, 123_456_789]);
        for value in values {
            let end = end(bucket(value));
            assert!(end >= value && end - value <= value / 64, "{value} ends at {end}");
            assert!(bucket(end) == bucket(value) && bucket(end + 1) == bucket(value) + 1);
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut state = 1_u64;
        let mut values: Vec<u64> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) >> (state % 30)
        })
        .take(50_000)
        .collect();
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        for (index, value) in values.iter().enumerate() {
            if index % 3 == 0 { one.add(*value) } else { other.add(*value) }
        }
        one.merge(&other);
        values.sort_unstable();
        for share in [0.0_f64, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[((50_000.0 * share).ceil() as usize).max(1) - 1];
            let told = one.quantile(share);
            assert!(told >= exact && told - exact <= exact / 64, "{share}: {told}, not {exact}");
        }
        assert_eq!((one.count(), one.longest()), (50_000, values[49_999]));
    }

    #[test]
    fn nothing_has_no_latency() {
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
