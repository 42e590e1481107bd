//! Which channels are in the program's maps, and which next hop each direction has.
//!
//! Two addresses make a *flow*: what one of our addresses sends to another goes one way, whatever
//! its ports. Many paths share a flow and many flows a next hop, so that a change of a route asks
//! the kernel once for each flow, and a change of a neighbour writes one next hop.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::Channel;
use crate::figures::Refusal;
use crate::hops::{NextHops, Way, World};
use crate::maps::{NextHop, Path, PathKey};
use crate::slots::Slot;

/// A direction of a channel. The order is that of installing: what comes back is there before what
/// goes out, and is removed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toward {
    Client = 0,
    Peer = 1,
}

impl Toward {
    fn other(self) -> Toward {
        match self {
            Toward::Client => Toward::Peer,
            Toward::Peer => Toward::Client,
        }
    }
}

const INSTALL: [Toward; 2] = [Toward::Client, Toward::Peer];
const REMOVE: [Toward; 2] = [Toward::Peer, Toward::Client];

/// What is installed, and everything it depends on.
#[derive(Debug)]
pub(crate) struct Paths {
    hops: NextHops,
    flows: Vec<Flow>,
    free: Vec<usize>,
    by_addresses: HashMap<(IpAddr, IpAddr), usize>,
    /// By the number of its slot.
    channels: Vec<Option<Box<Installed>>>,
    /// Flows whose route is to be read anew; one that ended meanwhile is skipped.
    stale: VecDeque<usize>,
    /// Directions that are in the maps.
    entries: u64,
}

#[derive(Debug)]
struct Flow {
    to: IpAddr,
    from: IpAddr,
    state: State,
    /// In `stale`.
    stale: bool,
    members: Vec<(Slot, Toward)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hop(u16),
    Local,
    Refused(Refusal),
}

/// The kernel believes nobody on a wire who claims one of our own addresses, nor does the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Wire,
    /// Another relayed transport address of ours.
    Inside,
}

#[derive(Debug)]
struct Installed {
    channel: Channel,
    /// Of the accounts, by direction.
    generations: [u32; 2],
    legs: [Leg; 2],
}

#[derive(Clone, Copy, Debug)]
struct Leg {
    flow: usize,
    /// Place among the flow's members.
    place: usize,
    /// If it is in the map, for what comes from there.
    in_map: Option<Origin>,
}

impl Paths {
    /// `hops`: how many next hops the program can know.
    pub(crate) fn new(hops: u16) -> Paths {
        Paths {
            hops: NextHops::new(hops),
            flows: Vec::new(),
            free: Vec::new(),
            by_addresses: HashMap::new(),
            channels: Vec::new(),
            stale: VecDeque::new(),
            entries: 0,
        }
    }

    /// Puts both directions of a channel into the maps. `generations` are those of the accounts to
    /// the client and to the peer. Returns why directions stay in user space.
    pub(crate) fn install(
        &mut self,
        world: &mut impl World,
        slot: Slot,
        channel: Channel,
        generations: [u32; 2],
    ) -> [Option<Refusal>; 2] {
        self.remove(world, slot);
        let legs = INSTALL.map(|toward| {
            let (to, from) = addresses(&channel, toward);
            let flow = self.join(world, to, from);
            let members = &mut self.flows[flow].members;
            members.push((slot, toward));
            Leg { flow, place: members.len() - 1, in_map: None }
        });
        if self.channels.len() <= slot.index() {
            self.channels.resize_with(slot.index() + 1, || None);
        }
        self.channels[slot.index()] = Some(Box::new(Installed { channel, generations, legs }));
        INSTALL.map(|toward| self.place(world, slot, toward).err())
    }

    /// Takes a channel out of the maps, if it is there.
    pub(crate) fn remove(&mut self, world: &mut impl World, slot: Slot) {
        let Some(Some(channel)) = self.channels.get(slot.index()) else { return };
        for toward in REMOVE {
            if let Some(origin) = channel.legs[toward as usize].in_map {
                if let Some(key) = key(&channel.channel, toward, origin) {
                    world.remove(&key);
                }
                self.entries -= 1;
            }
        }
        for toward in REMOVE {
            self.leave(world, slot, toward);
        }
        self.channels[slot.index()] = None;
    }

