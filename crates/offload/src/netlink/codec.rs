//! Netlink messages: headers, and attributes of a length, a kind and a value.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NLMSG_ERROR`, also the acknowledgement.
pub(crate) const ERROR: u16 = libc::NLMSG_ERROR as u16;
/// `NLMSG_DONE`, the end of a dump.
pub(crate) const DONE: u16 = libc::NLMSG_DONE as u16;

const HEADER: usize = 16;
/// Nested and byte-order flags of an attribute's kind.
const KIND: u16 = 0x3fff;

/// A request under construction: a header of the kernel's part that it is for, then attributes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    flags: u16,
}

impl Request {
    /// `header`: such as an `rtmsg`.
    pub(crate) fn new(kind: u16, header: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(header);
        Request { bytes, flags: 0 }
    }

    /// Such as `NLM_F_CREATE`.
    pub(crate) fn flags(mut self, flags: i32) -> Request {
        self.flags |= flags as u16;
        self
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn address(self, kind: u16, address: IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    pub(super) fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&(flags | self.flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// What follows the netlink header.
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// What an `ERROR` or `DONE` says went wrong.
    pub(super) fn error(&self) -> Option<io::Error> {
        match i32_at(&self.payload, 0) {
            Some(code) if code < 0 => Some(io::Error::from_raw_os_error(-code)),
            Some(_) | None => None,
        }
    }
}

/// The messages of a datagram, up to the first that is cut.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(HEADER..length)?.to_vec();
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            payload,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes that follow a header of so many bytes, up to the first that is cut.
pub(crate) fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = payload.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = u16_at(bytes, 0)? as usize;
        let kind = u16_at(bytes, 2)? & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An address of four or sixteen bytes.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(value).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// A string up to its zero; names of interfaces and tables are ASCII.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(|value| value as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        Request::new(77, &[1, 2, 3, 4])
            .attribute(5, b"eth0\0")
            .address(6, IpAddr::from([192, 0, 2, 1]))
            .finish(9, 42)
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut bytes = sample();
        bytes.extend(Request::new(78, &[]).finish(0, 43));
        let messages: Vec<_> = messages(&bytes).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].flags, messages[0].sequence), (77, 9, 42));
        assert_eq!((messages[1].kind, messages[1].sequence), (78, 43));
        let attributes: Vec<_> = attributes(&messages[0].payload, 4).collect();
        assert_eq!(attributes.len(), 2);
        assert_eq!((attributes[0].0, text(attributes[0].1)), (5, "eth0".into()));
        assert_eq!(address(attributes[1].1), Some(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn whatever_is_cut_is_left_out_and_nothing_else() {
        let whole = sample();
        for cut in 0..whole.len() {
            assert_eq!(messages(&whole[..cut]).count(), 0, "cut at {cut}");
        }
        let payload = messages(&whole).next().unwrap().payload;
        let counts: Vec<_> =
            (0..=payload.len()).map(|cut| attributes(&payload[..cut], 4).count()).collect();
        // The first attribute is whole, without its padding, at 4 + 9 bytes; the second at 24.
        assert_eq!(counts.iter().filter(|&&count| count == 0).count(), 13);
        assert_eq!(counts.iter().filter(|&&count| count == 1).count(), 11);
        assert_eq!(counts[payload.len()], 2);
    }

    #[test]
    fn a_length_that_lies_ends_the_reading() {
        let mut bytes = sample();
        for length in [0_u32, 1, 15, u32::MAX] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0);
        }
        for length in [0_u16, 3, u16::MAX] {
            let mut attribute = vec![0; 8];
            attribute[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&attribute, 0).count(), 0);
        }
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        let answer = |code: i32| Message {
            kind: ERROR,
            flags: 0,
            sequence: 1,
            payload: code.to_ne_bytes().to_vec(),
        };
        assert!(answer(0).error().is_none());
        let error = answer(-libc::ENOENT).error().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
