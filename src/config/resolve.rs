//! From raw values to [`Config`]: what must hold beyond each value's own form.
//!
//! All problems of a file are collected, so that one run of `turnway check` shows them all.
//! `network.rs` has listeners, relay addresses and peers; `auth.rs` has users, secrets and the
//! database; `oauth.rs` has access tokens; `alternate.rs` has other servers; `quota.rs` has limits
//! of users and bandwidth; `realms.rs` has further realms; `admin.rs` has the admin API; `tls.rs`
//! has certificates; `discovery.rs` has NAT behaviour discovery.

mod admin;
mod alternate;
mod auth;
mod discovery;
mod network;
mod oauth;
mod quota;
mod realms;
mod tls;

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

pub use network::private_relay_warning;
pub use oauth::oauth_secret;
pub(super) use tls::unchecked_tls;

use super::raw::{RawConfig, RawLimits, RawOffload};
use super::source::{Problem, Source};
use super::units::{Count, Delay, Size, Span};
use super::{
    Config, ConfigError, Limits, Log, MAX_OFFLOADED_CHANNELS, Metrics, Offload, Places, Warnings,
};

/// The longest realm, in bytes. REALM is the part of a 401 that the operator chooses, and a 401
/// must not be worth reflecting.
pub const MAX_REALM_BYTES: usize = 64;

/// Reads `raw` into a [`Config`]; `problems` are those already found.
pub(super) fn resolve(
    source: &Source<'_>,
    raw: RawConfig,
    problems: Vec<Problem>,
) -> Result<(Config, Warnings), ConfigError> {
    let mut checks = Checks { source, problems, warnings: Vec::new() };
    let realm = checks.realm(&raw.realm);
    let shards = raw.shards.as_ref().map(|shards| checks.shards(shards));
    let mut listen = checks.listeners(&raw.listen);
    let nat_discovery = checks.nat_discovery(&raw.nat_discovery, &mut listen);
    let relay = checks.relay(&raw.relay, &listen);
    checks.warn_if_everybody_reads(&raw.auth, &raw.admin);
    let database = raw.auth.database.as_ref().map(|url| source.place(url.span()));
    let oauth = checks.oauth(raw.oauth, &realm);
    let total = checks.total_bandwidth(&raw.limits);
    let quota = checks.quota(raw.quota.clone(), &realm, total.as_ref(), database.is_some());
    let realms = checks.realms(&raw.realms, &raw.quota, &realm, total.as_ref(), database.is_some());
    let of_listeners = raw.listen.iter().filter_map(|table| table.get_ref().realm.as_ref());
    let of_users = raw.auth.user.iter().filter_map(|table| table.get_ref().realm.as_ref());
    let of_quotas = raw.quota.realm.iter().filter_map(|table| table.get_ref().name.as_ref());
    let named = [of_listeners.collect(), of_users.collect(), of_quotas.collect()];
    checks.named_realms(named, &realm, &realms);
    let auth = checks.auth(raw.auth, oauth.is_some());
    checks.populated(&raw.realms, &realms, &auth);
    let alternates = checks.alternates(raw.alternate, &listen, &relay);
    let peers = checks.peers(&raw.peers);
    let limits = checks.limits(&raw.limits, &relay, total.as_ref());
    let offload = checks.offload(raw.offload);
    let tls = checks.tls(&raw.tls, &listen);
    let metrics = Metrics { listen: checks.metrics(raw.metrics.listen.as_ref(), &listen) };
    let admin = checks.admin(&raw.admin, &listen, metrics.listen);
    let log = Log { level: raw.log.level.into_inner(), format: raw.log.format.into_inner() };
    if !checks.problems.is_empty() {
        return Err(ConfigError::new(checks.problems));
    }
    let places = Places {
        listen: listen.iter().map(|listener| source.place(listener.span())).collect(),
        relay: raw
            .relay
            .addresses
            .iter()
            .flat_map(Spanned::get_ref)
            .map(|entry| source.place(entry.span()))
            .collect(),
        database,
        certificates: raw.tls.certificate.iter().map(|it| source.place(it.span())).collect(),
        client_ca: raw.tls.client_ca.map(|path| source.place(path.span())),
        metrics: raw.metrics.listen.map(|address| source.place(address.span())),
        admin: raw.admin.listen.map(|address| source.place(address.span())),
    };
    let listen = listen.into_iter().map(Spanned::into_inner).collect();
    let config = Config {
        realm,
        listen,
        relay,
        nat_discovery,
        auth,
        oauth,
        realms,
        alternates,
        peers,
        limits,
        quota,
        offload,
        tls,
        metrics,
        admin,
        log,
        shards,
        places,
    };
    Ok((config, checks.warnings))
}

