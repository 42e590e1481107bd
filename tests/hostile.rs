//! Deadly input: a running daemon gets what nobody would send in good faith, and goes on.
//!
//! `hostile/attack.rs` makes the messages, `hostile/senders.rs` delivers them, `hostile/records.rs`
//! has what is hostile about TLS and DTLS. What is random comes from a seed that is printed.

#[path = "hostile/attack.rs"]
mod attack;
mod common;
#[path = "hostile/records.rs"]
mod records;
#[path = "hostile/senders.rs"]
mod senders;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use turnway_wire::{Frame, Message, frame};

use common::client::{Client, Peer, Transport};
use common::conversation::{pairs, while_talking};
use common::link::{dtls_hello, tls_hello};
use common::{PATIENCE, Relay, Setup};
use senders::{datagrams, half_open, one_byte_at_a_time, streams};

const MIB: u64 = 1 << 20;

/// `[limits]` without a limit for strangers: every message is to get as far as it can.
const UNLIMITED: &str = "handshakes_per_source = \"1000000/s\"\n\
    unauthenticated_per_source = \"1000000/s\"\nunauthenticated_burst = 1000000";

fn relay() -> Relay {
    Relay::start(Setup { limits: UNLIMITED.to_owned(), ..Setup::default() })
}

#[test]
fn a_million_hostile_messages_leave_no_trace_and_disturb_nobody() {
    let mut relay = relay();
    let seed = common::client::seed();
    println!("seed {seed}");
    let attack = |seed: u64, datagrams_each: u32, batches: u32| {
        let server = relay.address;
        let open = half_open(server, 32);
        thread::scope(|scope| {
            for offset in 0..2 {
                scope.spawn(move || datagrams(server, seed + offset, datagrams_each));
            }
            scope.spawn(move || streams(server, seed + 2, batches));
        });
        drop(open);
    };
    let good = pairs(relay.address, "", &[Transport::Udp, Transport::Tcp]);
    let [before, after] = while_talking(good, || {
        attack(seed, 30_000, 300);
        relay.samples();
        let before = relay.resident();
        attack(seed + 1000, 460_000, 2000);
        [before, relay.resident()]
    });
    let grown = after.saturating_sub(before);
    assert!(grown < MIB, "resident memory grew from {before} to {after} bytes");
    println!("resident memory grew by {grown} bytes");
    assert!(relay.is_alive());
    assert_eq!(relay.sum("turnway_kernel_drops_total"), 0.0, "nothing was left out");
    let seen = relay.sum("turnway_requests_total") + relay.sum("turnway_dropped_datagrams_total");
    assert!(seen > 1e6, "the relay has seen {seen} messages");
    relay.await_no_allocations();
}

#[test]
fn hostile_records_leave_no_trace_and_disturb_nobody() {
    let limits = format!("{UNLIMITED}\nconnections_per_source = 0");
    let setup = Setup { limits, transports: &["auto"], ..Setup::default() };
    let mut relay = Relay::start(setup);
    let seed = common::client::seed();
    println!("seed {seed}");
    let (server, roots) = (relay.address, relay.roots());
    let [tls, dtls] = [tls_hello(&roots), dtls_hello(&roots)];
    let attack = |seed: u64, times: u32| {
        let (roots, tls, dtls) = (&roots, &tls, &dtls);
        thread::scope(|scope| {
            scope.spawn(move || records::tls_handshakes(server, seed, tls, 200 * times));
            scope.spawn(move || {
                records::dtls_records(server, seed, dtls, 10_000 * times);
                records::injected_records(server, roots, seed, dtls);
            });
            scope.spawn(move || {
                records::within(server, Transport::Tls, roots, seed, 20 * times);
                records::within(server, Transport::Dtls, roots, seed, 20 * times);
            });
        });
    };
    let good = pairs(server, &roots, &Transport::ALL);
    let [before, after] = while_talking(good, || {
        attack(seed, 1);
        relay.samples();
        let before = relay.resident();
        attack(seed + 1, 10);
        [before, relay.resident()]
    });
    let grown = after.saturating_sub(before);
    println!("resident memory grew by {grown} bytes");
    assert!(grown < MIB, "resident memory grew from {before} to {after} bytes");
    assert!(relay.is_alive());
    relay.await_no_allocations();
    let samples = relay.samples();
    let handshakes =
        |outcome: &str| samples[&format!("turnway_tls_handshakes_total{{outcome=\"{outcome}\"}}")];
    // The one who talked, and the one with hostile messages, twice.
    assert_eq!(handshakes("completed"), 3.0);
    assert!(handshakes("failed") > 100.0, "{samples:?}");
    let ignored = samples["turnway_dtls_strangers_total{outcome=\"ignored\"}"];
    assert!(ignored > 10_000.0, "{ignored} ClientHellos were ignored");
}

#[test]
fn a_message_may_come_one_byte_at_a_time() {
    one_byte_at_a_time(relay().address);
}

#[test]
fn half_a_message_is_waited_for_but_not_for_ever() {
    let relay =
        Relay::start(Setup { limits: "tcp_idle_timeout = \"2s\"".to_owned(), ..Setup::default() });
    let mut steady = Client::tcp(relay.address);
    steady.allocate();
    let open = half_open(relay.address, 20);
    for mut stream in open {
        let read = stream.read(&mut [0; 16]).expect("closed by the relay");
        assert_eq!(read, 0, "nothing is answered");
    }
    let closed = "turnway_tcp_closed_total{reason=\"idle\"}";
    relay.await_samples("all to be counted", |samples| samples[closed] == 20.0);
    steady.refresh(600).expect_success();
}

