//! What the tests of the daemon share: a running relay of one's own, and what it says of itself.
//!
//! Every [`Relay`] listens on loopback addresses that no other test uses (127.0.0.0/8 is wide), so
//! tests run side by side. Nothing here sleeps: readiness, log lines and counters are awaited.

#![allow(unreachable_pub, reason = "a module of several test crates")]
#![allow(dead_code, reason = "each test uses its own part of this module")]

pub mod certificates;
pub mod client;
pub mod clock;
pub mod conversation;
pub mod link;
pub mod netns;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use certificates::{Made, NAME};
use client::Client;
use link::Transport;

/// How long anything may take before a test fails. Generous: machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A user every [`Relay`] has.
pub const USER: &str = "user";
/// Their password.
pub const PASSWORD: &str = "a password of the tests";
/// A REST secret every [`Relay`] has.
pub const SECRET: &str = "a rest secret of the tests";
/// The realm.
pub const REALM: &str = "turnway.test";

/// How a [`Relay`] is to differ from the usual one.
pub struct Setup {
    /// The realm.
    pub realm: &'static str,
    /// Number of shards; 0 leaves it to the daemon.
    pub shards: usize,
    /// TOML to add at the end: further tables.
    pub extra: String,
    /// TOML to add to `[auth]`.
    pub auth: String,
    /// TOML of `[peers]`.
    pub peers: String,
    /// TOML of `[limits]`.
    pub limits: String,
    /// TOML of `[relay]`, without its header; by default the relay's own address.
    pub relay: Option<String>,
    /// Addresses to listen on instead of one of the relay's own.
    pub listen: Vec<SocketAddr>,
    /// What is spoken on each address: a listener for each. Others than `"udp"` and `"tcp"` get an
    /// ECDSA and an RSA certificate.
    pub transports: &'static [&'static str],
    /// Run in this network namespace.
    pub namespace: Option<String>,
    /// Where metrics are served; by default on the relay's own address.
    pub metrics: Option<SocketAddr>,
    /// The descriptor limit to start with, soft and hard.
    pub descriptors: Option<u64>,
    /// Environment variables, by name and value.
    pub environment: Vec<(String, String)>,
    /// `[offload] mode`: user space relays unless a test is about the kernel's data path.
    pub offload: &'static str,
    /// A program that runs the daemon, with its arguments: `taskset -c 0`.
    pub runner: Vec<String>,
    /// Hide what it writes to standard error: warnings about the configuration.
    pub quiet: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            realm: REALM,
            shards: 2,
            extra: String::new(),
            auth: String::new(),
            peers: "allow = [\"127.0.0.0/8\", \"::1\"]".to_owned(),
            limits: String::new(),
            relay: None,
            listen: Vec::new(),
            transports: &["udp", "tcp"],
            namespace: None,
            metrics: None,
            descriptors: None,
            environment: Vec::new(),
            offload: "off",
            runner: Vec::new(),
            quiet: false,
        }
    }
}

/// A running daemon. Stopped when dropped.
pub struct Relay {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// Where the configuration is; tests may put more files there.
    pub folder: TempDir,
    /// The first listener, UDP and TCP.
    pub address: SocketAddr,
    /// Where metrics are.
    pub metrics: SocketAddr,
    namespace: Option<String>,
}

impl Relay {
    /// The usual daemon with so many shards.
    pub fn with_shards(shards: usize) -> Self {
        Self::start(Setup { shards, ..Setup::default() })
    }

    /// Starts a daemon and waits until it is ready.
    pub fn start(setup: Setup) -> Self {
        let (mut command, folder, [address, metrics]) = prepare(&setup);
        let errors = if setup.quiet { Stdio::null() } else { Stdio::inherit() };
        let child = command.stdout(Stdio::piped()).stderr(errors).spawn();
        let mut relay = Self::watch(
            child.expect("the daemon starts"),
            folder,
            setup.namespace,
            [address, metrics],
        );
        relay.await_line("ready", |line| {
            line.contains(" ready ") || line.ends_with(" ready") || line.contains("\"ready\"")
        });
        relay
    }

    /// Runs a daemon that is not to start: its exit code, and what it writes to standard error.
    pub fn refused(setup: &Setup) -> (Option<i32>, String) {
        let (mut command, _folder, _) = prepare(setup);
        let output = command.output().expect("the daemon runs");
        let error = String::from_utf8(output.stderr).expect("text");
        (output.status.code(), error)
    }

