//! `turnway load`: puts a TURN server to work, this one or another, and tells what it bore.
//!
//! The generator is the crate `turnway-load`; here are its arguments. `text.rs` has what people
//! read of its reports; `--json` prints the reports themselves.

mod text;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use turnway_load::clients::Transport;
use turnway_load::flood::{self, DEFAULT_WINDOW, Directions, Flood, Mode, Pressure};
use turnway_load::search::Found;
use turnway_load::turn::Credentials;
use turnway_load::{LoadError, allocate, stun};
use zeroize::Zeroizing;

use crate::cli::first_line;
use crate::config::{Secret, Span};
use crate::credentials;

/// Where a password may be, if not in a file.
const PASSWORD_VARIABLE: &str = "TURNWAY_PASSWORD";

/// How long time-limited credentials made here are valid, in seconds.
const CREDENTIALS_TTL_S: u64 = 86_400;

/// What kind of load.
#[derive(Debug, Subcommand)]
pub enum LoadCommand {
    /// Send payloads through allocations, and verify each one that arrives
    ///
    /// Makes allocations, each with a client of its own; their peers are this program too. Every
    /// payload carries a number, the time and a checksum: what was lost, came twice, late, changed,
    /// or to the wrong place is counted. Exits with 1 where a payload was changed or came to the
    /// wrong place.
    ///
    /// The server must allow this machine's address as a peer. Latencies are from sender to
    /// receiver, both being here. While it runs one CPU is busy, for whoever sends to a sleeper
    /// pays for waking it: give it a CPU that the server does not use (--cpu). Where it was busy
    /// for more than 90 % of the time ("generator-bound"), a rate tells of the generator and not
    /// of the server; CPU per datagram still tells of the server.
    ///
    /// Example: 100 allocations, both ways, 20,000 datagrams of 1,200 bytes a second:
    ///
    ///   TURNWAY_PASSWORD=… turnway load flood --server 192.0.2.1:3478 --user alice
    ///     --allocations 100 --size 1200 --rate 20000
    #[command(verbatim_doc_comment)]
    Flood(FloodArgs),
    /// Make allocations, use them and end them: how many a second, and what they cost
    ///
    /// Each phase is done for all allocations before the next begins: Allocate (the request
    /// without credentials and its 401 included), CreatePermission and ChannelBind (--bind),
    /// Refresh (--refresh), and the end (unless --keep). With --server-pid it tells CPU time for
    /// each, memory and sockets.
    Allocate(AllocateArgs),
    /// Send STUN Binding requests
    ///
    /// They need no credentials. A server limits such answers for each source address.
    Stun(StunArgs),
}

