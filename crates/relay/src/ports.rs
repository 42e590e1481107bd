//! [`PortPool`]: the one pool of relay ports, with exact accounting.
//!
//! Every port of every relay address is in one state at any time; [`Counts`] adds them up and
//! always sums to the capacity. A claim is uniformly random over the ports that fit it: per
//! address there are three index sets (free ports, free even ports, pairs with both ports free),
//! so claiming and releasing are O(1) whatever the range, down to its last port. A claim of a
//! single port does not spare pairs: uniformity over all free ports is worth more than packing.
//!
//! Reservations and ports set aside have deadlines; [`PortPool::expire`] brings both back.

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use turnway_wire::Family;

use crate::address::{canonical_ip, family_of};
use crate::timers::Timers;

/// Which port numbers will do (EVEN-PORT, RFC 8656 section 18.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any.
    Any,
    /// Even ones.
    Even,
}

/// How many ports are in which state, over all addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// May be claimed.
    pub free: usize,
    /// Belong to an allocation.
    pub claimed: usize,
    /// Are held for a RESERVATION-TOKEN.
    pub reserved: usize,
    /// Were found in use by another program.
    pub set_aside: usize,
}

/// The relay ports of all addresses. Its memory is bounded by their number.
#[derive(Debug)]
pub struct PortPool {
    addresses: Vec<AddressPorts>,
    /// First port of the range; at least 1.
    first: u16,
    /// Ports per address.
    width: u32,
    counts: Counts,
    reservations: HashMap<[u8; 8], Reservation, FixedState>,
    /// One slot per port of the pool ([`PortPool::slot`]): when what holds it ends.
    deadlines: Timers,
}

#[derive(Debug)]
struct Reservation {
    at: Place,
    owner: Arc<[u8]>,
    until_ns: u64,
}

impl PortPool {
    /// A pool of `ports` on each of `addresses`, all of them free. Port 0 is never part of it.
    pub fn new(addresses: &[IpAddr], ports: RangeInclusive<u16>) -> Self {
        let first = (*ports.start()).max(1);
        let width = (u32::from(*ports.end()) + 1).saturating_sub(u32::from(first));
        let mut unique: Vec<AddressPorts> = Vec::with_capacity(addresses.len());
        for ip in addresses.iter().map(|&ip| canonical_ip(ip)) {
            if unique.iter().all(|known| known.ip != ip) {
                unique.push(AddressPorts::new(ip, first, width));
            }
        }
        Self {
            counts: Counts { free: unique.len() * width as usize, ..Counts::default() },
            addresses: unique,
            first,
            width,
            reservations: HashMap::default(),
            deadlines: Timers::default(),
        }
    }

    /// Claims one port: on `near` if that is one of our addresses and has one, otherwise on a
    /// random address of `family` that has one. `random` gives words of the system's CSPRNG.
    ///
    /// A claimed port is given back with [`PortPool::release`], [`PortPool::set_aside`] or
    /// [`PortPool::reserve`].
    pub fn claim(
        &mut self,
        family: Family,
        near: IpAddr,
        parity: Parity,
        random: &mut dyn FnMut() -> u32,
    ) -> Option<SocketAddr> {
        let fit = match parity {
            //= rfc8656#section-7.2
            //# Otherwise, the server allocates any available relayed transport
            //# address.
            Parity::Any => Fit::Any,
            //= rfc8656#section-7.2
            //# If the request contains an EVEN-PORT attribute with the R bit set
            //# to 0, then the server allocates a relayed transport address with
            //# an even port number.
            Parity::Even => Fit::Even,
        };
        let at = self.pick(family, near, fit, random)?;
        self.change(at, State::Claimed);
        Some(self.socket(at))
    }

    /// Claims two ports N and N + 1 of one address, where N is even, and answers N. Both are
    /// claimed from now on, each on its own.
    pub fn claim_pair(
        &mut self,
        family: Family,
        near: IpAddr,
        random: &mut dyn FnMut() -> u32,
    ) -> Option<SocketAddr> {
        //= rfc8656#section-7.2
        //# If the request contains an EVEN-PORT attribute with the R bit set
        //# to 1, then the server looks for a pair of port numbers N and N+1
        //# on the same IP address, where N is even.
        let even = self.pick(family, near, Fit::Pair, random)?;
        self.change(even, State::Claimed);
        self.change(Place { offset: even.offset + 1, ..even }, State::Claimed);
        Some(self.socket(even))
    }

    /// Gives a claimed port back. The shell closes its socket first, so that whoever claims the
    /// port next can bind it.
    pub fn release(&mut self, port: SocketAddr) {
        if let Some(at) = self.claimed(port) {
            self.change(at, State::Free);
        }
    }

    /// Keeps a claimed port, found in use by another program, out of the pool until `until_ns`.
    pub fn set_aside(&mut self, port: SocketAddr, until_ns: u64) {
        if let Some(at) = self.claimed(port) {
            self.change(at, State::SetAside);
            self.deadlines.set(self.slot(at), until_ns);
        }
    }

