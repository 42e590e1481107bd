//! ChannelData in datagrams, and both kinds of message on a stream.

use turnway_wire::{ChannelData, Frame, channel_header, frame, padding};

#[test]
fn padding_reaches_the_next_multiple_of_four() {
    let expected = [0, 3, 2, 1, 0, 3, 2, 1, 0];
    assert_eq!(std::array::from_fn(padding), expected);
}

#[test]
fn channel_data_in_a_datagram() {
    //= rfc8656#section-12.5
    //= type=test
    //# Over UDP, the padding
    //# is not required but MAY be included.
    for surplus in 0..8 {
        let datagram = [&[0x40, 0x00, 0x00, 0x05][..], b"hello", &[0; 8][..surplus]].concat();
        let data = ChannelData::parse(&datagram).unwrap();
        assert_eq!((data.number, data.data), (0x4000, &b"hello"[..]));
    }
    //= rfc8656#section-12.4
    //= type=test
    //# Note that 0 is a valid length.
    let empty = ChannelData::parse(&[0x4F, 0xFF, 0x00, 0x00]).unwrap();
    assert_eq!((empty.number, empty.data), (0x4FFF, &b""[..]));
}

#[test]
fn channel_data_longer_than_its_datagram_is_dropped() {
    //= rfc8656#section-12.6
    //= type=test
    //# If the ChannelData message is received in a UDP datagram, and if the
    //# UDP datagram is too short to contain the claimed length of the
    //# ChannelData message (i.e., the UDP header length field value is less
    //# than the ChannelData header length field value + 4 + 8), then the
    //# message is silently discarded.
    let datagram = b"\x40\x00\x00\x05hello";
    for len in 0..datagram.len() {
        assert_eq!(ChannelData::parse(&datagram[..len]), None, "{len} bytes");
    }
    assert_eq!(ChannelData::parse(b"\x40\x00\xFF\xFFhello"), None);
}

#[test]
fn only_numbers_of_channels_are_channels() {
    // 0x5000 to 0x7FFF are RFC 5766's: the rules decide who may still bind them.
    for number in 0..=u16::MAX {
        let datagram = channel_header(number, 0);
        let expected = (0x4000..=0x7FFF).contains(&number);
        assert_eq!(ChannelData::parse(&datagram).is_some(), expected, "{number:#06x}");
    }
}

#[test]
fn channel_data_on_a_stream_is_padded() {
    //= rfc8656#section-12.5
    //= type=test
    //# The padding is not reflected in the length
    //# field of the ChannelData message, so the actual size of a ChannelData
    //# message (including padding) is (4 + Length) rounded up to the nearest
    //# multiple of 4 (see Section 14 of [RFC8489]).
    for (length, len) in [(0, 4), (1, 8), (2, 8), (3, 8), (4, 8), (5, 12), (65_535, 65_540)] {
        let header = channel_header(0x4001, length);
        let payload = 4 + usize::from(length);
        let mut stream = [&header[..], &vec![0; len - 4], b"next"].concat();
        assert_eq!(frame(&stream), Frame::Complete { len, payload });
        stream.truncate(len - 1);
        let expected =
            if len == 4 { Frame::Incomplete { need: 4 } } else { Frame::Incomplete { need: len } };
        assert_eq!(frame(&stream), expected, "length {length}");
    }
}

#[test]
fn stun_on_a_stream_one_byte_at_a_time() {
    let message = b"\x00\x01\x00\x08\x21\x12\xa4\x42abcdefghijkl\x80\x22\x00\x04soft";
    for len in 0..message.len() {
        let need = match len {
            0 => 4,
            1..=3 => 20,
            _ => 28,
        };
        assert_eq!(frame(&message[..len]), Frame::Incomplete { need }, "{len} bytes");
    }
    let complete = Frame::Complete { len: 28, payload: 28 };
    assert_eq!(frame(message), complete);
    assert_eq!(frame(&[&message[..], &message[..]].concat()), complete);
}

#[test]
fn a_stream_that_is_neither_is_given_up_at_once() {
    for first in (4..=63).chain(128..=255) {
        assert_eq!(frame(&[first]), Frame::Invalid, "first byte {first}");
    }
    for length in 1..=3 {
        assert_eq!(frame(&[0, 1, 0, length]), Frame::Invalid, "misaligned {length}");
    }
    assert_eq!(frame(b"\x00\x01\x00\x08\x21\x12\xa4\x43"), Frame::Invalid);
    assert_eq!(frame(b"\x00\x01\x00\x08\x21\x12\xa4"), Frame::Incomplete { need: 28 });
}

#[test]
fn a_frame_never_claims_more_than_is_there() {
    // Every header, with a little behind it.
    for a in 0..=255 {
        for b in 0..=255 {
            let stream = [a, 1, 0, b, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0];
            match frame(&stream) {
                Frame::Complete { len, payload } => {
                    assert!(len <= stream.len() && payload <= len && len.is_multiple_of(4));
                }
                Frame::Incomplete { need } => assert!(need > stream.len()),
                Frame::Invalid => {}
            }
        }
    }
}