#[derive(Debug, Args)]
struct Whom {
    /// The server: an address or name with its port
    #[arg(long, value_name = "HOST:PORT")]
    server: Server,
    /// Run on this CPU only; repeated, a thread on each
    #[arg(long = "cpu", value_name = "N")]
    cpus: Vec<usize>,
    /// The server's process on this machine, to tell what it uses; may be repeated
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Who {
    /// The user; for time-limited credentials the name without a timestamp
    #[arg(long, value_name = "NAME")]
    user: String,
    /// A file with the password in its first line; otherwise the environment variable
    /// TURNWAY_PASSWORD has it. Never an argument: everybody on the machine sees those
    #[arg(long, value_name = "FILE", conflicts_with = "secret_file")]
    password_file: Option<PathBuf>,
    /// A file with a shared secret in its first line, from which time-limited credentials are made
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// The arguments of `turnway load flood`.
#[derive(Debug, Args)]
pub struct FloodArgs {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    who: Who,
    /// How clients reach the server; with tcp and tls each has a connection, and any certificate
    /// will do
    #[arg(long, value_enum, default_value_t = TransportArg::Udp)]
    transport: TransportArg,
    /// How many allocations
    #[arg(long, value_name = "N", default_value_t = 1)]
    allocations: usize,
    /// Payload bytes of each datagram
    #[arg(long, value_name = "BYTES", default_value_t = 172)]
    size: usize,
    /// Which way: from clients to peers, from peers to clients, or both in turn
    #[arg(long, value_enum, default_value_t = DirectionArg::Both)]
    direction: DirectionArg,
    /// Datagrams a second, all allocations and directions together, evenly spaced; or max: as fast
    /// as the server goes without losing any
    #[arg(long, value_name = "PPS|max", default_value = "max")]
    rate: Rate,
    /// With --rate max: datagrams under way at a time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW)]
    window: usize,
    /// Datagrams of one allocation and direction that follow each other at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    burst: usize,
    /// How payloads are wrapped: ChannelData, or Send and Data indications
    #[arg(long, value_enum, default_value_t = ModeArg::Channel)]
    mode: ModeArg,
    /// How long is measured; of a search each attempt
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    duration: Span,
    /// How long traffic runs before that
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    warmup: Span,
    /// One address of this machine for all peers; by default the one by which it reaches the
    /// server, and over loopback IPv4 one for each peer
    #[arg(long, value_name = "IP")]
    peer_address: Option<IpAddr>,
    /// Search for the highest rate whose loss is at most --loss, then show half of it
    #[arg(long, conflicts_with = "rate")]
    search: bool,
    /// Percent that may be lost in a search
    #[arg(long, value_name = "PERCENT", default_value_t = 0.1, requires = "search")]
    loss: f64,
}

/// The arguments of `turnway load allocate`.
#[derive(Debug, Args)]
pub struct AllocateArgs {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    who: Who,
    /// How clients reach the server; with tcp and tls each has a connection, and any certificate
    /// will do
    #[arg(long, value_enum, default_value_t = TransportArg::Udp)]
    transport: TransportArg,
    /// How many allocations
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: usize,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    window: usize,
    /// Give each a permission and then a channel
    #[arg(long)]
    bind: bool,
    /// Refresh each once
    #[arg(long)]
    refresh: bool,
    /// Hold them for this time before they are ended
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    hold: Span,
    /// Do not end them: they expire, after ten minutes as a rule
    #[arg(long)]
    keep: bool,
    /// One address for all peers; by default the one by which this machine reaches the server, and
    /// over loopback IPv4 one for each peer
    #[arg(long, value_name = "IP")]
    peer_address: Option<IpAddr>,
}

/// The arguments of `turnway load stun`.
#[derive(Debug, Args)]
pub struct StunArgs {
    #[command(flatten)]
    whom: Whom,
    /// Clients that take turns
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: usize,
    /// Requests a second, or max: as fast as they are answered
    #[arg(long, value_name = "PPS|max", default_value = "max")]
    rate: Rate,
    /// With --rate max: requests under way at a time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW)]
    window: usize,
    /// How long is measured
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    duration: Span,
    /// How long requests are sent before that
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    warmup: Span,
}

/// Does what the arguments ask for: the text to print, and whether payloads were sound.
///
/// # Errors
///
/// Why it could not be done.
pub fn run(command: LoadCommand) -> Result<(String, bool), LoadError> {
    // Each client may have a socket.
    turnway_udp::system::raise_nofile()
        .map_err(|error| LoadError::Io("cannot raise the descriptor limit".to_owned(), error))?;
    match command {
        LoadCommand::Flood(args) => flood(&args),
        LoadCommand::Allocate(args) => allocate(&args),
        LoadCommand::Stun(args) => stun(&args),
    }
}

#[derive(Serialize)]
struct FloodAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    highest_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search_generator_bound: Option<bool>,
    #[serde(flatten)]
    report: &'a flood::Report,
}

fn flood(args: &FloodArgs) -> Result<(String, bool), LoadError> {
    let options = flood::Options {
        server: args.whom.server.0,
        transport: args.transport.into(),
        allocations: args.allocations,
        size: args.size,
        directions: args.direction.into(),
        burst: args.burst,
        mode: args.mode.into(),
        duration: measured(args.duration)?,
        warmup: args.warmup.0,
        peer: args.peer_address,
        cpus: args.whom.cpus.clone(),
        server_pids: args.whom.server_pids.clone(),
    };
    let mut flood = Flood::open(options, &credentials(&args.who)?)?;
    let done = measure(&mut flood, args);
    // After a failure too: allocations are not left behind.
    let closed = flood.close();
    let (found, report) = done?;
    closed?;
    let sound = report.is_sound();
    if args.whom.json {
        let highest_rate = found.map(|found: Found| found.rate);
        let search_generator_bound = found.map(|found| found.generator_bound);
        let report = &report;
        return Ok((json(&FloodAnswer { highest_rate, search_generator_bound, report }), sound));
    }
    Ok((text::flood(&report, found), sound))
}

fn measure(
    flood: &mut Flood,
    args: &FloodArgs,
) -> Result<(Option<Found>, flood::Report), LoadError> {
    if !args.search {
        return Ok((None, flood.run(args.rate.pressure(args.window))?));
    }
    let found = flood.search(None, args.loss / 100.0)?;
    let report = flood.run(Pressure::Rate((found.rate / 2.0).max(1.0)))?;
    Ok((Some(found), report))
}

fn allocate(args: &AllocateArgs) -> Result<(String, bool), LoadError> {
    let options = allocate::Options {
        server: args.whom.server.0,
        transport: args.transport.into(),
        count: args.count,
        window: args.window,
        bind: args.bind,
        refresh: args.refresh,
        hold: args.hold.0,
        delete: !args.keep,
        peer: args.peer_address,
        cpu: args.whom.cpus.first().copied(),
        server_pids: args.whom.server_pids.clone(),
    };
    let report = allocate::run(&options, &credentials(&args.who)?)?;
    let text = if args.whom.json { json(&report) } else { text::allocate(&report) };
    Ok((text, true))
}

fn stun(args: &StunArgs) -> Result<(String, bool), LoadError> {
    let report = stun::run(&stun::Options {
        server: args.whom.server.0,
        clients: args.clients,
        pressure: args.rate.pressure(args.window),
        duration: measured(args.duration)?,
        warmup: args.warmup.0,
        cpu: args.whom.cpus.first().copied(),
        server_pids: args.whom.server_pids.clone(),
    })?;
    let text = if args.whom.json { json(&report) } else { text::stun(&report) };
    Ok((text, true))
}

/// A duration in which something can be measured.
fn measured(duration: Span) -> Result<Duration, LoadError> {
    if duration.0.is_zero() {
        return Err(LoadError::Input("--duration 0s measures nothing".to_owned()));
    }
    Ok(duration.0)
}

fn json(report: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(report).expect("figures are always valid JSON");
    text + "\n"
}

fn credentials(who: &Who) -> Result<Credentials, LoadError> {
    if let Some(path) = &who.secret_file {
        let secret = first_line(path).map_err(LoadError::Input)?;
        let expires = credentials::unix_now() + CREDENTIALS_TTL_S;
        let minted = credentials::mint(&secret, ':', &who.user, expires);
        let minted = minted.map_err(|error| LoadError::Input(error.to_string()))?;
        return Ok(of(minted.username, &minted.password));
    }
    let password = match &who.password_file {
        Some(path) => first_line(path).map_err(LoadError::Input)?,
        None => Secret::new(std::env::var(PASSWORD_VARIABLE).map_err(|_| {
            LoadError::Input(format!(
                "no password: set {PASSWORD_VARIABLE}, or name a file with --password-file or \
                 --secret-file"
            ))
        })?),
    };
    Ok(of(who.user.clone(), &password))
}

fn of(user: String, password: &Secret) -> Credentials {
    Credentials { user, password: Zeroizing::new(password.expose().clone()) }
}

/// An address, looked up by name where it is none.
#[derive(Clone, Copy, Debug)]
struct Server(SocketAddr);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = text.to_socket_addrs();
        let found = found.map_err(|error| format!("{error}; write for example 192.0.2.1:3478"))?;
        let first = { found }.next().ok_or_else(|| format!("{text} has no address"))?;
        Ok(Self(first))
    }
}

/// Datagrams a second, or as fast as possible.
#[derive(Clone, Copy, Debug)]
enum Rate {
    PerSecond(f64),
    Max,
}

impl Rate {
    fn pressure(self, window: usize) -> Pressure {
        match self {
            Self::PerSecond(rate) => Pressure::Rate(rate),
            Self::Max => Pressure::Window(window.max(1)),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<u32>() {
            Ok(rate) if rate > 0 => Ok(Self::PerSecond(rate.into())),
            Ok(_) | Err(_) => Err("write a number of datagrams a second, or max".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TransportArg {
    Udp,
    Tcp,
    Tls,
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Udp => Self::Udp,
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Tls => Self::Tls,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DirectionArg {
    ToPeer,
    ToClient,
    Both,
}

impl From<DirectionArg> for Directions {
    fn from(arg: DirectionArg) -> Self {
        match arg {
            DirectionArg::ToPeer => Self::ToPeer,
            DirectionArg::ToClient => Self::ToClient,
            DirectionArg::Both => Self::Both,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Channel,
    Send,
}

impl From<ModeArg> for Mode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Channel => Self::Channel,
            ModeArg::Send => Self::Send,
        }
    }
}
