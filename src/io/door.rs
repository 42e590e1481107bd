//! What the shards' doors have in common: who may come in through which, and what is spoken there.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use turnway_relay::RealmId;
use turnway_relay::shared::SourceLimiter;

use super::sources::Sources;
use crate::tls::{Snapshot, Store};

/// What clients of a socket speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// TURN, and nothing around it.
    Plain,
    /// TURN within TLS or DTLS.
    Secured,
    /// Either: the first byte tells (RFC 7983 says that it can).
    Either,
}

/// One listener for connections.
pub struct Door {
    /// What its clients speak, behind a PROXY header where there is one.
    pub speaks: Speaks,
    /// Who begins connections with a PROXY header; nobody else's is believed.
    pub proxies: Vec<IpNet>,
    /// The realm of its clients, unless they say that they are of another.
    pub realm: RealmId,
}

impl Door {
    /// Whether a connection from `ip` begins with a PROXY header.
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = turnway_relay::address::canonical_ip(ip);
        self.proxies.iter().any(|proxies| proxies.contains(&ip))
    }
}

/// All doors, as every shard has its share of each.
pub struct Entrance {
    /// Those for connections, in the order of the configuration.
    pub doors: Vec<Door>,
    /// Certificates; there are some if any door needs them.
    pub store: Option<Arc<Store>>,
    /// How many connections and DTLS sessions each source has.
    pub sources: Arc<Sources>,
    /// How often each source may begin a handshake.
    pub handshakes: SourceLimiter,
}

impl Entrance {
    /// A door by its number.
    pub fn door(&self, index: u16) -> &Door {
        &self.doors[usize::from(index)]
    }

    /// The certificates in force.
    pub fn certificates(&self) -> Arc<Snapshot> {
        self.store.as_ref().expect("a configuration with a secured door has certificates").current()
    }
}
