//! The loaded program between machines of our own: network namespaces with cables, in which the
//! relay has no socket at all, so that whatever arrives was relayed by the program.

#[allow(dead_code, reason = "the daemon's tests use the rest")]
#[allow(unreachable_pub, reason = "there it is reachable")]
#[path = "../../../tests/common/netns.rs"]
mod netns;

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use netns::Namespace;
use turnway_offload::{Channel, Mode, Offload, Outcome, Refusal, Settings, Slot, Started, State};

const PATIENCE: Duration = Duration::from_secs(10);
/// For one datagram, which is sent again if it does not arrive.
const ONCE: Duration = Duration::from_millis(50);
const FOREVER: u64 = u64::MAX;
const NUMBER: u16 = 0x4001;
const SERVER: &str = "10.0.1.1:3478";
const RELAY: &str = "10.0.2.1:50000";
const CLIENT: &str = "10.0.1.2:40000";
const PEER: &str = "10.0.2.2:6000";

/// A client's machine, the relay's and a peer's.
struct Net {
    client: Namespace,
    relay: Namespace,
    peer: Namespace,
}

impl Net {
    /// `None`, said aloud, where that is not permitted.
    fn new() -> Option<Net> {
        if !rustix::process::geteuid().is_root() {
            let why = "root is needed for network namespaces and XDP: nothing was tested";
            assert!(std::env::var_os("TURNWAY_NO_SKIP").is_none(), "TURNWAY_NO_SKIP, but {why}");
            eprintln!("skipped: {why}");
            return None;
        }
        let [client, relay, peer] = ["c", "r", "p"].map(Namespace::new);
        let net = Net { client, relay, peer };
        net.relay.connect(
            &net.client,
            "toc",
            &["10.0.1.1/24", "fd01::1/64"],
            &["10.0.1.2/24", "fd01::2/64"],
        );
        net.cable_to_peer();
        net.client.ip("route add default via 10.0.1.1");
        net.client.ip("route add default via fd01::1");
        takes_frames(&net.client, "toc");
        takes_frames(&net.peer, "top");
        Some(net)
    }

    fn cable_to_peer(&self) {
        let ours = ["10.0.2.1/24", "fd02::1/64"];
        self.relay.connect(&self.peer, "top", &ours, &["10.0.2.2/24", "fd02::2/64"]);
        self.peer.ip("route add default via 10.0.2.1");
        self.peer.ip("route add default via fd02::1");
    }

    fn start(&self, mode: Mode) -> Started {
        self.try_start(mode).expect("the program is attached")
    }

    fn try_start(&self, mode: Mode) -> Result<Started, turnway_offload::Refused> {
        let listeners = vec!["0.0.0.0:3478".parse().unwrap(), "[::]:3478".parse().unwrap()];
        let binding = Some(turnway_offload::BindingRate { per_second: 0, burst: 1 });
        let settings =
            Settings { mode, interfaces: Vec::new(), max_channels: 64, binding, listeners };
        self.relay.enter(|| Offload::start(settings))
    }

    fn relayed(&self, offload: &Offload) -> Relayed {
        self.relayed_between(offload, [CLIENT, SERVER, RELAY, PEER])
    }

    fn relayed_between(&self, offload: &Offload, addresses: [&str; 4]) -> Relayed {
        let [client, server, relay, peer] = addresses.map(|it| it.parse().unwrap());
        let channel = Channel { client, server, relay, peer, number: NUMBER };
        let slot = install(offload, channel);
        let (client, peer) = (self.client.udp(client), self.peer.udp(peer));
        Relayed { channel, slot, client: patient(client), peer: patient(peer), sent: 0 }
    }
}

fn install(offload: &Offload, channel: Channel) -> Slot {
    let slot = offload.take().expect("a free slot");
    for account in [slot.to_peer(), slot.to_client()] {
        let _ = offload.accounts().open(account, FOREVER, false);
    }
    offload.install(slot, channel);
    slot
}

/// Far ends of a veth must be able to receive frames of XDP, and fill in checksums as a wire's ends
/// do.
fn takes_frames(namespace: &Namespace, interface: &str) {
    let name = &namespace.name;
    run("ip", &["netns", "exec", name, "ethtool", "-K", interface, "tx", "off", "gro", "on"]);
}

fn patient(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(ONCE)).unwrap();
    socket
}

