//! NAT behaviour discovery (RFC 5780 sections 6 and 7).

use std::net::SocketAddr;

use turnway_relay::discovery::{Discovery, DiscoveryAddress, PADDING_MAX};
use turnway_relay::{Reason, Transport};
use turnway_wire::{
    AttributeType, ChangeRequest, MappedAddress, Message, Method, OtherAddress, Padding,
    ResponseOrigin, ResponsePort, XorMappedAddress,
};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{LISTENER, LISTENER_V6, Settings, World, addr, ip};

const A1: &str = "203.0.113.7";
const A2: &str = "203.0.113.8";
const PORTS: [u16; 2] = [3478, 3479];

fn same(address: &str) -> DiscoveryAddress {
    DiscoveryAddress { local: ip(address), external: ip(address) }
}

fn discovery() -> Discovery {
    let v6 = ["2001:db8:7::7", "2001:db8:7::8"].map(same);
    Discovery { addresses: vec![[same(A1), same(A2)], v6], ports: PORTS }
}

fn world_with(discovery: Discovery) -> World {
    World::new(&Settings { discovery: Some(discovery), ..Settings::default() })
}

fn world() -> World {
    world_with(discovery())
}

fn binding() -> Ask {
    Ask::new(Method::BINDING)
}

fn change(change_ip: bool, change_port: bool) -> Ask {
    binding().with(ChangeRequest { change_ip, change_port })
}

/// A client that asks one of the server's transport addresses.
fn client_of(server: SocketAddr) -> TestClient {
    let own = if server.is_ipv4() { "192.0.2.1:40000" } else { "[2001:db8:1::1]:40000" };
    let mut client = TestClient::new(own);
    client.at.tuple.server = server;
    client
}

/// What the network carries back.
struct Heard {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Heard {
    fn address<'a, A: turnway_wire::Attribute<'a>>(&'a self) -> A {
        let message = Message::parse(&self.bytes).expect("a valid message");
        message.get::<A>().expect("a valid attribute").expect("it is there")
    }

    fn attributes(&self) -> Vec<AttributeType> {
        let message = Message::parse(&self.bytes).expect("a valid message");
        message.attributes().map(|(ty, _)| ty).collect()
    }

