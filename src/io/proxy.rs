//! The header of the PROXY protocol, versions 1 and 2, that a trusted proxy puts before a client's
//! bytes (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest header that is waited for. A longer one of version 2 has more about the client than
/// its addresses, which nobody needs here.
pub const MAX_HEADER: usize = 536;

/// The longest line of version 1, with the two bytes that end it.
const MAX_LINE: usize = 107;

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
const FIXED: usize = SIGNATURE_2.len() + 4;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// No header, or none that is allowed: the connection is to be closed.
    Invalid,
    /// A header of `len` bytes that names no client: the proxy speaks for itself, to see whether
    /// we live, or does not know the addresses. The connection's own addresses count.
    Local {
        /// Where the client's bytes begin.
        len: usize,
    },
    /// A header of `len` bytes.
    Proxied {
        /// Who connected to the proxy. Never an IPv4 address written as IPv6.
        client: SocketAddr,
        /// Where they connected to.
        server: SocketAddr,
        /// Where the client's bytes begin.
        len: usize,
    },
}

/// Looks at what has been read so far.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    if starts(bytes, SIGNATURE_2) {
        version_2(bytes)
    } else if starts(bytes, SIGNATURE_1) {
        version_1(bytes)
    } else {
        Parsed::Invalid
    }
}

