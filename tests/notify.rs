//! What the daemon tells the service manager that started it (sd_notify(3)).

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;

use common::client::Client;
use common::{PATIENCE, Relay, Setup};

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket, folder }
    }

    /// Starts a daemon as a unit with `Type=notify` and `WatchdogSec=30s` is.
    fn start(&self) -> Relay {
        let path = self.folder.path().join("notify").to_str().expect("text").to_owned();
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let environment =
            vec![variable("NOTIFY_SOCKET", path), variable("WATCHDOG_USEC", "30000000".to_owned())];
        Relay::start(Setup { environment, ..Setup::default() })
    }

    /// The next thing it is told, line by line.
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 1024];
        let len = self.socket.recv(&mut buffer).expect("the daemon is silent");
        let text = std::str::from_utf8(&buffer[..len]).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// The next thing it is told but for the watchdog's signs of life.
    fn next_state(&self) -> Vec<String> {
        loop {
            let told = self.next();
            if told != ["WATCHDOG=1"] {
                return told;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_of_each_state() {
    let manager = Manager::new();
    let mut relay = manager.start();
    assert_eq!(manager.next(), ["READY=1"], "before anything else");
    Client::udp(relay.address).binding();
    Client::tcp(relay.address).binding();
    for _ in 0..2 {
        assert_eq!(manager.next(), ["WATCHDOG=1"]);
    }

    relay.signal("HUP");
    assert_eq!(manager.next_state(), ["RELOADING=1"]);
    assert_eq!(manager.next_state(), ["READY=1"]);
    relay.await_line("the reload", |line| line.contains("reloaded"));

    relay.signal("TERM");
    assert!(manager.next_state().contains(&"STOPPING=1".to_owned()));
    assert_eq!(relay.wait().code(), Some(0));
}

#[test]
fn a_refused_reload_ends_as_ready_too() {
    let manager = Manager::new();
    let mut relay = manager.start();
    assert_eq!(manager.next_state(), ["READY=1"]);
    fs::write(relay.config_path(), "realm = 5").expect("the configuration");
    relay.signal("HUP");
    assert_eq!(manager.next_state(), ["RELOADING=1"]);
    assert_eq!(manager.next_state(), ["READY=1"]);
    relay.await_line("the reload", |line| line.contains("not reloaded"));
}

#[test]
fn a_drain_asks_for_time_and_stays_alive() {
    let manager = Manager::new();
    let mut relay = manager.start();
    assert_eq!(manager.next_state(), ["READY=1"]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    relay.signal("TERM");
    assert_eq!(manager.next_state(), ["STOPPING=1", "STATUS=draining"]);
    // Signs of life and requests for 30 seconds more.
    let (mut alive, mut extended) = (0, 0);
    while alive < 2 || extended < 2 {
        match manager.next().as_slice() {
            [one] if one == "WATCHDOG=1" => alive += 1,
            [one] if one == "EXTEND_TIMEOUT_USEC=30000000" => extended += 1,
            other => panic!("{other:?}"),
        }
    }
    client.refresh(0).expect_success();
    assert_eq!(relay.wait().code(), Some(0));
}
