//! Values with units, written as people write them: `"90s"`, `"4 MiB"`, `"200/s"`,
//! `"49152-65535"`. A bare number is refused, because nobody remembers what it counts.
//! `units/traffic.rs` has rates in bits, volumes, and limits that can be lifted.

mod traffic;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Implements `Deserialize` for a type that is written as text and read by its `FromStr`.
/// Numbers get an answer of their own: `Self::from_str` says what is missing.
macro_rules! from_text {
    ($ty:ty, $expecting:literal) => {
        impl<'de> serde::Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $ty;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$ty, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$ty, E> {
                        number.to_string().parse().map_err(E::custom)
                    }

                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$ty, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                source.deserialize_any(Visitor)
            }
        }
    };
}
pub(super) use from_text;

pub use traffic::{BitRate, Limit, Period, Volume};

/// A point in time: `"2026-01-01T00:00:00Z"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl Moment {
    /// Seconds since 1970; 0 for what was earlier.
    pub fn unix_s(self) -> u64 {
        u64::try_from(self.0.as_second()).unwrap_or(0)
    }

    /// The moment of a number of seconds since 1970; the last one there is for a greater number.
    #[must_use]
    pub fn from_unix_s(unix_s: u64) -> Self {
        let moment = i64::try_from(unix_s).ok().and_then(|s| Timestamp::from_second(s).ok());
        Self(moment.unwrap_or(Timestamp::MAX))
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("\"{text}\" is not a time; write for example \"2026-01-01T00:00:00Z\"")
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

from_text!(Moment, "a time in quotes, such as \"2026-01-01T00:00:00Z\"");

/// A number of things per second: `"200/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many in each second; at least 1.
    pub per_second: u32,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let refuse = |why: &str| {
            let number = if number.is_empty() { "200" } else { number };
            Err(format!("\"{text}\" {why}; write \"{number}/s\" for {number} in each second"))
        };
        match (number.parse::<u32>(), unit) {
            (_, "") => refuse("has no unit"),
            (Ok(0), "/s") => {
                Err("\"0/s\" would let nothing through; write at least \"1/s\"".into())
            }
            (Ok(per_second), "/s") => Ok(Self { per_second }),
            (Ok(_), _) => refuse("is not a rate per second"),
            (Err(_), _) => Err(format!("\"{text}\" is not a rate; write for example \"200/s\"")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

from_text!(Rate, "a rate in quotes, such as \"200/s\"");

/// A span of time: `"90s"`, `"5m"`, `"1h"`, `"1d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SPANS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = scaled(text, &SPANS, "duration", "90s\", \"5m\", \"1h\" or \"1d")?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0.as_secs(), &SPANS, "")
    }
}

from_text!(Span, "a duration in quotes, such as \"90s\" or \"1h\"");

/// A short time: `"100us"`, `"1ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(pub Duration);

const DELAYS: [(&str, u64); 2] = [("ms", 1_000), ("us", 1)];

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let micros = scaled(text, &DELAYS, "delay", "100us\" or \"1ms")?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX), &DELAYS, "")
    }
}

from_text!(Delay, "a delay in quotes, such as \"100us\" or \"1ms\"");

/// A number of bytes: `"4 MiB"`, `"256 KiB"`, `"1 MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

// Largest first and, among equals, the spelling to print first.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, &SIZES, "size", "4 MiB\", \"256 KiB\" or \"1 MB").map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &SIZES, " ")
    }
}

from_text!(Size, "a size in quotes, such as \"4 MiB\"");

/// A range of ports, both ends included: `"49152-65535"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ports(pub(super) RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-').map(|(low, high)| (low.trim(), high.trim()));
        let parsed = parts.map(|(low, high)| (low.parse::<u16>(), high.parse::<u16>()));
        let Some((Ok(low), Ok(high))) = parsed else {
            return Err(format!(
                "\"{text}\" is not a range of ports (1 to 65535); write \"49152-65535\""
            ));
        };
        if low == 0 {
            return Err(format!("\"{text}\" contains port 0; begin at 1024 or above"));
        }
        if low > high {
            return Err(format!("\"{text}\" runs backwards; write \"{high}-{low}\""));
        }
        Ok(Self(low..=high))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

from_text!(Ports, "a range of ports in quotes, such as \"49152-65535\"");

/// A whole number of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u32);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("{text} is not a whole number from 0 to {}", u32::MAX))
    }
}

from_text!(Count, "a whole number");

/// A time zone by its name in the IANA database: `"Europe/Berlin"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zone(pub(super) TimeZone);

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match TimeZone::get(text) {
            Ok(zone) if zone.iana_name().is_some() => Ok(Self(zone)),
            Ok(_) | Err(_) => Err(format!(
                "\"{text}\" is not the name of a time zone (in the IANA database); write for \
                 example \"Europe/Berlin\" or \"UTC\""
            )),
        }
    }
}