    /// Holds a claimed port for the user `owner` to [take](PortPool::take) with `token`, until
    /// `until_ns`. Tokens are 64 random bits, never used twice.
    pub fn reserve(&mut self, port: SocketAddr, token: [u8; 8], owner: Arc<[u8]>, until_ns: u64) {
        if let Some(at) = self.claimed(port) {
            self.change(at, State::Reserved(token));
            self.deadlines.set(self.slot(at), until_ns);
            let known = self.reservations.insert(token, Reservation { at, owner, until_ns });
            debug_assert!(known.is_none(), "the same reservation token twice");
        }
    }

    /// Makes the reservation a claimed port again. `None` if the token is unknown, has expired or
    /// is another owner's (whose it then remains).
    pub fn take(&mut self, token: [u8; 8], owner: &[u8], now_ns: u64) -> Option<SocketAddr> {
        let reservation = self.reservations.get(&token)?;
        if *reservation.owner != *owner || reservation.until_ns <= now_ns {
            return None;
        }
        let at = reservation.at;
        self.reservations.remove(&token);
        self.deadlines.remove(self.slot(at));
        self.change(at, State::Claimed);
        Some(self.socket(at))
    }

    /// One reservation that has expired by `now_ns` and is released hereby: the shell closes its
    /// socket and calls again until there is none. Ports set aside long enough become free, too.
    pub fn expire(&mut self, now_ns: u64) -> Option<SocketAddr> {
        while let Some((deadline_ns, slot)) = self.deadlines.peek()
            && deadline_ns <= now_ns
        {
            self.deadlines.remove(slot);
            let at = self.place(slot);
            let before = self.change(at, State::Free);
            match before {
                State::Reserved(token) => {
                    if self.reservations.get(&token).is_some_and(|held| held.at == at) {
                        self.reservations.remove(&token);
                    }
                    self.forget_spare_memory();
                    return Some(self.socket(at));
                }
                State::SetAside | State::Free | State::Claimed => {}
            }
        }
        None
    }

    /// When [`PortPool::expire`] has something to do next.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.peek().map(|(deadline_ns, _)| deadline_ns)
    }

    /// How many ports are in which state.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many ports of `family` the pool has, in whatever state.
    pub fn capacity(&self, family: Family) -> usize {
        self.of_family(family).count() * self.width as usize
    }

    fn of_family(&self, family: Family) -> impl Iterator<Item = (usize, &AddressPorts)> {
        self.addresses.iter().enumerate().filter(move |(_, ports)| family_of(ports.ip) == family)
    }

    /// A random free place that fits, `near` preferred.
    fn pick(
        &self,
        family: Family,
        near: IpAddr,
        fit: Fit,
        random: &mut dyn FnMut() -> u32,
    ) -> Option<Place> {
        let near = canonical_ip(near);
        let fitting = || self.of_family(family).filter(|(_, ports)| ports.fitting(fit) > 0);
        let (address, ports) = match fitting().find(|(_, ports)| ports.ip == near) {
            Some(found) => found,
            None => {
                let candidates =
                    u32::try_from(fitting().count()).ok().filter(|&count| count > 0)?;
                fitting().nth(below(candidates, random) as usize)?
            }
        };
        Some(Place { address, offset: ports.pick(fit, random) })
    }

    /// Moves a port from its state to another, and says which it was. The only place that writes
    /// states, counts and free sets, so that they cannot disagree.
    fn change(&mut self, at: Place, after: State) -> State {
        let ports = &mut self.addresses[at.address];
        let before = core::mem::replace(&mut ports.state[at.offset as usize], after);
        if before == State::Free {
            ports.no_longer_free(at.offset);
        }
        if after == State::Free {
            ports.now_free(at.offset);
        }
        *self.counts.of(before) -= 1;
        *self.counts.of(after) += 1;
        before
    }

    /// Where a claimed port is. Anything else is a mistake of the shell's that must not harm.
    fn claimed(&self, port: SocketAddr) -> Option<Place> {
        let ip = canonical_ip(port.ip());
        let address = self.addresses.iter().position(|ports| ports.ip == ip);
        let offset = port.port().checked_sub(self.first);
        let at =
            address.zip(offset).map(|(address, offset)| Place { address, offset }).filter(|at| {
                self.addresses[at.address].state.get(at.offset as usize) == Some(&State::Claimed)
            });
        debug_assert!(at.is_some(), "{port} is not a claimed port");
        at
    }

    fn socket(&self, at: Place) -> SocketAddr {
        SocketAddr::new(self.addresses[at.address].ip, self.first + at.offset)
    }

    fn slot(&self, at: Place) -> u32 {
        let address = u32::try_from(at.address).expect("a machine has fewer than 2^16 addresses");
        address * self.width + u32::from(at.offset)
    }

    fn place(&self, slot: u32) -> Place {
        let offset = u16::try_from(slot % self.width).expect("a range has at most 2^16 ports");
        Place { address: (slot / self.width) as usize, offset }
    }

    fn forget_spare_memory(&mut self) {
        if self.reservations.len() < self.reservations.capacity() / 8 {
            self.reservations.shrink_to_fit();
        }
    }
}

