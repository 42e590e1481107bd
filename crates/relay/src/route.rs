//! The data path: what becomes of one datagram. No allocation, no lock, no log line.

use turnway_wire::{
    ChannelData, Data, DontFragment, Family, Kind, Message, Method, Prefix, XorPeerAddress,
    classify, padding,
};

use crate::address::{Client, IpFields, Now, PeerAddr, Protocol, RelayId};
use crate::effect::Route;
use crate::ledger::Direction;
use crate::meter::Admission;
use crate::outcome::Reason;
use crate::server::Server;
use crate::table::Allocation;

/// The largest UDP payload over IPv4; what is wrapped for a UDP client must fit.
const UDP_PAYLOAD_MAX: usize = 65_507;

/// The largest attribute section of a STUN message (its length field has 16 bits).
const STUN_LENGTH_MAX: usize = 65_532;

impl Server {
    /// Decides about a datagram, or one frame of a stream, from a client.
    ///
    /// `ip` are the header fields it came with; `None` for streams and where unknown.
    pub fn route_client(
        &mut self,
        from: &Client,
        data: &[u8],
        ip: Option<IpFields>,
        now: Now,
    ) -> Route {
        let Some(&first) = data.first() else {
            return self.drop_client(Reason::NotTurn);
        };
        let routed = match classify(first) {
            Kind::Channel | Kind::OldChannel => self.route_channel_data(from, data, ip, now),
            Kind::Stun if is_send(data) => self.route_send(from, data, ip, now),
            Kind::Stun => return self.route_request(from, data),
            Kind::Zrtp | Kind::Dtls | Kind::Rtp | Kind::Other => Err(Reason::NotTurn),
        };
        match routed {
            Ok(route) => route,
            Err(Reason::NoAllocation) if self.arrives(from) => Route::Arriving,
            Err(reason) => self.drop_client(reason),
        }
    }

    /// Decides about a datagram of `len` bytes that a peer sent to a relayed transport address.
    pub fn route_peer(
        &mut self,
        relay: RelayId,
        from: core::net::SocketAddr,
        len: usize,
        ip: Option<IpFields>,
        now: Now,
    ) -> Route {
        let routed = self.route_from_peer(relay, PeerAddr::new(from), len, ip, now);
        routed.unwrap_or_else(|reason| {
            self.stats.peer_drops[reason.index()] += 1;
            Route::Drop(reason)
        })
    }

    fn drop_client(&mut self, reason: Reason) -> Route {
        self.stats.client_drops[reason.index()] += 1;
        Route::Drop(reason)
    }

    fn route_channel_data(
        &mut self,
        from: &Client,
        data: &[u8],
        ip: Option<IpFields>,
        now: Now,
    ) -> Result<Route, Reason> {
        //= rfc8656#section-12.6
        //# If the ChannelData message is received in a UDP datagram, and if the UDP datagram is too
        //# short to contain the claimed length of the ChannelData message (i.e., the UDP header length
        //# field value is less than the ChannelData header length field value + 4 + 8), then the
        //# message is silently discarded.
        let message = ChannelData::parse(data).ok_or(Reason::BadChannelData)?;
        let id = self.table.find(&from.tuple).ok_or(Reason::NoAllocation)?;
        let allocation = self.table.get_mut(id).ok_or(Reason::NoAllocation)?;
        //= rfc8656#section-12.6
        //# If the ChannelData message is received on a channel that is not bound to any peer, then the
        //# message is silently discarded.
        let channel = *allocation.channel(message.number).ok_or(Reason::NoChannel)?;
        if channel.deadline_ns <= now.mono_ns {
            return Err(why_expired(allocation, channel.peer, now));
        }
        let realm = || self.config.realms.get(allocation.identity.realm());
        if channel.own && !realm().policy.check(Protocol::Udp, channel.peer, &self.shared.live) {
            return Err(Reason::PeerDenied);
        }
        let ip = outgoing(ip)?;
        let len = message.data.len();
        if len > UDP_PAYLOAD_MAX {
            return Err(Reason::TooLarge);
        }
        let admission = self.meters.admit(&mut allocation.meter, Direction::ToPeer, len, now);
        if let Some(stopped) = stopped(admission) {
            return stopped;
        }
        allocation.traffic.count_to_peer(len);
        self.stats.traffic_mut(from.tuple.transport).count_to_peer(len);
        Ok(Route::ToPeer {
            via: RelayId { allocation: id, family: channel.peer.family() },
            to: channel.peer.socket(),
            skip: turnway_wire::CHANNEL_HEADER_LEN as u16,
            len: len as u16,
            dont_fragment: false,
            ip,
        })
    }

