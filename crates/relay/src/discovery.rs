//! NAT behaviour discovery (RFC 5780): Binding requests that ask to be answered from elsewhere, at
//! another port, or at length.
//!
//! The usage is for UDP, where it has a meaning, and for the four transport addresses of
//! [`Discovery`]; elsewhere, and while it is off, Binding is what `crate::binding` makes of it.
//! Whoever forges a source gains nothing by it: an answer goes to the address that asked, padding
//! makes it no longer than its request, and the rate of a source bounds all of them.

use core::net::{IpAddr, SocketAddr};

use turnway_wire::{
    AttributeType, BufferFull, Builder, ChangeRequest, Class, MappedAddress, OtherAddress, Padding,
    ResponseOrigin, ResponsePort, XorMappedAddress,
};

use crate::address::{FiveTuple, Transport};
use crate::effect::Effect;
use crate::outcome::Outcome;
use crate::request::Call;
use crate::server::Server;

/// From where the server answers who wants to know about NATs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Two addresses of each family that has the usage.
    pub addresses: Vec<[DiscoveryAddress; 2]>,
    /// Two ports, at each of which every one of these addresses can receive and send.
    pub ports: [u16; 2],
}

/// One of the server's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryAddress {
    /// What requests are sent to as this machine sees it.
    pub local: IpAddr,
    /// What clients call it; the same unless there is a 1:1 NAT. Of the same family.
    pub external: IpAddr,
}

/// The attributes that Binding requests may have where there is discovery, beside the usual.
pub(crate) const ATTRIBUTES: [AttributeType; 3] =
    [AttributeType::CHANGE_REQUEST, AttributeType::RESPONSE_PORT, AttributeType::PADDING];

/// The most bytes of PADDING in an answer: the MTU of Ethernet.
pub const PADDING_MAX: usize = 1500;

/// One of the four transport addresses, as this machine and as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    local: SocketAddr,
    external: SocketAddr,
}

/// The four transport addresses as seen from the one that was asked: Da, Dp, Ca and Cp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    asked: DiscoveryAddress,
    other: DiscoveryAddress,
    asked_port: u16,
    other_port: u16,
}

impl Discovery {
    /// The places around the one that a client asked, if there is discovery for it.
    //= rfc5780#section-6
    //= type=exception
    //= reason=The tests of section 4 are for UDP; over a stream and over DTLS OTHER-ADDRESS is
    //= reason=never sent and CHANGE-REQUEST is answered with 420.
    //# On
    //# startup, the server SHOULD allocate a pair of ports for each of the
    //# UDP, TCP, and TCP/TLS transport protocols, such that it can send and
    //# receive datagrams using the same ports on each IP address (normally a
    //# wildcard binding accomplishes this).
    pub(crate) fn around(&self, tuple: &FiveTuple) -> Option<Places> {
        match tuple.transport {
            Transport::Udp => {}
            Transport::Tcp | Transport::Tls | Transport::Dtls => return None,
        }
        let (asked_port, other_port) = turned(self.ports, |&port| port == tuple.server.port())?;
        let is_asked = |address: &DiscoveryAddress| address.local == tuple.server.ip();
        let (asked, other) = self.addresses.iter().find_map(|&pair| turned(pair, is_asked))?;
        Some(Places { asked, other, asked_port, other_port })
    }
}

/// A pair, with the one that is meant in front.
fn turned<T: Copy>([one, two]: [T; 2], is_meant: impl Fn(&T) -> bool) -> Option<(T, T)> {
    if is_meant(&one) { Some((one, two)) } else { is_meant(&two).then_some((two, one)) }
}

