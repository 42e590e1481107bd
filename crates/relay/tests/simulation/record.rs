//! The independent record: who holds what, written down from the responses the server sent and
//! read when a datagram is about to be relayed. It shares no code with the rules under test.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use turnway_relay::{AllocationId, Client, FiveTuple, RelayId, Traffic, Transport};
use turnway_wire::{
    ChannelData, ChannelNumber, Class, Data, Family, Kind, Message, Method, RequestedAddressFamily,
    XorPeerAddress, classify,
};

use crate::plan::{LISTENER_PORT, NANOS, OWN, PORTS, family_index, local, port_index};

/// A five-tuple that can be ordered.
pub(crate) type Key = (bool, SocketAddr, SocketAddr);

pub(crate) fn key(tuple: &FiveTuple) -> Key {
    let tcp = match tuple.transport {
        Transport::Udp | Transport::Dtls => false,
        Transport::Tcp | Transport::Tls => true,
    };
    (tcp, tuple.client, tuple.server)
}

/// An allocation as its client knows it.
pub(crate) struct Held {
    /// The session that asked for it.
    pub(crate) owner: u32,
    pub(crate) id: AllocationId,
    /// The number in the server's log.
    pub(crate) log_session: u64,
    /// Of the Allocate that made it.
    pub(crate) transaction: [u8; 12],
    pub(crate) client: Client,
    pub(crate) relays: [Option<HeldRelay>; 2],
    pub(crate) permissions: BTreeMap<IpAddr, u64>,
    /// Peer (in local form) and end of each channel.
    pub(crate) channels: BTreeMap<u16, (SocketAddr, u64)>,
    pub(crate) traffic: Traffic,
}

#[derive(Clone, Copy)]
pub(crate) struct HeldRelay {
    pub(crate) local: SocketAddr,
    pub(crate) expires_ns: u64,
}

/// A bound relay socket.
#[derive(Clone, Copy)]
pub(crate) struct Socket {
    pub(crate) shard: usize,
    pub(crate) relay: RelayId,
    pub(crate) key: Key,
}

/// Shard, slot, generation, family, channel number.
pub(crate) type UpKey = (usize, u32, u32, usize, u16);

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) held: BTreeMap<Key, Held>,
    /// By [`port_index`].
    pub(crate) sockets: Vec<Option<Socket>>,
    /// Channels that listeners were told of: peer and deadline.
    pub(crate) up: BTreeMap<UpKey, (SocketAddr, u64)>,
}

impl Held {
    pub(crate) fn relay_live(&self, family: Family, now_ns: u64) -> bool {
        self.relays[family_index(family)].is_some_and(|relay| relay.expires_ns > now_ns)
    }

    pub(crate) fn permitted(&self, ip: IpAddr, now_ns: u64) -> bool {
        self.permissions.get(&ip).is_some_and(|end| *end > now_ns)
    }

    /// When the last of its relayed transport addresses runs out.
    pub(crate) fn expires_ns(&self) -> u64 {
        let ends = self.relays.iter().flatten().map(|relay| relay.expires_ns);
        ends.max().unwrap_or(0)
    }

    pub(crate) fn drop_family(&mut self, family: Family) {
        self.relays[family_index(family)] = None;
        self.permissions.retain(|ip, _| Family::of(*ip) != family);
        self.channels.retain(|_, (peer, _)| Family::of(peer.ip()) != family);
    }

    /// Writes down what a success response to `request` gave. False if nothing is left.
    pub(crate) fn grant(&mut self, request: &Message<'_>, lifetime_s: u32, now_ns: u64) -> bool {
        match request.method() {
            Method::REFRESH => {
                let asked = request.get::<RequestedAddressFamily>().expect("well-formed");
                for family in [Family::V4, Family::V6] {
                    if asked.is_some_and(|asked| asked.family != Some(family)) {
                        continue;
                    }
                    if lifetime_s == 0 {
                        self.drop_family(family);
                    } else if let Some(relay) = &mut self.relays[family_index(family)] {
                        relay.expires_ns = now_ns + u64::from(lifetime_s) * NANOS;
                    }
                }
            }
            Method::CREATE_PERMISSION => {
                for peer in request.all::<XorPeerAddress>() {
                    self.permit(peer.expect("well-formed").0, now_ns);
                }
            }
            Method::CHANNEL_BIND => {
                let number = request.get::<ChannelNumber>().ok().flatten();
                let peer = request.get::<XorPeerAddress>().ok().flatten();
                let (number, peer) = (number.expect("bound").0, local(peer.expect("bound").0));
                self.permit(peer, now_ns);
                self.channels.insert(number, (peer, now_ns + 600 * NANOS));
            }
            other => panic!("{other} granted"),
        }
        self.relays.iter().any(Option::is_some)
    }

