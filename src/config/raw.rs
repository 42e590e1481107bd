//! The file's keys, each defined once: name, type, default, documentation and reload class.
//!
//! From these definitions come the deserializer, the defaults, the check for unknown keys
//! (`source.rs`), `config/reference.toml` and `docs/configuration.md` (`reference.rs`), and which
//! changes need a restart (`effective.rs`). What the values must satisfy is in `resolve.rs`.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::ValueDeserializer;

use super::cidr::Cidr;
use super::secret::{Secret, Secrets};
use super::units::{
    BitRate, Count, Delay, Limit, Moment, Ports, Rate, Size, Span, Volume, Zone, from_text,
};
use super::{
    AlternateWhen, ClientCertificates, LogFormat, LogLevel, OAuthAlgorithm, OffloadMode,
    TlsVersion, Transport,
};

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    /// At the next SIGHUP.
    Live,
    /// When the daemon is started again.
    Restart,
}

/// Whether a key has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `text` is the default.
    Default,
    /// The key may be absent; `text` is an example.
    Example,
    /// The key must be there; `text` is an example.
    Required,
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The top level of the file.
    Root,
    /// `[table]`
    Table,
    /// `[[table]]`, at least one.
    Array,
    /// `[[table]]`, none needed.
    OptionalArray,
    /// `{ key = value }` inside a list.
    Inline,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) docs: &'static [&'static str],
    pub(super) kind: Kind,
    /// TOML text of the default or example.
    pub(super) text: &'static str,
    pub(super) reload: Reload,
}

