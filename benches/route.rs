//! What the rules cost per relayed datagram, with 1, 1,000 and 100,000 allocations in the table.
//!
//! Prints nanoseconds and heap allocations per datagram beside a bare `sendto` and `recvfrom` of
//! the same datagram over loopback, so that every figure is also a share of what the kernel takes
//! at least; and what it costs to hold each datagram to limits of its allocation, its user, the
//! realm and the server, with a user for each allocation. Fails if a datagram touches the heap. Run
//! with `cargo bench --bench route`; `--quick` measures a tenth.

use std::alloc::System;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use turnway_relay::auth::{Auth, AuthConfig, rest_password};
use turnway_relay::limits::Limits;
use turnway_relay::policy::{Policy, PolicyConfig};
use turnway_relay::quota::{Bandwidth, UserLimits};
use turnway_relay::shared::{AllocationCount, LivePorts, SourceLimiter};
use turnway_relay::{
    AllocationId, Bound, Client, Config, Effect, Event, FiveTuple, IpFields, Ledger, Link, Now,
    Quotas, Realms, RelayAddr, RelayId, Route, Seed, Server, Shared, Tickets, Transport,
};
use turnway_wire::{
    Builder, ChannelNumber, Class, Data, Family, IntegrityAlgorithm, IntegrityKey, LongTermKey,
    Message, Method, Nonce, PasswordAlgorithm, Realm, RequestedTransport, TransactionId, Username,
    XorPeerAddress, channel_header,
};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations in the table.
const SIZES: [u32; 3] = [1, 1_000, 100_000];
/// Bytes of payload: an audio and a full video packet.
const PAYLOADS: [usize; 2] = [172, 1_200];

const SECRET: &[u8] = b"a shared secret";
const REALM: &str = "example.org";
const CHANNEL: u16 = 0x4001;
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(20, 0, 0, 9)), 3478);
/// The peer that is bound to a channel, and the one that only has a permission.
const BOUND_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(12, 0, 0, 1)), 7000);
const PLAIN_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(12, 0, 0, 2)), 7000);
const IP: Option<IpFields> = Some(IpFields { ttl: 64, tos: 0 });
const NOW: Now = Now { mono_ns: 1_000_000_000, unix_s: 1_700_000_000 };

/// The four ways of a datagram through the relay.
#[derive(Clone, Copy)]
enum Path {
    ChannelDataToPeer,
    PeerToChannelData,
    SendToPeer,
    PeerToData,
}

const PATHS: [(Path, &str); 4] = [
    (Path::ChannelDataToPeer, "ChannelData -> peer"),
    (Path::PeerToChannelData, "peer -> ChannelData"),
    (Path::SendToPeer, "Send -> peer"),
    (Path::PeerToData, "peer -> Data"),
];

/// How much is measured: the median of `rounds` turns of `datagrams` each.
struct Effort {
    rounds: usize,
    datagrams: usize,
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let effort = Effort {
        rounds: if quick { 3 } else { 11 },
        datagrams: if quick { 50_000 } else { 200_000 },
    };
    let kernel_ns = PAYLOADS.map(|payload| kernel(&effort, payload));
    println!("route  ns per datagram (share of a sendto and recvfrom); what all limits add to it");
    println!(
        "  {:<8} {:<12} {:<20} {:>14} {:>14} {:>16} {:>16}",
        "table", "order", "path", "172 B", "1200 B", "limits 172 B", "limits 1200 B"
    );
    print_row(["-", "-", "sendto + recvfrom"], kernel_ns, [0.0; 2], kernel_ns);
    let mut heap_allocations = 0;
    let mut verdict = Verdict::default();
    for size in SIZES {
        let mut plain = Relay::with_allocations(size, Quotas::default());
        let mut limited = Relay::with_allocations(size, all_limits());
        for (order, name) in [(in_turn(size), "round robin"), (at_random(size), "random")] {
            for (path, label) in PATHS {
                let cells = PAYLOADS.map(|payload| {
                    measure(&effort, [&mut plain, &mut limited], path, payload, &order)
                });
                heap_allocations += cells.iter().map(|cell| cell.heap).sum::<usize>();
                let (ns, added) = (cells.map(|cell| cell.ns), cells.map(|cell| cell.added_ns));
                print_row([&size.to_string(), name, label], ns, added, kernel_ns);
                verdict.add(ns, added, kernel_ns);
            }
            // One flow has one order.
            if size == 1 {
                break;
            }
        }
    }
    println!("heap allocations of all these datagrams: {heap_allocations}");
    println!(
        "cells in which limits add at most 25 ns or 25 %, whichever is more: {} of {}; at most 2 % \
         of sendto and recvfrom: {} of {}",
        verdict.small, verdict.cells, verdict.beside_kernel, verdict.cells
    );
    assert_eq!(heap_allocations, 0, "a routed datagram touched the heap");
}

