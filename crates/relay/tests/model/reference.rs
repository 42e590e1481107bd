//! What RFC 8656 says a server does, as naively as it can be written: maps, whole seconds, and a
//! look at everything each time. It knows nothing of the crate under test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// The address relay sockets are bound to, per family, and the one they are announced as.
pub(crate) const LOCAL: [&str; 2] = ["10.0.0.5", "2001:db8:7::7"];
pub(crate) const EXTERNAL: [&str; 2] = ["203.0.113.9", "2001:db8:7::7"];

pub(crate) const FIRST_PORT: u16 = 50_000;
pub(crate) const LAST_PORT: u16 = 50_005;
pub(crate) const CAP: usize = 3;
pub(crate) const PERMISSIONS: usize = 3;
pub(crate) const CHANNELS: usize = 2;
pub(crate) const ICMP_PER_SECOND: u32 = 3;

/// 4 or 6.
pub(crate) type Family = u8;

pub(crate) fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { 4 } else { 6 }
}

fn index(family: Family) -> usize {
    if family == 4 { 0 } else { 1 }
}

/// An allocation; everything with the second at which it is over.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) user: usize,
    pub(crate) is_tcp: bool,
    /// By family: the relayed transport address as bound.
    pub(crate) relays: BTreeMap<Family, (SocketAddr, u64)>,
    pub(crate) permissions: BTreeMap<IpAddr, u64>,
    pub(crate) channels: BTreeMap<u16, (SocketAddr, u64)>,
    icmp_in_this_second: u32,
}

/// The whole server.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) strict: bool,
    /// By client.
    pub(crate) allocations: BTreeMap<usize, Allocation>,
    /// By token: the port, whose it is, until when.
    pub(crate) reservations: BTreeMap<[u8; 8], (SocketAddr, usize, u64)>,
    /// Datagrams and bytes to peers and to clients, for UDP and for TCP clients.
    pub(crate) traffic: [[u64; 4]; 2],
}

/// What an Allocate asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) transport: u8,
    pub(crate) family: Option<Family>,
    pub(crate) additional: Option<Family>,
    /// EVEN-PORT with its R bit.
    pub(crate) even: Option<bool>,
    pub(crate) token: Option<[u8; 8]>,
    pub(crate) lifetime: Option<u32>,
}

/// What a request may be answered with: 0 is success.
pub(crate) type Codes = BTreeSet<u16>;

fn only(code: u16) -> Codes {
    BTreeSet::from([code])
}

/// Success if nothing speaks against it, otherwise any of what does.
fn or_success(mut against: Codes) -> Codes {
    if against.is_empty() {
        against.insert(0);
    }
    against
}

/// Section 7.2 and 8.2: at least the default of 600 seconds, at most an hour.
pub(crate) fn granted(asked: Option<u32>) -> u32 {
    asked.unwrap_or(600).clamp(600, 3600)
}

