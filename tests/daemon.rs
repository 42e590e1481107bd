//! What a daemon takes from its machine: addresses, relay ports, descriptors, CPUs, buffers. And
//! what it does when somebody else has them.

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use common::client::{Client, Peer};
use common::{PATIENCE, Relay, Setup, own_address};

fn own(port: u16) -> SocketAddr {
    SocketAddr::new(own_address().into(), port)
}

#[test]
fn a_second_turnway_on_the_same_address_is_refused() {
    let mut first = Relay::with_shards(2);
    let free = own(3478);
    let metrics = own(9641);
    let (code, error) = Relay::refused(&Setup {
        // The first of its listeners could be had.
        listen: vec![free, first.address],
        metrics: Some(metrics),
        ..Setup::default()
    });
    assert_eq!(code, Some(2), "{error}");
    // The third [[listen]] of the file; its address stands in line 11.
    let address = first.address;
    let problem = format!("turnway.toml:11: listen.address: cannot listen on udp {address}");
    assert!(error.contains(&problem), "{error}");
    assert!(error.contains("another turnway, has the port: stop it or choose another"), "{error}");
    UdpSocket::bind(free).expect("no listener is left behind");
    TcpListener::bind(metrics).expect("no metrics listener is left behind");
    // No datagram of a client goes astray.
    for _ in 0..50 {
        Client::udp(first.address).binding();
        Client::tcp(first.address).binding();
    }
    assert!(first.is_alive());
}

#[test]
fn an_address_that_another_program_has_is_named() {
    let busy = own(3478);
    let _tcp = TcpListener::bind(busy).expect("free");
    let refused = |setup: Setup| {
        let (code, error) = Relay::refused(&setup);
        assert_eq!(code, Some(2), "{error}");
        error
    };
    let error = refused(Setup { listen: vec![busy], ..Setup::default() });
    assert!(error.contains(&format!("cannot listen on tcp {busy}")), "{error}");

    let listen = own(3478);
    let error = refused(Setup { metrics: Some(busy), listen: vec![listen], ..Setup::default() });
    let problem = format!(": metrics.listen: cannot listen on tcp {busy}");
    assert!(error.contains("turnway.toml:") && error.contains(&problem), "{error}");
    UdpSocket::bind(listen).expect("nothing is half-started");

    let nowhere: SocketAddr = "198.51.100.1:3478".parse().expect("an address");
    let relay = Some("addresses = [\"127.0.0.1\"]".to_owned());
    let error = refused(Setup { listen: vec![nowhere], relay, ..Setup::default() });
    assert!(error.contains("no interface has this address: see `ip address`"), "{error}");

    let relay = Some("addresses = [\"198.51.100.1\"]".to_owned());
    let error = refused(Setup { relay, ..Setup::default() });
    assert!(error.contains("cannot bind to 198.51.100.1"), "{error}");
}

/// A relay with these ports only.
fn relay_with_ports(ports: &str, shards: usize) -> (Relay, IpAddr) {
    let ip = own_address().into();
    let relay = Relay::start(Setup {
        shards,
        relay: Some(format!("addresses = [\"{ip}\"]\nports = \"{ports}\"")),
        ..Setup::default()
    });
    (relay, ip)
}

#[test]
fn ports_of_other_programs_are_skipped_and_the_rest_is_used_to_the_last() {
    let (relay, ip) = relay_with_ports("50000-50009", 8);
    let foreign = [50000, 50004, 50005];
    let bind = |port: u16| UdpSocket::bind((ip, port)).expect("free");
    let _foreign = foreign.map(bind);
    let mut clients: Vec<Client> = (0..7).map(|_| Client::udp(relay.address)).collect();
    let mut ports: Vec<u16> = clients.iter_mut().map(|client| client.allocate().port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [50001, 50002, 50003, 50006, 50007, 50008, 50009]);
    Client::udp(relay.address).try_allocate().expect_code(508);
    let samples = relay.samples();
    assert!(samples["turnway_relay_ports_busy_total"] >= 3.0);
    assert_eq!(samples["turnway_relay_ports{state=\"set_aside\"}"], 3.0);
    assert_eq!(samples["turnway_relay_ports{state=\"claimed\"}"], 7.0);

    clients[0].refresh(0).expect_success();
    Client::udp(relay.address).allocate();
}