/// A channel and the sockets at its ends.
struct Relayed {
    channel: Channel,
    slot: Slot,
    client: UdpSocket,
    peer: UdpSocket,
    sent: u8,
}

impl Relayed {
    /// Both ways, before patience ends.
    #[track_caller]
    fn works(&mut self) {
        assert!(self.arrives_at_peer(PATIENCE), "nothing arrives at the peer");
        assert!(self.arrives_at_client(PATIENCE), "nothing arrives at the client");
    }

    fn arrives_at_peer(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let payload = self.payload();
            let mut framed = NUMBER.to_be_bytes().to_vec();
            framed.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            framed.extend_from_slice(&payload);
            // While a link is down there is no route: that is the test's doing.
            let _ = self.client.send_to(&framed, self.channel.server);
            if received(&self.peer, self.channel.relay, &payload) {
                return true;
            }
        }
        false
    }

    fn arrives_at_client(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let payload = self.payload();
            let mut framed = NUMBER.to_be_bytes().to_vec();
            framed.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            framed.extend_from_slice(&payload);
            let _ = self.peer.send_to(&payload, self.channel.relay);
            if received(&self.client, self.channel.server, &framed) {
                return true;
            }
        }
        false
    }

    /// Another one each time, of an even length.
    fn payload(&mut self) -> Vec<u8> {
        self.sent = self.sent.wrapping_add(1);
        [&b"datagram number "[..], &[self.sent, 0]].concat()
    }
}

/// Whether this arrives; what was late is taken away.
fn received(socket: &UdpSocket, from: SocketAddr, expected: &[u8]) -> bool {
    let mut buffer = [0; 2000];
    while let Ok((length, source)) = socket.recv_from(&mut buffer) {
        assert_eq!(source, from, "where it comes from");
        if buffer[..length] == *expected {
            return true;
        }
    }
    false
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn inside(namespace: &Namespace, command: &str) -> String {
    let mut words = vec!["netns", "exec", &namespace.name];
    words.extend(command.split(' '));
    run("ip", &words)
}

/// Waits until an interface is in this state.
#[track_caller]
fn comes_to(offload: &Offload, interface: &str, is_it: impl Fn(&State) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let report = offload.report();
        if report.interfaces.iter().any(|it| it.name == interface && is_it(&it.state)) {
            return;
        }
        assert!(Instant::now() < until, "{report}");
        std::thread::yield_now();
    }
}

fn states(started: &Started) -> Vec<(String, State)> {
    let interfaces = started.report.interfaces.iter();
    interfaces.map(|it| (it.name.clone(), it.state.clone())).collect()
}

#[test]
fn native_where_the_driver_can_and_nothing_is_left_afterwards() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Auto);
    let native = ["toc", "top"].map(|name| (name.to_owned(), State::Native));
    assert_eq!(states(&started), native, "{}", started.report);
    net.relayed(&started.offload).works();
    net.relayed_between(
        &started.offload,
        ["10.0.1.2:40001", SERVER, "[fd02::1]:50001", "[fd02::2]:6001"],
    )
    .works();
    let figures = started.offload.figures();
    assert_eq!((figures.channels, figures.capacity, figures.paths), (2, 64, 4));
    assert!(inside(&net.relay, "ip link show").contains("xdp"));
    drop(started);
    assert!(!inside(&net.relay, "ip link show").contains("xdp"));
}

#[test]
fn generic_relays_as_well() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Generic);
    let generic = ["toc", "top"].map(|name| (name.to_owned(), State::Generic));
    assert_eq!(states(&started), generic);
    net.relayed(&started.offload).works();
    assert!(inside(&net.relay, "ip link show").contains("xdpgeneric"));
    drop(started);
    assert!(!inside(&net.relay, "ip link show").contains("xdp"));
}

/// What leaves natively by a veth is lost when its far end does not expect it.
#[test]
fn a_far_end_that_takes_no_frames_is_served_generically() {
    let Some(net) = Net::new() else { return };
    inside(&net.peer, "ethtool -K top gro off");
    let started = net.start(Mode::Auto);
    let modes = [("toc".to_owned(), State::Native), ("top".to_owned(), State::Generic)];
    assert_eq!(states(&started), modes);
    assert!(started.report.to_string().contains("GRO"), "{}", started.report);
    let mut relayed = net.relayed(&started.offload);
    // From generic to native the kernel copies; the other way round there is none, and it passes.
    assert!(relayed.arrives_at_client(PATIENCE));
    assert!(!relayed.arrives_at_peer(ONCE * 4));
    assert!(started.offload.figures().outcomes[Outcome::PassHop.index()] > 0);
    drop((started, relayed));
    let started = net.start(Mode::Native);
    let off = &started.report.interfaces[1].state;
    assert!(matches!(off, State::Off(why) if why.starts_with("not native")), "{off:?}");
    let mut relayed = net.relayed(&started.offload);
    assert!(!relayed.arrives_at_peer(ONCE * 4));
    let refused = started.offload.figures().refused;
    assert_eq!(refused[Refusal::NotAttached as usize], 1);
}

