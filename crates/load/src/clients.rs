//! The sockets of all clients of one thread.
//!
//! Over loopback IPv4 there are as many client addresses as one likes, so all clients share one
//! socket and a datagram's addresses tell whose it is. Elsewhere each client is a port of our
//! address, or a connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use turnway_udp::{self as udp, Events, Interest, Poller, ReceiveBatch, Received, UdpListener};

use crate::LoadError;
use crate::streams::Streams;

/// Room for what arrives while this thread does something else.
pub(crate) const SOCKET_BUFFER: usize = 32 << 20;

/// Clients that share a socket: the last two bytes of their addresses count them.
const SHARED_MAX: usize = 1 << 16;

/// Datagrams taken from one socket before the next one has its turn.
const TURN: usize = 64;

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection for each client.
    Tcp,
    /// The same within TLS, whatever certificate the server has.
    Tls,
}

impl Transport {
    /// Whether each client has a connection.
    #[must_use]
    pub fn is_stream(self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp | Self::Tls => true,
        }
    }
}

/// All clients of one thread.
pub struct Clients {
    server: SocketAddr,
    count: usize,
    link: Link,
}

enum Link {
    Shared(UdpListener),
    Each(Each),
    Streams(Streams),
}

struct Each {
    sockets: Vec<udp::Socket>,
    poller: Poller,
    events: Events,
}