/// In how many cells the limits cost little.
#[derive(Default)]
struct Verdict {
    cells: usize,
    small: usize,
    beside_kernel: usize,
}

impl Verdict {
    fn add(&mut self, ns: [f64; 2], added: [f64; 2], kernel: [f64; 2]) {
        for at in 0..2 {
            self.cells += 1;
            self.small += usize::from(added[at] <= 25.0_f64.max(ns[at] / 4.0));
            self.beside_kernel += usize::from(added[at] <= kernel[at] / 50.0);
        }
    }
}

fn print_row(names: [&str; 3], ns: [f64; 2], added: [f64; 2], kernel: [f64; 2]) {
    let [size, order, path] = names;
    let share = |at: usize| format!("{:.0} ({:.1} %)", ns[at], 100.0 * ns[at] / kernel[at]);
    let more = |at: usize| format!("{:+.0} ({:+.1} %)", added[at], 100.0 * added[at] / kernel[at]);
    println!(
        "  {size:<8} {order:<12} {path:<20} {:>14} {:>14} {:>16} {:>16}",
        share(0),
        share(1),
        more(0),
        more(1)
    );
}

/// Every limit there is, each so wide that nothing is dropped: what is measured is keeping count.
fn all_limits() -> Quotas {
    let rate = Bandwidth { bytes_per_second: 125_000_000, burst_bytes: 1 << 50 };
    let user = UserLimits {
        allocations: Some(10),
        bandwidth: Some(rate),
        bandwidth_per_allocation: Some(rate),
        volume_per_day: Some(1 << 50),
        volume_per_month: Some(1 << 50),
    };
    Quotas {
        default: user,
        realm_allocations: Some(1 << 30),
        realm_bandwidth: Some(rate),
        total_bandwidth: Some(rate),
        count_volume: true,
        ..Quotas::default()
    }
}

/// One path with one size of payload.
#[derive(Clone, Copy)]
struct Cell {
    ns: f64,
    added_ns: f64,
    heap: usize,
}

/// Measures two relays in turn, so that what disturbs the one disturbs the other.
fn measure(
    effort: &Effort,
    relays: [&mut Relay; 2],
    path: Path,
    payload: usize,
    order: &[u32],
) -> Cell {
    let data = datagram(path, payload);
    let [plain, limited] = relays;
    let mut flows = [order.iter().copied().cycle(), order.iter().copied().cycle()];
    let (mut ns, mut added) =
        (Vec::with_capacity(effort.rounds), Vec::with_capacity(effort.rounds));
    // Once through the table first: leases are taken then.
    limited.turn(path, &data, flows[1].by_ref().take(order.len()));
    let heap = Region::new(HEAP);
    for _ in 0..effort.rounds {
        let without = plain.turn(path, &data, flows[0].by_ref().take(effort.datagrams));
        let with = limited.turn(path, &data, flows[1].by_ref().take(effort.datagrams));
        ns.push(without);
        added.push(with - without);
    }
    let used = heap.change();
    Cell { ns: median(ns), added_ns: median(added), heap: used.allocations + used.reallocations }
}

/// A server with allocations that were made as clients make them.
struct Relay {
    server: Server,
    ledger: Ledger,
}

impl Relay {
    fn with_allocations(size: u32, quotas: Quotas) -> Self {
        let quotas = Arc::new(quotas);
        let ledger = Ledger::new(Arc::clone(&quotas), NOW.mono_ns);
        let mut relay = Self { server: server(quotas), ledger };
        (0..size).for_each(|flow| relay.allocate(flow));
        assert_eq!(relay.server.allocations(), size as usize);
        relay
    }

    /// Allocation, channel and permission of one client.
    fn allocate(&mut self, flow: u32) {
        let nonce = self.nonce(flow);
        let nonce = nonce.as_slice();
        self.request(flow, Method::ALLOCATE, nonce, &|builder| {
            builder.add(&RequestedTransport(17)).expect(FITS);
        });
        self.request(flow, Method::CHANNEL_BIND, nonce, &|builder| {
            builder.add(&ChannelNumber(CHANNEL)).expect(FITS);
            builder.add(&XorPeerAddress(BOUND_PEER)).expect(FITS);
        });
        self.request(flow, Method::CREATE_PERMISSION, nonce, &|builder| {
            builder.add(&XorPeerAddress(PLAIN_PEER)).expect(FITS);
        });
    }

