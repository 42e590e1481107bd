//! Next hops: one for each neighbour that datagrams leave to, shared by all flows through it.
//!
//! Plain data: what it learns of the kernel and what it writes goes through [`World`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::figures::Refusal;
use crate::maps::{Hop, HopState, Path, PathKey};
use crate::netlink::route::Mac;

/// What the tables of this crate ask of the kernel, and where they write.
pub(crate) trait World {
    /// Where the kernel would send what goes from one of our addresses to another.
    fn way(&mut self, to: IpAddr, from: IpAddr) -> Result<Way, Refusal>;
    /// A neighbour's Ethernet address, if it is known.
    fn neighbour(&mut self, link: u32, next: IpAddr) -> Option<Mac>;
    /// Have the kernel find it out.
    fn provoke(&mut self, link: u32, next: IpAddr);
    /// Write a next hop that the program reads; `None`: what goes there is passed up.
    fn set_hop(&mut self, index: u16, hop: Option<&Hop>);
    /// Write or overwrite a path; false if the map refuses it.
    fn insert(&mut self, key: &PathKey, path: &Path) -> bool;
    /// Remove the path of this key.
    fn remove(&mut self, key: &PathKey);
}

/// Where datagrams of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To an address of ours.
    Local,
    /// To a neighbour.
    Hop(HopKey, Egress),
}

/// A neighbour on a link, and the longest packet to what lies behind it. The link is the one that
/// the route names: a VLAN device, not what carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HopKey {
    pub(crate) link: u32,
    pub(crate) next: IpAddr,
    pub(crate) mtu: u16,
}

/// How a link's packets leave the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Index into the program's devices.
    pub(crate) device: u32,
    /// The interface that has the program.
    pub(crate) ifindex: u32,
    /// 802.1Q identifier; 0: none.
    pub(crate) vlan: u16,
    /// Our own Ethernet address there.
    pub(crate) mac: Mac,
    /// Frames that came in there may turn round (XDP_TX); otherwise they are redirected there.
    pub(crate) turns: bool,
}

/// All next hops in use.
#[derive(Debug)]
pub(crate) struct NextHops {
    by_key: BTreeMap<HopKey, u16>,
    rows: Vec<Row>,
    free: Vec<u16>,
    capacity: u16,
}

#[derive(Debug)]
struct Row {
    key: HopKey,
    egress: Egress,
    mac: Option<Mac>,
    /// Flows that go here.
    users: u32,
    /// Of those, the ones whose route is being read anew.
    stale: u32,
    /// The interface lost the program.
    suspended: bool,
    /// What the program reads.
    written: Option<Hop>,
}

impl NextHops {
    pub(crate) fn new(capacity: u16) -> NextHops {
        NextHops { by_key: BTreeMap::new(), rows: Vec::new(), free: Vec::new(), capacity }
    }

    /// One more flow goes to this next hop.
    pub(crate) fn acquire(
        &mut self,
        world: &mut impl World,
        key: HopKey,
        egress: Egress,
    ) -> Result<u16, Refusal> {
        let index = match self.by_key.get(&key) {
            Some(&index) => index,
            None => self.add(world, key, egress)?,
        };
        let row = &mut self.rows[usize::from(index)];
        row.users += 1;
        row.egress = egress;
        row.suspended = false;
        self.write(world, index);
        Ok(index)
    }

    /// One flow less goes there.
    pub(crate) fn release(&mut self, world: &mut impl World, index: u16) {
        let row = &mut self.rows[usize::from(index)];
        row.users -= 1;
        if row.users == 0 {
            self.by_key.remove(&row.key);
            row.mac = None;
            self.write(world, index);
            self.free.push(index);
        }
    }

    /// A flow that goes there has its route read anew, until [`settled`](NextHops::settled).
    pub(crate) fn unsettled(&mut self, world: &mut impl World, index: u16) {
        self.rows[usize::from(index)].stale += 1;
        self.write(world, index);
    }

