//! The effective configuration: every key with the value in force, secrets redacted.
//!
//! One list serves `turnway check`, which prints it, and reload, which compares two of them.

use std::fmt::{Display, Write as _};
use std::path::Path;

use turnway_relay::quota::Bandwidth;

use super::raw::{Reload, TABLES};
use super::secret::REDACTED;
use super::units::{BitRate, Delay, Moment, Period, Size, Span, Volume};
use super::{
    Admin, AdminListen, Auth, CertificateFiles, Config, Credential, Limits, Listen, Log,
    NatDiscovery, OAuthKey, OAuthSecret, Quota, Realm, Relay, RelayAddress, Secret, Tls,
};

/// The keys that differ and cannot change while the daemon runs, as dotted names
/// (`limits.socket_buffer`). A reload applies everything else and names these in a warning.
#[must_use]
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let pairs = settings(old).into_iter().zip(settings(new));
    let realms = (!same_realms(old, &new.realms)).then_some("realms");
    let keys = pairs
        .filter(|(before, after)| before.value != after.value)
        .filter(|(before, _)| reload_of(before.key) == Reload::Restart)
        .map(|(before, _)| before.key);
    keys.chain(realms).collect()
}

/// Realms have numbers, which they keep while the daemon runs.
fn same_realms(old: &Config, new: &[Realm]) -> bool {
    old.realms.iter().map(|realm| &realm.name).eq(new.iter().map(|realm| &realm.name))
}

/// What is in force after a reload: `new` where a key is reloaded live, `old` elsewhere.
#[must_use]
pub fn reloaded(old: &Config, new: Config) -> Config {
    let limits = Limits {
        permissions_per_allocation: new.limits.permissions_per_allocation,
        channels_per_allocation: new.limits.channels_per_allocation,
        connections_per_allocation: new.limits.connections_per_allocation,
        old_channel_numbers: new.limits.old_channel_numbers,
        max_lifetime: new.limits.max_lifetime,
        icmp_per_allocation: new.limits.icmp_per_allocation,
        drain_timeout: new.limits.drain_timeout,
        bandwidth: new.limits.bandwidth,
        ..old.limits.clone()
    };
    let mut quota = new.quota;
    if old.auth.database.is_none() {
        // The new file has a database, but we started without, and nothing could keep a volume.
        (quota.user.volume_per_day, quota.user.volume_per_month) = (None, None);
    }
    // A new file without a token may have moved to a Unix socket, but we are still on TCP.
    let token = match (&old.admin.listen, new.admin.token) {
        (Some(AdminListen::Tcp(_)), None) => old.admin.token.clone(),
        (Some(AdminListen::Tcp(_) | AdminListen::Unix(_)) | None, token) => token,
    };
    let mut realms = if same_realms(old, &new.realms) { new.realms } else { old.realms.clone() };
    if old.auth.database.is_none() {
        for realm in &mut realms {
            (realm.user.volume_per_day, realm.user.volume_per_month) = (None, None);
        }
    }
    // Those of a realm that there is after a restart only are nobody's until then.
    let mut auth = Auth { database: old.auth.database.clone(), ..new.auth };
    auth.users.retain(|user| {
        let is_theirs = |name: &String| realms.iter().any(|realm| realm.name == *name);
        user.realm.as_ref().is_none_or(is_theirs)
    });
    Config {
        auth,
        relay: Relay { tcp: new.relay.tcp, mobility: new.relay.mobility, ..old.relay.clone() },
        oauth: new.oauth,
        realms,
        alternates: new.alternates,
        peers: new.peers,
        limits,
        quota,
        tls: Tls { handshake_timeout: old.tls.handshake_timeout, ..new.tls },
        admin: Admin { listen: old.admin.listen.clone(), token },
        log: Log { level: new.log.level, format: old.log.format },
        ..old.clone()
    }
}

impl Config {
    /// The effective configuration as TOML. Secrets are replaced by `[redacted]`; what is derived
    /// at the start is a comment.
    #[must_use]
    pub fn effective(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for Setting { key, value } in settings(self) {
            let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
            if path != table {
                table = path;
                push(&mut out, format_args!("\n[{path}]"));
            }
            match value {
                Value::Set(text) => push(&mut out, format_args!("{name} = {text}")),
                Value::Derived(how) => push(&mut out, format_args!("# {name}: {how}")),
            }
        }
        out
    }
}

/// A key and its value. Lists of tables (`listen`, `auth.user`) are one setting each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) value: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// TOML text.
    Set(String),
    /// Absent, and what that means.
    Derived(&'static str),
}

