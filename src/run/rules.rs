//! From the configuration to the rules of `turnway-relay`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use turnway_relay::alternate::{Selection, When};
use turnway_relay::auth::{
    Auth, AuthConfig, OAuthConfig, OAuthKey, OAuthSecret, StaticUser, UserCredential, opaque_string,
};
use turnway_relay::discovery::{Discovery, DiscoveryAddress};
use turnway_relay::limits::Limits;
use turnway_relay::policy::{Policy, PolicyConfig};
use turnway_relay::quota::{Quotas, RealmQuotas, account};
use turnway_relay::{Realm, RealmId, Realms};
use zeroize::Zeroizing;

use super::ServeError;
use crate::config::{
    self, AdminListen, AlternateWhen, Config, Credential, NatDiscovery, RelayAddress,
};
use crate::database::{Overrides, UserRow};
use crate::ports::RelayAddrs;

/// What outlives reloads.
pub(super) struct Context {
    pub(super) relays: Vec<RelayAddrs>,
    pub(super) nonce_secret: NonceSecret,
}

/// Signs nonces where none is configured. A reload keeps it, so that no nonce goes stale.
pub(super) struct NonceSecret(Zeroizing<[u8; 32]>);

impl NonceSecret {
    pub(super) fn random() -> Result<Self, ServeError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(|error| {
            ServeError::Runtime(format!("the system has no randomness: {error}"))
        })?;
        Ok(Self(secret))
    }
}

/// The rules that a configuration means, with the users of the database.
pub(super) fn build(
    config: &Config,
    context: &Context,
    own: &[IpAddr],
    users: &[UserRow],
) -> Result<turnway_relay::Config, String> {
    let limits = &config.limits;
    let mut realms = Vec::new();
    for (number, realm) in (1..).zip(&config.realms) {
        let auth = auth_of(config, RealmId(number), Some(realm), users, context)?;
        realms.push(Realm {
            auth,
            policy: Policy::new(policy(config, Some(realm), &context.relays, own)),
            origins: realm.origins.clone(),
            server_names: realm.server_names.clone(),
        });
    }
    let first = auth_of(config, RealmId::FIRST, None, users, context)?;
    let first = Realm::new(first, Policy::new(policy(config, None, &context.relays, own)));
    Ok(turnway_relay::Config {
        realms: Realms::new(first, realms),
        alternates: alternates(config, own),
        limits: Limits {
            permissions_per_allocation: limits.permissions_per_allocation as usize,
            channels_per_allocation: limits.channels_per_allocation as usize,
            tcp_allocations: config.relay.tcp,
            mobility: config.relay.mobility,
            connections_per_allocation: limits.connections_per_allocation as usize,
            old_channel_numbers: limits.old_channel_numbers,
            max_lifetime_s: u32::try_from(limits.max_lifetime.as_secs()).unwrap_or(u32::MAX),
            icmp_per_second: limits.icmp_per_allocation.per_second,
        },
        quotas: Arc::new(quotas(config, users)),
        discovery: config.nat_discovery.as_ref().map(discovery),
        v4: context.relays.iter().any(|relay| relay.local.is_ipv4()),
        v6: context.relays.iter().any(|relay| relay.local.is_ipv6()),
    })
}

/// The number of a realm by its name, if there is one of that name; without a name it is the first.
pub(super) fn realm_id(config: &Config, name: Option<&str>) -> Option<RealmId> {
    let Some(name) = name else { return Some(RealmId::FIRST) };
    let place = config.realms.iter().position(|realm| realm.name == name)?;
    u16::try_from(place + 1).ok().map(RealmId)
}

fn auth_of(
    config: &Config,
    id: RealmId,
    realm: Option<&config::Realm>,
    rows: &[UserRow],
    context: &Context,
) -> Result<Auth, String> {
    Auth::new(auth(config, id, realm, rows, &context.nonce_secret)).map_err(|error| match realm {
        None => format!("[auth]: {error}"),
        Some(realm) => format!("[[realms]] \"{}\": {error}", realm.name),
    })
}

/// Who may use a realm; `None` is the first.
fn auth(
    config: &Config,
    id: RealmId,
    realm: Option<&config::Realm>,
    rows: &[UserRow],
    nonce_secret: &NonceSecret,
) -> AuthConfig {
    let auth = &config.auth;
    let nonce_secret = auth
        .nonce_secret
        .as_ref()
        .map_or_else(|| nonce_secret.0.to_vec(), |secret| secret.expose().as_bytes().to_vec());
    let credential = |credential: &Credential| match credential {
        Credential::Password(password) => UserCredential::Password(password.expose().clone()),
        Credential::Md5(key) => UserCredential::Md5Key(*key.expose()),
        Credential::Sha256(key) => UserCredential::Sha256Key(*key.expose()),
    };
    let members =
        auth.users.iter().filter(|user| realm_id(config, user.realm.as_deref()) == Some(id));
    let configured = members.map(|user| StaticUser {
        name: user.name.clone(),
        credential: credential(&user.credential),
    });
    let rest_secrets = realm.map_or(&auth.rest_secrets, |realm| &realm.rest_secrets);
    AuthConfig {
        id,
        realm: realm.map_or(&config.realm, |realm| &realm.name).clone(),
        users: configured.chain(from_database(config, id, rows)).collect(),
        users_elsewhere: auth.database.is_some(),
        rest_secrets: rest_secrets
            .iter()
            .map(|secret| secret.expose().as_bytes().to_vec())
            .collect(),
        rest_separator: u8::try_from(auth.rest_separator).unwrap_or(b':'),
        nonce_secret,
        nonce_lifetime_s: u32::try_from(auth.nonce_lifetime.as_secs()).unwrap_or(u32::MAX),
        enforce_expiry: auth.enforce_expiry_at_refresh,
        oauth: config.oauth.as_ref().filter(|_| realm.is_none()).map(oauth),
    }
}

