//! What is under test: the servers of all shards, what they share, and the port pool. It outlives
//! a simulated day, so that two days can be compared.

use std::sync::Arc;

use turnway_relay::Tickets;
use turnway_relay::auth::{Auth, AuthConfig, StaticUser, UserCredential};
use turnway_relay::limits::Limits;
use turnway_relay::policy::{Policy, PolicyConfig};
use turnway_relay::ports::PortPool;
use turnway_relay::shared::{AllocationCount, LivePorts, SourceLimiter};
use turnway_relay::{Config, Ledger, Quotas, Realm, Realms, Seed, Server, Shared, Stats};

use crate::plan::{FIRST_PORT, LISTENER_PORT, OWN, OWN_EXTERNAL, PORTS, REALM, SHARDS};
use crate::rng::Rng;

pub(crate) const STATIC_USERS: u64 = 50;
pub(crate) const REST_SECRETS: [&[u8]; 2] = [b"the new secret", b"the old secret"];
/// Short enough that every longer session sees 438.
pub(crate) const NONCE_LIFETIME_S: u32 = 600;

pub(crate) struct Relay {
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: PortPool,
    pub(crate) ledger: Ledger,
    pub(crate) servers: Vec<Server>,
    /// What the simulation counted, to be compared with what the servers say.
    pub(crate) tally: Vec<Stats>,
    /// Whether there are time-limited users; without them USERHASH is offered.
    pub(crate) rest: bool,
}

impl Relay {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5EED);
        let rest = seed % 3 != 2;
        let config = Arc::new(config(rest));
        let shared = Arc::new(Shared {
            live: LivePorts::new(&OWN),
            allocations: AllocationCount::new(4000),
            sources: SourceLimiter::new(4096, 20, 60, rng.word()),
            tickets: Tickets::new([7; 32]),
        });
        let server = |shard: usize| {
            let seed = Seed {
                shard: shard as u16,
                random: rng.word(),
                first_session: (shard as u64) << 48,
            };
            Server::new(Arc::clone(&config), Arc::clone(&shared), seed)
        };
        let servers = (0..SHARDS).map(server).collect();
        Self {
            servers,
            ledger: Ledger::new(Arc::clone(&config.quotas), 0),
            pool: PortPool::new(&OWN, FIRST_PORT..=FIRST_PORT + PORTS - 1),
            tally: vec![Stats::default(); SHARDS],
            config,
            shared,
            rest,
        }
    }
}

pub(crate) fn static_name(index: u64) -> String {
    format!("user{index}")
}

pub(crate) fn static_password(index: u64) -> String {
    format!("password of {index}")
}

pub(crate) fn config(rest: bool) -> Config {
    let user = |index| StaticUser {
        name: static_name(index),
        credential: UserCredential::Password(static_password(index)),
    };
    let secrets = REST_SECRETS.iter().map(|secret| secret.to_vec());
    let auth = Auth::new(AuthConfig {
        id: Default::default(),
        realm: REALM.to_owned(),
        users: (0..STATIC_USERS).map(user).collect(),
        users_elsewhere: false,
        rest_secrets: if rest { secrets.collect() } else { Vec::new() },
        rest_separator: b':',
        nonce_secret: b"a secret of the whole fleet".to_vec(),
        nonce_lifetime_s: NONCE_LIFETIME_S,
        enforce_expiry: true,
        oauth: None,
    });
    let listener = |ip| std::net::SocketAddr::new(ip, LISTENER_PORT);
    Config {
        realms: Realms::new(
            Realm::new(
                auth.expect("valid"),
                Policy::new(PolicyConfig {
                    listeners: OWN.into_iter().map(listener).collect(),
                    own: OWN.to_vec(),
                    relays: OWN.into_iter().zip(OWN_EXTERNAL).collect(),
                    ..PolicyConfig::default()
                }),
            ),
            Vec::new(),
        ),
        limits: Limits::default(),
        alternates: Default::default(),
        quotas: Arc::new(Quotas::default()),
        discovery: None,
        v4: true,
        v6: true,
    }
}
