//! Limits as arguments and as text.

use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};
use turnway_relay::quota::{Bandwidth, UserLimits};

use crate::config::{BitRate, Count, Limit, Period, Size, Volume};
use crate::database::{Override, Overrides};
use crate::table::Table;

/// Which limits are to be others. "default" is as configured for everybody.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Allocations at a time: 10, unlimited or default
    #[arg(long, value_name = "N", value_parser = count)]
    allocations: Option<Override<u32>>,
    /// All allocations together, each direction: "10 Mbit/s", unlimited or default
    #[arg(long, value_name = "RATE", value_parser = rate)]
    bandwidth: Option<Override<u64>>,
    /// How much of it may pass at once after a pause: "1 MB" or default
    #[arg(long, value_name = "SIZE", value_parser = burst)]
    burst: Option<Burst>,
    /// Each allocation alone, each direction: "5 Mbit/s", unlimited or default
    #[arg(long, value_name = "RATE", value_parser = rate)]
    allocation_bandwidth: Option<Override<u64>>,
    /// How much of it may pass at once after a pause: "500 kB" or default
    #[arg(long, value_name = "SIZE", value_parser = burst)]
    allocation_burst: Option<Burst>,
    /// Both directions together in a day: "2 GB", unlimited or default
    #[arg(long, value_name = "VOLUME", value_parser = volume_per_day)]
    volume_per_day: Option<Override<u64>>,
    /// Both directions together in a calendar month: "50 GB", unlimited or default
    #[arg(long, value_name = "VOLUME", value_parser = volume_per_month)]
    volume_per_month: Option<Override<u64>>,
}

/// Bytes; `None`: as configured.
#[derive(Clone, Copy, Debug)]
struct Burst(Option<u64>);

impl LimitArgs {
    /// Whether nothing is to be changed.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            allocations,
            bandwidth,
            burst,
            allocation_bandwidth,
            allocation_burst,
            volume_per_day,
            volume_per_month,
        } = self;
        let rates = [bandwidth, allocation_bandwidth, volume_per_day, volume_per_month];
        allocations.is_none()
            && rates.iter().all(|limit| limit.is_none())
            && burst.is_none()
            && allocation_burst.is_none()
    }

    /// The limits after the change, or why they cannot be those of a user where `base` is
    /// configured for everybody.
    pub(super) fn change(
        &self,
        of_now: Overrides,
        base: Option<&UserLimits>,
    ) -> Result<Overrides, String> {
        let burst = |new: Option<Burst>, of_now| new.map_or(of_now, |Burst(bytes)| bytes);
        let changed = Overrides {
            allocations: self.allocations.unwrap_or(of_now.allocations),
            bandwidth: self.bandwidth.unwrap_or(of_now.bandwidth),
            burst: burst(self.burst, of_now.burst),
            allocation_bandwidth: self.allocation_bandwidth.unwrap_or(of_now.allocation_bandwidth),
            allocation_burst: burst(self.allocation_burst, of_now.allocation_burst),
            volume_day: self.volume_per_day.unwrap_or(of_now.volume_day),
            volume_month: self.volume_per_month.unwrap_or(of_now.volume_month),
        };
        match changed.contradiction(base.unwrap_or(&NOT_KNOWN)) {
            Some(why) => Err(why),
            None => Ok(changed),
        }
    }
}

/// Stands for a configuration that is not there to be contradicted.
const NOT_KNOWN: UserLimits = {
    let some = Bandwidth { bytes_per_second: u64::MAX, burst_bytes: u64::MAX };
    UserLimits {
        allocations: None,
        bandwidth: Some(some),
        bandwidth_per_allocation: Some(some),
        volume_per_day: None,
        volume_per_month: None,
    }
};

/// Reads "default", "unlimited" or a `T`.
fn limit<T, U>(text: &str, value: impl FnOnce(T) -> U) -> Result<Override<U>, String>
where
    T: FromStr<Err = String>,
{
    if text.trim() == "default" {
        return Ok(Override::Inherit);
    }
    Ok(match text.parse::<Limit<T>>()? {
        Limit::Unlimited => Override::Unlimited,
        Limit::To(limit) => Override::Limit(value(limit)),
    })
}

fn count(text: &str) -> Result<Override<u32>, String> {
    limit(text, |Count(count)| count)
}

fn rate(text: &str) -> Result<Override<u64>, String> {
    limit(text, |rate: BitRate| rate.bytes_per_second)
}

fn burst(text: &str) -> Result<Burst, String> {
    match limit(text, |Size(bytes)| bytes)? {
        Override::Inherit => Ok(Burst(None)),
        Override::Limit(bytes) => Ok(Burst(Some(bytes))),
        Override::Unlimited => Err("a burst without an end would be a bandwidth without a limit; \
                                    write a size such as \"1 MB\""
            .to_owned()),
    }
}

fn volume_per_day(text: &str) -> Result<Override<u64>, String> {
    volume(text, Period::Day)
}

fn volume_per_month(text: &str) -> Result<Override<u64>, String> {
    volume(text, Period::Month)
}

