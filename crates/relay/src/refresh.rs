//! Refresh (RFC 8656 section 8.2): an allocation lives longer, or ends.

use turnway_wire::{Family, Lifetime, RequestedAddressFamily};

use crate::address::{AllocationId, Now};
use crate::outcome::{EndReason, Outcome};
use crate::request::Call;
use crate::server::Server;

impl Server {
    pub(crate) fn refresh(&mut self, call: &Call<'_>, id: AllocationId, now: Now, out: &mut [u8]) {
        match self.renew(call, id, now) {
            Ok(granted_s) => {
                self.success(&call.answer, out, |builder| builder.add(&Lifetime(granted_s)));
            }
            Err(outcome) => self.error(&call.answer, outcome, out),
        }
    }

    /// Gives an allocation the lifetime that a Refresh asks for, or ends it. Gives the seconds.
    pub(crate) fn renew(
        &mut self,
        call: &Call<'_>,
        id: AllocationId,
        now: Now,
    ) -> Result<u32, Outcome> {
        let bad = |_| Outcome::BadRequest;
        let lifetime = call.msg.get::<Lifetime>().map_err(bad)?;
        let requested = call.msg.get::<RequestedAddressFamily>().map_err(bad)?;
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        let held = |family: Family| allocation.relay(family).is_some();
        //= rfc8656#section-8.2
        //# If the server receives a Refresh Request with a REQUESTED-ADDRESS-FAMILY attribute and the
        //# attribute value does not match the address family of the allocation, the server MUST reply
        //# with a 443 (Peer Address Family Mismatch) Refresh error response.
        let families: &[Family] = match requested.map(|requested| requested.family) {
            None => &[Family::V4, Family::V6],
            Some(Some(Family::V4)) if held(Family::V4) => &[Family::V4],
            Some(Some(Family::V6)) if held(Family::V6) => &[Family::V6],
            Some(_) => return Err(Outcome::FamilyMismatch),
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
        Ok(granted_s)
    }
}
