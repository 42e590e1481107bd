//! The cookie exchange: who gets a session, and what strangers get.

use turnway_dtls::{CookieSecret, Ignored, Judged, Listener, Received, VERIFY_REQUEST_LEN};

use crate::common::{Client, Server, context, established, listener, shift};

const PEER: &[u8] = b"192.0.2.1:1000";

/// The first ClientHello, and a function of the answer that gives the second.
fn hellos(listener: &mut Listener, peer: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut client = Client::new();
    let first = client.take(&[]).remove(0);
    let answer = answer(listener, peer, &first).expect("a first hello is answered");
    let second = client.take(&[answer]).remove(0);
    (first, second)
}

fn answer(listener: &mut Listener, peer: &[u8], datagram: &[u8]) -> Option<Vec<u8>> {
    let mut out = [0; VERIFY_REQUEST_LEN];
    match listener.judge(peer, datagram, &mut out) {
        Judged::Answer(len) => Some(out[..len].to_vec()),
        Judged::Ignore(_) | Judged::Accept(_) => None,
    }
}

fn accepts(listener: &mut Listener, peer: &[u8], datagram: &[u8]) -> bool {
    let judged = listener.judge(peer, datagram, &mut [0; VERIFY_REQUEST_LEN]);
    matches!(judged, Judged::Accept(_))
}

fn ignored(listener: &mut Listener, datagram: &[u8]) -> Ignored {
    match listener.judge(PEER, datagram, &mut [0; VERIFY_REQUEST_LEN]) {
        Judged::Ignore(reason) => reason,
        Judged::Answer(_) | Judged::Accept(_) => panic!("was not ignored"),
    }
}

//= rfc7350#section-4.6
//= type=test
//# A TURN server using DTLS MUST implement the
//# denial-of-service countermeasure described in Section 4.2.1 of
//# [RFC6347].
#[test]
fn a_session_is_for_those_who_return_the_cookie() {
    let mut listener = listener(&context());
    let (first, second) = hellos(&mut listener, PEER);
    for _ in 0..3 {
        let answer = answer(&mut listener, PEER, &first).unwrap();
        assert!(answer.len() < first.len(), "nothing is amplified");
    }
    assert!(accepts(&mut listener, PEER, &second));
}

#[test]
fn a_cookie_is_bound_to_the_five_tuple() {
    let mut listener = listener(&context());
    let (_, second) = hellos(&mut listener, PEER);
    assert!(answer(&mut listener, b"192.0.2.1:1001", &second).is_some());
    assert!(answer(&mut listener, b"192.0.2.2:1000", &second).is_some());
    assert!(accepts(&mut listener, PEER, &second));
}

#[test]
fn a_cookie_is_bound_to_the_clients_random() {
    let mut listener = listener(&context());
    let (_, mut second) = hellos(&mut listener, PEER);
    second[13 + 12 + 2] ^= 1;
    assert!(answer(&mut listener, PEER, &second).is_some());
}

#[test]
fn a_wrong_cookie_is_answered_like_none() {
    let mut listener = listener(&context());
    let (first, mut second) = hellos(&mut listener, PEER);
    let right = answer(&mut listener, PEER, &first).unwrap();
    let cookie_at = 13 + 12 + 2 + 32 + 1 + 1;
    second[cookie_at + 31] ^= 1;
    let again = answer(&mut listener, PEER, &second).unwrap();
    assert_eq!(again[28..], right[28..], "the cookie depends on no cookie");
    let mut other = Listener::new(&context(), CookieSecret::new([8; 32]));
    second[cookie_at + 31] ^= 1;
    assert!(answer(&mut other, PEER, &second).is_some());
}

#[test]
fn a_cookie_outlives_one_rotation_and_no_second() {
    let mut listener = listener(&context());
    let (_, second) = hellos(&mut listener, PEER);
    listener.rotate(CookieSecret::new([1; 32]));
    assert!(accepts(&mut listener, PEER, &second));
    listener.rotate(CookieSecret::new([2; 32]));
    assert!(!accepts(&mut listener, PEER, &second));
}

#[test]
fn a_cookie_in_a_first_message_opens_nothing() {
    let mut listener = listener(&context());
    let (_, mut second) = hellos(&mut listener, PEER);
    second[13 + 5] = 0;
    assert!(answer(&mut listener, PEER, &second).is_some());
}

