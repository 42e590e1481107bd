//! Messages as Linux 6 sends them, built attribute by attribute.

use super::*;
use crate::netlink::codec::messages;

const VETH: u32 = 5;

fn message(kind: u16, header: &[u8], attributes: &[(u16, &[u8])]) -> Message {
    let bytes = raw(kind, header, attributes);
    messages(&bytes).next().unwrap()
}

fn raw(kind: u16, header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend_from_slice(header);
    for (kind, value) in attributes {
        bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes
}

fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    raw(0, &[], attributes)[16..].to_vec()
}

fn ifinfo(flags: i32) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
    header.extend_from_slice(&VETH.to_ne_bytes());
    header.extend_from_slice(&(flags as u32).to_ne_bytes());
    header.resize(16, 0);
    header
}

fn link(attributes: &[(u16, &[u8])]) -> Link {
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    let named = [(libc::IFLA_IFNAME, &b"vlan7\0"[..]), (libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1])];
    let all = [&named[..], attributes].concat();
    parse_link(&message(libc::RTM_NEWLINK, &ifinfo(up), &all)).unwrap()
}

#[test]
fn a_plain_link_is_its_name_and_address() {
    let link = link(&[(libc::IFLA_MTU, &1500_u32.to_ne_bytes())]);
    let expected = Link {
        index: VETH,
        name: "vlan7".into(),
        up: true,
        running: true,
        ethernet: true,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        ..Link::default()
    };
    assert_eq!(link, expected);
}

#[test]
fn a_vlan_is_known_by_its_parent_and_tag() {
    let of = |protocol: [u8; 2]| {
        let data = nested(&[(IFLA_VLAN_PROTOCOL, &protocol), (IFLA_VLAN_ID, &7_u16.to_ne_bytes())]);
        nested(&[(libc::IFLA_INFO_KIND, b"vlan\0"), (libc::IFLA_INFO_DATA, &data)])
    };
    let info = of([0x81, 0x00]);
    let parent = (libc::IFLA_LINK, &3_u32.to_ne_bytes()[..]);
    let vlan = link(&[parent, (libc::IFLA_LINKINFO, &info)]).vlan;
    assert_eq!(vlan, Some(Vlan { parent: 3, identifier: 7, plain: true }));
    let outer = of([0x88, 0xa8]);
    let vlan = link(&[parent, (libc::IFLA_LINKINFO, &outer)]).vlan;
    assert_eq!(vlan.map(|vlan| vlan.plain), Some(false));
    // Its parent is in another network namespace: that index means something else here.
    let elsewhere = (libc::IFLA_LINK_NETNSID, &0_u32.to_ne_bytes()[..]);
    assert_eq!(link(&[parent, elsewhere, (libc::IFLA_LINKINFO, &info)]).vlan, None);
    // The other end of a veth is no parent.
    let veth = nested(&[(libc::IFLA_INFO_KIND, b"veth\0")]);
    assert_eq!(link(&[parent, (libc::IFLA_LINKINFO, &veth)]).vlan, None);
}

#[test]
fn a_member_and_an_xdp_program_are_seen() {
    let info = nested(&[(libc::IFLA_INFO_SLAVE_KIND, b"bond\0")]);
    let attached = nested(&[(IFLA_XDP_ATTACHED, &[1]), (IFLA_XDP_PROG_ID, &42_u32.to_ne_bytes())]);
    let found = link(&[
        (libc::IFLA_MASTER, &9_u32.to_ne_bytes()),
        (libc::IFLA_LINKINFO, &info),
        (libc::IFLA_XDP, &attached),
    ]);
    assert_eq!((found.member, found.xdp), (Some((9, "bond".into())), Some(42)));
    let detached = nested(&[(IFLA_XDP_ATTACHED, &[0])]);
    assert_eq!(link(&[(libc::IFLA_XDP, &detached)]).xdp, None);
}

fn rtmsg(kind: u8) -> [u8; RTMSG] {
    let mut header = [0; RTMSG];
    header[0] = libc::AF_INET as u8;
    header[1] = 24;
    header[7] = kind;
    header
}