/// One table and its keys.
#[derive(Debug)]
pub(super) struct Table {
    /// Dotted path; empty for the top level.
    pub(super) path: &'static str,
    pub(super) shape: Shape,
    pub(super) about: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// Every table, in the order of the reference.
pub(super) const TABLES: [&Table; 23] = [
    &RawConfig::TABLE,
    &RawListen::TABLE,
    &RawRelay::TABLE,
    &RawRelayPair::TABLE,
    &RawNatDiscovery::TABLE,
    &DISCOVERY_PAIR,
    &RawAuth::TABLE,
    &RawUser::TABLE,
    &RawOAuth::TABLE,
    &RawOAuthKey::TABLE,
    &RawRealm::TABLE,
    &RawAlternate::TABLE,
    &RawAlternateServer::TABLE,
    &RawPeers::TABLE,
    &RawLimits::TABLE,
    &RawQuota::TABLE,
    &RawQuotaRealm::TABLE,
    &RawOffload::TABLE,
    &RawTls::TABLE,
    &RawCertificate::TABLE,
    &RawMetrics::TABLE,
    &RawAdmin::TABLE,
    &RawLog::TABLE,
];

/// Defines a table: `kind key: type = "TOML text", reload;` for each key, then `=> field: type;`
/// for each table within it.
macro_rules! keys {
    (
        $(#[doc = $about:literal])*
        $shape:ident $path:literal $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $kind:ident $key:ident: $ty:ty = $text:literal, $reload:ident;
            )*
            $(=> $sub:ident: $subtype:ty;)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $($(#[doc = $doc])* pub(super) $key: keys!(@type $kind $ty),)*
            $(pub(super) $sub: $subtype,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($key: keys!(@value $kind $text),)*
                    $($sub: Default::default(),)*
                }
            }
        }

        impl $name {
            pub(super) const TABLE: Table = Table {
                path: $path,
                shape: Shape::$shape,
                about: &[$($about),*],
                keys: &[$(Key {
                    name: stringify!($key),
                    docs: &[$($doc),*],
                    kind: Kind::$kind,
                    text: $text,
                    reload: Reload::$reload,
                },)*],
            };
        }
    };
    (@type Default $ty:ty) => { Spanned<$ty> };
    (@type Example $ty:ty) => { Option<Spanned<$ty>> };
    (@type Required $ty:ty) => { Option<Spanned<$ty>> };
    (@value Default $text:literal) => { default_value($text) };
    (@value Example $text:literal) => { None };
    (@value Required $text:literal) => { None };
}

/// The span of a default is empty: it is in no file.
fn default_value<T: DeserializeOwned>(text: &'static str) -> Spanned<T> {
    let value = ValueDeserializer::parse(text).and_then(T::deserialize);
    Spanned::new(0..0, value.expect("a test reads every default"))
}

keys! {
    /// Keys that stand before the first table of the file.
    Root "" RawConfig {
        /// The authentication realm that clients are shown; at most 64 bytes. The MD5 and SHA-256
        /// keys of users are computed with it: after a change of realm, import them anew.
        Default realm: String = "\"turnway\"", Restart;
        /// How many threads relay. Without it: one for each CPU the process may use (affinity mask
        /// and cgroup quota respected).
        Example shards: Count = "4", Restart;
        => listen: Vec<Spanned<RawListen>>;
        => relay: RawRelay;
        => nat_discovery: RawNatDiscovery;
        => auth: RawAuth;
        => oauth: RawOAuth;
        => realms: Vec<Spanned<RawRealm>>;
        => alternate: RawAlternate;
        => peers: RawPeers;
        => limits: RawLimits;
        => quota: RawQuota;
        => offload: RawOffload;
        => tls: RawTls;
        => metrics: RawMetrics;
        => admin: RawAdmin;
        => log: RawLog;
    }
}

keys! {
    /// Where clients connect. One `[[listen]]` table for each listener.
    Array "listen" RawListen {
        /// `"udp"`, `"tcp"`, `"tls"` (over TCP), `"dtls"` (over UDP), or `"auto"`: a UDP and a TCP
        /// socket that take all of these, told apart by a client's first byte. The last three
        /// need a `[[tls.certificate]]`.
        Required transport: Transport = "\"udp\"", Restart;
        /// Address and port. `"0.0.0.0:3478"` is all of IPv4, `"[::]:3478"` all of IPv6 and no
        /// IPv4; both may be used side by side. 3478 is the port registered for TURN, 5349 for TURN
        /// over TLS and DTLS.
        Required address: String = "\"0.0.0.0:3478\"", Restart;
        /// Proxies in front of this listener, as address ranges: each of their TCP connections
        /// must begin with a header of the PROXY protocol (version 1 or 2), which names the real
        /// client. From all others such a header is refused. Not for `"udp"` and `"dtls"`.
        Default proxy_protocol: Vec<Spanned<Cidr>> = "[]", Restart;
        /// The realm of clients that come here, unless ORIGIN or the name they give to TLS leads to
        /// another. Without it: the one at the top of the file.
        Example realm: String = "\"example.net\"", Restart;
    }
}

keys! {
    /// The addresses and ports that peers see: the relayed transport addresses.
    Table "relay" RawRelay {
        /// Addresses of this machine to relay from. Behind 1:1 NAT (nearly every cloud machine)
        /// write the pair: `{ local = "10.0.0.5", external = "203.0.113.7" }`. Both forms may be
        /// mixed, IPv4 and IPv6. Without it: the address of the default route of each family.
        Example addresses: Vec<Spanned<RawRelayAddress>>
            = "[\"203.0.113.7\", { local = \"10.0.0.5\", external = \"203.0.113.8\" }]", Restart;
        /// Ports of the relayed transport addresses, both ends included: UDP, and TCP for the
        /// allocations of RFC 6062. Open them in the firewall. No listener may lie within.
        Default ports: Ports = "\"49152-65535\"", Restart;
        /// Whether clients that come over TCP or TLS may have TCP allocations (RFC 6062), with
        /// which they reach peers over TCP. Peers are refused as `[peers]` says, as for UDP. With
        /// `false` such an Allocate is answered with 442.
        Default tcp: bool = "true", Live;
        /// Whether clients may go on with their allocations from another address (RFC 8016), as
        /// phones do that change networks. An allocation of a client that asks for it then outlives
        /// the client's connection, until its lifetime is over. With `false` such an Allocate is
        /// answered with 405.
        Default mobility: bool = "false", Live;
    }
}

keys! {
    /// An address behind 1:1 NAT: an entry of `addresses`.
    Inline "relay.addresses" RawRelayPair {
        /// The address on this machine's interface.
        Required local: String = "\"10.0.0.5\"", Restart;
        /// The address the world reaches it by, of the same family. It is what clients are given.
        Required external: String = "\"203.0.113.7\"", Restart;
    }
}

keys! {
    /// NAT behaviour discovery (RFC 5780): clients learn how the NATs in front of them map and
    /// filter. It is off without `addresses`. It is for UDP and needs no credentials; its answers
    /// are bounded as `unauthenticated_per_source` in `[limits]` says, and go nowhere but to the
    /// address that asked.
    Table "nat_discovery" RawNatDiscovery {
        /// Two addresses of this machine, of one family; or two of IPv4 and two of IPv6. Behind 1:1
        /// NAT write pairs, as in `[relay]`.
        Example addresses: Vec<Spanned<RawRelayAddress>>
            = "[\"203.0.113.7\", \"203.0.113.8\"]", Restart;
        /// Two ports. A UDP listener is opened at both ports of each address where no `[[listen]]`
        /// has one. Open them in the firewall.
        Default ports: Vec<u16> = "[3478, 3479]", Restart;
    }
}

/// The same for `[nat_discovery] addresses`.
const DISCOVERY_PAIR: Table = Table { path: "nat_discovery.addresses", ..RawRelayPair::TABLE };

keys! {
    /// Who may use the relay: shared secrets for time-limited (REST) credentials, named users, a
    /// database of them, or any of these together. With none, Turnway does not start.
    Table "auth" RawAuth {
        /// Shared secrets for time-limited credentials, as web applications issue them: username
        /// `<unix expiry>:<name>`, password base64(HMAC-SHA1(secret, username)). Every one is
        /// accepted; the first signs what `turnway credentials` prints. To change secrets: add the
        /// new one, reload, move the applications to it, remove the old one.
        Example rest_secrets: Secrets = "[\"at-least-16-characters-from-a-random-source\"]", Live;
        /// A file with further such secrets, one on each line. A relative path starts at the
        /// directory of this file. For Docker secrets, and for systemd
        /// (`LoadCredential=`: `/run/credentials/turnway.service/…`).
        Example rest_secrets_file: PathBuf = "\"/run/secrets/rest-secrets\"", Live;
        /// The character between expiry and name in the username.
        Default rest_separator: String = "\":\"", Live;
        /// Signs nonces. Without it a random one is made at each start, and clients fetch a new
        /// nonce after a restart by themselves. Servers that share clients (behind one address or
        /// one DNS name) should share it.
        Example nonce_secret: Secret = "\"at-least-16-characters-from-a-random-source\"", Live;
        /// A file with the nonce secret, instead of `nonce_secret`.
        Example nonce_secret_file: PathBuf = "\"/run/secrets/nonce-secret\"", Live;
        /// How long a nonce is valid; older ones are answered with 438 and a new nonce.
        Default nonce_lifetime: Span = "\"1h\"", Live;
        /// Whether a Refresh is refused once the time-limited credential has expired. With `false`
        /// an allocation lives on for as long as its client refreshes it.
        Default enforce_expiry_at_refresh: bool = "true", Live;
        /// Where `turnway user` keeps users, and the daemon the volumes they have used: `sqlite:`
        /// and a file, which is made when it is not there. A relative path starts at the directory
        /// of this file. The user Turnway runs as must be able to write into its directory. Leave
        /// no `sqlite3` shell open in a transaction: while it reads, the log beside the file
        /// (`-wal`) grows, and while it writes nothing else is saved.
        Example database: String = "\"sqlite:turnway.db\"", Restart;
        => user: Vec<Spanned<RawUser>>;
    }
}

keys! {
    /// Named users with lasting passwords. One `[[auth.user]]` table for each, with exactly one
    /// of `password`, `password_file` and `key`.
    OptionalArray "auth.user" RawUser {
        /// The user's name; at most 508 bytes.
        Required name: String = "\"alice\"", Live;
        /// The user's realm. Without it: the one at the top of the file.
        Example realm: String = "\"example.net\"", Live;
        /// The password.
        Example password: Secret = "\"a long password\"", Live;
        /// A file that holds the password and nothing else (one newline at its end is ignored).
        Example password_file: PathBuf = "\"/run/secrets/alice\"", Live;
        /// Instead of the password, hexadecimal: MD5 of `user:realm:password` (32 digits, as
        /// `turnadmin -k` prints it), or SHA-256 of the same (64 digits). While any user has only
        /// an MD5 key, SHA-256 is not offered to clients.
        Example key: Secret = "\"00112233445566778899aabbccddeeff\"", Live;
    }
}

keys! {
    /// Access tokens of an authorization server ("OAuth", RFC 7635), beside the users of `[auth]`
    /// or without any. A client shows a token that was encrypted for this server. All tokens made
    /// with one key are one user for `[quota]`, named as its `kid` is.
    Table "oauth" RawOAuth {
        /// The name of this server that tokens are made for. Without it: the realm. It is part of
        /// every 401, so it and the realm together have at most 60 bytes.
        Example server_name: String = "\"turn.example.org\"", Live;
        /// By how much the clocks of this machine and of the authorization server may differ; at
        /// most 5m.
        Default clock_skew: Span = "\"5s\"", Live;
        => key: Vec<Spanned<RawOAuthKey>>;
    }
}

keys! {
    /// A key shared with an authorization server. To change keys: add the new one under another
    /// `kid`, reload, let the authorization server use it, and remove the old one when its last
    /// token has ended. One that is removed ends the allocations its tokens began.
    OptionalArray "oauth.key" RawOAuthKey {
        /// The identifier of the key, which clients send as USERNAME.
        Required kid: String = "\"north\"", Live;
        /// The key, in base64: 32 bytes for A256GCM, 16 for A128GCM.
        Example key: Secret = "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"", Live;
        /// A file with the key in base64, instead of `key`.
        Example key_file: PathBuf = "\"/run/secrets/oauth-north\"", Live;
        /// What tokens are encrypted with: `"A256GCM"` or `"A128GCM"`.
        Default algorithm: OAuthAlgorithm = "\"A256GCM\"", Live;
        /// No token of this key is honoured earlier.
        Example not_before: Moment = "\"2026-01-01T00:00:00Z\"", Live;
        /// No token of this key is honoured later.
        Example not_after: Moment = "\"2027-01-01T00:00:00Z\"", Live;
    }
}

keys! {
    /// A realm beside the one at the top of the file, with users, limits and peers of its own; its
    /// users are those of `[[auth.user]]` and of the database that have its name as their realm. A
    /// client is asked for the realm of its ORIGIN, or else of the server name it gave to TLS, or
    /// else of the listener. The same user name in two realms is two users. Realms come and go,
    /// and change their order, at a restart only.
    OptionalArray "realms" RawRealm {
        /// The realm; at most 64 bytes.
        Required name: String = "\"example.net\"", Live;
        /// Origins of the web applications whose users belong to it.
        Default origins: Vec<String> = "[]", Live;
        /// Server names (SNI) by which its clients connect over TLS and DTLS.
        Default server_names: Vec<String> = "[]", Live;
        /// Secrets of its time-limited credentials, as in `[auth]`.
        Example rest_secrets: Secrets = "[\"at-least-16-characters-from-a-random-source\"]", Live;
        /// A file with further such secrets, one on each line.
        Example rest_secrets_file: PathBuf = "\"/run/secrets/rest-secrets-net\"", Live;
        /// Which peers its users may reach, beside those of `[peers]`.
        Default allow: Vec<Spanned<Cidr>> = "[]", Live;
        /// Which peers its users may not reach, beside those of `[peers]`.
        Default deny: Vec<Spanned<Cidr>> = "[]", Live;
    }
}

keys! {
    /// Other servers that clients are sent to (300, ALTERNATE-SERVER) when they ask for an
    /// allocation and have shown who they are. They must honour the same users. Two servers that
    /// always send clients to each other serve nobody.
    Table "alternate" RawAlternate {
        /// `"always"`: every client. `"busy"`: those that would be told 508, because this server
        /// drains or its allocations or ports are used up.
        Default when: AlternateWhen = "\"always\"", Live;
        => server: Vec<Spanned<RawAlternateServer>>;
    }
}

keys! {
    /// Clients are shared among those servers that their transport and address family suit; whom
    /// none suits is served here.
    OptionalArray "alternate.server" RawAlternateServer {
        /// Addresses and ports of the server: one of IPv4, one of IPv6, or one of each.
        Required addresses: Vec<Spanned<String>> = "[\"203.0.113.9:3478\", \"[2001:db8::9]:3478\"]", Live;
        /// The name in its certificate, if that is another than this server's (ALTERNATE-DOMAIN).
        Example domain: String = "\"turn2.example.org\"", Live;
        /// How its clients may reach it there. A server has other ports for TLS and DTLS than for
        /// UDP and TCP: write it twice then.
        Default transports: Vec<Spanned<String>> = "[\"udp\", \"tcp\"]", Live;
    }
}

keys! {
    /// Which peers may be reached. Addresses that are not public (loopback, private, link-local,
    /// multicast, documentation, cloud metadata and the other special-purpose ranges) and the
    /// listeners of this server are refused without being named here.
    Table "peers" RawPeers {
        /// Ranges that may be reached although a wider range of `deny` or the built-in list says
        /// otherwise. Ranges are written `"10.0.0.0/8"`, `"fd00::/8"` or as a plain address.
        Default allow: Vec<Spanned<Cidr>> = "[]", Live;
        /// Ranges that may not be reached. Of all ranges here and in `allow` that hold an address,
        /// the narrowest counts: `["0.0.0.0/0", "::/0"]` leaves only what `allow` names.
        Default deny: Vec<Spanned<Cidr>> = "[]", Live;
        /// NAT64 prefixes of this network beside the well-known `64:ff9b::/96`. The IPv4 address
        /// within such a peer address is what the ranges are compared with.
        Default nat64: Vec<Spanned<Cidr>> = "[]", Live;
    }
}

keys! {
    /// What bounds the server. (What its users may use is in `[quota]`.)
    Table "limits" RawLimits {
        /// Allocations at a time; further ones are answered with 508. Without it (or 0): derived
        /// from the descriptor limit and the relay ports, and said at the start.
        Default allocations: Count = "0", Restart;
        /// Permissions that one allocation may have installed.
        Default permissions_per_allocation: Count = "256", Live;
        /// Channels that one allocation may have bound; at most 4096.
        Default channels_per_allocation: Count = "256", Live;
        /// Connections to and from peers that one TCP allocation may have at a time (RFC 6062).
        Default connections_per_allocation: Count = "64", Live;
        /// Whether clients of RFC 5766 may bind its channel numbers 0x5000 to 0x7FFF, which RFC 8656
        /// took away. Some choose among all of them at random, coturn's turnutils_uclient before
        /// 4.16 for one. A client that knows RFC 8489's PASSWORD-ALGORITHM is never allowed them.
        Default old_channel_numbers: bool = "true", Live;
        /// The longest LIFETIME granted, from 10m to 24h. (Clients that ask for none get 10m.)
        Default max_lifetime: Span = "\"1h\"", Live;
        /// Answers to unauthenticated requests, for each source: an IPv4 address or an IPv6 /64.
        /// Enough for an office behind one NAT; what is over it is dropped.
        Default unauthenticated_per_source: Rate = "\"1000/s\"", Restart;
        /// How many such answers a source that was quiet may have at once.
        Default unauthenticated_burst: Count = "10000", Restart;
        /// ICMP errors passed on to the client of one allocation.
        Default icmp_per_allocation: Rate = "\"10/s\"", Live;
        /// Kernel buffer asked for on each listener socket, each way. The kernel's bounds are
        /// `net.core.rmem_max` and `net.core.wmem_max`; a warning tells if they cut it.
        Default socket_buffer: Size = "\"4 MiB\"", Restart;
        /// TCP connections at a time. Without it (or 0): derived from the descriptor limit.
        Default tcp_connections: Count = "0", Restart;
        /// TCP and TLS connections and DTLS sessions that one source may have at a time: an IPv4
        /// address or an IPv6 /64. 0: as many as there can be.
        Default connections_per_source: Count = "1024", Restart;
        /// TLS and DTLS handshakes of one source, which cost far more than anything else that a
        /// stranger can ask for; ten times as many at once of one that was quiet.
        Default handshakes_per_source: Rate = "\"100/s\"", Restart;
        /// DTLS sessions at a time, with some 70 KiB of memory each.
        Default dtls_sessions: Count = "10000", Restart;
        /// Bytes queued for one TCP client that reads slowly; datagrams beyond it are dropped.
        Default tcp_send_queue: Size = "\"256 KiB\"", Restart;
        /// A TCP connection without an allocation is closed after this time.
        Default tcp_idle_timeout: Span = "\"60s\"", Restart;
        /// While datagrams come so evenly and fast that each would wake a thread, the thread pauses
        /// for at most this long before it looks for more, so that a wake-up serves several. Each
        /// waits for half of it on average then, and for all of it at worst. It saves CPU time from
        /// some 10,000 datagrams per second and thread on; with less traffic nothing is delayed,
        /// with much more hardly anything. `"0us"` turns it off.
        Default wakeup_delay: Delay = "\"120us\"", Restart;
        /// After SIGTERM existing allocations live on for at most this time.
        Default drain_timeout: Span = "\"60s\"", Live;
        /// Everything that is relayed together, in payload bytes and each direction separately;
        /// what is over it is dropped. Without it, or `"unlimited"`: not limited.
        Example bandwidth: Limit<BitRate> = "\"1 Gbit/s\"", Live;
        /// How much of it may pass at once after a pause. Without it: what comes in half a second,
        /// and not less than 65507 B, the longest datagram.
        Example bandwidth_burst: Size = "\"50 MB\"", Live;
    }
}

keys! {
    /// What users may use. Without a key, or with `"unlimited"`, there is no such limit. A user is
    /// an account: the name of a static user, or of a time-limited name what is not the timestamp.
    /// A time-limited name that is the timestamp alone is an account of its own: to hold users to
    /// limits, the application must put a name behind it. Users in the database may have limits of their own instead (`turnway user limit`).
    Table "quota" RawQuota {
        /// Allocations of one user at a time; further ones are answered with 486.
        Example allocations_per_user: Limit<Count> = "10", Live;
        /// Allocations of the realm at a time, all users together.
        Example allocations_per_realm: Limit<Count> = "5000", Live;
        /// Allocations at a time of clients that share an address, as `ipv4_prefix` and
        /// `ipv6_prefix` say, whoever the users are.
        Example allocations_per_prefix: Limit<Count> = "100", Live;
        /// How many leading bits of an IPv4 address make one client, 1 to 32.
        Default ipv4_prefix: Count = "32", Live;
        /// The same of an IPv6 address, 1 to 128. Providers give each customer a /64 or more.
        Default ipv6_prefix: Count = "64", Live;
        /// Each allocation alone, in payload bytes and each direction separately; what is over it
        /// is dropped. `"10 Mbit/s"` is the same as `"1.25 MB/s"`. A new allocation begins with a
        /// full burst; what holds a person is `bandwidth_per_user`.
        Example bandwidth_per_allocation: Limit<BitRate> = "\"5 Mbit/s\"", Live;
        /// All allocations of one user together.
        Example bandwidth_per_user: Limit<BitRate> = "\"10 Mbit/s\"", Live;
        /// All users of the realm together.
        Example bandwidth_per_realm: Limit<BitRate> = "\"500 Mbit/s\"", Live;
        /// How much of `bandwidth_per_allocation` may pass at once after a pause. Without it: what
        /// comes in half a second, and not less than 65507 B, the longest datagram.
        Example burst_per_allocation: Size = "\"500 kB\"", Live;
        /// The same of `bandwidth_per_user`.
        Example burst_per_user: Size = "\"1 MB\"", Live;
        /// The same of `bandwidth_per_realm`.
        Example burst_per_realm: Size = "\"50 MB\"", Live;
        /// Payload bytes of both directions together that one user may relay in a day (`"/day"`)
        /// or a calendar month (`"/month"`), or both: `["2 GB/day", "50 GB/month"]`. Needs
        /// `database` in `[auth]`, where it is kept.
        Example volume_per_user: Limit<Volumes> = "\"50 GB/month\"", Live;
        /// Where days and months begin: a name of the IANA database such as `"Europe/Berlin"`.
        Default time_zone: Zone = "\"UTC\"", Live;
        => realm: Vec<Spanned<RawQuotaRealm>>;
    }
}

keys! {
    /// Limits of one realm, which hold instead of those of `[quota]`; a key that is absent here
    /// holds as it stands there. `"unlimited"` lifts a limit.
    OptionalArray "quota.realm" RawQuotaRealm {
        /// The realm, as `realm` at the top or `name` in `[[realms]]` has it.
        Required name: String = "\"turnway\"", Live;
        /// Allocations of one user at a time.
        Example allocations_per_user: Limit<Count> = "20", Live;
        /// Allocations of the realm at a time.
        Example allocations_per_realm: Limit<Count> = "\"unlimited\"", Live;
        /// Each allocation alone.
        Example bandwidth_per_allocation: Limit<BitRate> = "\"10 Mbit/s\"", Live;
        /// All allocations of one user together.
        Example bandwidth_per_user: Limit<BitRate> = "\"20 Mbit/s\"", Live;
        /// The whole realm.
        Example bandwidth_per_realm: Limit<BitRate> = "\"800 Mbit/s\"", Live;
        /// How much may pass at once after a pause: of one allocation.
        Example burst_per_allocation: Size = "\"1 MB\"", Live;
        /// Of one user.
        Example burst_per_user: Size = "\"2 MB\"", Live;
        /// Of the realm.
        Example burst_per_realm: Size = "\"50 MB\"", Live;
        /// What one user may relay in a day, in a month, or both.
        Example volume_per_user: Limit<Volumes> = "[\"2 GB/day\", \"50 GB/month\"]", Live;
    }
}

keys! {
    /// Relaying in the kernel (XDP): the channels of UDP clients, several times cheaper than in user
    /// space. It sees packets before nftables, conntrack, tc and tcpdump do; `docs/offload.md` says
    /// what that means and what it needs.
    Table "offload" RawOffload {
        /// `"auto"`: in the driver where that works, else in the kernel's receive path; not on an
        /// interface where that would bypass rules or queueing disciplines, and not without the
        /// capabilities for it: one line of the log says what became of it. `"native"`: in the
        /// driver or not at all, whatever it bypasses. `"generic"`: in the receive path, whatever it
        /// bypasses. `"off"`: user space relays everything.
        Default mode: OffloadMode = "\"auto\"", Restart;
        /// Network interfaces to do it on. Empty: those that have an address of `[[listen]]` or
        /// `[relay]`, all if one of these is a wildcard.
        Default interfaces: Vec<String> = "[]", Restart;
        /// Channels in the kernel at a time, 1 to 1000000; user space relays further ones. Each
        /// reserves 200 bytes of kernel memory and takes about 400 more while it lives.
        Default max_channels: Count = "65536", Restart;
    }
}

keys! {
    /// TLS and DTLS: listeners with `transport` `"tls"`, `"dtls"` and `"auto"`. Certificates are
    /// looked at every second and at SIGHUP; new ones hold for new connections, and end none.
    Table "tls" RawTls {
        /// The oldest version that clients may speak: `"1.2"` or `"1.3"`. TLS 1.0 and 1.1 are never
        /// spoken.
        Default min_version: TlsVersion = "\"1.2\"", Live;
        /// Whether clients must show a certificate: `"off"`, `"optional"` (one that is shown must
        /// be good), or `"required"`. It is asked for beside the credentials of TURN, not instead.
        Default client_certificates: ClientCertificates = "\"off\"", Live;
        /// A PEM file with the authorities that sign clients' certificates.
        Example client_ca: PathBuf = "\"/etc/turnway/clients.pem\"", Live;
        /// A connection whose handshake is not complete after this time is closed.
        Default handshake_timeout: Span = "\"10s\"", Restart;
        => certificate: Vec<Spanned<RawCertificate>>;
    }
}

keys! {
    /// A certificate. With several, a client gets the one for the name it asks for (SNI), or else
    /// with a wildcard for it, or else the first. For one name there may be one with an RSA and
    /// one with an ECDSA key.
    OptionalArray "tls.certificate" RawCertificate {
        /// A PEM file: the server's certificate first, then those that lead to the authority. A
        /// relative path starts at the directory of this file; links are followed.
        Required certificate: PathBuf = "\"/etc/letsencrypt/live/turn.example.org/fullchain.pem\"", Live;
        /// A PEM file with the private key that belongs to it, without a password.
        Required key: PathBuf = "\"/etc/letsencrypt/live/turn.example.org/privkey.pem\"", Live;
    }
}

keys! {
    /// Prometheus metrics at `/metrics`, health at `/livez` and `/readyz`.
    Table "metrics" RawMetrics {
        /// Address and port. Without it: off.
        Example listen: String = "\"127.0.0.1:9641\"", Restart;
    }
}

keys! {
    /// The admin API: users, what they use, sessions and how to end them. `turnway status`,
    /// `sessions` and `kill` speak to it.
    Table "admin" RawAdmin {
        /// Address and port, or `unix:` and the path of a socket, which starts at the directory of
        /// this file if it is relative: `"unix:/run/turnway/admin.sock"`. Without it: off.
        Example listen: String = "\"127.0.0.1:9642\"", Restart;
        /// What a client of the API must show (`Authorization: Bearer …`); at least 16 characters
        /// from a random source. An address and port need one; a `unix:` socket may do without.
        Example token: Secret = "\"at-least-16-characters-from-a-random-source\"", Live;
        /// A file with the token, instead of `token`.
        Example token_file: PathBuf = "\"/run/secrets/admin-token\"", Live;
    }
}

keys! {
    /// Log lines, on standard output.
    Table "log" RawLog {
        /// `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"`.
        Default level: LogLevel = "\"info\"", Live;
        /// `"text"` or `"json"`.
        Default format: LogFormat = "\"text\"", Restart;
    }
}

/// The volumes of a user: `"50 GB/month"`, or several in a list.
#[derive(Debug, Clone)]
pub(super) struct Volumes(pub(super) Vec<Volume>);

impl<'de> Deserialize<'de> for Limit<Volumes> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VolumesVisitor)
    }
}

