//! The rules against a naive model of RFC 8656 (`model/reference.rs`): whatever clients, peers and
//! the clock do, both must answer, forward and count alike.

mod common;
#[path = "model/reference.rs"]
mod reference;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use turnway_relay::limits::Limits;
use turnway_relay::{Event, IcmpError, IpFields, Protocol, Transport};
use turnway_wire::{
    AdditionalAddressFamily, ChannelNumber, EvenPort, Family, Lifetime, Method,
    RequestedAddressFamily, RequestedTransport, ReservationToken, XorPeerAddress, channel_header,
};

use common::client::{Ask, Raw, Response, TestClient, indication};
use common::{Settings, World, addr};
use reference::{Codes, LOCAL, Model, Wish, family, granted};

const USERS: [(&str, &str); 2] = [("alice", "sesame"), ("bob", "hunter2")];
const CLIENTS: usize = 4;

/// Peers by number; those beyond are relayed addresses of the clients.
const PEERS: [&str; 11] = [
    "198.51.100.1:5000",
    "198.51.100.1:5001",
    "198.51.100.2:5000",
    "198.51.100.3:5000",
    "198.51.100.4:5000",
    "198.51.100.1:0",
    "192.168.0.1:80",
    "[2001:db8:99::1]:5000",
    "[2001:db8:99::2]:5000",
    "[2001:db8:99::3]:5000",
    "[fd00::1]:80",
];

/// Something that happens. Numbers name clients, users, peers and tokens.
#[derive(Clone, Debug)]
enum Step {
    Allocate(usize, usize, Allocate),
    Retransmit(usize),
    Refresh(usize, usize, Option<u32>, Option<bool>),
    Permit(usize, usize, Vec<usize>),
    Bind(usize, usize, u16, usize),
    Send(usize, usize, Vec<u8>, u8),
    ChannelData(usize, u16, Vec<u8>, u8),
    FromPeer(usize, bool, usize, Vec<u8>, u8),
    Icmp(usize, bool, usize, u8),
    Pass(u64),
    /// The same, and the server does not look at the clock until it must.
    PassUnnoticed(u64),
    Disconnect(usize),
    Reload(bool),
}

#[derive(Clone, Debug)]
struct Allocate {
    transport: u8,
    v6: Option<bool>,
    additional_v6: Option<bool>,
    even: Option<bool>,
    token: Option<usize>,
    lifetime: Option<u32>,
}

fn rarely<T: Clone + std::fmt::Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![4 => Just(None), 1 => some.prop_map(Some)]
}

fn allocate() -> impl Strategy<Value = Allocate> {
    let transport = prop_oneof![30 => Just(17_u8), 1 => Just(132_u8)];
    let additional = rarely(prop::bool::weighted(0.9));
    let fields = (
        transport,
        rarely(any::<bool>()),
        additional,
        rarely(any::<bool>()),
        rarely(0..4_usize),
        lifetime(),
    );
    fields.prop_map(|(transport, v6, additional_v6, even, token, lifetime)| Allocate {
        transport,
        v6,
        additional_v6,
        even,
        token,
        lifetime,
    })
}

fn lifetime() -> impl Strategy<Value = Option<u32>> {
    let some = prop_oneof![Just(1), 500_u32..800, 3500_u32..3700, Just(u32::MAX)];
    prop_oneof![Just(None), some.prop_map(Some)]
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    // Most requests come from the user whose client it is.
    let user = || prop_oneof![12 => Just(0_usize), 1 => Just(1_usize)];
    // A few peers are met again and again.
    let peer = || prop_oneof![2 => 0..3_usize, 1 => 0..PEERS.len() + CLIENTS];
    let v6 = || prop::bool::weighted(0.2);
    let number = || prop_oneof![9 => 0x4000_u16..0x4003, 1 => prop::sample::select(vec![0x3FFF_u16, 0x8000])];
    let payload = || prop::collection::vec(any::<u8>(), 0..20);
    let ttl = || prop_oneof![9 => Just(64_u8), 1 => Just(1_u8)];
    let seconds = || prop_oneof![0..40_u64, 250..350_u64, 550..650_u64, Just(3600_u64)];
    let ending = prop_oneof![2 => lifetime(), 1 => Just(Some(0))];
    prop_oneof![
        6 => (client(), user(), allocate()).prop_map(|(c, u, a)| Step::Allocate(c, u, a)),
        1 => client().prop_map(Step::Retransmit),
        3 => (client(), user(), ending, rarely(any::<bool>()))
            .prop_map(|(c, u, l, f)| Step::Refresh(c, u, l, f)),
        6 => (client(), user(), prop::collection::vec(peer(), 0..3))
            .prop_map(|(c, u, p)| Step::Permit(c, u, p)),
        6 => (client(), user(), number(), peer()).prop_map(|(c, u, n, p)| Step::Bind(c, u, n, p)),
        6 => (client(), peer(), payload(), ttl()).prop_map(|(c, p, d, t)| Step::Send(c, p, d, t)),
        6 => (client(), number(), payload(), ttl())
            .prop_map(|(c, n, d, t)| Step::ChannelData(c, n, d, t)),
        8 => (client(), v6(), peer(), payload(), ttl())
            .prop_map(|(c, f, p, d, t)| Step::FromPeer(c, f, p, d, t)),
        3 => (client(), v6(), peer(), prop::sample::select(vec![1, 3, 3, 3, 8, 11]))
            .prop_map(|(c, f, p, t)| Step::Icmp(c, f, p, t)),
        3 => seconds().prop_map(Step::Pass),
        2 => seconds().prop_map(Step::PassUnnoticed),
        1 => client().prop_map(Step::Disconnect),
        2 => any::<bool>().prop_map(Step::Reload),
    ]
}

