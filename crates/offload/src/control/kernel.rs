//! The kernel as [`Paths`] sees it: netlink to ask, maps to write.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::attach::{Attachments, Outcome};
use crate::checks::Survey;
use crate::figures::Refusal;
use crate::hops::{Egress, HopKey, Way, World};
use crate::maps::{Hop, Path, PathKey};
use crate::netlink::Netlink;
use crate::netlink::route::{Link, Mac, Route};
use crate::paths::Paths;
use crate::program::Program;

pub(super) struct Kernel {
    pub(super) program: Program,
    pub(super) netlink: Netlink,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) attachments: Attachments,
}

impl Kernel {
    /// Attaches and detaches as the survey says; what leaves by an interface that loses the program
    /// is passed up before that.
    pub(super) fn attach(&mut self, survey: &mut Survey, paths: &mut Paths) -> Outcome {
        for index in self.attachments.leaving(survey) {
            paths.hops_mut().suspend(self, index);
        }
        self.attachments.apply(&mut self.program, &mut self.netlink, survey)
    }

    /// Detaches where the program is native, to be attached generically by the next survey. False
    /// if there is no such interface.
    pub(super) fn fall_back(&mut self, paths: &mut Paths) -> bool {
        let native = self.attachments.native();
        for &index in &native {
            paths.hops_mut().suspend(self, index);
        }
        self.attachments.fall_back(&mut self.program);
        !native.is_empty()
    }
}

impl World for Kernel {
    fn way(&mut self, to: IpAddr, from: IpAddr) -> Result<Way, Refusal> {
        let route = self.netlink.route(to, from).map_err(|error| {
            tracing::debug!(%to, %error, "offload: the route cannot be read");
            Refusal::NoRoute
        })?;
        match route {
            Route::Local => Ok(Way::Local),
            Route::Nowhere => Err(Refusal::NoRoute),
            Route::Wrapped => Err(Refusal::NoEthernet),
            Route::Via { link, next, mtu } => {
                // One that came this moment: its own event has the route read again.
                let link = self.links.get(&link).ok_or(Refusal::NotAttached)?;
                let egress = egress(link, |index| self.attachments.device(index))?;
                let mtu = mtu.unwrap_or(link.mtu).min(link.mtu);
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                Ok(Way::Hop(HopKey { link: link.index, next, mtu }, egress))
            }
        }
    }

    fn neighbour(&mut self, link: u32, next: IpAddr) -> Option<Mac> {
        self.netlink.neighbour(link, next).unwrap_or_else(|error| {
            tracing::debug!(%next, %error, "offload: a neighbour cannot be read");
            None
        })
    }

    fn provoke(&mut self, link: u32, next: IpAddr) {
        if let Err(error) = self.netlink.use_neighbour(link, next) {
            tracing::debug!(%next, %error, "offload: a neighbour cannot be asked for");
        }
    }

    fn set_hop(&mut self, index: u16, hop: Option<&Hop>) {
        let hops = &self.program.maps().hops;
        match hop {
            Some(hop) => hops.set(index, hop),
            None => hops.clear(index),
        }
    }

    fn insert(&mut self, key: &PathKey, path: &Path) -> bool {
        let inserted = self.program.maps().paths.insert(key, path);
        if let Err(error) = &inserted {
            tracing::debug!(%error, "offload: a path cannot be inserted");
        }
        inserted.is_ok()
    }

    fn remove(&mut self, key: &PathKey) {
        if let Err(error) = self.program.maps().paths.remove(key) {
            tracing::warn!(%error, "offload: a path cannot be removed");
        }
    }
}

/// How packets leave by a link; it may be a VLAN on the one that has the program. `device`: the
/// place of an interface that has it, and whether frames may turn round there.
fn egress(link: &Link, device: impl Fn(u32) -> Option<(u32, bool)>) -> Result<Egress, Refusal> {
    if !link.ethernet || link.loopback {
        return Err(Refusal::NoEthernet);
    }
    let (ifindex, vlan) = match link.vlan {
        Some(vlan) if vlan.plain => (vlan.parent, vlan.identifier),
        Some(_) => return Err(Refusal::NotAttached),
        None => (link.index, 0),
    };
    let (device, turns) = device(ifindex).ok_or(Refusal::NotAttached)?;
    Ok(Egress { device, ifindex, vlan, mac: link.mac, turns })
}

/// Whether anything changed that routes depend on. That our own program is attached is none of it.
pub(super) fn differ(before: &BTreeMap<u32, Link>, now: &BTreeMap<u32, Link>) -> bool {
    let without = |link: &Link| Link { xdp: None, ..link.clone() };
    before.len() != now.len()
        || before.iter().zip(now).any(|((_, a), (_, b))| without(a) != without(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::route::Vlan;

    fn link(index: u32) -> Link {
        Link { index, ethernet: true, mac: [2, 0, 0, 0, 0, index as u8], ..Link::default() }
    }

    /// Interface 5 has the program, in place 2.
    fn leaves(link: &Link) -> Result<Egress, Refusal> {
        egress(link, |index| (index == 5).then_some((2, true)))
    }

    #[test]
    fn what_leaves_by_a_vlan_leaves_by_its_parent_with_a_tag() {
        let plain = leaves(&link(5)).unwrap();
        assert_eq!((plain.device, plain.ifindex, plain.vlan, plain.mac), (2, 5, 0, link(5).mac));
        let on = |parent, plain| {
            let vlan = Vlan { parent, identifier: 7, plain };
            leaves(&Link { vlan: Some(vlan), ..link(9) })
        };
        let tagged = on(5, true).unwrap();
        assert_eq!((tagged.device, tagged.ifindex, tagged.vlan), (2, 5, 7));
        assert_eq!(tagged.mac, link(9).mac, "a VLAN device may have an address of its own");
        assert_eq!(on(5, false), Err(Refusal::NotAttached));
        assert_eq!(on(6, true), Err(Refusal::NotAttached));
    }

    #[test]
    fn nothing_leaves_by_a_link_without_frames_or_without_the_program() {
        let tunnel = Link { ethernet: false, ..link(5) };
        assert_eq!(leaves(&tunnel), Err(Refusal::NoEthernet));
        assert_eq!(leaves(&link(6)), Err(Refusal::NotAttached));
    }

    #[test]
    fn that_a_program_is_attached_is_no_change_of_the_network() {
        let links = |link: Link| BTreeMap::from([(link.index, link)]);
        let ours = Link { xdp: Some(1), ..link(5) };
        assert!(!differ(&links(link(5)), &links(ours)));
        assert!(differ(&links(link(5)), &links(Link { up: true, ..link(5) })));
        assert!(differ(&links(link(5)), &BTreeMap::new()));
    }
}