/// The limits as written, without bandwidth; what they must satisfy is in `Checks::limits`.
pub(super) fn unchecked_limits(raw: &RawLimits) -> Limits {
    let bytes = |size: &Spanned<Size>| usize::try_from(size.get_ref().0).unwrap_or(usize::MAX);
    let derived_if_zero = |count: &Spanned<Count>| match count.get_ref().0 {
        0 => None,
        some => Some(some),
    };
    Limits {
        allocations: derived_if_zero(&raw.allocations),
        permissions_per_allocation: raw.permissions_per_allocation.get_ref().0,
        channels_per_allocation: raw.channels_per_allocation.get_ref().0,
        connections_per_allocation: raw.connections_per_allocation.get_ref().0,
        old_channel_numbers: *raw.old_channel_numbers.get_ref(),
        max_lifetime: raw.max_lifetime.get_ref().0,
        unauthenticated_per_source: *raw.unauthenticated_per_source.get_ref(),
        unauthenticated_burst: raw.unauthenticated_burst.get_ref().0,
        icmp_per_allocation: *raw.icmp_per_allocation.get_ref(),
        socket_buffer: bytes(&raw.socket_buffer),
        tcp_connections: derived_if_zero(&raw.tcp_connections),
        connections_per_source: raw.connections_per_source.get_ref().0,
        handshakes_per_source: *raw.handshakes_per_source.get_ref(),
        dtls_sessions: raw.dtls_sessions.get_ref().0,
        tcp_send_queue: bytes(&raw.tcp_send_queue),
        tcp_idle_timeout: raw.tcp_idle_timeout.get_ref().0,
        wakeup_delay: raw.wakeup_delay.get_ref().0,
        drain_timeout: raw.drain_timeout.get_ref().0,
        bandwidth: None,
    }
}

/// What has been found wrong (an error) or doubtful (a warning) so far.
struct Checks<'a> {
    source: &'a Source<'a>,
    problems: Vec<Problem>,
    warnings: Warnings,
}