struct VolumesVisitor;

impl<'de> serde::de::Visitor<'de> for VolumesVisitor {
    type Value = Limit<Volumes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a volume in quotes, such as \"50 GB/month\", or a list of them")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match text.parse::<Limit<Volume>>().map_err(E::custom)? {
            Limit::Unlimited => Ok(Limit::Unlimited),
            Limit::To(volume) => Ok(Limit::To(Volumes(vec![volume]))),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut volumes = Vec::new();
        while let Some(volume) = list.next_element()? {
            volumes.push(volume);
        }
        Ok(Limit::To(Volumes(volumes)))
    }
}

/// An entry of `[relay] addresses`.
#[derive(Debug, Clone)]
pub(super) enum RawRelayAddress {
    /// `"203.0.113.7"`
    Plain(String),
    /// `{ local = "10.0.0.5", external = "203.0.113.7" }`
    Pair(RawRelayPair),
}

impl<'de> Deserialize<'de> for RawRelayAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RelayAddressVisitor)
    }
}

/// By hand, because serde's untagged enums lose the spans and say nothing useful.
struct RelayAddressVisitor;

impl<'de> serde::de::Visitor<'de> for RelayAddressVisitor {
    type Value = RawRelayAddress;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address in quotes or { local = \"10.0.0.5\", external = \"203.0.113.7\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawRelayAddress, E> {
        Ok(RawRelayAddress::Plain(text.to_owned()))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let map = serde::de::value::MapAccessDeserializer::new(map);
        RawRelayPair::deserialize(map).map(RawRelayAddress::Pair)
    }
}