    fn padding(&self) -> usize {
        self.address::<Padding<'_>>().0.len()
    }
}

/// Asks, and looks at where the answer comes from and goes to.
fn hear(world: &mut World, client: &mut TestClient, ask: &Ask) -> Heard {
    let request = client.request(ask);
    let reply = client.exchange(world, &request);
    match (reply, world.elsewhere.take()) {
        (Some(response), None) => {
            assert_eq!(response.code(), 0, "{response:?}");
            let tuple = client.at.tuple;
            Heard { from: tuple.server, to: tuple.client, bytes: response.bytes }
        }
        (None, Some((from, to, bytes))) => {
            let asked = Message::parse(&request).expect("our own");
            let told = Message::parse(&bytes).expect("a valid message");
            assert_eq!(told.transaction_id(), asked.transaction_id());
            assert_eq!(told.has_fingerprint(), asked.has_fingerprint());
            Heard { from, to, bytes }
        }
        (Some(_), Some(_)) => panic!("two answers"),
        (None, None) => panic!("no answer"),
    }
}

#[test]
fn the_answer_comes_from_the_address_and_port_that_were_asked_for() {
    //= rfc5780#section-6.1
    //= type=test
    //# If the "change port" flag was set in the CHANGE-
    //# REQUEST attribute of the Binding Request, and the "change IP" flag
    //# was not set, the source IP address of the Binding Response MUST be Da
    //# and the source port of the Binding Response MUST be Cp.
    //= rfc5780#section-6.1
    //= type=test
    //# If the
    //# "change IP" flag was set in the Binding Request, and the "change
    //# port" flag was not set, the source IP address of the Binding Response
    //# MUST be Ca and the source port of the Binding Response MUST be Dp.
    //= rfc5780#section-6.1
    //= type=test
    //# When both flags are set, the source IP address of the Binding
    //# Response MUST be Ca and the source port of the Binding Response MUST
    //# be Cp.
    //= rfc5780#section-6.1
    //= type=test
    //# If neither flag is set, or if the CHANGE-REQUEST attribute is
    //# absent entirely, the source IP address of the Binding Response MUST
    //# be Da and the source port of the Binding Response MUST be Dp.
    //= rfc5780#section-6.1
    //= type=test
    //# The server MUST add a RESPONSE-ORIGIN attribute to the Binding
    //# Response, containing the source address and port used to send the
    //# Binding Response.
    //= rfc5780#section-6.1
    //= type=test
    //# If the server supports an alternate address and port, the server MUST
    //# add an OTHER-ADDRESS attribute to the Binding Response.
    let mut world = world();
    let families = [[A1, A2], ["2001:db8:7::7", "2001:db8:7::8"]];
    for [one, two] in families.map(|pair| pair.map(ip)) {
        for (da, ca) in [(one, two), (two, one)] {
            for (dp, cp) in [(3478, 3479), (3479, 3478)] {
                let mut client = client_of(SocketAddr::new(da, dp));
                for (ask, from) in [
                    (binding(), (da, dp)),
                    (change(false, false), (da, dp)),
                    (change(false, true), (da, cp)),
                    (change(true, false), (ca, dp)),
                    (change(true, true), (ca, cp)),
                ] {
                    let heard = hear(&mut world, &mut client, &ask);
                    assert_eq!(heard.from, SocketAddr::from(from));
                    assert_eq!(heard.to, client.at.tuple.client);
                    assert_eq!(heard.address::<ResponseOrigin>().0, heard.from);
                    assert_eq!(heard.address::<OtherAddress>().0, SocketAddr::new(ca, cp));
                }
            }
        }
    }
}

#[test]
fn both_kinds_of_mapped_address_are_there() {
    //= rfc5780#section-6.1
    //= type=test
    //# The server MUST include both MAPPED-ADDRESS and XOR-MAPPED-ADDRESS in
    //# its Response.
    let mut world = world();
    for server in [LISTENER, LISTENER_V6] {
        let mut client = client_of(addr(server));
        let heard = hear(&mut world, &mut client, &binding());
        assert_eq!(heard.address::<MappedAddress>().0, client.at.tuple.client);
        assert_eq!(heard.address::<XorMappedAddress>().0, client.at.tuple.client);
    }
}

#[test]
fn behind_nat_clients_are_told_the_external_addresses() {
    let behind = |local, external| DiscoveryAddress { local: ip(local), external: ip(external) };
    let pair = [behind("10.0.0.5", A1), behind("10.0.0.6", A2)];
    let mut world = world_with(Discovery { addresses: vec![pair], ports: PORTS });
    let mut client = client_of(addr("10.0.0.5:3478"));
    let heard = hear(&mut world, &mut client, &change(true, false));
    assert_eq!(heard.from, addr("10.0.0.6:3478"));
    assert_eq!(heard.address::<ResponseOrigin>().0, addr("203.0.113.8:3478"));
    assert_eq!(heard.address::<OtherAddress>().0, addr("203.0.113.8:3479"));
}

#[test]
fn the_answer_goes_to_the_port_that_was_asked_for() {
    //= rfc5780#section-7.5
    //= type=test
    //# For servers which support
    //# the RESPONSE-PORT attribute, the Binding Response MUST be transmitted
    //# to the source IP address of the Binding Request and the port
    //# contained in RESPONSE-PORT.
    let mut world = world();
    let mut client = client_of(addr(LISTENER));
    let heard = hear(&mut world, &mut client, &binding().with(ResponsePort(50_000)));
    assert_eq!((heard.from, heard.to), (addr(LISTENER), addr("192.0.2.1:50000")));
    assert_eq!(heard.address::<XorMappedAddress>().0, client.at.tuple.client);
    let heard = hear(&mut world, &mut client, &change(true, true).with(ResponsePort(50_000)));
    assert_eq!((heard.from, heard.to), (addr("203.0.113.8:3479"), addr("192.0.2.1:50000")));

    let nowhere = client.ask_once(&mut world, &binding().with(ResponsePort(0)));
    assert_eq!(nowhere.code(), 400);
}

#[test]
fn padding_makes_no_answer_longer_than_its_request() {
    //= rfc5780#section-6.1
    //= type=test
    //# If the Request contained a PADDING attribute, PADDING MUST be
    //# included in the Binding Response.
    let mut world = world();
    for server in [LISTENER, LISTENER_V6] {
        let mut client = client_of(addr(server));
        for fingerprint in [false, true] {
            client.fingerprint = fingerprint;
            let mut long = 0;
            for wanted in [0, 1, 3, 4, 100, 101, 1400, 1500, 1900] {
                let ask = change(true, true).with(Raw::<0x0026>(vec![b'x'; wanted]));
                let asked = client.request(&ask).len();
                let heard = hear(&mut world, &mut client, &ask);
                // Short ones cannot hold the addresses that every answer has.
                assert!(heard.padding() == 0 || heard.bytes.len() <= asked, "{wanted}");
                assert!(heard.padding() <= PADDING_MAX.min(wanted));
                assert!(heard.padding().is_multiple_of(4));
                long = long.max(heard.bytes.len());
            }
            assert!(long > 1500, "the longest is cut into fragments: {long}");
        }
    }
}

#[test]
fn no_answer_is_worth_provoking_with_a_forged_source() {
    let mut world = world();
    for (server, headers) in [(LISTENER, 28), (LISTENER_V6, 48)] {
        let mut client = client_of(addr(server));
        let asks = [
            binding(),
            change(false, true),
            binding().with(ResponsePort(9)),
            binding().with(Raw::<0x0026>(Vec::new())),
        ];
        for ask in &asks {
            let asked = client.request(ask).len() + headers;
            let told = hear(&mut world, &mut client, ask).bytes.len() + headers;
            assert!(told * 2 <= asked * 5, "{told} for {asked}");
        }
    }
}

#[test]
fn padding_and_another_port_exclude_each_other() {
    //= rfc5780#section-6.1
    //= type=test
    //# If the Request also contains the
    //# RESPONSE-PORT attribute the server MUST return an error response of
    //# type 400.
    //= rfc5780#section-7.5
    //= type=test
    //# The server MUST NOT
    //# process a request containing a RESPONSE-PORT and a PADDING attribute.
    let mut world = world();
    let mut client = client_of(addr(LISTENER));
    let ask = binding().with(ResponsePort(50_000)).with(Raw::<0x0026>(vec![0; 100]));
    assert_eq!(client.ask_once(&mut world, &ask).code(), 400);
    assert!(world.elsewhere.is_none());
}

#[test]
fn malformed_attributes_are_refused() {
    let mut world = world();
    let mut client = client_of(addr(LISTENER));
    for ask in [
        binding().with(Raw::<0x0003>(vec![0; 3])),
        binding().with(Raw::<0x0003>(Vec::new())),
        binding().with(Raw::<0x0027>(vec![1])),
    ] {
        assert_eq!(client.ask_once(&mut world, &ask).code(), 400);
    }
}

#[test]
fn elsewhere_the_attributes_are_unknown() {
    //= rfc5780#section-6.1
    //= type=test
    //# If the Request contains the CHANGE-REQUEST attribute and the server
    //# does not have an alternate address and port as described above, the
    //# server MUST generate an error response of type 420.
    let asks = || {
        [
            change(false, false),
            binding().with(ResponsePort(50_000)),
            binding().with(Raw::<0x0026>(vec![0; 100])),
        ]
    };
    let mut streams = Vec::new();
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut client = client_of(addr(LISTENER));
        client.at.tuple.transport = transport;
        streams.push(client);
    }
    let others = ["203.0.113.9:3478", "203.0.113.7:3480"].map(|at| client_of(addr(at)));
    let mut on = world();
    for mut client in streams.into_iter().chain(others) {
        for ask in asks() {
            assert_eq!(client.ask_once(&mut on, &ask).code(), 420);
        }
        let plain = client.ask_once(&mut on, &binding());
        assert_eq!(plain.attributes(), [AttributeType::XOR_MAPPED_ADDRESS]);
    }
    let mut off = World::plain();
    for ask in asks() {
        assert_eq!(client_of(addr(LISTENER)).ask_once(&mut off, &ask).code(), 420);
    }
}