fn route(kind: u8, attributes: &[(u16, &[u8])]) -> Option<Route> {
    let message = message(libc::RTM_NEWROUTE, &rtmsg(kind), attributes);
    parse_route(&message, IpAddr::from([198, 51, 100, 2]))
}

#[test]
fn a_route_leads_to_the_gateway_or_the_destination_itself() {
    let out = (libc::RTA_OIF, &VETH.to_ne_bytes()[..]);
    let itself = IpAddr::from([198, 51, 100, 2]);
    let via = |next: IpAddr, mtu| Some(Route::Via { link: VETH, next, mtu });
    assert_eq!(route(libc::RTN_UNICAST, &[out]), via(itself, None));
    let gateway = (libc::RTA_GATEWAY, &[192, 0, 2, 1][..]);
    assert_eq!(route(libc::RTN_UNICAST, &[out, gateway]), via([192, 0, 2, 1].into(), None));
    let metrics = nested(&[(8, &[1, 0, 0, 0]), (RTAX_MTU, &1400_u32.to_ne_bytes())]);
    let metrics = (libc::RTA_METRICS, &metrics[..]);
    assert_eq!(route(libc::RTN_UNICAST, &[out, metrics]), via(itself, Some(1400)));
    let mut by_ipv6 = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
    by_ipv6.extend_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let next = "fe80::1".parse().unwrap();
    assert_eq!(route(libc::RTN_UNICAST, &[out, (libc::RTA_VIA, &by_ipv6)]), via(next, None));
}

#[test]
fn what_is_no_way_out_is_told_apart() {
    let out = (libc::RTA_OIF, &1_u32.to_ne_bytes()[..]);
    assert_eq!(route(libc::RTN_LOCAL, &[out]), Some(Route::Local));
    assert_eq!(route(libc::RTN_BLACKHOLE, &[]), Some(Route::Nowhere));
    assert_eq!(route(libc::RTN_BROADCAST, &[out]), Some(Route::Nowhere));
    let tunnel = (libc::RTA_ENCAP, &[][..]);
    assert_eq!(route(libc::RTN_UNICAST, &[out, tunnel]), Some(Route::Wrapped));
    assert_eq!(route(libc::RTN_UNICAST, &[]), None, "without an interface");
}

#[test]
fn changes_of_routes_name_their_prefix() {
    let destination = (libc::RTA_DST, &[198, 51, 100, 0][..]);
    let change = |attributes| {
        parse_change(&message(libc::RTM_DELROUTE, &rtmsg(libc::RTN_UNICAST), attributes))
    };
    let prefix = (IpAddr::from([198, 51, 100, 0]), 24);
    assert_eq!(change(&[destination]), Some(Change::Routes(Some(prefix))));
    let mut default = rtmsg(libc::RTN_UNICAST);
    default[1] = 0;
    assert_eq!(
        parse_change(&message(libc::RTM_NEWROUTE, &default, &[])),
        Some(Change::Routes(Some((IpAddr::from([0; 4]), 0))))
    );
    assert_eq!(
        parse_change(&message(libc::RTM_NEWRULE, &rtmsg(0), &[])),
        Some(Change::Routes(None))
    );
}

fn neighbour(kind: u16, state: u16, attributes: &[(u16, &[u8])]) -> Option<Change> {
    let header = ndmsg(VETH, IpAddr::from([0; 4]), state, 0);
    parse_change(&message(kind, &header, attributes))
}

