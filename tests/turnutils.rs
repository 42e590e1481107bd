//! coturn's own test client against our daemon: every message it sends comes back.
//!
//! Each mode runs over UDP, TCP, TLS and DTLS, on 1 and on 4 shards, with 20 clients of 100 to 500
//! messages each.
//! What counts are the messages that `turnutils_uclient` sent and got back, and the datagrams that
//! the daemon says it relayed.
//!
//! | File | What is there |
//! |---|---|
//! | this one | the modes, and what must be true after each |
//! | `turnutils/uclient.rs` | starting the client and its peer, reading what it prints |

mod common;
#[path = "turnutils/uclient.rs"]
mod uclient;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use common::client::{Client, UDP};
use common::clock::Clock;
use common::{Relay, SECRET, Setup, own_address, program};
use turnway_wire::{
    AttributeType, ChannelNumber, Class, Encode, ErrorCode, Message, Method, PasswordAlgorithm,
    PasswordAlgorithmAttribute, PasswordAlgorithms, TransactionId, XorPeerAddress, code,
};
use uclient::{Counts, Peer, Run};

/// One way to reach a relay.
#[derive(Clone, Copy)]
struct Way {
    /// The relay's shards.
    shards: usize,
    /// What the client is told: over TCP, secured.
    arguments: &'static [&'static str],
    /// What the relay listens for.
    transports: &'static [&'static str],
}

/// Each transport on a port of its own and on one that takes all, and on 1 and on 4 shards.
const WAYS: [Way; 8] = [
    Way { shards: 1, arguments: &[], transports: &["udp"] },
    Way { shards: 4, arguments: &[], transports: &["auto"] },
    Way { shards: 1, arguments: &["-t"], transports: &["tcp"] },
    Way { shards: 4, arguments: &["-t"], transports: &["auto"] },
    Way { shards: 1, arguments: &["-t", "-S"], transports: &["tls"] },
    Way { shards: 4, arguments: &["-t", "-S"], transports: &["auto"] },
    Way { shards: 1, arguments: &["-S"], transports: &["dtls"] },
    Way { shards: 4, arguments: &["-S"], transports: &["auto"] },
];

impl Way {
    fn relay(&self) -> Relay {
        Relay::start(self.setup())
    }

    /// With a listener that relays from these addresses.
    fn relay_at(&self, listener: SocketAddr, addresses: &[IpAddr]) -> Relay {
        let addresses: Vec<String> =
            addresses.iter().map(|ip| format!("{:?}", ip.to_string())).collect();
        Relay::start(Setup {
            listen: vec![listener],
            relay: Some(format!("addresses = [{}]", addresses.join(", "))),
            ..self.setup()
        })
    }

    fn setup(&self) -> Setup {
        Setup { shards: self.shards, transports: self.transports, ..Setup::default() }
    }

    /// The client with the usual user.
    fn run(&self, server: SocketAddr, peer: SocketAddr, mode: &[&str]) -> Run {
        let mut run = Run::new(server, peer);
        self.prepare(&mut run);
        run.add(mode);
        run
    }

    fn prepare(&self, run: &mut Run) {
        run.add(self.arguments);
        // Whole runs on the plain ports; the others show that nothing else differs.
        if self.is_secured() {
            run.sized(20, 100);
        } else if self.transports == ["auto"] {
            run.sized(20, 200);
        }
    }

    fn is_secured(&self) -> bool {
        self.arguments.contains(&"-S")
    }

    /// Whether an allocation ends with what its client came over.
    fn is_connection(&self) -> bool {
        self.arguments.contains(&"-t")
    }
}

#[test]
fn channels_lose_nothing() {
    each_way(&[]);
}

#[test]
fn channels_without_rtcp_lose_nothing() {
    each_way(&["-c"]);
}

#[test]
fn send_indications_lose_nothing() {
    each_way(&["-s"]);
}

#[test]
fn send_indications_without_rtcp_lose_nothing() {
    each_way(&["-s", "-c"]);
}