/// The rules and the model side by side.
struct Both {
    world: World,
    model: Model,
    clients: Vec<TestClient>,
    /// The last Allocate of each client: the bytes, the user, the wish, the response.
    last: BTreeMap<usize, (Vec<u8>, usize, Wish, Vec<u8>)>,
    /// The relayed address that each client had last, per family.
    relays: BTreeMap<(usize, u8), SocketAddr>,
    tokens: Vec<[u8; 8]>,
    unnoticed: bool,
}

fn settings(strict: bool) -> Settings {
    Settings {
        users: USERS.to_vec(),
        nonce_lifetime_s: u32::MAX,
        relays: vec![(LOCAL[0], reference::EXTERNAL[0]), (LOCAL[1], reference::EXTERNAL[1])],
        ports: (reference::FIRST_PORT, reference::LAST_PORT),
        cap: reference::CAP as u32,
        deny: if strict { vec!["198.51.100.3/32", "2001:db8:99::3/128"] } else { Vec::new() },
        limits: Limits {
            permissions_per_allocation: reference::PERMISSIONS,
            channels_per_allocation: reference::CHANNELS,
            icmp_per_second: reference::ICMP_PER_SECOND,
            old_channel_numbers: false,
            ..Limits::default()
        },
        ..Settings::default()
    }
}

/// Client 0 is alice's, 1 bob's and so on; the third is on TCP, the last on IPv6.
fn client(index: usize) -> TestClient {
    let mut client = match index {
        3 => TestClient::new("[2001:db8:1::1]:40000"),
        _ => TestClient::new(&format!("192.0.2.{}:40000", index + 1)),
    };
    if index == 2 {
        client.at.tuple.transport = Transport::Tcp;
    }
    (client.modern, client.fingerprint) = (index % 2 == 1, index % 4 == 1);
    let (user, password) = USERS[index % 2];
    client.of(user, password)
}

impl Both {
    fn new() -> Self {
        let mut world = World::new(&settings(false));
        let mut clients: Vec<_> = (0..CLIENTS).map(client).collect();
        for client in &mut clients {
            let challenge = client.ask_once(&mut world, &Ask::refresh(600));
            client.learn(&challenge);
        }
        Self {
            world,
            model: Model::default(),
            clients,
            last: BTreeMap::new(),
            relays: BTreeMap::new(),
            tokens: Vec::new(),
            unnoticed: false,
        }
    }

