//! One battery over UDP, TCP, TLS and DTLS: whatever carries a client's messages, the rules are the
//! same, and so are the counters and the log.
//!
//! Each transport has a daemon of its own, which listens with `transport = "auto"`. What the
//! daemons say of themselves at the end must be equal, word by word.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use turnway_wire::{Lifetime, Method, code};

use common::client::{Client, Peer, Relayed, Transport};
use common::clock::Clock;
use common::{Relay, Setup, own_address};

/// A peer that is refused, in a network that is allowed otherwise.
const DENIED: &str = "127.250.0.1:9";

/// Data of every length up to this.
const LONGEST: usize = 1200;

const CHANNEL: u16 = 0x4123;

/// What a daemon says in the end: samples without the transport, and what its log says of the
/// allocations that ended.
#[derive(Debug, PartialEq)]
struct Said {
    samples: BTreeMap<String, f64>,
    ended: Vec<String>,
}

fn relay(extra: &str, environment: Vec<(String, String)>) -> Relay {
    Relay::start(Setup {
        shards: 1,
        transports: &["auto"],
        peers: "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.250.0.0/16\"]".to_owned(),
        extra: extra.to_owned(),
        environment,
        ..Setup::default()
    })
}

/// Runs a test over every transport, side by side, and returns what came of it.
fn over_all<T: Send>(test: impl Fn(Transport) -> T + Sync) -> Vec<(Transport, T)> {
    thread::scope(|scope| {
        let run = |transport| {
            (
                transport,
                scope.spawn({
                    let test = &test;
                    move || test(transport)
                }),
            )
        };
        let running = Transport::ALL.map(run);
        running.map(|(transport, test)| {
            let panicked = |_| panic!("over {transport}");
            (transport, test.join().unwrap_or_else(panicked))
        })
    })
    .into()
}

/// Asserts that all said the same as the first.
#[track_caller]
fn all_the_same(said: &[(Transport, Said)]) {
    let [(first, expected), others @ ..] = said else { panic!("nobody said anything") };
    for (transport, said) in others {
        assert_eq!(said, expected, "{transport} on the left, {first} on the right");
    }
}

#[test]
fn every_transport_has_the_same_rules_counters_and_log() {
    all_the_same(&over_all(|transport| {
        let mut relay = relay("[quota]\nallocations_per_user = 2", Vec::new());
        let mut client = relay.client(transport);
        nothing_without_credentials(&relay, transport);
        let relayed = client.allocate();
        client.try_allocate().expect_code(code::ALLOCATION_MISMATCH);
        let peer = Peer::on(relay.ip());
        nothing_without_permission(&relay, &mut client, &peer, relayed);
        indications(&mut client, &peer, relayed);
        channel_data_of_every_length(&mut client, &peer, relayed);
        policy(&relay, &mut client, &peer);
        quota(&relay, transport);
        deletion(&relay, &mut client, &peer, relayed);
        said(&mut relay, transport)
    }));
}

fn nothing_without_credentials(relay: &Relay, transport: Transport) {
    let stranger = relay.client(transport);
    let mut stranger = stranger.with_credentials("user", "a wrong password");
    stranger.try_allocate().expect_code(code::UNAUTHENTICATED);
    assert_eq!(relay.allocations(), 0.0);
    assert_eq!(stranger.binding().port(), stranger.local_addr().port());
}

fn nothing_without_permission(
    relay: &Relay,
    client: &mut Client,
    peer: &Peer,
    relayed: SocketAddr,
) {
    client.send(peer.address(), b"no permission yet");
    client.send_channel(CHANNEL, b"no channel yet");
    client.binding();
    peer.send(b"nor for the peer", relayed);
    relay.await_samples("three drops", |samples| {
        let dropped = |side: &str, reason: &str| {
            let labels = format!("{{side=\"{side}\",reason=\"{reason}\"}}");
            samples[&format!("turnway_dropped_datagrams_total{labels}")]
        };
        dropped("client", "no_permission") == 1.0
            && dropped("client", "no_channel") == 1.0
            && dropped("peer", "no_permission") == 1.0
    });
    client.expect_nothing();
    peer.expect_nothing();
}

fn indications(client: &mut Client, peer: &Peer, relayed: SocketAddr) {
    client.permit(&[peer.address()]).expect_success();
    for len in [0, 1, 2, 3, 4, 500, LONGEST] {
        let data = payload(len);
        client.send(peer.address(), &data);
        assert_eq!(peer.receive(), (data.clone(), relayed));
        peer.send(&data, relayed);
        assert_eq!(client.receive(), Relayed::Data { peer: peer.address(), data });
    }
}

/// Both ways. Streams pad to four bytes, and datagrams need not.
fn channel_data_of_every_length(client: &mut Client, peer: &Peer, relayed: SocketAddr) {
    client.bind(CHANNEL, peer.address()).expect_success();
    for len in 0..=LONGEST {
        let data = payload(len);
        client.send_channel(CHANNEL, &data);
        assert_eq!(peer.receive(), (data.clone(), relayed), "{len} bytes");
        peer.send(&data, relayed);
        assert_eq!(client.receive(), Relayed::Channel { number: CHANNEL, data }, "{len} bytes");
    }
}

/// Different bytes at every place.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + len) as u8).collect()
}