impl Counts {
    fn of(&mut self, state: State) -> &mut usize {
        match state {
            State::Free => &mut self.free,
            State::Claimed => &mut self.claimed,
            State::Reserved(_) => &mut self.reserved,
            State::SetAside => &mut self.set_aside,
        }
    }
}

/// One port of the pool: which address, and how far from the first port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: usize,
    offset: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Claimed,
    Reserved([u8; 8]),
    SetAside,
}

/// What a claim needs.
#[derive(Clone, Copy, Debug)]
enum Fit {
    Any,
    Even,
    Pair,
}

/// The ports of one address. The sets contain offsets from the first port; `even` and `pairs`
/// those of even ports, `pairs` those whose next-higher port exists and is free as well.
#[derive(Debug)]
struct AddressPorts {
    ip: IpAddr,
    first: u16,
    state: Vec<State>,
    free: IndexSet,
    even: IndexSet,
    pairs: IndexSet,
}

impl AddressPorts {
    fn new(ip: IpAddr, first: u16, width: u32) -> Self {
        let mut ports = Self {
            ip,
            first,
            state: vec![State::Free; width as usize],
            free: IndexSet::new(width),
            even: IndexSet::new(width),
            pairs: IndexSet::new(width),
        };
        for offset in 0..width {
            ports.now_free(u16::try_from(offset).expect("a range has at most 2^16 - 1 ports"));
        }
        ports
    }

    fn set(&self, fit: Fit) -> &IndexSet {
        match fit {
            Fit::Any => &self.free,
            Fit::Even => &self.even,
            Fit::Pair => &self.pairs,
        }
    }

    fn fitting(&self, fit: Fit) -> usize {
        self.set(fit).members.len()
    }

    /// A random member of a set that is not empty.
    fn pick(&self, fit: Fit, random: &mut dyn FnMut() -> u32) -> u16 {
        let members = &self.set(fit).members;
        let count = u32::try_from(members.len()).expect("a set has at most 2^16 members");
        members[below(count, random) as usize]
    }

    fn now_free(&mut self, offset: u16) {
        self.free.insert(offset);
        if self.is_even(offset) {
            self.even.insert(offset);
        }
        if let Some((even, odd)) = self.pair_of(offset)
            && self.free.contains(even)
            && self.free.contains(odd)
        {
            self.pairs.insert(even);
        }
    }

    fn no_longer_free(&mut self, offset: u16) {
        self.free.remove(offset);
        self.even.remove(offset);
        if let Some((even, _)) = self.pair_of(offset) {
            self.pairs.remove(even);
        }
    }

    fn is_even(&self, offset: u16) -> bool {
        (self.first + offset).is_multiple_of(2)
    }

    /// The offsets N and N + 1 of the pair that a port is in, unless the range cuts it.
    fn pair_of(&self, offset: u16) -> Option<(u16, u16)> {
        let even = if self.is_even(offset) { offset } else { offset.checked_sub(1)? };
        let odd = even + 1;
        ((odd as usize) < self.state.len()).then_some((even, odd))
    }
}

/// A set of offsets with O(1) insertion, removal and access by index. It never grows: all its
/// memory is taken at the start.
#[derive(Debug)]
struct IndexSet {
    members: Vec<u16>,
    /// Where in `members` an offset stands.
    position: Vec<u16>,
}

impl IndexSet {
    /// Not a position: a set has at most 65,535 members (port 0 is never one).
    const ABSENT: u16 = u16::MAX;

    fn new(width: u32) -> Self {
        Self {
            members: Vec::with_capacity(width as usize),
            position: vec![Self::ABSENT; width as usize],
        }
    }

    fn contains(&self, offset: u16) -> bool {
        self.position[offset as usize] != Self::ABSENT
    }

    fn insert(&mut self, offset: u16) {
        if !self.contains(offset) {
            self.position[offset as usize] =
                u16::try_from(self.members.len()).expect("fewer members than 2^16 - 1 so far");
            self.members.push(offset);
        }
    }

    fn remove(&mut self, offset: u16) {
        if self.contains(offset) {
            let at = self.position[offset as usize];
            self.position[offset as usize] = Self::ABSENT;
            self.members.swap_remove(at as usize);
            if let Some(&moved) = self.members.get(at as usize) {
                self.position[moved as usize] = at;
            }
        }
    }
}

/// A uniformly random number below `bound` (at least 1), without modulo bias: words that would
/// favour small numbers are drawn again.
fn below(bound: u32, random: &mut dyn FnMut() -> u32) -> u32 {
    // A word is drawn again with a probability below bound / 2^32 <= 2^-16. That it happens 16
    // times in a row means that `random` is stuck, and then an answer is better than none.
    const DRAWS: usize = 16;
    let threshold = bound.wrapping_neg() % bound;
    let mut product = 0;
    for _ in 0..DRAWS {
        product = u64::from(random()) * u64::from(bound);
        if product & u64::from(u32::MAX) >= u64::from(threshold) {
            break;
        }
    }
    u32::try_from(product >> 32).expect("a number below a u32 bound")
}

#[cfg(test)]
mod tests;
