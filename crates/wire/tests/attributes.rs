//! Each attribute: its bytes as the RFC draws them, back again, and what is refused.

use std::fmt::Debug;
use std::net::SocketAddr;

use turnway_wire::{
    AccessToken, AdditionalAddressFamily, AddressErrorCode, AlternateDomain, AlternateServer,
    Attribute, AttributeType, CacheTimeout, ChangeRequest, ChannelNumber, ConnectionId, Data,
    DontFragment, Encode, ErrorCode, EvenPort, Family, IceControlled, IceControlling, Icmp,
    Lifetime, LongTermKey, MappedAddress, MobilityTicket, Nonce, Origin, OtherAddress, Padding,
    PasswordAlgorithm, PasswordAlgorithmAttribute, PasswordAlgorithms, Priority, Realm,
    RequestedAddressFamily, RequestedTransport, ReservationToken, ResponseOrigin, ResponsePort,
    Software, ThirdPartyAuthorization, TransactionId, UnknownAttributes, UseCandidate, UserHash,
    Username, XorMappedAddress, XorPeerAddress, XorRelayedAddress, code,
};

const TID: TransactionId = TransactionId(*b"abcdefghijkl");

#[test]
fn the_table_has_each_number_and_name_once() {
    let table = AttributeType::TABLE;
    for (i, ty) in table.iter().enumerate() {
        let (name, defined_in) = (ty.name().unwrap(), ty.defined_in().unwrap());
        assert_eq!(ty.to_string(), name);
        assert!(defined_in.starts_with("RFC ") || *ty == AttributeType::ORIGIN, "{name}");
        assert!(table[i + 1..].iter().all(|other| other > ty), "{name} is out of order");
        assert!(table[i + 1..].iter().all(|other| other.name() != ty.name()), "{name} twice");
    }
    assert_eq!(AttributeType(0x7777).name(), None);
    assert_eq!(AttributeType(0x7777).to_string(), "attribute 0x7777");
}

#[test]
fn the_upper_half_of_the_numbers_is_optional() {
    //= rfc8489#section-14
    //= type=test
    //# Attributes with type values between 0x0000 and 0x7FFF are
    //# comprehension-required attributes, which means that the STUN agent
    //# cannot successfully process the message unless it understands the
    //# attribute.
    assert!(AttributeType(0x0000).is_comprehension_required());
    assert!(AttributeType(0x7FFF).is_comprehension_required());
    assert!(!AttributeType(0x8000).is_comprehension_required());
    assert!(!AttributeType(0xFFFF).is_comprehension_required());
}

#[test]
fn addresses_are_drawn_plain_or_xored() {
    let v4: SocketAddr = "192.0.2.1:32853".parse().unwrap();
    let plain = b"\x00\x01\x80\x55\xC0\x00\x02\x01";
    let xored = b"\x00\x01\xA1\x47\xE1\x12\xA6\x43";
    both_ways(MappedAddress(v4), 0x0001, plain);
    both_ways(AlternateServer(v4), 0x8023, plain);
    both_ways(ResponseOrigin(v4), 0x802B, plain);
    both_ways(OtherAddress(v4), 0x802C, plain);
    both_ways(XorMappedAddress(v4), 0x0020, xored);
    both_ways(XorPeerAddress(v4), 0x0012, xored);
    both_ways(XorRelayedAddress(v4), 0x0016, xored);

    let v6: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
    let plain = b"\x00\x02\x00\x01\x20\x01\x0D\xB8\0\0\0\0\0\0\0\0\0\0\0\x01";
    both_ways(MappedAddress(v6), 0x0001, plain);
    let mut xored = *plain;
    for (byte, mask) in xored[4..].iter_mut().zip(b"\x21\x12\xa4\x42abcdefghijkl") {
        *byte ^= mask;
    }
    xored[2..4].copy_from_slice(&[0x21, 0x13]);
    both_ways(XorPeerAddress(v6), 0x0012, &xored);
}

