//! Configuration: a TOML file becomes a [`Config`] or a [`ConfigError`] that says what to do.
//!
//! - `raw.rs`: every key, defined once, with its documentation, default and reload class
//! - `units.rs`, `units/traffic.rs`, `cidr.rs`, `secret.rs`: the types of values
//! - `source.rs`: lines, key names and unknown keys
//! - `resolve.rs`: from raw values to [`Config`], and everything that must hold between them
//! - `effective.rs`: the effective configuration as text, and what a reload cannot change
//! - `reference.rs`: `config/reference.toml` and `docs/configuration.md`

mod cidr;
mod effective;
mod raw;
mod reference;
mod resolve;
mod secret;
mod source;
#[cfg(test)]
mod tests;
mod units;

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use jiff::tz::TimeZone;
use turnway_relay::alternate::Alternate;
use turnway_relay::quota::{Bandwidth, PrefixLimit, UserLimits};
use zeroize::Zeroizing;

pub use effective::{reloaded, restart_needed};
pub use reference::{reference_markdown, reference_toml};
pub use resolve::{MAX_REALM_BYTES, oauth_secret, private_relay_warning};
pub use secret::{REDACTED, Secret};
pub use units::{BitRate, Count, Delay, Limit, Moment, Period, Rate, Size, Span, Volume};

use source::{Problem, Source};

/// Everything the daemon is told. Plain data, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The authentication realm: 1 to [`MAX_REALM_BYTES`] bytes without quotes or control
    /// characters.
    pub realm: String,
    /// At least one listener, none twice.
    pub listen: Vec<Listen>,
    /// Where relayed transport addresses come from.
    pub relay: Relay,
    /// NAT behaviour discovery; `None`: off.
    pub nat_discovery: Option<NatDiscovery>,
    /// Who may use the relay; never nobody, unless a database may have users.
    pub auth: Auth,
    /// Access tokens; `None`: there are none.
    pub oauth: Option<OAuth>,
    /// Realms beside [`Self::realm`], no name twice.
    pub realms: Vec<Realm>,
    /// Which other servers clients are sent to.
    pub alternates: Alternates,
    /// Which peers may be reached.
    pub peers: Peers,
    /// What bounds the server.
    pub limits: Limits,
    /// What users may use.
    pub quota: Quota,
    /// Relaying in the kernel.
    pub offload: Offload,
    /// Prometheus metrics.
    pub metrics: Metrics,
    /// The admin API.
    pub admin: Admin,
    /// Certificates, and how TLS is spoken.
    pub tls: Tls,
    /// Log lines.
    pub log: Log,
    /// Number of shards; `None`: one for each usable CPU.
    pub shards: Option<u16>,
    /// Where in the file stands what only the machine can refuse.
    pub places: Places,
}

/// `file:line: key` of addresses and files, in the order of [`Config`]; empty without a file.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Of each listener.
    pub listen: Vec<String>,
    /// Of each relay address.
    pub relay: Vec<String>,
    /// Of the database.
    pub database: Option<String>,
    /// Of each certificate.
    pub certificates: Vec<String>,
    /// Of the authorities of clients' certificates.
    pub client_ca: Option<String>,
    /// Of the metrics listener.
    pub metrics: Option<String>,
    /// Of the admin listener.
    pub admin: Option<String>,
}

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP datagrams.
    Udp,
    /// A TCP stream.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// DTLS over UDP.
    Dtls,
    /// All of these at one address: what a client speaks is seen by its first byte.
    Auto,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// What is spoken there.
    pub transport: Transport,
    /// Where; the port is never 0. Unspecified addresses cover their own family only.
    pub address: SocketAddr,
    /// Who begins each TCP connection with a header of the PROXY protocol, always; nobody else
    /// does. Empty without a TCP socket.
    pub proxies: Vec<IpNet>,
    /// The realm of its clients; `None`: the first.
    pub realm: Option<String>,
}

impl Listen {
    /// A listener without proxies.
    #[must_use]
    pub fn new(transport: Transport, address: SocketAddr) -> Self {
        Self { transport, address, proxies: Vec::new(), realm: None }
    }
}

impl Transport {
    /// Every transport a listener may have.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls, Self::Auto];

    /// Whether its listeners have a UDP socket.
    #[must_use]
    pub fn uses_udp(self) -> bool {
        match self {
            Self::Udp | Self::Dtls | Self::Auto => true,
            Self::Tcp | Self::Tls => false,
        }
    }