#[test]
fn a_relay_socket_shares_its_port_with_nobody() {
    let relay = Relay::with_shards(1);
    let mut client = Client::udp(relay.address);
    let relayed = client.allocate();
    for (reuse_address, reuse_port) in [(false, false), (true, false), (false, true), (true, true)]
    {
        for ip in [relayed.ip(), Ipv4Addr::UNSPECIFIED.into()] {
            let thief = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
            thief.set_reuse_address(reuse_address).expect("a socket");
            thief.set_reuse_port(reuse_port).expect("a socket");
            let address = SocketAddr::new(ip, relayed.port());
            let error = thief.bind(&address.into()).expect_err("it is taken");
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        }
    }
}

/// The descriptors a process has open.
fn descriptors(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("alive");
    let number = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|n| n.parse().ok());
    entries.filter_map(|entry| number(entry.expect("readable"))).collect()
}

fn limit_descriptors(pid: u32, limit: u64) {
    let [pid, limit] = [format!("--pid={pid}"), format!("--nofile={limit}:")];
    let status = Command::new("prlimit").args([pid, limit]).status().expect("util-linux");
    assert!(status.success());
}

/// User and system time a process has used.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn without_descriptors_it_answers_508_pauses_accept_and_recovers() {
    let relay = Relay::with_shards(2);
    let pid = relay.pid();
    let mut early = Client::udp(relay.address);
    let relayed = early.allocate();
    let peer = Peer::on(relayed.ip());
    early.bind(0x4000, peer.address()).expect_success();
    let mut late = Client::udp(relay.address);

    // New descriptors get the lowest free number.
    let open = descriptors(pid);
    let lowest = (0..).find(|number| !open.contains(number)).expect("some are free");
    limit_descriptors(pid, lowest);
    late.try_allocate().expect_code(508);
    let waiting: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(relay.address).expect("the kernel accepts");
            let request = late.build(
                turnway_wire::Class::Request,
                turnway_wire::Method::BINDING,
                &|_| Ok(()),
            );
            stream.write_all(&request).expect("sent");
            stream
        })
        .collect();
    // Datagrams are relayed all along, and nothing spins.
    let (began, before) = (Instant::now(), cpu_time(pid));
    let mut turns = 0_u32;
    while began.elapsed() < Duration::from_millis(2500) {
        turns += 1;
        early.send_channel(0x4000, &turns.to_be_bytes());
        assert_eq!(peer.receive(), (turns.to_be_bytes().to_vec(), relayed));
        std::thread::sleep(Duration::from_millis(20));
    }
    let used = cpu_time(pid) - before;
    assert!(used < Duration::from_millis(500), "{used:?} of CPU time in 2.5 s: does it spin?");
    assert_eq!(descriptors(pid).len(), open.len());

    limit_descriptors(pid, 4096);
    for mut stream in waiting {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.read_exact(&mut [0; 32]).expect("accepted and answered at last");
    }
    late.allocate();
    let pauses = relay.samples()["turnway_accept_pauses_total"];
    assert!((1.0..=20.0).contains(&pauses), "{pauses} pauses");
}

#[test]
fn the_allocation_cap_follows_from_the_descriptor_limit_and_is_said() {
    let limits = "tcp_connections = 20".to_owned();
    let mut relay = Relay::start(Setup { descriptors: Some(150), limits, ..Setup::default() });
    let cap = relay.samples()["turnway_allocation_limit"] as usize;
    let said = relay.await_line("the capacity", |line| line.contains(" capacity "));
    assert!(said.contains(&format!("allocations={cap} ")), "{said}");
    assert!(said.contains("descriptors=150"), "{said}");
    assert!((20..130).contains(&cap), "{cap}");
    let mut clients: Vec<Client> = (0..cap).map(|_| Client::udp(relay.address)).collect();
    for client in &mut clients {
        client.allocate();
    }
    Client::udp(relay.address).try_allocate().expect_code(508);
    clients.pop().expect("some").refresh(0).expect_success();
    Client::udp(relay.address).allocate();
    relay.get("/livez");
}