#[test]
fn what_is_no_hello_is_ignored() {
    let mut listener = listener(&context());
    let (first, second) = hellos(&mut listener, PEER);
    for datagram in [&b""[..], b"\x00\x01\x00\x00\x21\x12\xa4\x42", b"\x16\xfe\xfd", &[0xff; 2000]]
    {
        assert_eq!(ignored(&mut listener, datagram), Ignored::NotHello);
    }
    for (at, value) in [(0, 23), (0, 21), (0, 20), (1, 3), (3, 1), (4, 1), (13, 2)] {
        let mut changed = first.clone();
        changed[at] = value;
        assert_eq!(ignored(&mut listener, &changed), Ignored::NotHello);
    }
    for (at, value) in [(13 + 5, 2), (13 + 3, 1), (13 + 11, 1), (25, 3)] {
        let mut changed = first.clone();
        changed[at] = value;
        assert_eq!(ignored(&mut listener, &changed), Ignored::Malformed, "{at}");
    }
    for hello in [&first, &second] {
        for len in 0..hello.len() {
            let reason = ignored(&mut listener, &hello[..len]);
            assert!(matches!(reason, Ignored::NotHello | Ignored::Malformed));
        }
    }
}

/// The record of a fragment of the ClientHello in `datagram`.
fn fragment(datagram: &[u8], from: usize, to: usize) -> Vec<u8> {
    let body = &datagram[25..];
    let mut record = datagram[..25].to_vec();
    let record_len = (12 + to - from) as u16;
    record[11..13].copy_from_slice(&record_len.to_be_bytes());
    record[10] += from.min(1) as u8;
    record[19..22].copy_from_slice(&(from as u32).to_be_bytes()[1..]);
    record[22..25].copy_from_slice(&((to - from) as u32).to_be_bytes()[1..]);
    record.extend_from_slice(&body[from..to]);
    record
}

#[test]
fn a_fragmented_hello_is_accepted_when_the_cookie_is_in_its_first_part() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    let first = client.take(&[]).remove(0);
    let end = first.len() - 25;
    assert_eq!(server.take(&fragment(&first, 100, end)), [b""; 0]);
    let answer = server.take(&fragment(&first, 0, 100));
    let second = client.take(&answer).remove(0);
    let end = second.len() - 25;
    assert_eq!(ignored(&mut server.listener, &fragment(&second, 0, 60)), Ignored::Fragment);
    assert_eq!(server.take(&fragment(&second, 100, end)), [b""; 0]);
    assert_eq!(server.take(&fragment(&second, 0, 100)), [b""; 0]);
    assert!(server.session.is_some(), "the rest goes to the session");
    let flight = server.take(&fragment(&second, 100, end));
    for mut datagram in client.take(&flight) {
        shift(&mut datagram, 1); // the second fragment took a number that the client knows not of
        for last in server.take(&datagram) {
            client.take(&[last]);
        }
    }
    assert_eq!(server.events, [Received::Established]);
    assert!(client.is_established());
}

#[test]
fn an_established_client_that_begins_anew_is_recognised_and_disturbs_nothing() {
    let (mut client, mut server) = established();
    let mut anew = Client::new();
    let hello = anew.take(&[]).remove(0);
    assert!(turnway_dtls::opens_association(&hello));
    assert!(!turnway_dtls::opens_association(&client.send(b"data")));
    assert_eq!(server.take(&hello), [b""; 0], "the session ignores it");
    let request = client.send(b"more");
    server.take(&request);
    assert_eq!(server.received, [b"more"]);
    let old = server.session.take();
    let answer = server.take(&hello);
    for datagram in anew.take(&answer) {
        let flight = server.take(&datagram);
        assert!(!anew.take(&flight).is_empty());
    }
    assert!(server.session.is_some() && old.is_some());
}

#[test]
fn a_damaged_hello_with_a_valid_cookie_breaks_nothing() {
    let context = context();
    let mut listener = listener(&context);
    let (_, second) = hellos(&mut listener, PEER);
    // Everything after the cookie: cipher suites, compression, extensions.
    for at in 13 + 12 + 2 + 32 + 1 + 1 + 32..second.len() {
        let mut damaged = second.clone();
        damaged[at] ^= 0xff;
        let mut server = Server::new(&context);
        server.peer = PEER.to_vec();
        server.take(&damaged);
        let session = server.session.expect("the cookie is valid");
        assert!(!session.is_established());
    }
}