    /// The routes of these flows may have changed: they are read anew by [`resolve`], and until
    /// then the program asks the kernel for each datagram.
    ///
    /// [`resolve`]: Paths::resolve
    pub(crate) fn unsettle(
        &mut self,
        world: &mut impl World,
        concerned: impl Fn(IpAddr, IpAddr) -> bool,
    ) {
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if flow.members.is_empty() || flow.stale || !concerned(flow.to, flow.from) {
                continue;
            }
            flow.stale = true;
            self.stale.push_back(index);
            if let State::Hop(hop) = flow.state {
                self.hops.unsettled(world, hop);
            }
        }
    }

    /// Reads at most so many routes anew. True if there are more.
    pub(crate) fn resolve(&mut self, world: &mut impl World, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(index) = self.stale.pop_front() else { return false };
            if self.flows[index].stale {
                self.resolve_flow(world, index);
            }
        }
        !self.stale.is_empty()
    }

    /// A neighbour's Ethernet address changed.
    pub(crate) fn hops_mut(&mut self) -> &mut NextHops {
        &mut self.hops
    }

    /// Next hops in use.
    pub(crate) fn hops(&self) -> &NextHops {
        &self.hops
    }

    /// Directions that are in the maps.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Slots that have a channel here.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        let installed = self.channels.iter().enumerate().filter(|(_, channel)| channel.is_some());
        installed.map(|(number, _)| Slot::new(number as u32))
    }

    /// The flow of these addresses; a new one has its route read.
    fn join(&mut self, world: &mut impl World, to: IpAddr, from: IpAddr) -> usize {
        if let Some(&flow) = self.by_addresses.get(&(to, from)) {
            return flow;
        }
        let state = self.find_way(world, to, from);
        let flow = Flow { to, from, state, stale: false, members: Vec::new() };
        let index = match self.free.pop() {
            Some(index) => {
                self.flows[index] = flow;
                index
            }
            None => {
                self.flows.push(flow);
                self.flows.len() - 1
            }
        };
        self.by_addresses.insert((to, from), index);
        index
    }

    /// One member less; the last one ends the flow.
    fn leave(&mut self, world: &mut impl World, slot: Slot, toward: Toward) {
        let leg = self.installed(slot).legs[toward as usize];
        let flow = &mut self.flows[leg.flow];
        flow.members.swap_remove(leg.place);
        if let Some(&(moved, toward)) = flow.members.get(leg.place) {
            self.installed(moved).legs[toward as usize].place = leg.place;
        }
        let flow = &mut self.flows[leg.flow];
        if !flow.members.is_empty() {
            return;
        }
        self.by_addresses.remove(&(flow.to, flow.from));
        let (state, stale) = (flow.state, std::mem::take(&mut flow.stale));
        self.free.push(leg.flow);
        if let State::Hop(hop) = state {
            if stale {
                self.hops.settled(world, hop);
            }
            self.hops.release(world, hop);
        }
    }

    fn installed(&mut self, member: Slot) -> &mut Installed {
        self.channels[member.index()].as_mut().expect("a member of a flow is installed")
    }

    fn find_way(&mut self, world: &mut impl World, to: IpAddr, from: IpAddr) -> State {
        if let Some(refusal) = unsuitable(to, from) {
            return State::Refused(refusal);
        }
        match world.way(to, from) {
            Ok(Way::Local) => State::Local,
            Ok(Way::Hop(key, egress)) => match self.hops.acquire(world, key, egress) {
                Ok(hop) => State::Hop(hop),
                Err(refusal) => State::Refused(refusal),
            },
            Err(refusal) => State::Refused(refusal),
        }
    }

    fn resolve_flow(&mut self, world: &mut impl World, index: usize) {
        let flow = &mut self.flows[index];
        flow.stale = false;
        let (to, from, old) = (flow.to, flow.from, flow.state);
        let new = self.find_way(world, to, from);
        self.flows[index].state = new;
        if new != old {
            for n in 0..self.flows[index].members.len() {
                let (slot, toward) = self.flows[index].members[n];
                // A refusal is counted when a channel comes up, and not at each change of routes.
                let _ = self.place(world, slot, toward);
                if origin(new, toward.other()) != origin(old, toward.other()) {
                    let _ = self.place(world, slot, toward.other());
                }
            }
        }
        if let State::Hop(hop) = old {
            self.hops.settled(world, hop);
            self.hops.release(world, hop);
        }
    }

    /// Makes the maps say what the flows of both directions say: where it goes, and where what goes
    /// there comes from.
    fn place(&mut self, world: &mut impl World, slot: Slot, toward: Toward) -> Result<(), Refusal> {
        let channel = self.channels[slot.index()].as_mut().expect("a member is installed");
        let [way, back] = [toward, toward.other()].map(|it| channel.legs[it as usize]);
        let [state, source] = [way, back].map(|leg| self.flows[leg.flow].state);
        let placed = next_hop(state, toward).and_then(|hop| {
            let origin = origin(source, toward)?;
            let key = key(&channel.channel, toward, origin).ok_or(Refusal::NoRoute)?;
            let path = path(channel, slot, toward, hop);
            if world.insert(&key, &path) { Ok(origin) } else { Err(Refusal::Map) }
        });
        if let Some(before) = way.in_map
            && placed != Ok(before)
            && let Some(key) = key(&channel.channel, toward, before)
        {
            world.remove(&key);
        }
        channel.legs[toward as usize].in_map = placed.ok();
        self.entries = self.entries + u64::from(placed.is_ok()) - u64::from(way.in_map.is_some());
        placed.map(drop)
    }
}

