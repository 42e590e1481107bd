//! Binding (RFC 8489 section 12): a client learns its server-reflexive address.

use turnway_wire::XorMappedAddress;

use crate::address::Now;
use crate::discovery::ATTRIBUTES;
use crate::request::Call;
use crate::server::Server;

impl Server {
    /// Answers with XOR-MAPPED-ADDRESS and nothing else, unless there is NAT behaviour discovery:
    /// at most 1.4 times what was asked (2.5 times with discovery), counted with IP and UDP
    /// headers, so that forged sources gain nothing.
    //= rfc8489#section-12
    //= type=exception
    //= reason=Their messages have no magic cookie, without which a datagram is taken for STUN too
    //= reason=easily; RFC 5780 section 3 says SHOULD NOT.
    //# Stand-alone STUN servers SHOULD support
    //# backwards compatibility with clients using [RFC3489], as described in
    //# Section 11.
    //= rfc8489#section-6.3.1.1
    //# When forming the success response, the server adds an XOR-MAPPED-ADDRESS attribute to the
    //# response
    pub(crate) fn binding(&mut self, call: &Call<'_>, now: Now, out: &mut [u8]) {
        let tuple = &call.answer.client.tuple;
        let (mapped, places) = (tuple.client, self.discovery_at(tuple));
        let known = places.map_or(&[][..], |_| &ATTRIBUTES);
        if !self.may_answer(mapped, now) || self.rejects_unknown(call, known, out) {
            return;
        }
        if let Some(places) = places {
            return self.discover(call, places, out);
        }
        self.success(&call.answer, out, |builder| builder.add(&XorMappedAddress(mapped)));
    }
}
