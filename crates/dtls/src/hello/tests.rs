use proptest::prelude::*;

use super::*;

/// A whole ClientHello in a record with sequence number 0x0102.
fn client_hello(message_sequence: u8, cookie: &[u8]) -> Vec<u8> {
    let mut body = vec![254, 253];
    body.extend_from_slice(&[0xaa; RANDOM_LEN]);
    body.push(0);
    body.push(cookie.len() as u8);
    body.extend_from_slice(cookie);
    body.extend_from_slice(b"\x00\x02\xc0\x2b\x01\x00");
    let len = body.len() as u8;
    let mut datagram = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 1, 2, 0, len + 12];
    datagram.extend_from_slice(&[1, 0, 0, len, 0, message_sequence, 0, 0, 0, 0, 0, len]);
    datagram.extend_from_slice(&body);
    datagram
}

#[test]
fn the_parts_of_a_hello_are_found() {
    let datagram = client_hello(1, b"cookie");
    let hello = parse(&datagram).unwrap();
    assert_eq!((hello.sequence, hello.message_sequence), (0x0102, 1));
    assert_eq!(hello.parameters.len(), 2 + 32 + 1);
    assert_eq!(hello.cookie, b"cookie");
}

#[test]
fn parameters_do_not_depend_on_the_cookie() {
    let (first, second) = (client_hello(0, b""), client_hello(1, &[9; 32]));
    let (first, second) = (parse(&first).unwrap(), parse(&second).unwrap());
    assert_eq!(first.parameters, second.parameters);
    assert_eq!((first.cookie.len(), second.cookie.len()), (0, 32));
}

#[test]
fn a_verify_request_is_no_longer_than_the_shortest_hello() {
    let shortest = RECORD_HEADER_LEN + MESSAGE_HEADER_LEN + 2 + RANDOM_LEN + 1 + 1;
    assert!(VERIFY_REQUEST_LEN <= shortest);
    let request = verify_request(0x0102, &[5; 32]);
    assert_eq!(request[..13], [22, 254, 255, 0, 0, 0, 0, 0, 0, 1, 2, 0, 47]);
    assert_eq!(request[13..25], [3, 0, 0, 35, 0, 0, 0, 0, 0, 0, 0, 35]);
    assert_eq!(request[25..28], [254, 255, 32]);
    assert_eq!(request[28..], [5; 32]);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(mut datagram in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&datagram);
        for (at, byte) in [22, 254, 253, 0, 0].into_iter().enumerate() {
            if let Some(place) = datagram.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(place) = datagram.get_mut(RECORD_HEADER_LEN) {
            *place = CLIENT_HELLO;
        }
        let _ = parse(&datagram);
    }
}
