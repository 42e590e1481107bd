//! Established sessions: records, and what is none.

use proptest::prelude::*;
use turnway_dtls::{PLAINTEXT_MAX, RECORD_OVERHEAD, Received, SendError};

use crate::common::{Client, Server, context, converse, established};

#[test]
fn each_datagram_of_the_relay_is_one_datagram_on_the_wire() {
    let (mut client, mut server) = established();
    for len in [1, 20, 1200, 1500, 9000, PLAINTEXT_MAX] {
        let plain = vec![len as u8; len];
        let record = server.send(&plain);
        assert!(record.len() <= len + RECORD_OVERHEAD);
        client.take(&[record]);
        assert_eq!(client.received.pop().unwrap(), plain);
        let record = client.send(&plain);
        assert_eq!(server.take(&record), [b""; 0]);
        assert_eq!(server.received.pop().unwrap(), plain);
    }
}

#[test]
fn what_cannot_be_sent_is_refused_and_harms_nothing() {
    let (mut client, mut server) = established();
    let mut out = vec![0; PLAINTEXT_MAX + 1 + RECORD_OVERHEAD];
    let long = vec![0; PLAINTEXT_MAX + 1];
    let session = server.session();
    assert_eq!(session.send(&long, &mut out), Err(SendError::TooLong));
    let short = session.send(b"1234", &mut out[..3 + RECORD_OVERHEAD]);
    assert_eq!(short, Err(SendError::TooLong));
    assert_eq!(session.send(b"", &mut out), Ok(0));
    let record = server.send(b"1234");
    client.take(&[record]);
    assert_eq!(client.received, [b"1234"]);

    let mut server = Server::new(&context());
    let mut client = Client::new();
    let first = client.take(&[]).remove(0);
    let second = client.take(&server.take(&first)).remove(0);
    server.take(&second);
    let early = server.session().send(b"early", &mut out);
    assert_eq!(early, Err(SendError::NotEstablished));
}

#[test]
fn a_replayed_record_delivers_nothing() {
    let (mut client, mut server) = established();
    let records: Vec<_> = (0..5u8).map(|n| client.send(&[n])).collect();
    for record in records.iter().rev().chain(&records) {
        server.take(record);
    }
    let expected: Vec<Vec<u8>> = (0..5).rev().map(|n| vec![n]).collect();
    assert_eq!(server.received, expected, "each once, in any order");
}

#[test]
fn several_records_in_a_datagram_are_delivered_one_by_one() {
    let (mut client, mut server) = established();
    let records = [client.send(b"one"), client.send(b"two"), client.send(b"three")];
    server.take(&records.concat());
    assert_eq!(server.received, [&b"one"[..], b"two", b"three"]);
}

#[test]
fn damaged_records_are_dropped_and_the_session_lives() {
    let (mut client, mut server) = established();
    let record = client.send(b"payload");
    for at in 0..record.len() {
        let mut damaged = record.clone();
        damaged[at] ^= 0x55;
        assert_eq!(server.take(&damaged), [b""; 0]);
        server.take(&record[..at]);
    }
    assert_eq!(server.received, [b""; 0]);
    server.take(&record);
    assert_eq!(server.received, [b"payload"]);
    assert_eq!(server.events, [Received::Established]);
}

#[test]
fn a_forged_alert_or_handshake_in_the_clear_does_not_end_a_session() {
    let (mut client, mut server) = established();
    let alert = b"\x15\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x63\x00\x02\x02\x28";
    let close = b"\x15\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x64\x00\x02\x01\x00";
    let change = b"\x14\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x65\x00\x01\x01";
    for forged in [&alert[..], close, change] {
        assert_eq!(server.take(forged), [b""; 0]);
    }
    let record = client.send(b"alive");
    server.take(&record);
    assert_eq!(server.received, [b"alive"]);
}

#[test]
fn close_notify_is_answered_and_ends_the_session() {
    let (mut client, mut server) = established();
    client.stream.shutdown().unwrap();
    let goodbye = client.sent().remove(0);
    let answer = server.take(&goodbye);
    assert_eq!(server.events.last(), Some(&Received::Closed));
    assert!(!server.session().is_established());
    client.take(&answer);
    assert!(client.closed);
    let mut out = [0; 100];
    let late = server.session().send(b"late", &mut out);
    assert_eq!(late, Err(SendError::NotEstablished));
}

#[test]
fn our_close_is_seen_by_the_client() {
    let (mut client, mut server) = established();
    let mut sent = Vec::new();
    server.session().close(|datagram| sent.push(datagram.to_vec()));
    server.session().close(|_| panic!("once is enough"));
    assert_eq!(sent.len(), 1);
    client.take(&sent);
    assert!(client.closed);
}

#[test]
fn a_flood_of_early_records_is_not_kept() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    let first = client.take(&[]).remove(0);
    let second = client.take(&server.take(&first)).remove(0);
    let flight = server.take(&second);
    let before = resident();
    for sequence in 0..10_000u32 {
        let mut record = b"\x16\xfe\xfd\x00\x01\x00\x00".to_vec();
        record.extend_from_slice(&sequence.to_be_bytes());
        record.extend_from_slice(b"\x00\x18");
        record.extend_from_slice(&[0; 24]);
        server.take(&record);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes are kept");
    assert!(!flight.is_empty() && !server.failed());
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn records_without_room_for_a_tag_do_not_end_a_session() {
    for cipher in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"] {
        let mut server = Server::new(&context());
        let mut client = Client::with(|builder| builder.set_cipher_list(cipher).unwrap(), |_| ());
        converse(&mut client, &mut server);
        for kind in 20..25 {
            for len in 0..40u8 {
                let mut short = vec![kind, 254, 253, 0, 1, 0, 0, 0, 0, 99, len, 0, len];
                short.resize(13 + usize::from(len), 0);
                assert_eq!(server.take(&short), [b""; 0], "{cipher} {kind} {len}");
                // OpenSSL looks into records of other versions for the next.
                let mut hidden = vec![kind, 254, 255, 0, 0, 0, 0, 0, 0, 99, len, 0, len + 13];
                hidden.extend_from_slice(&short);
                assert_eq!(server.take(&hidden), [b""; 0], "{cipher} {kind} {len}");
            }
        }
        let record = client.send(b"!");
        server.take(&record);
        assert_eq!(server.received, [b"!"]);
        client.stream.shutdown().unwrap();
        let goodbye = client.sent().remove(0);
        server.take(&goodbye);
        assert_eq!(server.events, [Received::Established, Received::Closed]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_garbage_ends_a_session(
        garbage in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..2000), any::<bool>()), 1..30),
    ) {
        let (mut client, mut server) = established();
        for (mut datagram, looks_like_dtls) in garbage {
            if looks_like_dtls && datagram.len() > 13 {
                let len = (datagram.len() - 13) as u16;
                datagram[0] = 20 + datagram[0] % 5;
                datagram[1..3].copy_from_slice(&[254, 253]);
                datagram[3] = 0;
                datagram[4] %= 3;
                datagram[11..13].copy_from_slice(&len.to_be_bytes());
            }
            prop_assert_eq!(server.take(&datagram).len(), 0);
        }
        let record = client.send(b"alive");
        server.take(&record);
        prop_assert_eq!(&server.received, &[b"alive".to_vec()]);
    }
}
