//! The special-purpose ranges: RFC 6890 and the IANA registries it created, which have grown since.
//!
//! Left out are the entries that are ordinary reachable hosts (AS112 and AMT in IPv4), the tunnels
//! that are refused before this table is asked, and IPv4-mapped addresses, which are IPv4 by then.

use super::{IpAddr, Ipv6Addr};

/// A range of addresses that are nobody's to relay to unless the operator says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// What the range is, in the registry's words.
    pub name: &'static str,
    /// Where it is defined.
    pub rfc: &'static str,
    first: u128,
    last: u128,
}

/// The special-purpose range that `ip` is in, the narrowest if there are several.
pub fn special_purpose(ip: IpAddr) -> Option<&'static Special> {
    let (table, ip) = match ip {
        IpAddr::V4(ip) => (V4.as_slice(), u128::from(ip.to_bits())),
        IpAddr::V6(ip) => (V6.as_slice(), ip.to_bits()),
    };
    // Twenty comparisons of numbers in one cache line after the other: no search is faster.
    table.iter().rfind(|range| range.first <= ip && ip <= range.last)
}

/// Sorted by first address, wider ranges before the ones inside them.
static V4: [Special; 18] = [
    v4([0, 0, 0, 0], 8, "this network", "RFC 791"),
    v4([10, 0, 0, 0], 8, "private use", "RFC 1918"),
    v4([100, 64, 0, 0], 10, "shared address space (CGNAT)", "RFC 6598"),
    v4([127, 0, 0, 0], 8, "loopback", "RFC 1122"),
    v4([168, 63, 129, 16], 32, "cloud metadata and DNS (Azure)", "no RFC"),
    v4([169, 254, 0, 0], 16, "link-local (with cloud metadata services)", "RFC 3927"),
    v4([172, 16, 0, 0], 12, "private use", "RFC 1918"),
    v4([192, 0, 0, 0], 24, "IETF protocol assignments", "RFC 6890"),
    v4([192, 0, 2, 0], 24, "documentation (TEST-NET-1)", "RFC 5737"),
    v4([192, 88, 99, 0], 24, "6to4 relay anycast (deprecated)", "RFC 7526"),
    v4([192, 168, 0, 0], 16, "private use", "RFC 1918"),
    v4([198, 18, 0, 0], 15, "benchmarking", "RFC 2544"),
    v4([198, 51, 100, 0], 24, "documentation (TEST-NET-2)", "RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation (TEST-NET-3)", "RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast", "RFC 5771"),
    v4([233, 252, 0, 0], 24, "documentation (MCAST-TEST-NET)", "RFC 6676"),
    v4([240, 0, 0, 0], 4, "reserved", "RFC 1112"),
    v4([255, 255, 255, 255], 32, "limited broadcast", "RFC 8190"),
];

/// Sorted like [`V4`]. The globally reachable parts of 2001::/23 are anycast services, ORCHIDs and
/// identifiers, none of them a host's address: the block is refused as a whole.
static V6: [Special; 19] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified address", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback", "RFC 4291"),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, "IPv4-translated (obsolete)", "RFC 2765"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local-use IPv4/IPv6 translation", "RFC 8215"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard-only", "RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix", "RFC 9780"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "IETF protocol assignments", "RFC 2928"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking", "RFC 5180"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "ORCHID (deprecated)", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation", "RFC 3849"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing SIDs", "RFC 9602"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local", "RFC 4193"),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata service", "RFC 4193"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local", "RFC 4291"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local (deprecated)", "RFC 3879"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast", "RFC 4291"),
    v6([0xff02, 0, 0, 0, 0, 0, 0, 0], 16, "link-local multicast", "RFC 4291"),
];

const fn v4(first: [u8; 4], length: u32, name: &'static str, rfc: &'static str) -> Special {
    let first = u32::from_be_bytes(first) as u128;
    Special { name, rfc, first, last: first | (u32::MAX as u128).unbounded_shr(length) }
}

const fn v6(first: [u16; 8], length: u32, name: &'static str, rfc: &'static str) -> Special {
    let [a, b, c, d, e, f, g, h] = first;
    let first = Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits();
    Special { name, rfc, first, last: first | u128::MAX.unbounded_shr(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_nested() {
        for table in [V4.as_slice(), V6.as_slice()] {
            for pair in table.windows(2) {
                let [before, after] = pair else { unreachable!("windows of two") };
                assert!(before.first <= before.last);
                assert!(before.first <= after.first, "{} before {}", before.name, after.name);
                let apart = before.last < after.first;
                assert!(apart || after.last <= before.last, "{}, {}", before.name, after.name);
            }
        }
    }

    #[test]
    fn the_narrowest_range_gives_its_name() {
        let name = |ip: &str| special_purpose(ip.parse().unwrap()).map(|special| special.name);
        assert_eq!(name("255.255.255.255"), Some("limited broadcast"));
        assert_eq!(name("255.255.255.254"), Some("reserved"));
        assert_eq!(name("2001:2::1"), Some("benchmarking"));
        assert_eq!(name("2001:2:1::1"), Some("IETF protocol assignments"));
        assert_eq!(name("fd00:ec2::254"), Some("cloud metadata service"));
        assert_eq!(name("8.8.8.8"), None);
    }
}
