//! What one user notices of another that offers ten times its limit.
//!
//! Both are on one shard. The neighbour's datagrams carry the time they were sent at, both ways;
//! windows without and with the other's load take turns, so that whatever else the machine does
//! meets both.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use turnway::config::Secret;
use turnway::credentials;
use turnway_udp::system::monotonic_ns;
use turnway_udp::{Events, Interest, Poller};
use turnway_wire::channel_header;

use crate::common::client::{Client, Peer, Random, seed};
use crate::common::{Relay, SECRET};
use crate::load::{CHANNEL, Load, PAYLOAD, Shape, shard_of};
use crate::{Verdict, relay, unlimited_relay};

/// The limit of each user, in each direction.
const MEGABITS: u64 = 5;
/// What the one user offers, in limits.
const OFFERED: u64 = 10;
const ALLOCATIONS: usize = 4;

/// Datagrams per second of the neighbour, in each direction, and their payload: an audio packet.
const PROBES: u64 = 500;
const PROBE: usize = 172;

const WINDOWS: usize = 9;
const WINDOW: Duration = Duration::from_secs(3);
/// Until the burst is spent.
const WARM_UP: Duration = Duration::from_millis(300);
/// After so long a datagram is lost.
const LATE: Duration = Duration::from_millis(500);

/// How much longer the neighbour may wait than alone: half of its datagrams, and 99 %.
const MOST: [f64; 2] = [1.2, 1.5];

/// Prints the table; how many rows failed.
pub(crate) fn run() -> usize {
    let limit = MEGABITS * 1_000_000 / 8;
    println!(
        "neighbour  {} datagrams/s of one user beside {} datagrams/s of another, one shard; \
         medians of {WINDOWS} windows",
        2 * PROBES,
        2 * OFFERED * limit / PAYLOAD as u64
    );
    println!(
        "  {:<16} {:>15} {:>16} {:>16} {:>7} {:>7} {:>5}  (lost 0, p50 {} x, p99 {} x)",
        "the other",
        "passes/limit",
        "alone p50/99 us",
        "beside p50/99 us",
        "p50 x",
        "p99 x",
        "lost",
        MOST[0],
        MOST[1]
    );
    let limited = row("limited", relay(MEGABITS), limit, true);
    let unlimited = row("without a limit", unlimited_relay(), limit, false);
    usize::from(!limited) + usize::from(!unlimited)
}

fn row(name: &str, mut relay: Relay, limit: u64, judged: bool) -> bool {
    let mut neighbour = Neighbour::new(&relay);
    let shard = shard_of(&mut relay, neighbour.client.local_addr());
    let mut on_shards = [0; 2];
    on_shards[shard] = ALLOCATIONS;
    let mut load = Load::placed(&mut relay, on_shards);
    let mut alone = Vec::new();
    let mut beside = Vec::new();
    let mut passed = 0.0;
    for _ in 0..WINDOWS {
        alone.push(neighbour.probe(WINDOW));
        load.offer(Shape::Constant, OFFERED * limit);
        let before = load.run(WARM_UP);
        let (window, count) = thread::scope(|scope| {
            let load = scope.spawn(|| load.run(WINDOW));
            (neighbour.probe(WINDOW), load.join().expect("the load goes on"))
        });
        beside.push(window);
        let count = count.since(&before);
        let bytes = (count.total(0).received + count.total(1).received) as f64;
        passed += bytes / (2.0 * limit as f64 * count.at.as_secs_f64()) / WINDOWS as f64;
    }
    let [alone_us, beside_us] = [&alone, &beside].map(|windows| medians(windows));
    let longer = [0, 1].map(|at| beside_us[at] / alone_us[at]);
    let lost: u64 = alone.iter().chain(&beside).map(|window| window.lost).sum();
    let pass = lost == 0 && longer[0] <= MOST[0] && longer[1] <= MOST[1];
    println!(
        "  {name:<16} {passed:>15.2} {:>8.1} {:>7.1} {:>8.1} {:>7.1} {:>7.2} {:>7.2} {lost:>5}  {}",
        alone_us[0],
        alone_us[1],
        beside_us[0],
        beside_us[1],
        longer[0],
        longer[1],
        if judged { Verdict::of(true, pass).text() } else { "for comparison" }
    );
    pass || !judged
}

/// The delays of one window in nanoseconds, in order, and how many datagrams never came.
struct Window {
    delays_ns: Vec<u64>,
    lost: u64,
}

