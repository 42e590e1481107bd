//! Allocations and what belongs to them.
//!
//! [`Table`] finds an allocation by five-tuple (one hash) or by id (an index). Within an
//! [`Allocation`], permissions are sorted by address, channels by number, and a second index sorts
//! channels by peer: a relayed datagram costs one binary search among a bounded few.
//!
//! An allocation with one permission and one channel, as most are, is one row and nothing else.
//! Rows never move, and no index is ever built anew: however many there are, the next one is made
//! as fast as the first.

use core::hash::{Hash, Hasher as _};
use core::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use turnway_wire::{Family, TransactionId};

use crate::address::{
    AllocationId, Client, FiveTuple, NANOS_PER_SECOND, Now, PeerAddr, Protocol, RelayAddr,
};
use crate::auth::Identity;
use crate::effect::Traffic;
use crate::few::Few;
use crate::index::Index;
use crate::meter::Meter;
use crate::mobility::Mobile;
use crate::policy::Verdict;
use crate::slab::Slab;

/// All allocations of one server.
pub(crate) struct Table {
    rows: Slab<Allocation>,
    by_tuple: Index,
    by_session: Index,
    seed: Seed,
}

/// What makes hashes unforeseeable. All of it is secret: where only the start of a hash is, a
/// client that may choose its IPv6 address (the interface's part of it, in many networks) can make
/// the hashes of all its five-tuples equal.
struct Seed {
    start: u64,
    steps: SharedSeed,
}

/// One allocation (RFC 8656 section 2.2), single or dual. What a datagram needs comes first, in
/// few lines of the cache.
#[repr(C)]
pub(crate) struct Allocation {
    pub(crate) client: Client,
    /// Whether the five-tuple leads here, and to the client: not of one that has gone (see
    /// [`crate::mobility`]).
    pub(crate) attached: bool,
    pub(crate) meter: Meter,
    pub(crate) channels: Few<Channel>,
    pub(crate) traffic: Traffic,
    pub(crate) v4: Option<Relay>,
    pub(crate) v6: Option<Relay>,
    pub(crate) permissions: Few<Permission>,
    /// The numbers of two or more channels by their peers.
    by_peer: Vec<(PeerAddr, u16)>,
    pub(crate) identity: Identity,
    pub(crate) session: u64,
    pub(crate) created_ns: u64,
    /// What the Allocate was answered with, for its retransmissions.
    pub(crate) answer: AllocateAnswer,
    pub(crate) icmp: Window,
    /// Of one that may go on from elsewhere (RFC 8016).
    pub(crate) mobile: Option<Box<Mobile>>,
}

/// What must be remembered to answer a retransmitted Allocate alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocateAnswer {
    pub(crate) transaction: TransactionId,
    pub(crate) lifetime_s: u32,
    pub(crate) protocol: Protocol,
    pub(crate) reservation: Option<[u8; 8]>,
    pub(crate) failed: Option<(Family, u16)>,
    pub(crate) relayed: Relayed,
}

/// The relayed transport addresses as announced, packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relayed {
    v4: Option<SocketAddrV4>,
    v6: Option<(Ipv6Addr, u16)>,
}

impl Relayed {
    pub(crate) fn new(v4: Option<RelayAddr>, v6: Option<RelayAddr>) -> Self {
        let external = [v4, v6].map(|addr| addr.map(|addr| addr.external));
        let v4 = external.into_iter().flatten().find_map(|addr| match addr {
            SocketAddr::V4(addr) => Some(addr),
            SocketAddr::V6(_) => None,
        });
        let v6 = external.into_iter().flatten().find_map(|addr| match addr {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(addr) => Some((*addr.ip(), addr.port())),
        });
        Self { v4, v6 }
    }

    pub(crate) fn of(&self, family: Family) -> Option<SocketAddr> {
        match family {
            Family::V4 => self.v4.map(SocketAddr::V4),
            Family::V6 => self.v6.map(SocketAddr::from),
        }
    }
}

/// A relayed transport address's own time-to-expiry: each family of a dual allocation has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay {
    pub(crate) expires_ns: u64,
}