#[test]
fn dont_fragment_loses_nothing() {
    each_way(&["-g"]);
}

#[test]
fn clients_that_reach_each_other_lose_nothing() {
    each_way(&["-y"]);
}

/// `-M` has the client go on from another port as soon as it has an allocation, with its old
/// connection closed before, after, or never.
#[test]
fn mobile_clients_lose_nothing() {
    every(|way| {
        let own = own_address();
        let relay = Relay::start(Setup {
            listen: vec![(own, 3478).into()],
            relay: Some(format!("addresses = [\"{own}\"]\nmobility = true")),
            ..way.setup()
        });
        let peer = Peer::start(own_address().into(), 3480);
        if way.is_secured() {
            // It offers versions and ciphers of its own choice, and gives up where the second
            // handshake with them fails.
            let mut run = way.run(relay.address, peer.address, &["-M", "-c"]);
            lossless_at_last(&relay, run.sized(1, 50));
        } else {
            lossless(&relay, &way.run(relay.address, peer.address, &["-M"]));
        }
        if program("turnutils_uclient", "coturn").is_some() {
            assert!(relay.sum("turnway_mobility_moves_total") > 0.0);
        }
    });
}

#[test]
fn rest_credentials_lose_nothing() {
    every(|way| {
        let relay = way.relay();
        let peer = Peer::start(own_address().into(), 3480);
        // The client makes `<in a day>:name` and its password of the secret.
        let mut run = Run::anonymous(relay.address, peer.address);
        way.prepare(run.add(&["-u", "somebody", "-W", SECRET]));
        lossless(&relay, &run);
    });
}

#[test]
fn ipv6_loses_nothing() {
    every(|way| {
        let listener = SocketAddr::new(LOCALHOST_V6, own_port());
        let relay = way.relay_at(listener, &[LOCALHOST_V6]);
        let peer = Peer::start(LOCALHOST_V6, own_port());
        lossless(&relay, &way.run(relay.address, peer.address, &["-x"]));
    });
}

#[test]
fn ipv6_peers_of_ipv4_clients_lose_nothing() {
    every(|way| {
        let listener = SocketAddr::new(own_address().into(), 3478);
        let relay = way.relay_at(listener, &[listener.ip(), LOCALHOST_V6]);
        let peer = Peer::start(LOCALHOST_V6, own_port());
        lossless(&relay, &way.run(relay.address, peer.address, &["-x"]));
    });
}

#[test]
fn ipv4_peers_of_ipv6_clients_lose_nothing() {
    every(|way| {
        let listener = SocketAddr::new(LOCALHOST_V6, own_port());
        let own = own_address().into();
        let relay = way.relay_at(listener, &[own, LOCALHOST_V6]);
        let peer = Peer::start(own, 3480);
        lossless(&relay, &way.run(relay.address, peer.address, &["-X"]));
    });
}

#[test]
fn dual_allocations_lose_nothing() {
    every(|way| {
        let listener = SocketAddr::new(own_address().into(), 3478);
        let relay = way.relay_at(listener, &[listener.ip(), LOCALHOST_V6]);
        let peer = Peer::start(own_address().into(), 3480);
        lossless(&relay, &way.run(relay.address, peer.address, &["-Z"]));
    });
}

/// `-I` leaves CreatePermission out. Send indications, since ChannelBind installs a permission.
#[test]
fn without_permissions_nothing_is_relayed() {
    every(|way| {
        let relay = way.relay();
        let peer = Peer::start(own_address().into(), 3480);
        let run = way.run(relay.address, peer.address, &["-I", "-s"]);
        let Some(counts) = run.finish() else {
            return;
        };
        let expected =
            Counts { sent: run.messages(), received: 0, lost: run.messages(), dropped: 0 };
        assert_eq!(counts, expected, "{run}");
        assert_eq!(relay.sum("turnway_relayed_datagrams_total{"), 0.0, "{run}");
        let refused = "turnway_dropped_datagrams_total{side=\"client\",reason=\"no_permission\"}";
        relay.await_samples("all drops", |samples| samples[refused] == counts.sent as f64);
    });
}