    /// Whether its listeners have a TCP socket.
    #[must_use]
    pub fn uses_tcp(self) -> bool {
        match self {
            Self::Tcp | Self::Tls | Self::Auto => true,
            Self::Udp | Self::Dtls => false,
        }
    }

    /// Whether its listeners need a certificate.
    #[must_use]
    pub fn is_secured(self) -> bool {
        match self {
            Self::Tls | Self::Dtls | Self::Auto => true,
            Self::Udp | Self::Tcp => false,
        }
    }
}

/// `[relay]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Empty: the address of the default route of each family.
    pub addresses: Vec<RelayAddress>,
    /// Ports of relayed transport addresses; at least two, none of them 0.
    pub ports: RangeInclusive<u16>,
    /// Whether there are TCP allocations (RFC 6062).
    pub tcp: bool,
    /// Whether clients may go on from another address.
    pub mobility: bool,
}

/// An address of this machine, and what the world calls it. Both are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// The address on our interface.
    pub local: IpAddr,
    /// The address clients are given; the same as `local` unless there is a 1:1 NAT.
    pub external: IpAddr,
}

/// `[nat_discovery]`. At each port of each address there is a listener for UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatDiscovery {
    /// Two addresses of a family, or two of each.
    pub addresses: Vec<[RelayAddress; 2]>,
    /// Two different ports, none of them 0.
    pub ports: [u16; 2],
}

/// `[auth]`
#[derive(Debug, Clone)]
pub struct Auth {
    /// Secrets of time-limited credentials; the first one signs. At most 16.
    pub rest_secrets: Vec<Secret>,
    /// Between expiry and name: a printable ASCII character, no letter or digit.
    pub rest_separator: char,
    /// Signs nonces; `None`: a random one for each start.
    pub nonce_secret: Option<Secret>,
    /// How long a nonce is valid.
    pub nonce_lifetime: Duration,
    /// Whether an expired time-limited credential is refused at Refresh too.
    pub enforce_expiry_at_refresh: bool,
    /// Named users, none twice.
    pub users: Vec<User>,
    /// The SQLite file with further users and the volumes used; it may not be there yet.
    pub database: Option<PathBuf>,
}

/// `[[auth.user]]`
#[derive(Debug, Clone)]
pub struct User {
    /// 1 to 508 bytes.
    pub name: String,
    /// The name of the user's realm; `None`: the first.
    pub realm: Option<String>,
    /// How the user proves who they are.
    pub credential: Credential,
}

/// What we know of a user's password.
#[derive(Debug, Clone)]
pub enum Credential {
    /// The password itself; not empty.
    Password(Secret),
    /// MD5(user:realm:password). It cannot serve SHA-256.
    Md5(Secret<[u8; 16]>),
    /// SHA-256(user:realm:password). It cannot serve clients that know only MD5.
    Sha256(Secret<[u8; 32]>),
}

/// `[[realms]]`, with what `[[quota.realm]]` says about it.
#[derive(Debug, Clone)]
pub struct Realm {
    /// As [`Config::realm`].
    pub name: String,
    /// Origins whose clients belong to it.
    pub origins: Vec<String>,
    /// Server names whose clients belong to it.
    pub server_names: Vec<String>,
    /// Secrets of its time-limited credentials. At most 16.
    pub rest_secrets: Vec<Secret>,
    /// Beside [`Peers::allow`].
    pub allow: Vec<IpNet>,
    /// Beside [`Peers::deny`].
    pub deny: Vec<IpNet>,
    /// What one user may use.
    pub user: UserLimits,
    /// Allocations of the realm at a time; `None`: not limited.
    pub allocations: Option<u32>,
    /// The whole realm, each direction; `None`: not limited.
    pub bandwidth: Option<Bandwidth>,
}

/// `[oauth]`
#[derive(Debug, Clone)]
pub struct OAuth {
    /// What tokens are made for: not empty, and short enough for a 401 beside the realm.
    pub server_name: String,
    /// By how much clocks may differ: at most 5 minutes.
    pub clock_skew: Duration,
    /// Keys shared with authorization servers, none of them twice.
    pub keys: Vec<OAuthKey>,
}