/// Every setting, table by table; always the same keys in the same order.
pub(super) fn settings(config: &Config) -> Vec<Setting> {
    let mut all = top_level(config);
    all.extend(auth(config));
    all.extend(oauth(config));
    all.extend(alternate(config));
    all.extend(limits(config));
    all.extend(quota(config));
    all.extend([
        set("offload.mode", quoted(&config.offload.mode)),
        set("offload.interfaces", list(config.offload.interfaces.iter().map(quoted))),
        set("offload.max_channels", config.offload.max_channels.to_string()),
    ]);
    all.extend(tls(config));
    all.extend([
        optional("metrics.listen", config.metrics.listen.map(|address| quoted(&address)), "off"),
        optional("admin.listen", config.admin.listen.as_ref().map(quoted), "off"),
        optional("admin.token", config.admin.token.as_ref().map(quoted), "none"),
        set("log.level", quoted(&config.log.level)),
        set("log.format", quoted(&config.log.format)),
    ]);
    all
}

/// When a change of a setting takes effect.
pub(super) fn reload_of(setting: &str) -> Reload {
    let (path, name) = setting.rsplit_once('.').unwrap_or(("", setting));
    let keys = TABLES.iter().filter(|table| table.path == path).flat_map(|table| table.keys);
    let of_list = TABLES.iter().filter(|table| table.path == setting).flat_map(|table| table.keys);
    let mut found = keys.filter(|key| key.name == name).chain(of_list);
    found.next().expect("a test looks up every setting").reload
}

fn top_level(config: &Config) -> Vec<Setting> {
    let Config {
        realm,
        listen,
        relay,
        nat_discovery,
        auth: _,
        oauth: _,
        realms,
        alternates: _,
        peers,
        limits: _,
        quota: _,
        offload: _,
        tls: _,
        metrics: _,
        admin: _,
        log: _,
        shards,
        places: _,
    } = config;
    let listeners = listen.iter().map(listener);
    let addresses = relay.addresses.iter().map(own_address);
    let addresses = (!relay.addresses.is_empty()).then(|| list(addresses));
    let ports = format!("{}-{}", relay.ports.start(), relay.ports.end());
    let (discovery, discovery_ports) = match nat_discovery {
        None => (None, None),
        Some(NatDiscovery { addresses, ports }) => (
            Some(list(addresses.iter().flatten().map(own_address))),
            Some(format!("[{}, {}]", ports[0], ports[1])),
        ),
    };
    vec![
        set("realm", quoted(realm)),
        optional("shards", shards.map(|count| count.to_string()), "one for each usable CPU"),
        set("listen", list(listeners)),
        set("realms", list(realms.iter().map(self::realm))),
        optional("relay.addresses", addresses, "the address of the default route of each family"),
        set("relay.ports", quoted(&ports)),
        set("relay.tcp", relay.tcp.to_string()),
        set("relay.mobility", relay.mobility.to_string()),
        optional("nat_discovery.addresses", discovery, "off"),
        optional("nat_discovery.ports", discovery_ports, "off"),
        set("peers.allow", list(peers.allow.iter().map(quoted))),
        set("peers.deny", list(peers.deny.iter().map(quoted))),
        set("peers.nat64", list(peers.nat64.iter().map(quoted))),
    ]
}

fn own_address(RelayAddress { local, external }: &RelayAddress) -> String {
    if local == external {
        return quoted(local);
    }
    format!("{{ local = {}, external = {} }}", quoted(local), quoted(external))
}

fn listener(listen: &Listen) -> String {
    let Listen { transport, address, proxies, realm } = listen;
    let proxies = match proxies.as_slice() {
        [] => String::new(),
        some => {
            let some: Vec<String> = some.iter().map(quoted).collect();
            format!(", proxy_protocol = [{}]", some.join(", "))
        }
    };
    let (transport, address) = (quoted(transport), quoted(address));
    format!("{{ transport = {transport}, address = {address}{proxies}{} }}", of_realm(realm))
}

fn tls(config: &Config) -> Vec<Setting> {
    let Tls { certificates, min_version, client_certificates, client_ca, handshake_timeout } =
        &config.tls;
    let path = |path: &Path| quoted(&path.display());
    let pairs = certificates.iter().map(|CertificateFiles { certificate, key }| {
        format!("{{ certificate = {}, key = {} }}", path(certificate), path(key))
    });
    vec![
        set("tls.min_version", quoted(min_version)),
        set("tls.client_certificates", quoted(client_certificates)),
        optional("tls.client_ca", client_ca.as_deref().map(path), "none"),
        set("tls.handshake_timeout", quoted(&Span(*handshake_timeout))),
        set("tls.certificate", list(pairs)),
    ]
}