    /// A Send indication (RFC 8656 section 11.2).
    fn route_send(
        &mut self,
        from: &Client,
        data: &[u8],
        ip: Option<IpFields>,
        now: Now,
    ) -> Result<Route, Reason> {
        let message = Message::parse(data).map_err(|_| Reason::Malformed)?;
        //= rfc8489#section-6.3.2
        //# If the indication contains unknown comprehension-required attributes, the indication is
        //# discarded and processing ceases.
        if message.unknown_required(crate::request::understood).next().is_some() {
            return Err(Reason::Malformed);
        }
        let id = self.table.find(&from.tuple).ok_or(Reason::NoAllocation)?;
        //= rfc8656#section-11.2
        //# The Send indication MUST contain both an XOR-PEER-ADDRESS attribute and a DATA attribute.
        let (Ok(Some(XorPeerAddress(peer))), Ok(Some(Data(payload))), Ok(dont_fragment)) =
            (message.get(), message.get(), message.get::<DontFragment>())
        else {
            return Err(Reason::Malformed);
        };
        let allocation = self.table.get_mut(id).ok_or(Reason::NoAllocation)?;
        match allocation.protocol() {
            Protocol::Udp => {}
            Protocol::Tcp => return Err(Reason::Unexpected),
        }
        let policy = &self.config.realms.get(allocation.identity.realm()).policy;
        let peer = policy.to_local(PeerAddr::new(peer));
        let relay = allocation.relay(peer.family()).ok_or(Reason::FamilyMismatch)?;
        if relay.expires_ns <= now.mono_ns {
            return Err(Reason::Expired);
        }
        //= rfc8656#section-11.2
        //# If no such permission exists, the message is discarded.
        let permission = allocation
            .permission(peer.ip())
            .filter(|permission| permission.expires_ns > now.mono_ns)
            .ok_or(Reason::NoPermission)?;
        let denied = permission.own && !policy.check(Protocol::Udp, peer, &self.shared.live);
        if denied || peer.port() == 0 {
            return Err(Reason::PeerDenied);
        }
        let ip = outgoing(ip)?;
        // The payload is a slice of `data`: where it lies is what the shell must skip.
        let skip = u16::try_from(payload.as_ptr() as usize - data.as_ptr() as usize);
        let (Ok(skip), 0..=UDP_PAYLOAD_MAX) = (skip, payload.len()) else {
            return Err(Reason::TooLarge);
        };
        let admission =
            self.meters.admit(&mut allocation.meter, Direction::ToPeer, payload.len(), now);
        if let Some(stopped) = stopped(admission) {
            return stopped;
        }
        allocation.traffic.count_to_peer(payload.len());
        self.stats.traffic_mut(from.tuple.transport).count_to_peer(payload.len());
        Ok(Route::ToPeer {
            via: RelayId { allocation: id, family: peer.family() },
            to: peer.socket(),
            skip,
            len: payload.len() as u16,
            dont_fragment: dont_fragment.is_some() && !is_translation(from, peer),
            ip,
        })
    }

