//! Whatever ends a channel ends it in the kernel as well, and nobody ever gets what was another's.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use turnway_wire::Family;

use crate::common::client::{Client, Relayed};
use crate::common::{PASSWORD, Setup, USER, await_some};
use crate::net::{End, Talk, World, address, framed, run_inside};
use crate::{in_each_mode, in_each_world};

/// Within so long a change of the operator takes effect.
const TWO_SECONDS: Duration = Duration::from_secs(2);

/// Runs `turnway` on the daemon's configuration.
#[track_caller]
fn operate(world: &World, arguments: &[&str]) {
    let config = world.relay.config_path();
    let input = world.relay.folder.path().join("input");
    fs::write(&input, PASSWORD).expect("a file of ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnway"));
    command.args(arguments).arg("--config").arg(config);
    command.stdin(fs::File::open(&input).expect("a file of ours"));
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// A talk of a user, whose password is that of all.
fn talk_of(world: &World, user: &str) -> Talk {
    let (near, far) = (world.near(Family::V4), world.far(Family::V4));
    let client = Client::udp_from(near.twin(), world.server(Family::V4));
    let talk = world.talk_of(client.with_credentials(user, PASSWORD), near, far, 0x4000);
    world.await_kernel(&talk);
    talk
}

fn may_allocate(world: &World, user: &str) -> bool {
    let near = world.near(Family::V4);
    let client = Client::udp_from(near.twin(), world.server(Family::V4));
    let mut client = client.with_credentials(user, PASSWORD);
    let may = client.try_allocate().code().is_none();
    may && client.refresh(0).code().is_none()
}

fn send_both_ways(talk: &Talk) {
    talk.near.try_send(&framed(talk.number, b"late", 0), talk.client.server());
    talk.far.try_send(b"late", talk.relayed);
}

/// Whether anything comes of what is sent now: the witness's datagrams take the same way later.
fn is_relayed(talk: &Talk, witness: &Talk) -> bool {
    while talk.near.take().is_some() || talk.far.take().is_some() {}
    for _ in 0..20 {
        send_both_ways(talk);
    }
    witness.round_trip();
    talk.near.take().is_some() || talk.far.take().is_some()
}