    fn take(&mut self, step: &Step) {
        // What becomes of other clients' ports is seen when the server looks at the clock.
        let is_about_others = match step {
            Step::Allocate(..) | Step::Retransmit(_) | Step::Reload(_) => true,
            Step::Send(_, peer, ..) | Step::Bind(.., peer) => *peer >= PEERS.len(),
            Step::FromPeer(_, _, peer, ..) | Step::Icmp(_, _, peer, _) => *peer >= PEERS.len(),
            Step::ChannelData(client, number, ..) => {
                let channels = self.model.allocations.get(client).map(|a| &a.channels);
                let channel = channels.and_then(|channels| channels.get(number));
                channel.is_some_and(|(at, _)| Model::is_own(at.ip()))
            }
            Step::Permit(..) | Step::Refresh(..) | Step::Disconnect(_) => false,
            Step::Pass(_) | Step::PassUnnoticed(_) => false,
        };
        if is_about_others {
            self.notice();
        }
        match step {
            Step::Allocate(client, user, allocate) => self.allocate(*client, *user, allocate),
            Step::Retransmit(client) => self.retransmit(*client),
            Step::Refresh(client, user, lifetime, v6) => {
                self.refresh(*client, *user, *lifetime, v6.map(number_of));
            }
            Step::Permit(client, user, peers) => self.permit(*client, *user, peers),
            Step::Bind(client, user, number, peer) => self.bind(*client, *user, *number, *peer),
            Step::Send(client, peer, payload, ttl) => self.send(*client, *peer, payload, *ttl),
            Step::ChannelData(client, number, payload, ttl) => {
                self.channel_data(*client, *number, payload, *ttl);
            }
            Step::FromPeer(client, v6, peer, payload, ttl) => {
                self.peer_sends(*client, number_of(*v6), *peer, payload, *ttl);
            }
            Step::Icmp(client, v6, peer, ty) => self.icmp(*client, number_of(*v6), *peer, *ty),
            Step::Pass(seconds) => {
                self.world.pass_unnoticed(*seconds);
                self.model.pass(*seconds);
                self.notice();
            }
            Step::PassUnnoticed(seconds) => {
                self.world.pass_unnoticed(*seconds);
                self.model.pass(*seconds);
                self.unnoticed = true;
            }
            Step::Disconnect(client) => {
                let tuple = self.clients[*client].at.tuple;
                self.world.handle(0, Event::Disconnected { tuple });
                self.model.allocations.remove(client);
            }
            Step::Reload(strict) => {
                self.world.configure(&settings(*strict));
                self.model.reload(*strict);
            }
        }
        if !self.unnoticed {
            self.compare();
        }
    }

    /// The server looks at the clock.
    fn notice(&mut self) {
        self.world.expire();
        self.unnoticed = false;
    }

    /// A peer as a client writes it. Relayed addresses that are no more are written, too.
    fn peer(&self, index: usize) -> SocketAddr {
        match PEERS.get(index) {
            Some(peer) => addr(peer),
            None => {
                let known = self.relays.get(&(index - PEERS.len(), 4));
                Model::external(known.copied().unwrap_or(addr("10.0.0.5:3478")))
            }
        }
    }

    /// The relayed address of a client, if it is bound, by whomever.
    fn bound(&self, client: usize, family: u8) -> Option<SocketAddr> {
        let known = self.relays.get(&(client, family)).copied();
        known.filter(|at| self.world.owner_of(*at).is_some())
    }

    /// Asks as the client's own user, or as the other one.
    fn ask(&mut self, client: usize, user: usize, ask: &Ask) -> (usize, Vec<u8>, Response) {
        let user = (client + user) % USERS.len();
        let asking = &mut self.clients[client];
        let own = (asking.user.clone(), asking.password.clone());
        (asking.user, asking.password) = (USERS[user].0.into(), USERS[user].1.into());
        let request = asking.request(ask);
        let response = asking.exchange(&mut self.world, &request).unwrap();
        (asking.user, asking.password) = own;
        (user, request, response)
    }

    fn allocate(&mut self, client: usize, user: usize, allocate: &Allocate) {
        let token = allocate.token.map(|back| {
            let at = self.tokens.len().checked_sub(back + 1);
            at.map_or([9; 8], |at| self.tokens[at])
        });
        let wish = Wish {
            transport: allocate.transport,
            family: allocate.v6.map(number_of),
            additional: allocate.additional_v6.map(number_of),
            even: allocate.even,
            token,
            lifetime: allocate.lifetime,
        };
        let expected = self.model.allocate(client, (client + user) % 2, &wish);
        let (user, request, response) = self.ask(client, user, &ask_for(&wish));
        self.allocated(client, user, &wish, &expected, &response);
        self.last.insert(client, (request, user, wish, response.bytes));
    }

    fn retransmit(&mut self, client: usize) {
        let Some((request, user, wish, first)) = self.last.remove(&client) else {
            return;
        };
        let succeeded = Response { bytes: first.clone() }.code() == 0;
        let expected = self.model.allocate(client, user, &wish);
        let asking = &mut self.clients[client];
        let own = (asking.user.clone(), asking.password.clone());
        (asking.user, asking.password) = (USERS[user].0.into(), USERS[user].1.into());
        let response = asking.exchange(&mut self.world, &request).unwrap();
        (asking.user, asking.password) = own;
        if succeeded && expected.contains(&437) {
            assert_eq!(response.bytes, first, "a retransmission is answered alike");
        } else {
            self.allocated(client, user, &wish, &expected, &response);
        }
        self.last.insert(client, (request, user, wish, response.bytes));
    }

