//! Binding (RFC 8489 sections 6.3 and 12).

use turnway_relay::{Event, Reason};
use turnway_wire::{AttributeType, Builder, Class, Method, TransactionId};

use crate::common::client::{Ask, Raw, TestClient};
use crate::common::{Settings, World, addr};

fn binding() -> Ask {
    Ask::new(Method::BINDING)
}

#[test]
fn a_client_learns_its_address_and_nothing_else() {
    //= rfc8489#section-6.3.1.1
    //= type=test
    //# When forming the success response, the server adds an XOR-MAPPED-ADDRESS attribute to the
    //# response
    let mut world = World::plain();
    for address in ["192.0.2.1:40000", "[2001:db8:1::1]:40000"] {
        let mut client = TestClient::new(address);
        let response = client.ask_once(&mut world, &binding());
        assert_eq!(response.mapped(), Some(addr(address)));
        assert_eq!(response.attributes(), [AttributeType::XOR_MAPPED_ADDRESS]);
        client.fingerprint = true;
        let response = client.ask_once(&mut world, &binding());
        let expected = [AttributeType::XOR_MAPPED_ADDRESS, AttributeType::FINGERPRINT];
        assert_eq!(response.attributes(), expected);
    }
    world.assert_empty();
}

#[test]
fn a_binding_does_not_amplify() {
    let mut world = World::plain();
    for (address, headers) in [("192.0.2.1:40000", 28), ("[2001:db8:1::1]:40000", 48)] {
        for fingerprint in [false, true] {
            let mut client = TestClient::new(address);
            client.fingerprint = fingerprint;
            let attributes = [binding(), binding().with(Raw::<0x7000>(vec![]))];
            for ask in &attributes {
                let request = client.request(ask);
                let answer = client.exchange(&mut world, &request).unwrap();
                let (asked, told) = (request.len() + headers, answer.bytes.len() + headers);
                assert!(told * 10 <= asked * 14, "{told} for {asked}");
            }
        }
    }
}

#[test]
fn what_must_be_understood_and_is_not_is_named() {
    let mut world = World::plain();
    let mut client = TestClient::udp();
    // RFC 5780's CHANGE-REQUEST among others: we do not send to third parties.
    let ask = binding().with(Raw::<0x0003>(vec![0, 0, 0, 6]));
    assert_eq!(client.ask_once(&mut world, &ask).code(), 420);
}

#[test]
fn what_is_no_request_is_not_answered() {
    //= rfc8489#section-6.3
    //= type=test
    //# If any errors are detected, the message is silently discarded.
    let mut world = World::plain();
    let mut client = TestClient::udp();
    let good = client.request(&binding());
    let mut broken = Vec::new();
    for at in [2, 3, 4, 7] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        broken.push(bytes);
    }
    broken.push(good[..19].to_vec());
    client.fingerprint = true;
    let mut forged = client.request(&binding());
    *forged.last_mut().unwrap() ^= 1;
    broken.push(forged);
    for bytes in &broken {
        assert!(client.send_raw(&mut world, bytes).is_none());
    }
    assert_eq!(world.drops_of_clients(Reason::Malformed), 6);
}

#[test]
fn responses_indications_and_unknown_methods_are_dropped() {
    let mut world = World::plain();
    let client = TestClient::udp();
    let mut dropped = 0;
    let classes = [Class::Request, Class::Indication, Class::Success, Class::Error];
    for class in classes {
        for method in [Method::BINDING, Method::ALLOCATE, Method::CONNECTION_ATTEMPT, Method(0xABC)]
        {
            let is_known = method == Method::BINDING || method == Method::ALLOCATE;
            if class == Class::Request && is_known {
                continue;
            }
            let mut out = [0; 20];
            let id = TransactionId([1; 12]);
            let b = Builder::new(&mut out, class, method, id).unwrap();
            let len = b.finish();
            let event = Event::Request { from: client.at, data: &out[..len] };
            assert!(world.handle(0, event).is_none());
            dropped += 1;
        }
    }
    assert_eq!(world.drops_of_clients(Reason::Unexpected), dropped);
}

#[test]
fn a_source_is_answered_so_often() {
    let settings = Settings { source_rate: (10, 20), ..Settings::default() };
    let mut world = World::new(&settings);
    let answered = |world: &mut World, address: &str, ask: &Ask| {
        let mut client = TestClient::new(address);
        let requests = (0..50).map(|_| client.request(ask)).collect::<Vec<_>>();
        let answers = requests.iter().filter_map(|bytes| client.exchange(world, bytes));
        answers.count()
    };
    assert_eq!(answered(&mut world, "192.0.2.1:1", &binding()), 20);
    // Another port is the same source, another kind of request the same rate.
    assert_eq!(answered(&mut world, "192.0.2.1:2", &Ask::allocate()), 0);
    assert_eq!(answered(&mut world, "192.0.2.2:1", &Ask::allocate()), 20);
    assert_eq!(world.drops_of_clients(Reason::RateLimited), 110);
    world.pass(1);
    assert_eq!(answered(&mut world, "192.0.2.1:1", &binding()), 10);
}

#[test]
fn who_has_authenticated_is_not_limited() {
    let settings = Settings { source_rate: (1, 2), ..Settings::default() };
    let mut world = World::new(&settings);
    let mut client = TestClient::udp();
    client.allocate(&mut world);
    for _ in 0..50 {
        assert_eq!(client.ask_once(&mut world, &Ask::refresh(600)).code(), 0);
    }
}
