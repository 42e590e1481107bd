//! Links, addresses, routes, routing rules, neighbours and queueing disciplines, as rtnetlink has
//! them.

use std::io;
use std::net::IpAddr;

use super::Netlink;
use super::codec::{Message, Request, address, attributes, text, u16_at, u32_at};

const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;
const NDMSG: usize = 12;
const TCMSG: usize = 20;
const RULE: usize = 12;

/// Leave the counters out of the answer.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const RTAX_MTU: u16 = 2;
const RTA_IP_PROTO: u16 = 27;
const FRA_PRIORITY: u16 = 6;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_DSCP: u16 = 27;
/// States in which a neighbour's Ethernet address may be used.
const NUD_VALID: u16 = libc::NUD_PERMANENT
    | libc::NUD_NOARP
    | libc::NUD_REACHABLE
    | libc::NUD_PROBE
    | libc::NUD_STALE
    | libc::NUD_DELAY;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Switched on.
    pub(crate) up: bool,
    /// And something is at the other end.
    pub(crate) running: bool,
    pub(crate) loopback: bool,
    /// With Ethernet frames; then `mac` is its address.
    pub(crate) ethernet: bool,
    pub(crate) mac: Mac,
    /// Longest IP packet.
    pub(crate) mtu: u32,
    /// `veth`, `bridge`, `vlan`…; empty for a plain device.
    pub(crate) kind: String,
    /// Member of this one, and what that is.
    pub(crate) member: Option<(u32, String)>,
    /// A VLAN: of which link, which identifier.
    pub(crate) vlan: Option<Vlan>,
    /// Identifier of the XDP program that is attached.
    pub(crate) xdp: Option<u32>,
}

/// What a VLAN device puts around its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    pub(crate) parent: u32,
    pub(crate) identifier: u16,
    /// An 802.1Q tag, not an 802.1ad one.
    pub(crate) plain: bool,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To itself.
    Local,
    /// Out of this link, to this neighbour.
    Via { link: u32, next: IpAddr, mtu: Option<u32> },
    /// Nowhere: there is no route, or it forbids.
    Nowhere,
    /// Into a tunnel that the route itself describes.
    Wrapped,
}

/// A change the kernel reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A link came, changed or went.
    Link,
    /// An address came or went.
    Address,
    /// Routes to these addresses; `None`: all of them may have changed.
    Routes(Option<(IpAddr, u8)>),
    /// A neighbour's Ethernet address, `None`: not known any more, and the kernel has `forgotten`
    /// it or could not find it out.
    Neighbour { link: u32, address: IpAddr, mac: Option<Mac>, forgotten: bool },
}

impl Netlink {
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let request = Request::new(libc::RTM_GETLINK, &[0; IFINFO])
            .attribute(libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        let answers = self.dump(request)?;
        Ok(answers.iter().filter_map(parse_link).collect())
    }

