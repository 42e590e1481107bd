//! What is compared: Turnway, coturn, and a bare hairpin, each on the server's side of the cable,
//! pinned to its CPU, with the same channels.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use turnway_load::server::Usage;

use super::cable::{CLIENTS, Cable, PEERS, SERVER};
use super::common::client::Client;
use super::common::{self, PASSWORD, Relay, Setup, USER, await_some, in_namespace};
use super::frames::{Flow, address};
use super::hairpin::Hairpin;

const PORT: u16 = 3478;
/// The first peer's port, and the first relay port of a server that has no allocations.
const PEER_PORT: u16 = 10_000;
const RELAY_PORT: u16 = 20_000;
const CHANNEL: u16 = 0x4000;

/// What depends on coturn's version.
const COTURN_FLAGS: &str = "--no-tls --no-dtls -m 1 --simple-log --no-cli";

/// A server, or a way to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Turnway, its program in the driver.
    Native,
    /// The same with every limit there is, none of them reached.
    Limited,
    /// Turnway, its program in the kernel's receive path.
    Generic,
    /// coturn.
    Coturn,
    /// A program that rewrites and sends back, and nothing else.
    Hairpin,
}

impl Subject {
    /// In a table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Limited => "native, every quota",
            Self::Generic => "generic",
            Self::Coturn => "coturn",
            Self::Hairpin => "bare hairpin",
        }
    }
}

/// A server that runs, with its channels.
pub(crate) struct Running {
    pub(crate) flows: Vec<Flow>,
    /// Whose CPU time is the server's: its own threads, and the receiving ones.
    threads: Vec<u32>,
    process: Process,
    /// They keep their ports.
    _clients: Vec<Client>,
}

enum Process {
    Turnway(Box<Relay>),
    Coturn(Coturn),
    Hairpin(#[expect(dead_code, reason = "attached for as long as it lives")] Box<Hairpin>),
}

/// Stopped when dropped.
struct Coturn {
    child: Child,
    _folder: TempDir,
}

impl Running {
    /// Starts a server and binds `channels` channels of each of `allocations` allocations. With no
    /// channels there are no allocations, but as many clients.
    pub(crate) fn start(subject: Subject, cable: &Cable, allocations: u16, channels: u16) -> Self {
        let process = match subject {
            Subject::Native => Process::Turnway(turnway(cable, "native", false)),
            Subject::Limited => Process::Turnway(turnway(cable, "native", true)),
            Subject::Generic => Process::Turnway(turnway(cable, "generic", false)),
            Subject::Coturn => Process::Coturn(coturn(cable)),
            Subject::Hairpin => {
                let flows = invented(allocations, channels.max(1));
                let hairpin = Hairpin::attach(cable, &flows);
                let threads = cable.pin();
                let process = Process::Hairpin(Box::new(hairpin));
                return Self { flows, threads, process, _clients: Vec::new() };
            }
        };
        // A program that was attached or detached may have ended one thread and begun another.
        let mut threads = cable.pin();
        await_answer();
        let (flows, clients) = match channels {
            0 => (invented(allocations, 1), Vec::new()),
            _ => allocate(allocations, channels),
        };
        threads.push(process.pid().expect("a server has a process"));
        Self { flows, threads, process, _clients: clients }
    }

    /// CPU time of the server in nanoseconds, receiving included.
    pub(crate) fn cpu_ns(&self) -> u64 {
        Usage::read(&self.threads).expect("the server runs").cpu_ns
    }

