//! Amounts of traffic: rates such as `"10 Mbit/s"`, volumes such as `"50 GB/month"`, and
//! `"unlimited"`. A bit is an eighth of a byte, so a unit that does not say which is refused.

use std::fmt;
use std::str::FromStr;

use super::{Count, SIZES, from_text, show};

/// A rate of payload bytes, in bits or in bytes: `"10 Mbit/s"`, `"1.25 MB/s"`. What is less than
/// a byte is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate {
    /// 1 to 125,000,000,000: one Tbit/s.
    pub bytes_per_second: u64,
}

const MAX_RATE: u64 = 125_000_000_000;

/// Bits in each unit that a rate may have. It is shown in one of the first five.
const RATES: [(&str, u64); 18] = [
    ("Tbit/s", 1_000_000_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("B/s", 8),
    ("bit/s", 1),
    ("Tbps", 1_000_000_000_000),
    ("Gbps", 1_000_000_000),
    ("Mbps", 1_000_000),
    ("kbps", 1_000),
    ("bps", 1),
    ("GiB/s", 8 << 30),
    ("GB/s", 8_000_000_000),
    ("MiB/s", 8 << 20),
    ("MB/s", 8_000_000),
    ("KiB/s", 8 << 10),
    ("kB/s", 8_000),
    ("KB/s", 8_000),
];

impl FromStr for BitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(Decimal { number, billionths, unit }) = Decimal::read(text) else {
            return Err(format!(
                "\"{text}\" is not a rate; write for example \"10 Mbit/s\" or \"1.25 MB/s\""
            ));
        };
        if unit.is_empty() {
            return Err(format!("{text} has no unit; write for example \"{number} Mbit/s\""));
        }
        let bits = factor(&RATES, unit).ok_or_else(|| unknown_rate(text, number, unit))?;
        match scaled(billionths, bits, 8) {
            Some(0) => Err(format!(
                "\"{text}\" would let nothing through; write at least \"1 B/s\", or \"unlimited\" \
                 for no limit"
            )),
            Some(bytes_per_second @ 1..=MAX_RATE) => Ok(Self { bytes_per_second }),
            Some(_) | None => Err(format!("\"{text}\" is too much; the most is 1 Tbit/s")),
        }
    }
}

/// What to write instead of a rate whose unit is none.
fn unknown_rate(text: &str, number: &str, unit: &str) -> String {
    if factor(&RATES, &format!("{unit}/s")).is_some() {
        return format!("\"{text}\" is an amount, not a rate; write \"{number} {unit}/s\"");
    }
    if let Some(prefix) = bits_or_bytes(unit) {
        return format!(
            "\"{text}\" could mean bits or bytes, which differ by 8; write \"{number} \
             {prefix}bit/s\" or \"{number} {prefix}B/s\""
        );
    }
    let unknown = format!("\"{text}\" has the unknown unit \"{unit}\"");
    match RATES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((name, _)) => format!("{unknown}; write \"{number} {name}\""),
        None => format!(
            "{unknown}; write for example \"10 Mbit/s\" or \"1.25 MB/s\" (units: {})",
            names(&RATES)
        ),
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.bytes_per_second.saturating_mul(8), &RATES[..5], " ")
    }
}

from_text!(BitRate, "a rate in quotes, such as \"10 Mbit/s\"");

/// Payload bytes of both directions in a day or a calendar month: `"50 GB/month"`. What is less
/// than a byte is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// 1 to 10^18.
    pub bytes: u64,
    /// How long until they may be used again.
    pub period: Period,
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the last day of a month.
    Month,
}

/// A database keeps it as a signed number, and sums must not get near the end of that.
const MAX_VOLUME: u64 = 1_000_000_000_000_000_000;

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (amount, period) = match text.split_once('/') {
            Some((amount, period)) => (amount, Some(period.trim())),
            None => (text, None),
        };
        let Some(Decimal { number, billionths, unit }) = Decimal::read(amount) else {
            return Err(format!(
                "\"{text}\" is not a volume; write for example \"50 GB/month\" or \"2 GB/day\""
            ));
        };
        if unit.is_empty() {
            return Err(format!("{text} has no unit; write for example \"{number} GB/month\""));
        }
        let factor = factor(&SIZES, unit).ok_or_else(|| unknown_volume(text, number, unit))?;
        let period = match period {
            Some("day") => Period::Day,
            Some("month") => Period::Month,
            Some(other) => {
                return Err(format!(
                    "\"{text}\" has the unknown period \"{other}\"; write \"{number} {unit}/day\" \
                     or \"{number} {unit}/month\""
                ));
            }
            None => {
                return Err(format!(
                    "\"{text}\" does not say for how long; write \"{number} {unit}/day\" or \
                     \"{number} {unit}/month\""
                ));
            }
        };
        match scaled(billionths, factor, 1) {
            Some(0) => Err(format!(
                "\"{text}\" would let nothing through; write at least \"1 B/{period}\", or \
                 \"unlimited\" for no limit"
            )),
            Some(bytes @ 1..=MAX_VOLUME) => Ok(Self { bytes, period }),
            Some(_) | None => {
                Err(format!("\"{text}\" is too much; the most is 1000000 TB/{period}"))
            }
        }
    }
}