fn oauth(oauth: &config::OAuth) -> OAuthConfig {
    let key = |key: &config::OAuthKey| OAuthKey {
        kid: key.kid.clone(),
        secret: match &key.secret {
            config::OAuthSecret::A128Gcm(key) => OAuthSecret::A128Gcm((*key.expose()).into()),
            config::OAuthSecret::A256Gcm(key) => OAuthSecret::A256Gcm((*key.expose()).into()),
        },
        not_before_unix: key.not_before_unix,
        not_after_unix: key.not_after_unix,
    };
    OAuthConfig {
        server_name: oauth.server_name.clone(),
        clock_skew_s: u32::try_from(oauth.clock_skew.as_secs()).unwrap_or(u32::MAX),
        keys: oauth.keys.iter().map(key).collect(),
    }
}

/// Without those that this machine turned out to be itself.
fn alternates(config: &Config, own: &[IpAddr]) -> Selection {
    let when = match config.alternates.when {
        AlternateWhen::Always => When::Always,
        AlternateWhen::Busy => When::Busy,
    };
    let external: Vec<IpAddr> = config.relay.addresses.iter().map(|it| it.external).collect();
    let is_ours = |address: &SocketAddr| {
        let mut listeners = config.listen.iter();
        // Behind 1:1 NAT clients know us by the external address.
        (own.contains(&address.ip()) || external.contains(&address.ip()))
            && listeners.any(|listener| listener.address.port() == address.port())
    };
    let servers = config.alternates.servers.iter();
    let others = servers.filter(|server| !server.addresses.iter().any(is_ours));
    Selection::new(when, others.cloned().collect())
}

fn discovery(config: &NatDiscovery) -> Discovery {
    let seen = |address: RelayAddress| DiscoveryAddress {
        local: address.local,
        external: address.external,
    };
    Discovery {
        addresses: config.addresses.iter().map(|pair| pair.map(seen)).collect(),
        ports: config.ports,
    }
}

fn policy(
    config: &Config,
    realm: Option<&config::Realm>,
    relays: &[RelayAddrs],
    own: &[IpAddr],
) -> PolicyConfig {
    let with = |ours: &[IpNet], of_realm: Option<&Vec<IpNet>>| {
        ours.iter().chain(of_realm.into_iter().flatten()).copied().collect()
    };
    let mut listeners: Vec<SocketAddr> =
        config.listen.iter().map(|listen| listen.address).collect();
    listeners.extend(config.metrics.listen);
    if let Some(AdminListen::Tcp(address)) = &config.admin.listen {
        listeners.push(*address);
    }
    PolicyConfig {
        allow: with(&config.peers.allow, realm.map(|realm| &realm.allow)),
        deny: with(&config.peers.deny, realm.map(|realm| &realm.deny)),
        nat64: config.peers.nat64.clone(),
        listeners,
        own: own.to_vec(),
        relays: relays.iter().map(|relay| (relay.local, relay.external)).collect(),
    }
}

/// The users of the database that have a password. One whom the configuration names as well has
/// the password that stands there. A name that no client could send, which only another program
/// can have put there, is nobody's.
fn from_database<'a>(
    config: &'a Config,
    id: RealmId,
    rows: &'a [UserRow],
) -> impl Iterator<Item = StaticUser> + 'a {
    let members =
        config.auth.users.iter().filter(|user| realm_id(config, user.realm.as_deref()) == Some(id));
    let configured: BTreeSet<Vec<u8>> = members.filter_map(|user| prepared(&user.name)).collect();
    let rows = rows.iter().filter(move |row| RealmId(row.realm) == id);
    rows.filter(move |row| !configured.contains(&row.name)).filter_map(|row| {
        let name = String::from_utf8(row.name.clone()).ok()?;
        prepared(&name).filter(|prepared| *prepared == row.name)?;
        let credential = match (&row.md5, &row.sha256) {
            (Some(md5), Some(sha256)) => UserCredential::Keys { md5: **md5, sha256: **sha256 },
            (Some(md5), None) => UserCredential::Md5Key(**md5),
            (None, Some(sha256)) => UserCredential::Sha256Key(**sha256),
            (None, None) => return None,
        };
        Some(StaticUser { name, credential })
    })
}

fn prepared(name: &str) -> Option<Vec<u8>> {
    opaque_string(name.as_bytes()).map(|name| name.into_owned().into_bytes())
}

fn quotas(config: &Config, rows: &[UserRow]) -> Quotas {
    let quota = &config.quota;
    let limited = rows.iter().filter(|row| row.overrides != Overrides::default());
    Quotas {
        default: quota.user,
        users: limited
            .map(|row| {
                let realm = config.realms.get(usize::from(row.realm).wrapping_sub(1));
                let limits = row.overrides.over(realm.map_or(&quota.user, |realm| &realm.user));
                (
                    account(&row.name, realm.and_then(|realm| prepared(&realm.name)).as_deref()),
                    limits,
                )
            })
            .collect(),
        realm_allocations: quota.realm_allocations,
        realm_bandwidth: quota.realm_bandwidth,
        others: config.realms.iter().map(realm_quotas).collect(),
        total_bandwidth: config.limits.bandwidth,
        prefix: quota.prefix,
        count_volume: config.auth.database.is_some(),
        watched: config.admin.listen.is_some(),
    }
}

fn realm_quotas(realm: &config::Realm) -> RealmQuotas {
    RealmQuotas {
        name: prepared(&realm.name).unwrap_or_default().into(),
        default: realm.user,
        allocations: realm.allocations,
        bandwidth: realm.bandwidth,
    }
}
