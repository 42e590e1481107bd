//! TCP allocations (RFC 6062) over real sockets: what goes in at one end comes out at the other.
//!
//! | File | What is there |
//! |---|---|
//! | this one | connections both ways, bytes, ends and refusals, with a client of our own |
//! | `tcp_relay/coturn.rs` | coturn's client, over TCP and TLS |
//! | `tcp_relay/streams.rs` | the client's connections, and bytes to send over them |

mod common;
#[path = "tcp_relay/coturn.rs"]
mod coturn;
#[path = "tcp_relay/streams.rs"]
mod streams;
#[path = "turnutils/uclient.rs"]
mod uclient;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::client::Client;
use common::{PATIENCE, Relay, Setup, own_address};
use streams::{Data, allocate, attempted, bind, connect, joined, listen, receive, send};
use turnway_wire::{self as wire, Method, XorPeerAddress};

const MIB: usize = 1 << 20;

/// What buffers of four kernel sockets and our own may hold, generously.
const BUFFERED: usize = 64 * MIB;

#[test]
fn ten_megabytes_arrive_each_way_on_any_shard() {
    let relay = Relay::with_shards(4);
    let (mut control, _) = allocate(&relay);
    // The kernel chooses the shards of the data connections: some are handed over.
    let transfers: Vec<_> = (0..6)
        .map(|seed| {
            let (data, peer) = joined(&relay, &mut control);
            thread::spawn(move || {
                let both = [
                    (data.stream.try_clone().unwrap(), peer.try_clone().unwrap(), seed),
                    (peer, data.stream, seed + 100),
                ];
                let ways = both.map(|(from, to, seed)| {
                    let sender = thread::spawn(move || send(&from, 10 * MIB, seed));
                    (sender, thread::spawn(move || receive(&to, 10 * MIB, seed)))
                });
                for (sender, receiver) in ways {
                    sender.join().unwrap();
                    receiver.join().unwrap();
                }
            })
        })
        .collect();
    for transfer in transfers {
        transfer.join().unwrap();
    }
    let bytes = |samples: &std::collections::HashMap<String, f64>, way: &str| {
        samples[&format!("turnway_peer_connection_bytes_total{{direction=\"{way}\"}}")]
    };
    relay.await_samples("all bytes counted", |samples| {
        ["to_peer", "to_client"].iter().all(|way| bytes(samples, way) == (60 * MIB) as f64)
    });
}

#[test]
fn a_reader_that_is_slow_slows_the_sender_and_nothing_is_lost() {
    let relay = Relay::with_shards(1);
    let (mut control, _) = allocate(&relay);
    for reversed in [false, true] {
        let (data, peer) = joined(&relay, &mut control);
        let (from, to) = if reversed { (peer, data.stream) } else { (data.stream, peer) };
        let before = relay.resident();
        from.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let chunk = streams::bytes(MIB, 5);
        let mut sent = 0;
        let blocked = loop {
            match (&from).write(&chunk[sent % MIB..]) {
                Ok(len) => sent += len,
                Err(error) => break error.kind(),
            }
            assert!(sent < BUFFERED, "{sent} bytes for a reader that does not read");
        };
        assert_eq!(blocked, io::ErrorKind::WouldBlock);
        let grown = relay.resident().saturating_sub(before);
        assert!(grown < 4 * MIB as u64, "{grown} bytes more");
        from.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        (&to).read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
        assert!(received.chunks(MIB).all(|part| part == &chunk[..part.len()]));
    }
}