impl Model {
    /// Time passes, and what runs out is gone.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        for allocation in self.allocations.values_mut() {
            allocation.relays.retain(|_, (_, end)| *end > now);
            let Allocation { relays, permissions, channels, icmp_in_this_second, .. } = allocation;
            permissions.retain(|ip, end| *end > now && relays.contains_key(&family(*ip)));
            channels.retain(|_, (at, end)| *end > now && relays.contains_key(&family(at.ip())));
            if seconds > 0 {
                *icmp_in_this_second = 0;
            }
        }
        self.allocations.retain(|_, a| !a.relays.is_empty());
        self.reservations.retain(|_, (_, _, end)| *end > now);
    }

    /// Every relayed transport address in use.
    pub(crate) fn live(&self) -> BTreeSet<SocketAddr> {
        let all = self.allocations.values();
        all.flat_map(|a| a.relays.values().map(|(at, _)| *at)).collect()
    }

    /// Which client has a relayed transport address.
    pub(crate) fn client_at(&self, relay: SocketAddr) -> Option<usize> {
        let mut all = self.allocations.iter();
        let found = all.find(|(_, a)| a.relays.values().any(|(at, _)| *at == relay));
        found.map(|(client, _)| *client)
    }

    fn taken(&self) -> BTreeSet<SocketAddr> {
        let reserved = self.reservations.values().map(|(at, _, _)| *at);
        self.live().into_iter().chain(reserved).collect()
    }

    /// Whether a port of a family is to be had, under a condition on it.
    fn is_free(&self, family: Family, fits: impl Fn(u16) -> bool) -> bool {
        (FIRST_PORT..=LAST_PORT).any(|port| self.port_is_free(family, port) && fits(port))
    }

    fn port_is_free(&self, family: Family, port: u16) -> bool {
        let at = SocketAddr::new(LOCAL[index(family)].parse().unwrap(), port);
        port <= LAST_PORT && !self.taken().contains(&at)
    }

    /// The address behind one of ours.
    pub(crate) fn local(at: SocketAddr) -> SocketAddr {
        let own = EXTERNAL.iter().position(|ip| at.ip() == ip.parse::<IpAddr>().unwrap());
        own.map_or(at, |i| SocketAddr::new(LOCAL[i].parse().unwrap(), at.port()))
    }

    /// The address by which others know one of ours.
    pub(crate) fn external(at: SocketAddr) -> SocketAddr {
        let own = LOCAL.iter().position(|ip| at.ip() == ip.parse::<IpAddr>().unwrap());
        own.map_or(at, |i| SocketAddr::new(EXTERNAL[i].parse().unwrap(), at.port()))
    }

    pub(crate) fn is_own(ip: IpAddr) -> bool {
        LOCAL.iter().any(|own| ip == own.parse::<IpAddr>().unwrap())
    }

    /// The policy of the test: two networks, the hosts numbered 3 only while it is not strict.
    fn ip_permitted(&self, ip: IpAddr) -> bool {
        let (known, last) = match ip {
            IpAddr::V4(ip) => (ip.octets()[..3] == [198, 51, 100], u16::from(ip.octets()[3])),
            IpAddr::V6(ip) => (ip.segments()[..3] == [0x2001, 0xdb8, 0x99], ip.segments()[7]),
        };
        Self::is_own(ip) || (known && !(self.strict && last == 3))
    }

    fn permitted(&self, peer: SocketAddr) -> bool {
        peer.port() != 0 && self.may_come_from(peer)
    }

    /// Section 9: a datagram's address is looked at, its port only if it claims to be from us.
    fn may_come_from(&self, peer: SocketAddr) -> bool {
        let live = !Self::is_own(peer.ip()) || self.live().contains(&peer);
        live && self.ip_permitted(peer.ip())
    }

    /// Section 7.2, check by check.
    pub(crate) fn allocate(&self, client: usize, user: usize, wish: &Wish) -> Codes {
        if self.allocations.contains_key(&client) {
            return only(437);
        }
        if wish.transport != 17 {
            return only(442);
        }
        let Wish { family, additional, even, .. } = wish;
        if let Some(token) = wish.token {
            if even.is_some() || family.is_some() || additional.is_some() {
                return only(400);
            }
            let reserved = self.reservations.get(&token);
            let is_valid = reserved.is_some_and(|(_, owner, _)| *owner == user);
            return self.if_there_is_room(is_valid);
        }
        if family.is_some() && additional.is_some() {
            return only(400);
        }
        if additional.is_some() && *even == Some(true) {
            return only(400);
        }
        if let Some(additional) = additional {
            return match additional {
                4 => only(400),
                _ => self.if_there_is_room(self.is_free(4, |_| true) || self.is_free(6, |_| true)),
            };
        }
        let family = family.unwrap_or(4);
        let fits = |port: u16| match even {
            None => true,
            Some(false) => port.is_multiple_of(2),
            Some(true) => port.is_multiple_of(2) && self.port_is_free(family, port + 1),
        };
        self.if_there_is_room(self.is_free(family, fits))
    }

    fn if_there_is_room(&self, is_available: bool) -> Codes {
        only(if is_available && self.allocations.len() < CAP { 0 } else { 508 })
    }

    /// The allocation is made: what it got must have been to be had.
    pub(crate) fn allocated(
        &mut self,
        client: (usize, bool),
        user: usize,
        wish: &Wish,
        relays: &[SocketAddr],
        token: Option<[u8; 8]>,
    ) {
        let end = self.now + u64::from(granted(wish.lifetime));
        let taken = match wish.token {
            Some(token) => {
                let (at, _, _) = self.reservations.remove(&token).unwrap();
                assert_eq!(relays, [at]);
                self.taken()
            }
            None => self.taken(),
        };
        let wanted: &[Family] = match (wish.token, wish.additional, wish.family) {
            (Some(_), _, _) => &[family(relays[0].ip())],
            (None, Some(_), _) => &[4, 6],
            (None, None, Some(6)) => &[6],
            (None, None, _) => &[4],
        };
        for &wanted in wanted {
            let has = relays.iter().any(|at| family(at.ip()) == wanted);
            let fully_taken = !self.is_free(wanted, |_| true);
            assert!(has || (wish.additional.is_some() && fully_taken), "{wish:?}: {relays:?}");
        }
        for at in relays {
            assert!(wanted.contains(&family(at.ip())));
            assert!(!taken.contains(at), "{at} belongs to somebody");
            assert!((FIRST_PORT..=LAST_PORT).contains(&at.port()));
            if wish.even.is_some() && wish.additional.is_none() {
                assert_eq!(at.port() % 2, 0);
            }
        }
        assert_eq!(token.is_some(), wish.even == Some(true));
        if let Some(token) = token {
            let next = SocketAddr::new(relays[0].ip(), relays[0].port() + 1);
            assert!(!taken.contains(&next), "{next} belongs to somebody");
            let known = self.reservations.insert(token, (next, user, self.now + 30));
            assert!(known.is_none());
        }
        let (client, is_tcp) = client;
        let allocation = Allocation {
            user,
            is_tcp,
            relays: relays.iter().map(|at| (family(at.ip()), (*at, end))).collect(),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            icmp_in_this_second: 0,
        };
        self.allocations.insert(client, allocation);
    }

    /// Section 5: the allocation that a request of `user` is about.
    fn known(&self, client: usize, user: usize) -> Result<&Allocation, u16> {
        let allocation = self.allocations.get(&client).ok_or(437_u16)?;
        if allocation.user == user { Ok(allocation) } else { Err(441) }
    }

    /// Section 8.2.
    pub(crate) fn refresh(
        &mut self,
        client: usize,
        user: usize,
        lifetime: Option<u32>,
        family_asked: Option<Family>,
    ) -> Codes {
        let allocation = match self.known(client, user) {
            Ok(allocation) => allocation,
            Err(code) => return only(code),
        };
        if family_asked.is_some_and(|family| !allocation.relays.contains_key(&family)) {
            return only(443);
        }
        let end = match lifetime {
            Some(0) => self.now,
            _ => self.now + u64::from(granted(lifetime)),
        };
        let allocation = self.allocations.get_mut(&client).unwrap();
        for (family, relay) in &mut allocation.relays {
            if family_asked.is_none_or(|asked| asked == *family) {
                relay.1 = end;
            }
        }
        self.pass(0);
        only(0)
    }

    /// Section 10.2. The RFC leaves open which of several reasons is given.
    pub(crate) fn create_permission(
        &mut self,
        client: usize,
        user: usize,
        peers: &[SocketAddr],
    ) -> Codes {
        let allocation = match self.known(client, user) {
            Ok(allocation) => allocation,
            Err(code) => return only(code),
        };
        if peers.is_empty() {
            return only(400);
        }
        let ips: BTreeSet<IpAddr> = peers.iter().map(|at| Self::local(*at).ip()).collect();
        let against = self.against(allocation, &ips);
        if against.is_empty() {
            let allocation = self.allocations.get_mut(&client).unwrap();
            let ends = ips.into_iter().map(|ip| (ip, self.now + 300));
            allocation.permissions.extend(ends);
        }
        or_success(against)
    }

    fn against(&self, allocation: &Allocation, ips: &BTreeSet<IpAddr>) -> Codes {
        let mut against = Codes::new();
        for ip in ips {
            if !allocation.relays.contains_key(&family(*ip)) {
                against.insert(443);
            } else if !self.ip_permitted(*ip) {
                against.insert(403);
            }
        }
        let known = allocation.permissions.keys().copied();
        if known.chain(ips.iter().copied()).collect::<BTreeSet<_>>().len() > PERMISSIONS {
            against.insert(508);
        }
        against
    }

    /// Section 12.2.
    pub(crate) fn channel_bind(
        &mut self,
        client: usize,
        user: usize,
        number: u16,
        peer: SocketAddr,
    ) -> Codes {
        let allocation = match self.known(client, user) {
            Ok(allocation) => allocation,
            Err(code) => return only(code),
        };
        let peer = Self::local(peer);
        let in_range = (0x4000..=0x4FFF).contains(&number);
        let contradicts =
            |(n, (at, _)): (&u16, &(SocketAddr, u64))| (*n == number) != (*at == peer);
        if !in_range || allocation.channels.iter().any(contradicts) {
            return only(400);
        }
        let mut against = self.against(allocation, &BTreeSet::from([peer.ip()]));
        if !self.permitted(peer) && !against.contains(&443) {
            against.insert(403);
        }
        let is_new = !allocation.channels.contains_key(&number);
        if is_new && allocation.channels.len() >= CHANNELS {
            against.insert(508);
        }
        if against.is_empty() {
            let allocation = self.allocations.get_mut(&client).unwrap();
            allocation.channels.insert(number, (peer, self.now + 600));
            allocation.permissions.insert(peer.ip(), self.now + 300);
        }
        or_success(against)
    }

    /// Section 11.2: from where to where a Send indication's payload goes.
    pub(crate) fn send(
        &mut self,
        client: usize,
        peer: SocketAddr,
        len: usize,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let peer = Self::local(peer);
        let allocation = self.allocations.get(&client)?;
        let (from, _) = *allocation.relays.get(&family(peer.ip()))?;
        allocation.permissions.get(&peer.ip())?;
        if !self.permitted(peer) {
            return None;
        }
        let traffic = &mut self.traffic[usize::from(allocation.is_tcp)];
        traffic[0] += 1;
        traffic[1] += len as u64;
        Some((from, peer))
    }

    /// Section 12.6: the same for ChannelData.
    pub(crate) fn channel_data(
        &mut self,
        client: usize,
        number: u16,
        len: usize,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let (peer, _) = *self.allocations.get(&client)?.channels.get(&number)?;
        self.send(client, peer, len)
    }

    /// Sections 11.3 and 12.7: which client a datagram goes to, and on which channel.
    pub(crate) fn peer_sends(
        &mut self,
        relay: SocketAddr,
        peer: SocketAddr,
        len: usize,
    ) -> Option<(usize, Option<u16>)> {
        let client = self.client_at(relay)?;
        let allocation = &self.allocations[&client];
        allocation.permissions.get(&peer.ip())?;
        if !self.may_come_from(peer) {
            return None;
        }
        let mut channels = allocation.channels.iter();
        let channel = channels.find(|(_, (at, _))| *at == peer).map(|(number, _)| *number);
        let traffic = &mut self.traffic[usize::from(allocation.is_tcp)];
        traffic[2] += 1;
        traffic[3] += len as u64;
        Some((client, channel))
    }

    /// Section 11.5: which client is told of an ICMP error.
    pub(crate) fn icmp(&mut self, relay: SocketAddr, peer: SocketAddr, ty: u8) -> Option<usize> {
        let client = self.client_at(relay)?;
        let allocation = self.allocations.get_mut(&client).unwrap();
        let is_told = match family(relay.ip()) {
            4 => ty == 3 || ty == 11,
            _ => (1..=3).contains(&ty),
        };
        allocation.permissions.get(&peer.ip())?;
        if !is_told || allocation.icmp_in_this_second >= ICMP_PER_SECOND {
            return None;
        }
        allocation.icmp_in_this_second += 1;
        Some(client)
    }

    /// A new policy: what it forbids is over.
    pub(crate) fn reload(&mut self, strict: bool) {
        self.strict = strict;
        let mut allocations = std::mem::take(&mut self.allocations);
        let judge = Self { allocations: allocations.clone(), strict, ..Self::default() };
        for allocation in allocations.values_mut() {
            allocation.permissions.retain(|ip, _| judge.ip_permitted(*ip));
            allocation.channels.retain(|_, (at, _)| judge.permitted(*at));
        }
        self.allocations = allocations;
    }
}