#[test]
fn what_is_refreshed_away_killed_removed_or_denied_is_relayed_no_more() {
    in_each_mode(|mode, net| {
        let mut world = World::start(
            net,
            mode,
            Setup {
                auth: "database = \"sqlite:users.db\"".to_owned(),
                extra: "[admin]\nlisten = \"unix:admin.sock\"\n".to_owned(),
                ..World::setup()
            },
        );
        for user in ["killed", "removed"] {
            operate(&world, &["user", "add", user, "--password-stdin"]);
            await_some("the user", || may_allocate(&world, user).then_some(()));
        }
        let witness = world.talk((Family::V4, Family::V4), 0x4000);
        let [mut refreshed, killed, removed] =
            [USER, "killed", "removed"].map(|user| talk_of(&world, user));

        refreshed.client.refresh(0).expect_success();
        assert!(!is_relayed(&refreshed, &witness), "{mode}: after Refresh");
        operate(&world, &["kill", "--user", "killed"]);
        assert!(!is_relayed(&killed, &witness), "{mode}: after kill");
        operate(&world, &["user", "remove", "removed"]);
        let since = Instant::now();
        while is_relayed(&removed, &witness) {
            assert!(since.elapsed() < TWO_SECONDS, "{mode}: two seconds after user remove");
        }
        assert!(!is_relayed(&removed, &witness));

        // One peer's address is denied, and another's is not.
        let (near, far) = (world.near(Family::V4), SocketAddr::new(address(Family::V4, 2, 3), 0));
        let denied = world.talk_anywhere(near, End::on(&world.net.peers, far), 0x4000);
        await_some("the peer", || is_relayed(&denied, &witness).then_some(()));
        deny(&mut world, "10.9.2.3");
        assert!(!is_relayed(&denied, &witness), "{mode}: after deny");
        for side in ["client", "peer"] {
            let dropped = format!("turnway_dropped_datagrams_total{{side=\"{side}\"");
            let before = world.relay.sum(&dropped);
            (0..20).for_each(|_| send_both_ways(&denied));
            await_some("drops", || (world.relay.sum(&dropped) >= before + 20.0).then_some(()));
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

/// Adds to the denied peers, and has it read.
fn deny(world: &mut World, ip: &str) {
    let path = world.relay.config_path();
    let text = fs::read_to_string(&path).expect("the configuration");
    let text = text.replace("[peers]\n", &format!("[peers]\ndeny = [\"{ip}\"]\n"));
    fs::write(&path, text).expect("the configuration");
    world.relay.signal("HUP");
    world.relay.await_line("the reload", |line| line.contains("reloaded"));
}

/// A client and its peer, who are the only ones that may hear of each other.
struct Side {
    name: u8,
    client: Client,
    near: End,
    far: End,
    /// What has come to the peer, and to the client.
    arrived: [usize; 2],
}

impl Side {
    fn new(world: &World, name: u8, host: u8) -> Self {
        let at = |net| SocketAddr::new(address(Family::V4, net, host), 0);
        let near = End::on(&world.net.clients, at(1));
        let far = End::on(&world.net.peers, at(2));
        let client = Client::udp_from(near.twin(), world.server(Family::V4));
        Self { name, client, near, far, arrived: [0; 2] }
    }

    /// Asserts that all that has come is of this side.
    #[track_caller]
    fn check(&mut self) {
        let answer = [self.name.to_ascii_lowercase()];
        for relayed in self.client.received_meanwhile() {
            assert_eq!(relayed, Relayed::Channel { number: 0x4000, data: answer.to_vec() });
        }
        for datagram in std::iter::from_fn(|| self.far.take()) {
            assert_eq!(datagram.data, [self.name]);
            self.arrived[0] += 1;
        }
        for datagram in std::iter::from_fn(|| self.near.take()) {
            assert_eq!(datagram.data, framed(0x4000, &answer, 0));
            self.arrived[1] += 1;
        }
    }
}

/// Two clients take turns with two relay ports. All the while both send to their channel of the
/// same number, and the peers to both ports.
#[test]
fn a_port_that_is_anothers_now_gets_nothing_of_its_past() {
    const ROUNDS: usize = 40;
    in_each_mode(|mode, net| {
        let relay = "addresses = [\"10.9.2.1\"]\nports = \"50000-50001\"".to_owned();
        let world = World::start(net, mode, Setup { relay: Some(relay), ..World::setup() });
        let mut sides = [Side::new(&world, b'A', 2), Side::new(&world, b'B', 3)];
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for side in &sides {
                let (near, far, name) = (side.near.twin(), side.far.twin(), side.name);
                let (server, over) = (world.server(Family::V4), &over);
                scope.spawn(move || hammer(name, [near, far], server, over));
            }
            // Ends the hammering if an assertion fails, too.
            let _end = SetOnDrop(&over);
            for round in 0..ROUNDS {
                let side = round % 2;
                let peer = sides[side].far.address();
                sides[side].client.allocate();
                sides[side].client.bind(0x4000, peer).expect_success();
                let before = sides[side].arrived;
                await_some("datagrams both ways", || {
                    sides.iter_mut().for_each(Side::check);
                    let now = sides[side].arrived;
                    (now[0] > before[0] + 100 && now[1] > before[1] + 100).then_some(())
                });
                sides[side].client.refresh(0).expect_success();
            }
        });
        world.relay.await_samples("the kernel's part", |samples| {
            ["to_peer", "to_client"].iter().all(|direction| {
                let name = format!("turnway_offload_datagrams_total{{direction=\"{direction}\"}}");
                samples[&name] > (5 * ROUNDS) as f64
            })
        });
    });
}

/// Sends to the channel, and from the peer to both relay ports.
fn hammer(name: u8, [near, far]: [UdpSocket; 2], server: SocketAddr, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        // A closed port's ICMP error is the next sender's: it is no matter here.
        let _ = near.send_to(&framed(0x4000, &[name], 0), server);
        for port in [50_000, 50_001] {
            let to = SocketAddr::new(address(Family::V4, 2, 1), port);
            let _ = far.send_to(&[name.to_ascii_lowercase()], to);
        }
        thread::park_timeout(Duration::from_micros(200));
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the program is on an interface of the relay's machine.
fn is_attached(world: &World) -> bool {
    let output = run_inside(&world.net.server, "ip", &["-d", "link", "show"]);
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

#[test]
fn nothing_is_left_behind_and_a_new_daemon_begins_anew() {
    in_each_mode(|mode, net| {
        let mut world = World::start(net, mode, World::setup());
        for signal in ["KILL", "INT"] {
            drop(world.talk((Family::V4, Family::V6), 0x4000));
            assert!(is_attached(&world));
            world.relay.signal(signal);
            world.relay.wait();
            await_some("the end of the program", || (!is_attached(&world)).then_some(()));
            world = World::start(world.net, mode, World::setup());
        }
    });
}

/// Something that happens to the network.
type Change = fn(&World);

/// What one can do to the network, and undo.
const CHANGES: [(&str, Change); 5] = [
    ("another Ethernet address of the peers", |world| {
        world.net.peers.ip("link set peers address 02:00:00:00:00:77");
    }),
    ("another Ethernet address of the relay", |world| {
        world.net.server.ip("link set peers address 02:00:00:00:00:78");
    }),
    ("a detour by another route", |world| {
        world.net.server.ip("route add 10.9.2.2/32 via 10.9.2.3 dev peers");
    }),
    ("an interface that goes down and up", |world| {
        world.net.server.ip("link set peers down");
        world.net.server.ip("link set peers up");
    }),
    ("an interface that is made anew", |world| {
        world.net.server.ip("link del peers");
        world.net.lay_cable_to_peers();
    }),
];

#[test]
fn a_flow_goes_on_through_changes_of_the_network() {
    const DATAGRAMS: usize = 100;
    in_each_world(|world| {
        let talk = world.talk((Family::V4, Family::V4), 0x4000);
        for (what, change) in CHANGES {
            change(world);
            let before = world.kernel();
            // So many that they cannot all be of before the change and counted late.
            let more = DATAGRAMS as u64 + 20;
            await_some(what, || {
                send_both_ways(&talk);
                thread::park_timeout(Duration::from_millis(1));
                let now = world.kernel().minus(before);
                (now.to_peer > more && now.to_client > more).then_some(())
            });
            talk.catch_up();
            for _ in 0..DATAGRAMS {
                talk.round_trip();
            }
        }
        assert_eq!(world.net.checksum_errors(), 0);
    });
}
