//! A kernel of our own: routes and neighbours in, maps out.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::hops::{Egress, HopKey};
use crate::maps::{Hop, HopState};
use crate::netlink::route::Mac;

const GATEWAY: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";
const MAC: Mac = [2, 0, 0, 0, 0, 1];
const MAC2: Mac = [2, 0, 0, 0, 0, 2];

#[derive(Default)]
struct Fake {
    /// To whom what goes to an address goes; others are by the default.
    routes: BTreeMap<IpAddr, Result<Way, Refusal>>,
    neighbours: BTreeMap<IpAddr, Mac>,
    provoked: BTreeSet<IpAddr>,
    /// How often a route was asked for.
    asked: usize,
    hops: BTreeMap<u16, Hop>,
    paths: Vec<(PathKey, Path)>,
    /// What was written, in order: account, whether inserted.
    log: Vec<(u32, bool)>,
    full: bool,
}

impl World for Fake {
    fn way(&mut self, to: IpAddr, _: IpAddr) -> Result<Way, Refusal> {
        self.asked += 1;
        self.routes.get(&to).copied().unwrap_or_else(|| Ok(via(GATEWAY, 1500)))
    }

    fn neighbour(&mut self, _: u32, next: IpAddr) -> Option<Mac> {
        self.neighbours.get(&next).copied()
    }

    fn provoke(&mut self, _: u32, next: IpAddr) {
        self.provoked.insert(next);
    }

    fn set_hop(&mut self, index: u16, hop: Option<&Hop>) {
        match hop {
            Some(hop) => drop(self.hops.insert(index, *hop)),
            None => drop(self.hops.remove(&index)),
        }
    }

    fn insert(&mut self, key: &PathKey, path: &Path) -> bool {
        if self.full {
            return false;
        }
        self.paths.retain(|(known, _)| known != key);
        self.paths.push((*key, *path));
        self.log.push((path.account, true));
        true
    }

    fn remove(&mut self, key: &PathKey) {
        let place = self.paths.iter().position(|(known, _)| known == key);
        let (_, path) = self.paths.remove(place.expect("only what is there is removed"));
        self.log.push((path.account, false));
    }
}

impl Fake {
    fn knowing(neighbours: &[(&str, Mac)]) -> Fake {
        let neighbours = neighbours.iter().map(|&(ip, mac)| (ip.parse().unwrap(), mac)).collect();
        Fake { neighbours, ..Fake::default() }
    }

    fn path(&self, account: u32) -> Option<Path> {
        self.paths.iter().map(|&(_, path)| path).find(|path| path.account == account)
    }

    /// The next hop of a path as the program would read it.
    fn hop(&self, account: u32) -> Option<Hop> {
        match self.path(account)?.hop {
            NextHop::At(index) => self.hops.get(&index).copied(),
            NextHop::Local => None,
        }
    }
}

fn via(next: &str, mtu: u16) -> Way {
    let egress = Egress { device: 3, ifindex: 7, vlan: 0, mac: [2, 0, 0, 0, 0, 9], turns: true };
    Way::Hop(HopKey { link: 7, next: next.parse().unwrap(), mtu }, egress)
}

fn channel(client: &str, peer: &str) -> Channel {
    Channel {
        client: client.parse().unwrap(),
        server: "203.0.113.1:3478".parse().unwrap(),
        relay: "203.0.113.1:50000".parse().unwrap(),
        peer: peer.parse().unwrap(),
        number: 0x4001,
    }
}

fn sample() -> Channel {
    channel("198.51.100.1:1000", "198.51.100.2:2000")
}

#[test]
fn both_directions_are_there_and_go_by_one_neighbour() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    assert_eq!(paths.install(&mut kernel, Slot::new(2), sample(), [8, 9]), [None, None]);
    let to_client = kernel.path(5).unwrap();
    assert_eq!((to_client.channel, to_client.generation), (Some(0x4001), 8));
    assert_eq!((to_client.from, to_client.to), (sample().server, sample().client));
    let to_peer = kernel.path(4).unwrap();
    assert_eq!((to_peer.channel, to_peer.generation), (None, 9));
    assert_eq!((to_peer.from, to_peer.to), (sample().relay, sample().peer));
    assert_eq!((paths.entries(), paths.hops().len()), (2, 1));
    let hop = kernel.hop(4).unwrap();
    assert_eq!((hop.state, hop.to, hop.mtu), (HopState::Fresh, MAC, 1500));
    assert_eq!(kernel.hop(5), Some(hop));
}