/// What to write instead of a volume whose unit is none.
fn unknown_volume(text: &str, number: &str, unit: &str) -> String {
    if let Some(prefix) = bits_or_bytes(unit) {
        return format!(
            "\"{text}\" could mean bits or bytes; volumes are in bytes: write \"{number} \
             {prefix}B/month\""
        );
    }
    format!(
        "\"{text}\" has the unknown unit \"{unit}\"; write for example \"50 GB/month\" (units: {})",
        names(&SIZES)
    )
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.bytes, &SIZES, " ")?;
        write!(f, "/{}", self.period)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "day",
            Self::Month => "month",
        })
    }
}

from_text!(Volume, "a volume in quotes, such as \"50 GB/month\"");

/// A limit, or `"unlimited"`, which lifts what would hold otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit<T> {
    /// As much as there is.
    Unlimited,
    /// Not more than this.
    To(T),
}

impl<T> Limit<T> {
    /// The limit, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Unlimited => None,
            Self::To(value) => Some(value),
        }
    }
}

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.trim() == "unlimited" { Ok(Self::Unlimited) } else { text.parse().map(Self::To) }
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::To(value) => value.fmt(f),
        }
    }
}

from_text!(Limit<Count>, "a whole number, or \"unlimited\" in quotes");
from_text!(Limit<BitRate>, "a rate in quotes, such as \"10 Mbit/s\"");

/// `"1.5 Mbit/s"` taken apart.
struct Decimal<'a> {
    /// `1.5`
    number: &'a str,
    /// 1,500,000,000
    billionths: u128,
    /// `Mbit/s`
    unit: &'a str,
}

impl<'a> Decimal<'a> {
    /// At most nine digits may follow the point.
    fn read(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction),
            None => (number, ""),
        };
        if fraction.len() > 9 {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
        let billionths = u128::from(whole) * 1_000_000_000 + u128::from(fraction);
        Some(Self { number, billionths, unit: unit.trim() })
    }
}

/// The whole part of `billionths * factor / divisor`; `None` if it is too large.
fn scaled(billionths: u128, factor: u64, divisor: u64) -> Option<u64> {
    let scaled = billionths.checked_mul(u128::from(factor))?;
    u64::try_from(scaled / (1_000_000_000 * u128::from(divisor))).ok()
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// The prefix of a unit such as `Mb/s` or `MBps`, which some write for bits and some for bytes.
fn bits_or_bytes(unit: &str) -> Option<&'static str> {
    let unit = unit.to_ascii_lowercase();
    let amount = unit.strip_suffix("/s").or(unit.strip_suffix("ps")).unwrap_or(&unit);
    match amount {
        "b" => Some(""),
        "kb" => Some("k"),
        "mb" => Some("M"),
        "gb" => Some("G"),
        "tb" => Some("T"),
        _ => None,
    }
}

