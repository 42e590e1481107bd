//! What the world tells the rules ([`Event`]), what the rules want of it ([`Effect`]), and what
//! becomes of one datagram ([`Route`]).

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnway_wire::{Family, Prefix};

use crate::address::{
    AllocationId, Client, ConnectionId, FiveTuple, IpFields, Link, PeerAddr, Protocol, RelayAddr,
    RelayId,
};
use crate::ledger::{Grant, Release};
use crate::outcome::{AuthFailure, EndReason, Period, Quota, Reason};
use crate::server::Config;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client sent a STUN message for which [`Route::Request`] was the answer.
    Request {
        /// Who sent it.
        from: Client,
        /// The whole message.
        data: &'a [u8],
    },
    /// A client of another shard sent a request for which [`Route::Elsewhere`] was the answer there:
    /// the reply is for that shard.
    Resume {
        /// Who sent it, as that shard knows it.
        from: Client,
        /// The whole message.
        data: &'a [u8],
        /// That shard's number.
        shard: u16,
    },
    /// [`Effect::Reserve`] was carried out: what the ledger said.
    Reserved(Result<Grant, Quota>),
    /// [`Effect::Bind`] was carried out, whatever became of it.
    Bound(Bound),
    /// An ICMP error came back for a datagram sent from a relayed transport address.
    Icmp {
        /// The relayed transport address.
        relay: RelayId,
        /// Where the datagram had been sent.
        peer: SocketAddr,
        /// The error itself.
        error: IcmpError,
    },
    /// [`Effect::Connect`] came to an end.
    Connected {
        /// Which connection.
        connection: ConnectionId,
        /// Whether it is there now.
        result: Result<(), ConnectFailure>,
    },
    /// A peer's or a client's data connection ended and the other one of the pair is closed, or a
    /// peer's that no client had bound.
    ConnectionClosed {
        /// Which connection.
        connection: ConnectionId,
    },
    /// A client's connection ended (streams only).
    Disconnected {
        /// Its five-tuple.
        tuple: FiveTuple,
    },
    /// The configuration changed; allocations live on, and are judged by the new one.
    Configure(Arc<Config>),
    /// From now on no new allocation is made (508); existing ones live on.
    Drain,
    /// The ledger has answered what [`crate::Server::exchange`] said.
    Exchanged,
    /// A user's last datagrams on this shard spent its volume, as the answer to
    /// [`Effect::Release`] says.
    VolumeSpent(VolumeSpent),
    /// The operator ends an allocation.
    Kill {
        /// Its number, as in [`Started`].
        session: u64,
    },
}

/// Why a connection to a peer could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The network or the peer refused it.
    Refused,
    /// The process has no descriptor or the kernel no memory or address left.
    NoResources,
}

/// An ICMP error's content (RFC 8656 section 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The family of the ICMP message (ICMP or ICMPv6).
    pub family: Family,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU for "packet too big" and "fragmentation needed", otherwise 0.
    pub data: u32,
}

/// The answer to [`Effect::Bind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The allocation of the [`Effect::Bind`] that is answered.
    pub allocation: AllocationId,
    /// The IPv4 relayed transport address, or why there is none. `None` if none was wanted.
    pub v4: Option<Result<RelayAddr, BindFailure>>,
    /// The same for IPv6.
    pub v6: Option<Result<RelayAddr, BindFailure>>,
    /// The token under which the next-higher port is now reserved.
    pub reservation: Option<[u8; 8]>,
}

/// Why no relayed transport address could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindFailure {
    /// Every port of the range is in use.
    NoPort,
    /// The reservation token names nothing, or another user's reservation.
    NoReservation,
    /// The relay address itself cannot be used any more.
    NoAddress,
    /// The process has no descriptor left (EMFILE, ENFILE) or the kernel no memory.
    NoDescriptor,
}

/// What relayed transport address an Allocate asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any port of one family.
    Any(Family),
    /// An even port of one family (EVEN-PORT with R = 0).
    Even(Family),
    /// An even port, with the next-higher one reserved (EVEN-PORT with R = 1).
    EvenAndReserve(Family),
    /// One of each family; either may fail alone (ADDITIONAL-ADDRESS-FAMILY).
    Both {
        /// Even ports only (EVEN-PORT with R = 0).
        even: bool,
    },
    /// The port reserved under a token (RESERVATION-TOKEN).
    Reserved([u8; 8]),
}