#[test]
fn a_neighbour_is_known_in_the_states_in_which_the_kernel_sends_to_it() {
    let address = (libc::NDA_DST, &[192, 0, 2, 1][..]);
    let lladdr = (libc::NDA_LLADDR, &[2, 0, 0, 0, 0, 7][..]);
    let address_is = |mac, forgotten| {
        let address = IpAddr::from([192, 0, 2, 1]);
        Some(Change::Neighbour { link: VETH, address, mac, forgotten })
    };
    let is = |mac| address_is(mac, false);
    let known = is(Some([2, 0, 0, 0, 0, 7]));
    for state in [libc::NUD_REACHABLE, libc::NUD_STALE, libc::NUD_PERMANENT, libc::NUD_PROBE] {
        assert_eq!(neighbour(libc::RTM_NEWNEIGH, state, &[address, lladdr]), known);
    }
    for state in [libc::NUD_INCOMPLETE, libc::NUD_FAILED, libc::NUD_NONE] {
        assert_eq!(neighbour(libc::RTM_NEWNEIGH, state, &[address, lladdr]), is(None));
    }
    let gone = neighbour(libc::RTM_DELNEIGH, libc::NUD_STALE, &[address, lladdr]);
    assert_eq!(gone, address_is(None, true));
    // Not of Ethernet.
    let long = (libc::NDA_LLADDR, &[0; 20][..]);
    assert_eq!(neighbour(libc::RTM_NEWNEIGH, libc::NUD_STALE, &[address, long]), is(None));
    // The forwarding table of a bridge.
    let mut header = ndmsg(VETH, IpAddr::from([0; 4]), libc::NUD_STALE, 0);
    header[0] = libc::AF_BRIDGE as u8;
    assert_eq!(parse_change(&message(libc::RTM_NEWNEIGH, &header, &[lladdr])), None);
}

#[test]
fn a_rule_that_looks_at_ports_or_dscp_is_told_by_its_priority() {
    let priority = (FRA_PRIORITY, &100_u32.to_ne_bytes()[..]);
    let ports = (FRA_DPORT_RANGE, &[0; 4][..]);
    let choosy = |tos: u8, attributes: &[(u16, &[u8])]| {
        let mut header = [0; RULE];
        header[3] = tos;
        parse_choosy_rule(&message(libc::RTM_NEWRULE, &header, attributes))
    };
    assert_eq!(choosy(0, &[priority]), None);
    assert_eq!(choosy(0, &[priority, ports]), Some(100));
    assert_eq!(choosy(8, &[priority]), Some(100));
    assert_eq!(choosy(0, &[ports]), Some(0));
    assert_eq!(choosy(0, &[]), None);
}

#[test]
fn addresses_and_qdiscs() {
    let mut header = [0; IFADDR];
    header[4..8].copy_from_slice(&VETH.to_ne_bytes());
    let far = (libc::IFA_ADDRESS, &[192, 0, 2, 9][..]);
    let ours = (libc::IFA_LOCAL, &[192, 0, 2, 8][..]);
    let parsed = parse_address(&message(libc::RTM_NEWADDR, &header, &[far, ours]));
    assert_eq!(parsed, Some((VETH, IpAddr::from([192, 0, 2, 8]))));
    let mut header = [0; TCMSG];
    header[4..8].copy_from_slice(&VETH.to_ne_bytes());
    let qdisc = parse_qdisc(&message(libc::RTM_NEWQDISC, &header, &[(libc::TCA_KIND, b"htb\0")]));
    assert_eq!(qdisc, Some((VETH, "htb".into())));
}

#[test]
fn a_message_cut_anywhere_is_read_as_far_as_it_goes() {
    let info = nested(&[(libc::IFLA_INFO_KIND, b"vlan\0"), (libc::IFLA_INFO_DATA, &[8, 0, 1])]);
    let attributes = [
        (libc::IFLA_IFNAME, &b"eth0\0"[..]),
        (libc::IFLA_LINK, &[3, 0, 0, 0]),
        (libc::IFLA_LINKINFO, &info),
        (libc::IFLA_XDP, &[5, 0, 2, 0, 1]),
        (libc::RTA_VIA, &[10]),
        (libc::NDA_DST, &[1, 2, 3]),
    ];
    let kinds = [
        libc::RTM_NEWLINK,
        libc::RTM_NEWADDR,
        libc::RTM_NEWROUTE,
        libc::RTM_NEWNEIGH,
        libc::RTM_NEWQDISC,
    ];
    for kind in kinds {
        let whole = message(kind, &ifinfo(0), &attributes);
        for cut in 0..=whole.payload.len() {
            let message = Message { payload: whole.payload[..cut].to_vec(), ..whole.clone() };
            parse_link(&message);
            parse_address(&message);
            parse_qdisc(&message);
            parse_route(&message, IpAddr::from([0; 4]));
            parse_change(&message);
        }
    }
}
