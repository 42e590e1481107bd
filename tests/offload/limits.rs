//! What limits let pass is what arrives, whoever relays it, and all of it is counted.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use turnway_wire::Family;

use crate::common::client::{Client, Peer};
use crate::common::{Setup, await_some};
use crate::in_each_mode;
use crate::net::{Relayed, Talk, World, address};

/// The limit of each test, in bytes per second.
const LIMIT: u64 = 250_000;
/// What comes in half a second may pass at once.
const BURST: u64 = LIMIT / 2;
/// What the kernel may hold at a time: a tenth of a second.
const CHUNK: u64 = LIMIT / 10;
/// Payload bytes of a datagram.
const SIZE: usize = 1_000;
/// How long is measured.
const TIME: Duration = Duration::from_secs(3);

/// What may arrive in the time since everything was unused: 5 % less is the kernel's caution.
fn allowed(time: Duration) -> RangeInclusive<u64> {
    let all = BURST + LIMIT * time.as_millis() as u64 / 1_000;
    all * 95 / 100..=all + CHUNK
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToPeer,
    ToClient,
}

/// A direction of a talk that is sent more than may pass.
struct Flow<'a> {
    talk: &'a Talk,
    direction: Direction,
    sent: u64,
    received: u64,
}

impl<'a> Flow<'a> {
    fn new(talk: &'a Talk, direction: Direction) -> Self {
        Self { talk, direction, sent: 0, received: 0 }
    }

    /// Sends what is due at a rate, and takes what came.
    fn go_on(&mut self, started: Instant, bytes_per_second: u64) {
        let due = started.elapsed().as_micros() as u64 * bytes_per_second / 1_000_000;
        while self.sent * (SIZE as u64) < due {
            match self.direction {
                Direction::ToPeer => self.talk.to_peer(&[7; SIZE]),
                Direction::ToClient => self.talk.to_client(&[7; SIZE]),
            }
            self.sent += 1;
        }
        self.take();
    }

    fn take(&mut self) {
        let end = match self.direction {
            Direction::ToPeer => &self.talk.far,
            Direction::ToClient => &self.talk.near,
        };
        self.received += std::iter::from_fn(|| end.take()).map(|_| SIZE as u64).sum::<u64>();
    }
}

