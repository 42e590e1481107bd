//! The IPv4 address inside an IPv6 address (RFC 6052): where a NAT64 would send a datagram on to.

use super::{Ipv4Addr, Ipv6Addr, Ipv6Net};

/// The lengths a NAT64 prefix may have (RFC 6052 section 2.2).
pub const PREFIX_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// 64:ff9b::/96 (RFC 6052 section 2.1).
const WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// 64:ff9b:1::/48 (RFC 8215): anybody's prefix, of any length from 48 on.
const LOCAL_USE: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0);

/// The prefixes by which NAT64s are reached.
#[derive(Clone, Debug)]
pub(super) struct Nat64 {
    /// Longest first.
    prefixes: Vec<Ipv6Net>,
}

impl Nat64 {
    /// The well-known prefix and the operator's.
    pub(super) fn new(mut prefixes: Vec<Ipv6Net>) -> Self {
        prefixes.push(Ipv6Net::new_assert(WELL_KNOWN, 96));
        prefixes.sort_unstable_by_key(|net| core::cmp::Reverse(net.prefix_len()));
        Self { prefixes }
    }

    /// What a NAT64 would find in `ip`.
    pub(super) fn contents(&self, ip: Ipv6Addr) -> Contents {
        if let Some(net) = self.prefixes.iter().find(|net| net.contains(&ip)) {
            return match embedded(ip, net.prefix_len()) {
                Some(v4) => Contents::One(v4),
                None => Contents::Unknown,
            };
        }
        if Ipv6Net::new_assert(LOCAL_USE, 48).contains(&ip) {
            return Contents::OneOf(ip);
        }
        Contents::Nothing
    }
}

/// The IPv4 addresses in an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// It is an ordinary IPv6 address.
    Nothing,
    /// This one.
    One(Ipv4Addr),
    /// An address of the local-use range, but the operator has not told the prefix in use: any of
    /// those it would have with a prefix of the range.
    OneOf(Ipv6Addr),
    /// The operator told a prefix of a length no NAT64 has.
    Unknown,
}

impl Contents {
    /// Whether `permitted` holds for all that may be inside.
    pub(super) fn permit(self, permitted: impl Fn(Ipv4Addr) -> bool) -> bool {
        match self {
            Self::Nothing => true,
            Self::One(v4) => permitted(v4),
            Self::OneOf(ip) => {
                let lengths = PREFIX_LENGTHS.iter().filter(|&&length| length >= 48);
                lengths.filter_map(|&length| embedded(ip, length)).all(permitted)
            }
            Self::Unknown => false,
        }
    }
}

/// The IPv4 address after a prefix of `length` bits; `None` if no NAT64 prefix has this length.
fn embedded(ip: Ipv6Addr, length: u8) -> Option<Ipv4Addr> {
    if !PREFIX_LENGTHS.contains(&length) {
        return None;
    }
    let bits = ip.to_bits();
    // Bits 64 to 71 ("u") are no part of it: without them it is 32 bits in a row.
    let (row, width) = if length == 96 {
        (bits, 128)
    } else {
        ((bits >> 64 << 56) | (bits & (u128::MAX >> 72)), 120)
    };
    let v4 = (row >> (width - 32 - u32::from(length))) & u128::from(u32::MAX);
    u32::try_from(v4).ok().map(Ipv4Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RFC 6052 section 2.4.
    #[test]
    fn the_examples_of_the_rfc() {
        for (length, ip) in [
            (32, "2001:db8:c000:221::"),
            (40, "2001:db8:1c0:2:21::"),
            (48, "2001:db8:122:c000:2:2100::"),
            (56, "2001:db8:122:3c0:0:221::"),
            (64, "2001:db8:122:344:c0:2:2100::"),
            (96, "2001:db8:122:344::192.0.2.33"),
        ] {
            let ip: Ipv6Addr = ip.parse().unwrap();
            assert_eq!(embedded(ip, length), Some(Ipv4Addr::new(192, 0, 2, 33)), "/{length}");
            let prefix = Ipv6Net::new(ip, length).unwrap().trunc();
            let found = Nat64::new(vec![prefix]).contents(ip);
            assert_eq!(found, Contents::One(Ipv4Addr::new(192, 0, 2, 33)), "/{length}");
        }
        for length in 0..=128 {
            assert_eq!(
                embedded(WELL_KNOWN, length).is_some(),
                PREFIX_LENGTHS.contains(&length),
                "/{length}"
            );
        }
    }

    #[test]
    fn the_longest_prefix_says_where_the_address_is() {
        let prefixes = ["64:ff9b:1::/48", "64:ff9b:1:1::/96"].map(|net| net.parse().unwrap());
        let nat64 = Nat64::new(prefixes.to_vec());
        let contents = |ip: &str| nat64.contents(ip.parse().unwrap());
        assert_eq!(contents("64:ff9b:1:1::8.8.4.4"), Contents::One(Ipv4Addr::new(8, 8, 4, 4)));
        assert_eq!(contents("64:ff9b:1:808:4:400::"), Contents::One(Ipv4Addr::new(8, 8, 4, 4)));
        assert_eq!(contents("64:ff9b::10.0.0.1"), Contents::One(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(contents("2600::1"), Contents::Nothing);
    }
}