#[test]
fn each_side_may_end_first_and_still_receives() {
    let relay = Relay::with_shards(2);
    let (mut control, _) = allocate(&relay);
    for reversed in [false, true] {
        let (data, peer) = joined(&relay, &mut control);
        let (first, last) = if reversed { (peer, data.stream) } else { (data.stream, peer) };
        (&first).write_all(b"the question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut question = Vec::new();
        (&last).read_to_end(&mut question).unwrap();
        assert_eq!(question, b"the question");
        let answer = thread::spawn(move || {
            send(&last, 2 * MIB, 9);
            last.shutdown(Shutdown::Write).unwrap();
            last
        });
        receive(&first, 2 * MIB, 9);
        assert_eq!((&first).read(&mut [0; 1]).unwrap(), 0, "the end comes through");
        answer.join().unwrap();
    }
    relay.await_samples("both connections gone", |samples| {
        samples["turnway_peer_connections"] == 0.0
            && samples["turnway_peer_connections_ended_total{reason=\"closed\"}"] == 2.0
    });
}

#[test]
fn an_end_behind_bytes_that_may_not_go_on_yet_costs_nothing() {
    // Both connections stay open for two seconds each.
    let relay = Relay::start(Setup {
        extra: "[quota]\nbandwidth_per_user = \"1 Mbit/s\"".into(),
        shards: 1,
        ..Setup::default()
    });
    let (mut control, _) = allocate(&relay);
    for reversed in [false, true] {
        let (data, peer) = joined(&relay, &mut control);
        let (first, last) = if reversed { (peer, data.stream) } else { (data.stream, peer) };
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&last).read(&mut [0; 1]).unwrap(), 0, "the end comes through");
        // Most of it waits in the relay's kernel, and so does the end behind it.
        send(&last, MIB / 4, 5);
        last.shutdown(Shutdown::Write).unwrap();
        let (before, begun) = (relay.cpu_time(), Instant::now());
        receive(&first, MIB / 4, 5);
        assert_eq!((&first).read(&mut [0; 1]).unwrap(), 0, "the end comes last");
        let (used, took) = (relay.cpu_time() - before, begun.elapsed());
        assert!(took > Duration::from_secs(1), "the limit did not hold: {took:?}");
        assert!(used < took / 10, "{used:?} of a processor in {took:?}");
    }
    relay.await_samples("both gone", |samples| samples["turnway_peer_connections"] == 0.0);
}

#[test]
fn a_connection_that_breaks_breaks_the_other() {
    let relay = Relay::with_shards(2);
    let (mut control, _) = allocate(&relay);
    for reversed in [false, true] {
        let (data, peer) = joined(&relay, &mut control);
        let (gone, other) = if reversed { (peer, data.stream) } else { (data.stream, peer) };
        (&other).write_all(b"never read").unwrap();
        // Closed with bytes unread: reset.
        common::await_some("unread bytes", || (gone.peek(&mut [0; 1]).ok()? == 1).then_some(()));
        drop(gone);
        let error = (&other).read(&mut [0; 1]).expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    relay.await_samples("both gone", |samples| samples["turnway_peer_connections"] == 0.0);
}

#[test]
fn what_a_peer_sends_first_waits_for_the_client() {
    let relay = Relay::with_shards(4);
    let (mut control, at) = allocate(&relay);
    control.permit(&[SocketAddr::new(own_address().into(), 0)]).expect_success();
    let from = own_address();
    control.permit(&[SocketAddr::new(from.into(), 0)]).expect_success();
    let peer = streams::connect_from(from, at);
    send(&peer, 40_000, 1);
    let (id, shown) = attempted(&mut control);
    assert_eq!(shown, peer.local_addr().unwrap());
    let Data { stream, early: mut received } = bind(&relay, id);
    let early = received.len();
    received.resize(40_000, 0);
    (&stream).read_exact(&mut received[early..]).unwrap();
    assert!(received == streams::bytes(40_000, 1));
    send(&stream, 1000, 2);
    receive(&peer, 1000, 2);
}

#[test]
fn a_peer_without_permission_is_turned_away_at_once() {
    let relay = Relay::with_shards(2);
    let (mut control, at) = allocate(&relay);
    control.permit(&[SocketAddr::new(own_address().into(), 0)]).expect_success();
    let stranger = streams::connect_from(own_address(), at);
    let end = (&stranger).read(&mut [0; 1]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset));
    control.expect_nothing();
    let refused = "turnway_dropped_datagrams_total{side=\"peer\",reason=\"no_permission\"}";
    relay.await_samples("the refusal", |samples| samples[refused] == 1.0);
}