/// `[[oauth.key]]`
#[derive(Debug, Clone)]
pub struct OAuthKey {
    /// Its identifier, after OpaqueString.
    pub kid: String,
    /// The key itself.
    pub secret: OAuthSecret,
    /// No token is honoured before this Unix time in seconds.
    pub not_before_unix: Option<u64>,
    /// No token is honoured after this Unix time in seconds.
    pub not_after_unix: Option<u64>,
}

/// A key that tokens are encrypted with.
#[derive(Debug, Clone)]
pub enum OAuthSecret {
    /// For AES-128 in Galois/Counter Mode.
    A128Gcm(Secret<[u8; 16]>),
    /// For AES-256 in Galois/Counter Mode.
    A256Gcm(Secret<[u8; 32]>),
}

/// How tokens are encrypted, by its name in RFC 7518.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OAuthAlgorithm {
    /// AES-128 in Galois/Counter Mode.
    A128Gcm,
    /// AES-256 in Galois/Counter Mode.
    A256Gcm,
}

impl OAuthAlgorithm {
    /// Bytes of a key.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::A128Gcm => 16,
            Self::A256Gcm => 32,
        }
    }
}

/// `[alternate]`
#[derive(Debug, Clone)]
pub struct Alternates {
    /// Which clients are sent.
    pub when: AlternateWhen,
    /// Where to; none of them is this server as far as the configuration says.
    pub servers: Vec<Alternate>,
}

/// When clients are sent to other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlternateWhen {
    /// Always.
    Always,
    /// Instead of 508.
    Busy,
}

/// `[peers]`. Of `allow` and `deny` the longest prefix that holds an address counts; no range is
/// in both. Where none holds it, the built-in list of special-purpose ranges does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// May be reached although a wider `deny` or the built-in list says otherwise.
    pub allow: Vec<IpNet>,
    /// May not be reached.
    pub deny: Vec<IpNet>,
    /// Local NAT64 prefixes, of a length of RFC 6052 section 2.2.
    pub nat64: Vec<Ipv6Net>,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Allocations at a time; `None`: derived from descriptors and ports.
    pub allocations: Option<u32>,
    /// Permissions of one allocation; at least 1.
    pub permissions_per_allocation: u32,
    /// Channels of one allocation; 1 to 4096.
    pub channels_per_allocation: u32,
    /// Connections to and from peers of one TCP allocation; 1 to 1024.
    pub connections_per_allocation: u32,
    /// Whether clients of RFC 5766 may bind its channel numbers above 0x4FFF.
    pub old_channel_numbers: bool,
    /// Upper bound of LIFETIME: 10 minutes to 24 hours.
    pub max_lifetime: Duration,
    /// Answers to unauthenticated requests per source address (IPv4) or /64 (IPv6).
    pub unauthenticated_per_source: Rate,
    /// Such answers at once to a source that was quiet; at least 1.
    pub unauthenticated_burst: u32,
    /// ICMP indications to one client for one allocation.
    pub icmp_per_allocation: Rate,
    /// Kernel buffer of a listener socket in bytes, each way.
    pub socket_buffer: usize,
    /// TCP connections at a time; `None`: derived from descriptors.
    pub tcp_connections: Option<u32>,
    /// Connections and DTLS sessions of one source at a time; 0: as many as there can be.
    pub connections_per_source: u32,
    /// TLS and DTLS handshakes of one source.
    pub handshakes_per_source: Rate,
    /// DTLS sessions at a time; at least 1.
    pub dtls_sessions: u32,
    /// Bytes queued for a slow TCP client; more than the largest frame.
    pub tcp_send_queue: usize,
    /// After this a TCP connection without an allocation is closed.
    pub tcp_idle_timeout: Duration,
    /// How long a shard may pause so that a wake-up serves several datagrams; zero: never.
    pub wakeup_delay: Duration,
    /// How long a drain waits for the last allocation.
    pub drain_timeout: Duration,
    /// All relaying together, each direction; `None`: not limited.
    pub bandwidth: Option<Bandwidth>,
}

/// `[quota]`, with what `[[quota.realm]]` says about our realm. No limit is above another that
/// includes it, and there is no volume without [`Auth::database`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// What one user may use.
    pub user: UserLimits,
    /// Allocations of the realm at a time; at least 1. `None`: not limited.
    pub realm_allocations: Option<u32>,
    /// The whole realm, each direction; `None`: not limited.
    pub realm_bandwidth: Option<Bandwidth>,
    /// Allocations of clients that share an address.
    pub prefix: PrefixLimit,
    /// Where days and months begin; it has an IANA name.
    pub time_zone: TimeZone,
}