/// Something the rules want done. Effects are drained by `Server::poll` after each call.
#[derive(Debug)]
pub enum Effect {
    /// Send the first `len` bytes of the buffer given to the call.
    Reply {
        /// To whom.
        to: Client,
        /// Bytes written.
        len: usize,
    },
    /// Send the first `len` bytes of the buffer given to the call over UDP, from another of the
    /// server's transport addresses or to another port (RFC 5780).
    ReplyFrom {
        /// From which address and port, as this machine sees it.
        from: SocketAddr,
        /// To where.
        to: SocketAddr,
        /// Bytes written.
        len: usize,
    },
    /// Send the first `len` bytes of the buffer given to the call: an indication nobody asked for,
    /// which may be dropped like a datagram.
    Indicate {
        /// To whom.
        to: Client,
        /// Bytes written.
        len: usize,
    },
    /// Have the ledger count an allocation that is about to be made, then answer with
    /// [`Event::Reserved`] before the next request.
    Reserve {
        /// Whose.
        account: Arc<[u8]>,
        /// The client's address.
        client: IpAddr,
    },
    /// Have the ledger count one allocation less.
    Release(Box<Release>),
    /// Show the ledger [`crate::Server::exchange`], then say [`Event::Exchanged`].
    Exchange,
    /// Bind relay sockets, then answer with [`Event::Bound`] before the next request.
    Bind {
        /// The place in the table that the allocation will have.
        allocation: AllocationId,
        /// Which ports.
        want: Want,
        /// Whether to bind for datagrams or to listen for connections.
        protocol: Protocol,
        /// The server address the client uses: its relayed address is the same where possible.
        near: SocketAddr,
        /// The account a reservation belongs to.
        owner: Arc<[u8]>,
        /// `mono_ns` until which a reserved port is held.
        until_ns: u64,
    },
    /// Close a relay socket and give its port back.
    Close {
        /// Which.
        relay: RelayId,
    },
    /// Connect from a relayed transport address to a peer, then say [`Event::Connected`].
    Connect {
        /// What the connection is called.
        connection: ConnectionId,
        /// From where.
        via: RelayId,
        /// Whereto.
        to: SocketAddr,
    },
    /// Join a client's connection, whose last message was a ConnectionBind request, to the one to a
    /// peer. What follows that message is for the peer; the reply to it goes out first.
    Splice {
        /// The connection to the peer.
        connection: ConnectionId,
        /// The client's data connection.
        client: Client,
    },
    /// Close a connection to a peer, or give up making it, and close the client's data connection
    /// that was joined to it.
    Disconnect {
        /// Which.
        connection: ConnectionId,
    },
    /// Take an allocation out ([`crate::Server::depart`]) and have another shard take it in, with its
    /// relay sockets ([`crate::Server::arrive`]).
    Depart {
        /// Which.
        allocation: AllocationId,
        /// The other shard.
        shard: u16,
    },
    /// A channel may be relayed from now on, or its deadline moved. For listeners (kernel path).
    ChannelUp(ChannelPath),
    /// A channel may no longer be relayed.
    ChannelDown {
        /// The relayed transport address it used.
        relay: RelayId,
        /// Its number.
        number: u16,
        /// Its peer.
        peer: PeerAddr,
    },
    /// Something for the operator's log.
    Log(Record),
}

/// A channel binding with everything a second data path needs to relay for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelPath {
    /// The client's side.
    pub client: Client,
    /// The relayed transport address.
    pub relay: RelayId,
    /// Channel number.
    pub number: u16,
    /// The peer as the datagrams are addressed.
    pub peer: PeerAddr,
    /// `mono_ns` after which it may not be used: the earliest of channel, permission, allocation.
    pub deadline_ns: u64,
}

/// A line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An allocation began.
    Started(Box<Started>),
    /// An allocation ended.
    Ended(Box<Ended>),
    /// A client goes on from another five-tuple.
    Moved(Box<Moved>),
    /// A request was refused for its credentials (rate-limited).
    AuthFailed(Box<AuthFailed>),
    /// A user's volume is used up.
    VolumeSpent(Box<VolumeSpent>),
}

/// The volume of an account is used up; it relays no more until the period ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpent {
    /// Whose. Hostile bytes: escape before printing.
    pub account: Arc<[u8]>,
    /// Of which period.
    pub period: Period,
}

