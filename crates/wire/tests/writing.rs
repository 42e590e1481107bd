//! What [`Builder`] and [`Prefix`] put on the wire.

use std::net::SocketAddr;

use turnway_wire::{
    BufferFull, Builder, ChannelData, Class, Data, IntegrityAlgorithm, IntegrityKey, Message,
    Method, Nonce, Prefix, Realm, Software, TransactionId, Username, XorPeerAddress, padding,
};

const TID: TransactionId = TransactionId([0x5A; 12]);

#[test]
fn padding_is_zero_even_where_the_buffer_was_dirty() {
    //= rfc8489#section-14
    //= type=test
    //# The
    //# padding bits MUST be set to zero on sending and MUST be ignored by
    //# the receiver.
    for len in 0..=8 {
        let value = &b"abcdefgh"[..len];
        let mut out = [0xFF; 64];
        let mut builder = start(&mut out);
        builder.add(&Username(value)).unwrap();
        let end = builder.finish();
        assert_eq!(end, 24 + len + padding(len));
        assert_eq!(out[24..24 + len], *value);
        assert!(out[24 + len..end].iter().all(|&byte| byte == 0));
        assert!(out[end..].iter().all(|&byte| byte == 0xFF), "wrote beyond the message");
    }
}

#[test]
fn every_call_leaves_a_whole_message() {
    let mut out = [0xFF; 256];
    let key = IntegrityKey::new(IntegrityAlgorithm::Sha1, b"key");
    let mut lens = Vec::new();
    let mut builder = start(&mut out);
    lens.push(builder.len());
    builder.add(&Realm(b"example.org")).unwrap();
    lens.push(builder.len());
    builder.integrity(&key).unwrap();
    lens.push(builder.len());
    //= rfc8489#section-14.7
    //= type=test
    //# Therefore, prior to computation of the CRC, this
    //# value must be correct and include the CRC attribute as part of the
    //# message length.
    builder.fingerprint().unwrap();
    lens.push(builder.len());
    let end = builder.finish();
    assert_eq!(lens, [20, 36, 60, 68]);
    let message = Message::parse(&out[..end]).unwrap();
    assert!(message.verify(&key) && message.has_fingerprint());
}

#[test]
fn a_full_buffer_is_reported_and_the_message_stays_as_it_was() {
    let key = IntegrityKey::new(IntegrityAlgorithm::Sha256, b"key");
    for room in 0..20 {
        let mut out = [0; 20];
        let started = Builder::new(&mut out[..room], Class::Request, Method::BINDING, TID);
        assert_eq!(started.err(), Some(BufferFull));
    }
    for room in 28..36 {
        let mut out = [0xFF; 36];
        let mut builder = start(&mut out[..room]);
        builder.add(&Software(b"soft")).unwrap();
        assert_eq!(builder.add(&Software(b"ware!")), Err(BufferFull));
        assert_eq!(builder.integrity(&key), Err(BufferFull));
        assert_eq!(builder.fingerprint(), Err(BufferFull));
        let end = builder.finish();
        let message = Message::parse(&out[..end]).unwrap();
        assert_eq!(message.attributes().count(), 1);
    }
}

#[test]
fn a_message_never_outgrows_its_length_field() {
    let mut out = vec![0; 200_000];
    let long = vec![0; 70_000];
    let mut builder = start(&mut out);
    assert_eq!(builder.add(&Data(&long[..65_536])), Err(BufferFull));
    assert_eq!(builder.add(&Data(&long[..65_529])), Err(BufferFull));
    builder.add(&Data(&long[..65_520])).unwrap();
    assert_eq!(builder.add(&Data(&long[..8])), Err(BufferFull));
    builder.add(&Data(&long[..4])).unwrap();
    assert_eq!(builder.add(&Data(b"")), Err(BufferFull));
    let end = builder.finish();
    assert_eq!(end, 65_552);
    assert!(Message::parse(&out[..end]).is_ok());
}

#[test]
fn the_same_call_on_any_buffer_gives_the_same_bytes() {
    let build = |out: &mut [u8]| {
        let key = IntegrityKey::new(IntegrityAlgorithm::Sha256, b"key");
        let mut builder = start(out);
        builder.add(&Nonce(b"nonce")).unwrap();
        builder.integrity(&key).unwrap();
        builder.fingerprint().unwrap();
        builder.finish()
    };
    let (mut clean, mut dirty) = ([0; 128], [0xFF; 128]);
    let (a, b) = (build(&mut clean), build(&mut dirty));
    assert_eq!(clean[..a], dirty[..b]);
}

#[test]
fn channel_prefix_makes_a_channel_data_message() {
    let prefix = Prefix::channel(0x4ABC, 5);
    let datagram = [prefix.as_bytes(), b"hello"].concat();
    assert_eq!(datagram[..4], [0x4A, 0xBC, 0x00, 0x05]);
    let expected = ChannelData { number: 0x4ABC, data: b"hello" };
    assert_eq!(ChannelData::parse(&datagram), Some(expected));
}

#[test]
fn data_prefix_makes_the_data_indication_the_builder_would() {
    let peers: [SocketAddr; 2] =
        ["192.0.2.1:5000".parse().unwrap(), "[2001:db8::1]:5000".parse().unwrap()];
    for peer in peers {
        for len in [0, 1, 2, 3, 4, 5, 1200, Prefix::MAX_DATA] {
            let payload = vec![0xAB; usize::from(len)];
            let prefix = Prefix::data(peer, len, TID);
            let pad = &[0; 3][..padding(payload.len())];
            let datagram = [prefix.as_bytes(), &payload, pad].concat();

            let mut out = vec![0xFF; 70_000];
            let mut builder = Builder::new(&mut out, Class::Indication, Method::DATA, TID).unwrap();
            builder.add(&XorPeerAddress(peer)).unwrap();
            builder.add(&Data(&payload)).unwrap();
            let end = builder.finish();
            assert_eq!(datagram, out[..end], "{peer}, {len} bytes");
            assert!(Message::parse(&datagram).is_ok());
        }
    }
}

fn start(out: &mut [u8]) -> Builder<'_> {
    Builder::new(out, Class::Success, Method::BINDING, TID).unwrap()
}
