//! A session: what a client wants, what it has, and how it asks.

use std::net::SocketAddr;
use std::rc::Rc;

use turnway_relay::{Client, FiveTuple, Link, Transport};
use turnway_wire::{
    AdditionalAddressFamily, BufferFull, Builder, ChannelNumber, EvenPort, Family, Lifetime,
    Method, RequestedAddressFamily, RequestedTransport, ReservationToken, XorPeerAddress,
};

use crate::messages::{Credentials, User};
use crate::plan::OWN;

/// What kind of client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Honest,
    /// Has a wrong password.
    WrongKey,
    /// Its time-limited name ends before the session does.
    ShortLived,
    /// Tries another client's nonce first.
    Borrower,
    /// Sleeps until its allocation is over, and then wants to go on.
    Sleeper,
    /// Has credentials, and wants to reach what it must not.
    Abuser,
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Delete,
    Crash,
    Disconnect,
}

/// What relayed transport address it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Any(Family),
    Even,
    Pair,
    Both,
    Reserved([u8; 8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    Ending,
    Gone,
}

pub(crate) struct Session {
    pub(crate) client: u32,
    pub(crate) tuple: FiveTuple,
    pub(crate) user: Rc<User>,
    pub(crate) behaviour: Behaviour,
    pub(crate) wish: Wish,
    pub(crate) finish: Finish,
    pub(crate) wants_partner: bool,
    pub(crate) lifetime_s: Option<u32>,
    pub(crate) ends_ns: u64,
    pub(crate) state: State,
    pub(crate) credentials: Option<Credentials>,
    /// Whether the nonce in use was made for somebody else.
    pub(crate) nonce_borrowed: bool,
    pub(crate) pending: Vec<Pending>,
    /// As announced. They stay known after the end, for what is still under way.
    pub(crate) relays: [Option<SocketAddr>; 2],
    pub(crate) partner: Option<u32>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) sent: u32,
    /// Pings that should come back, and pings that did, by sequence.
    pub(crate) counted: u128,
    pub(crate) heard: u128,
    pub(crate) disconnected: bool,
    /// When the last segment to the client and to the server arrives.
    pub(crate) stream_clock: [u64; 2],
    /// What has come of an incomplete frame, at the client and at the server.
    pub(crate) received: [Vec<u8>; 2],
}

/// A request without an answer so far.
pub(crate) struct Pending {
    pub(crate) transaction: [u8; 12],
    pub(crate) what: What,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Binding,
    Allocate,
    Refresh,
    Delete,
    Permissions,
    Channel(usize),
    /// Must be answered with 403.
    ForbiddenPermission(SocketAddr),
    ForbiddenChannel(SocketAddr),
    /// Leave to reach our own address, though never our listener.
    OwnPermission(SocketAddr),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// As the client names it.
    pub(crate) addr: SocketAddr,
    pub(crate) channel: u16,
    pub(crate) by_channel: bool,
    pub(crate) permitted: bool,
    pub(crate) bound: bool,
}

/// The shell's name for a UDP listener.
pub(crate) fn udp_link(server: SocketAddr) -> u32 {
    let place = OWN.iter().position(|ip| *ip == server.ip());
    u32::MAX - place.expect("a listener") as u32
}

impl Session {
    pub(crate) fn new(client: u32, tuple: FiveTuple, user: Rc<User>) -> Self {
        Self {
            client,
            tuple,
            user,
            behaviour: Behaviour::Honest,
            wish: Wish::Any(Family::V4),
            finish: Finish::Delete,
            wants_partner: false,
            lifetime_s: None,
            ends_ns: 0,
            state: State::Starting,
            credentials: None,
            nonce_borrowed: false,
            pending: Vec::new(),
            relays: [None; 2],
            partner: None,
            peers: Vec::new(),
            sent: 0,
            counted: 0,
            heard: 0,
            disconnected: false,
            stream_clock: [0; 2],
            received: [Vec::new(), Vec::new()],
        }
    }

    pub(crate) fn address(&self, index: u32) -> Client {
        let link = match self.tuple.transport {
            Transport::Udp | Transport::Dtls => udp_link(self.tuple.server),
            Transport::Tcp | Transport::Tls => index,
        };
        Client { tuple: self.tuple, link: Link(link), realm: Default::default() }
    }

    fn fill_allocate(&self, builder: &mut Builder<'_>) -> Result<(), BufferFull> {
        builder.add(&RequestedTransport(17))?;
        if let Some(seconds) = self.lifetime_s {
            builder.add(&Lifetime(seconds))?;
        }
        match self.wish {
            Wish::Any(Family::V4) => Ok(()),
            Wish::Any(Family::V6) => {
                builder.add(&RequestedAddressFamily { family: Some(Family::V6) })
            }
            Wish::Even => builder.add(&EvenPort { reserve_next: false }),
            Wish::Pair => builder.add(&EvenPort { reserve_next: true }),
            Wish::Both => builder.add(&AdditionalAddressFamily { family: Some(Family::V6) }),
            Wish::Reserved(token) => builder.add(&ReservationToken(token)),
        }
    }

    pub(crate) fn fill(&self, what: What, builder: &mut Builder<'_>) -> Result<(), BufferFull> {
        match what {
            What::Binding => Ok(()),
            What::Allocate => self.fill_allocate(builder),
            What::Refresh => match self.lifetime_s {
                Some(seconds) => builder.add(&Lifetime(seconds)),
                None => Ok(()),
            },
            What::Delete => builder.add(&Lifetime(0)),
            What::Permissions => {
                let mut peers = self.peers.iter();
                peers.try_for_each(|peer| builder.add(&XorPeerAddress(peer.addr)))
            }
            What::Channel(index) => {
                let peer = &self.peers[index];
                builder.add(&ChannelNumber(peer.channel))?;
                builder.add(&XorPeerAddress(peer.addr))
            }
            What::ForbiddenPermission(peer) | What::OwnPermission(peer) => {
                builder.add(&XorPeerAddress(peer))
            }
            What::ForbiddenChannel(peer) => {
                builder.add(&ChannelNumber(0x4FFF))?;
                builder.add(&XorPeerAddress(peer))
            }
        }
    }
}

impl What {
    pub(crate) fn method(self) -> Method {
        match self {
            Self::Binding => Method::BINDING,
            Self::Allocate => Method::ALLOCATE,
            Self::Refresh | Self::Delete => Method::REFRESH,
            Self::Permissions | Self::ForbiddenPermission(_) | Self::OwnPermission(_) => {
                Method::CREATE_PERMISSION
            }
            Self::Channel(_) | Self::ForbiddenChannel(_) => Method::CHANNEL_BIND,
        }
    }
}