    fn allocated(
        &mut self,
        client: usize,
        user: usize,
        wish: &Wish,
        expected: &Codes,
        response: &Response,
    ) {
        assert!(expected.contains(&response.code()), "{expected:?}, not {response:?}");
        if response.code() != 0 {
            return;
        }
        assert_eq!(response.lifetime(), Some(granted(wish.lifetime)));
        assert_eq!(response.mapped(), Some(self.clients[client].at.tuple.client));
        let relays: Vec<_> = response.relayed().into_iter().map(Model::local).collect();
        let lacking = response.lacking().map(|(family, code)| (family.number(), code));
        match (wish.additional.is_some(), &relays[..]) {
            (true, [one]) if one.is_ipv4() => assert_eq!(lacking, Some((2, 508))),
            (true, [_]) => assert_eq!(lacking, Some((1, 508))),
            _ => assert_eq!(lacking, None),
        }
        for at in &relays {
            self.relays.insert((client, family(at.ip())), *at);
        }
        self.tokens.extend(response.token());
        let is_tcp = self.clients[client].at.tuple.transport.is_stream();
        let client = (client, is_tcp);
        self.model.allocated(client, user, wish, &relays, response.token());
    }

    fn refresh(
        &mut self,
        client: usize,
        user: usize,
        lifetime: Option<u32>,
        family_asked: Option<u8>,
    ) {
        let mut ask = Ask::new(Method::REFRESH);
        if let Some(seconds) = lifetime {
            ask = ask.with(Lifetime(seconds));
        }
        if let Some(number) = family_asked {
            let family = Some(wire(number));
            ask = ask.with(RequestedAddressFamily { family });
        }
        let (user, _, response) = self.ask(client, user, &ask);
        let expected = self.model.refresh(client, user, lifetime, family_asked);
        assert!(expected.contains(&response.code()), "{expected:?}, not {response:?}");
        if response.code() == 0 {
            let told = if lifetime == Some(0) { 0 } else { granted(lifetime) };
            assert_eq!(response.lifetime(), Some(told));
        }
    }

    fn permit(&mut self, client: usize, user: usize, peers: &[usize]) {
        let peers: Vec<_> = peers.iter().map(|peer| self.peer(*peer)).collect();
        let start = Ask::new(Method::CREATE_PERMISSION);
        let ask = peers.iter().fold(start, |ask, peer| ask.with(XorPeerAddress(*peer)));
        let (user, _, response) = self.ask(client, user, &ask);
        let expected = self.model.create_permission(client, user, &peers);
        assert!(expected.contains(&response.code()), "{expected:?}, not {response:?}");
    }

    fn bind(&mut self, client: usize, user: usize, number: u16, peer: usize) {
        let peer = self.peer(peer);
        let ask =
            Ask::new(Method::CHANNEL_BIND).with(ChannelNumber(number)).with(XorPeerAddress(peer));
        let (user, _, response) = self.ask(client, user, &ask);
        let expected = self.model.channel_bind(client, user, number, peer);
        assert!(expected.contains(&response.code()), "{expected:?}, not {response:?}");
    }

    fn send(&mut self, client: usize, peer: usize, payload: &[u8], ttl: u8) {
        let peer = self.peer(peer);
        let ask =
            Ask::new(Method::SEND).with(XorPeerAddress(peer)).with(Raw::<0x0013>(payload.to_vec()));
        let sent = self.datagram(client, &indication(&ask), ttl);
        let expected = (ttl > 1).then(|| self.model.send(client, peer, payload.len()));
        let expected = expected.flatten().map(|(from, to)| (from, to, payload.to_vec()));
        assert_eq!(sent, expected);
    }

    fn channel_data(&mut self, client: usize, number: u16, payload: &[u8], ttl: u8) {
        let mut data = channel_header(number, payload.len() as u16).to_vec();
        data.extend_from_slice(payload);
        if !(0x4000..0x8000).contains(&number) {
            return;
        }
        let sent = self.datagram(client, &data, ttl);
        let expected = (ttl > 1).then(|| self.model.channel_data(client, number, payload.len()));
        let expected = expected.flatten().map(|(from, to)| (from, to, payload.to_vec()));
        assert_eq!(sent, expected);
    }