impl Checks<'_> {
    fn error(&mut self, span: Range<usize>, message: impl Display) {
        self.problems.push(self.source.problem(span, message));
    }

    fn warn(&mut self, span: Range<usize>, message: impl Display) {
        self.warnings.push(self.source.problem(span, message).to_string());
    }

    /// Where a path begins that is relative: the directory of the file.
    fn beside_file(&self, path: &Path) -> PathBuf {
        self.source.path().parent().unwrap_or(Path::new("")).join(path)
    }

    /// An error unless `low <= value <= high`.
    fn between<T>(&mut self, value: &Spanned<T>, low: T, high: T)
    where
        T: PartialOrd + Display,
    {
        let found = value.get_ref();
        if *found < low {
            self.error(value.span(), format!("{found} is too little; the least is {low}"));
        } else if *found > high {
            self.error(value.span(), format!("{found} is too much; the most is {high}"));
        }
    }

    /// Does something whose problems may have been found before.
    fn without_repeating<T>(&mut self, check: impl FnOnce(&mut Self) -> T) -> T {
        let (problems, warnings) = (self.problems.len(), self.warnings.len());
        let checked = check(self);
        let said: Vec<String> = self.problems[..problems].iter().map(ToString::to_string).collect();
        let new = self.problems.split_off(problems);
        self.problems.extend(new.into_iter().filter(|new| !said.contains(&new.to_string())));
        let new = self.warnings.split_off(warnings);
        let said = self.warnings.clone();
        self.warnings.extend(new.into_iter().filter(|new| !said.contains(new)));
        checked
    }

    fn realm(&mut self, realm: &Spanned<String>) -> String {
        let text = realm.get_ref();
        if text.is_empty() {
            self.error(realm.span(), "is empty; write your domain, such as \"example.org\"");
        } else if text.len() > MAX_REALM_BYTES {
            let message = format!(
                "\"{text}\" has {} bytes; the most is {MAX_REALM_BYTES}, so that a 401 is never \
                 more than 3 times as long as the request it answers",
                text.len()
            );
            self.error(realm.span(), message);
        } else if text.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
            self.error(
                realm.span(),
                format!("{text:?} contains quotes, a backslash or control characters; remove them"),
            );
        }
        text.clone()
    }

    fn shards(&mut self, shards: &Spanned<Count>) -> u16 {
        self.between(shards, Count(1), Count(1024));
        u16::try_from(shards.get_ref().0).unwrap_or(u16::MAX)
    }

    fn offload(&mut self, raw: RawOffload) -> Offload {
        self.between(&raw.max_channels, Count(1), Count(MAX_OFFLOADED_CHANNELS));
        for name in raw.interfaces.get_ref() {
            // The kernel's own bound (IFNAMSIZ), and what no name of an interface has.
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
                let message = format!("{name:?} is not the name of an interface, such as \"eth0\"");
                self.error(raw.interfaces.span(), message);
            }
        }
        Offload {
            mode: raw.mode.into_inner(),
            interfaces: raw.interfaces.into_inner(),
            max_channels: raw.max_channels.get_ref().0,
        }
    }

    fn limits(
        &mut self,
        raw: &RawLimits,
        relay: &super::Relay,
        total: Option<&quota::Level>,
    ) -> Limits {
        const MIB: u64 = 1 << 20;
        let seconds = |count| Span(Duration::from_secs(count));
        self.between(&raw.permissions_per_allocation, Count(1), Count(65_536));
        self.between(&raw.channels_per_allocation, Count(1), Count(4_096));
        self.between(&raw.connections_per_allocation, Count(1), Count(1_024));
        self.between(&raw.max_lifetime, seconds(600), seconds(86_400));
        self.between(&raw.unauthenticated_burst, Count(1), Count(u32::MAX));
        self.between(&raw.socket_buffer, Size(64 << 10), Size(1024 * MIB));
        // One frame can have 64 KiB, and a queue that never holds it would never deliver it.
        self.between(&raw.tcp_send_queue, Size(128 << 10), Size(64 * MIB));
        self.between(&raw.dtls_sessions, Count(1), Count(1_000_000));
        self.between(&raw.tcp_idle_timeout, seconds(1), seconds(86_400));
        self.between(&raw.wakeup_delay, Delay(Duration::ZERO), Delay(Duration::from_millis(10)));
        self.between(&raw.drain_timeout, seconds(0), seconds(7 * 86_400));
        let bandwidth = total.map(|total| total.bandwidth);
        let limits = Limits { bandwidth, ..unchecked_limits(raw) };
        let ports = relay.ports.len() * relay.addresses.len();
        if let Some(wanted) = limits.allocations
            && !relay.addresses.is_empty()
            && wanted as usize > ports
        {
            self.warn(
                raw.allocations.span(),
                format!(
                    "{wanted} allocations do not fit into {ports} relay ports; widen [relay] ports"
                ),
            );
        }
        limits
    }
}