#[test]
fn what_is_no_turn_ends_a_connection_without_an_answer() {
    let relay = relay();
    let tls = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03];
    let rtp = [0x80; 12];
    let other_cookie = [0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x43];
    // 64 KiB are more than somebody without an allocation has to say.
    let [giant, channel_data] = [[0x00, 0x01, 0xFF, 0xFC], [0x40, 0x00, 0xFF, 0xFF]];
    // The first letters of HTTP's methods are those of a channel number.
    let http = ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PRI"]
        .map(|method| format!("{method} / HTTP/1.1\r\nHost: {}\r\n\r\n", relay.address));
    let mut all = vec![&tls[..], &rtp, &other_cookie, &giant, &channel_data, b"SSH-2.0-Go\r\n"];
    all.extend(http.iter().map(String::as_bytes));
    for bytes in &all {
        let mut stream = TcpStream::connect(relay.address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(bytes).expect("sent");
        assert_eq!(end_of(&mut stream), b"", "{}", bytes.escape_ascii());
    }
    let closed = "turnway_tcp_closed_total{reason=\"not_turn\"}";
    relay.await_samples("all to be counted", |samples| samples[closed] == all.len() as f64);
    Client::tcp(relay.address).allocate();
}

/// All that comes until the connection ends.
fn end_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    all
}

#[test]
fn a_client_that_never_reads_its_data_costs_a_bounded_queue() {
    never_reads(Transport::Tcp);
}

#[test]
fn nor_does_one_behind_tls_cost_more() {
    never_reads(Transport::Tls);
}

fn never_reads(transport: Transport) {
    const CLIENTS: u64 = 4;
    const QUEUE: u64 = 320 * 1024;
    // One shard has one heap: what an allocator keeps for next time is kept once.
    let setup = Setup { shards: 1, transports: &["auto"], ..Setup::default() };
    let relay = Relay::start(setup);
    let flood = || {
        let mut clients: Vec<(Client, Peer)> = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = relay.client(transport);
            let relayed = client.allocate();
            let peer = Peer::on(relay.ip());
            client.bind(0x4000, peer.address()).expect_success();
            peer.0.connect(relayed).expect("a socket");
            clients.push((client, peer));
        }
        // The receive window of loopback takes megabytes before the queue fills.
        let lost = relay.sum("turnway_tcp_queue_drops_total");
        common::await_some("a full queue", || {
            for (_, peer) in &clients {
                for _ in 0..500 {
                    peer.0.send(&[0x55; 1200]).expect("sent");
                }
            }
            (relay.sum("turnway_tcp_queue_drops_total") > lost + 10_000.0).then_some(())
        });
        clients
    };
    drop(flood());
    relay.await_no_allocations();
    let before = relay.resident();
    let mut clients = flood();
    let full = relay.resident();
    let grown = full.saturating_sub(before);
    assert!(grown < CLIENTS * QUEUE + MIB, "{grown} bytes for {CLIENTS} clients");

    // What was kept is whole: frame by frame, and the client is served when it reads again.
    let (client, _) = &mut clients[0];
    let request =
        client.build(turnway_wire::Class::Request, turnway_wire::Method::BINDING, &|_| Ok(()));
    client.raw(&request).expect("sent");
    loop {
        match client.next_message() {
            message if message[0] == 0x40 => assert_eq!(message.len(), 4 + 1200),
            message => break assert!(Message::parse(&message).is_ok()),
        }
    }
    drop(clients);
    relay.await_no_allocations();
    let grown = relay.resident().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes are left of clients that went away");
}

#[test]
fn a_client_that_asks_and_never_reads_is_not_read_from() {
    let relay = Relay::start(Setup { limits: UNLIMITED.to_owned(), shards: 1, ..Setup::default() });
    let mut client = Client::tcp(relay.address);
    client.binding(); // the shard has all its memory before it answers
    let request =
        client.build(turnway_wire::Class::Request, turnway_wire::Method::BINDING, &|_| Ok(()));
    let many = request.repeat(1000);
    let before = relay.resident();
    let stream = client.stream();
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket");
    let mut asked = 0_usize;
    let refused = loop {
        match (&mut &*stream).write(&many[asked % many.len()..]) {
            Ok(len) => asked += len,
            Err(error) => break error,
        }
        assert!(asked < 1 << 30, "a gigabyte of questions was read");
    };
    assert_eq!(refused.kind(), ErrorKind::WouldBlock, "the relay should have stopped reading");
    let grown = relay.resident().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes for one client");
    // Others are served; and so is this one, as soon as it reads: every question has its answer.
    Client::tcp(relay.address).binding();
    stream.shutdown(Shutdown::Write).expect("a socket");
    let whole = asked / request.len();
    let mut received = Vec::new();
    let mut answers = 0;
    let mut buffer = vec![0; 1 << 16];
    let mut reader = stream;
    while answers < whole {
        let len = reader.read(&mut buffer).expect("answers");
        assert!(len > 0, "{answers} of {whole} answers came");
        received.extend_from_slice(&buffer[..len]);
        let mut at = 0;
        while let Frame::Complete { len, .. } = frame(&received[at..]) {
            at += len;
            answers += 1;
        }
        received.drain(..at);
    }
}