    fn permit(&mut self, peer: SocketAddr, now_ns: u64) {
        let ip = local(peer).ip();
        self.permissions.insert(ip, now_ns + 300 * NANOS);
    }
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { sockets: vec![None; OWN.len() * usize::from(PORTS)], ..Self::default() }
    }

    pub(crate) fn socket(&self, local: SocketAddr) -> Option<&Socket> {
        socket(&self.sockets, local)
    }

    /// Where a datagram from a client is to be relayed, and which of its bytes; `None`: nowhere.
    pub(crate) fn client_to_peer<'d>(
        &self,
        tuple: &FiveTuple,
        data: &'d [u8],
        now_ns: u64,
    ) -> Option<(SocketAddr, &'d [u8])> {
        let held = self.held.get(&key(tuple))?;
        let (peer, payload) = match classify(*data.first()?) {
            Kind::Channel | Kind::OldChannel => {
                let message = ChannelData::parse(data)?;
                let (peer, end) = *held.channels.get(&message.number)?;
                (end > now_ns).then_some((peer, message.data))?
            }
            Kind::Stun => {
                let message = Message::parse(data).ok()?;
                if (message.class(), message.method()) != (Class::Indication, Method::SEND) {
                    return None;
                }
                let XorPeerAddress(peer) = message.get().ok()??;
                let Data(payload) = message.get().ok()??;
                (local(peer), payload)
            }
            Kind::Zrtp | Kind::Dtls | Kind::Rtp | Kind::Other => return None,
        };
        let live = held.relay_live(Family::of(peer.ip()), now_ns);
        let permitted = held.permitted(peer.ip(), now_ns) && reachable(&self.sockets, peer);
        (live && permitted).then_some((peer, payload))
    }

    /// Whose a datagram to a relay socket is, and by which channel it goes; `None`: nobody's.
    pub(crate) fn peer_to_client(
        &self,
        socket: &Socket,
        from: SocketAddr,
        now_ns: u64,
    ) -> Option<(&Held, Option<u16>)> {
        let held = self.held.get(&socket.key)?;
        let live = held.relay_live(socket.relay.family, now_ns);
        let permitted = held.permitted(from.ip(), now_ns) && reachable(&self.sockets, from);
        if held.id != socket.relay.allocation || !live || !permitted {
            return None;
        }
        let bound = |(_, (peer, end)): &(&u16, &(SocketAddr, u64))| *peer == from && *end > now_ns;
        let channel = held.channels.iter().find(bound);
        Some((held, channel.map(|(number, _)| *number)))
    }

    /// A new configuration ends channels to private relays where nobody relays any more.
    pub(crate) fn drop_unreachable_channels(&mut self) {
        let sockets = &self.sockets;
        for held in self.held.values_mut() {
            held.channels.retain(|_, (peer, _)| reachable(sockets, *peer));
        }
    }

    /// The end of a channel as listeners must know it: the first of channel, permission, relay.
    pub(crate) fn channel_deadline(&self, up: &UpKey) -> Option<(SocketAddr, u64)> {
        let held = self.held.values().find(|held| {
            let at = (held.id.slot, held.id.generation);
            at == (up.1, up.2) && crate::plan::shard_of(&held.client.tuple) == up.0
        })?;
        let (peer, end) = *held.channels.get(&up.4)?;
        let permission = held.permissions.get(&peer.ip()).copied().unwrap_or(0);
        let relay = held.relays[up.3].map_or(0, |relay| relay.expires_ns);
        Some((peer, end.min(permission).min(relay)))
    }
}

fn socket(sockets: &[Option<Socket>], local: SocketAddr) -> Option<&Socket> {
    sockets[port_index(local)?].as_ref()
}

/// Of our own addresses, the private one is a peer only where somebody relays, and our listeners
/// never are. (Everything else was judged when the permission was asked for.)
fn reachable(sockets: &[Option<Socket>], peer: SocketAddr) -> bool {
    let own = OWN.contains(&peer.ip());
    let private = peer.ip() == OWN[1];
    let open = !private || socket(sockets, peer).is_some();
    peer.port() != 0 && (!own || peer.port() != LISTENER_PORT && open)
}