#[test]
fn addresses_of_other_families_and_lengths_are_refused() {
    //= rfc8489#section-14.1
    //= type=test
    //# If the address family is IPv4, the address MUST be 32 bits.
    refused::<XorPeerAddress>(&[
        b"\x00\x01\xA1\x47\xE1\x12\xA6",
        b"\x00\x01\xA1\x47\xE1\x12\xA6\x43\0",
    ]);
    //= rfc8489#section-14.1
    //= type=test
    //# If the address family is IPv6, the address MUST be 128 bits.
    refused::<XorPeerAddress>(&[b"\x00\x02\xA1\x47\xE1\x12\xA6\x43"]);
    refused::<XorPeerAddress>(&[
        b"\x00\x02\xA1\x470123456789abcde",
        b"\x00\x02\xA1\x470123456789abcdefg",
    ]);
    refused::<XorPeerAddress>(&[b"", b"\0", b"\0\x01\0\0", b"\x00\x03\xA1\x47\xE1\x12\xA6\x43"]);
    //= rfc8489#section-14.1
    //= type=test
    //# The first 8 bits of the MAPPED-ADDRESS MUST be set to 0 and MUST be
    //# ignored by receivers.
    let first = XorPeerAddress::decode(b"\xFF\x01\xA1\x47\xE1\x12\xA6\x43", TID);
    assert_eq!(first, Some(XorPeerAddress("192.0.2.1:32853".parse().unwrap())));
}

#[test]
fn an_ipv4_address_inside_ipv6_stays_what_it_is_on_the_wire() {
    let mapped: SocketAddr = "[::ffff:192.0.2.1]:1".parse().unwrap();
    let mut value = [0; 20];
    XorPeerAddress(mapped).encode(&mut value, TID);
    assert_eq!(XorPeerAddress::decode(&value, TID), Some(XorPeerAddress(mapped)));
}

#[test]
fn strings() {
    both_ways(Username(b"alice"), 0x0006, b"alice");
    both_ways(Realm(b"example.org"), 0x0014, b"example.org");
    both_ways(Nonce(b"nonce"), 0x0015, b"nonce");
    both_ways(Software(b"Turnway"), 0x8022, b"Turnway");
    both_ways(AlternateDomain(b"turn.example"), 0x8003, b"turn.example");
    both_ways(Origin(b"https://example.org"), 0x802F, b"https://example.org");
    both_ways(ThirdPartyAuthorization(b"turn.example"), 0x802E, b"turn.example");
    both_ways(AccessToken(b"token"), 0x001B, b"token");
    both_ways(MobilityTicket(b""), 0x8030, b"");
    both_ways(Data(b"\0\x01\x02"), 0x0013, b"\0\x01\x02");
    both_ways(Padding(b"xxxx"), 0x0026, b"xxxx");
}

#[test]
fn overlong_strings_are_refused() {
    //= rfc8489#section-14.3
    //= type=test
    //# A compliant implementation MUST
    //# be able to parse a UTF-8-encoded sequence of 763 or fewer octets to
    //# be compatible with [RFC5389].
    let long = [b'a'; 764];
    assert_eq!(Username::decode(&long[..763], TID), Some(Username(&long[..763])));
    refused::<Username>(&[&long]);
    assert_eq!(Realm::decode(&long[..763], TID), Some(Realm(&long[..763])));
    refused::<Realm>(&[&long]);
    assert_eq!(Nonce::decode(&long[..763], TID), Some(Nonce(&long[..763])));
    refused::<Nonce>(&[&long]);
    assert_eq!(Software::decode(&long[..763], TID), Some(Software(&long[..763])));
    refused::<Software>(&[&long]);
    assert!(AlternateDomain::decode(&long[..255], TID).is_some());
    refused::<AlternateDomain>(&[&long[..256]]);
    let reason = [&[0, 0, 4, 0][..], &long].concat();
    assert!(ErrorCode::decode(&reason[..767], TID).is_some());
    refused::<ErrorCode>(&[&reason]);
}