    /// The nonce of a 401.
    fn nonce(&mut self, flow: u32) -> Vec<u8> {
        let mut buffer = [0; 128];
        let mut builder = new_request(&mut buffer, Method::ALLOCATE);
        builder.add(&RequestedTransport(17)).expect(FITS);
        let len = builder.finish();
        let mut out = [0; 1500];
        let len = self.exchange(flow, &buffer[..len], &mut out);
        let challenge = Message::parse(&out[..len]).expect("a response");
        let nonce = challenge.raw(Nonce::TYPE).expect("a challenge has a nonce");
        nonce.to_vec()
    }

    fn request(
        &mut self,
        flow: u32,
        method: Method,
        nonce: &[u8],
        fill: &dyn Fn(&mut Builder<'_>),
    ) {
        let mut buffer = [0; 512];
        let mut builder = new_request(&mut buffer, method);
        fill(&mut builder);
        let (name, key) = user(flow);
        builder.add(&Username(name.as_bytes())).expect(FITS);
        builder.add(&Realm(REALM.as_bytes())).expect(FITS);
        builder.add(&Nonce(nonce)).expect(FITS);
        builder.integrity(&key).expect(FITS);
        let len = builder.finish();
        let mut out = [0; 1500];
        let len = self.exchange(flow, &buffer[..len], &mut out);
        let response = Message::parse(&out[..len]).expect("a response");
        assert_eq!(response.class(), Class::Success, "{response:?}");
    }

    /// Gives the server a request and says how long the answer is.
    fn exchange(&mut self, flow: u32, data: &[u8], out: &mut [u8]) -> usize {
        let from = client(flow);
        self.server.handle(Event::Request { from, data }, NOW, out);
        let mut answered = 0;
        while let Some(effect) = self.server.poll() {
            match effect {
                Effect::Reply { len, .. } | Effect::ReplyFrom { len, .. } => answered = len,
                Effect::Bind { allocation, .. } => {
                    let bound = bound(allocation);
                    self.server.handle(Event::Bound(bound), NOW, out);
                }
                Effect::Reserve { account, client } => {
                    let reserved = self.ledger.reserve(&account, client, NOW.mono_ns);
                    self.server.handle(Event::Reserved(reserved), NOW, out);
                }
                Effect::Release(_)
                | Effect::Exchange
                | Effect::Close { .. }
                | Effect::Indicate { .. }
                | Effect::Connect { .. }
                | Effect::Depart { .. }
                | Effect::Splice { .. }
                | Effect::Disconnect { .. }
                | Effect::ChannelUp(_)
                | Effect::ChannelDown { .. }
                | Effect::Log(_) => {}
            }
        }
        answered
    }

    /// Nanoseconds per datagram of one turn.
    fn turn(&mut self, path: Path, data: &[u8], flows: impl Iterator<Item = u32>) -> f64 {
        let started = Instant::now();
        let mut count = 0;
        for flow in flows {
            let mut route = self.route(path, flow, black_box(data));
            if matches!(route, Route::Lease) {
                self.ledger.exchange(0, self.server.exchange(), NOW.mono_ns);
                self.server.handle(Event::Exchanged, NOW, &mut []);
                route = self.route(path, flow, black_box(data));
            }
            assert!(matches!(route, Route::ToPeer { .. } | Route::ToClient { .. }));
            black_box(route);
            count += 1;
        }
        started.elapsed().as_nanos() as f64 / f64::from(count)
    }

    fn route(&mut self, path: Path, flow: u32, data: &[u8]) -> Route {
        match path {
            Path::ChannelDataToPeer | Path::SendToPeer => {
                self.server.route_client(&client(flow), data, IP, NOW)
            }
            Path::PeerToChannelData => {
                let relay = relay(flow);
                self.server.route_peer(relay, BOUND_PEER, data.len(), IP, NOW)
            }
            Path::PeerToData => {
                let relay = relay(flow);
                self.server.route_peer(relay, PLAIN_PEER, data.len(), IP, NOW)
            }
        }
    }
}

const FITS: &str = "the buffer is large enough";

fn new_request(buffer: &mut [u8], method: Method) -> Builder<'_> {
    let transaction = TransactionId(*b"transaction1");
    Builder::new(buffer, Class::Request, method, transaction).expect(FITS)
}

