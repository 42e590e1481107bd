//! What users may use: limits, and who they are counted for.
//!
//! Limits are plain data here: what is used of them is added up elsewhere.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::address::RealmId;

/// A rate of payload bytes, and how many may pass at once. Each direction has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Payload bytes per second; at least 1.
    pub bytes_per_second: u64,
    /// Payload bytes that may pass at once after a pause; at least [`MIN_BURST_BYTES`].
    pub burst_bytes: u64,
}

/// No burst is smaller: a usual datagram would never pass.
pub const MIN_BURST_BYTES: u64 = 1_500;

/// The most payload one datagram can have. A smaller burst never lets it pass.
pub const DATAGRAM_BYTES: u64 = 65_507;

impl Bandwidth {
    /// A rate with the burst it has unless another is configured: what half a second brings, and
    /// never less than one datagram of any size.
    pub fn with_default_burst(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, burst_bytes: (bytes_per_second / 2).max(DATAGRAM_BYTES) }
    }
}

/// What one user may use, all allocations together. `None`: as much as there is.
///
/// A user is an account: the name of a static user, or of a time-limited name the part that is
/// not the timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// Allocations at a time.
    pub allocations: Option<u32>,
    /// All of the user's allocations together, each direction.
    pub bandwidth: Option<Bandwidth>,
    /// Each allocation alone, each direction.
    pub bandwidth_per_allocation: Option<Bandwidth>,
    /// Payload bytes of both directions in one day.
    pub volume_per_day: Option<u64>,
    /// Payload bytes of both directions in one calendar month.
    pub volume_per_month: Option<u64>,
}

/// Concurrent allocations of clients that share an address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// Allocations at a time. `None`: not limited.
    pub allocations: Option<u32>,
    /// Leading bits of an IPv4 address that make one client, 1 to 32.
    pub v4_bits: u8,
    /// The same of an IPv6 address, 1 to 128.
    pub v6_bits: u8,
}

impl Default for PrefixLimit {
    fn default() -> Self {
        Self { allocations: None, v4_bits: 32, v6_bits: 64 }
    }
}

impl PrefixLimit {
    /// The first address of the prefix that `ip` belongs to.
    pub fn prefix_of(&self, ip: IpAddr) -> IpAddr {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4_bits.min(32)));
                IpAddr::V4((ip.to_bits() & mask.unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6_bits.min(128)));
                IpAddr::V6((ip.to_bits() & mask.unwrap_or(0)).into())
            }
        }
    }
}

/// Whom something is counted for: a user's name, of one realm. A name has no NUL in it (OpaqueString
/// allows none); behind one stands the realm, unless it is the first. Read it with [`split`].
pub fn account(name: &[u8], realm: Option<&[u8]>) -> Arc<[u8]> {
    match realm {
        None => Arc::from(name),
        Some(realm) => Arc::from([name, &[0], realm].concat()),
    }
}

/// The name that an account was made of, and its realm if that is not the first.
pub fn split(account: &[u8]) -> (&[u8], Option<&[u8]>) {
    match account.iter().position(|byte| *byte == 0) {
        None => (account, None),
        Some(nul) => (&account[..nul], Some(&account[nul + 1..])),
    }
}

/// What the users of one more realm may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RealmQuotas {
    /// Its name.
    pub name: Arc<[u8]>,
    /// For users that [`Quotas::users`] does not name.
    pub default: UserLimits,
    /// Allocations of the realm at a time.
    pub allocations: Option<u32>,
    /// The whole realm, each direction.
    pub bandwidth: Option<Bandwidth>,
}

/// Every limit of the realms and their users. Replaced as a whole when the configuration or the table
/// of users changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// For users of the first realm that `users` does not name.
    pub default: UserLimits,
    /// Users with limits of their own, complete: nothing is taken from `default` any more. The
    /// keys are accounts, of names that have been through OpaqueString.
    pub users: BTreeMap<Arc<[u8]>, UserLimits>,
    /// Allocations of the first realm at a time.
    pub realm_allocations: Option<u32>,
    /// The whole first realm, each direction.
    pub realm_bandwidth: Option<Bandwidth>,
    /// The other realms, in the order of their numbers.
    pub others: Vec<RealmQuotas>,
    /// The whole server, each direction.
    pub total_bandwidth: Option<Bandwidth>,
    /// Allocations per client address prefix.
    pub prefix: PrefixLimit,
    /// Whether the volume of every user is counted, limited or not.
    pub count_volume: bool,
    /// Whether somebody looks at what users relay, limited or not.
    pub watched: bool,
}

impl Quotas {
    /// What a user may use.
    pub fn of(&self, account: &[u8]) -> &UserLimits {
        self.users.get(account).unwrap_or_else(|| match self.other(self.realm_of(account)) {
            None => &self.default,
            Some(other) => &other.default,
        })
    }

    /// The realm that an account belongs to; of a realm that is not there, the first.
    pub fn realm_of(&self, account: &[u8]) -> RealmId {
        let (_, Some(realm)) = split(account) else { return RealmId::FIRST };
        let place = self.others.iter().position(|other| *other.name == *realm);
        place.and_then(|place| u16::try_from(place + 1).ok()).map_or(RealmId::FIRST, RealmId)
    }

    /// How many realms there are.
    pub fn realms(&self) -> usize {
        1 + self.others.len()
    }

    /// Allocations of a realm at a time.
    pub fn allocations_of(&self, realm: RealmId) -> Option<u32> {
        self.other(realm).map_or(self.realm_allocations, |other| other.allocations)
    }

    /// A whole realm, each direction.
    pub fn bandwidth_of(&self, realm: RealmId) -> Option<Bandwidth> {
        self.other(realm).map_or(self.realm_bandwidth, |other| other.bandwidth)
    }

    fn other(&self, realm: RealmId) -> Option<&RealmQuotas> {
        self.others.get(usize::from(realm.0).checked_sub(1)?)
    }

    /// Whether there is anything at all to keep count of for a relayed datagram.
    pub fn meters(&self) -> bool {
        let metered = |limits: &UserLimits| {
            limits.bandwidth.is_some()
                || limits.bandwidth_per_allocation.is_some()
                || limits.volume_per_day.is_some()
                || limits.volume_per_month.is_some()
        };
        self.count_volume
            || self.watched
            || self.realm_bandwidth.is_some()
            || self.total_bandwidth.is_some()
            || metered(&self.default)
            || self.others.iter().any(|it| it.bandwidth.is_some() || metered(&it.default))
            || self.users.values().any(metered)
    }
}
