//! The columns: programs that relay, each on an address of its own, pinned to the servers' CPU.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use turnway_load::LoadError;
use turnway_load::clients::Transport;
use turnway_load::flood::{Flood, Options, greet};
use turnway_load::turn::Credentials;
use turnway_wire::Method;
use zeroize::Zeroizing;

use crate::settings::Settings;

/// Of the one user that all servers know.
const USER: &str = "user";
const PASSWORD: &str = "password-of-user";
const REALM: &str = "test.lan";

const TLS_PORT: u16 = 5349;

/// Until a server must answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Turnway,
    Coturn,
    /// The same system calls as Turnway's, no TURN.
    Forwarder,
    /// The same without UDP_GRO and UDP_SEGMENT.
    PlainForwarder,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Turnway => "turnway",
            Self::Coturn => "coturn",
            Self::Forwarder => "forwarder",
            Self::PlainForwarder => "no-gso forwarder",
        }
    }

    /// The address it listens on and relays from.
    pub(crate) const fn address(self) -> SocketAddr {
        let host = match self {
            Self::Turnway => 1,
            Self::Coturn => 2,
            Self::Forwarder => 3,
            Self::PlainForwarder => 4,
        };
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 253, 7, host)), 3478)
    }

    /// Where clients reach it over a transport.
    pub(crate) fn address_for(self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Udp | Transport::Tcp => self.address(),
            Transport::Tls => SocketAddr::new(self.address().ip(), TLS_PORT),
        }
    }
}

/// A running server; it ends with this value.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    child: Child,
    /// Its configuration lives as long as it does.
    _folder: TempDir,
}

