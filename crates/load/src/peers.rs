//! The peers of all clients of one thread: one socket.
//!
//! Over loopback IPv4 each client has a peer at an address of its own, as in real use; elsewhere
//! all share one, and the relay's ports tell them apart.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

use turnway_udp::{self as udp, ReceiveBatch, Received, UdpListener};

use crate::LoadError;
use crate::clients::{SOCKET_BUFFER, receive_some};

/// The socket.
pub(crate) struct Peers {
    socket: UdpListener,
    pub(crate) addresses: Addresses,
}

/// Which address is whose peer's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// That of all; `None` where each client's peer has its own.
    pub(crate) all: Option<IpAddr>,
    pub(crate) port: u16,
}

impl Peers {
    /// Opens the socket at `ip`; by default where the machine is seen from the server, which is
    /// `own`.
    pub(crate) fn open(ip: Option<IpAddr>, own: IpAddr) -> Result<Self, LoadError> {
        let all = match (ip, own) {
            (Some(ip), _) => Some(ip),
            (None, IpAddr::V4(own)) if own.is_loopback() => None,
            (None, own) => Some(own),
        };
        let bound = SocketAddr::new(all.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0);
        let cannot =
            || LoadError::io(format!("cannot open the peers' socket at {bound} (--peer-address)"));
        let (socket, _) = udp::listener_udp(bound, SOCKET_BUFFER).map_err(cannot())?;
        let port = socket.local_addr().map_err(cannot())?.port();
        Ok(Self { socket, addresses: Addresses { all, port } })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Takes in some of what has come, and tells how many datagrams that was.
    pub(crate) fn receive(
        &self,
        batch: &mut ReceiveBatch,
        take: impl FnMut(Received<'_>),
    ) -> Result<usize, LoadError> {
        receive_some(self.socket.as_fd(), batch, take)
    }
}

impl Addresses {
    /// The peer of a client.
    pub(crate) fn of(self, client: usize) -> SocketAddr {
        SocketAddr::new(self.all.unwrap_or(own_peer(client).into()), self.port)
    }

    /// What a client's peer must state as its source; `None` where there is but one.
    pub(crate) fn source(self, client: usize) -> Option<IpAddr> {
        self.all.is_none().then(|| own_peer(client).into())
    }
}

/// The address of the peer of the n-th client, where each has its own: none that servers use.
#[must_use]
pub fn own_peer(client: usize) -> Ipv4Addr {
    let [high, low] = (client as u16).to_be_bytes();
    Ipv4Addr::new(127, 252, high, low)
}