impl Default for Quota {
    /// No limit; days and months of UTC.
    fn default() -> Self {
        Self {
            user: UserLimits::default(),
            realm_allocations: None,
            realm_bandwidth: None,
            prefix: PrefixLimit::default(),
            time_zone: TimeZone::UTC,
        }
    }
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The pairs of files, the preferred first; at least one if any listener needs it.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether clients are asked for a certificate; if so, there is a `client_ca`.
    pub client_certificates: ClientCertificates,
    /// A PEM file with the authorities of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// After this a connection whose handshake is not complete is closed.
    pub handshake_timeout: Duration,
}

/// `[[tls.certificate]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// A version of TLS, or of DTLS where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not.
    Off,
    /// They are, and may have none. One that is shown must be good.
    Optional,
    /// Who has none is refused.
    Required,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where to serve them; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where to serve the API; `None`: nowhere.
    pub listen: Option<AdminListen>,
    /// What clients must show: visible ASCII characters. There is one if `listen` is TCP.
    pub token: Option<Secret>,
}

/// Where the admin API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminListen {
    /// HTTP over TCP; the port is never 0.
    Tcp(SocketAddr),
    /// HTTP over a Unix socket; the path has 1 to 107 bytes.
    Unix(PathBuf),
}

/// `[offload]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offload {
    /// Whether and how.
    pub mode: OffloadMode,
    /// Names of interfaces; empty: those that have our addresses.
    pub interfaces: Vec<String>,
    /// Channels at a time, 1 to [`MAX_OFFLOADED_CHANNELS`].
    pub max_channels: u32,
}

/// The most channels that `[offload] max_channels` allows.
pub const MAX_OFFLOADED_CHANNELS: u32 = 1_000_000;

/// How datagrams are relayed in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadMode {
    /// As well as it goes, where nothing is bypassed.
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's receive path.
    Generic,
    /// Not at all.
    Off,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Someone should look at this.
    Warn,
    /// What the operator wants to know.
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object in a line.
    Json,
}

/// What is doubtful about a configuration but does not stop it, one text each.
pub type Warnings = Vec<String>;

/// Why a configuration cannot be used: one line for each problem, with file, line, key, what was
/// found and what to do. Secrets are never in it.
#[derive(Debug, Clone)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    fn new(problems: Vec<Problem>) -> Self {
        Self { problems: problems.iter().map(ToString::to_string).collect() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads, parses and checks a file and the secret files it names.
    ///
    /// # Errors
    ///
    /// All problems found, or why the file cannot be read.
    pub fn load(path: &Path) -> Result<(Self, Warnings), ConfigError> {
        let text = read_file(path).map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::NotFound => "`turnway init -o FILE` writes a new one",
                io::ErrorKind::PermissionDenied => "let the user Turnway runs as read it",
                io::ErrorKind::InvalidData => "save it as UTF-8 text",
                _ => "name a TOML file, such as `turnway init -o FILE` writes",
            };
            let shown = path.display();
            let problem = format!("{shown}: cannot read the configuration: {error}; {advice}");
            ConfigError { problems: vec![problem] }
        })?;
        let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
        let world_readable = mode.is_ok_and(|mode| mode & 0o004 != 0);
        Self::read(path, &text, world_readable)
    }

    /// Parses and checks the text of a file. `path` is for messages, and its directory is where
    /// relative names of files begin.
    ///
    /// # Errors
    ///
    /// All problems found.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Warnings), ConfigError> {
        Self::read(path, text, false)
    }

    /// What `turnway serve` runs without a file: loopback only, loopback peers allowed, one
    /// secret, and no metrics, quota, database or admin API.
    #[must_use]
    pub fn development(secret: Secret) -> Self {
        let loopback = Ipv4Addr::LOCALHOST;
        let address = SocketAddr::from((loopback, 3478));
        let raw = raw::RawConfig::default();
        Self {
            realm: raw.realm.into_inner(),
            listen: vec![
                Listen::new(Transport::Udp, address),
                Listen::new(Transport::Tcp, address),
            ],
            relay: Relay {
                addresses: vec![RelayAddress { local: loopback.into(), external: loopback.into() }],
                ports: raw.relay.ports.into_inner().0,
                tcp: raw.relay.tcp.into_inner(),
                mobility: raw.relay.mobility.into_inner(),
            },
            nat_discovery: None,
            auth: Auth {
                rest_secrets: vec![secret],
                rest_separator: ':',
                nonce_secret: None,
                nonce_lifetime: raw.auth.nonce_lifetime.into_inner().0,
                enforce_expiry_at_refresh: raw.auth.enforce_expiry_at_refresh.into_inner(),
                users: Vec::new(),
                database: None,
            },
            oauth: None,
            realms: Vec::new(),
            alternates: Alternates { when: AlternateWhen::Always, servers: Vec::new() },
            peers: Peers {
                allow: vec![
                    IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                    IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)),
                ],
                deny: Vec::new(),
                nat64: Vec::new(),
            },
            limits: resolve::unchecked_limits(&raw.limits),
            quota: Quota::default(),
            offload: Offload {
                mode: OffloadMode::Off,
                interfaces: Vec::new(),
                max_channels: raw.offload.max_channels.get_ref().0,
            },
            tls: resolve::unchecked_tls(&raw.tls),
            metrics: Metrics { listen: None },
            admin: Admin { listen: None, token: None },
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
            shards: None,
            places: Places::default(),
        }
    }

    fn read(
        path: &Path,
        text: &str,
        world_readable: bool,
    ) -> Result<(Self, Warnings), ConfigError> {
        let source = Source::parse(path, text, world_readable)
            .map_err(|error| ConfigError::new(vec![error]))?;
        let mut problems = source.unknown_keys();
        match source.read::<raw::RawConfig>() {
            Ok(raw) => resolve::resolve(&source, raw, problems),
            Err(error) => {
                problems.push(error);
                Err(ConfigError::new(problems))
            }
        }
    }
}