impl Server {
    /// Starts Turnway or coturn and waits until it answers.
    pub(crate) fn start(kind: Kind, settings: &Settings) -> Result<Self, LoadError> {
        let cannot = || io_error(format!("cannot start {}", kind.name()));
        assert_vacant(kind)?;
        let folder = tempfile::tempdir().map_err(cannot())?;
        let command = match kind {
            Kind::Turnway => certify(folder.path()).and_then(|()| turnway(folder.path())),
            Kind::Coturn => certify(folder.path()).map(|()| coturn(folder.path())),
            Kind::Forwarder | Kind::PlainForwarder => unreachable!("started by `forward`"),
        };
        let mut command = command.map_err(cannot())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(command, settings.server_cpu()).map_err(cannot())?;
        let mut server = Self { kind, child, _folder: folder };
        server.await_answer()?;
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes allocations.
    pub(crate) fn open(&self, options: Options) -> Result<Flood, LoadError> {
        Flood::open(Options { server_pids: vec![self.pid()], ..options }, &credentials())
    }

    fn await_answer(&mut self) -> Result<(), LoadError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let refused = match greet(self.kind.address(), Transport::Udp, Method::ALLOCATE) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.child.try_wait().ok().flatten().is_some();
            if ended || Instant::now() > until {
                eprintln!("{} {}", self.kind.name(), if ended { "ended" } else { "is silent" });
                return Err(refused);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a forwarder and opens what sends through it, with a relay socket for each allocation.
pub(crate) fn forward(
    kind: Kind,
    options: &Options,
    settings: &Settings,
) -> Result<(Server, Flood), LoadError> {
    let cannot = || io_error("cannot start the forwarder".to_owned());
    assert_vacant(kind)?;
    let folder = tempfile::tempdir().map_err(cannot())?;
    let mut flood = Flood::unallocated(options.clone(), std::process::id())?;
    let clients = flood.client_port().expect("loopback clients share a socket");
    let mut command = Command::new(std::env::current_exe().map_err(cannot())?);
    command
        .arg("forwarder")
        .args([kind.address().to_string(), clients.to_string(), flood.peer_port().to_string()])
        .args([options.allocations.to_string(), (kind == Kind::Forwarder).to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = spawn(command, settings.server_cpu()).map_err(cannot())?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    let server = Server { kind, child, _folder: folder };
    BufReader::new(stdout).read_line(&mut line).map_err(cannot())?;
    let port =
        |word: &str| word.parse().ok().map(|port| SocketAddr::new(kind.address().ip(), port));
    let relayed: Option<Vec<SocketAddr>> = line.split_whitespace().map(port).collect();
    let relayed = relayed.filter(|relayed| relayed.len() == options.allocations);
    flood.route(&relayed.ok_or(LoadError::Input("the forwarder did not start".to_owned()))?)?;
    flood.watch(vec![server.pid()]);
    Ok((server, flood))
}

pub(crate) fn credentials() -> Credentials {
    Credentials { user: USER.to_owned(), password: Zeroizing::new(PASSWORD.to_owned()) }
}

pub(crate) fn io_error(tried: String) -> impl FnOnce(std::io::Error) -> LoadError {
    move |error| LoadError::Io(tried, error)
}

/// Nobody may be where a server is to listen. A run that was killed leaves its servers behind: one
/// of them would answer in place of the new one, or share its datagrams.
fn assert_vacant(kind: Kind) -> Result<(), LoadError> {
    let address = kind.address();
    let tried = format!("{address} is in use, perhaps by the {} of an earlier run", kind.name());
    UdpSocket::bind(address).map(drop).map_err(io_error(tried))
}

/// Starts a child on one CPU: it inherits where the thread that starts it may run.
fn spawn(mut command: Command, cpu: usize) -> std::io::Result<Child> {
    let start = move || {
        turnway_udp::system::pin_thread(cpu)?;
        command.spawn()
    };
    thread::spawn(start).join().expect("it does not panic")
}

/// Makes a certificate that is good for nothing but a measurement.
fn certify(folder: &Path) -> std::io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]);
    let made = made.map_err(std::io::Error::other)?;
    fs::write(folder.join("cert.pem"), made.cert.pem())?;
    let mut key = private(&folder.join("key.pem"))?;
    key.write_all(made.signing_key.serialize_pem().as_bytes())
}

/// A new file that only we may read.
fn private(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Turnway as it comes, with loopback peers allowed and the limit on unauthenticated answers out
/// of the way.
fn turnway(folder: &Path) -> std::io::Result<Command> {
    let path = folder.join("turnway.toml");
    let address = Kind::Turnway.address();
    let ip = address.ip();
    let mut text = format!("realm = \"{REALM}\"\nshards = 1\n");
    for transport in ["udp", "tcp"] {
        text += &format!("[[listen]]\ntransport = \"{transport}\"\naddress = \"{address}\"\n");
    }
    text += &format!("[[listen]]\ntransport = \"tls\"\naddress = \"{ip}:{TLS_PORT}\"\n");
    text += "[[tls.certificate]]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    text += &format!("[relay]\naddresses = [\"{ip}\"]\n");
    text += &format!("[[auth.user]]\nname = \"{USER}\"\npassword = \"{PASSWORD}\"\n");
    text += "[peers]\nallow = [\"127.0.0.0/8\"]\n";
    text += "[limits]\nunauthenticated_per_source = \"100000000/s\"\n";
    text += "unauthenticated_burst = \"100000000\"\n[log]\nlevel = \"error\"\n";
    // Rows 1 to 9 are about user space.
    text += "[offload]\nmode = \"off\"\n";
    let mut file = private(&path)?;
    file.write_all(text.as_bytes())?;
    let program = std::env::var_os("TURNWAY");
    let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_turnway").into()));
    command.args(["serve", "-c"]).arg(path);
    Ok(command)
}

/// coturn as its documentation would have it for one thread; `COTURN` and `COTURN_FLAGS` replace
/// the program and what depends on its version.
fn coturn(folder: &Path) -> Command {
    let address = Kind::Coturn.address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let flags = std::env::var("COTURN_FLAGS");
    let flags = flags.unwrap_or_else(|_| "--no-dtls -m 1 --simple-log --no-cli".to_owned());
    let mut command =
        Command::new(std::env::var_os("COTURN").unwrap_or_else(|| "turnserver".into()));
    command
        .args(["-L", &ip, "-E", &ip, "-p", &port, "-r", REALM, "--lt-cred-mech"])
        .args(["-u", &format!("{USER}:{PASSWORD}"), "--allow-loopback-peers"])
        .args(["-c", "/dev/null", "--log-file", "/dev/null"])
        .args(["--tls-listening-port", &TLS_PORT.to_string()])
        .arg("--cert")
        .arg(folder.join("cert.pem"))
        .arg("--pkey")
        .arg(folder.join("key.pem"))
        .arg("-b")
        .arg(folder.join("users.sqlite"))
        .arg("--pidfile")
        .arg(folder.join("coturn.pid"))
        .args(flags.split_whitespace());
    command
}