    /// What Turnway says of its kernel path; of others there is nothing.
    pub(crate) fn explain(&mut self) -> Vec<String> {
        let Process::Turnway(relay) = &mut self.process else { return Vec::new() };
        let about = |line: &String| line.contains("offload");
        let mut said: Vec<String> =
            relay.log().iter().filter(|&line| about(line)).cloned().collect();
        let samples = relay.samples().into_iter().filter(|(_, value)| *value != 0.0);
        said.extend(samples.map(|(name, value)| format!("{name} {value}")).filter(about));
        said.sort();
        said
    }
}

impl Process {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Turnway(relay) => Some(relay.pid()),
            Self::Coturn(coturn) => Some(coturn.child.id()),
            Self::Hairpin(_) => None,
        }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server() -> SocketAddrV4 {
    SocketAddrV4::new(address(SERVER), PORT)
}

/// What runs a program on the server's CPU.
fn pinned(cable: &Cable) -> Vec<String> {
    ["taskset", "--cpu-list", &cable.server_cpu.to_string()].map(str::to_owned).to_vec()
}

/// What runs Turnway: as it was built with this bench, or the program that `TURNWAY` names.
fn runner(cable: &Cable) -> Vec<String> {
    let mut words = pinned(cable);
    if std::env::var_os("TURNWAY").is_some() {
        let instead = ["sh", "-c", "shift; exec \"$TURNWAY\" \"$@\"", "sh"];
        words.extend(instead.map(str::to_owned));
    }
    words
}

fn turnway(cable: &Cable, offload: &'static str, limited: bool) -> Box<Relay> {
    let mut extra = String::new();
    let mut limits = "unauthenticated_per_source = \"2000000000/s\"\n\
                      unauthenticated_burst = 1000000000\n"
        .to_owned();
    let mut auth = String::new();
    if limited {
        // More than the cable carries.
        let rate = "\"100 Gbit/s\"";
        extra += "[quota]\nvolume_per_user = \"900 TB/month\"\n";
        for whom in ["allocation", "user", "realm"] {
            extra += &format!("bandwidth_per_{whom} = {rate}\n");
        }
        limits += &format!("bandwidth = {rate}\n");
        auth += "database = \"sqlite:users.db\"\n";
    }
    Box::new(Relay::start(Setup {
        shards: 1,
        offload,
        extra,
        auth,
        limits,
        peers: "allow = [\"10.77.0.0/24\"]".to_owned(),
        listen: vec![SocketAddr::V4(server())],
        namespace: Some(cable.server.name.clone()),
        runner: runner(cable),
        ..Setup::default()
    }))
}

/// Debian's coturn with [`COTURN_FLAGS`], or what the variables `COTURN` and `COTURN_FLAGS` say.
fn coturn(cable: &Cable) -> Coturn {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::var_os("COTURN").map(PathBuf::from);
    let program = program.or_else(|| common::program("turnserver", "coturn")).expect("coturn");
    let flags = std::env::var("COTURN_FLAGS");
    let flags = flags.unwrap_or_else(|_| COTURN_FLAGS.to_owned());
    let own = address(SERVER).to_string();
    let mut command = in_namespace(Some(&cable.server.name), "taskset");
    command.args(&pinned(cable)[1..]).arg(program);
    command.args(["-L", &own, "-E", &own, "-p", &PORT.to_string(), "-r", common::REALM]);
    command.args(["-u", &format!("{USER}:{PASSWORD}"), "--lt-cred-mech"]);
    command.args(["-c", "/dev/null", "--log-file", "/dev/null"]).args(flags.split_whitespace());
    command.arg("-b").arg(folder.path().join("db"));
    command.arg("--pidfile").arg(folder.path().join("pid"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Coturn { child: child.expect("coturn starts"), _folder: folder }
}

/// Waits until the server answers Binding requests.
fn await_answer() {
    let socket = UdpSocket::bind((address(CLIENTS), 0)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
    let mut request = [0; 20];
    request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]);
    await_some("an answer", || {
        socket.send_to(&request, server()).ok();
        socket.recv(&mut [0; 1500]).ok()
    });
}

/// Real allocations with real channels, each with a client of its own.
fn allocate(allocations: u16, channels: u16) -> (Vec<Flow>, Vec<Client>) {
    let mut flows = Vec::with_capacity(usize::from(allocations) * usize::from(channels));
    let clients = (0..allocations).map(|number| {
        let socket = UdpSocket::bind((address(CLIENTS), 0)).expect("a free port");
        let mut client = Client::udp_from(socket, SocketAddr::V4(server()));
        let relay = v4(client.allocate());
        let ours = v4(client.local_addr());
        for channel in 0..channels {
            let flow = flow(ours, relay, number * channels + channel, channel);
            client.bind(flow.channel, SocketAddr::V4(flow.peer)).expect_success();
            flows.push(flow);
        }
        client
    });
    let clients = clients.collect();
    // One allocation after the other, not one channel after the other.
    flows.sort_by_key(|flow| (flow.channel, flow.relay.port()));
    (flows, clients)
}

/// The same channels where nobody allocates.
fn invented(allocations: u16, channels: u16) -> Vec<Flow> {
    let numbers = (0..channels).flat_map(|channel| (0..allocations).map(move |n| (n, channel)));
    numbers
        .map(|(number, channel)| {
            let client = SocketAddrV4::new(address(CLIENTS), RELAY_PORT + number);
            let relay = SocketAddrV4::new(address(SERVER), RELAY_PORT + number);
            flow(client, relay, number * channels + channel, channel)
        })
        .collect()
}

fn flow(client: SocketAddrV4, relay: SocketAddrV4, peer: u16, channel: u16) -> Flow {
    let peer = SocketAddrV4::new(address(PEERS), PEER_PORT + peer);
    Flow { client, server: server(), relay, peer, channel: CHANNEL + channel }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match (address.ip(), address.port()) {
        (IpAddr::V4(ip), port) => SocketAddrV4::new(ip, port),
        (IpAddr::V6(_), _) => panic!("{address} instead of IPv4"),
    }
}