/// Whether `bytes` begins with `signature`, as far as it goes.
fn starts(bytes: &[u8], signature: &[u8]) -> bool {
    let len = bytes.len().min(signature.len());
    bytes[..len] == signature[..len]
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`
fn version_1(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_LINE { Parsed::Incomplete } else { Parsed::Invalid };
    };
    let len = end + 2;
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return Parsed::Invalid };
    let mut words = line.split(' ').skip(1);
    match words.next() {
        Some("UNKNOWN") => Parsed::Local { len },
        Some("TCP4") => addresses::<Ipv4Addr>(words, len),
        Some("TCP6") => addresses::<Ipv6Addr>(words, len),
        Some(_) | None => Parsed::Invalid,
    }
}

fn addresses<'a, T>(mut words: impl Iterator<Item = &'a str>, len: usize) -> Parsed
where
    T: FromStr + Into<IpAddr>,
{
    let ips = [words.next(), words.next()].map(|word| word?.parse::<T>().ok().map(Into::into));
    let ports = [words.next(), words.next()].map(|word| port(word?));
    match (ips, ports, words.next()) {
        ([Some(client), Some(server)], [Some(from), Some(to)], None) => {
            proxied(SocketAddr::new(client, from), SocketAddr::new(server, to), len)
        }
        _ => Parsed::Invalid,
    }
}

/// A decimal number without a sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word == "0" || word.starts_with(|first: char| matches!(first, '1'..='9'));
    word.parse().ok().filter(|_| plain)
}

fn version_2(bytes: &[u8]) -> Parsed {
    // What can be refused is refused before there is more.
    match bytes.get(SIGNATURE_2.len()) {
        Some(0x20 | 0x21) | None => {}
        Some(_) => return Parsed::Invalid,
    }
    let Some([command, family, high, low]) = bytes.get(SIGNATURE_2.len()..FIXED) else {
        return Parsed::Incomplete;
    };
    let len = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_HEADER {
        return Parsed::Invalid;
    }
    let Some(rest) = bytes.get(FIXED..len) else { return Parsed::Incomplete };
    // Behind the addresses there may be more about the client, which is skipped.
    match (command, family) {
        (0x20, _) | (_, 0x00) => Parsed::Local { len },
        (_, 0x11) => match rest.first_chunk::<12>() {
            Some([a, b, c, d, e, f, g, h, ports @ ..]) => {
                let client = Ipv4Addr::new(*a, *b, *c, *d).into();
                let server = Ipv4Addr::new(*e, *f, *g, *h).into();
                with_ports(client, server, *ports, len)
            }
            None => Parsed::Invalid,
        },
        (_, 0x21) => match rest.first_chunk::<36>() {
            Some(block) => {
                let ip = |at: usize| -> IpAddr {
                    let octets = block[at..at + 16].try_into().expect("16 bytes of 36");
                    Ipv6Addr::from_octets(octets).into()
                };
                let ports = block[32..].try_into().expect("4 bytes of 36");
                with_ports(ip(0), ip(16), ports, len)
            }
            None => Parsed::Invalid,
        },
        // UDP, Unix sockets, and what nobody has defined.
        (_, _) => Parsed::Invalid,
    }
}

fn with_ports(client: IpAddr, server: IpAddr, ports: [u8; 4], len: usize) -> Parsed {
    let [a, b, c, d] = ports;
    let client = SocketAddr::new(client, u16::from_be_bytes([a, b]));
    let server = SocketAddr::new(server, u16::from_be_bytes([c, d]));
    proxied(client, server, len)
}

/// A client is known by one address only, however a proxy with IPv6 sockets writes it.
fn proxied(client: SocketAddr, server: SocketAddr, len: usize) -> Parsed {
    let plain = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
    Parsed::Proxied { client: plain(client), server: plain(server), len }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxied(client: &str, server: &str, len: usize) -> Parsed {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        Parsed::Proxied { client, server, len }
    }

    /// A header of version 2 with this block behind its length.
    fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let len = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE_2, &[command, family], &len, block].concat()
    }

    const BLOCK_4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    fn block_6(client: &str, server: &str) -> Vec<u8> {
        let [client, server] = [client, server].map(|it| it.parse::<Ipv6Addr>().unwrap().octets());
        [&client[..], &server, &[0xdc, 0x04, 0x01, 0xbb]].concat()
    }

    #[test]
    fn lines_of_version_1() {
        let six = "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        for (line, parsed) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
                proxied("192.0.2.1:56324", "198.51.100.1:443", 45),
            ),
            (six, proxied("[2001:db8::1]:1", "[2001:db8::2]:65535", six.len())),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 56324 443\r\n",
                proxied("192.0.2.1:56324", "198.51.100.1:443", 59),
            ),
            ("PROXY UNKNOWN\r\n", Parsed::Local { len: 15 }),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Parsed::Local { len: 35 }),
        ] {
            assert_eq!(parse(line.as_bytes()), parsed, "{line}");
            let more = [line.as_bytes(), b"\x16\x03\x01PROXY"].concat();
            assert_eq!(parse(&more), parsed, "{line} and what follows");
            for len in 0..line.len() {
                assert_eq!(parse(&line.as_bytes()[..len]), Parsed::Incomplete, "{len} of {line}");
            }
        }
    }

    #[test]
    fn headers_of_version_2() {
        let four = proxied("192.0.2.1:56324", "198.51.100.1:443", 28);
        let six = block_6("2001:db8::1", "2001:db8::2");
        let mapped = block_6("::ffff:192.0.2.1", "::ffff:198.51.100.1");
        let more = [&BLOCK_4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        for (header, parsed) in [
            (header(0x21, 0x11, &BLOCK_4), four),
            (header(0x21, 0x11, &more), proxied("192.0.2.1:56324", "198.51.100.1:443", 35)),
            (header(0x21, 0x21, &six), proxied("[2001:db8::1]:56324", "[2001:db8::2]:443", 52)),
            (header(0x21, 0x21, &mapped), proxied("192.0.2.1:56324", "198.51.100.1:443", 52)),
            (header(0x20, 0x00, &[]), Parsed::Local { len: 16 }),
            (header(0x20, 0x11, &BLOCK_4), Parsed::Local { len: 28 }),
            (header(0x21, 0x00, &[1, 2, 3]), Parsed::Local { len: 19 }),
            (header(0x21, 0x00, &[0; MAX_HEADER - FIXED]), Parsed::Local { len: MAX_HEADER }),
        ] {
            assert_eq!(parse(&header), parsed, "{header:?}");
            assert_eq!(parse(&[&header[..], b"\0\x01"].concat()), parsed, "{header:?} and more");
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Parsed::Incomplete, "{len} of {header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_or_not_allowed_is_invalid() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXX",
            "PROXY\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 \u{ff11}.0.2.1 198.51.100.1 1 2\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Parsed::Invalid, "{line}");
        }
        let endless = [SIGNATURE_1, &[b'x'; MAX_LINE]].concat();
        assert_eq!(parse(&endless), Parsed::Invalid);
        assert_eq!(
            parse(&[SIGNATURE_1, b"UNKNOWN ", &[b'x'; 100], b"\r\n"].concat()),
            Parsed::Invalid
        );
        for header in [
            header(0x11, 0x11, &BLOCK_4),
            header(0x22, 0x11, &BLOCK_4),
            header(0x21, 0x12, &BLOCK_4),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &BLOCK_4[..11]),
            header(0x21, 0x21, &BLOCK_4),
            header(0x21, 0x11, &[0; MAX_HEADER]),
        ] {
            assert_eq!(parse(&header), Parsed::Invalid, "{header:?}");
        }
        // A STUN request and a TLS handshake begin otherwise.
        assert_eq!(parse(&[0, 3]), Parsed::Invalid);
        assert_eq!(parse(&[22, 3, 1]), Parsed::Invalid);
    }

    proptest! {
        /// Nothing panics, a header is never longer than what is there, and more bytes never change
        /// what was said.
        #[test]
        fn any_bytes_are_read(
            version in 0..3_usize,
            noise in prop::collection::vec(any::<u8>(), 0..700),
            more in prop::collection::vec(any::<u8>(), 1..50),
        ) {
            let begin = [&b""[..], b"PROXY TCP4 1.2.3.4 ", SIGNATURE_2][version];
            let mut bytes = [begin, &noise].concat();
            let before = parse(&bytes);
            match before {
                Parsed::Local { len } | Parsed::Proxied { len, .. } => {
                    prop_assert!(len <= bytes.len() && len <= MAX_HEADER);
                }
                Parsed::Incomplete => prop_assert!(bytes.len() < MAX_HEADER),
                Parsed::Invalid => {}
            }
            bytes.extend(more);
            prop_assert!(before == Parsed::Incomplete || parse(&bytes) == before);
        }

        #[test]
        fn every_client_is_read_in_both_versions(
            client in any::<u32>(), server in any::<u32>(), from in any::<u16>(), to in any::<u16>(),
        ) {
            let [client, server] = [client, server].map(Ipv4Addr::from);
            let line = format!("PROXY TCP4 {client} {server} {from} {to}\r\n");
            let block = [
                &client.octets()[..], &server.octets(), &from.to_be_bytes(), &to.to_be_bytes(),
            ].concat();
            let from = SocketAddr::new(client.into(), from);
            let to = SocketAddr::new(server.into(), to);
            for bytes in [line.into_bytes(), header(0x21, 0x11, &block)] {
                let parsed = Parsed::Proxied { client: from, server: to, len: bytes.len() };
                prop_assert_eq!(parse(&bytes), parsed);
            }
        }
    }
}