    /// Addresses of this network namespace, with the link they are on.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let answers = self.dump(Request::new(libc::RTM_GETADDR, &[0; IFADDR]))?;
        Ok(answers.iter().filter_map(parse_address).collect())
    }

    /// Queueing disciplines: link and kind.
    pub(crate) fn qdiscs(&mut self) -> io::Result<Vec<(u32, String)>> {
        let answers = self.dump(Request::new(libc::RTM_GETQDISC, &[0; TCMSG]))?;
        Ok(answers.iter().filter_map(parse_qdisc).collect())
    }

    /// Priorities of the routing rules that look at more of a datagram than its addresses: its ports
    /// or DSCP.
    pub(crate) fn choosy_rules(&mut self) -> io::Result<Vec<u32>> {
        let answers = self.dump(Request::new(libc::RTM_GETRULE, &[0; RULE]))?;
        Ok(answers.iter().filter_map(parse_choosy_rule).collect())
    }

    /// Where a UDP datagram of ours from one address to another goes.
    pub(crate) fn route(&mut self, to: IpAddr, from: IpAddr) -> io::Result<Route> {
        let mut header = [0; RTMSG];
        header[0] = family(to);
        header[1] = bits(to);
        header[2] = bits(from);
        let request = Request::new(libc::RTM_GETROUTE, &header)
            .address(libc::RTA_DST, to)
            .address(libc::RTA_SRC, from)
            .attribute(RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8]);
        match self.ask(request) {
            Ok(answers) => Ok((answers.iter().find_map(|answer| parse_route(answer, to)))
                .unwrap_or(Route::Nowhere)),
            Err(error) => match error.raw_os_error() {
                // No route; one that forbids; or the address is ours no more.
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::EADDRNOTAVAIL
                    | libc::ESRCH
                    | libc::ENETDOWN,
                ) => Ok(Route::Nowhere),
                _ => Err(error),
            },
        }
    }

    /// The Ethernet address of a neighbour, if it is known.
    pub(crate) fn neighbour(&mut self, link: u32, next: IpAddr) -> io::Result<Option<Mac>> {
        let request = Request::new(libc::RTM_GETNEIGH, &ndmsg(link, next, libc::NUD_NONE, 0))
            .address(libc::NDA_DST, next);
        match self.ask(request) {
            Ok(answers) => Ok(answers.iter().find_map(parse_neighbour).and_then(|found| found.2)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Neighbours of a link whose Ethernet address is known.
    pub(crate) fn neighbours(&mut self, link: u32) -> io::Result<Vec<IpAddr>> {
        let answers = self.dump(Request::new(libc::RTM_GETNEIGH, &[0; NDMSG]))?;
        let known = answers.iter().filter_map(parse_neighbour);
        Ok(known
            .filter(|found| found.0 == link && found.2.is_some())
            .map(|(_, ip, _)| ip)
            .collect())
    }

    /// Has the kernel find out a neighbour, or confirm one that it has not heard of for long: as
    /// if we had sent it something.
    pub(crate) fn use_neighbour(&mut self, link: u32, next: IpAddr) -> io::Result<()> {
        let header = ndmsg(link, next, libc::NUD_NONE, libc::NTF_USE);
        let request = Request::new(libc::RTM_NEWNEIGH, &header)
            .flags(libc::NLM_F_CREATE)
            .address(libc::NDA_DST, next);
        self.ask(request).map(drop)
    }

    /// Has the kernel ask a known neighbour at once.
    pub(crate) fn probe_neighbour(&mut self, link: u32, next: IpAddr) -> io::Result<()> {
        let request = Request::new(libc::RTM_NEWNEIGH, &ndmsg(link, next, libc::NUD_PROBE, 0))
            .flags(libc::NLM_F_REPLACE)
            .address(libc::NDA_DST, next);
        self.ask(request).map(drop)
    }
}

/// What a message of the [`Events`](super::Events) socket says; others are of no interest.
pub(crate) fn parse_change(message: &Message) -> Option<Change> {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Change::Link),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Change::Address),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Change::Routes(None)),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Change::Routes(parse_prefix(message))),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            let (link, address, mac) = parse_neighbour(message)?;
            let forgotten = message.kind == libc::RTM_DELNEIGH;
            let mac = mac.filter(|_| !forgotten);
            Some(Change::Neighbour { link, address, mac, forgotten })
        }
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(Change::Routes(None)),
        _ => None,
    }
}

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

fn parse_link(message: &Message) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let payload = &message.payload;
    let flags = u32_at(payload, 8)? as i32;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_RUNNING != 0,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        ..Link::default()
    };
    let (mut parent, mut elsewhere, mut master) = (None, false, None);
    let mut info = Info::default();
    for (kind, value) in attributes(payload, IFINFO) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
            libc::IFLA_LINK => parent = u32_at(value, 0),
            libc::IFLA_LINK_NETNSID => elsewhere = true,
            libc::IFLA_MASTER => master = u32_at(value, 0),
            libc::IFLA_LINKINFO => info = parse_info(value),
            libc::IFLA_XDP => link.xdp = parse_xdp(value),
            libc::IFLA_ADDRESS => {
                let mac = Mac::try_from(value).ok();
                link.ethernet = u16_at(payload, 2) == Some(libc::ARPHRD_ETHER) && mac.is_some();
                link.mac = mac.unwrap_or_default();
            }
            _ => {}
        }
    }
    link.member = master.map(|index| (index, info.member));
    let parent = parent.filter(|_| info.kind == "vlan" && !elsewhere);
    link.vlan = (parent.zip(info.vlan)).map(|(parent, identifier)| Vlan {
        parent,
        identifier,
        plain: info.plain,
    });
    link.kind = info.kind;
    Some(link)
}

#[derive(Default)]
struct Info {
    kind: String,
    member: String,
    vlan: Option<u16>,
    plain: bool,
}