/// Nothing is said to us when that changes.
#[test]
fn a_far_end_that_takes_frames_later_is_served_natively_then() {
    let Some(net) = Net::new() else { return };
    inside(&net.peer, "ethtool -K top gro off");
    let started = net.start(Mode::Auto);
    assert_eq!(started.report.interfaces[1].state, State::Generic);
    inside(&net.peer, "ethtool -K top gro on");
    comes_to(&started.offload, "top", |state| *state == State::Native);
    net.relayed(&started.offload).works();
    // And back, when the machine is looked over.
    inside(&net.peer, "ethtool -K top gro off");
    net.relay.ip("link set top alias peers");
    comes_to(&started.offload, "top", |state| *state == State::Generic);
    drop(started);
    let started = net.start(Mode::Native);
    assert!(matches!(started.report.interfaces[1].state, State::Off(_)), "{}", started.report);
    inside(&net.peer, "ethtool -K top gro on");
    comes_to(&started.offload, "top", |state| *state == State::Native);
}

#[test]
fn what_was_refused_is_tried_again_when_the_interface_changes() {
    let Some(net) = Net::new() else { return };
    net.peer.ip("link set top mtu 9000");
    let started = net.start(Mode::Native);
    let off = &started.report.interfaces[1].state;
    assert!(matches!(off, State::Off(why) if why.starts_with("not native")), "{off:?}");
    net.peer.ip("link set top mtu 1400");
    net.relay.ip("link set top mtu 1400");
    net.relayed(&started.offload).works();
}

#[test]
fn a_neighbour_that_moves_is_followed() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Native);
    let mut relayed = net.relayed(&started.offload);
    relayed.works();
    net.peer.ip("link set top address 02:00:00:00:00:77");
    net.relay.ip("neighbour replace 10.0.2.2 lladdr 02:00:00:00:00:77 dev top nud reachable");
    assert!(relayed.arrives_at_peer(PATIENCE));
    // Our own address as well: the peer's machine takes no frames for another one.
    net.relay.ip("link set top address 02:00:00:00:00:78");
    net.peer.ip("neighbour replace 10.0.2.1 lladdr 02:00:00:00:00:78 dev top nud reachable");
    relayed.works();
}

#[test]
fn a_route_that_moves_is_followed() {
    let Some(net) = Net::new() else { return };
    net.peer.ip("address add 198.51.100.9/32 dev lo");
    net.client.ip("address add 198.51.100.9/32 dev lo");
    net.relay.ip("route add 198.51.100.9/32 via 10.0.2.2");
    let started = net.start(Mode::Native);
    let addresses = ["10.0.1.2:40000", SERVER, RELAY, "198.51.100.9:6000"];
    let mut relayed = net.relayed_between(&started.offload, addresses);
    relayed.works();
    // The same address on the client's machine.
    let moved = patient(net.client.udp("198.51.100.9:6000".parse().unwrap()));
    let at_peer = std::mem::replace(&mut relayed.peer, moved);
    net.relay.ip("route replace 198.51.100.9/32 via 10.0.1.2");
    assert!(relayed.arrives_at_peer(PATIENCE));
    // No route at all, and back.
    net.relay.ip("route del 198.51.100.9/32");
    relayed.peer = at_peer;
    assert!(!relayed.arrives_at_peer(ONCE * 4));
    net.relay.ip("route add 198.51.100.9/32 via 10.0.2.2 mtu 1400");
    relayed.works();
}

#[test]
fn a_link_that_goes_down_comes_back() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Native);
    let mut relayed = net.relayed(&started.offload);
    relayed.works();
    net.relay.ip("link set top down");
    assert!(!relayed.arrives_at_peer(ONCE * 4));
    net.relay.ip("link set top up");
    net.relay.ip("address replace fd02::1/64 dev top nodad");
    relayed.works();
}