    pub(crate) fn settled(&mut self, world: &mut impl World, index: u16) {
        self.rows[usize::from(index)].stale -= 1;
        self.write(world, index);
    }

    /// The kernel says that a neighbour's address is this, or not known.
    pub(crate) fn neighbour(
        &mut self,
        world: &mut impl World,
        link: u32,
        next: IpAddr,
        mac: Option<Mac>,
    ) {
        for index in self.of_neighbour(link, next) {
            self.rows[usize::from(index)].mac = mac;
            self.write(world, index);
        }
    }

    /// The kernel has forgotten a neighbour, as it does with all of a link whose own address
    /// changes: it is to find it out again.
    pub(crate) fn forgotten(&mut self, world: &mut impl World, link: u32, next: IpAddr) {
        self.neighbour(world, link, next, None);
        if !self.of_neighbour(link, next).is_empty() {
            world.provoke(link, next);
        }
    }

    /// Nothing leaves by this interface until the flows concerned have a way again.
    pub(crate) fn suspend(&mut self, world: &mut impl World, ifindex: u32) {
        let indexes: Vec<u16> = self.by_key.values().copied().collect();
        for index in indexes {
            let row = &mut self.rows[usize::from(index)];
            if row.egress.ifindex == ifindex {
                row.suspended = true;
                self.write(world, index);
            }
        }
    }

    /// Reads all neighbours anew: changes were missed.
    pub(crate) fn refresh(&mut self, world: &mut impl World) {
        let keys: Vec<HopKey> = self.by_key.keys().copied().collect();
        for key in keys {
            let mac = world.neighbour(key.link, key.next);
            self.neighbour(world, key.link, key.next, mac);
        }
    }

    /// Neighbours that datagrams leave to. Not those that never answered: what goes there is passed
    /// up, so that the kernel asks for them as often as somebody sends, and no oftener.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        let known = |index: &u16| self.rows[usize::from(*index)].mac.is_some();
        self.by_key.iter().filter(move |it| known(it.1)).map(|(key, _)| (key.link, key.next))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Its next hops, one for each length of packet.
    fn of_neighbour(&self, link: u32, next: IpAddr) -> Vec<u16> {
        let first = HopKey { link, next, mtu: 0 };
        let last = HopKey { mtu: u16::MAX, ..first };
        self.by_key.range(first..=last).map(|(_, &index)| index).collect()
    }

    fn add(&mut self, world: &mut impl World, key: HopKey, egress: Egress) -> Result<u16, Refusal> {
        if self.free.is_empty() && self.rows.len() >= usize::from(self.capacity) {
            return Err(Refusal::HopsFull);
        }
        let mac = world.neighbour(key.link, key.next);
        if mac.is_none() {
            world.provoke(key.link, key.next);
        }
        let row = Row { key, egress, mac, users: 0, stale: 0, suspended: false, written: None };
        let index = match self.free.pop() {
            Some(index) => {
                self.rows[usize::from(index)] = row;
                index
            }
            None => {
                self.rows.push(row);
                (self.rows.len() - 1) as u16
            }
        };
        self.by_key.insert(key, index);
        Ok(index)
    }

    fn write(&mut self, world: &mut impl World, index: u16) {
        let row = &mut self.rows[usize::from(index)];
        let state = if row.stale > 0 { HopState::Ask } else { HopState::Fresh };
        let hop = row.mac.filter(|_| !row.suspended).map(|mac| Hop {
            state,
            device: row.egress.device,
            // The program turns a frame round where it came in by this one: by none.
            ifindex: if row.egress.turns { row.egress.ifindex } else { 0 },
            route_ifindex: row.key.link,
            mtu: row.key.mtu,
            vlan: row.egress.vlan,
            to: mac,
            from: row.egress.mac,
        });
        if row.written != hop {
            world.set_hop(index, hop.as_ref());
            row.written = hop;
        }
    }
}
