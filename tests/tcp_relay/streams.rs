//! A client's connections, and bytes that a seed repeats.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use turnway_wire::{ConnectionId, Message, Method, RequestedTransport, XorPeerAddress};

use crate::common::client::{Client, Random};
use crate::common::{PATIENCE, Relay, own_address};

/// A client's data connection.
pub(crate) struct Data {
    pub(crate) stream: TcpStream,
    /// What came with the answer to the ConnectionBind.
    pub(crate) early: Vec<u8>,
}

/// A control connection with its relayed transport address.
pub(crate) fn allocate(relay: &Relay) -> (Client, SocketAddr) {
    let mut client = Client::tcp(relay.address);
    let answer = client.request(Method::ALLOCATE, &|b| b.add(&RequestedTransport(6)));
    let at = answer.expect_success().relayed()[0];
    (client, at)
}

/// Something for the relay to connect to.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
    let address = listener.local_addr().expect("a socket");
    (listener, address)
}

/// Has the relay connect to a peer: the CONNECTION-ID.
#[track_caller]
pub(crate) fn connect(control: &mut Client, peer: SocketAddr) -> u32 {
    let answer = control.request(Method::CONNECT, &|b| b.add(&XorPeerAddress(peer)));
    let answer = answer.expect_success();
    let id = answer.message().get::<ConnectionId>().expect("well-formed");
    id.expect("CONNECTION-ID").0
}

/// Waits for a ConnectionAttempt: the CONNECTION-ID and the peer.
#[track_caller]
pub(crate) fn attempted(control: &mut Client) -> (u32, SocketAddr) {
    let bytes = control.next_message();
    let message = Message::parse(&bytes).expect("a message");
    assert_eq!(message.method(), Method::CONNECTION_ATTEMPT);
    let id = message.get::<ConnectionId>().expect("well-formed").expect("CONNECTION-ID").0;
    let peer = message.get::<XorPeerAddress>().expect("well-formed").expect("a peer").0;
    (id, peer)
}

/// Binds a connection to a peer to a new one of the client's.
#[track_caller]
pub(crate) fn bind(relay: &Relay, id: u32) -> Data {
    let mut client = Client::tcp(relay.address);
    client.request(Method::CONNECTION_BIND, &|b| b.add(&ConnectionId(id))).expect_success();
    let (stream, early) = client.into_stream();
    Data { stream, early }
}

/// What comes to a listener.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Both ends of a connection through the relay.
#[track_caller]
pub(crate) fn joined(relay: &Relay, control: &mut Client) -> (Data, TcpStream) {
    let (listener, peer) = listen();
    let id = connect(control, peer);
    let peer = accept(&listener);
    (bind(relay, id), peer)
}

/// A peer that connects from an address of its own.
pub(crate) fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let stream = turnway_udp::connect_from(SocketAddr::new(from.into(), 0), to);
    let stream = stream.expect("a socket");
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Bytes that a seed repeats.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    Random(seed).bytes(len)
}

/// Sends so many bytes.
pub(crate) fn send(mut to: &TcpStream, len: usize, seed: u64) {
    to.write_all(&bytes(len, seed)).expect("sent");
}

/// Receives as many, which must be the same.
#[track_caller]
pub(crate) fn receive(mut from: &TcpStream, len: usize, seed: u64) {
    let mut received = vec![0; len];
    from.read_exact(&mut received).expect("received");
    assert!(received == bytes(len, seed), "other bytes than were sent");
}
