//! Allocations and what belongs to them.
//!
//! [`Table`] finds an allocation by five-tuple (one hash) or by id (an index). Within an
//! [`Allocation`], permissions are sorted by address, channels by number, and a second index sorts
//! channels by peer: a relayed datagram costs one binary search among a bounded few.

use core::hash::BuildHasher;
use core::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use turnway_wire::{Family, TransactionId};

use crate::address::{AllocationId, Client, FiveTuple, Now, PeerAddr, RelayAddr};
use crate::auth::Identity;
use crate::effect::Traffic;
use crate::meter::Meter;
use crate::policy::Verdict;

/// All allocations of one server.
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_tuple: HashTable<u32>,
    by_session: HashTable<u32>,
    hasher: FixedState,
}

struct Slot {
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

/// One allocation (RFC 8656 section 2.2), single or dual. What a datagram needs comes first, in
/// few lines of the cache.
#[repr(C)]
pub(crate) struct Allocation {
    pub(crate) client: Client,
    pub(crate) meter: Meter,
    pub(crate) channels: Vec<Channel>,
    pub(crate) traffic: Traffic,
    by_peer: Vec<(PeerAddr, u16)>,
    pub(crate) v4: Option<Relay>,
    pub(crate) v6: Option<Relay>,
    pub(crate) permissions: Vec<Permission>,
    pub(crate) identity: Identity,
    pub(crate) session: u64,
    pub(crate) created_ns: u64,
    /// What the Allocate was answered with, for its retransmissions.
    pub(crate) answer: AllocateAnswer,
    pub(crate) icmp: Window,
}

/// What must be remembered to answer a retransmitted Allocate alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocateAnswer {
    pub(crate) transaction: TransactionId,
    pub(crate) lifetime_s: u32,
    pub(crate) reservation: Option<[u8; 8]>,
    pub(crate) failed: Option<(Family, u16)>,
    pub(crate) v4: Option<RelayAddr>,
    pub(crate) v6: Option<RelayAddr>,
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
    second: u64,
    count: u32,
}

impl Window {
    /// Whether one more event fits into this second.
    pub(crate) fn allow(&mut self, now: Now, per_second: u32) -> bool {
        let second = now.mono_ns / crate::address::NANOS_PER_SECOND;
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
            slots: Vec::new(),
            free: Vec::new(),
            by_tuple: HashTable::new(),
            by_session: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Sets a slot apart for an allocation about to be made.
    pub(crate) fn reserve(&mut self) -> AllocationId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, allocation: None });
            (self.slots.len() - 1) as u32
        });
        AllocationId { slot, generation: self.slots[slot as usize].generation }
    }

    /// Gives back a slot set apart by [`Self::reserve`] and not filled.
    pub(crate) fn unreserve(&mut self, id: AllocationId) {
        self.slots[id.slot as usize].generation = id.generation.wrapping_add(1);
        self.free.push(id.slot);
    }

    /// Fills a slot set apart by [`Self::reserve`].
    pub(crate) fn insert(&mut self, id: AllocationId, allocation: Box<Allocation>) {
        let hash = self.hasher.hash_one(allocation.client.tuple);
        let session = self.hasher.hash_one(allocation.session);
        self.slots[id.slot as usize].allocation = Some(allocation);
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash_session = |&slot: &u32| hasher.hash_one(row(slots, slot).session);
        self.by_tuple.insert_unique(hash, id.slot, |&slot| rehash(slots, hasher, slot));
        self.by_session.insert_unique(session, id.slot, rehash_session);
    }

    pub(crate) fn find(&self, tuple: &FiveTuple) -> Option<AllocationId> {
        let hash = self.hasher.hash_one(tuple);
        let slot = *self.by_tuple.find(hash, |&slot| {
            let row = self.slots[slot as usize].allocation.as_deref();
            row.is_some_and(|row| row.client.tuple == *tuple)
        })?;
        Some(AllocationId { slot, generation: self.slots[slot as usize].generation })
    }

    pub(crate) fn find_session(&self, session: u64) -> Option<AllocationId> {
        let hash = self.hasher.hash_one(session);
        let is_it = |slot: &u32| row(&self.slots, *slot).session == session;
        let slot = *self.by_session.find(hash, is_it)?;
        Some(AllocationId { slot, generation: self.slots[slot as usize].generation })
    }

    pub(crate) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.allocation.as_deref().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        slot.allocation.as_deref_mut().filter(|_| slot.generation == id.generation)
    }

    /// The id of whatever occupies a slot now.
    pub(crate) fn occupant(&self, slot: u32) -> Option<AllocationId> {
        let row = self.slots.get(slot as usize)?;
        row.allocation.as_ref()?;
        Some(AllocationId { slot, generation: row.generation })
    }

    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        let row = self.slots.get_mut(id.slot as usize)?;
        if row.generation != id.generation {
            return None;
        }
        let allocation = row.allocation.take()?;
        row.generation = row.generation.wrapping_add(1);
        self.free.push(id.slot);
        let hash = self.hasher.hash_one(allocation.client.tuple);
        if let Ok(entry) = self.by_tuple.find_entry(hash, |&slot| slot == id.slot) {
            entry.remove();
        }
        let session = self.hasher.hash_one(allocation.session);
        if let Ok(entry) = self.by_session.find_entry(session, |&slot| slot == id.slot) {
            entry.remove();
        }
        self.shrink();
        Some(allocation)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_tuple.len()
    }

    /// How many slots were ever in use at once: the range of [`Self::occupant`].
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Gives the index's memory back after a peak. Slots stay: they remember their generations.
    fn shrink(&mut self) {
        if self.by_tuple.len() * 8 < self.by_tuple.capacity() && self.by_tuple.capacity() > 1024 {
            let (slots, hasher) = (&self.slots, &self.hasher);
            let rehash_session = |&slot: &u32| hasher.hash_one(row(slots, slot).session);
            self.by_tuple.shrink_to(self.by_tuple.len() * 2, |&slot| rehash(slots, hasher, slot));
            self.by_session.shrink_to(self.by_session.len() * 2, rehash_session);
        }
    }
}