#[test]
fn an_interface_that_is_made_anew_gets_the_program_again() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Native);
    let mut relayed = net.relayed(&started.offload);
    relayed.works();
    for _ in 0..2 {
        net.relay.ip("link del top");
        assert!(!relayed.arrives_at_peer(ONCE * 4));
        net.cable_to_peer();
        takes_frames(&net.peer, "top");
        relayed.works();
        let report = started.offload.report();
        assert!(report.interfaces.iter().all(|it| it.state == State::Native), "{report}");
    }
    // It is there for some time before it can have the program.
    net.relay.ip("link del top");
    net.cable_to_peer();
    let deaf = |state: &State| matches!(state, State::Off(why) if why.contains("GRO"));
    comes_to(&started.offload, "top", deaf);
    takes_frames(&net.peer, "top");
    relayed.works();
}

#[test]
fn a_vlan_is_tagged_by_the_program() {
    let Some(net) = Net::new() else { return };
    for (namespace, address) in [(&net.relay, "10.0.7.1/24"), (&net.peer, "10.0.7.2/24")] {
        let add = ["-n", &namespace.name, "link", "add", "link", "top", "name", "top.7"];
        let made = Command::new("ip").args(add).args(["type", "vlan", "id", "7"]).status();
        if !made.is_ok_and(|status| status.success()) {
            // Not a matter of privileges: no test can make up for it.
            eprintln!("this kernel has no VLAN devices: only the unit tests know of them");
            return;
        }
        namespace.ip(&format!("address add {address} dev top.7"));
        namespace.ip("link set top.7 up");
    }
    let started = net.start(Mode::Auto);
    let addresses = [CLIENT, SERVER, "10.0.7.1:50000", "10.0.7.2:6000"];
    net.relayed_between(&started.offload, addresses).works();
    assert_eq!(started.offload.figures().paths, 2);
    drop(started);
    // A generic program cannot see whose tag a packet had.
    let started = net.start(Mode::Generic);
    let off = &started.report.interfaces[1].state;
    assert!(matches!(off, State::Off(why) if why.contains("VLAN")), "{off:?}");
}

#[test]
fn a_channel_that_ends_is_relayed_no_more_and_its_slot_is_free() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Native);
    let offload = &started.offload;
    let mut relayed = net.relayed(offload);
    relayed.works();
    let before = offload.accounts().read(relayed.slot.to_peer());
    assert!(before.datagrams > 0 && before.bytes == before.datagrams * 18, "{before:?}");
    offload.accounts().close(relayed.slot.to_peer());
    offload.accounts().close(relayed.slot.to_client());
    assert!(!relayed.arrives_at_peer(ONCE));
    offload.remove(relayed.slot);
    let mut taken: Vec<Slot> = std::iter::from_fn(|| offload.take()).collect();
    let until = Instant::now() + PATIENCE;
    while taken.len() < 64 && Instant::now() < until {
        taken.extend(offload.take());
        std::thread::yield_now();
    }
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 64, "each slot once");
    assert_eq!(offload.take(), None);
    assert!(offload.figures().full > 0);
}

#[test]
fn from_one_relayed_address_to_another() {
    let Some(net) = Net::new() else { return };
    let started = net.start(Mode::Native);
    let offload = &started.offload;
    let (one, two) = ("10.0.2.1:50010", "10.0.2.1:50020");
    // The second client is on the peer's machine.
    let between = [
        [CLIENT, SERVER, one, two, "16385"],
        ["10.0.2.2:41000", "10.0.2.1:3478", two, one, "16386"],
    ];
    for [client, server, relay, peer, number] in between {
        let [client, server, relay, peer] =
            [client, server, relay, peer].map(|it| it.parse().unwrap());
        install(offload, Channel { client, server, relay, peer, number: number.parse().unwrap() });
    }
    let near = net.client.udp(CLIENT.parse().unwrap());
    let [client, server]: [SocketAddr; 2] =
        ["10.0.2.2:41000", "10.0.2.1:3478"].map(|it| it.parse().unwrap());
    let far = patient(net.peer.udp(client));
    let until = Instant::now() + PATIENCE;
    let mut arrived = false;
    while !arrived && Instant::now() < until {
        near.send_to(b"\x40\x01\x00\x04abcd", SERVER).unwrap();
        let expected = b"\x40\x02\x00\x04abcd";
        arrived = received(&far, server, expected);
    }
    assert!(arrived);
}