#[test]
fn the_soft_descriptor_limit_is_raised_to_the_hard_one() {
    let relay = Relay::start(Setup { descriptors: Some(3000), ..Setup::default() });
    let limits = fs::read_to_string(format!("/proc/{}/limits", relay.pid())).expect("alive");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("there");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3..5], ["3000", "3000"]);
    assert_eq!(relay.samples()["process_max_fds"], 3000.0);
}

#[test]
fn too_few_descriptors_for_anything_are_an_error() {
    let (code, error) = Relay::refused(&Setup { descriptors: Some(60), ..Setup::default() });
    assert_ne!(code, Some(0));
    assert!(error.contains("raise LimitNOFILE (ulimit -n)"), "{error}");
}

#[test]
fn the_descriptors_of_ended_allocations_come_back() {
    let relay = Relay::with_shards(2);
    let count = || inet_sockets(relay.pid());
    let await_count = |what: &str, wanted: usize| {
        common::await_some(what, || (count() == wanted).then_some(()));
    };
    // A UDP and a TCP listener for each shard, and the metrics'.
    let idle = 5;
    await_count("the listeners", idle);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::udp(relay.address)).collect();
    clients.extend((0..40).map(|_| Client::tcp(relay.address)));
    for client in &mut clients {
        client.allocate();
    }
    await_count("80 relay sockets and 40 connections", idle + 120);
    // Half say good-bye; of the rest the TCP clients just go.
    for client in &mut clients[..40] {
        client.refresh(0).expect_success();
    }
    drop(clients);
    await_count("all to be closed", idle);
}

/// How many IPv4 sockets a process has open. The one by which it looks up this machine's addresses
/// every now and then is none.
fn inet_sockets(pid: u32) -> usize {
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).expect("alive");
    let (udp, tcp) = (table("udp"), table("tcp"));
    let sockets = udp.lines().skip(1).chain(tcp.lines().skip(1));
    let inode =
        |line: &str| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
    let inet: HashSet<String> = sockets.filter_map(inode).collect();
    let link = |number: &u64| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok();
    let open = descriptors(pid).iter().filter_map(link).collect::<Vec<_>>();
    open.iter().filter(|link| link.to_str().is_some_and(|link| inet.contains(link))).count()
}

#[test]
fn there_is_a_shard_for_each_cpu_the_daemon_may_use() {
    let started = |runner: Vec<String>, shards: usize| {
        let mut relay = Relay::start(Setup { shards: 0, runner, ..Setup::default() });
        let said = format!(" capacity shards={shards} ");
        relay.await_line(&said, |line| line.contains(&said));
        assert_eq!(relay.samples()["turnway_shards"], shards as f64);
    };
    let usable = std::thread::available_parallelism().expect("a figure").get();
    started(Vec::new(), usable);
    let one = allowed_cpu();
    started(["taskset", "-c", &one].map(str::to_owned).to_vec(), 1);
}

/// The first CPU that this process may use.
fn allowed_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("ours");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.expect("there").trim().split([',', '-']).next().expect("one at least").to_owned()
}

#[test]
fn a_listener_buffer_that_the_kernel_cuts_is_warned_about_with_the_setting_to_change() {
    // As root, but without what exceeds the kernel's limit (CAP_NET_ADMIN).
    let root = fs::metadata("/proc/self").expect("ours").uid() == 0;
    let drop_privilege = ["setpriv", "--bounding-set=-net_admin"].map(str::to_owned);
    let runner = if root { drop_privilege.to_vec() } else { Vec::new() };
    for name in ["rmem_max", "wmem_max"] {
        let most = fs::read_to_string(format!("/proc/sys/net/core/{name}")).expect("readable");
        let more = most.trim().parse::<usize>().expect("bytes") / (1 << 20) + 1;
        let limits = format!("socket_buffer = \"{more} MiB\"");
        let runner = runner.clone();
        let mut relay = Relay::start(Setup { limits, runner, ..Setup::default() });
        let advice = format!("sysctl -w net.core.{name}={}", more << 20);
        let said = relay.await_line("the cut", |line| line.contains(&advice));
        assert!(said.contains("WARN") && said.contains("socket_buffer"), "{said}");
        assert!(said.contains(&format!("got={}", most.trim())), "{said}");
    }
}