#[test]
fn what_cannot_be_connected_is_refused_with_its_reason() {
    let relay = Relay::with_shards(2);
    let (mut control, _) = allocate(&relay);
    let (listener, peer) = listen();
    let id = connect(&mut control, peer);
    let again = control.request(Method::CONNECT, &|b| b.add(&XorPeerAddress(peer)));
    assert_eq!(again.code(), Some(446));
    drop(bind(&relay, id));
    drop(listener);
    let code = |control: &mut Client, peer: SocketAddr| {
        control.request(Method::CONNECT, &|b| b.add(&XorPeerAddress(peer))).code()
    };
    // Nobody listens there any more.
    let closed = SocketAddr::new(own_address().into(), 9);
    let begun = Instant::now();
    assert_eq!(code(&mut control, closed), Some(447));
    assert_eq!(code(&mut control, "10.0.0.1:80".parse().unwrap()), Some(403));
    assert_eq!(code(&mut control, relay.address), Some(403));
    assert!(begun.elapsed() < Duration::from_secs(10), "refusals take no time");
    let failed = "turnway_peer_connections_ended_total{reason=\"failed\"}";
    relay.await_samples("the failure", |samples| samples[failed] == 1.0);
}

#[test]
fn only_the_users_own_connection_can_be_bound() {
    let relay = Relay::start(Setup {
        extra: "[[auth.user]]\nname = \"other\"\npassword = \"another password\"".into(),
        ..Setup::default()
    });
    let (mut control, _) = allocate(&relay);
    let (_listener, peer) = listen();
    let id = connect(&mut control, peer);
    let attempt = |mut client: Client, id: u32| {
        let add = wire::ConnectionId(id);
        client.request(Method::CONNECTION_BIND, &|b| b.add(&add)).code()
    };
    let thief = Client::tcp(relay.address).with_credentials("other", "another password");
    assert_eq!(attempt(thief, id), Some(441));
    assert_eq!(attempt(Client::tcp(relay.address), id ^ 1), Some(400));
    assert_eq!(attempt(Client::udp(relay.address), id), Some(400));
    let data = bind(&relay, id);
    assert_eq!(attempt(Client::tcp(relay.address), id), Some(400));
    drop(data);
}

#[test]
fn the_end_of_the_allocation_ends_its_connections() {
    let relay = Relay::with_shards(4);
    for disconnect in [false, true] {
        let (mut control, at) = allocate(&relay);
        let (data, peer) = joined(&relay, &mut control);
        if disconnect {
            drop(control);
        } else {
            control.refresh(0).expect_success();
        }
        for stream in [&data.stream, &peer] {
            let mut stream = stream;
            let end = stream.read(&mut [0; 1]);
            assert!(!matches!(end, Ok(1)), "{end:?}");
        }
        // Its port no longer listens.
        common::await_some("a closed port", || TcpStream::connect_timeout(&at, PATIENCE).err());
    }
    relay.await_no_allocations();
    assert_eq!(relay.samples()["turnway_peer_connections"], 0.0);
}

#[test]
fn a_bandwidth_holds_and_loses_nothing() {
    let relay = Relay::start(Setup {
        extra: "[quota]\nbandwidth_per_user = \"8 Mbit/s\"".into(),
        ..Setup::default()
    });
    let (mut control, _) = allocate(&relay);
    let (data, peer) = joined(&relay, &mut control);
    let begun = Instant::now();
    let sender = thread::spawn(move || send(&data.stream, 3 * MIB, 3));
    receive(&peer, 3 * MIB, 3);
    sender.join().unwrap();
    // 1 MB in a second, and half of one at once.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[test]
fn two_clients_reach_each_other_through_their_ports() {
    let relay = Relay::with_shards(4);
    let (mut left, at_left) = allocate(&relay);
    let (mut right, at_right) = allocate(&relay);
    right.permit(&[at_left]).expect_success();
    let id = connect(&mut left, at_right);
    let (attempt, from) = attempted(&mut right);
    assert_eq!(from, at_left);
    let (left, right) = (bind(&relay, id), bind(&relay, attempt));
    let sender = thread::spawn(move || send(&left.stream, MIB, 4));
    receive(&right.stream, MIB, 4);
    sender.join().unwrap();
}

#[test]
fn it_can_be_turned_off() {
    let own = own_address();
    let relay = Relay::start(Setup {
        listen: vec![SocketAddr::new(own.into(), 3478)],
        relay: Some(format!("addresses = [\"{own}\"]\ntcp = false")),
        ..Setup::default()
    });
    let mut client = Client::tcp(relay.address);
    let answer = client.request(Method::ALLOCATE, &|b| b.add(&wire::RequestedTransport(6)));
    assert_eq!(answer.code(), Some(442));
}
