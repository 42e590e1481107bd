//! What the server answers, held against what was asked, and delivered.

use turnway_relay::{Client, Outcome, Request, Transport};
use turnway_wire::{
    AttributeType, Class, ErrorCode, Lifetime, Message, Method, XorMappedAddress, XorPeerAddress,
    XorRelayedAddress,
};

use crate::messages::{outcome_of, request_of};
use crate::network::{Author, Event};
use crate::plan::external;
use crate::record::key;
use crate::shell::Cause;
use crate::world::World;

impl World<'_> {
    pub(crate) fn reply(&mut self, shard: usize, cause: &Cause<'_>, to: Client, reply: &[u8]) {
        match cause {
            Cause::Request { author, from, data } => {
                assert_eq!(to, *from, "a reply to a wrong party");
                self.response(shard, *author, to, data, reply);
            }
            Cause::Icmp { key: owner, peer } => {
                assert_eq!(key(&to.tuple), *owner, "an ICMP error for a wrong party");
                let msg = Message::parse(reply).expect("a Data indication");
                let kind = (msg.class(), msg.method());
                assert_eq!(kind, (Class::Indication, Method::DATA));
                assert!(msg.has(AttributeType::ICMP));
                let about = msg.get::<XorPeerAddress>().expect("well-formed");
                assert_eq!(about, Some(XorPeerAddress(external(*peer))));
                self.relay.tally[shard].icmp_relayed += 1;
            }
            Cause::Disconnected(_) | Cause::Time | Cause::Reload => {
                panic!("a reply that nobody asked for");
            }
        }
        self.send_to_client(to, reply.to_vec());
    }

    fn response(&mut self, shard: usize, author: Author, to: Client, asked: &[u8], reply: &[u8]) {
        let request = Message::parse(asked).expect("only what parses is answered");
        let response = Message::parse(reply).expect("our responses parse");
        assert_eq!(response.transaction_id(), request.transaction_id());
        assert_eq!(response.method(), request.method());
        assert_eq!(response.has_fingerprint(), request.has_fingerprint());
        let kind = request_of(request.method()).expect("only known methods are answered");
        let outcome = match response.class() {
            Class::Success => Outcome::Success,
            Class::Error => {
                let error = response.get::<ErrorCode<'_>>().expect("well-formed");
                outcome_of(error.expect("an error has a code").code)
            }
            Class::Request | Class::Indication => panic!("not a response"),
        };
        self.relay.tally[shard].requests[kind.index()][outcome.index()] += 1;
        if response.integrity().is_none() {
            check_amplification(kind, outcome, to, asked.len(), reply.len());
        }
        if outcome != Outcome::Success {
            return;
        }
        if kind == Request::Binding {
            let mapped = response.get::<XorMappedAddress>();
            return assert_eq!(mapped, Ok(Some(XorMappedAddress(to.tuple.client))));
        }
        assert_ne!(author, Author::Hostile, "{kind} granted to somebody hostile");
        assert!(response.integrity().is_some(), "an unsigned success");
        self.granted(to, &request, &response);
    }

    /// Writes down what a success gave.
    fn granted(&mut self, to: Client, request: &Message<'_>, response: &Message<'_>) {
        let now_ns = self.net.now_ns;
        let owner = key(&to.tuple);
        let lifetime_s = response.get::<Lifetime>().expect("well-formed");
        let lifetime_s = lifetime_s.map_or(u32::MAX, |lifetime| lifetime.0);
        if request.method() == Method::ALLOCATE {
            let held = self.record.held.get(&owner).expect("started");
            assert_eq!(held.transaction, request.transaction_id().0);
            let told: Vec<_> = response.all::<XorRelayedAddress>().collect();
            let relays = held.relays.iter().flatten();
            let first: Vec<_> = relays.map(|r| Ok(XorRelayedAddress(external(r.local)))).collect();
            // A retransmission is answered alike, even if one of two families is gone by now.
            assert!(first.iter().all(|relay| told.contains(relay)));
            return;
        }
        let Some(held) = self.record.held.get_mut(&owner) else {
            assert_eq!((request.method(), lifetime_s), (Method::REFRESH, 0));
            return;
        };
        assert!(held.expires_ns() > now_ns, "what was over was revived");
        let left = held.grant(request, lifetime_s, now_ns);
        assert!(left, "deleted, and yet it lives");
    }

    /// Sends a message on its way to a client.
    pub(crate) fn send_to_client(&mut self, to: Client, data: Vec<u8>) {
        match to.tuple.transport {
            Transport::Udp | Transport::Dtls => {
                assert_eq!(to.link.0, crate::session::udp_link(to.tuple.server));
                let to = to.tuple.client;
                self.net.datagram(Event::ToClient { to, data });
            }
            Transport::Tcp | Transport::Tls => {
                let session = to.link.0;
                assert!(
                    !self.sessions[session as usize].disconnected,
                    "a message for a closed connection"
                );
                self.segments(session, false, data);
            }
        }
    }

    /// Sends bytes over a session's connection: all arrive, in order, cut anywhere.
    pub(crate) fn segments(&mut self, session: u32, to_server: bool, mut data: Vec<u8>) {
        while !data.is_empty() {
            let cut = match self.net.rng.chance(100) {
                true => 1 + self.net.rng.index(data.len()),
                false => data.len(),
            };
            let rest = data.split_off(cut);
            let delay = self.net.delay();
            let clock = &mut self.sessions[session as usize].stream_clock[usize::from(to_server)];
            *clock = (self.net.now_ns + delay).max(*clock + 1);
            let time_ns = *clock;
            self.net.at(
                time_ns,
                match to_server {
                    true => Event::StreamToServer { session, data },
                    false => Event::StreamToClient { session, data },
                },
            );
            data = rest;
        }
    }
}

/// What unauthenticated answers may be in proportion to the request, with IP and UDP headers:
/// Binding 1.4 times, all others 3 times.
fn check_amplification(kind: Request, outcome: Outcome, to: Client, asked: usize, reply: usize) {
    let headers = if to.tuple.client.is_ipv4() { 28 } else { 48 };
    let (asked, reply) = ((asked + headers) * 10, (reply + headers) * 10);
    let bound = match (kind, outcome) {
        (Request::Binding, Outcome::Success) => asked * 14 / 10,
        _ => asked * 3,
    };
    assert!(reply <= bound, "{kind}, {outcome}: {reply} for {asked} bytes (times ten)");
}