impl Clients {
    /// Opens the sockets of `count` clients of `server`.
    ///
    /// # Errors
    ///
    /// No descriptor, port or route for one of them; a refused connection.
    pub fn open(server: SocketAddr, transport: Transport, count: usize) -> Result<Self, LoadError> {
        let local = own_address(server)?;
        let link = match (transport, local) {
            (Transport::Tcp | Transport::Tls, _) => {
                Link::Streams(Streams::connect(server, transport, count)?)
            }
            (Transport::Udp, IpAddr::V4(ip)) if ip.is_loopback() && count <= SHARED_MAX => {
                let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                let opened = udp::listener_udp(any, SOCKET_BUFFER);
                Link::Shared(opened.map_err(LoadError::io("cannot open the clients' socket"))?.0)
            }
            (Transport::Udp, _) => Link::Each(Each::open(local, count)?),
        };
        Ok(Self { server, count, link })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether messages are neither lost nor reordered on their way to the server.
    #[must_use]
    pub fn is_reliable(&self) -> bool {
        matches!(self.link, Link::Streams(_))
    }

    /// The port that all clients of one socket have; their addresses are told by
    /// [`shared_address`].
    #[must_use]
    pub fn shared_port(&self) -> Option<u16> {
        match &self.link {
            Link::Shared(socket) => socket.local_addr().ok().map(|address| address.port()),
            Link::Each(_) | Link::Streams(_) => None,
        }
    }

    /// The socket and source address by which a client's datagrams leave; `None` where it has a
    /// connection.
    #[must_use]
    pub(crate) fn datagram_link(&self, client: usize) -> Option<(RawFd, Option<IpAddr>)> {
        match &self.link {
            Link::Shared(socket) => Some((socket.as_raw_fd(), Some(shared_address(client).into()))),
            Link::Each(each) => Some((each.sockets[client].as_raw_fd(), None)),
            Link::Streams(_) => None,
        }
    }

    /// The connections, where clients have them.
    pub(crate) fn streams(&mut self) -> Option<&mut Streams> {
        match &mut self.link {
            Link::Streams(streams) => Some(streams),
            Link::Shared(_) | Link::Each(_) => None,
        }
    }

    /// Sends one message of a client. What a full buffer does not take is lost, over UDP.
    ///
    /// # Errors
    ///
    /// A closed connection, or one that the server does not read; no route to the server.
    pub fn send(&mut self, client: usize, message: &[u8]) -> Result<(), LoadError> {
        let server = self.server;
        let sent = match &mut self.link {
            Link::Shared(socket) => {
                let from = Some(shared_address(client).into());
                udp::send_one(socket.as_fd(), message, server, from)
            }
            Link::Each(each) => udp::send_one(each.sockets[client].as_fd(), message, server, None),
            Link::Streams(streams) => return streams.send(client, message),
        };
        match sent {
            Err(error) if !is_full(&error) => {
                Err(LoadError::Io(format!("cannot send to {server}"), error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes in what has come, message by message with its client, and tells how many came. What
    /// is not from the server is left out.
    ///
    /// # Errors
    ///
    /// A closed connection; a socket that does not work.
    pub fn receive(
        &mut self,
        batch: &mut ReceiveBatch,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<usize, LoadError> {
        let (server, count) = (self.server, self.count);
        match &mut self.link {
            Link::Shared(socket) => receive_some(socket.as_fd(), batch, |received| {
                let Some(client) = received.local.map(shared_number) else { return };
                if received.from == server && client < count {
                    received.segments().for_each(|range| take(client, &received.data[range]));
                }
            }),
            Link::Each(each) => each.receive(batch, |client, received| {
                if received.from == server {
                    received.segments().for_each(|range| take(client, &received.data[range]));
                }
            }),
            Link::Streams(streams) => streams.receive(&mut take),
        }
    }
}

impl Each {
    fn open(local: IpAddr, count: usize) -> Result<Self, LoadError> {
        let cannot = || LoadError::io(format!("cannot open a socket for each of {count} clients"));
        let poller = Poller::new().map_err(cannot())?;
        let mut sockets = Vec::with_capacity(count);
        for client in 0..count {
            let socket = udp::relay_udp(SocketAddr::new(local, 0), 0).map_err(cannot())?;
            poller.add(socket.as_fd(), client as u64, Interest::READ).map_err(cannot())?;
            sockets.push(socket);
        }
        Ok(Self { sockets, poller, events: Events::new(256) })
    }

    fn receive(
        &mut self,
        batch: &mut ReceiveBatch,
        mut take: impl FnMut(usize, Received<'_>),
    ) -> Result<usize, LoadError> {
        let Self { sockets, poller, events } = self;
        poll(poller, events)?;
        let mut came = 0;
        for event in events.iter() {
            let client = event.token as usize;
            let socket = sockets[client].as_fd();
            if event.error() {
                // Of no use here, but the queue they are in is bounded together with the data.
                let _ = udp::read_errors(socket, TURN, &mut |_| {});
            }
            came += receive_some(socket, batch, |received| take(client, received))?;
        }
        Ok(came)
    }
}

/// Asks what has happened, without waiting for it.
pub(crate) fn poll(poller: &Poller, events: &mut Events) -> Result<(), LoadError> {
    let now = Some(std::time::Duration::ZERO);
    poller.wait(events, now).map_err(LoadError::io("cannot poll"))
}

/// Takes in up to a turn's datagrams or runs of them, and tells how many datagrams they were.
pub(crate) fn receive_some(
    socket: BorrowedFd<'_>,
    batch: &mut ReceiveBatch,
    mut take: impl FnMut(Received<'_>),
) -> Result<usize, LoadError> {
    batch.clear();
    let slots = batch.receive(socket, TURN).map_err(LoadError::io("cannot receive"))?;
    let mut came = 0;
    for slot in slots {
        let received = batch.get(slot);
        came += received.segments().len();
        take(received);
    }
    Ok(came)
}

/// Whether a datagram was not sent for want of room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(105 /* ENOBUFS */)
}

/// The address by which this machine reaches `server`.
///
/// # Errors
///
/// No route to it.
pub fn own_address(server: SocketAddr) -> Result<IpAddr, LoadError> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let probe = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        Ok(socket.local_addr()?.ip())
    };
    probe().map_err(LoadError::io(format!("no route to {server}")))
}

/// The address of the n-th client of a shared socket: none that servers use.
#[must_use]
pub fn shared_address(client: usize) -> Ipv4Addr {
    let [high, low] = (client as u16).to_be_bytes();
    Ipv4Addr::new(127, 254, high, low)
}

/// Which client of a shared socket has this address.
fn shared_number(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(ip) => (ip.to_bits() & 0xFFFF) as usize,
        IpAddr::V6(_) => usize::MAX,
    }
}