#[test]
fn error_codes() {
    //= rfc8489#section-14.8
    //= type=test
    //# The Class represents
    //# the hundreds digit of the error code.
    let error = ErrorCode { code: code::STALE_NONCE, reason: b"Stale Nonce" };
    both_ways(error, 0x0009, b"\0\0\x04\x26Stale Nonce");
    let error =
        AddressErrorCode { family: Family::V6, code: code::INSUFFICIENT_CAPACITY, reason: b"" };
    both_ways(error, 0x8001, b"\x02\0\x05\x08");
    refused::<AddressErrorCode>(&[b"\x03\0\x05\x08", b"\x02\0\x05", b"\x02\0\x07\x08"]);
    //= rfc8489#section-14.8
    //= type=test
    //# The value MUST be between 3
    //# and 6.
    //= rfc8489#section-14.8
    //= type=test
    //# The Number represents the binary encoding of the error code
    //# modulo 100, and its value MUST be between 0 and 99.
    refused::<ErrorCode>(&[b"\0\0\x02\0", b"\0\0\x07\0", b"\0\0\x04\x64", b"\0\0\x04", b""]);
    //= rfc8489#section-14.8
    //= type=test
    //# Receivers MUST ignore these bits.
    let expected = ErrorCode { code: 401, reason: b"" };
    assert_eq!(ErrorCode::decode(b"\xFF\xFF\xFC\x01", TID), Some(expected));
    for code in 300..=699 {
        let error = ErrorCode { code, reason: b"" };
        let mut value = [0; 4];
        error.encode(&mut value, TID);
        assert_eq!(ErrorCode::decode(&value, TID), Some(error));
    }
}

#[test]
fn every_code_has_its_phrase() {
    assert_eq!(code::reason(code::UNAUTHENTICATED), "Unauthenticated");
    assert_eq!(code::reason(code::INSUFFICIENT_CAPACITY), "Insufficient Capacity");
    assert_eq!(code::reason(499), "");
}