fn policy(relay: &Relay, client: &mut Client, peer: &Peer) {
    let denied: SocketAddr = DENIED.parse().expect("an address");
    client.permit(&[denied]).expect_code(code::FORBIDDEN);
    client.permit(&[peer.address(), denied]).expect_code(code::FORBIDDEN);
    client.bind(CHANNEL + 1, denied).expect_code(code::FORBIDDEN);
    client.bind(CHANNEL + 1, relay.address).expect_code(code::FORBIDDEN);
    client.bind(CHANNEL, SocketAddr::new(peer.address().ip(), 1)).expect_code(code::BAD_REQUEST);
}

/// The first client has one of two.
fn quota(relay: &Relay, transport: Transport) {
    let mut second = relay.client(transport);
    second.allocate();
    let mut third = relay.client(transport);
    third.try_allocate().expect_code(code::ALLOCATION_QUOTA_REACHED);
    second.refresh(0).expect_success();
    third.allocate();
    third.refresh(0).expect_success();
}

fn deletion(relay: &Relay, client: &mut Client, peer: &Peer, relayed: SocketAddr) {
    let answer = client.refresh(1200).expect_success();
    let lifetime = answer.message().get::<Lifetime>().expect("well-formed");
    assert_eq!(lifetime, Some(Lifetime(1200)));
    client.refresh(0).expect_success();
    client.permit(&[peer.address()]).expect_code(code::ALLOCATION_MISMATCH);
    client.send_channel(CHANNEL, b"too late");
    client.binding();
    relay.await_no_allocations();
    assert_eq!(relay.sum("turnway_permissions"), 0.0);
    assert_eq!(relay.sum("turnway_channels"), 0.0);
    let _ = peer.0.send_to(b"nobody is there", relayed);
    client.expect_nothing();
    peer.expect_nothing();
}

#[test]
fn everything_expires_at_its_time_on_every_transport() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    if Clock::new(folder.path()).is_none() {
        return;
    }
    all_the_same(&over_all(|transport| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Clock::new(folder.path()).expect("made before");
        let mut relay = relay("", clock.environment());
        let mut client = relay.client(transport);
        let relayed = client.allocate();
        // On different addresses: a channel comes with a permission.
        let [by_permission, by_channel] = [(); 2].map(|()| Peer::on(own_address().into()));
        client.permit(&[by_permission.address()]).expect_success();
        client.send(by_permission.address(), b"in time");
        assert_eq!(by_permission.receive(), (b"in time".to_vec(), relayed));
        permissions(&relay, 1.0);
        // 300 seconds for permissions, 600 for channels and the allocation.
        clock.put_forward(Duration::from_secs(310));
        permissions(&relay, 0.0);
        client.bind(CHANNEL, by_channel.address()).expect_success();
        client.send(by_permission.address(), b"too late");
        client.send_channel(CHANNEL, b"in time");
        assert_eq!(by_channel.receive(), (b"in time".to_vec(), relayed));
        by_permission.expect_nothing();
        clock.put_forward(Duration::from_secs(620));
        relay.await_no_allocations();
        said(&mut relay, transport)
    }));
}

fn permissions(relay: &Relay, count: f64) {
    let what = format!("{count} permissions");
    relay.await_samples(&what, |samples| samples["turnway_permissions"] == count);
}

/// Families whose samples are the same, but for the label `transport`.
const COUNTED: [&str; 8] = [
    "turnway_requests_total{",
    "turnway_dropped_datagrams_total{",
    "turnway_relayed_datagrams_total{",
    "turnway_relayed_bytes_total{",
    "turnway_allocations{",
    "turnway_allocations_ended_total{",
    "turnway_permissions",
    "turnway_channels",
];

/// What a daemon says, after the last allocation ended. Nothing may be said of other transports.
fn said(relay: &mut Relay, transport: Transport) -> Said {
    // One shard: what it shows of this last request it shows of all before.
    let mut last = relay.client(transport);
    last.transact(Method::CHANNEL_BIND, &|_| Ok(())).expect_code(code::UNAUTHENTICATED);
    let shown = "turnway_requests_total{method=\"channel_bind\",outcome=\"unauthenticated\"}";
    relay.await_samples("the last request", |samples| samples[shown] == 1.0);
    let is_end = |line: &str| line.contains("allocation ended");
    let all = relay.sum("turnway_allocations_ended_total{") as usize;
    while relay.log().iter().filter(|line| is_end(line)).count() < all {
        relay.next_line("the end of an allocation", is_end);
    }
    let ended = relay.log().iter().filter(|line| is_end(line));
    let ended = ended.map(|line| comparable(line, transport)).collect();
    let label = format!("transport=\"{transport}\"");
    let mut samples = BTreeMap::new();
    for (name, value) in relay.samples() {
        if !COUNTED.iter().any(|family| name.starts_with(family)) {
            continue;
        }
        if name.contains("transport=") && !name.contains(&label) {
            assert_eq!(value, 0.0, "{name} of a client over {transport}");
        } else {
            samples.insert(name.replace(&label, "transport=\"\""), value);
        }
    }
    Said { samples, ended }
}

/// A line about the end of an allocation, from the datagrams on.
fn comparable(line: &str, transport: Transport) -> String {
    assert!(line.contains(&format!(" transport={transport} ")), "{line}");
    let (_, rest) = line.split_once(" to_peer_datagrams=").expect("figures");
    rest.to_owned()
}