    fn route_from_peer(
        &mut self,
        relay: RelayId,
        from: PeerAddr,
        len: usize,
        ip: Option<IpFields>,
        now: Now,
    ) -> Result<Route, Reason> {
        let transaction = self.new_transaction();
        let allocation = self.table.get_mut(relay.allocation).ok_or(Reason::NoAllocation)?;
        let bound = allocation.relay(relay.family).ok_or(Reason::NoAllocation)?;
        if bound.expires_ns <= now.mono_ns {
            return Err(Reason::Expired);
        }
        if !allocation.attached {
            return Err(Reason::ClientAway);
        }
        let channel = allocation.channel_of(from).filter(|c| c.expires_ns > now.mono_ns);
        let own = match channel {
            // Its deadline is its permission's as well, which need not be looked at then.
            Some(channel) if channel.deadline_ns > now.mono_ns => channel.own,
            //= rfc8656#section-9
            //# If no match is found, relaying is not permitted and the server silently discards
            //# the UDP datagram.
            Some(_) | None => {
                allocation
                    .permission(from.ip())
                    .filter(|permission| permission.expires_ns > now.mono_ns)
                    .ok_or(Reason::NoPermission)?
                    .own
            }
        };
        let realm = || self.config.realms.get(allocation.identity.realm());
        if own && !realm().policy.check(Protocol::Udp, from, &self.shared.live) {
            return Err(Reason::PeerDenied);
        }
        let ip = outgoing(ip)?;
        let client = allocation.client;
        let stream = client.tuple.transport.is_stream();
        //= rfc8656#section-12.5
        //# The server, on the other hand, MUST use the ChannelData message if a channel has been bound
        //# to the peer.
        let (prefix, pad) = match channel {
            Some(channel) => {
                let pad = if stream { padding(len) } else { 0 };
                (Prefix::channel(channel.number, len as u16), pad)
            }
            None => {
                let peer = realm().policy.to_external(from);
                (Prefix::data(peer.socket(), len as u16, transaction), padding(len))
            }
        };
        let whole = prefix.as_bytes().len() + len + pad;
        if whole > if stream { STUN_LENGTH_MAX } else { UDP_PAYLOAD_MAX } {
            return Err(Reason::TooLarge);
        }
        let admission = self.meters.admit(&mut allocation.meter, Direction::ToClient, len, now);
        if let Some(stopped) = stopped(admission) {
            return stopped;
        }
        allocation.traffic.count_to_client(len);
        self.stats.traffic_mut(client.tuple.transport).count_to_client(len);
        Ok(Route::ToClient {
            to: client,
            prefix,
            pad: pad as u8,
            //= rfc8656#section-16
            //# Preferred Behavior: Ignore the incoming DSCP value.
            ip: if stream { None } else { ip },
        })
    }
}

/// What becomes of a datagram that does not pass the limits.
fn stopped(admission: Admission) -> Option<Result<Route, Reason>> {
    match admission {
        Admission::Pass => None,
        Admission::Lease => Some(Ok(Route::Lease)),
        Admission::Drop(reason) => Some(Err(reason)),
    }
}

/// Whether a STUN message is a Send indication, by its first two bytes.
fn is_send(data: &[u8]) -> bool {
    const INDICATION: u16 = 0x0010;
    data.get(..2) == Some(&(Method::SEND.0 | INDICATION).to_be_bytes())
}

/// Whether a datagram from a client to a peer is translated as section 13 says. The section is
/// about UDP on both sides; a stream has no packets to translate.
//= rfc8656#section-13.1
//# For both preferred and alternate behavior, the DONT-FRAGMENT attribute MUST be ignored by the
//# server.
fn is_translation(from: &Client, peer: PeerAddr) -> bool {
    let v4_to_v4 = from.tuple.client.is_ipv4() && peer.family() == Family::V4;
    !from.tuple.transport.is_stream() && !v4_to_v4
}

/// The header fields of the relayed datagram: one hop less, DSCP and ECN as they came.
//= rfc8656#section-13.2
//# Preferred behavior: The TURN server acts as a regular router with respect to decrementing the Hop
//# Limit and generating an ICMPv6 error if it reaches zero.
//= rfc8656#section-14
//# Preferred Behavior: Set the outgoing value to the incoming value.
//= rfc8656#section-14
//= type=exception
//= reason=Linux does not tell whether a received datagram had DF; the alternate behavior takes it
//= reason=for 0. DF is set where a Send indication asks for it.
//# In
//# all other cases, when sending an outgoing packet containing
//# application data (e.g., Data indication, a ChannelData message, or
//# the DONT-FRAGMENT attribute not included in the Send indication),
//# copy the DF bit from the DF bit of the incoming packet that
//# contained the application data.
fn outgoing(ip: Option<IpFields>) -> Result<Option<IpFields>, Reason> {
    match ip {
        None => Ok(None),
        // A loop through relays ends here.
        Some(IpFields { ttl: 0 | 1, .. }) => Err(Reason::TtlExceeded),
        Some(IpFields { ttl, tos }) => Ok(Some(IpFields { ttl: ttl - 1, tos })),
    }
}

/// Which of a channel's deadlines has passed.
fn why_expired(allocation: &Allocation, peer: PeerAddr, now: Now) -> Reason {
    let family: Family = peer.family();
    let relay = allocation.relay(family).is_some_and(|relay| relay.expires_ns > now.mono_ns);
    let permission = allocation.permission(peer.ip()).is_some_and(|p| p.expires_ns > now.mono_ns);
    match (relay, permission) {
        (false, _) => Reason::Expired,
        (true, false) => Reason::NoPermission,
        (true, true) => Reason::NoChannel,
    }
}
