//! ICMP errors from peers' networks become Data indications with an ICMP attribute
//! (RFC 8656 section 11.5).

use core::net::SocketAddr;

use turnway_wire::{Builder, Class, Family, Icmp, Method, XorPeerAddress};

use crate::address::{Now, PeerAddr, RelayId};
use crate::effect::{Effect, IcmpError};
use crate::outcome::Reason;
use crate::server::Server;

impl Server {
    /// Passes an ICMP error on, if the client has a permission for the peer it is about.
    pub(crate) fn icmp(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        error: IcmpError,
        now: Now,
        out: &mut [u8],
    ) {
        let transaction = self.new_transaction();
        let per_second = self.config.limits.icmp_per_second;
        let peer = PeerAddr::new(peer);
        let client = self.table.get_mut(relay.allocation).and_then(|allocation| {
            //= rfc8656#section-11.5
            //# Instead, the server extracts the destination IP address from the encapsulated IP
            //# header.
            let permission = allocation.permission(peer.ip())?;
            let bound = allocation.relay(relay.family)?;
            let ends_ns = permission.expires_ns.min(bound.expires_ns);
            let permitted = is_relayed(error) && ends_ns > now.mono_ns;
            let to = (allocation.client, allocation.identity.realm());
            (permitted && allocation.attached && allocation.icmp.allow(now, per_second))
                .then_some(to)
        });
        let Some((client, realm)) = client else {
            self.stats.peer_drops[Reason::IcmpIgnored.index()] += 1;
            return;
        };
        let shown = self.config.realms.get(realm).policy.to_external(peer).socket();
        let icmp = Icmp { icmp_type: error.icmp_type, code: error.code, data: error.data };
        let written = Builder::new(out, Class::Indication, Method::DATA, transaction).and_then(
            |mut builder| {
                builder.add(&XorPeerAddress(shown))?;
                builder.add(&icmp)?;
                Ok(builder.finish())
            },
        );
        let len = written.expect("an ICMP indication is shorter than the buffer `handle` asks for");
        self.stats.icmp_relayed += 1;
        self.effects.push_back(Effect::Indicate { to: client, len });
    }
}

/// Whether an ICMP error is one a client is told of.
//= rfc8656#section-11.5
//# When the server receives an ICMP packet, the server verifies that the type is either 3 or 11 for
//# an ICMPv4 [RFC0792] packet or either 1, 2, or 3 for an ICMPv6 [RFC4443] packet.
fn is_relayed(error: IcmpError) -> bool {
    match error.family {
        Family::V4 => matches!(error.icmp_type, 3 | 11),
        Family::V6 => matches!(error.icmp_type, 1..=3),
    }
}
