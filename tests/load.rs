//! `turnway load` against our daemon and against coturn: what it offers arrives, and it says so.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use common::{PASSWORD, Relay, SECRET, Setup, USER, await_some, own_address, program};
use serde_json::Value;

/// `turnway load` with arguments in one line, for a user whose password it finds.
fn load(server: SocketAddr, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnway"));
    command.arg("load").args(arguments.split_whitespace());
    command.args(["--server", &server.to_string()]);
    command.env("TURNWAY_PASSWORD", PASSWORD).stdin(Stdio::null());
    command
}

/// What it prints with `--json`, if all went well.
#[track_caller]
fn report(server: SocketAddr, arguments: &str) -> Value {
    let output = load(server, arguments).arg("--json").output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {report}"));
    value.as_f64().unwrap_or_else(|| panic!("{pointer} in {report}"))
}

/// Asserts that so much was sent each way, and all of it arrived as it was.
#[track_caller]
fn assert_all_arrived(report: &Value, ways: &[&str]) {
    for way in ["to_peer", "to_client"] {
        let count = |what: &str| number(report, &format!("/{way}/{what}"));
        assert_eq!(count("sent") > 0.0, ways.contains(&way), "{report}");
        assert_eq!(count("received"), count("sent"), "{report}");
        for fault in ["lost", "duplicated", "reordered", "corrupted", "misrouted"] {
            assert_eq!(count(fault), 0.0, "{fault} {way}: {report}");
        }
    }
    let latency = |which: &str| number(report, &format!("/latency_us/{which}"));
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99"));
    assert!(latency("p99") <= latency("p999") && latency("p999") <= latency("max"));
}

#[test]
fn what_is_sent_through_our_daemon_arrives() {
    let relay = Relay::start(Setup { shards: 1, ..Setup::default() });
    let pid = relay.pid();
    let usual = format!(
        "flood --user {USER} --allocations 10 --rate 500 --duration 1s --warmup 0s \
         --server-pid {pid}"
    );
    for more in [
        "--burst 8 --size 1200",
        "--mode send --direction to-peer",
        "--mode send --direction to-client --size 41",
        "--transport tcp --size 173",
        "--transport tcp --mode send --size 43",
    ] {
        let report = report(relay.address, &format!("{usual} {more}"));
        let ways: &[&str] = match more {
            _ if more.contains("to-peer") => &["to_peer"],
            _ if more.contains("to-client") => &["to_client"],
            _ => &["to_peer", "to_client"],
        };
        assert_all_arrived(&report, ways);
        assert!(number(&report, "/server/cpu_ns_per_datagram") > 0.0, "{report}");
        assert!(number(&report, "/server/resident") > 1e6, "{report}");
    }
    let relayed = relay.sum("turnway_relayed_datagrams_total");
    assert!(relayed > 500.0, "the daemon saw it: {relayed}");
    relay.await_no_allocations();
}

#[test]
fn clients_without_addresses_of_their_own_use_ports() {
    let relay = Relay::start(Setup {
        listen: vec!["[::1]:34781".parse().expect("an address")],
        ..Setup::default()
    });
    let usual = format!("flood --user {USER} --allocations 5 --rate 500 --duration 1s");
    for more in ["", "--mode send", "--transport tcp", "--burst 4"] {
        let report = report(relay.address, &format!("{usual} {more}"));
        assert_all_arrived(&report, &["to_peer", "to_client"]);
    }
    relay.await_no_allocations();
}

#[test]
fn a_closed_loop_loses_nothing() {
    let relay = Relay::with_shards(1);
    let usual = format!("flood --user {USER} --allocations 20 --duration 1s --rate max");
    for more in ["", " --burst 8 --window 4"] {
        let report = report(relay.address, &format!("{usual}{more}"));
        assert_all_arrived(&report, &["to_peer", "to_client"]);
    }
}

#[test]
fn a_search_finds_a_rate_and_shows_half_of_it() {
    let relay = Relay::with_shards(1);
    let usual = format!("flood --user {USER} --allocations 4 --duration 1s --warmup 0s");
    // So generous a bound ends the search soon on any machine.
    let report = report(relay.address, &format!("{usual} --search --loss 100"));
    let highest = number(&report, "/highest_rate");
    assert!(highest > 100.0, "{report}");
    assert!(number(&report, "/asked") <= highest / 2.0 + 1.0, "{report}");
}

#[test]
fn allocations_are_made_used_and_ended() {
    let relay = Relay::with_shards(1);
    let pid = relay.pid();
    for transport in ["udp", "tcp"] {
        let report = report(
            relay.address,
            &format!(
                "allocate --user {USER} --count 50 --bind --refresh --transport {transport} \
                 --server-pid {pid}"
            ),
        );
        for phase in ["allocate", "permit", "bind", "refresh", "delete"] {
            assert_eq!(number(&report, &format!("/{phase}/count")), 50.0, "{report}");
            assert!(number(&report, &format!("/{phase}/server_cpu_us")) > 0.0, "{report}");
        }
        let descriptors = |when: &str| number(&report, &format!("/memory/{when}/descriptors"));
        assert!(descriptors("live") >= descriptors("before") + 50.0, "{report}");
        relay.await_no_allocations();
    }
}