/// A permission (RFC 8656 section 9).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permission {
    pub(crate) ip: IpAddr,
    pub(crate) expires_ns: u64,
    /// The address is one of our own: each port is judged when it is used.
    pub(crate) own: bool,
}

/// A channel binding (RFC 8656 section 12).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) number: u16,
    pub(crate) peer: PeerAddr,
    pub(crate) expires_ns: u64,
    /// The earliest of channel, permission and relayed address: the only time the data path reads.
    pub(crate) deadline_ns: u64,
    /// As in [`Permission`].
    pub(crate) own: bool,
}

/// Counts events within one second, for small rates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    second: u32,
    count: u32,
}

impl Window {
    /// Whether one more event fits into this second.
    pub(crate) fn allow(&mut self, now: Now, per_second: u32) -> bool {
        // It wraps after 136 years.
        let second = (now.mono_ns / NANOS_PER_SECOND) as u32;
        if second != self.second {
            *self = Self { second, count: 0 };
        }
        let fits = self.count < per_second;
        self.count += u32::from(fits);
        fits
    }
}

impl Table {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rows: Slab::new(),
            by_tuple: Index::default(),
            by_session: Index::default(),
            seed: Seed { start: seed, steps: SharedSeed::from_u64(seed) },
        }
    }

    /// Sets a slot apart for an allocation about to be made.
    pub(crate) fn reserve(&mut self) -> AllocationId {
        self.rows.reserve()
    }

    /// Gives back a slot set apart by [`Self::reserve`] and not filled.
    pub(crate) fn unreserve(&mut self, id: AllocationId) {
        self.rows.release(id);
    }

    /// Fills a slot set apart by [`Self::reserve`].
    pub(crate) fn insert(&mut self, id: AllocationId, allocation: Allocation) {
        let Self { rows, by_tuple, by_session, seed } = self;
        let tuple = seed.hash(&allocation.client.tuple);
        let session = seed.hash(&allocation.session);
        let attached = allocation.attached;
        rows.fill(id, allocation);
        let row = |slot| rows.occupant(slot).expect("the indices hold occupied slots only").1;
        if attached {
            by_tuple.insert(id.slot, tuple, |slot| seed.hash(&row(slot).client.tuple));
        }
        by_session.insert(id.slot, session, |slot| seed.hash(&row(slot).session));
    }

    pub(crate) fn find(&self, tuple: &FiveTuple) -> Option<AllocationId> {
        let hash = self.seed.hash(tuple);
        self.by_tuple.find(hash, |slot| {
            let (id, row) = self.rows.occupant(slot)?;
            (row.client.tuple == *tuple).then_some(id)
        })
    }

    pub(crate) fn find_session(&self, session: u64) -> Option<AllocationId> {
        let hash = self.seed.hash(&session);
        self.by_session.find(hash, |slot| {
            let (id, row) = self.rows.occupant(slot)?;
            (row.session == session).then_some(id)
        })
    }

    /// Has no five-tuple lead to an allocation any more.
    pub(crate) fn detach(&mut self, id: AllocationId) {
        let Some(row) = self.rows.get_mut(id) else { return };
        if core::mem::replace(&mut row.attached, false) {
            self.by_tuple.remove(id.slot, self.seed.hash(&row.client.tuple));
        }
    }

    /// Has another client's five-tuple lead to an allocation, which none leads to yet.
    pub(crate) fn move_to(&mut self, id: AllocationId, client: Client) {
        self.detach(id);
        let Self { rows, by_tuple, seed, .. } = self;
        let Some(row) = rows.get_mut(id) else { return };
        (row.client, row.attached) = (client, true);
        let row = |slot| rows.occupant(slot).expect("the indices hold occupied slots only").1;
        let hash = seed.hash(&client.tuple);
        by_tuple.insert(id.slot, hash, |slot| seed.hash(&row(slot).client.tuple));
    }

    pub(crate) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.rows.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.rows.get_mut(id)
    }

    /// The id of whatever occupies a slot now.
    pub(crate) fn occupant(&self, slot: u32) -> Option<AllocationId> {
        self.rows.occupant(slot).map(|(id, _)| id)
    }

    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let row = self.rows.get(id)?;
        let tuple = self.seed.hash(&row.client.tuple);
        let session = self.seed.hash(&row.session);
        if row.attached {
            self.by_tuple.remove(id.slot, tuple);
        }
        self.by_session.remove(id.slot, session);
        let allocation = self.rows.release(id);
        let slots = self.rows.slots();
        self.by_tuple.forget_from(slots);
        self.by_session.forget_from(slots);
        allocation
    }

    pub(crate) fn len(&self) -> usize {
        self.by_session.len()
    }

    /// All slots in use are below this: the range of [`Self::occupant`].
    pub(crate) fn slots(&self) -> u32 {
        self.rows.slots()
    }
}

