//! Binding (RFC 8489 section 12): a client learns its server-reflexive address.

use turnway_wire::XorMappedAddress;

use crate::address::Now;
use crate::request::Call;
use crate::server::Server;

impl Server {
    /// Answers with XOR-MAPPED-ADDRESS and nothing else: at most 1.4 times what was asked,
    /// counted with IP and UDP headers, so that forged sources gain nothing.
    //= rfc8489#section-6.3.1.1
    //# When forming the success response, the server adds an XOR-MAPPED-ADDRESS attribute to the
    //# response
    pub(crate) fn binding(&mut self, call: &Call<'_>, now: Now, out: &mut [u8]) {
        let mapped = call.answer.client.tuple.client;
        if !self.may_answer(mapped, now) || self.rejects_unknown(call, out) {
            return;
        }
        self.success(&call.answer, out, |builder| builder.add(&XorMappedAddress(mapped)));
    }
}