fn auth(config: &Config) -> Vec<Setting> {
    let auth = &config.auth;
    let redacted = |_: &Secret| quoted(&REDACTED);
    let users = auth.users.iter().map(|user| {
        let credential = match user.credential {
            Credential::Password(_) => "password",
            Credential::Md5(_) | Credential::Sha256(_) => "key",
        };
        let (name, realm) = (quoted(&user.name), of_realm(&user.realm));
        format!("{{ name = {name}, {credential} = {}{realm} }}", quoted(&REDACTED))
    });
    let database = auth.database.as_ref().map(|path| quoted(&format!("sqlite:{}", path.display())));
    vec![
        set("auth.rest_secrets", list(auth.rest_secrets.iter().map(redacted))),
        set("auth.rest_separator", quoted(&auth.rest_separator)),
        optional(
            "auth.nonce_secret",
            auth.nonce_secret.as_ref().map(redacted),
            "a random one for each start",
        ),
        set("auth.nonce_lifetime", quoted(&Span(auth.nonce_lifetime))),
        set("auth.enforce_expiry_at_refresh", auth.enforce_expiry_at_refresh.to_string()),
        optional("auth.database", database, "none"),
        set("auth.user", list(users)),
    ]
}

fn oauth(config: &Config) -> Vec<Setting> {
    let oauth = config.oauth.as_ref();
    let name = oauth.map(|oauth| quoted(&oauth.server_name));
    let skew = oauth.map(|oauth| quoted(&Span(oauth.clock_skew)));
    let keys = oauth.map(|oauth| oauth.keys.as_slice()).unwrap_or_default().iter();
    vec![
        optional("oauth.server_name", name, "there are no keys"),
        optional("oauth.clock_skew", skew, "there are no keys"),
        set("oauth.key", list(keys.map(oauth_key))),
    ]
}

fn oauth_key(key: &OAuthKey) -> String {
    let algorithm = match key.secret {
        OAuthSecret::A128Gcm(_) => "A128GCM",
        OAuthSecret::A256Gcm(_) => "A256GCM",
    };
    let moment = |name, unix_s: Option<u64>| match unix_s {
        Some(unix_s) => format!(", {name} = {}", quoted(&Moment::from_unix_s(unix_s))),
        None => String::new(),
    };
    format!(
        "{{ kid = {}, key = {}, algorithm = \"{algorithm}\"{}{} }}",
        quoted(&key.kid),
        quoted(&REDACTED),
        moment("not_before", key.not_before_unix),
        moment("not_after", key.not_after_unix)
    )
}

fn of_realm(realm: &Option<String>) -> String {
    realm.as_ref().map_or_else(String::new, |realm| format!(", realm = {}", quoted(realm)))
}

fn realm(realm: &Realm) -> String {
    let texts = |texts: &[String]| texts.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let secrets: Vec<_> = realm.rest_secrets.iter().map(|_| quoted(&REDACTED)).collect();
    format!(
        "{{ name = {}, origins = [{}], server_names = [{}], rest_secrets = [{}], allow = [{}], \
         deny = [{}] }}",
        quoted(&realm.name),
        texts(&realm.origins),
        texts(&realm.server_names),
        secrets.join(", "),
        nets(&realm.allow),
        nets(&realm.deny)
    )
}

fn alternate(config: &Config) -> Vec<Setting> {
    let servers = config.alternates.servers.iter().map(|server| {
        let addresses: Vec<String> = server.addresses.iter().map(quoted).collect();
        let transports: Vec<String> = server.transports.iter().map(quoted).collect();
        let domain = server.domain.as_ref();
        let domain = domain.map(|domain| format!(", domain = {}", quoted(domain)));
        format!(
            "{{ addresses = [{}], transports = [{}]{} }}",
            addresses.join(", "),
            transports.join(", "),
            domain.unwrap_or_default()
        )
    });
    vec![
        set("alternate.when", quoted(&config.alternates.when)),
        set("alternate.server", list(servers)),
    ]
}