impl Window {
    fn quantile_us(&self, quantile: f64) -> f64 {
        let at = (self.delays_ns.len() as f64 * quantile) as usize;
        self.delays_ns[at.min(self.delays_ns.len() - 1)] as f64 / 1e3
    }
}

/// Over all windows, of what half and what 99 % of a window's datagrams took at most.
fn medians(windows: &[Window]) -> [f64; 2] {
    [0.5, 0.99].map(|quantile| {
        let mut all: Vec<f64> = windows.iter().map(|window| window.quantile_us(quantile)).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

/// A user with one allocation, who keeps to what everybody may have.
struct Neighbour {
    client: Client,
    peer: Peer,
    relayed: SocketAddr,
    random: Random,
}

impl Neighbour {
    fn new(relay: &Relay) -> Self {
        let secret = Secret::new(SECRET.to_owned());
        let expires = credentials::unix_now() + 3_600;
        let name = credentials::mint(&secret, ':', "neighbour", expires).expect("a name");
        let peer = Peer::on(relay.ip());
        let client = Client::udp(relay.address);
        let mut client = client.with_credentials(&name.username, name.password.expose());
        let relayed = client.allocate();
        client.bind(CHANNEL, peer.address()).expect_success();
        // As it is the client's own once it has sent: nothing else comes from elsewhere then.
        client.socket().connect(relay.address).expect("a socket");
        for socket in [client.socket(), &peer.0] {
            socket.set_nonblocking(true).expect("a socket");
        }
        Self { client, peer, relayed, random: Random(seed()) }
    }

    /// Sends datagrams both ways for some time and takes them in on another thread.
    fn probe(&mut self, time: Duration) -> Window {
        let (client, peer) = (self.client.socket(), &self.peer.0);
        let (relayed, random) = (self.relayed, &mut self.random);
        // How many are to be waited for, once that is known.
        let sent = AtomicU64::new(u64::MAX);
        thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(client, peer, &sent));
            sent.store(send(client, peer, relayed, random, time), Ordering::Relaxed);
            receiver.join().expect("it receives")
        })
    }
}

/// Sends both ways; how many datagrams.
fn send(
    client: &UdpSocket,
    peer: &UdpSocket,
    relayed: SocketAddr,
    random: &mut Random,
    time: Duration,
) -> u64 {
    let mut datagram = [0; 4 + PROBE];
    datagram[..4].copy_from_slice(&channel_header(CHANNEL, PROBE as u16));
    let gap_ns = 1_000_000_000 / (2 * PROBES);
    let started = Instant::now();
    let mut next = Duration::ZERO;
    let mut sent = 0;
    while next < time {
        thread::sleep(next.saturating_sub(started.elapsed()));
        datagram[4..12].copy_from_slice(&monotonic_ns().to_be_bytes());
        let result = match sent % 2 {
            0 => client.send(&datagram),
            _ => peer.send_to(&datagram[4..], relayed),
        };
        result.expect("loopback takes it");
        sent += 1;
        // In no step with the other user's load.
        next += Duration::from_nanos(gap_ns / 2 + random.next() % gap_ns);
    }
    sent
}

fn receive(client: &UdpSocket, peer: &UdpSocket, sent: &AtomicU64) -> Window {
    let poller = Poller::new().expect("a descriptor");
    poller.add(client, 4, Interest::READ).expect("memory");
    poller.add(peer, 0, Interest::READ).expect("memory");
    let mut events = Events::new(2);
    let mut delays_ns = Vec::new();
    let mut last = Instant::now();
    loop {
        poller.wait(&mut events, Some(Duration::from_millis(20))).expect("an open poller");
        for event in events.iter() {
            let header = event.token as usize;
            let socket = if header > 0 { client } else { peer };
            let mut buffer = [0; 4 + PROBE];
            while let Ok(len) = socket.recv(&mut buffer) {
                let now = monotonic_ns();
                assert_eq!(len, header + PROBE, "another's datagram");
                let stamp = buffer[header..header + 8].try_into().expect("eight bytes");
                delays_ns.push(now - u64::from_be_bytes(stamp));
                last = Instant::now();
            }
        }
        let came = delays_ns.len() as u64;
        let sent = sent.load(Ordering::Relaxed);
        if came >= sent || (sent < u64::MAX && last.elapsed() >= LATE) {
            delays_ns.sort_unstable();
            return Window { delays_ns, lost: sent - came };
        }
    }
}
