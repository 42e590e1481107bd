//! ChannelBind (RFC 8656 section 12.2).

use turnway_wire::{CHANNEL_MAX, CHANNEL_MIN, ChannelNumber, XorPeerAddress};

use crate::address::{AllocationId, Now, PeerAddr};
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
            .wanted_channel(call, id, now)
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
        now: Now,
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
        if !(CHANNEL_MIN..=CHANNEL_MAX).contains(&number) {
            return Err(Outcome::BadRequest);
        }
        let peer = self.config.policy.to_local(PeerAddr::new(peer));
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        let live = |channel: &&Channel| channel.expires_ns > now.mono_ns;
        //= rfc8656#section-12.2
        //# The channel number is not currently bound to a different transport address (same transport
        //# address is OK);
        let by_number = allocation.channel(number).filter(live);
        //= rfc8656#section-12.2
        //# The transport address is not currently bound to a different channel number.
        let by_peer = allocation.channel_of(peer).filter(live);
        if by_number.is_some_and(|channel| channel.peer != peer)
            || by_peer.is_some_and(|channel| channel.number != number)
        {
            return Err(Outcome::BadRequest);
        }
        self.judge(id, peer)?;
        if !self.config.policy.check(peer, &self.shared.live) {
            return Err(Outcome::Forbidden);
        }
        Ok((number, peer))
    }

    /// Creates or refreshes a binding and the permission that goes with it.
    fn bind_channel(
        &mut self,
        id: AllocationId,
        number: u16,
        peer: PeerAddr,
        now: Now,
    ) -> Result<(), Outcome> {
        // What ran out but was not swept yet must not stand in the way.
        self.drop_expired_channels(id, now);
        let limit = self.config.limits.channels_per_allocation;
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        if allocation.channel(number).is_none() && allocation.channels.len() >= limit {
            return Err(Outcome::InsufficientCapacity);
        }
        self.permit(id, &[peer.ip()], now)?;
        let own = is_own(self.config.policy.check_ip(peer.ip()));
        let allocation = self.table.get_mut(id).ok_or(Outcome::AllocationMismatch)?;
        let expires_ns = now.after_s(CHANNEL_LIFETIME_S);
        let is_new = allocation.bind(Channel {
            number,
            peer,
            expires_ns,
            deadline_ns: 0,
            own,
        });
        self.stats.channels += u64::from(is_new);
        Ok(())
    }
}