/// The beginning of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Unique in the life of the process.
    pub session: u64,
    /// The user name as sent. Hostile bytes: escape before printing.
    pub user: Arc<[u8]>,
    /// The client.
    pub tuple: FiveTuple,
    /// The IPv4 relayed transport address as announced.
    pub v4: Option<SocketAddr>,
    /// The IPv6 relayed transport address as announced.
    pub v6: Option<SocketAddr>,
    /// Seconds granted.
    pub lifetime_s: u32,
}

/// A client that goes on from another five-tuple (RFC 8016).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// As in [`Started`].
    pub session: u64,
    /// As in [`Started`].
    pub user: Arc<[u8]>,
    /// Where it was.
    pub from: FiveTuple,
    /// Where it is.
    pub to: FiveTuple,
}

/// The end of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// As in [`Started`].
    pub session: u64,
    /// As in [`Started`].
    pub user: Arc<[u8]>,
    /// As in [`Started`].
    pub tuple: FiveTuple,
    /// As in [`Started`].
    pub v4: Option<SocketAddr>,
    /// As in [`Started`].
    pub v6: Option<SocketAddr>,
    /// How long it lived, in whole seconds.
    pub seconds: u64,
    /// What it carried.
    pub traffic: Traffic,
    /// Why it ended.
    pub reason: EndReason,
}

/// Datagrams and payload bytes each way. Of a stream to or from a peer (RFC 6062) each piece that
/// was passed on at once counts as a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams from client to peers.
    pub to_peer: u64,
    /// Their payload bytes.
    pub to_peer_bytes: u64,
    /// Datagrams from peers to client.
    pub to_client: u64,
    /// Their payload bytes.
    pub to_client_bytes: u64,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailed {
    /// The user name as sent (at most 508 bytes). Hostile bytes: escape before printing.
    pub user: Box<[u8]>,
    /// The client.
    pub tuple: FiveTuple,
    /// Why.
    pub cause: AuthFailure,
    /// How many more were not logged since the last such record.
    pub suppressed: u64,
}

/// What becomes of a datagram.
///
/// A relayed one is always prefix + slice of the received buffer + padding: nothing is copied.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// Send `received[skip..skip + len]` from the relay socket to the peer.
    ToPeer {
        /// Which relay socket.
        via: RelayId,
        /// To whom, as addressed on the wire.
        to: SocketAddr,
        /// Bytes of framing to leave out.
        skip: u16,
        /// Payload bytes.
        len: u16,
        /// Set the Don't Fragment bit, for this datagram alone.
        dont_fragment: bool,
        /// Header fields to send with; `None`: the system's own.
        ip: Option<IpFields>,
    },
    /// Send `prefix + received + pad zero bytes` to the client.
    ToClient {
        /// To whom.
        to: Client,
        /// ChannelData header or Data indication up to the payload.
        prefix: Prefix,
        /// Zero bytes after the payload.
        pad: u8,
        /// Header fields to send with; `None`: the system's own.
        ip: Option<IpFields>,
    },
    /// A lease has run out: show the ledger [`crate::Server::exchange`], say [`Event::Exchanged`],
    /// and ask about the same datagram again. It is not answered so twice.
    Lease,
    /// From where a client said it would go on: call [`crate::Server::settle`], and ask about the
    /// same message again, at once or when the allocation has come from the shard that has it.
    Arriving,
    /// A Refresh with a ticket of an allocation that is not here: have the shard that has it answer
    /// ([`Event::Resume`]). If there is none, give it to `handle` as [`Event::Request`].
    Elsewhere {
        /// The allocation's number.
        session: u64,
    },
    /// Not a relayed datagram: give it to `handle` as [`Event::Request`].
    Request,
    /// Drop it; already counted.
    Drop(Reason),
}

/// What becomes of bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// So many may go on now, at least one; they are counted.
    Bytes(usize),
    /// A limit is reached: ask again at this time, in `mono_ns`, and read nothing until then.
    Wait(u64),
    /// A lease has run out: show the ledger [`crate::Server::exchange`], say [`Event::Exchanged`],
    /// and ask again.
    Lease,
    /// No more may go on: close both connections. The rules have forgotten them.
    Close,
}

/// A convenience for shells that name links by index.
impl From<u32> for Link {
    fn from(index: u32) -> Self {
        Self(index)
    }
}
