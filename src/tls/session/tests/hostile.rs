//! What is not TLS, or not meant well.

use proptest::prelude::*;
use rustls::ConnectionTrafficSecrets::Aes256Gcm;
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::{AlertDescription, ContentType, ProtocolVersion, SupportedCipherSuite};

use super::*;

fn session() -> Session {
    Session::new(Arc::clone(&World::new().snapshot))
}

fn receive(session: &mut Session, bytes: &[u8]) -> Result<Received, SessionError> {
    session.receive(&mut bytes.to_vec(), 0, &mut Vec::new())
}

/// A record of the handshake with this content.
fn record(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[HANDSHAKE, 3, 1], &length[..], content].concat()
}

#[test]
fn what_is_not_tls_is_seen_at_the_first_byte() {
    for first in [&b"GET / HTTP/1.1\r\n"[..], &[0, 1, 0, 0], &[0x40, 0], &[21], &[23], &[0x80]] {
        for len in 1..=first.len() {
            let mut session = session();
            let error = receive(&mut session, &first[..len]).unwrap_err();
            assert_eq!(error.label(), "not_tls", "{first:?}");
            assert_eq!(receive(&mut session, first).unwrap_err().label(), "over");
        }
    }
}

#[test]
fn a_hello_that_is_none_is_answered_with_an_alert() {
    let mut out = Vec::new();
    let mut bytes = record(&[1, 0, 0, 3, 9, 9, 9]);
    let error = session().receive(&mut bytes, 0, &mut out).unwrap_err();
    assert_eq!(error.label(), "handshake");
    assert_eq!((out[0], out.len()), (21, 7), "an alert in the clear");
}

#[test]
fn only_so_much_of_a_hello_is_waited_for() {
    // A hello of 60000 bytes, in records of 1000.
    let mut bytes = record(&[&[1, 0, 0xea, 0x60][..], &[0; 996]].concat());
    let mut session = session();
    loop {
        match receive(&mut session, &bytes) {
            Ok(received) => assert_eq!(received, Received { plain: 0, consumed: 0, closed: false }),
            Err(error) => break assert_eq!(error.label(), "too_long"),
        }
        assert!(bytes.len() <= MAX_PENDING);
        bytes.extend(record(&[0; 1000]));
    }
    // And a record that is longer than there may be.
    assert!(receive(&mut self::session(), &[HANDSHAKE, 3, 1, 0xff, 0xff]).is_err());
}

#[test]
fn a_record_that_was_tampered_with_ends_the_session_with_an_alert() {
    let world = World::new();
    for version in VERSIONS {
        let mut pair = world.established(version);
        pair.client.writer().write_all(b"do not touch").unwrap();
        let mut bytes = pair.client_sends();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(pair.feed(&bytes).unwrap_err().label(), "record");
        let seen = pair.client.process_new_packets().unwrap_err();
        assert_eq!(seen, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
        assert!(pair.session.send(b"x", &mut Vec::new()).is_err());
        pair.session.close(&mut Vec::new());
    }
}

/// rustls keeps the beginning of a message in the caller's buffer, and would look for it there at
/// the next send; no client has a reason to cut a message of five bytes.
#[test]
fn a_message_in_pieces_after_the_handshake_ends_the_session() {
    let world = World::new();
    let mut config = world.client_config(&TLS13);
    config.enable_secret_extraction = true;
    let mut pair = world.pair(&Arc::new(config));
    pair.settle().unwrap();
    let suite = pair.client.negotiated_cipher_suite().unwrap();
    let SupportedCipherSuite::Tls13(suite) = suite else { panic!("{suite:?} is not of 1.3") };
    let secrets = pair.client.dangerous_extract_secrets().unwrap();
    let (sequence, Aes256Gcm { key, iv }) = secrets.tx else { panic!("another cipher") };
    let mut cipher = suite.aead_alg.encrypter(key, iv);
    let begin_of_key_update = OutboundPlainMessage {
        typ: ContentType::Handshake,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(&[24, 0, 0]),
    };
    let mut bytes = cipher.encrypt(begin_of_key_update, sequence).unwrap().encode();
    let error = pair.session.receive(&mut bytes, 0, &mut Vec::new()).unwrap_err();
    assert_eq!(error.label(), "too_long");
    assert!(pair.session.send(b"x", &mut Vec::new()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever comes, whenever: an error or nothing, and never more kept than was said.
    #[test]
    fn no_bytes_break_a_session(
        cut in 0..4000_usize,
        noise in prop::collection::vec(any::<u8>(), 1..600),
        step in 1..700_usize,
        old in any::<bool>(),
    ) {
        let world = World::new();
        let version = VERSIONS[usize::from(old)];
        let mut pair = world.pair(&Arc::new(world.client_config(version)));
        let mut fed = 0;
        let mut failed = false;
        while pair.client.wants_write() && fed < cut && !failed {
            let bytes = pair.client_sends();
            let take = bytes.len().min(cut - fed);
            fed += take;
            failed = bytes[..take].chunks(step).any(|piece| pair.feed(piece).is_err());
        }
        for piece in noise.chunks(step) {
            failed = failed || pair.feed(piece).is_err();
            prop_assert!(pair.carry.len() <= MAX_PENDING);
            let sent = pair.session.send(b"answer", &mut Vec::new());
            prop_assert!(sent.is_err() || !failed);
        }
        pair.session.close(&mut Vec::new());
    }
}
