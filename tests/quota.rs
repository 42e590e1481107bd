//! Quotas of a running daemon: what users may have is all they get, and they get it back.
//!
//! - `quota/counts.rs`: allocations at a time
//! - `quota/volume.rs`: bytes in a day, spent, lifted and kept through a crash
//! - `quota/changes.rs`: what the operator changes while the daemon runs
//!
//! How well bandwidth is held and shared is measured in `benches/quota.rs`.

#[path = "quota/changes.rs"]
mod changes;
mod common;
#[path = "quota/counts.rs"]
mod counts;
#[path = "quota/volume.rs"]
mod volume;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use turnway::config::Secret;
use turnway::credentials;

use common::client::{Client, Peer};
use common::{Relay, SECRET, Setup};

/// The channel of every client here.
const CHANNEL: u16 = 0x4000;

/// Within so long what the operator changes takes effect, and the longest time whose volume a
/// crash may lose.
const TWO_SECONDS: Duration = Duration::from_secs(2);

fn relay(quota: &str) -> Relay {
    Relay::start(Setup { extra: format!("[quota]\n{quota}\n"), ..Setup::default() })
}

/// One with a database of users.
fn relay_with_database(database: &str, quota: &str) -> Relay {
    Relay::start(Setup {
        auth: format!("database = \"sqlite:{database}\""),
        extra: format!("[quota]\n{quota}\n"),
        ..Setup::default()
    })
}

/// A client with time-limited credentials that expire in so many seconds.
fn rest_client(client: Client, name: &str, seconds: u64) -> Client {
    let secret = Secret::new(SECRET.to_owned());
    let expires = credentials::unix_now() + seconds;
    let minted = credentials::mint(&secret, ':', name, expires).expect("a name");
    client.with_credentials(&minted.username, minted.password.expose())
}

/// `turnway user` on the database of a relay: what it says.
#[track_caller]
fn operator(relay: &Relay, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnway"));
    command.arg("user").args(arguments).arg("--config").arg(relay.config_path());
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// A client with a channel to a peer, sending all the time.
struct Talk {
    client: Client,
    peer: Peer,
    relayed: SocketAddr,
}

impl Talk {
    fn new(relay: &Relay, mut client: Client) -> Self {
        let peer = Peer::on(relay.ip());
        let relayed = client.allocate();
        client.bind(CHANNEL, peer.address()).expect_success();
        for socket in [client.socket(), &peer.0] {
            socket.set_nonblocking(true).expect("a socket");
        }
        Self { client, peer, relayed }
    }

    /// Sends 1,000 bytes to the peer each millisecond until told to stop, and tells for each
    /// millisecond how many bytes have come to the peer in it.
    fn up(&mut self, mut until: impl FnMut(u64) -> bool) {
        loop {
            self.client.send_channel(CHANNEL, &[7; 1_000]);
            std::thread::park_timeout(Duration::from_millis(1));
            if until(self.came_to_peer()) {
                return;
            }
        }
    }

    fn came_to_peer(&self) -> u64 {
        came(&self.peer.0)
    }
}

/// Payload bytes that wait at a socket.
fn came(socket: &std::net::UdpSocket) -> u64 {
    let mut buffer = [0; 2_048];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok()).map(|len| len as u64).sum()
}

/// How long it took until something could be observed; the relay has two seconds.
#[track_caller]
fn within_two_seconds(what: &str, mut seen: impl FnMut() -> bool) {
    let started = Instant::now();
    while !seen() {
        assert!(started.elapsed() < TWO_SECONDS, "{what} took longer than two seconds");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