fn rehash(slots: &[Slot], hasher: &FixedState, slot: u32) -> u64 {
    hasher.hash_one(row(slots, slot).client.tuple)
}

fn row(slots: &[Slot], slot: u32) -> &Allocation {
    let row = slots[slot as usize].allocation.as_deref();
    row.expect("the indices hold occupied slots only")
}

/// What a new allocation is made of.
pub(crate) struct NewAllocation {
    pub(crate) client: Client,
    pub(crate) identity: Identity,
    pub(crate) session: u64,
    pub(crate) meter: Meter,
    pub(crate) now: Now,
    pub(crate) answer: AllocateAnswer,
}

impl Allocation {
    pub(crate) fn new(new: NewAllocation) -> Self {
        let expires_ns = new.now.after_s(new.answer.lifetime_s);
        let relay = |_: RelayAddr| Relay { expires_ns };
        Self {
            client: new.client,
            channels: Vec::new(),
            by_peer: Vec::new(),
            permissions: Vec::new(),
            v4: new.answer.v4.map(relay),
            v6: new.answer.v6.map(relay),
            traffic: Traffic::default(),
            meter: new.meter,
            identity: new.identity,
            session: new.session,
            created_ns: new.now.mono_ns,
            answer: new.answer,
            icmp: Window::default(),
        }
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
                let by_peer = self.by_peer.binary_search_by_key(&channel.peer, |(peer, _)| *peer);
                let index = by_peer.unwrap_or_else(|index| index);
                self.by_peer.insert(index, (channel.peer, channel.number));
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
        let channels = &self.channels;
        self.by_peer.retain(|(_, number)| {
            channels.binary_search_by_key(number, |channel| channel.number).is_ok()
        });
        self.channels.shrink_to(self.channels.len() * 2);
        self.by_peer.shrink_to(self.by_peer.len() * 2);
    }

    /// Recomputes every channel's deadline from its own, its permission's and its relay's, and
    /// hands over those that moved.
    pub(crate) fn update_deadlines(&mut self, mut moved: impl FnMut(&Channel)) {
        let (v4, v6) = (self.v4, self.v6);
        for channel in &mut self.channels {
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