    fn watch(
        mut child: Child,
        folder: TempDir,
        namespace: Option<String>,
        [address, metrics]: [SocketAddr; 2],
    ) -> Self {
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: Vec::new(), folder, address, metrics, namespace }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address it listens on and relays from.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// What clients of a secured relay trust, as PEM.
    pub fn roots(&self) -> String {
        fs::read_to_string(self.folder.path().join("root.pem")).expect("a secured relay")
    }

    /// The SHA-256 of the ECDSA certificate's public key, in base64: a browser's name for it.
    pub fn key_hash(&self) -> String {
        fs::read_to_string(self.folder.path().join("ecdsa.hash")).expect("a secured relay")
    }

    /// A client over any transport; TLS and DTLS need a secured relay.
    pub fn client(&self, transport: Transport) -> Client {
        let roots = match transport {
            Transport::Udp | Transport::Tcp => String::new(),
            Transport::Tls | Transport::Dtls => self.roots(),
        };
        Client::over(transport, self.address, &roots)
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("turnway.toml")
    }

    /// Waits for a line of the log, counting those seen before.
    pub fn await_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        if let Some(line) = self.seen.iter().find(|line| wanted(line)) {
            return line.clone();
        }
        self.next_line(what, wanted)
    }

    /// Waits for a line of the log that was not seen before.
    pub fn next_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line about {what} in the log:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// All lines of the log so far.
    pub fn log(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }

    /// Sends a signal by name: `HUP`, `TERM`, `INT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{name}");
    }

    /// Waits for the daemon to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        await_some("the end of the daemon", || self.child.try_wait().expect("our child"))
    }

    /// What `GET path` answers on the metrics listener: status code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let from = self.metrics;
        let answer = match &self.namespace {
            None => get(from, path),
            Some(name) => netns::enter(name, || get(from, path)),
        };
        answer.expect("metrics are served")
    }

    /// All samples of `/metrics`, named as they are printed: `name{label="value"}`.
    pub fn samples(&self) -> HashMap<String, f64> {
        let (code, body) = self.get("/metrics");
        assert_eq!(code, 200, "{body}");
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
            .collect()
    }

    /// The sum of all samples whose name begins so.
    pub fn sum(&self, prefix: &str) -> f64 {
        let samples = self.samples();
        samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    }

    /// Allocations now.
    pub fn allocations(&self) -> f64 {
        self.sum("turnway_allocations{")
    }

    /// Waits until a condition on the samples holds.
    pub fn await_samples(&self, what: &str, holds: impl Fn(&HashMap<String, f64>) -> bool) {
        await_some(what, || holds(&self.samples()).then_some(()));
    }

    /// Waits until no allocation is left.
    pub fn await_no_allocations(&self) {
        await_some("the end of all allocations", || (self.allocations() == 0.0).then_some(()));
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("alive");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib = line.split_whitespace().nth(1).expect("a figure");
        kib.parse::<u64>().expect("a number") * 1024
    }

    /// What the processors have worked for it so far.
    pub fn cpu_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("alive");
        let spent = tasks.map(|task| {
            let stat = fs::read_to_string(task.expect("a thread").path().join("schedstat"));
            let stat = stat.expect("a thread that stays");
            let ns = stat.split_whitespace().next().expect("a figure").parse();
            Duration::from_nanos(ns.expect("a number"))
        });
        spent.sum()
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.is_alive() {
            self.signal("INT");
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.is_alive() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The command of a daemon, the folder with its configuration, its first listener and its metrics.
fn prepare(setup: &Setup) -> (Command, TempDir, [SocketAddr; 2]) {
    let own = own_address();
    let listen = if setup.listen.is_empty() {
        vec![SocketAddr::new(own.into(), 3478)]
    } else {
        setup.listen.clone()
    };
    let metrics = setup.metrics.unwrap_or_else(|| SocketAddr::new(own.into(), 9641));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("turnway.toml");
    let text = configuration(setup, &listen, metrics) + &certificates(setup, folder.path(), own);
    fs::write(&path, text).expect("the configuration");
    let mut words = setup.runner.clone();
    if let Some(limit) = setup.descriptors {
        words.extend(["prlimit".to_owned(), format!("--nofile={limit}:{limit}")]);
    }
    words.push(env!("CARGO_BIN_EXE_turnway").to_owned());
    let mut command = in_namespace(setup.namespace.as_deref(), &words[0]);
    command.args(&words[1..]).args(["serve", "-c"]).arg(path).stdin(Stdio::null());
    command.envs(setup.environment.iter().cloned());
    (command, folder, [listen[0], metrics])
}

fn configuration(setup: &Setup, listen: &[SocketAddr], metrics: SocketAddr) -> String {
    let mut text = format!("realm = \"{}\"\n", setup.realm);
    if setup.shards > 0 {
        text += &format!("shards = {}\n", setup.shards);
    }
    for address in listen {
        for transport in setup.transports {
            text += &format!("[[listen]]\ntransport = \"{transport}\"\naddress = \"{address}\"\n");
        }
    }
    let own = format!("addresses = [\"{}\"]", listen[0].ip());
    text += &format!("[relay]\n{}\n", setup.relay.as_deref().unwrap_or(&own));
    text += &format!("[auth]\nrest_secrets = [\"{SECRET}\"]\n{}\n", setup.auth);
    text += &format!("[[auth.user]]\nname = \"{USER}\"\npassword = \"{PASSWORD}\"\n");
    text += &format!("[peers]\n{}\n[limits]\n{}\n", setup.peers, setup.limits);
    text += &format!("[offload]\nmode = \"{}\"\n", setup.offload);
    text += &format!("[metrics]\nlisten = \"{metrics}\"\n{}\n", setup.extra);
    text
}

/// The tables of the certificates, where any are needed. What clients are to trust is in
/// `root.pem`.
fn certificates(setup: &Setup, folder: &Path, own: Ipv4Addr) -> String {
    if setup.transports.iter().all(|transport| matches!(*transport, "udp" | "tcp")) {
        return String::new();
    }
    let names = [NAME, &own.to_string()];
    let (ecdsa, rsa) = (Made::ecdsa(&names), Made::rsa(&names));
    fs::write(folder.join("root.pem"), ecdsa.root.clone() + &rsa.root).expect("a folder of ours");
    fs::write(folder.join("ecdsa.hash"), ecdsa.key_hash()).expect("a folder of ours");
    ecdsa.write(folder, "ecdsa") + &rsa.write(folder, "rsa")
}

/// A loopback address that no other daemon of this test run uses: the process id and a counter
/// are in it.
pub fn own_address() -> Ipv4Addr {
    static COUNTER: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 250, pid as u8, count)
}