#[test]
fn what_comes_back_is_there_first_and_goes_last() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    paths.install(&mut kernel, Slot::new(0), sample(), [0, 0]);
    paths.remove(&mut kernel, Slot::new(0));
    assert_eq!(kernel.log, [(1, true), (0, true), (0, false), (1, false)]);
    assert_eq!((paths.entries(), paths.hops().len()), (0, 0));
    assert!(kernel.hops.is_empty(), "a next hop that nobody uses is not the program's to read");
    // What is not there can be removed as well.
    paths.remove(&mut kernel, Slot::new(0));
    paths.remove(&mut kernel, Slot::new(77));
}

#[test]
fn a_neighbour_is_found_out_and_one_write_serves_all() {
    let mut kernel = Fake::default();
    let mut paths = Paths::new(8);
    for number in 0..3_u8 {
        let channel = channel(&format!("198.51.100.1:{number}"), &format!("198.51.100.2:{number}"));
        paths.install(&mut kernel, Slot::new(number.into()), channel, [0, 0]);
    }
    assert!(kernel.provoked.contains(&GATEWAY.parse().unwrap()));
    assert_eq!(kernel.hop(0), None, "until then the program passes up");
    let written = kernel.log.len();
    let gateway = GATEWAY.parse().unwrap();
    paths.hops_mut().neighbour(&mut kernel, 7, gateway, Some(MAC));
    assert_eq!(kernel.hop(0).unwrap().to, MAC);
    paths.hops_mut().neighbour(&mut kernel, 7, gateway, Some(MAC2));
    assert_eq!(kernel.hop(5).unwrap().to, MAC2);
    // The same address on another link is somebody else.
    paths.hops_mut().neighbour(&mut kernel, 8, gateway, None);
    assert_eq!(paths.hops().in_use().collect::<Vec<_>>(), [(7, gateway)]);
    paths.hops_mut().neighbour(&mut kernel, 7, gateway, None);
    assert_eq!(kernel.hop(1), None);
    kernel.provoked.clear();
    paths.hops_mut().forgotten(&mut kernel, 7, gateway);
    paths.hops_mut().forgotten(&mut kernel, 7, OTHER.parse().unwrap());
    assert_eq!(kernel.provoked, BTreeSet::from([gateway]), "nobody else is of interest");
    assert_eq!(kernel.log.len(), written, "no path was written for it");
}

#[test]
fn a_route_that_moves_takes_its_paths_along() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC), (OTHER, MAC2)]);
    let mut paths = Paths::new(8);
    paths.install(&mut kernel, Slot::new(0), sample(), [0, 0]);
    let peer = sample().peer.ip();
    kernel.routes.insert(peer, Ok(via(OTHER, 1400)));
    paths.unsettle(&mut kernel, |to, _| to == peer);
    assert_eq!(kernel.hop(0).unwrap().state, HopState::Ask, "until it is read");
    assert!(!paths.resolve(&mut kernel, 10));
    let hop = kernel.hop(0).unwrap();
    assert_eq!((hop.state, hop.to, hop.mtu), (HopState::Fresh, MAC2, 1400));
    let other = kernel.hop(1).unwrap();
    assert_eq!((other.state, other.to), (HopState::Fresh, MAC), "the client's did not move");
    assert_eq!(paths.hops().len(), 2);
}