/// The n-th client's user: a time-limited name, so that there may be very many.
fn user(flow: u32) -> (String, IntegrityKey) {
    let name = format!("4000000000:{flow}");
    let password = rest_password(SECRET, name.as_bytes());
    let md5 = PasswordAlgorithm::Md5;
    let key = LongTermKey::derive(md5, name.as_bytes(), REALM.as_bytes(), password.as_bytes());
    (name, IntegrityKey::new(IntegrityAlgorithm::Sha1, key.as_bytes()))
}

fn server(quotas: Arc<Quotas>) -> Server {
    let auth = Auth::new(AuthConfig {
        id: Default::default(),
        realm: REALM.to_owned(),
        users: Vec::new(),
        users_elsewhere: false,
        rest_secrets: vec![SECRET.to_vec()],
        rest_separator: b':',
        nonce_secret: b"0123456789abcdef".to_vec(),
        nonce_lifetime_s: 3600,
        enforce_expiry: true,
        oauth: None,
    });
    let config = Config {
        realms: Realms::new(
            turnway_relay::Realm::new(
                auth.expect("valid"),
                Policy::new(PolicyConfig {
                    listeners: vec![SERVER],
                    own: vec![SERVER.ip()],
                    relays: vec![(SERVER.ip(), SERVER.ip())],
                    ..PolicyConfig::default()
                }),
            ),
            Vec::new(),
        ),
        limits: Limits::default(),
        alternates: Default::default(),
        quotas,
        discovery: None,
        v4: true,
        v6: false,
    };
    let shared = Shared {
        live: LivePorts::new(&[SERVER.ip()]),
        allocations: AllocationCount::new(u32::MAX),
        sources: SourceLimiter::new(8, 0, 1, 1),
        tickets: Tickets::new([7; 32]),
    };
    let seed = Seed { shard: 0, random: 0x5EED, first_session: 0 };
    Server::new(Arc::new(config), Arc::new(shared), seed)
}

/// The n-th client. Computed, so that looking it up costs no cache miss of its own.
fn client(flow: u32) -> Client {
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + flow);
    Client {
        tuple: FiveTuple {
            transport: Transport::Udp,
            client: SocketAddr::new(ip.into(), 40_000),
            server: SERVER,
        },
        link: Link(0),
        realm: Default::default(),
    }
}

/// The n-th client's relayed transport address: a fresh server fills its slots in order.
fn relay(flow: u32) -> RelayId {
    RelayId { allocation: AllocationId { slot: flow, generation: flow }, family: Family::V4 }
}

fn bound(allocation: AllocationId) -> Bound {
    let port = 1024 + (allocation.slot % 60_000) as u16;
    let local = SocketAddr::new(SERVER.ip(), port);
    Bound {
        allocation,
        v4: Some(Ok(RelayAddr { local, external: local })),
        v6: None,
        reservation: None,
    }
}

/// What arrives: framed from a client, bare from a peer.
fn datagram(path: Path, payload: usize) -> Vec<u8> {
    let payload = vec![0xAB; payload];
    match path {
        Path::ChannelDataToPeer => {
            let header = channel_header(CHANNEL, payload.len() as u16);
            [&header, payload.as_slice()].concat()
        }
        Path::SendToPeer => {
            let mut buffer = [0; 2048];
            let transaction = TransactionId(*b"transaction2");
            let class = Class::Indication;
            let builder = Builder::new(&mut buffer, class, Method::SEND, transaction);
            let mut builder = builder.expect(FITS);
            builder.add(&XorPeerAddress(PLAIN_PEER)).expect(FITS);
            builder.add(&Data(&payload)).expect(FITS);
            let len = builder.finish();
            buffer[..len].to_vec()
        }
        Path::PeerToChannelData | Path::PeerToData => payload,
    }
}

fn in_turn(size: u32) -> Vec<u32> {
    (0..size).collect()
}

/// Every flow once, in an order that no prefetcher foresees.
fn at_random(size: u32) -> Vec<u32> {
    let mut order = in_turn(size);
    let mut state = 1_u64;
    for last in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        order.swap(last, (state >> 33) as usize % (last + 1));
    }
    order
}

/// Nanoseconds of sending a datagram over loopback and receiving it.
fn kernel(effort: &Effort, payload: usize) -> f64 {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    let (sender, receiver) = (bind(), bind());
    let to = receiver.local_addr().expect("bound");
    let data = vec![0xAB; payload];
    let mut buffer = [0; 2048];
    let round = |_| {
        let datagrams = effort.datagrams / 10;
        let started = Instant::now();
        for _ in 0..datagrams {
            sender.send_to(&data, to).expect("loopback takes it");
            receiver.recv_from(&mut buffer).expect("it is there");
        }
        started.elapsed().as_nanos() as f64 / datagrams as f64
    };
    median((0..effort.rounds).map(round).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