impl Seed {
    #[inline]
    fn hash(&self, key: &impl Hash) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.start, &self.steps);
        key.hash(&mut hasher);
        hasher.finish()
    }
}

/// What a new allocation is made of.
pub(crate) struct NewAllocation {
    pub(crate) client: Client,
    pub(crate) identity: Identity,
    pub(crate) session: u64,
    pub(crate) meter: Meter,
    pub(crate) now: Now,
    pub(crate) answer: AllocateAnswer,
    /// Whether the client may go on with it from elsewhere.
    pub(crate) mobile: bool,
}

impl Allocation {
    pub(crate) fn new(new: NewAllocation) -> Self {
        let expires_ns = new.now.after_s(new.answer.lifetime_s);
        let relay = |_: SocketAddr| Relay { expires_ns };
        Self {
            client: new.client,
            attached: true,
            channels: Few::None,
            by_peer: Vec::new(),
            permissions: Few::None,
            v4: new.answer.relayed.of(Family::V4).map(relay),
            v6: new.answer.relayed.of(Family::V6).map(relay),
            traffic: Traffic::default(),
            meter: new.meter,
            identity: new.identity,
            session: new.session,
            created_ns: new.now.mono_ns,
            answer: new.answer,
            icmp: Window::default(),
            mobile: new.mobile.then(Box::default),
        }
    }

    /// How its peers are reached.
    pub(crate) fn protocol(&self) -> Protocol {
        self.answer.protocol
    }

    pub(crate) fn relay(&self, family: Family) -> Option<&Relay> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    pub(crate) fn relay_mut(&mut self, family: Family) -> &mut Option<Relay> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    pub(crate) fn channel(&self, number: u16) -> Option<&Channel> {
        let index = self.channels.binary_search_by_key(&number, |channel| channel.number).ok()?;
        Some(&self.channels[index])
    }

    pub(crate) fn channel_of(&self, peer: PeerAddr) -> Option<&Channel> {
        if let Few::One(channel) = &self.channels {
            return (channel.peer == peer).then_some(channel);
        }
        let index = self.by_peer.binary_search_by_key(&peer, |(peer, _)| *peer).ok()?;
        self.channel(self.by_peer[index].1)
    }

    pub(crate) fn permission(&self, ip: IpAddr) -> Option<&Permission> {
        let index = self.permissions.binary_search_by_key(&ip, |permission| permission.ip).ok()?;
        Some(&self.permissions[index])
    }

    /// Installs or refreshes a permission; true if it is new.
    pub(crate) fn permit(&mut self, permission: Permission) -> bool {
        let found = self.permissions.binary_search_by_key(&permission.ip, |p| p.ip);
        match found {
            Ok(index) => self.permissions[index] = permission,
            Err(index) => self.permissions.insert(index, permission),
        }
        found.is_err()
    }

    /// Binds or refreshes a channel; true if it is new. The caller has checked the re-bind rules.
    pub(crate) fn bind(&mut self, channel: Channel) -> bool {
        let found = self.channels.binary_search_by_key(&channel.number, |c| c.number);
        match found {
            Ok(index) => self.channels[index] = channel,
            Err(index) => {
                self.channels.insert(index, channel);
                if self.by_peer.is_empty() {
                    self.sort_by_peer();
                } else {
                    let at = self.by_peer.partition_point(|(peer, _)| *peer < channel.peer);
                    self.by_peer.insert(at, (channel.peer, channel.number));
                }
            }
        }
        found.is_err()
    }