#[test]
fn only_binding_has_the_attributes() {
    let mut world = world();
    let mut client = client_of(addr(LISTENER));
    let ask = Ask::allocate().with(ChangeRequest { change_ip: true, change_port: true });
    assert_eq!(client.ask(&mut world, &ask).code(), 420);
    assert!(world.elsewhere.is_none());
}

#[test]
fn a_source_is_answered_so_often_from_wherever() {
    let settings =
        Settings { discovery: Some(discovery()), source_rate: (10, 20), ..Settings::default() };
    let mut world = World::new(&settings);
    let mut client = client_of(addr(LISTENER));
    let mut answers = 0;
    for _ in 0..50 {
        let request = client.request(&change(true, true));
        assert!(client.exchange(&mut world, &request).is_none());
        answers += usize::from(world.elsewhere.take().is_some());
    }
    assert_eq!(answers, 20);
    assert_eq!(world.drops_of_clients(Reason::RateLimited), 30);
}

#[test]
fn a_plain_answer_has_the_attributes_in_order() {
    let mut world = world();
    let mut client = client_of(addr(LISTENER));
    client.fingerprint = true;
    let heard = hear(&mut world, &mut client, &binding());
    let expected = [
        AttributeType::XOR_MAPPED_ADDRESS,
        AttributeType::MAPPED_ADDRESS,
        AttributeType::RESPONSE_ORIGIN,
        AttributeType::OTHER_ADDRESS,
        AttributeType::FINGERPRINT,
    ];
    assert_eq!(heard.attributes(), expected);
}
