//! `turnutils_uclient` and `turnutils_peer` as child processes.

#![allow(dead_code, reason = "each test uses its own part of this module")]

use std::fmt;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::common::{PASSWORD, USER, await_some, in_namespace, netns, program};

/// Clients at a time: together they send some 6,000 messages in a second.
const AT_A_TIME: usize = 6;

/// Sessions of a run (`-m`) and messages of each (`-n`), one every 20 ms, which is the default:
/// a machine busy with other things may hold a process up for a second, and then the kernel's
/// buffers must hold what is sent meanwhile.
const SESSIONS: u64 = 20;
const MESSAGES: u64 = 500;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// `turnutils_peer`: sends back what it gets, on its port and the one after it.
pub(crate) struct Peer {
    child: Option<Child>,
    /// Where it is.
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts one and waits until it answers.
    pub(crate) fn start(ip: IpAddr, port: u16) -> Self {
        Self::start_in(None, ip, port)
    }

    /// The same in a network namespace, if one is named.
    pub(crate) fn start_in(namespace: Option<&str>, ip: IpAddr, port: u16) -> Self {
        let address = SocketAddr::new(ip, port);
        let child = program("turnutils_peer", "coturn").map(|program| {
            let mut command = in_namespace(namespace, &program);
            command.args(["-L", &ip.to_string(), "-p", &port.to_string()]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
        });
        if child.is_some() {
            let bind = || UdpSocket::bind((ip, 0));
            let probe = match namespace {
                None => bind(),
                Some(name) => netns::enter(name, bind),
            };
            let probe = probe.expect("a free port");
            probe.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
            await_some("turnutils_peer", || {
                // Refused (by ICMP) until it listens.
                probe.send_to(b"there?", address).ok()?;
                probe.recv_from(&mut [0; 16]).ok()
            });
        }
        Self { child, address }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a run of the client says at its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// `tot_send_msgs`
    pub(crate) sent: u64,
    /// `tot_recv_msgs`
    pub(crate) received: u64,
    /// `Total lost packets`
    pub(crate) lost: u64,
    /// `total send dropped`
    pub(crate) dropped: u64,
}

/// One way to run the client.
pub(crate) struct Run {
    arguments: Vec<String>,
    server: SocketAddr,
    namespace: Option<String>,
    sessions: u64,
    messages: u64,
}

impl Run {
    /// With the usual user.
    pub(crate) fn new(server: SocketAddr, peer: SocketAddr) -> Self {
        let mut run = Self::anonymous(server, peer);
        run.add(&["-u", USER, "-w", PASSWORD]);
        run
    }

    /// Without credentials.
    pub(crate) fn anonymous(server: SocketAddr, peer: SocketAddr) -> Self {
        let (sessions, messages) = (SESSIONS, MESSAGES);
        let mut run = Self { arguments: Vec::new(), server, namespace: None, sessions, messages };
        run.add(&["-e", &peer.ip().to_string(), "-r", &peer.port().to_string()]);
        run
    }

    /// Further arguments.
    pub(crate) fn add(&mut self, arguments: &[&str]) -> &mut Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// In a network namespace.
    pub(crate) fn within(&mut self, namespace: &str) -> &mut Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// With so many sessions of so many messages instead.
    pub(crate) fn sized(&mut self, sessions: u64, messages: u64) -> &mut Self {
        (self.sessions, self.messages) = (sessions, messages);
        self
    }

    /// How many messages it is to send.
    pub(crate) fn messages(&self) -> u64 {
        self.sessions * self.messages
    }

    /// Runs it to its end; `None` where there is no such program.
    pub(crate) fn finish(&self) -> Option<Counts> {
        let text = self.output()?;
        Some(counts(&text).unwrap_or_else(|| panic!("no result of {self}:\n{text}")))
    }

    /// Runs it so often until it comes to an end with a result.
    pub(crate) fn finish_at_last(&self, attempts: usize) -> Option<Counts> {
        for _ in 0..attempts {
            let counts = counts(&self.output()?);
            if counts.is_some() {
                return counts;
            }
        }
        panic!("no result of {self}, {attempts} times");
    }

    /// What it says until its end.
    fn output(&self) -> Option<String> {
        let _slot = Slot::take();
        let (mut child, output) = self.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("our child").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("our child");
                panic!("no end of {self}:\n{}", text(&output));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Some(text(&output))
    }

    /// Runs it for some time at most and ends it then; whether it ended before.
    pub(crate) fn attempt(&self, at_most: Duration) -> bool {
        let Some((mut child, _)) = self.spawn() else {
            return false;
        };
        let deadline = Instant::now() + at_most;
        while child.try_wait().expect("our child").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("our child");
                child.wait().expect("our child");
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        true
    }

    fn spawn(&self) -> Option<(Child, tempfile::NamedTempFile)> {
        let program = program("turnutils_uclient", "coturn")?;
        let output = tempfile::NamedTempFile::new().expect("a temporary file");
        let file = || -> File { output.reopen().expect("a temporary file") };
        let mut command = in_namespace(self.namespace.as_deref(), &program);
        command.args(["-m", &self.sessions.to_string(), "-n", &self.messages.to_string()]);
        command.args(&self.arguments).args(["-p", &self.server.port().to_string()]);
        command.arg(self.server.ip().to_string());
        let child = command.stdin(Stdio::null()).stdout(file()).stderr(Stdio::null()).spawn();
        Some((child.expect("the client starts"), output))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turnutils_uclient {} {}", self.arguments.join(" "), self.server)
    }
}

fn text(output: &tempfile::NamedTempFile) -> String {
    String::from_utf8_lossy(&fs::read(output.path()).expect("a temporary file")).into_owned()
}

/// The last figures in the client's output.
fn counts(output: &str) -> Option<Counts> {
    let figure = |name: &str| {
        let (_, rest) = output.rsplit_once(name)?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    Some(Counts {
        sent: figure("tot_send_msgs=")?,
        received: figure("tot_recv_msgs=")?,
        lost: figure("Total lost packets ")?,
        dropped: figure("total send dropped ")?,
    })
}

/// One of the [`AT_A_TIME`] places for clients.
struct Slot;

static FREE: Mutex<usize> = Mutex::new(AT_A_TIME);
static FREED: Condvar = Condvar::new();

impl Slot {
    fn take() -> Self {
        let free = FREE.lock().expect("never poisoned");
        *FREED.wait_while(free, |free| *free == 0).expect("never poisoned") -= 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.lock().expect("never poisoned") += 1;
        FREED.notify_one();
    }
}
