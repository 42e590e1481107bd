//! Address ranges: `"10.0.0.0/8"`, `"fd00::/8"`, or a plain address for itself alone.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::units::from_text;

/// One entry of `[peers] allow`, `deny` or `nat64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr(pub(super) IpNet);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return plain(IpNet::from(address), text);
        }
        let Ok(net) = text.parse::<IpNet>() else {
            return Err(format!(
                "\"{text}\" is not an address range; write \"10.0.0.0/8\", \"fd00::/8\" or a plain \
                 address such as \"192.0.2.7\""
            ));
        };
        if net.addr() != net.network() {
            return Err(format!(
                "\"{text}\" has bits set behind its prefix length; write \"{}\" for the network or \
                 \"{}\" for the one address",
                net.trunc(),
                net.addr()
            ));
        }
        plain(net, text)
    }
}

/// Peers are compared after IPv4 has been taken out of IPv6, so a mapped range would never match.
fn plain(net: IpNet, text: &str) -> Result<Cidr, String> {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        let length = v6.prefix_len().saturating_sub(96);
        return Err(format!(
            "\"{text}\" is IPv4 written as IPv6; write \"{v4}/{length}\": it holds for every form \
             of the address"
        ));
    }
    Ok(Cidr(net))
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

from_text!(Cidr, "an address range in quotes, such as \"10.0.0.0/8\"");

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Cidr>().unwrap_err()
    }

    #[test]
    fn ranges_and_plain_addresses_are_read() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn host_bits_name_the_right_network() {
        assert!(error("10.1.2.3/8").contains("write \"10.0.0.0/8\""), "{}", error("10.1.2.3/8"));
        assert!(error("2001:db8::1/32").contains("write \"2001:db8::/32\""));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        assert!(error("10.0.0.0/33").contains("10.0.0.0/33"));
        assert!(error("example.com").contains("is not an address range"));
        assert!(error("10.0.0.1-10.0.0.9").contains("is not an address range"));
        assert!(error("::ffff:10.0.0.0/104").contains("write \"10.0.0.0/8\""));
    }
}