/// Reads a configuration or a secret: a regular file of at most [`MAX_FILE_BYTES`], since waiting
/// for a pipe would hold up a reload, and nobody's configuration is longer.
pub(crate) fn read_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB; is it the right file?"));
    }
    let mut text = Zeroizing::new(String::new());
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
            Self::Auto => "auto",
        })
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|it| it.to_string() == text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a transport; write \"udp\", \"tcp\", \"tls\", \"dtls\" or \
                 \"auto\""
            )
        })
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

impl FromStr for TlsVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            "1.0" | "1.1" => Err(format!(
                "TLS {text} is broken and not spoken by this server; write \"1.2\" or \"1.3\""
            )),
            _ => Err(format!("\"{text}\" is not a version; write \"1.2\" or \"1.3\"")),
        }
    }
}

impl fmt::Display for ClientCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        })
    }
}

impl FromStr for ClientCertificates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Off, Self::Optional, Self::Required];
        all.into_iter().find(|it| it.to_string() == text).ok_or_else(|| {
            format!("\"{text}\" is unknown; write \"off\", \"optional\" or \"required\"")
        })
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for OffloadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        })
    }
}

impl FromStr for OffloadMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let modes = [Self::Auto, Self::Native, Self::Generic, Self::Off];
        modes.into_iter().find(|mode| mode.to_string() == text).ok_or_else(|| {
            format!("\"{text}\" is not a mode; write \"auto\", \"native\", \"generic\" or \"off\"")
        })
    }
}

impl fmt::Display for OAuthAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A128Gcm => "A128GCM",
            Self::A256Gcm => "A256GCM",
        })
    }
}

impl FromStr for OAuthAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::A128Gcm, Self::A256Gcm];
        all.into_iter().find(|algorithm| algorithm.to_string() == text).ok_or_else(|| {
            format!("\"{text}\" is not an algorithm; write \"A256GCM\" or \"A128GCM\"")
        })
    }
}

impl fmt::Display for AlternateWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Busy => "busy",
        })
    }
}

impl FromStr for AlternateWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Always, Self::Busy];
        all.into_iter()
            .find(|when| when.to_string() == text)
            .ok_or_else(|| format!("\"{text}\" is unknown; write \"always\" or \"busy\""))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let levels = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
        levels.into_iter().find(|level| level.to_string() == text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a log level; write \"error\", \"warn\", \"info\", \"debug\" or \
                 \"trace\""
            )
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let formats = [Self::Text, Self::Json];
        formats
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or_else(|| format!("\"{text}\" is not a log format; write \"text\" or \"json\""))
    }
}
