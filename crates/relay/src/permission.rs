//! CreatePermission (RFC 8656 section 10.2), all addresses or none; and the judgement on a peer
//! address that ChannelBind shares.

use core::net::IpAddr;

use turnway_wire::XorPeerAddress;

use crate::address::{AllocationId, Now, PeerAddr};
use crate::limits::PERMISSION_LIFETIME_S;
use crate::outcome::Outcome;
use crate::policy::Verdict;
use crate::request::Call;
use crate::server::Server;
use crate::table::{Permission, is_own};

/// XOR-PEER-ADDRESS attributes taken from one request. More is no honest client's, and would
/// make one request arbitrarily dear.
const PEERS_PER_REQUEST: usize = 64;

impl Server {
    pub(crate) fn create_permission(
        &mut self,
        call: &Call<'_>,
        id: AllocationId,
        now: Now,
        out: &mut [u8],
    ) {
        //= rfc8656#section-10.2
        //# If no such attribute exists, or if any of these attributes are invalid, then a 400 (Bad
        //# Request) error is returned.
        if call.msg.all::<XorPeerAddress>().any(|peer| peer.is_err()) {
            return self.error(&call.answer, Outcome::BadRequest, out);
        }
        let mut ips = [IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED); PEERS_PER_REQUEST];
        let mut count = 0;
        for XorPeerAddress(peer) in call.msg.all().flatten() {
            let outcome = match count {
                PEERS_PER_REQUEST => Err(Outcome::InsufficientCapacity),
                _ => self.judge(id, PeerAddr::new(peer)),
            };
            match outcome {
                Err(outcome) => return self.error(&call.answer, outcome, out),
                Ok(peer) => ips[count] = peer.ip(),
            }
            count += 1;
        }
        //= rfc8656#section-10.2
        //# The CreatePermission request MUST contain at least one XOR-PEER-ADDRESS attribute and MAY
        //# contain multiple such attributes.
        let outcome = match count {
            0 => Err(Outcome::BadRequest),
            _ => self.permit(id, &ips[..count], now),
        };
        match outcome {
            Err(outcome) => self.error(&call.answer, outcome, out),
            Ok(()) => {
                self.channels_changed(id);
                self.success(&call.answer, out, |_| Ok(()));
            }
        }
    }

    /// Whether an allocation may reach a peer at all: family, then policy. Gives the address to
    /// use, which is the local one where the client named one of our external addresses.
    pub(crate) fn judge(&self, id: AllocationId, peer: PeerAddr) -> Result<PeerAddr, Outcome> {
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        let policy = &self.config.realms.get(allocation.identity.realm()).policy;
        let peer = policy.to_local(peer);
        //= rfc8656#section-10.2
        //# If an XOR-PEER-ADDRESS attribute contains an address of an address family that is not the
        //# same as that of a relayed transport address for the allocation, the server MUST generate
        //# an error response with the 443 (Peer Address Family Mismatch) response code.
        if allocation.relay(peer.family()).is_none() {
            return Err(Outcome::FamilyMismatch);
        }
        match policy.check_ip(peer.ip()) {
            //= rfc8656#section-10.2
            //# The server MAY impose restrictions on the IP address allowed in the XOR-PEER-ADDRESS
            //# attribute; if a value is not allowed, the server rejects the request with a 403
            //# (Forbidden) error.
            Verdict::Denied => Err(Outcome::Forbidden),
            Verdict::Open | Verdict::OwnPorts => Ok(peer),
        }
    }

    /// Installs or refreshes permissions: all of them, or none if they do not fit.
    pub(crate) fn permit(
        &mut self,
        id: AllocationId,
        ips: &[IpAddr],
        now: Now,
    ) -> Result<(), Outcome> {
        let limit = self.config.limits.permissions_per_allocation;
        let config = std::sync::Arc::clone(&self.config);
        let Some(allocation) = self.table.get_mut(id) else {
            return Err(Outcome::AllocationMismatch);
        };
        let new = |(index, ip): (usize, &IpAddr)| {
            allocation.permission(*ip).is_none() && !ips[..index].contains(ip)
        };
        let added = ips.iter().enumerate().filter(|&item| new(item)).count();
        if allocation.permissions.len() + added > limit {
            return Err(Outcome::InsufficientCapacity);
        }
        let policy = &config.realms.get(allocation.identity.realm()).policy;
        for &ip in ips {
            let own = is_own(policy.check_ip(ip));
            let expires_ns = now.after_s(PERMISSION_LIFETIME_S);
            let is_new = allocation.permit(Permission { ip, expires_ns, own });
            self.stats.permissions += u64::from(is_new);
        }
        Ok(())
    }
}