#[test]
fn a_route_that_goes_ends_the_path_and_one_that_comes_makes_it() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    let peer = sample().peer.ip();
    kernel.routes.insert(peer, Err(Refusal::NoRoute));
    let refused = paths.install(&mut kernel, Slot::new(0), sample(), [0, 0]);
    assert_eq!(refused, [None, Some(Refusal::NoRoute)]);
    assert_eq!(paths.entries(), 1, "the other direction is relayed all the same");
    kernel.routes.remove(&peer);
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert_eq!(paths.entries(), 2);
    kernel.routes.insert(peer, Err(Refusal::NotAttached));
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert!(kernel.path(0).is_none());
    assert_eq!((paths.entries(), paths.hops().len()), (1, 1));
    paths.remove(&mut kernel, Slot::new(0));
    assert!(kernel.paths.is_empty());
}

#[test]
fn the_work_of_a_turn_is_bounded_and_nothing_is_forgotten() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    for number in 0..10_u8 {
        let client = format!("198.51.100.1:{}", 1000 + u16::from(number));
        let channel = channel(&client, &format!("198.51.100.{}:2000", 100 + number));
        paths.install(&mut kernel, Slot::new(number.into()), channel, [0, 0]);
    }
    assert_eq!(kernel.asked, 11, "a route is read once for each pair of addresses");
    paths.unsettle(&mut kernel, |_, _| true);
    paths.unsettle(&mut kernel, |_, _| true);
    // One that goes meanwhile.
    paths.remove(&mut kernel, Slot::new(3));
    assert!(paths.resolve(&mut kernel, 4));
    assert_eq!(kernel.asked, 15);
    assert_eq!(kernel.hop(0).unwrap().state, HopState::Ask, "others by this hop are stale yet");
    assert!(!paths.resolve(&mut kernel, 100));
    assert_eq!(kernel.asked, 11 + 10);
    assert_eq!(kernel.hop(0).unwrap().state, HopState::Fresh);
}

#[test]
fn a_peer_that_is_a_relayed_address_of_ours_is_local_and_a_client_is_not_served() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let ours = sample().relay.ip();
    kernel.routes.insert(ours, Ok(Way::Local));
    let mut paths = Paths::new(8);
    let to_ours = channel("198.51.100.1:1000", "203.0.113.1:50002");
    assert_eq!(paths.install(&mut kernel, Slot::new(0), to_ours, [0, 0]), [None, None]);
    assert_eq!(kernel.path(0).unwrap().hop, NextHop::Local);
    let from_ours = channel("203.0.113.1:1000", "198.51.100.2:2000");
    let refused = paths.install(&mut kernel, Slot::new(1), from_ours, [0, 0]);
    assert_eq!(refused, [Some(Refusal::Local), Some(Refusal::Local)]);
}

#[test]
fn nobody_on_a_wire_is_believed_to_have_an_address_of_ours() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    let (channel, slot) = (channel("198.51.100.1:1000", "203.0.113.9:50002"), Slot::new(0));
    let wire = PathKey::from_peer(channel.peer, channel.relay).unwrap();
    let inside = PathKey::from_relay(channel.peer, channel.relay).unwrap();
    let keys = |kernel: &Fake| [wire, inside].map(|key| kernel.paths.iter().any(|it| it.0 == key));
    paths.install(&mut kernel, slot, channel, [0, 0]);
    assert_eq!(keys(&kernel), [true, false]);
    // The peer's address becomes ours, and then somebody else's again.
    kernel.routes.insert(channel.peer.ip(), Ok(Way::Local));
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert_eq!((keys(&kernel), paths.entries()), ([false, true], 2));
    kernel.routes.remove(&channel.peer.ip());
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert_eq!((keys(&kernel), paths.entries()), ([true, false], 2));
    // So does the client's: then nothing of it is relayed.
    kernel.routes.insert(channel.client.ip(), Ok(Way::Local));
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert_eq!((kernel.paths.len(), paths.entries()), (0, 0));
    kernel.routes.remove(&channel.client.ip());
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert_eq!(paths.entries(), 2);
    paths.remove(&mut kernel, slot);
    assert!(kernel.paths.is_empty());
}