#[test]
fn binding_requests_are_answered_on_every_address_of_a_wildcard() {
    let Some(net) = Net::new() else { return };
    // A native veth gives packets of this size no room to grow: they are passed up.
    let started = net.start(Mode::Generic);
    let mut request = [0; 20];
    request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    let answered = |server: &str| {
        let server: SocketAddr = server.parse().unwrap();
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = patient(net.client.udp(any.parse().unwrap()));
        let mut buffer = [0; 100];
        let until = Instant::now() + ONCE * 10;
        while Instant::now() < until {
            socket.send_to(&request, server).unwrap();
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                assert_eq!((from, &buffer[..2]), (server, &[1, 1][..]));
                return true;
            }
        }
        false
    };
    assert!(answered("10.0.1.1:3478"));
    assert!(answered("[fd01::1]:3478"));
    // Sent to the interface where the client is, to an address that came later.
    net.relay.ip("address add 10.0.3.1/32 dev lo");
    let until = Instant::now() + PATIENCE;
    while !answered("10.0.3.1:3478") {
        assert!(Instant::now() < until, "the new address is not answered for");
    }
    started.offload.set_listeners(Vec::new());
    let until = Instant::now() + PATIENCE;
    while answered("10.0.1.1:3478") {
        assert!(Instant::now() < until, "still answered");
    }
    assert!(started.offload.figures().outcomes[Outcome::BindingAnswered.index()] > 2);
}

#[test]
fn auto_keeps_off_where_rules_would_be_bypassed_and_names_them() {
    let Some(net) = Net::new() else { return };
    inside(&net.relay, "nft add table inet filter");
    inside(&net.relay, "nft add chain inet filter input { type filter hook input priority 0 ; }");
    let started = net.start(Mode::Auto);
    assert!(started.report.any(), "a chain without rules does nothing");
    drop(started);
    inside(&net.relay, "nft add rule inet filter input udp dport 53 drop");
    let refused = net.try_start(Mode::Auto).expect_err("there is a rule");
    assert!(refused.why.contains("nftables inet filter input"), "{refused}");
    assert!(refused.why.contains("overrides"), "{refused}");
    let started = net.start(Mode::Native);
    assert!(started.report.to_string().contains("bypasses nftables"), "{}", started.report);
    drop(started);
    inside(&net.relay, "nft flush ruleset");
    // One interface only.
    inside(&net.relay, "nft add table netdev t");
    let hook = "{ type filter hook ingress device top priority 0 ; policy drop ; }";
    inside(&net.relay, &format!("nft add chain netdev t in {hook}"));
    let started = net.start(Mode::Auto);
    assert_eq!(started.report.interfaces[0].state, State::Native);
    let off = &started.report.interfaces[1].state;
    assert!(matches!(off, State::Off(why) if why.contains("netdev t in")), "{off:?}");
}

#[test]
fn auto_keeps_off_where_traffic_control_would_be_bypassed() {
    let Some(net) = Net::new() else { return };
    inside(&net.relay, "tc qdisc add dev toc clsact");
    inside(&net.relay, "tc qdisc add dev top root handle 1: htb");
    let refused = net.try_start(Mode::Auto).expect_err("both interfaces have one");
    assert!(refused.why.contains("qdisc clsact on toc"), "{refused}");
    assert!(refused.why.contains("qdisc htb on top"), "{refused}");
    inside(&net.relay, "tc qdisc del dev top root");
    let started = net.start(Mode::Auto);
    assert_eq!(started.report.interfaces[1].state, State::Native);
}

#[test]
fn a_program_of_somebody_else_is_left_alone() {
    let Some(net) = Net::new() else { return };
    let first = net.start(Mode::Native);
    let mut relayed = net.relayed(&first.offload);
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let refused = net.try_start(mode).expect_err("there is a program already");
        assert!(refused.why.contains("another XDP program"), "{refused}");
    }
    relayed.works();
}

#[test]
fn members_of_a_bridge_are_named() {
    let Some(net) = Net::new() else { return };
    net.relay.ip("link add br0 type bridge");
    net.relay.ip("link set top master br0");
    let started = net.start(Mode::Auto);
    let off = &started.report.interfaces[1].state;
    assert!(matches!(off, State::Off(why) if why.contains("a member of bridge br0")), "{off:?}");
}
