//! UDP sockets of a shard: the listeners clients send to, and the relay sockets of allocations.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use turnway_relay::pieces::Pieces;
use turnway_relay::{Client, FiveTuple, IpFields, Link, RealmId, RelayId, Transport};
use turnway_udp as udp;
use turnway_wire::Family;

use super::door::Speaks;

/// One shard's share of a UDP listener.
pub struct Listener {
    socket: udp::UdpListener,
    /// What its clients speak.
    pub speaks: Speaks,
    /// The realm of its clients, unless they say that they are of another.
    realm: RealmId,
    local: SocketAddr,
    drops: Drops,
}

impl Listener {
    /// Takes over a bound socket.
    ///
    /// # Errors
    ///
    /// Those of `getsockname`.
    pub fn new(socket: udp::UdpListener, speaks: Speaks, realm: RealmId) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self { socket, speaks, realm, local, drops: Drops::default() })
    }

    /// Whether clients may speak DTLS to it.
    pub fn takes_dtls(&self) -> bool {
        match self.speaks {
            Speaks::Plain => false,
            Speaks::Secured | Speaks::Either => true,
        }
    }

    /// The socket, to be polled and received from.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket's number, for a batch.
    pub fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whom a datagram received here is from. The five-tuple has the address it was sent to, so
    /// that answers leave from there.
    pub fn client(&self, index: u32, from: SocketAddr, to: Option<IpAddr>) -> Client {
        let server = SocketAddr::new(to.unwrap_or(self.local.ip()), self.local.port());
        let client = turnway_relay::address::without_flow_label(from);
        let tuple = FiveTuple { transport: Transport::Udp, client, server };
        Client { tuple, link: Link(index), realm: self.realm }
    }

    /// What a datagram to `client` must state as its source: nothing where the socket has but one
    /// address, which spares the kernel work.
    pub fn source(&self, client: &Client) -> Option<IpAddr> {
        self.source_of(client.tuple.server.ip())
    }

    /// What a datagram from one of the listener's addresses must state as its source.
    pub fn source_of(&self, address: IpAddr) -> Option<IpAddr> {
        self.local.ip().is_unspecified().then_some(address)
    }

    /// Whether datagrams can leave here from a transport address.
    pub fn has(&self, address: SocketAddr) -> bool {
        let ip = self.local.ip();
        let of_a_family = ip.is_ipv4() == address.is_ipv4();
        self.local.port() == address.port()
            && (ip == address.ip() || (ip.is_unspecified() && of_a_family))
    }

    /// How many datagrams the kernel has dropped since the last call.
    pub fn new_drops(&mut self, total: Option<u32>) -> u64 {
        self.drops.update(total)
    }
}

/// A relayed transport address's socket.
pub struct RelaySocket {
    socket: udp::Socket,
    /// What it is bound to.
    pub local: SocketAddr,
    drops: Drops,
}

impl RelaySocket {
    /// The socket, to be polled and received from.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket's number, for a batch.
    pub fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// How many datagrams the kernel has dropped since the last call.
    pub fn new_drops(&mut self, total: Option<u32>) -> u64 {
        self.drops.update(total)
    }
}

/// The relay sockets of a shard, by the slot of their allocation.
#[derive(Default)]
pub struct RelaySockets {
    v4: Column,
    v6: Column,
}

/// Those of one family. It grows in pieces: no socket more is dear to keep, however many there are.
#[derive(Default)]
struct Column {
    /// With the generation of the allocation that each belongs to.
    places: Pieces<Option<(u32, RelaySocket)>>,
    used: usize,
}

/// Places at the end of a column that are given up at a time: what a peak took goes again.
const GIVEN_UP: usize = 16;

impl RelaySockets {
    /// Keeps a socket under its id.
    pub fn insert(&mut self, id: RelayId, socket: udp::Socket, local: SocketAddr) {
        self.put(id, RelaySocket { socket, local, drops: Drops::default() });
    }

    /// Keeps a socket that was kept elsewhere.
    pub fn put(&mut self, id: RelayId, socket: RelaySocket) {
        let (column, slot) = (self.column_mut(id.family), id.allocation.slot as usize);
        while column.places.len() <= slot {
            column.places.push(None);
        }
        let before = column.places[slot].replace((id.allocation.generation, socket));
        column.used += usize::from(before.is_none());
    }

    /// The socket of a relayed transport address.
    pub fn get(&self, id: RelayId) -> Option<&RelaySocket> {
        let column = match id.family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let (generation, socket) = column.places.get(id.allocation.slot as usize)?.as_ref()?;
        (*generation == id.allocation.generation).then_some(socket)
    }

    /// The socket in a slot, with the id that owns it now: an event names only the slot.
    pub fn in_slot(&mut self, slot: u32, family: Family) -> Option<(RelayId, &mut RelaySocket)> {
        let place = self.column_mut(family).places.get_mut(slot as usize)?;
        let (generation, socket) = place.as_mut()?;
        let allocation = turnway_relay::AllocationId { slot, generation: *generation };
        Some((RelayId { allocation, family }, socket))
    }

    /// Takes a socket out, to be closed.
    pub fn remove(&mut self, id: RelayId) -> Option<RelaySocket> {
        self.get(id)?;
        let column = self.column_mut(id.family);
        let (_, socket) = column.places.get_mut(id.allocation.slot as usize)?.take()?;
        column.used -= 1;
        if column.used == 0 {
            // The last one to go is the one at the end, as a rule.
            *column = Column::default();
            return Some(socket);
        }
        for _ in 0..GIVEN_UP {
            if !matches!(column.places.last(), Some(None)) {
                break;
            }
            column.places.pop();
        }
        Some(socket)
    }

    fn column_mut(&mut self, family: Family) -> &mut Column {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Turns the kernel's wrapping total of dropped datagrams into increments.
#[derive(Default)]
struct Drops(u32);

impl Drops {
    fn update(&mut self, total: Option<u32>) -> u64 {
        let Some(total) = total else { return 0 };
        let new = total.wrapping_sub(self.0);
        self.0 = total;
        u64::from(new)
    }
}

/// The header fields of a received datagram that its relayed copy inherits.
pub fn ip_fields(received: &udp::Received<'_>) -> Option<IpFields> {
    let ttl = received.ttl?;
    Some(IpFields { ttl, tos: received.tos.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use turnway_relay::AllocationId;

    use super::*;

    #[test]
    fn the_last_socket_to_go_takes_all_places_with_it() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let id = |slot| {
            let allocation = AllocationId { slot, generation: 7 };
            RelayId { allocation, family: Family::V4 }
        };
        let mut sockets = RelaySockets::default();
        for slot in [0, 100] {
            sockets.insert(id(slot), udp::relay_udp(any, 0).unwrap(), any);
        }
        assert!(sockets.remove(id(0)).is_some());
        assert!(sockets.remove(id(0)).is_none());
        assert!(sockets.get(id(100)).is_some());
        assert!(sockets.remove(id(100)).is_some());
        assert_eq!((sockets.v4.places.len(), sockets.v4.used), (0, 0));
    }
}
