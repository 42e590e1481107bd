//! Handshakes over a network that loses datagrams.

use std::thread;

use turnway_dtls::Received;

use crate::common::{Client, Server, context, converse, shift};

/// What the server sends when its timer has run out.
fn retransmitted(server: &mut Server) -> Vec<Vec<u8>> {
    let left = server.session().time_left();
    thread::sleep(left.expect("a flight waits for its answer"));
    let mut out = Vec::new();
    let received = server.session().retransmit(|sent| out.push(sent.to_vec()));
    assert_eq!(received, Received::Idle);
    out
}

#[test]
fn a_lost_flight_of_the_server_is_sent_again() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    let first = client.take(&[]).remove(0);
    let second = client.take(&server.take(&first)).remove(0);
    assert!(server.session.is_none());
    let lost = server.take(&second);
    assert!(!lost.is_empty());
    let mut early = Vec::new();
    let received = server.session().retransmit(|sent| early.push(sent.to_vec()));
    assert_eq!(received, Received::Idle);
    assert_eq!(early, [b""; 0], "before its time nothing is sent");

    let flight = retransmitted(&mut server);
    for datagram in client.take(&flight) {
        for last in server.take(&datagram) {
            client.take(&[last]);
        }
    }
    assert!(client.is_established() && server.session().is_established());
    assert_eq!(server.session().time_left(), None);
}

#[test]
fn a_client_that_repeats_its_last_flight_gets_ours_again() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    let first = client.take(&[]).remove(0);
    let second = client.take(&server.take(&first)).remove(0);
    let last_of_client = client.take(&server.take(&second));
    for datagram in &last_of_client {
        server.take(datagram); // what it answers is lost
    }
    assert!(server.session().is_established() && !client.is_established());
    // OpenSSL's client repeats its flight after a second, whenever it is asked to read.
    let mut again = Vec::new();
    for _ in 0..200 {
        thread::sleep(std::time::Duration::from_millis(20));
        again = client.take(&[]);
        if !again.is_empty() {
            break;
        }
    }
    let answers: Vec<_> = again.iter().flat_map(|it| server.take(it)).collect();
    client.take(&answers);
    assert!(client.is_established());
    let request = client.send(b"at last");
    server.take(&request);
    assert_eq!(server.received, [b"at last"]);
}

#[test]
fn the_server_continues_with_the_sequence_number_of_the_hello() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    let mut first = client.take(&[]).remove(0);
    first[10] = 6; // as if it had been repeated six times
    let answer = server.take(&first).remove(0);
    assert_eq!(answer[10], 6);
    let mut second = client.take(&[answer]).remove(0);
    second[10] = 7;
    let flight = server.take(&second);
    assert_eq!(flight[0][5..11], [0, 0, 0, 0, 0, 7]);
    // The client would drop as a replay what has a number that it has seen.
    for datagram in client.take(&flight) {
        let mut datagram = datagram;
        shift(&mut datagram, 6);
        for last in server.take(&datagram) {
            client.take(&[last]);
        }
    }
    assert!(client.is_established() && server.session().is_established());
}

#[test]
fn every_datagram_twice_makes_one_association() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    let mut to_server = client.take(&[]);
    while !to_server.is_empty() {
        let mut to_client = Vec::new();
        for datagram in to_server.drain(..) {
            to_client.extend(server.take(&datagram));
            to_client.extend(server.take(&datagram));
        }
        let twice: Vec<_> = to_client.iter().flat_map(|it| [it.clone(), it.clone()]).collect();
        to_server = client.take(&twice);
    }
    assert_eq!(server.events, [Received::Established]);
    assert!(client.is_established());
}

#[test]
fn a_session_can_move_to_another_thread() {
    let mut server = Server::new(&context());
    let mut client = Client::new();
    converse(&mut client, &mut server);
    let request = client.send(b"moved");
    let server = thread::spawn(move || {
        server.take(&request);
        server
    });
    assert_eq!(server.join().unwrap().received, [b"moved"]);
}
