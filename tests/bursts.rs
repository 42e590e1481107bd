//! Bursts, which the kernel merges on their way in and cuts on their way out: every datagram
//! arrives by itself, whole and in order, and counts as one.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use turnway_udp::{Outgoing, Payload, Prefix, ReceiveBatch, SendBatch};
use turnway_wire::{Class, Method, channel_header};

use common::Relay;
use common::client::{Client, Peer, Random, Relayed, seed};

const FLOWS: usize = 6;

/// Lengths of the payloads of bursts.
const BURSTS: [&[usize]; 6] = [
    &[1200; 8],
    &[172; 8],
    &[1200, 1200, 1200, 300],
    &[172, 1200, 1200, 0, 0, 172, 172, 171],
    &[5; 64],
    &[1],
];

/// Sends bursts as a busy sender does: the kernel gets what is of one length as one.
struct Sender {
    data: ReceiveBatch,
    sends: SendBatch,
}

impl Sender {
    fn new() -> Self {
        Self { data: ReceiveBatch::new(1), sends: SendBatch::new() }
    }

    fn send(&mut self, socket: &UdpSocket, to: SocketAddr, burst: &[Vec<u8>]) {
        self.data.clear();
        self.data.read_stream([&[], &[]], &mut &burst.concat()[..]).expect("a slot is free");
        let mut offset = 0;
        for datagram in burst {
            self.sends.push(Outgoing {
                socket: socket.as_raw_fd(),
                to,
                source: None,
                ttl: None,
                tos: None,
                dont_fragment: false,
                prefix: Prefix::EMPTY,
                payload: Payload { slot: 0, offset, len: datagram.len() },
                pad: 0,
                tag: 0,
            });
            offset += datagram.len();
        }
        self.sends.flush(&self.data, &mut |_, result| result.expect("sent"));
    }
}

/// A burst of random payloads with the lengths given.
fn payloads(random: &mut Random, lengths: &[usize]) -> Vec<Vec<u8>> {
    lengths.iter().map(|&len| random.bytes(len)).collect()
}

fn as_channel_data(payload: &[u8]) -> Vec<u8> {
    [&channel_header(0x4000, payload.len() as u16), payload].concat()
}

/// What both directions must have counted: datagrams and bytes of their payloads.
#[track_caller]
fn expect_counted(relay: &Relay, transport: &str, sent: &[Vec<u8>]) {
    let bytes: usize = sent.iter().map(Vec::len).sum();
    relay.await_samples("every datagram in the metrics", |samples| {
        ["to_peer", "to_client"].into_iter().all(|direction| {
            let labels = format!("{{direction=\"{direction}\",transport=\"{transport}\"}}");
            samples[&format!("turnway_relayed_datagrams_total{labels}")] == sent.len() as f64
                && samples[&format!("turnway_relayed_bytes_total{labels}")] == bytes as f64
        })
    });
}

#[test]
fn bursts_of_many_flows_arrive_whole_and_in_order_in_both_directions() {
    let seed = seed();
    eprintln!("TURNWAY_SEED={seed}");
    let mut random = Random(seed);
    let relay = Relay::with_shards(2);
    let mut sender = Sender::new();
    let mut flows: Vec<(Client, Peer, SocketAddr)> = Vec::new();
    for _ in 0..FLOWS {
        let peer = Peer::on(relay.ip());
        let mut client = Client::udp(relay.address);
        let relayed = client.allocate();
        client.bind(0x4000, peer.address()).expect_success();
        flows.push((client, peer, relayed));
    }
    let mut sent = Vec::new();
    for lengths in BURSTS.repeat(3) {
        let bursts: Vec<_> = flows.iter().map(|_| payloads(&mut random, lengths)).collect();
        for ((client, _, _), burst) in flows.iter().zip(&bursts) {
            let framed: Vec<Vec<u8>> =
                burst.iter().map(|payload| as_channel_data(payload)).collect();
            sender.send(client.socket(), client.server(), &framed);
        }
        for ((_, peer, relayed), burst) in flows.iter().zip(&bursts) {
            for payload in burst {
                assert!(peer.receive() == (payload.clone(), *relayed), "{lengths:?}");
            }
        }
        for ((_, peer, relayed), burst) in flows.iter().zip(&bursts) {
            sender.send(&peer.0, *relayed, burst);
        }
        for ((client, _, _), burst) in flows.iter_mut().zip(&bursts) {
            for payload in burst {
                let expected = Relayed::Channel { number: 0x4000, data: payload.clone() };
                assert!(client.receive() == expected, "{lengths:?}");
            }
        }
        sent.extend(bursts.into_iter().flatten());
    }
    for (client, peer, _) in &mut flows {
        client.expect_nothing();
        peer.expect_nothing();
    }
    expect_counted(&relay, "udp", &sent);
    assert_eq!(relay.sum("turnway_dropped_datagrams_total{"), 0.0);
}

#[test]
fn a_burst_is_data_indications_where_no_channel_is_bound() {
    let mut random = Random(seed());
    let relay = Relay::with_shards(1);
    let peer = Peer::on(relay.ip());
    let mut client = Client::udp(relay.address);
    let relayed = client.allocate();
    client.permit(&[peer.address()]).expect_success();
    for lengths in BURSTS {
        let burst = payloads(&mut random, lengths);
        Sender::new().send(&peer.0, relayed, &burst);
        for data in burst {
            let expected = Relayed::Data { peer: peer.address(), data };
            assert!(client.receive() == expected, "{lengths:?}");
        }
    }
}

#[test]
fn requests_and_data_of_one_burst_are_each_dealt_with() {
    let relay = Relay::with_shards(1);
    let peer = Peer::on(relay.ip());
    let mut client = Client::udp(relay.address);
    client.allocate();
    client.bind(0x4000, peer.address()).expect_success();
    let binding = client.build(Class::Request, Method::BINDING, &|_| Ok(()));
    let data = as_channel_data(&vec![7; binding.len() - 4]);
    assert_eq!(data.len(), binding.len());
    let burst = [&data, &binding, &data, &binding, &binding, &data].map(Clone::clone);
    Sender::new().send(client.socket(), client.server(), &burst);
    for _ in 0..3 {
        assert_eq!(peer.receive().0, data[4..]);
        let answer = client.next_message();
        assert_eq!(answer[8..20], binding[8..20], "the transaction's id");
    }
}

#[test]
fn a_client_behind_a_stream_gets_every_datagram_of_a_burst_and_sends_bursts() {
    let mut random = Random(seed());
    let relay = Relay::with_shards(1);
    let peer = Peer::on(relay.ip());
    let mut client = Client::tcp(relay.address);
    let relayed = client.allocate();
    client.bind(0x4000, peer.address()).expect_success();
    let mut sent = Vec::new();
    for lengths in BURSTS {
        let burst = payloads(&mut random, lengths);
        Sender::new().send(&peer.0, relayed, &burst);
        for payload in &burst {
            let expected = Relayed::Channel { number: 0x4000, data: payload.clone() };
            assert!(client.receive() == expected, "{lengths:?}");
            client.send_channel(0x4000, payload);
        }
        for payload in &burst {
            assert!(peer.receive() == (payload.clone(), relayed), "{lengths:?}");
        }
        sent.extend(burst);
    }
    expect_counted(&relay, "tcp", &sent);
}