fn names(units: &[(&str, u64)]) -> String {
    units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate_error(text: &str) -> String {
        text.parse::<BitRate>().expect_err(text)
    }

    fn volume_error(text: &str) -> String {
        text.parse::<Volume>().expect_err(text)
    }

    #[test]
    fn rates_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("10 Mbit/s", 1_250_000, "10 Mbit/s"),
            ("10Mbit/s", 1_250_000, "10 Mbit/s"),
            ("10 Mbps", 1_250_000, "10 Mbit/s"),
            ("500 kbit/s", 62_500, "500 kbit/s"),
            ("1 Gbit/s", 125_000_000, "1 Gbit/s"),
            ("1.5 Mbit/s", 187_500, "1500 kbit/s"),
            ("1 MB/s", 1_000_000, "8 Mbit/s"),
            ("250 kB/s", 250_000, "2 Mbit/s"),
            ("125000 B/s", 125_000, "1 Mbit/s"),
            ("1 MiB/s", 1 << 20, "1048576 B/s"),
            ("8 bit/s", 1, "1 B/s"),
            ("15 bit/s", 1, "1 B/s"),
            ("0.000000001 GB/s", 1, "1 B/s"),
            ("1 Tbit/s", 125_000_000_000, "1 Tbit/s"),
        ] {
            let rate: BitRate = text.parse().expect(text);
            assert_eq!(rate.bytes_per_second, bytes, "{text}");
            assert_eq!(rate.to_string(), shown);
        }
    }

    #[test]
    fn a_rate_says_what_it_counts() {
        assert_eq!(rate_error("10"), "10 has no unit; write for example \"10 Mbit/s\"");
        assert!(rate_error("1.5").contains("\"1.5 Mbit/s\""));
        for (text, advice) in [
            ("10 Mbit", "is an amount, not a rate; write \"10 Mbit/s\""),
            ("10 MB", "is an amount, not a rate; write \"10 MB/s\""),
            ("10 mbit/s", "write \"10 Mbit/s\""),
            ("10 Mbit/sec", "unknown unit \"Mbit/sec\"; write for example \"10 Mbit/s\""),
            ("10 MB/day", "unknown unit \"MB/day\""),
            ("1,5 Mbit/s", "unknown unit"),
            ("0 Mbit/s", "would let nothing through; write at least \"1 B/s\""),
            ("7 bit/s", "would let nothing through"),
            ("1.001 Tbit/s", "too much; the most is 1 Tbit/s"),
            ("18446744073709551615 GiB/s", "too much"),
            ("18446744073709551616 B/s", "is not a rate"),
            ("-5 Mbit/s", "is not a rate"),
            ("1. Mbit/s", "is not a rate"),
            (".5 Mbit/s", "is not a rate"),
            ("1.2.3 Mbit/s", "is not a rate"),
            ("1.0000000001 Mbit/s", "is not a rate"),
            ("", "is not a rate"),
        ] {
            let error = rate_error(text);
            assert!(error.contains(advice), "{advice:?} is not in: {error}");
        }
    }

    #[test]
    fn a_unit_that_could_be_bits_or_bytes_is_refused() {
        for unit in ["Mb/s", "mb/s", "MBps", "Mb"] {
            let error = rate_error(&format!("10 {unit}"));
            assert!(error.contains("could mean bits or bytes, which differ by 8"), "{error}");
            assert!(error.contains("\"10 Mbit/s\" or \"10 MB/s\""), "{error}");
        }
        assert!(rate_error("9 kb/s").contains("\"9 kbit/s\" or \"9 kB/s\""));
        assert!(rate_error("9 b/s").contains("\"9 bit/s\" or \"9 B/s\""));
        let volume = volume_error("50 Gb/month");
        assert!(volume.contains("are in bytes: write \"50 GB/month\""), "{volume}");
    }

    #[test]
    fn volumes_are_read_and_shown() {
        for (text, bytes, period, shown) in [
            ("50 GB/month", 50_000_000_000, Period::Month, "50 GB/month"),
            ("2GB/day", 2_000_000_000, Period::Day, "2 GB/day"),
            ("1.5 TB / month", 1_500_000_000_000, Period::Month, "1500 GB/month"),
            ("1 TiB/month", 1 << 40, Period::Month, "1 TiB/month"),
            ("3 B/day", 3, Period::Day, "3 B/day"),
        ] {
            let volume: Volume = text.parse().expect(text);
            assert_eq!(volume, Volume { bytes, period }, "{text}");
            assert_eq!(volume.to_string(), shown);
        }
    }

    #[test]
    fn a_volume_says_what_it_counts_and_for_how_long() {
        assert_eq!(volume_error("50"), "50 has no unit; write for example \"50 GB/month\"");
        for (text, advice) in [
            ("50/month", "has no unit; write for example \"50 GB/month\""),
            ("50 GB", "does not say for how long; write \"50 GB/day\" or \"50 GB/month\""),
            ("2 GB/d", "unknown period \"d\"; write \"2 GB/day\" or \"2 GB/month\""),
            ("10 Mbit/s", "unknown unit \"Mbit\"; write for example \"50 GB/month\""),
            ("0 GB/day", "would let nothing through; write at least \"1 B/day\""),
            ("1000001 TB/month", "too much; the most is 1000000 TB/month"),
            ("much", "is not a volume"),
            ("unlimited", "is not a volume"),
        ] {
            let error = volume_error(text);
            assert!(error.contains(advice), "{advice:?} is not in: {error}");
        }
    }

    #[test]
    fn a_limit_can_be_lifted() {
        assert_eq!("unlimited".parse(), Ok(Limit::<BitRate>::Unlimited));
        assert_eq!("7".parse(), Ok(Limit::To(Count(7))));
        assert_eq!("bits".parse::<Limit<BitRate>>(), Err(rate_error("bits")));
        assert_eq!(Limit::<Count>::Unlimited.to_string(), "unlimited");
        assert_eq!(Limit::To(Count(7)).to_string(), "7");
        assert_eq!((Limit::To(7).value(), Limit::<u8>::Unlimited.value()), (Some(7), None));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(
            bytes_per_second in 1..=MAX_RATE,
            bytes in 1..=MAX_VOLUME,
            scale in 0..9_u32,
            monthly: bool,
        ) {
            // Round numbers, which are shown in the larger units, are rare among all.
            let round = |value: u64| (value / 10_u64.pow(scale)).max(1) * 10_u64.pow(scale);
            let bytes_per_second = round(bytes_per_second).min(MAX_RATE);
            let rate = BitRate { bytes_per_second };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            let period = if monthly { Period::Month } else { Period::Day };
            let volume = Volume { bytes: round(bytes).min(MAX_VOLUME), period };
            prop_assert_eq!(volume.to_string().parse(), Ok(volume));
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(text in "[0-9.]{0,30} ?[a-zA-Z/]{0,9}|\\PC*") {
            if let Ok(rate) = text.parse::<BitRate>() {
                prop_assert!((1..=MAX_RATE).contains(&rate.bytes_per_second));
            }
            if let Ok(volume) = text.parse::<Volume>() {
                prop_assert!((1..=MAX_VOLUME).contains(&volume.bytes));
            }
        }
    }
}
