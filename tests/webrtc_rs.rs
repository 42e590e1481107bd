//! The clients of webrtc-rs (crates `turn` and `stun`) with our daemon.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{PASSWORD, PATIENCE, REALM, Relay, USER};
use stun::agent::TransactionId;
use stun::message::{BINDING_REQUEST, Getter as _, Message};
use stun::xoraddr::XorMappedAddress;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

const DELETED: &str = "turnway_allocations_ended_total{reason=\"deleted\"}";

/// Messages each way.
const MESSAGES: u32 = 1_000;

#[tokio::test]
async fn the_turn_client_allocates_binds_and_relays_both_ways() {
    let relay = Relay::with_shards(2);
    let client = client(&relay, PASSWORD).await;
    let relayed = Arc::new(client.allocate().await.expect("an allocation"));
    let peer = Arc::new(socket(&relay).await);
    let peer_address = peer.local_addr().expect("a socket");
    let relayed_address = relayed.local_addr().expect("known since the Allocate");
    assert_eq!(relayed_address.ip(), relay.ip());

    // The first message goes by Send indication; with it the client asks for a channel. It tells
    // nobody that it has one: the relay does.
    let first = message(u32::MAX);
    relayed.send_to(&first, peer_address).await.expect("sent");
    assert_eq!(receive(&*peer).await, (first, relayed_address));
    sample(&relay, "turnway_channels", 1.0).await;
    sample(&relay, "turnway_permissions", 1.0).await;

    // Both ways at once, one message at a time each way: whatever is lost is missed at once.
    let echo = async {
        for number in 0..MESSAGES {
            let (data, from) = receive(&*peer).await;
            assert_eq!((data, from), (message(number), relayed_address));
            peer.send_to(&reply(number), from).await.expect("sent");
        }
    };
    let ask = async {
        for number in 0..MESSAGES {
            relayed.send_to(&message(number), peer_address).await.expect("sent");
            assert_eq!(receive(&*relayed).await, (reply(number), peer_address));
        }
    };
    tokio::join!(echo, ask);

    relayed.close().await.expect("closes");
    sample(&relay, DELETED, 1.0).await;
    assert_eq!(relay.allocations(), 0.0);
    client.close().await.expect("closes");
}

#[tokio::test]
async fn two_turn_clients_reach_each_other_by_their_relayed_addresses() {
    let relay = Relay::with_shards(2);
    let [one, other] = [client(&relay, PASSWORD).await, client(&relay, PASSWORD).await];
    let one = one.allocate().await.expect("an allocation");
    let other = other.allocate().await.expect("an allocation");
    let [one_address, other_address] =
        [one.local_addr(), other.local_addr()].map(|address| address.expect("known"));
    // The first message is refused, since the other has no permission yet for where it is from.
    let refused = "turnway_dropped_datagrams_total{side=\"peer\",reason=\"no_permission\"}";
    one.send_to(b"too early", other_address).await.expect("sent");
    sample(&relay, refused, 1.0).await;
    other.send_to(b"now", one_address).await.expect("sent");
    assert_eq!(receive(&one).await, (b"now".to_vec(), other_address));
    for number in 0..MESSAGES {
        one.send_to(&message(number), other_address).await.expect("sent");
        assert_eq!(receive(&other).await, (message(number), one_address));
        other.send_to(&reply(number), one_address).await.expect("sent");
        assert_eq!(receive(&one).await, (reply(number), other_address));
    }
    for conn in [&one as &dyn Conn, &other] {
        conn.close().await.expect("closes");
    }
    sample(&relay, DELETED, 2.0).await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_401() {
    let relay = Relay::with_shards(1);
    let client = client(&relay, "not the password").await;
    let error = client.allocate().await.err().expect("refused");
    assert!(error.to_string().contains("401"), "{error}");
    assert_eq!(relay.allocations(), 0.0);
}

#[tokio::test]
async fn the_turn_client_gets_its_mapped_address() {
    let relay = Relay::with_shards(1);
    let socket = Arc::new(socket(&relay).await);
    let local = socket.local_addr().expect("a socket");
    let client = client_on(&relay, socket, PASSWORD).await;
    let mapped = timeout(PATIENCE, client.send_binding_request()).await.expect("an answer");
    assert_eq!(mapped.expect("a success"), local);
}

#[tokio::test]
async fn the_stun_client_gets_its_mapped_address() {
    let relay = Relay::with_shards(1);
    let socket = socket(&relay).await;
    let local = socket.local_addr().expect("a socket");
    socket.connect(relay.address).await.expect("connects");
    let conn = Arc::new(socket);
    let mut client = stun::client::ClientBuilder::new().with_conn(conn).build().expect("a client");

    let mut request = Message::new();
    let setters: [Box<dyn stun::message::Setter>; 2] =
        [Box::<TransactionId>::default(), Box::new(BINDING_REQUEST)];
    request.build(&setters).expect("a request");
    let (handler, mut events) = tokio::sync::mpsc::unbounded_channel();
    client.send(&request, Some(Arc::new(handler))).await.expect("sent");
    let event = timeout(PATIENCE, events.recv()).await.expect("an answer").expect("an event");
    let mut mapped = XorMappedAddress::default();
    mapped.get_from(&event.event_body.expect("a response")).expect("XOR-MAPPED-ADDRESS");
    assert_eq!(SocketAddr::new(mapped.ip, mapped.port), local);
    client.close().await.expect("closes");
}

/// Waits until a sample of the metrics has a value. The clients work on meanwhile.
async fn sample(relay: &Relay, name: &str, value: f64) {
    let wait = async {
        while relay.samples()[name] != value {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{name} never was {value}"));
}

async fn socket(relay: &Relay) -> UdpSocket {
    UdpSocket::bind((relay.ip(), 0)).await.expect("a free port")
}

async fn client(relay: &Relay, password: &str) -> Client {
    client_on(relay, Arc::new(socket(relay).await), password).await
}

async fn client_on(relay: &Relay, conn: Arc<UdpSocket>, password: &str) -> Client {
    let client = Client::new(ClientConfig {
        stun_serv_addr: relay.address.to_string(),
        turn_serv_addr: relay.address.to_string(),
        username: USER.to_owned(),
        password: password.to_owned(),
        realm: REALM.to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn,
        vnet: None,
    });
    let client = client.await.expect("a client");
    client.listen().await.expect("listens");
    client
}

async fn receive(conn: &(impl Conn + ?Sized)) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 2048];
    let received = timeout(PATIENCE, conn.recv_from(&mut buffer)).await.expect("nothing came");
    let (len, from) = received.expect("received");
    buffer.truncate(len);
    (buffer, from)
}

/// Messages of many lengths, each with its number: with ChannelData and its padding, or without.
fn message(number: u32) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    message.resize(4 + number as usize % 1_200, number as u8);
    message
}

fn reply(number: u32) -> Vec<u8> {
    let mut reply = message(number);
    reply.reverse();
    reply
}