    fn datagram(
        &mut self,
        client: usize,
        data: &[u8],
        ttl: u8,
    ) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let ip = Some(IpFields { ttl, tos: 0x55 });
        let sent = self.clients[client].datagram(&mut self.world, data, ip).ok()?;
        let ttl = ttl - 1;
        assert_eq!(sent.ip, Some(IpFields { ttl, tos: 0x55 }));
        Some((sent.from, sent.to, sent.payload))
    }

    fn peer_sends(&mut self, client: usize, family: u8, peer: usize, payload: &[u8], ttl: u8) {
        let Some(relay) = self.bound(client, family) else {
            return;
        };
        let peer = Model::local(self.peer(peer));
        let ip = Some(IpFields { ttl, tos: 0x55 });
        let got = self.world.peer_sends_with(relay, peer, payload, ip).ok();
        let expected = (ttl > 1).then(|| self.model.peer_sends(relay, peer, payload.len()));
        let Some((client, channel)) = expected.flatten() else {
            assert!(got.is_none(), "relayed: {got:?}");
            return;
        };
        let got = got.expect("what is permitted is relayed");
        assert_eq!(got.to, self.clients[client].at);
        match channel {
            Some(number) => assert_eq!(got.channel(), Some((number, payload))),
            None => assert_eq!(got.data(), Some((Model::external(peer), payload.to_vec()))),
        }
    }

    fn icmp(&mut self, client: usize, family: u8, peer: usize, icmp_type: u8) {
        let Some(relay) = self.bound(client, family) else {
            return;
        };
        let peer = Model::local(self.peer(peer));
        let error = IcmpError { family: wire(family), icmp_type, code: 1, data: 0 };
        let told = self.world.icmp(relay, peer, error).map(|(to, _)| to);
        let expected = self.model.icmp(relay, peer, icmp_type);
        assert_eq!(told, expected.map(|client| self.clients[client].at));
    }

    /// Everything that is counted.
    fn compare(&self) {
        let stats = self.world.stats();
        let allocations = &self.model.allocations;
        let tcp = allocations.values().filter(|a| a.is_tcp).count();
        let udp = allocations.len() - tcp;
        assert_eq!(stats.allocations_of(Transport::Udp), udp as u64);
        assert_eq!(stats.allocations_of(Transport::Tcp), tcp as u64);
        assert_eq!(self.world.shared.allocations.count() as usize, udp + tcp);
        let permissions: usize = allocations.values().map(|a| a.permissions.len()).sum();
        assert_eq!(stats.permissions, permissions as u64);
        let channels: usize = allocations.values().map(|a| a.channels.len()).sum();
        assert_eq!(stats.channels, channels as u64);
        assert_eq!(self.world.channels[0].len(), channels);
        let counts = self.world.pool.counts();
        assert_eq!(counts.claimed, self.model.live().len());
        assert_eq!(counts.reserved, self.model.reservations.len());
        for (traffic, expected) in
            [stats.traffic_of(Transport::Udp), stats.traffic_of(Transport::Tcp)]
                .iter()
                .zip(self.model.traffic)
        {
            let counted = [
                traffic.to_peer,
                traffic.to_peer_bytes,
                traffic.to_client,
                traffic.to_client_bytes,
            ];
            assert_eq!(counted, expected);
        }
        for at in self.model.live() {
            assert!(self.world.shared.live.contains(Protocol::Udp, at));
        }
    }
}

fn number_of(v6: bool) -> u8 {
    if v6 { 6 } else { 4 }
}

fn wire(number: u8) -> Family {
    if number == 4 { Family::V4 } else { Family::V6 }
}

fn ask_for(wish: &Wish) -> Ask {
    let mut ask = Ask::new(Method::ALLOCATE).with(RequestedTransport(wish.transport));
    if let Some(number) = wish.family {
        let family = Some(wire(number));
        ask = ask.with(RequestedAddressFamily { family });
    }
    if let Some(number) = wish.additional {
        let family = Some(wire(number));
        ask = ask.with(AdditionalAddressFamily { family });
    }
    if let Some(reserve_next) = wish.even {
        ask = ask.with(EvenPort { reserve_next });
    }
    if let Some(token) = wish.token {
        ask = ask.with(ReservationToken(token));
    }
    if let Some(seconds) = wish.lifetime {
        ask = ask.with(Lifetime(seconds));
    }
    ask
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1024,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_rules_are_those_of_the_rfc(steps in prop::collection::vec(step(), 1..150)) {
        let mut both = Both::new();
        for step in &steps {
            both.take(step);
        }
        both.world.pass(3600);
        both.world.assert_empty();
    }
}