/// The option has said the period already; it may be said again.
fn volume(text: &str, period: Period) -> Result<Override<u64>, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("{text} has no unit; write for example \"{text} GB\""));
    }
    let whole = match text {
        "default" | "unlimited" => text.to_owned(),
        amount if !amount.contains('/') => format!("{amount}/{period}"),
        whole => whole.to_owned(),
    };
    match limit(&whole, |volume: Volume| (volume.bytes, volume.period))? {
        Override::Inherit => Ok(Override::Inherit),
        Override::Unlimited => Ok(Override::Unlimited),
        Override::Limit((bytes, found)) if found == period => Ok(Override::Limit(bytes)),
        Override::Limit((_, found)) => {
            Err(format!("\"{text}\" is for a {found}; use --volume-per-{found}"))
        }
    }
}

/// Warns of a bandwidth of the user's own that is more than all users together may use.
pub(super) fn above_shared(
    name: &str,
    overrides: &Overrides,
    shared: &[(&str, &str, u64)],
) -> Vec<String> {
    let Override::Limit(own) = overrides.bandwidth else { return Vec::new() };
    let above = shared.iter().filter(|(_, _, all)| own > *all);
    let warning = |(whose, key, all): &(&str, &str, u64)| {
        let (own, all) = (rate_in_words(own), rate_in_words(*all));
        format!(
            "the {own} of {name:?} are above the {all} of the whole {whose}, which hold all the \
             same; raise {key} or lower --bandwidth"
        )
    };
    above.map(warning).collect()
}

/// What is the user's own, in one line.
pub(super) fn in_short(overrides: &Overrides) -> String {
    let own = own(overrides).into_iter().zip(NAMES);
    let own = own.filter_map(|(limit, name)| Some(format!("{name} {}", limit?)));
    let own: Vec<String> = own.collect();
    if own.is_empty() { "-".to_owned() } else { own.join("; ") }
}

/// All limits of a user and where each comes from. Without `base` what is configured is not known.
pub(super) fn in_force(name: &str, overrides: &Overrides, base: Option<&UserLimits>) -> String {
    let in_force = base.map(|base| in_words(&overrides.over(base)));
    let mut table = Table::default();
    for (index, own) in own(overrides).into_iter().enumerate() {
        let whose = if own.is_some() { "own" } else { "as configured" };
        let limit = match &in_force {
            Some(in_force) => in_force[index].clone().unwrap_or_else(|| UNLIMITED.to_owned()),
            None => own.unwrap_or_default(),
        };
        table.row([format!("  {}", NAMES[index]), limit, whose.to_owned()]);
    }
    format!("Limits of {name:?}:\n{table}")
}

/// What [`own`] and [`in_words`] list.
const NAMES: [&str; 5] =
    ["allocations", "bandwidth", "bandwidth per allocation", "volume per day", "volume per month"];

const UNLIMITED: &str = "unlimited";

/// What is the user's own; `None`: as configured.
fn own(overrides: &Overrides) -> [Option<String>; 5] {
    fn limit<T>(limit: Override<T>, shown: impl FnOnce(T) -> String) -> Option<String> {
        match limit {
            Override::Inherit => None,
            Override::Unlimited => Some(UNLIMITED.to_owned()),
            Override::Limit(limit) => Some(shown(limit)),
        }
    }
    let bandwidth = |own, burst: Option<u64>| {
        let parts = [limit(own, rate_in_words), burst.map(burst_in_words)];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    };
    [
        limit(overrides.allocations, |count| count.to_string()),
        bandwidth(overrides.bandwidth, overrides.burst),
        bandwidth(overrides.allocation_bandwidth, overrides.allocation_burst),
        limit(overrides.volume_day, |bytes| Size(bytes).to_string()),
        limit(overrides.volume_month, |bytes| Size(bytes).to_string()),
    ]
}

/// `None`: as much as there is.
fn in_words(limits: &UserLimits) -> [Option<String>; 5] {
    let bandwidth = |it: Bandwidth| {
        format!("{}, {}", rate_in_words(it.bytes_per_second), burst_in_words(it.burst_bytes))
    };
    [
        limits.allocations.map(|count| count.to_string()),
        limits.bandwidth.map(bandwidth),
        limits.bandwidth_per_allocation.map(bandwidth),
        limits.volume_per_day.map(|bytes| Size(bytes).to_string()),
        limits.volume_per_month.map(|bytes| Size(bytes).to_string()),
    ]
}

fn rate_in_words(bytes_per_second: u64) -> String {
    BitRate { bytes_per_second }.to_string()
}

fn burst_in_words(bytes: u64) -> String {
    format!("burst {}", Size(bytes))
}

/// Limits of their own: null as configured, else "unlimited" or a number of allocations, bytes or
/// bytes per second.
pub(super) fn as_json(overrides: &Overrides) -> Value {
    fn value<T: Into<u64>>(limit: Override<T>) -> Value {
        match limit {
            Override::Inherit => Value::Null,
            Override::Unlimited => json!("unlimited"),
            Override::Limit(limit) => json!(limit.into()),
        }
    }
    json!({
        "allocations": value(overrides.allocations),
        "bandwidth": value(overrides.bandwidth),
        "burst": overrides.burst,
        "allocation_bandwidth": value(overrides.allocation_bandwidth),
        "allocation_burst": overrides.allocation_burst,
        "volume_per_day": value(overrides.volume_day),
        "volume_per_month": value(overrides.volume_month),
    })
}