/// Sends at a rate in each flow for some time: how long it was.
fn load(flows: &mut [Flow<'_>], rate: u64, mut meanwhile: impl FnMut(Instant)) -> Duration {
    let started = Instant::now();
    while started.elapsed() < TIME {
        flows.iter_mut().for_each(|flow| flow.go_on(started, rate));
        meanwhile(started);
        thread::park_timeout(Duration::from_millis(1));
    }
    flows.iter_mut().for_each(Flow::take);
    started.elapsed()
}

/// Waits until every datagram is counted, as relayed or as dropped. What was relayed since.
fn counted(world: &World, before: Relayed, flows: &[Flow<'_>]) -> Relayed {
    let sent = flows.iter().map(|flow| flow.sent).sum::<u64>() as f64;
    await_some("all to be counted", || {
        let relayed = world.all().minus(before);
        let dropped = world.relay.sum("turnway_dropped_datagrams_total{");
        let counted = (relayed.to_peer + relayed.to_client) as f64 + dropped;
        (counted == sent).then_some(relayed)
    })
}

/// With a limit that two talks share, or each direction of one talk has.
fn holds(configuration: &Setup, limit: &str, mode: &str, net: crate::net::Net, shared: bool) {
    let setup = Setup {
        extra: configuration.extra.clone(),
        limits: configuration.limits.clone(),
        ..World::setup()
    };
    let world = World::start(net, mode, setup);
    let talks = [0x4000, 0x4001].map(|number| world.talk((Family::V4, Family::V4), number));
    let before = world.counts();
    let mut flows = if shared {
        talks.each_ref().map(|talk| Flow::new(talk, Direction::ToPeer))
    } else {
        [Direction::ToPeer, Direction::ToClient].map(|way| Flow::new(&talks[0], way))
    };
    let time = load(&mut flows, if shared { LIMIT } else { 2 * LIMIT }, |_| ());
    let received: Vec<u64> = flows.iter().map(|flow| flow.received).collect();
    let allowed = allowed(time);
    if shared {
        let all = received.iter().sum();
        assert!(allowed.contains(&all), "{limit} {mode}: {all} of {allowed:?}");
    } else {
        let held = received.iter().all(|bytes| allowed.contains(bytes));
        assert!(held, "{limit} {mode}: {received:?} of {allowed:?}");
    }
    let relayed = counted(&world, before.all, &flows);
    flows.iter_mut().for_each(Flow::take);
    let received = flows.iter().map(|flow| flow.received).sum::<u64>();
    assert_eq!(relayed.to_peer_bytes + relayed.to_client_bytes, received, "{limit} {mode}");
    // What its pockets do not cover it passes up, and user space may find that it is covered.
    let kernel = world.kernel().minus(before.kernel);
    let part = (kernel.to_peer_bytes + kernel.to_client_bytes) as f64 / received as f64;
    assert!(part > 0.2, "{limit} {mode}: the kernel relayed {part:.2} of it");
}

#[test]
fn each_bandwidth_lets_pass_what_it_says_and_no_more() {
    let quota = |key: &str| Setup {
        extra: format!("[quota]\n{key} = \"{LIMIT} B/s\"\n"),
        ..Setup::default()
    };
    let total = Setup { limits: format!("bandwidth = \"{LIMIT} B/s\""), ..Setup::default() };
    let cases = [
        ("bandwidth_per_allocation", quota("bandwidth_per_allocation"), false),
        ("bandwidth_per_user", quota("bandwidth_per_user"), true),
        ("bandwidth_per_realm", quota("bandwidth_per_realm"), true),
        ("bandwidth", total, true),
    ];
    thread::scope(|scope| {
        for (limit, setup, shared) in &cases {
            scope.spawn(|| {
                in_each_mode(|mode, net| holds(setup, limit, mode, net, *shared));
            });
        }
    });
}

#[test]
fn a_user_with_one_tcp_and_one_offloaded_allocation_gets_what_one_user_gets() {
    in_each_mode(|mode, net| {
        let extra = format!("[quota]\nbandwidth_per_user = \"{LIMIT} B/s\"\n");
        let world = World::start(net, mode, Setup { extra, ..World::setup() });
        let talk = world.talk((Family::V4, Family::V4), 0x4000);
        let server = world.server(Family::V4);
        let mut tcp = Client::tcp_from(world.net.clients.tcp(server), server);
        tcp.allocate_family(Family::V4);
        let peer = Peer::from(world.net.peers.udp((address(Family::V4, 2, 2), 0).into()));
        tcp.bind(0x4001, peer.address()).expect_success();
        peer.0.set_nonblocking(true).expect("a socket");
        let before = world.kernel();

        let (mut sent, mut by_tcp, mut buffer) = (0, 0, [0; 2 * SIZE]);
        let mut flow = [Flow::new(&talk, Direction::ToPeer)];
        let time = load(&mut flow, 2 * LIMIT, |started| {
            let due = started.elapsed().as_micros() as u64 * 2 * LIMIT / 1_000_000;
            while sent < due {
                tcp.send_channel(0x4001, &[8; SIZE]);
                sent += SIZE as u64;
            }
            while let Ok(length) = peer.0.recv(&mut buffer) {
                by_tcp += length as u64;
            }
        });
        let by_kernel = world.kernel().minus(before).to_peer_bytes;
        let (all, allowed) = (flow[0].received + by_tcp, allowed(time));
        assert!(allowed.contains(&all), "{mode}: {all} of {allowed:?}");
        let both = [by_kernel, by_tcp].map(|bytes| bytes as f64 / all as f64);
        assert!(both.iter().all(|part| *part > 0.2), "{mode}: neither takes all: {both:?}");
    });
}

/// Where no day ends while a test runs.
fn time_zone() -> &'static str {
    let hour = Timestamp::now().to_zoned(TimeZone::UTC).hour();
    if hour == 23 { "Etc/GMT+6" } else { "UTC" }
}

#[test]
fn a_spent_volume_ends_relaying_within_a_second() {
    const VOLUME: u64 = 1_000_000;
    in_each_mode(|mode, net| {
        let zone = time_zone();
        let setup = Setup {
            auth: "database = \"sqlite:users.db\"".to_owned(),
            extra: format!(
                "[quota]\nvolume_per_user = \"{VOLUME} B/day\"\ntime_zone = \"{zone}\"\n"
            ),
            ..World::setup()
        };
        let world = World::start(net, mode, setup);
        let talk = world.talk((Family::V4, Family::V4), 0x4000);
        let before = world.counts();
        let mut flow = Flow::new(&talk, Direction::ToPeer);
        let (started, mut last, mut spent_at) = (Instant::now(), Instant::now(), None);
        while spent_at.is_none() || last.elapsed() < Duration::from_secs(1) {
            assert!(started.elapsed() < Duration::from_secs(20), "{mode}: it is never spent");
            let received = flow.received;
            flow.go_on(started, VOLUME);
            if flow.received > received {
                last = Instant::now();
            }
            if flow.received >= VOLUME {
                spent_at.get_or_insert_with(Instant::now);
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        let late = last - spent_at.expect("the loop's condition");
        assert!(late <= Duration::from_secs(1), "{mode}: relayed for {late:?} more");
        let flows = [flow];
        let relayed = counted(&world, before.all, &flows);
        assert_eq!(relayed.to_peer_bytes, flows[0].received, "{mode}");
        assert!(world.kernel().minus(before.kernel).to_peer_bytes > VOLUME / 2);
        let spent = "turnway_dropped_datagrams_total{side=\"client\",reason=\"volume_spent\"}";
        assert!(world.relay.samples()[spent] > 0.0);
    });
}