#[test]
fn a_client_whose_address_means_nothing_without_its_interface_is_user_spaces() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    for (client, server, why) in [
        ("[fe80::2]:1000", "[fe80::1]:3478", Refusal::LinkLocal),
        ("127.0.0.1:1000", "127.0.0.1:3478", Refusal::Local),
    ] {
        let [client, server] = [client, server].map(|it| it.parse().unwrap());
        let channel = Channel { client, server, ..sample() };
        let refused = paths.install(&mut kernel, Slot::new(0), channel, [0, 0]);
        assert_eq!((refused, paths.entries()), ([Some(why); 2], 0));
    }
}

#[test]
fn addresses_without_a_way_of_their_own_are_refused() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    let mut refused = |peer: &str, relay: &str| {
        let channel = Channel { relay: relay.parse().unwrap(), ..channel("198.51.100.1:1", peer) };
        paths.install(&mut kernel, Slot::new(0), channel, [0, 0])[1]
    };
    assert_eq!(refused("[fe80::1]:9", "[2001:db8::1]:50000"), Some(Refusal::LinkLocal));
    assert_eq!(refused("127.0.0.1:9", "127.0.0.1:50000"), Some(Refusal::Local));
    assert_eq!(refused("224.0.0.1:9", "203.0.113.1:50000"), Some(Refusal::NoRoute));
    // One side cannot have two families.
    assert_eq!(refused("198.51.100.2:9", "[2001:db8::1]:50000"), Some(Refusal::NoRoute));
    assert_eq!(refused("198.51.100.2:9", "203.0.113.1:50000"), None);
}

#[test]
fn full_tables_leave_channels_in_user_space() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(1);
    kernel.routes.insert(sample().peer.ip(), Ok(via(OTHER, 1500)));
    let refused = paths.install(&mut kernel, Slot::new(0), sample(), [0, 0]);
    assert_eq!(refused, [None, Some(Refusal::HopsFull)]);
    kernel.full = true;
    let refused = paths.install(&mut kernel, Slot::new(1), sample(), [0, 0]);
    assert_eq!(refused, [Some(Refusal::Map), Some(Refusal::HopsFull)]);
    paths.remove(&mut kernel, Slot::new(1));
    paths.remove(&mut kernel, Slot::new(0));
    assert_eq!((paths.entries(), kernel.paths.len()), (0, 0));
}

#[test]
fn nothing_leaves_by_an_interface_without_the_program() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    paths.install(&mut kernel, Slot::new(0), sample(), [0, 0]);
    paths.hops_mut().suspend(&mut kernel, 8);
    assert!(kernel.hop(0).is_some(), "it was another interface");
    paths.hops_mut().suspend(&mut kernel, 7);
    assert!(kernel.hop(0).is_none());
    paths.unsettle(&mut kernel, |_, _| true);
    paths.resolve(&mut kernel, 10);
    assert_eq!(kernel.hop(0).unwrap().state, HopState::Fresh, "it has the program again");
}

#[test]
fn missed_changes_are_made_up_for() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    paths.install(&mut kernel, Slot::new(0), sample(), [0, 0]);
    kernel.neighbours.insert(GATEWAY.parse().unwrap(), MAC2);
    paths.hops_mut().refresh(&mut kernel);
    assert_eq!(kernel.hop(0).unwrap().to, MAC2);
}

/// Both directions may be of the same two addresses, and so share a flow.
#[test]
fn channels_that_share_a_flow_come_and_go_in_any_order() {
    let mut kernel = Fake::knowing(&[(GATEWAY, MAC)]);
    let mut paths = Paths::new(8);
    let mut here = BTreeSet::new();
    let mut state = 1_u32;
    for _ in 0..2000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = state >> 28;
        let slot = Slot::new(number);
        if here.remove(&number) {
            paths.remove(&mut kernel, slot);
        } else {
            let client = format!("198.51.100.{}:{}", 1 + number % 2, 1000 + number);
            let peer = format!("198.51.100.1:{}", 2000 + number);
            paths.install(&mut kernel, slot, channel(&client, &peer), [0, 0]);
            here.insert(number);
        }
        assert_eq!(paths.entries(), 2 * here.len() as u64);
        assert_eq!(kernel.paths.len(), 2 * here.len());
        assert!(paths.slots().map(Slot::index).eq(here.iter().map(|&number| number as usize)));
    }
}