#[test]
fn kept_allocations_stay() {
    let relay = Relay::with_shards(1);
    report(relay.address, &format!("allocate --user {USER} --count 7 --keep"));
    await_some("them in the metrics", || (relay.allocations() == 7.0).then_some(()));
}

#[test]
fn binding_requests_are_answered() {
    let relay = Relay::with_shards(1);
    let report = report(relay.address, "stun --rate 500 --duration 1s --clients 3");
    assert_eq!(number(&report, "/answered"), number(&report, "/sent"), "{report}");
    assert!(number(&report, "/sent") > 50.0, "{report}");
}

#[test]
fn passwords_and_secrets_come_from_files() {
    let relay = Relay::with_shards(1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (option, text) in [("--password-file", PASSWORD), ("--secret-file", SECRET)] {
        let file = folder.path().join("secret");
        fs::write(&file, format!("{text}\n")).expect("written");
        let mut command = load(relay.address, &format!("allocate --user {USER} --count 1"));
        command.env_remove("TURNWAY_PASSWORD").arg(option).arg(&file);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{option}: {output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains(text), "{option}");
    }
}

#[test]
fn what_cannot_be_done_is_said_with_what_to_do() {
    let relay = Relay::start(Setup {
        extra: "[quota]\nallocations_per_user = 2\n".to_owned(),
        peers: "allow = []".to_owned(),
        ..Setup::default()
    });
    let address = relay.address;
    let flood = format!("flood --user {USER} --duration 1s");
    let closed = SocketAddr::new(relay.ip(), 9);
    for (mut command, code, said) in [
        (load(address, &format!("{flood} --allocations 3")), 1, "with 486"),
        (load(address, &flood), 1, "name another with --peer-address"),
        (load(address, "flood --user nobody"), 1, "the user or the password is wrong"),
        (load(closed, &flood), 1, "cannot reach"),
        (load(closed, &format!("{flood} --transport tcp")), 1, "cannot reach"),
        (load(closed, "stun"), 1, "cannot reach"),
        (load(address, &format!("{flood} --size 39")), 2, "--size 39 cannot be sent"),
        (load(address, &format!("{flood} --server-pid 4294967295")), 1, "no process 4294967295"),
        (without_password(load(address, &flood)), 2, "set TURNWAY_PASSWORD"),
    ] {
        let Output { status, stderr, .. } = command.output().expect("it runs");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(stderr.contains(said), "{command:?}: {stderr}");
        assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    }
    relay.await_no_allocations();
}

fn without_password(mut command: Command) -> Command {
    command.env_remove("TURNWAY_PASSWORD");
    command
}

#[test]
fn coturn_is_put_to_work_as_well() {
    let Some(turnserver) = program("turnserver", "coturn") else { return };
    let coturn = Coturn::start(&turnserver);
    let flood = format!("flood --user {USER} --allocations 5 --rate 500 --duration 1s");
    for more in ["", "--mode send --burst 4", "--transport tcp"] {
        let report = report(coturn.address, &format!("{flood} {more}"));
        assert_all_arrived(&report, &["to_peer", "to_client"]);
    }
    let pid = coturn.child.id();
    let report = report(
        coturn.address,
        &format!("allocate --user {USER} --count 20 --bind --refresh --server-pid {pid}"),
    );
    assert_eq!(number(&report, "/refresh/count"), 20.0);
    assert!(number(&report, "/memory/live/resident") > 1e6, "{report}");
    let report = self::report(coturn.address, "stun --rate 500 --duration 1s");
    assert_eq!(number(&report, "/answered"), number(&report, "/sent"), "{report}");
}

/// A coturn of one's own. Stopped when dropped.
struct Coturn {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Coturn {
    fn start(program: &std::path::Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = SocketAddr::new(own_address().into(), 3478);
        let ip = address.ip().to_string();
        let child = Command::new(program)
            .args(["-L", &ip, "-E", &ip, "-p", "3478", "-r", "test.lan", "--lt-cred-mech"])
            .args(["-u", &format!("{USER}:{PASSWORD}"), "--allow-loopback-peers", "-m", "1"])
            .args(["--no-tls", "--no-dtls", "--no-cli", "--simple-log", "-c", "/dev/null"])
            .args(["--log-file", "/dev/null", "-b"])
            .arg(folder.path().join("users"))
            .arg("--pidfile")
            .arg(folder.path().join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // TCP comes last.
        await_some("coturn", || std::net::TcpStream::connect(address).ok());
        Self { child, address, _folder: folder }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