#[test]
fn lists() {
    let types = [AttributeType(0x7777), AttributeType::ICMP];
    let value = encoded(&UnknownAttributes::new(&types));
    assert_eq!(value, b"\x77\x77\x80\x04");
    let listed = UnknownAttributes::decode(&value, TID).unwrap();
    assert_eq!(listed.iter().collect::<Vec<_>>(), types);
    assert_eq!(encoded(&listed), value);
    assert!(UnknownAttributes::decode(b"\x77\x77\x80", TID).is_none());

    let algorithms = [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
    let value = encoded(&PasswordAlgorithms::new(&algorithms));
    assert_eq!(value, b"\0\x02\0\0\0\x01\0\0");
    let offered = PasswordAlgorithms::decode(&value, TID).unwrap();
    assert_eq!(offered.iter().collect::<Vec<_>>(), [(2, &b""[..]), (1, b"")]);
    assert_eq!(encoded(&offered), value);
}

#[test]
fn password_algorithms_with_parameters() {
    //= rfc8489#section-14.11
    //= type=test
    //# The parameters are
    //# padded to a 32-bit boundary, in the same manner as an attribute.
    let value = b"\0\x09\0\x05hello\0\0\0\0\x01\0\0\0\x0A\0\x01x";
    let offered = PasswordAlgorithms::decode(value, TID).unwrap();
    let expected = [(9, &b"hello"[..]), (1, b""), (10, b"x")];
    assert_eq!(offered.iter().collect::<Vec<_>>(), expected);
    for len in [1, 2, 3, 5, 8] {
        assert!(PasswordAlgorithms::decode(&value[..len], TID).is_none(), "{len} bytes");
    }
    let md5 = PasswordAlgorithmAttribute(PasswordAlgorithm::Md5);
    both_ways(md5, 0x001D, b"\0\x01\0\0");
    let sha256 = PasswordAlgorithmAttribute(PasswordAlgorithm::Sha256);
    both_ways(sha256, 0x001D, b"\0\x02\0\0");
    refused::<PasswordAlgorithmAttribute>(&[b"\0\x03\0\0", b"\0\x01\0\x01x", b"\0\x01\0", b""]);
}

#[test]
fn numbers() {
    both_ways(ChannelNumber(0x4ABC), 0x000C, b"\x4A\xBC\0\0");
    both_ways(Lifetime(600), 0x000D, b"\0\0\x02\x58");
    both_ways(RequestedTransport(17), 0x0019, b"\x11\0\0\0");
    both_ways(ConnectionId(0x0102_0304), 0x002A, b"\x01\x02\x03\x04");
    both_ways(CacheTimeout(1), 0x8027, b"\0\0\0\x01");
    both_ways(Priority(0x6E00_01FF), 0x0024, b"\x6E\0\x01\xFF");
    both_ways(IceControlled(1), 0x8029, b"\0\0\0\0\0\0\0\x01");
    both_ways(IceControlling(2), 0x802A, b"\0\0\0\0\0\0\0\x02");
    both_ways(ReservationToken(*b"12345678"), 0x0022, b"12345678");
    both_ways(UserHash([7; 32]), 0x001E, &[7; 32]);
    refused::<ChannelNumber>(&[b"", b"\x40\0", b"\x40\0\0", b"\x40\0\0\0\0"]);
    refused::<Lifetime>(&[b"", b"\0\0\x02", b"\0\0\x02\x58\0"]);
    refused::<RequestedTransport>(&[b"", b"\x11", b"\x11\0\0\0\0"]);
    //= rfc8656#section-18.10
    //= type=test
    //# The attribute value is 8 bytes and contains the token value.
    refused::<ReservationToken>(&[b"", b"1234567", b"123456789"]);
    //= rfc8489#section-14.4
    //= type=test
    //# The value of USERHASH has a fixed length of 32 bytes.
    refused::<UserHash>(&[b"", &[7; 31], &[7; 33]]);
}

#[test]
fn flags() {
    both_ways(EvenPort { reserve_next: true }, 0x0018, b"\x80");
    both_ways(EvenPort { reserve_next: false }, 0x0018, b"\x00");
    refused::<EvenPort>(&[b"", b"\x80\0"]);
    //= rfc8656#section-18.9
    //= type=test
    //# This attribute has no value part,
    //# and thus, the attribute length field is 0.
    both_ways(DontFragment, 0x001A, b"");
    refused::<DontFragment>(&[b"\0"]);
    both_ways(UseCandidate, 0x0025, b"");
    for (change_ip, change_port, bits) in
        [(false, false, 0), (false, true, 2), (true, false, 4), (true, true, 6)]
    {
        let change = ChangeRequest { change_ip, change_port };
        both_ways(change, 0x0003, &[0, 0, 0, bits]);
    }
    both_ways(ResponsePort(5000), 0x0027, b"\x13\x88\0\0");
    assert_eq!(ResponsePort::decode(b"\x13\x88", TID), Some(ResponsePort(5000)));
    refused::<ResponsePort>(&[b"", b"\x13", b"\x13\x88\0", b"\x13\x88\0\0\0"]);
}

#[test]
fn families() {
    let requested = |family| RequestedAddressFamily { family };
    both_ways(requested(Some(Family::V4)), 0x0017, b"\x01\0\0\0");
    both_ways(requested(Some(Family::V6)), 0x0017, b"\x02\0\0\0");
    let unknown = RequestedAddressFamily::decode(b"\x03\0\0\0", TID);
    assert_eq!(unknown, Some(requested(None)));
    refused::<RequestedAddressFamily>(&[b"", b"\x01", b"\x01\0\0\0\0"]);
    let additional = AdditionalAddressFamily { family: Some(Family::V6) };
    both_ways(additional, 0x8000, b"\x02\0\0\0");
}

#[test]
fn icmp_has_seven_bits_of_type_and_nine_of_code() {
    let unreachable = Icmp { icmp_type: 3, code: 4, data: 1280 };
    both_ways(unreachable, 0x8004, b"\0\0\x06\x04\0\0\x05\0");
    let largest = Icmp { icmp_type: 127, code: 255, data: 0 };
    both_ways(largest, 0x8004, b"\0\0\xFE\xFF\0\0\0\0");
    // No ICMP code is above 255.
    refused::<Icmp>(&[b"\0\0\x07\x04\0\0\0\0", b"\0\0\x06\x04\0\0\0", b""]);
}

#[test]
fn reserved_bits_are_ignored_when_received() {
    //= rfc8656#section-18.1
    //= type=test
    //# The
    //# value portion of this attribute is 4 bytes long and consists of a
    //# 16-bit unsigned integer followed by a two-octet RFFU (Reserved For
    //# Future Use) field, which MUST be set to 0 on transmission and MUST be
    //# ignored on reception.
    let number = ChannelNumber::decode(b"\x40\x01\xFF\xFF", TID);
    assert_eq!(number, Some(ChannelNumber(0x4001)));
    //= rfc8656#section-18.6
    //= type=test
    //# Reserved:  At this point, the 24 bits in the Reserved field MUST be
    //# set to zero by the client and MUST be ignored by the server.
    let family = RequestedAddressFamily::decode(b"\x02\xFF\xFF\xFF", TID).unwrap();
    assert_eq!(family.family, Some(Family::V6));
    //= rfc8656#section-18.7
    //= type=test
    //# The RFFU field must be set to zero on transmission and ignored on
    //# reception.
    let even = EvenPort::decode(b"\x7F", TID);
    assert_eq!(even, Some(EvenPort { reserve_next: false }));
    //= rfc8656#section-18.8
    //= type=test
    //# The RFFU field MUST be set to zero on transmission and MUST be
    //# ignored on reception.
    let transport = RequestedTransport::decode(b"\x11\xFF\xFF\xFF", TID);
    assert_eq!(transport, Some(RequestedTransport(17)));
    //= rfc8656#section-18.13
    //= type=test
    //# Reserved:  This field MUST be set to 0 when sent and MUST be ignored
    //# when received.
    let icmp = Icmp::decode(b"\xFF\xFF\x06\x03\0\0\0\0", TID).unwrap();
    assert_eq!((icmp.icmp_type, icmp.code), (3, 3));
}

#[test]
fn secrets_and_payloads_do_not_show() {
    assert_eq!(format!("{:?}", AccessToken(b"token")), "AccessToken(5 bytes)");
    assert_eq!(format!("{:?}", MobilityTicket(b"ticket")), "MobilityTicket(6 bytes)");
    assert_eq!(format!("{:?}", Data(b"payload")), "Data(7 bytes)");
    assert_eq!(format!("{:?}", Username(b"al\nice")), "Username(\"al\\nice\")");
    let key = LongTermKey::derive(PasswordAlgorithm::Sha256, b"user", b"realm", b"pass");
    assert_eq!(format!("{key:?}"), "LongTermKey(Sha256, secret)");
}

#[test]
fn a_key_derived_elsewhere_must_have_its_length() {
    for (algorithm, right) in [(PasswordAlgorithm::Md5, 16), (PasswordAlgorithm::Sha256, 32)] {
        for len in 0..=33 {
            let key = LongTermKey::from_bytes(algorithm, &[7; 33][..len]);
            assert_eq!(key.is_some(), len == right);
            if let Some(key) = key {
                assert_eq!((key.algorithm(), key.as_bytes()), (algorithm, &[7; 33][..len]));
            }
        }
    }
}

/// `attribute` has this number and these bytes, and is what is read from them.
fn both_ways<'a, A>(attribute: A, number: u16, expected: &'a [u8])
where
    A: Encode + Attribute<'a> + PartialEq + Debug,
{
    assert_eq!(<A as Encode>::TYPE, AttributeType(number));
    assert_eq!(<A as Attribute>::TYPE, AttributeType(number));
    assert_eq!(encoded(&attribute), expected, "{attribute:?}");
    assert_eq!(A::decode(expected, TID), Some(attribute));
}

fn encoded(attribute: &impl Encode) -> Vec<u8> {
    let mut value = vec![0xFF; attribute.encoded_len()];
    attribute.encode(&mut value, TID);
    value
}

fn refused<'a, A: Attribute<'a>>(values: &[&'a [u8]]) {
    for value in values {
        assert!(A::decode(value, TID).is_none(), "{} from {value:?}", A::TYPE);
    }
}