fn limits(config: &Config) -> Vec<Setting> {
    let limits = &config.limits;
    let size = |bytes: usize| quoted(&Size(bytes as u64));
    let mut all = vec![
        optional(
            "limits.allocations",
            limits.allocations.map(|count| count.to_string()),
            "from the descriptor limit and the relay ports",
        ),
        set("limits.permissions_per_allocation", limits.permissions_per_allocation.to_string()),
        set("limits.channels_per_allocation", limits.channels_per_allocation.to_string()),
        set("limits.connections_per_allocation", limits.connections_per_allocation.to_string()),
        set("limits.old_channel_numbers", limits.old_channel_numbers.to_string()),
        set("limits.max_lifetime", quoted(&Span(limits.max_lifetime))),
        set("limits.unauthenticated_per_source", quoted(&limits.unauthenticated_per_source)),
        set("limits.unauthenticated_burst", limits.unauthenticated_burst.to_string()),
        set("limits.icmp_per_allocation", quoted(&limits.icmp_per_allocation)),
        set("limits.socket_buffer", size(limits.socket_buffer)),
        optional(
            "limits.tcp_connections",
            limits.tcp_connections.map(|count| count.to_string()),
            "from the descriptor limit",
        ),
        set("limits.connections_per_source", limits.connections_per_source.to_string()),
        set("limits.handshakes_per_source", quoted(&limits.handshakes_per_source)),
        set("limits.dtls_sessions", limits.dtls_sessions.to_string()),
        set("limits.tcp_send_queue", size(limits.tcp_send_queue)),
        set("limits.tcp_idle_timeout", quoted(&Span(limits.tcp_idle_timeout))),
        set("limits.wakeup_delay", quoted(&Delay(limits.wakeup_delay))),
        set("limits.drain_timeout", quoted(&Span(limits.drain_timeout))),
    ];
    all.extend(bandwidth("limits.bandwidth", "limits.bandwidth_burst", limits.bandwidth));
    all
}

/// What holds for our realm, whether `[quota]` or `[[quota.realm]]` says so.
fn quota(config: &Config) -> Vec<Setting> {
    let Quota { user, realm_allocations, realm_bandwidth, prefix, time_zone } = &config.quota;
    let count = |key, count: Option<u32>| optional(key, count.map(|it| it.to_string()), UNLIMITED);
    let mut all = vec![
        count("quota.allocations_per_user", user.allocations),
        count("quota.allocations_per_realm", *realm_allocations),
        count("quota.allocations_per_prefix", prefix.allocations),
        set("quota.ipv4_prefix", prefix.v4_bits.to_string()),
        set("quota.ipv6_prefix", prefix.v6_bits.to_string()),
    ];
    for (rate, burst, limit) in [
        (
            "quota.bandwidth_per_allocation",
            "quota.burst_per_allocation",
            user.bandwidth_per_allocation,
        ),
        ("quota.bandwidth_per_user", "quota.burst_per_user", user.bandwidth),
        ("quota.bandwidth_per_realm", "quota.burst_per_realm", *realm_bandwidth),
    ] {
        all.extend(bandwidth(rate, burst, limit));
    }
    let volume = |bytes: Option<u64>, period| bytes.map(|bytes| quoted(&Volume { bytes, period }));
    let day = volume(user.volume_per_day, Period::Day);
    let month = volume(user.volume_per_month, Period::Month);
    let volumes: Vec<String> = day.into_iter().chain(month).collect();
    let volumes = (!volumes.is_empty()).then(|| list(volumes.into_iter()));
    all.push(optional("quota.volume_per_user", volumes, UNLIMITED));
    let zone = time_zone.iana_name().expect("only zones with a name are accepted");
    all.push(set("quota.time_zone", quoted(&zone)));
    all
}

fn bandwidth(rate: &'static str, burst: &'static str, limit: Option<Bandwidth>) -> [Setting; 2] {
    let shown = |Bandwidth { bytes_per_second, .. }| quoted(&BitRate { bytes_per_second });
    let burst_bytes = limit.map(|limit| quoted(&Size(limit.burst_bytes)));
    [optional(rate, limit.map(shown), UNLIMITED), optional(burst, burst_bytes, UNLIMITED)]
}

const UNLIMITED: &str = "not limited";

fn set(key: &'static str, text: String) -> Setting {
    Setting { key, value: Value::Set(text) }
}

fn optional(key: &'static str, text: Option<String>, otherwise: &'static str) -> Setting {
    Setting { key, value: text.map_or(Value::Derived(otherwise), Value::Set) }
}

fn quoted(value: &impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

/// A TOML array; one entry on a line where there are several.
fn list(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    match entries.as_slice() {
        [] => "[]".to_owned(),
        [one] => format!("[{one}]"),
        many => format!("[\n  {},\n]", many.join(",\n  ")),
    }
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("writing to a string cannot fail");
}
