//! Refresh (RFC 8656 section 8.2): an allocation lives longer, or ends.

use turnway_wire::{Family, Lifetime, RequestedAddressFamily};

use crate::address::{AllocationId, Now};
use crate::outcome::{EndReason, Outcome};
use crate::request::Call;
use crate::server::Server;

impl Server {
    pub(crate) fn refresh(&mut self, call: &Call<'_>, id: AllocationId, now: Now, out: &mut [u8]) {
        let (Ok(lifetime), Ok(requested)) =
            (call.msg.get::<Lifetime>(), call.msg.get::<RequestedAddressFamily>())
        else {
            return self.error(&call.answer, Outcome::BadRequest, out);
        };
        let Some(allocation) = self.table.get(id) else {
            return;
        };
        let held = |family: Family| allocation.relay(family).is_some();
        //= rfc8656#section-8.2
        //# If the server receives a Refresh Request with a REQUESTED-ADDRESS-FAMILY attribute and the
        //# attribute value does not match the address family of the allocation, the server MUST reply
        //# with a 443 (Peer Address Family Mismatch) Refresh error response.
        let families: &[Family] = match requested.map(|requested| requested.family) {
            None => &[Family::V4, Family::V6],
            Some(Some(Family::V4)) if held(Family::V4) => &[Family::V4],
            Some(Some(Family::V6)) if held(Family::V6) => &[Family::V6],
            Some(_) => return self.error(&call.answer, Outcome::FamilyMismatch, out),
        };
        let granted_s = match lifetime {
            Some(Lifetime(0)) => 0,
            asked => self.granted_lifetime_s(asked, &allocation.identity, now),
        };
        for &family in families {
            if granted_s == 0 {
                self.end_family(id, family, EndReason::Deleted, now);
            } else if let Some(allocation) = self.table.get_mut(id)
                && let Some(relay) = allocation.relay_mut(family)
            {
                relay.expires_ns = now.after_s(granted_s);
            }
        }
        self.channels_changed(id);
        self.success(&call.answer, out, |builder| builder.add(&Lifetime(granted_s)));
    }
}