/// A command, run in a network namespace if one is named.
pub fn in_namespace(namespace: Option<&str>, program: impl AsRef<OsStr>) -> Command {
    match namespace {
        None => Command::new(program),
        Some(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name]).arg(program);
            command
        }
    }
}

/// Polls until there is something, giving other processes the CPU in between.
pub fn await_some<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// `GET path` over HTTP/1.1: status code and body.
pub fn get(from: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code.unwrap_or(0), body.to_owned()))
}

/// A program of a Debian package, installed on the spot where we are root. `None`, said aloud,
/// where it cannot be had.
pub fn program(name: &str, package: &str) -> Option<PathBuf> {
    let found = |name: &str| {
        let path = std::env::var_os("PATH")?;
        let mut folders = std::env::split_paths(&path);
        folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
    };
    if let Some(path) = found(name) {
        return Some(path);
    }
    let installed = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status();
    if installed.is_ok_and(|status| status.success())
        && let Some(path) = found(name)
    {
        return Some(path);
    }
    skipped(&format!("{name} is not here and the Debian package {package} cannot be installed"));
    None
}

/// Says aloud why a test proves nothing here. Fails it where `TURNWAY_NO_SKIP` is set.
#[track_caller]
pub fn skipped(why: &str) {
    assert!(std::env::var_os("TURNWAY_NO_SKIP").is_none(), "TURNWAY_NO_SKIP is set, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// Whether this process may make network namespaces; says so aloud where not.
pub fn can_make_namespaces() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let made = *ANSWER.get_or_init(|| {
        program("ip", "iproute2").is_some_and(|ip| {
            let name = format!("tw-probe-{}", std::process::id());
            let run = |verb: &str| Command::new(&ip).args(["netns", verb, &name]).status();
            let added = run("add").is_ok_and(|status| status.success());
            added && run("delete").is_ok_and(|status| status.success())
        })
    });
    if !made {
        skipped("network namespaces need root (CAP_NET_ADMIN) and iproute2");
    }
    made
}