from_text!(Transport, "\"udp\", \"tcp\", \"tls\", \"dtls\" or \"auto\"");
from_text!(TlsVersion, "\"1.2\" or \"1.3\"");
from_text!(ClientCertificates, "\"off\", \"optional\" or \"required\"");
from_text!(OffloadMode, "\"auto\", \"native\", \"generic\" or \"off\"");
from_text!(OAuthAlgorithm, "\"A256GCM\" or \"A128GCM\"");
from_text!(AlternateWhen, "\"always\" or \"busy\"");
from_text!(LogLevel, "a log level in quotes, such as \"info\"");
from_text!(LogFormat, "\"text\" or \"json\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_readable() {
        let raw = RawConfig::default();
        assert_eq!(raw.realm.get_ref(), "turnway");
        assert_eq!(raw.limits.socket_buffer.get_ref().0, 4 << 20);
        RawUser::default();
        RawListen::default();
        RawCertificate::default();
        RawRelayPair::default();
        assert_eq!(raw.nat_discovery.ports.get_ref(), &[3478, 3479]);
        RawQuotaRealm::default();
        RawOAuthKey::default();
        RawRealm::default();
        RawAlternateServer::default();
    }

    #[test]
    fn every_key_says_what_it_is() {
        for table in TABLES {
            assert!(!table.about.is_empty(), "[{}]", table.path);
            for key in table.keys {
                assert!(!key.docs.is_empty(), "[{}] {}", table.path, key.name);
            }
        }
    }
}