/// The client's own tests of a server's nerves, one by one and all at once, and then a plain run.
///
/// Over TCP every allocation ends with its connection. Over UDP and DTLS this client leaves allocations of
/// 777 seconds behind, with one in each plain run too: there the daemon's clock is put forward
/// (by libfaketime), and they expire.
#[test]
fn after_hostile_clients_nothing_is_lost_and_no_allocation_is_left() {
    every(|way| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Some(clock) = Clock::new(folder.path()) else {
            return;
        };
        if program("turnutils_uclient", "coturn").is_none() {
            return;
        }
        let environment = clock.environment();
        let relay = Relay::start(Setup { environment, ..way.setup() });
        let peer = Peer::start(own_address().into(), 3480);
        let (server, echo) = (relay.address, peer.address);
        let attack = |mode: &str| way.run(server, echo, &[mode]);
        for (mode, trace) in ATTACKS {
            harass(&relay, &attack(mode), trace);
        }
        thread::scope(|scope| {
            for (mode, _) in ATTACKS {
                scope.spawn(move || attack(mode).attempt(Duration::from_secs(3)));
            }
        });
        lossless(&relay, &way.run(relay.address, peer.address, &[]));
        if !way.is_connection() {
            assert!(way.is_secured() || relay.allocations() > 0.0, "the clock proves nothing");
            clock.put_forward(Duration::from_secs(800));
        }
        relay.await_no_allocations();
        assert_eq!(relay.sum("turnway_relay_ports{state=\"claimed\"}"), 0.0);
    });
}

#[test]
fn old_channel_numbers_can_be_refused() {
    let limits = "old_channel_numbers = false".to_owned();
    for (limits, refused) in [(String::new(), None), (limits, Some(code::BAD_REQUEST))] {
        let relay = Relay::start(Setup { limits, ..Setup::default() });
        let mut client = Client::udp(relay.address);
        client.allocate();
        assert_eq!(client.bind(0x5000, SocketAddr::new(relay.ip(), 9)).code(), refused);
        client.bind(0x4FFF, SocketAddr::new(relay.ip(), 10)).expect_success();
    }
}

#[test]
fn clients_of_rfc_8489_never_have_old_channel_numbers() {
    //= rfc8656#section-12.2
    //= type=test
    //# The channel number is in the range 0x4000 through 0x4FFF (inclusive);
    let relay = Relay::with_shards(1);
    let mut client = Client::udp(relay.address);
    let challenge = client.transact(Method::ALLOCATE, &|b| b.add(&UDP));
    let challenge = challenge.message();
    let offered = challenge.raw(PasswordAlgorithms::TYPE).expect("offered to everyone");
    client.allocate();
    let mut bind = |number| {
        let request = client.build(Class::Request, Method::CHANNEL_BIND, &|b| {
            b.add(&ChannelNumber(number))?;
            b.add(&XorPeerAddress(SocketAddr::new(relay.ip(), 9)))?;
            b.add(&Echoed(offered))?;
            b.add(&PasswordAlgorithmAttribute(PasswordAlgorithm::Md5))
        });
        client.raw(&request).expect("sent");
        // Signed with MESSAGE-INTEGRITY-SHA256, as the client now knows it.
        let mut answer = [0; 512];
        let (len, _) = client.socket().recv_from(&mut answer).expect("an answer");
        let answer = Message::parse(&answer[..len]).expect("a message");
        assert!(answer.has(AttributeType::MESSAGE_INTEGRITY_SHA256));
        answer.get::<ErrorCode<'_>>().expect("well-formed").map(|error| error.code)
    };
    assert_eq!(bind(0x5000), Some(code::BAD_REQUEST));
    assert_eq!(bind(0x4000), None);
}

/// PASSWORD-ALGORITHMS as the server sent it.
struct Echoed<'a>(&'a [u8]);