from_text!(Zone, "the name of a time zone in quotes, such as \"Europe/Berlin\"");

/// `"4 MiB"` into `("4", "MiB")`.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    (number, unit.trim())
}

fn scaled(text: &str, units: &[(&str, u64)], what: &str, examples: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let Ok(count) = number.parse::<u64>() else {
        return Err(format!("\"{text}\" is not a {what}; write \"{examples}\""));
    };
    if unit.is_empty() {
        let first = units[units.len() - 1].0;
        return Err(format!(
            "{text} has no unit, and a bare number does not say what it counts; write for example \
             \"{count}{first}\" (or \"{examples}\")"
        ));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<&str> = units.iter().rev().map(|(name, _)| *name).collect();
        return Err(format!(
            "\"{text}\" has the unknown unit \"{unit}\"; write \"{examples}\" (units: {})",
            names.join(", ")
        ));
    };
    count.checked_mul(*factor).ok_or_else(|| format!("\"{text}\" is too large"))
}

fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], space: &str) -> fmt::Result {
    let whole = |(_, factor): &&(&str, u64)| value >= *factor && value.is_multiple_of(*factor);
    let (name, factor) = units.iter().find(whole).unwrap_or(&units[units.len() - 1]);
    write!(f, "{}{space}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("90s", 90, "90s"),
            ("5m", 300, "5m"),
            ("1h", 3_600, "1h"),
            ("1 d", 86_400, "1d"),
            ("60s", 60, "1m"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_secs(), seconds);
            assert_eq!(span.to_string(), shown);
        }
    }

    #[test]
    fn delays_are_read_and_shown() {
        for (text, micros, shown) in
            [("100us", 100, "100us"), ("2ms", 2_000, "2ms"), ("2000 us", 2_000, "2ms")]
        {
            let delay: Delay = text.parse().unwrap();
            assert_eq!(delay.0.as_micros(), micros);
            assert_eq!(delay.to_string(), shown);
        }
        assert_eq!("0us".parse::<Delay>().unwrap().to_string(), "0us");
        assert!("100".parse::<Delay>().unwrap_err().contains("\"100us\""));
        assert!("1s".parse::<Delay>().is_err());
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("4 MiB", 4 << 20, "4 MiB"),
            ("256KiB", 256 << 10, "256 KiB"),
            ("1 MB", 1_000_000, "1 MB"),
            ("3 B", 3, "3 B"),
            ("1 GiB", 1 << 30, "1 GiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes);
            assert_eq!(size.to_string(), shown);
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_the_right_spelling() {
        let span = "60".parse::<Span>().unwrap_err();
        assert!(span.contains("no unit") && span.contains("\"60s\""), "{span}");
        let size = "4096".parse::<Size>().unwrap_err();
        assert!(size.contains("no unit") && size.contains("\"4096B\""), "{size}");
        let rate = "200".parse::<Rate>().unwrap_err();
        assert!(rate.contains("no unit") && rate.contains("\"200/s\""), "{rate}");
    }

    #[test]
    fn unknown_units_list_the_known_ones() {
        let span = "5 min".parse::<Span>().unwrap_err();
        assert!(span.contains("\"min\"") && span.contains("s, m, h, d"), "{span}");
        let size = "4 mb".parse::<Size>().unwrap_err();
        assert!(size.contains("\"mb\"") && size.contains("MiB"), "{size}");
        assert!("10/min".parse::<Rate>().unwrap_err().contains("\"10/s\""));
        assert!("0/s".parse::<Rate>().is_err());
        assert!("18446744073709551615d".parse::<Span>().unwrap_err().contains("too large"));
        assert!("-5s".parse::<Span>().is_err());
        assert!("".parse::<Size>().is_err());
    }

    #[test]
    fn time_zones_have_names() {
        for name in ["UTC", "Europe/Berlin", "Asia/Kathmandu"] {
            assert_eq!(name.parse::<Zone>().unwrap().0.iana_name(), Some(name));
        }
        for text in ["Berlin", "CEST", "+02:00", "Etc/Unknown", ""] {
            let error = text.parse::<Zone>().unwrap_err();
            assert!(error.contains("is not the name of a time zone"), "{error}");
        }
    }

    #[test]
    fn port_ranges_have_two_ends_in_order() {
        assert_eq!("49152-65535".parse::<Ports>().unwrap().0, 49152..=65535);
        assert!("65535-49152".parse::<Ports>().unwrap_err().contains("\"49152-65535\""));
        assert!("0-10".parse::<Ports>().unwrap_err().contains("port 0"));
        for text in ["3478", "1-65536", "a-b", ""] {
            assert!(text.parse::<Ports>().unwrap_err().contains("is not a range"), "{text}");
        }
    }
}