fn next_hop(state: State, toward: Toward) -> Result<NextHop, Refusal> {
    match (state, toward) {
        (State::Hop(hop), Toward::Client | Toward::Peer) => Ok(NextHop::At(hop)),
        (State::Local, Toward::Peer) => Ok(NextHop::Local),
        (State::Local, Toward::Client) => Err(Refusal::Local),
        (State::Refused(refusal), Toward::Client | Toward::Peer) => Err(refusal),
    }
}

/// Where a direction's datagrams come from. `source`: the way back to whom they show as their
/// source.
fn origin(source: State, toward: Toward) -> Result<Origin, Refusal> {
    match (source, toward) {
        (State::Local, Toward::Client) => Ok(Origin::Inside),
        (State::Local, Toward::Peer) => Err(Refusal::Local),
        (State::Refused(why @ (Refusal::Local | Refusal::LinkLocal)), _) => Err(why),
        (State::Hop(_) | State::Refused(_), Toward::Client | Toward::Peer) => Ok(Origin::Wire),
    }
}

/// Where a direction goes, and our address that it comes from.
fn addresses(channel: &Channel, toward: Toward) -> (IpAddr, IpAddr) {
    match toward {
        Toward::Client => (channel.client.ip(), channel.server.ip()),
        Toward::Peer => (channel.peer.ip(), channel.relay.ip()),
    }
}

/// What arrives of a direction. `None` if two addresses of one side are of different families.
fn key(channel: &Channel, toward: Toward, origin: Origin) -> Option<PathKey> {
    match (toward, origin) {
        (Toward::Client, Origin::Wire) => PathKey::from_peer(channel.peer, channel.relay),
        (Toward::Client, Origin::Inside) => PathKey::from_relay(channel.peer, channel.relay),
        (Toward::Peer, Origin::Wire | Origin::Inside) => {
            PathKey::from_client(channel.client, channel.server, channel.number)
        }
    }
}

fn path(installed: &Installed, slot: Slot, toward: Toward, hop: NextHop) -> Path {
    let Channel { client, server, relay, peer, number } = installed.channel;
    let generation = installed.generations[toward as usize];
    match toward {
        Toward::Client => Path {
            hop,
            from: server,
            to: client,
            channel: Some(number),
            account: slot.to_client(),
            generation,
        },
        Toward::Peer => {
            Path { hop, from: relay, to: peer, channel: None, account: slot.to_peer(), generation }
        }
    }
}

/// Addresses that are no business of the program, wherever the kernel would send them.
fn unsuitable(to: IpAddr, from: IpAddr) -> Option<Refusal> {
    match to {
        _ if to.is_ipv4() != from.is_ipv4() => Some(Refusal::NoRoute),
        IpAddr::V6(to) if to.is_unicast_link_local() => Some(Refusal::LinkLocal),
        _ if to.is_loopback() => Some(Refusal::Local),
        _ if to.is_multicast() || to.is_unspecified() => Some(Refusal::NoRoute),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;
