//! ChannelData (RFC 8656 section 12) and the framing of STUN and ChannelData on a stream.

use crate::message::{HEADER_LEN, Kind, MAGIC_COOKIE, classify};

/// The lowest channel number (RFC 8656 section 12).
pub const CHANNEL_MIN: u16 = 0x4000;
/// The highest channel number (RFC 8656 section 12).
pub const CHANNEL_MAX: u16 = 0x4FFF;
/// The highest channel number of older clients (RFC 5766 section 11).
pub const OLD_CHANNEL_MAX: u16 = 0x7FFF;
/// Bytes of a ChannelData header: number and length (RFC 8656 section 12.4).
pub const CHANNEL_HEADER_LEN: usize = 4;

/// A ChannelData message as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel, [`CHANNEL_MIN`] to [`OLD_CHANNEL_MAX`]. Whether a number above
    /// [`CHANNEL_MAX`] can be bound is up to the rules.
    pub number: u16,
    /// The application data; may be empty.
    pub data: &'a [u8],
}

impl ChannelData<'_> {
    /// Reads a datagram, or a whole frame of a stream; bytes behind the data are padding and
    /// ignored. `None` if it is shorter than it claims, or if the number is no channel's.
    #[inline]
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<ChannelData<'_>> {
        let (header, rest) = datagram.split_first_chunk::<CHANNEL_HEADER_LEN>()?;
        let number = u16::from_be_bytes([header[0], header[1]]);
        if !(CHANNEL_MIN..=OLD_CHANNEL_MAX).contains(&number) {
            return None;
        }
        //= rfc8656#section-12.6
        //# If the ChannelData message is received in a UDP datagram, and if the
        //# UDP datagram is too short to contain the claimed length of the
        //# ChannelData message (i.e., the UDP header length field value is less
        //# than the ChannelData header length field value + 4 + 8), then the
        //# message is silently discarded.
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let data = rest.get(..len)?;
        Some(ChannelData { number, data })
    }
}

/// The header that precedes `len` bytes of data on channel `number`.
#[inline]
#[must_use]
pub const fn channel_header(number: u16, len: u16) -> [u8; CHANNEL_HEADER_LEN] {
    let [n0, n1] = number.to_be_bytes();
    let [l0, l1] = len.to_be_bytes();
    [n0, n1, l0, l1]
}

/// Bytes (0 to 3) from `len` to the next multiple of four.
#[inline]
#[must_use]
pub const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// What the start of a stream's bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message is there.
    Complete {
        /// Bytes to consume, ChannelData's padding included.
        len: usize,
        /// Bytes of these that make the message, ChannelData's padding excluded.
        payload: usize,
    },
    /// More bytes must come first.
    Incomplete {
        /// Bytes known to be needed so far, from the start of the message.
        need: usize,
    },
    /// Neither STUN nor ChannelData: there is no way to find the next message, so the connection
    /// has to go.
    Invalid,
}

/// Finds the first message on a stream (TCP, TLS), however few of its bytes have come.
#[inline]
#[must_use]
pub fn frame(stream: &[u8]) -> Frame {
    let Some(&first) = stream.first() else {
        return Frame::Incomplete { need: CHANNEL_HEADER_LEN };
    };
    match classify(first) {
        Kind::Stun => stun_frame(stream),
        Kind::Channel | Kind::OldChannel => channel_frame(stream),
        Kind::Zrtp | Kind::Dtls | Kind::Rtp | Kind::Other => Frame::Invalid,
    }
}

fn stun_frame(stream: &[u8]) -> Frame {
    let Some(length) = length_field(stream) else {
        return Frame::Incomplete { need: HEADER_LEN };
    };
    //= rfc8489#section-5
    //# Since all STUN attributes are
    //# padded to a multiple of 4 bytes, the last 2 bits of this field are
    //# always zero.
    if length % 4 != 0 {
        return Frame::Invalid;
    }
    if stream.len() >= 8 && stream[4..8] != MAGIC_COOKIE.to_be_bytes() {
        return Frame::Invalid;
    }
    let len = HEADER_LEN + length;
    complete_or_not(stream, len, len)
}

fn channel_frame(stream: &[u8]) -> Frame {
    let Some(length) = length_field(stream) else {
        return Frame::Incomplete { need: CHANNEL_HEADER_LEN };
    };
    //= rfc8656#section-12.5
    //# The padding is not reflected in the length
    //# field of the ChannelData message, so the actual size of a ChannelData
    //# message (including padding) is (4 + Length) rounded up to the nearest
    //# multiple of 4 (see Section 14 of [RFC8489]).
    let payload = CHANNEL_HEADER_LEN + length;
    complete_or_not(stream, payload + padding(length), payload)
}

/// Bytes 2 and 3, where STUN and ChannelData both keep their length.
fn length_field(stream: &[u8]) -> Option<usize> {
    match stream {
        [_, _, high, low, ..] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

fn complete_or_not(stream: &[u8], len: usize, payload: usize) -> Frame {
    if stream.len() >= len {
        Frame::Complete { len, payload }
    } else {
        Frame::Incomplete { need: len }
    }
}