    /// Removes the channels for which `doomed` is true and hands each to `gone`.
    pub(crate) fn remove_channels(
        &mut self,
        doomed: impl Fn(&Channel) -> bool,
        mut gone: impl FnMut(&Channel),
    ) {
        let before = self.channels.len();
        self.channels.retain(|channel| {
            let doomed = doomed(channel);
            if doomed {
                gone(channel);
            }
            !doomed
        });
        if self.channels.len() == before {
            return;
        }
        self.sort_by_peer();
    }

    /// Makes the index by peer anew.
    fn sort_by_peer(&mut self) {
        match &self.channels {
            Few::None | Few::One(_) => self.by_peer = Vec::new(),
            Few::Many(channels) => {
                self.by_peer.clear();
                self.by_peer.extend(channels.iter().map(|channel| (channel.peer, channel.number)));
                self.by_peer.sort_unstable();
                self.by_peer.shrink_to(2 * channels.len());
            }
        }
    }

    /// Recomputes every channel's deadline from its own, its permission's and its relay's, and
    /// hands over those that moved.
    pub(crate) fn update_deadlines(&mut self, mut moved: impl FnMut(&Channel)) {
        let (v4, v6) = (self.v4, self.v6);
        for channel in &mut *self.channels {
            let relay = match channel.peer.family() {
                Family::V4 => v4,
                Family::V6 => v6,
            };
            let ip = channel.peer.ip();
            let permission = self.permissions.binary_search_by_key(&ip, |p| p.ip);
            let permission = permission.map_or(0, |index| self.permissions[index].expires_ns);
            let relay = relay.map_or(0, |relay| relay.expires_ns);
            let deadline_ns = channel.expires_ns.min(permission).min(relay);
            if channel.deadline_ns != deadline_ns {
                channel.deadline_ns = deadline_ns;
                moved(channel);
            }
        }
    }

    /// When something of this allocation next runs out.
    pub(crate) fn deadline_ns(&self) -> u64 {
        let relays = [self.v4, self.v6].into_iter().flatten().map(|relay| relay.expires_ns);
        let permissions = self.permissions.iter().map(|permission| permission.expires_ns);
        let channels = self.channels.iter().map(|channel| channel.expires_ns);
        relays.chain(permissions).chain(channels).min().unwrap_or(0)
    }
}

/// Whether ports must be judged one by one for an address with this verdict.
pub(crate) fn is_own(verdict: Verdict) -> bool {
    match verdict {
        Verdict::OwnPorts => true,
        Verdict::Open | Verdict::Denied => false,
    }
}

#[cfg(test)]
mod tests {
    use core::hash::BuildHasher as _;
    use std::collections::BTreeSet;

    use foldhash::fast::FixedState;

    use super::*;
    use crate::address::Transport;

    #[test]
    fn nobody_can_choose_addresses_with_equal_hashes() {
        // With the steps that foldhash takes unless told others, such an interface makes the
        // network of an address not count.
        const UNDOES_THE_REST: u64 = 0xc0ac_29b7_c97c_50dd_u64.swap_bytes();
        let tuple = |network: u64| {
            let ip = Ipv6Addr::from(u128::from(network) << 64 | u128::from(UNDOES_THE_REST));
            let (client, server) = (SocketAddr::from((ip, 1024)), "[::1]:3478".parse().unwrap());
            FiveTuple { client, server, transport: Transport::Udp }
        };
        let different = |hash: &dyn Fn(&FiveTuple) -> u64| {
            (0..1_000).map(|network| hash(&tuple(network))).collect::<BTreeSet<_>>().len()
        };
        let fixed = FixedState::with_seed(1);
        assert_eq!(different(&|tuple| fixed.hash_one(tuple)), 1, "what this test is about");
        let table = Table::new(1);
        assert_eq!(different(&|tuple| table.seed.hash(tuple)), 1_000);
    }
}