impl Places {
    /// Where the answer to a request comes from.
    //= rfc5780#section-6.1
    //# If the "change port" flag was set in the CHANGE-
    //# REQUEST attribute of the Binding Request, and the "change IP" flag
    //# was not set, the source IP address of the Binding Response MUST be Da
    //# and the source port of the Binding Response MUST be Cp.
    //= rfc5780#section-6.1
    //# If the
    //# "change IP" flag was set in the Binding Request, and the "change
    //# port" flag was not set, the source IP address of the Binding Response
    //# MUST be Ca and the source port of the Binding Response MUST be Dp.
    //= rfc5780#section-6.1
    //# When both flags are set, the source IP address of the Binding
    //# Response MUST be Ca and the source port of the Binding Response MUST
    //# be Cp.
    //= rfc5780#section-6.1
    //# If neither flag is set, or if the CHANGE-REQUEST attribute is
    //# absent entirely, the source IP address of the Binding Response MUST
    //# be Da and the source port of the Binding Response MUST be Dp.
    fn source(&self, change: ChangeRequest) -> Place {
        let address = if change.change_ip { self.other } else { self.asked };
        let port = if change.change_port { self.other_port } else { self.asked_port };
        Place {
            local: SocketAddr::new(address.local, port),
            external: SocketAddr::new(address.external, port),
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy)]
struct Wish {
    change: ChangeRequest,
    port: Option<u16>,
    padding: Option<usize>,
}

impl Wish {
    /// `None` if it cannot be granted to anybody.
    fn of(call: &Call<'_>) -> Option<Self> {
        let none = ChangeRequest { change_ip: false, change_port: false };
        let change = call.msg.get::<ChangeRequest>().ok()?.unwrap_or(none);
        let port = call.msg.get::<ResponsePort>().ok()?.map(|port| port.0);
        let padding = call.msg.get::<Padding<'_>>().ok()?.map(|padding| padding.0.len());
        //= rfc5780#section-6.1
        //# If the Request also contains the
        //# RESPONSE-PORT attribute the server MUST return an error response of
        //# type 400.
        let both = port.is_some() && padding.is_some();
        // Nothing can be sent to port 0.
        (!both && port != Some(0)).then_some(Self { change, port, padding })
    }
}

impl Server {
    /// Answers a Binding request that came to one of the four transport addresses.
    pub(crate) fn discover(&mut self, call: &Call<'_>, places: Places, out: &mut [u8]) {
        let (answer, asked) = (&call.answer, call.msg.as_bytes().len());
        let Some(wish) = Wish::of(call) else {
            return self.error(answer, Outcome::BadRequest, out);
        };
        let source = places.source(wish.change);
        let other = places.source(ChangeRequest { change_ip: true, change_port: true }).external;
        let mapped = answer.client.tuple.client;
        let fill = |padding: Option<usize>| {
            move |builder: &mut Builder<'_>| {
                //= rfc5780#section-6.1
                //# The server MUST include both MAPPED-ADDRESS and XOR-MAPPED-ADDRESS in
                //# its Response.
                builder.add(&XorMappedAddress(mapped))?;
                builder.add(&MappedAddress(mapped))?;
                //= rfc5780#section-6.1
                //# The server MUST add a RESPONSE-ORIGIN attribute to the Binding
                //# Response, containing the source address and port used to send the
                //# Binding Response.
                builder.add(&ResponseOrigin(source.external))?;
                //= rfc5780#section-6.1
                //# If the server supports an alternate address and port, the server MUST
                //# add an OTHER-ADDRESS attribute to the Binding Response.
                builder.add(&OtherAddress(other))?;
                padding.map_or(Ok(()), |len| builder.add(&Padding(&PADDING[..len])))
            }
        };
        let mut written = answer.write(out, Class::Success, fill(wish.padding.map(|_| 0)));
        //= rfc5780#section-6.1
        //# If the Request contained a PADDING attribute, PADDING MUST be
        //# included in the Binding Response.
        //= rfc5780#section-6.1
        //= type=exception
        //= reason=An answer longer than its request would be worth provoking with a forged source;
        //= reason=it is padded to the length of the request, and at most by 1,500 bytes.
        //# The server SHOULD use a length of
        //# PADDING equal to the MTU on the outgoing interface, rounded up to an
        //# even multiple of four bytes.
        if let (Some(wanted), Ok(bare)) = (wish.padding, &written) {
            let len = wanted.min(asked.min(out.len()).saturating_sub(*bare)).min(PADDING_MAX) & !3;
            written = answer.write(out, Class::Success, fill(Some(len)));
        }
        self.send_from(call, source.local, wish, written);
    }

    /// Sends an answer from one of the four transport addresses.
    fn send_from(
        &mut self,
        call: &Call<'_>,
        from: SocketAddr,
        wish: Wish,
        written: Result<usize, BufferFull>,
    ) {
        let tuple = &call.answer.client.tuple;
        if from == tuple.server && wish.port.is_none() {
            return self.reply(&call.answer, Outcome::Success, written);
        }
        //= rfc5780#section-7.5
        //# For servers which support
        //# the RESPONSE-PORT attribute, the Binding Response MUST be transmitted
        //# to the source IP address of the Binding Request and the port
        //# contained in RESPONSE-PORT.
        let port = wish.port.unwrap_or(tuple.client.port());
        let to = SocketAddr::new(tuple.client.ip(), port);
        let len = written.expect("no response is longer than the buffer `handle` asks for");
        self.stats.answered(call.answer.request, Outcome::Success);
        self.effects.push_back(Effect::ReplyFrom { from, to, len });
    }

    /// The places around the one that a request came to, if there is discovery there.
    pub(crate) fn discovery_at(&self, tuple: &FiveTuple) -> Option<Places> {
        //= rfc5780#section-6.1
        //# If the Request contains the CHANGE-REQUEST attribute and the server
        //# does not have an alternate address and port as described above, the
        //# server MUST generate an error response of type 420.
        self.config.discovery.as_ref()?.around(tuple)
    }
}

/// What PADDING is made of: its value does not matter.
static PADDING: [u8; PADDING_MAX] = [0; PADDING_MAX];
