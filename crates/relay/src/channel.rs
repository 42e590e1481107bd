//! ChannelBind (RFC 8656 section 12.2).

use turnway_wire::{
    AttributeType, CHANNEL_MAX, CHANNEL_MIN, ChannelNumber, OLD_CHANNEL_MAX, XorPeerAddress,
};

use crate::address::{AllocationId, Now, PeerAddr, Protocol};
use crate::limits::CHANNEL_LIFETIME_S;
use crate::outcome::Outcome;
use crate::request::Call;
use crate::server::Server;
use crate::table::{Channel, is_own};

impl Server {
    pub(crate) fn channel_bind(
        &mut self,
        call: &Call<'_>,
        id: AllocationId,
        now: Now,
        out: &mut [u8],
    ) {
        let bound = self
            .wanted_channel(call, id)
            .and_then(|(number, peer)| self.bind_channel(id, number, peer, now));
        match bound {
            Err(outcome) => self.error(&call.answer, outcome, out),
            Ok(()) => {
                self.channels_changed(id);
                self.success(&call.answer, out, |_| Ok(()));
            }
        }
    }

    fn wanted_channel(
        &self,
        call: &Call<'_>,
        id: AllocationId,
    ) -> Result<(u16, PeerAddr), Outcome> {
        let bad = |_| Outcome::BadRequest;
        //= rfc8656#section-12.2
        //# The request contains both a CHANNEL-NUMBER and an XOR-PEER-ADDRESS attribute;
        let number = call.msg.get::<ChannelNumber>().map_err(bad)?;
        let peer = call.msg.get::<XorPeerAddress>().map_err(bad)?;
        let (Some(ChannelNumber(number)), Some(XorPeerAddress(peer))) = (number, peer) else {
            return Err(Outcome::BadRequest);
        };
        //= rfc8656#section-12.2
        //# The channel number is in the range 0x4000 through 0x4FFF (inclusive);
        if !(CHANNEL_MIN..=self.channel_max(call)).contains(&number) {
            return Err(Outcome::BadRequest);
        }
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        match allocation.protocol() {
            Protocol::Udp => {}
            // RFC 6062 has no word for it: connections need no channels.
            Protocol::Tcp => return Err(Outcome::Forbidden),
        }
        let policy = &self.config.realms.get(allocation.identity.realm()).policy;
        let peer = policy.to_local(PeerAddr::new(peer));
        //= rfc8656#section-12.2
        //# The channel number is not currently bound to a different transport address (same transport
        //# address is OK);
        let by_number = allocation.channel(number);
        //= rfc8656#section-12.2
        //# The transport address is not currently bound to a different channel number.
        let by_peer = allocation.channel_of(peer);
        if by_number.is_some_and(|channel| channel.peer != peer)
            || by_peer.is_some_and(|channel| channel.number != number)
        {
            return Err(Outcome::BadRequest);
        }
        self.judge(id, peer)?;
        if !policy.check(Protocol::Udp, peer, &self.shared.live) {
            return Err(Outcome::Forbidden);
        }
        Ok((number, peer))
    }

    /// The highest number a client may bind. A client that authenticates as RFC 5389 says, and so
    /// is no client of RFC 8656, may be allowed RFC 5766's whole range: some choose at random in it.
    fn channel_max(&self, call: &Call<'_>) -> u16 {
        let old_client = !call.msg.has(AttributeType::PASSWORD_ALGORITHM);
        if self.config.limits.old_channel_numbers && old_client {
            OLD_CHANNEL_MAX
        } else {
            CHANNEL_MAX
        }
    }

    /// Creates or refreshes a binding and the permission that goes with it.
    fn bind_channel(
        &mut self,
        id: AllocationId,
        number: u16,
        peer: PeerAddr,
        now: Now,
    ) -> Result<(), Outcome> {
        let limit = self.config.limits.channels_per_allocation;
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        if allocation.channel(number).is_none() && allocation.channels.len() >= limit {
            return Err(Outcome::InsufficientCapacity);
        }
        self.permit(id, &[peer.ip()], now)?;
        let allocation = self.table.get_mut(id).ok_or(Outcome::AllocationMismatch)?;
        let policy = &self.config.realms.get(allocation.identity.realm()).policy;
        let own = is_own(policy.check_ip(peer.ip()));
        let expires_ns = now.after_s(CHANNEL_LIFETIME_S);
        let is_new = allocation.bind(Channel { number, peer, expires_ns, deadline_ns: 0, own });
        self.stats.channels += u64::from(is_new);
        Ok(())
    }
}