impl Encode for Echoed<'_> {
    const TYPE: AttributeType = PasswordAlgorithms::TYPE;

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(self.0);
    }
}

const LOCALHOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A run in every way, with a daemon and a peer of its own.
fn each_way(mode: &[&str]) {
    every(|way| {
        let relay = way.relay();
        let peer = Peer::start(own_address().into(), 3480);
        lossless(&relay, &way.run(relay.address, peer.address, mode));
    });
}

/// Does something in every way, side by side.
fn every(test: impl Fn(Way) + Sync) {
    thread::scope(|scope| {
        for way in WAYS {
            let test = &test;
            scope.spawn(move || test(way));
        }
    });
}

/// Runs the client and asserts that all its messages went through the relay and back.
#[track_caller]
fn lossless(relay: &Relay, run: &Run) {
    let relayed = || relay.sum("turnway_relayed_datagrams_total{");
    let before = relayed();
    let Some(counts) = run.finish() else { return };
    let all = run.messages();
    let lossless = Counts { sent: all, received: all, lost: 0, dropped: 0 };
    assert_eq!(counts, lossless, "{run}: {:#?}", drops(relay));
    let expected = before + 2.0 * all as f64;
    relay.await_samples("all datagrams in the metrics", |_| relayed() >= expected);
}

/// The same of a client that may give up before it has sent anything, and then begins anew.
#[track_caller]
fn lossless_at_last(relay: &Relay, run: &Run) {
    let Some(counts) = run.finish_at_last(ATTEMPTS) else { return };
    let all = run.messages();
    let lossless = Counts { sent: all, received: all, lost: 0, dropped: 0 };
    assert_eq!(counts, lossless, "{run}: {:#?}", drops(relay));
}

/// Half of them fail.
const ATTEMPTS: usize = 40;

/// What the daemon says of datagrams that it, or the kernel before it, dropped.
fn drops(relay: &Relay) -> Vec<(String, f64)> {
    let samples = relay.samples().into_iter();
    samples.filter(|(name, count)| name.contains("drop") && *count > 0.0).collect()
}

/// Whether a sample of this name rises under an attack.
type Trace = fn(&str) -> bool;

/// The client's hostile modes, and what each leaves behind.
const ATTACKS: [(&str, Trace); 5] = [
    // "Negative tests" and "negative protocol tests": wrong attributes, wrong bytes.
    ("-N", is_nonsense),
    ("-R", is_nonsense),
    // "Generate extra requests": among them some for peers of the other family.
    ("-G", |name| name.contains("outcome=\"family_mismatch\"")),
    // "Quick connect and exit", and "random disconnect": allocations that nobody comes back to.
    ("-O", is_allocate),
    ("-B", is_allocate),
];

fn is_nonsense(name: &str) -> bool {
    let signs = ["outcome=\"bad_request\"", "reason=\"malformed\"", "reason=\"not_turn\""];
    signs.iter().any(|sign| name.contains(sign))
}

fn is_allocate(name: &str) -> bool {
    name.starts_with("turnway_requests_total{method=\"allocate\"")
}

/// Runs a client that misbehaves again and again until the daemon has noticed it ten times. It may
/// hang (it waits for answers to requests it made unreadable) or crash, and is stopped then.
fn harass(relay: &Relay, run: &Run, trace: Trace) {
    let count = || {
        let samples = relay.samples();
        let counted = samples.iter().filter(|(name, _)| trace(name));
        counted.map(|(_, count)| count).sum::<f64>()
    };
    let before = count();
    common::await_some(&format!("traces of {run}"), || {
        run.attempt(Duration::from_millis(500));
        (count() >= before + 10.0).then_some(())
    });
}

/// A port, and the one after it, that no other test uses: all tests share `::1`. Below the ports
/// that the kernel chooses by itself.
fn own_port() -> u16 {
    static COUNTER: AtomicU16 = AtomicU16::new(0);
    let process = (std::process::id() % 200) as u16;
    10_000 + 100 * process + 2 * COUNTER.fetch_add(1, Ordering::Relaxed) % 100
}
