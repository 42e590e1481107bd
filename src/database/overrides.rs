//! The limits of one user, where they are others than everybody's.

use turnway_relay::quota::{Bandwidth, MIN_BURST_BYTES, UserLimits};

/// How one limit of a user stands to the configured one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Override<T> {
    /// As configured.
    #[default]
    Inherit,
    /// None, whatever is configured.
    Unlimited,
    /// This one, whatever is configured.
    Limit(T),
}

impl<T: Copy> Override<T> {
    /// The limit where `base` is configured; `None`: as much as there is.
    pub fn over(self, base: Option<T>) -> Option<T> {
        match self {
            Self::Inherit => base,
            Self::Unlimited => None,
            Self::Limit(limit) => Some(limit),
        }
    }

    fn limit(self) -> Option<T> {
        match self {
            Self::Limit(limit) => Some(limit),
            Self::Inherit | Self::Unlimited => None,
        }
    }
}

/// What differs for one user. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Allocations at a time; at least 1.
    pub allocations: Override<u32>,
    /// All allocations together, each direction, in payload bytes per second; at least 1.
    pub bandwidth: Override<u64>,
    /// What may pass at once, in bytes. A burst always has an end; `None`: as configured for the
    /// same rate, else the rate's default.
    pub burst: Option<u64>,
    /// Each allocation alone, as `bandwidth`.
    pub allocation_bandwidth: Override<u64>,
    /// As `burst`.
    pub allocation_burst: Option<u64>,
    /// Payload bytes of both directions in a day.
    pub volume_day: Override<u64>,
    /// Payload bytes of both directions in a calendar month.
    pub volume_month: Override<u64>,
}

impl Overrides {
    /// The limits of the user where `base` is configured for everybody.
    ///
    /// One allocation never gets more than the user: a narrower bandwidth narrows what is
    /// configured for each allocation.
    pub fn over(&self, base: &UserLimits) -> UserLimits {
        let bandwidth = rate(self.bandwidth, self.burst, base.bandwidth);
        let alone = self.alone(base);
        UserLimits {
            allocations: self.allocations.over(base.allocations),
            bandwidth,
            bandwidth_per_allocation: match (alone, bandwidth) {
                (Some(alone), Some(all)) if alone.bytes_per_second > all.bytes_per_second => {
                    Some(Bandwidth {
                        bytes_per_second: all.bytes_per_second,
                        burst_bytes: alone.burst_bytes.min(all.burst_bytes),
                    })
                }
                (alone, _) => alone,
            },
            volume_per_day: self.volume_day.over(base.volume_per_day),
            volume_per_month: self.volume_month.over(base.volume_per_month),
        }
    }

    /// Why nobody can mean these limits where `base` is configured for everybody, and what to do.
    /// `None`: they can be used.
    pub fn contradiction(&self, base: &UserLimits) -> Option<String> {
        let limits = self.over(base);
        let bursts =
            [("burst", self.burst), ("allocation-burst", self.allocation_burst)].into_iter();
        let too_small = bursts
            .filter_map(|(name, burst)| Some((name, burst?)))
            .find(|it| it.1 < MIN_BURST_BYTES);
        if self.allocations == Override::Limit(0) {
            return Some(
                "--allocations 0 would keep the user out, which `turnway user remove` does; write \
                 at least 1"
                    .into(),
            );
        }
        if let Some((name, burst)) = too_small {
            return Some(format!(
                "--{name} {burst} B would never let a usual datagram pass; write at least \
                 \"{MIN_BURST_BYTES} B\""
            ));
        }
        if self.burst.is_some() && limits.bandwidth.is_none() {
            return Some(without_rate("burst", "bandwidth"));
        }
        if self.allocation_burst.is_some() && limits.bandwidth_per_allocation.is_none() {
            return Some(without_rate("allocation-burst", "allocation-bandwidth"));
        }
        let all = limits.bandwidth.map(|all| all.bytes_per_second);
        if above(self.allocation_bandwidth.limit(), all) {
            return Some(
                "one allocation would get more than all of the user's together; raise \
                 --bandwidth or lower --allocation-bandwidth"
                    .into(),
            );
        }
        if above(self.allocation_burst, limits.bandwidth.map(|all| all.burst_bytes)) {
            return Some(
                "one allocation would have a larger burst than all of the user's together; raise \
                 --burst or lower --allocation-burst"
                    .into(),
            );
        }
        if above(self.volume_day.limit(), limits.volume_per_month) {
            return Some(
                "a day would have more volume than its month; raise --volume-per-month or lower \
                 --volume-per-day"
                    .into(),
            );
        }
        None
    }

    /// What each allocation may use if the user's other allocations are quiet.
    fn alone(&self, base: &UserLimits) -> Option<Bandwidth> {
        rate(self.allocation_bandwidth, self.allocation_burst, base.bandwidth_per_allocation)
    }
}

fn rate(
    bytes_per_second: Override<u64>,
    burst: Option<u64>,
    base: Option<Bandwidth>,
) -> Option<Bandwidth> {
    let bytes_per_second = bytes_per_second.over(base.map(|base| base.bytes_per_second))?;
    // A burst is made for its rate.
    let same = base.filter(|base| base.bytes_per_second == bytes_per_second);
    let usual = same.unwrap_or_else(|| Bandwidth::with_default_burst(bytes_per_second));
    Some(Bandwidth { bytes_per_second, burst_bytes: burst.unwrap_or(usual.burst_bytes) })
}

fn above(limit: Option<u64>, bound: Option<u64>) -> bool {
    limit.zip(bound).is_some_and(|(limit, bound)| limit > bound)
}

fn without_rate(burst: &str, bandwidth: &str) -> String {
    format!(
        "--{burst} without a limited bandwidth has no effect; add --{bandwidth}, or write \
             --{burst} default"
    )
}