fn parse_info(value: &[u8]) -> Info {
    let mut info = Info::default();
    for (kind, value) in attributes(value, 0) {
        match kind {
            libc::IFLA_INFO_KIND => info.kind = text(value),
            libc::IFLA_INFO_SLAVE_KIND => info.member = text(value),
            // Each kind of device has attributes of its own here.
            libc::IFLA_INFO_DATA if info.kind == "vlan" => {
                for (kind, value) in attributes(value, 0) {
                    match kind {
                        IFLA_VLAN_ID => info.vlan = u16_at(value, 0),
                        IFLA_VLAN_PROTOCOL => info.plain = value == [0x81, 0x00],
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    info
}

/// The program that is attached; one whose identifier the kernel keeps to itself is 0.
fn parse_xdp(value: &[u8]) -> Option<u32> {
    let mut attached = false;
    let mut program = 0;
    for (kind, value) in attributes(value, 0) {
        match kind {
            IFLA_XDP_ATTACHED => attached = value.first().is_some_and(|&mode| mode != 0),
            IFLA_XDP_PROG_ID => program = u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    attached.then_some(program)
}

fn parse_address(message: &Message) -> Option<(u32, IpAddr)> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let link = u32_at(&message.payload, 4)?;
    let mut found = None;
    for (kind, value) in attributes(&message.payload, IFADDR) {
        match kind {
            // On a point-to-point link IFA_ADDRESS is the other end.
            libc::IFA_LOCAL => return Some((link, address(value)?)),
            libc::IFA_ADDRESS => found = address(value),
            _ => {}
        }
    }
    Some((link, found?))
}

fn parse_qdisc(message: &Message) -> Option<(u32, String)> {
    if message.kind != libc::RTM_NEWQDISC {
        return None;
    }
    let link = u32_at(&message.payload, 4)?;
    let mut attributes = attributes(&message.payload, TCMSG);
    let (_, kind) = attributes.find(|&(kind, _)| kind == libc::TCA_KIND)?;
    Some((link, text(kind)))
}

/// The priority of a rule that looks at ports or DSCP.
fn parse_choosy_rule(message: &Message) -> Option<u32> {
    if message.kind != libc::RTM_NEWRULE {
        return None;
    }
    let mut choosy = *message.payload.get(3)? != 0;
    let mut priority = 0;
    for (kind, value) in attributes(&message.payload, RULE) {
        match kind {
            FRA_PRIORITY => priority = u32_at(value, 0)?,
            FRA_SPORT_RANGE | FRA_DPORT_RANGE | FRA_DSCP => choosy = true,
            _ => {}
        }
    }
    choosy.then_some(priority)
}

fn parse_route(message: &Message, to: IpAddr) -> Option<Route> {
    if message.kind != libc::RTM_NEWROUTE {
        return None;
    }
    match *message.payload.get(7)? {
        libc::RTN_LOCAL => return Some(Route::Local),
        libc::RTN_UNICAST => {}
        _ => return Some(Route::Nowhere),
    }
    let (mut link, mut next, mut mtu) = (None, to, None);
    for (kind, value) in attributes(&message.payload, RTMSG) {
        match kind {
            libc::RTA_OIF => link = u32_at(value, 0),
            libc::RTA_GATEWAY => next = address(value)?,
            // A family in two bytes, then the address: an IPv4 route by way of IPv6.
            libc::RTA_VIA => next = address(value.get(2..)?)?,
            libc::RTA_ENCAP => return Some(Route::Wrapped),
            libc::RTA_METRICS => {
                let mut metrics = attributes(value, 0);
                let found = metrics.find(|&(kind, _)| kind == RTAX_MTU);
                mtu = found.and_then(|(_, value)| u32_at(value, 0)).filter(|&mtu| mtu != 0);
            }
            _ => {}
        }
    }
    Some(Route::Via { link: link?, next, mtu })
}

/// The destination of a route; `None` if it is not of IP, or is cut.
fn parse_prefix(message: &Message) -> Option<(IpAddr, u8)> {
    let family = i32::from(*message.payload.first()?);
    let length = *message.payload.get(1)?;
    let mut attributes = attributes(&message.payload, RTMSG);
    match attributes.find(|&(kind, _)| kind == libc::RTA_DST) {
        Some((_, value)) => Some((address(value)?, length)),
        None if family == libc::AF_INET => Some((IpAddr::from([0; 4]), 0)),
        None if family == libc::AF_INET6 => Some((IpAddr::from([0; 16]), 0)),
        None => None,
    }
}

/// Link, address, and the Ethernet address where it is known.
fn parse_neighbour(message: &Message) -> Option<(u32, IpAddr, Option<Mac>)> {
    if !matches!(message.kind, libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) {
        return None;
    }
    // The forwarding table of a bridge comes by the same messages.
    let family = i32::from(*message.payload.first()?);
    if family != libc::AF_INET && family != libc::AF_INET6 {
        return None;
    }
    let link = u32_at(&message.payload, 4)?;
    let valid = u16_at(&message.payload, 8)? & NUD_VALID != 0;
    let (mut found, mut mac) = (None, None);
    for (kind, value) in attributes(&message.payload, NDMSG) {
        match kind {
            libc::NDA_DST => found = address(value),
            libc::NDA_LLADDR => mac = Mac::try_from(value).ok().filter(|_| valid),
            _ => {}
        }
    }
    Some((link, found?, mac))
}

fn ndmsg(link: u32, next: IpAddr, state: u16, flags: u8) -> [u8; NDMSG] {
    let mut header = [0; NDMSG];
    header[0] = family(next);
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests;
