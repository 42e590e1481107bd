//! Making sockets, with every option that the relay relies on.
//!
//! All of them are non-blocking and closed on exec; an IPv6 socket never takes IPv4, so that
//! `0.0.0.0` and `[::]` can be opened side by side.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

/// A TCP connection whose peer acknowledges nothing for this long is closed.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// A TCP connection silent for this long is asked whether it still lives, and so again each
/// [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A UDP socket that clients send to, sharing its address with those of the other shards.
#[derive(Debug)]
pub struct UdpListener(UdpSocket);

/// A relay socket: bound to one relayed transport address, which is nobody else's.
#[derive(Debug)]
pub struct Socket(UdpSocket);

/// A TCP socket that clients connect to, sharing its address with those of the other shards.
#[derive(Debug)]
pub struct TcpListenerFd(TcpListener);

macro_rules! socket {
    ($name:ty) => {
        impl $name {
            /// The address that the socket is bound to.
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                self.0.local_addr()
            }
        }

        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                self.0.as_raw_fd()
            }
        }
    };
}

socket!(UdpListener);
socket!(Socket);
socket!(TcpListenerFd);

/// The buffers of a socket, in bytes of the unit that `net.core.rmem_max` and `wmem_max` have (the
/// kernel reserves twice as much for its own bookkeeping).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferGrant {
    /// What was asked for.
    pub asked: usize,
    /// The receive buffer's size.
    pub receive_got: usize,
    /// The send buffer's size.
    pub send_got: usize,
}

/// Opens a UDP socket for clients at `addr`, which every shard may do for the same `addr`
/// (SO_REUSEPORT). `buffer` is the size of both kernel buffers asked for; zero keeps the default.
///
/// A received datagram tells the address it came to, its TTL, its DSCP and ECN. Datagrams that are
/// alike may come as one run; see [`crate::Received::segments`].
///
/// # Errors
///
/// Those of the system calls, unchanged: `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `EMFILE`.
pub fn listener_udp(addr: SocketAddr, buffer: usize) -> io::Result<(UdpListener, BufferGrant)> {
    let socket = socket(addr, Type::DGRAM)?;
    socket.set_reuse_port(true)?;
    match addr {
        SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
        SocketAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
    }
    set_datagram_options(&socket, addr)?;
    set_buffers(&socket, buffer)?;
    let grant = BufferGrant {
        asked: buffer,
        receive_got: socket.recv_buffer_size()? / 2,
        send_got: socket.send_buffer_size()? / 2,
    };
    socket.bind(&addr.into())?;
    Ok((UdpListener(socket.into()), grant))
}

/// Opens the relay socket of the relayed transport address `addr`. Nobody can share its port.
/// `buffer` is the size of both kernel buffers asked for; zero keeps the default.
///
/// A received datagram tells its TTL, its DSCP and ECN. Datagrams that are alike may come as one
/// run; see [`crate::Received::segments`]. ICMP errors go to the error queue
/// ([`crate::read_errors`]).
///
/// # Errors
///
/// Those of the system calls, unchanged: `EADDRINUSE` where another program has the port, `EMFILE`
/// and `ENFILE` where descriptors ran out.
pub fn relay_udp(addr: SocketAddr, buffer: usize) -> io::Result<Socket> {
    let socket = socket(addr, Type::DGRAM)?;
    match addr {
        SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
        SocketAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?,
    }
    set_datagram_options(&socket, addr)?;
    set_buffers(&socket, buffer)?;
    socket.bind(&addr.into())?;
    Ok(Socket(socket.into()))
}

/// Asks whether a UDP socket could have `addr` for itself, and lets go of it at once.
///
/// # Errors
///
/// `EADDRINUSE` where any socket holds the address, be it with SO_REUSEPORT.
pub fn probe_exclusive_udp(addr: SocketAddr) -> io::Result<()> {
    socket(addr, Type::DGRAM)?.bind(&addr.into())
}

/// Asks whether a TCP listener could have `addr` for itself, and lets go of it at once.
/// Connections of an earlier process that linger in TIME_WAIT do not matter.
///
/// # Errors
///
/// `EADDRINUSE` where any socket listens there, be it with SO_REUSEPORT.
pub fn probe_exclusive_tcp(addr: SocketAddr) -> io::Result<()> {
    let socket = socket(addr, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1)
}

/// Listens for TCP connections at `addr`, which every shard may do for the same `addr`
/// (SO_REUSEPORT). At most `backlog` connections wait to be accepted.
///
/// # Errors
///
/// Those of the system calls, unchanged.
pub fn listener_tcp(addr: SocketAddr, backlog: i32) -> io::Result<TcpListenerFd> {
    let socket = socket(addr, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    Ok(TcpListenerFd(socket.into()))
}

/// Listens for peers at the relayed transport address `addr`, which is nobody else's; connections
/// to peers may leave from it ([`connect_from`]). At most `backlog` wait to be accepted.
///
/// # Errors
///
/// As for [`relay_udp`].
pub fn relay_tcp(addr: SocketAddr, backlog: i32) -> io::Result<TcpListenerFd> {
    let socket = socket(addr, Type::STREAM)?;
    // Connections of an earlier allocation may linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    // Only now: another program's port is noticed, and our own connections can share this one.
    socket.set_reuse_port(true)?;
    socket.listen(backlog)?;
    Ok(TcpListenerFd(socket.into()))
}

/// Begins to connect from the relayed transport address `local`, where [`relay_tcp`] listens, to a
/// peer. The stream is writable once it is connected or has failed ([`TcpStream::take_error`]).
///
/// # Errors
///
/// `EMFILE`, `ENFILE`; `EADDRNOTAVAIL` where the two addresses had a connection a moment ago; and
/// what the network says at once.
pub fn connect_from(local: SocketAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(local, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    match socket.connect(&peer.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// Sets what both connections need whose bytes go from one to the other: as [`tune_stream`], but
/// whoever does not read for a long time keeps his connection, for the other one may wait.
///
/// # Errors
///
/// Those of `setsockopt`, unchanged.
pub fn tune_spliced(stream: &TcpStream) -> io::Result<()> {
    tune_stream(stream)?;
    SockRef::from(stream).set_tcp_user_timeout(None)
}

/// Closes a connection at once, and has the other side see that it was not its end (RST).
pub fn reset(stream: TcpStream) {
    // Without it the connection ends politely, which is no harm.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Accepts one connection: a non-blocking stream, the peer's address and the local one.
///
/// # Errors
///
/// `WouldBlock` when none waits; `EMFILE` and `ENFILE` where descriptors ran out, and then the
/// connection goes on waiting. `ECONNABORTED` and the like concern that one connection alone.
pub fn accept(listener: &TcpListenerFd) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let (stream, peer) = listener.0.accept()?;
    stream.set_nonblocking(true)?;
    let local = stream.local_addr()?;
    Ok((stream, peer, local))
}

/// Sets what a client's connection needs: small writes leave at once, a dead peer is noticed.
///
/// # Errors
///
/// Those of `setsockopt`, unchanged.
pub fn tune_stream(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(STREAM_TIMEOUT))?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)
}

/// Sets an integer option.
pub(crate) fn set(socket: &impl AsRawFd, level: c_int, name: c_int, to: c_int) -> io::Result<()> {
    let value = (&raw const to).cast();
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` points to `size` readable bytes for the length of the call.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a socket get every datagram by itself, as without UDP_GRO: to measure what that costs.
///
/// # Errors
///
/// Those of `setsockopt`, unchanged.
pub fn never_merge(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 0)
}

/// Whether the kernel knows UDP_SEGMENT (since Linux 4.18). One that does not would send a train as
/// one long datagram.
pub(crate) fn can_segment() -> bool {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else {
        return false;
    };
    set(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// A non-blocking, close-on-exec socket for one IP version only.
fn socket(addr: SocketAddr, kind: Type) -> io::Result<socket2::Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = socket2::Socket::new(
        Domain::for_address(addr),
        kind.nonblocking().cloexec(),
        Some(protocol),
    )?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// What listeners and relay sockets have in common.
fn set_datagram_options(socket: &socket2::Socket, addr: SocketAddr) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    // A kernel without it (before Linux 5.0) delivers every datagram by itself, which is as good.
    let _ = set(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    // OMIT: never DF, and an ICMP "too big", which anyone can forge, does not shrink the path MTU.
    match addr {
        SocketAddr::V4(_) => {
            let level = libc::IPPROTO_IP;
            set(socket, level, libc::IP_RECVTTL, 1)?;
            set(socket, level, libc::IP_RECVTOS, 1)?;
            set(socket, level, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
        }
        SocketAddr::V6(_) => {
            let level = libc::IPPROTO_IPV6;
            set(socket, level, libc::IPV6_RECVHOPLIMIT, 1)?;
            set(socket, level, libc::IPV6_RECVTCLASS, 1)?;
            set(socket, level, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT)
        }
    }
}

fn set_buffers(socket: &socket2::Socket, asked: usize) -> io::Result<()> {
    if asked > 0 {
        // The first form passes the sysctl's limit but wants CAP_NET_ADMIN.
        let size = c_int::try_from(asked).unwrap_or(c_int::MAX);
        if set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
            set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, size)?;
        }
        if set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
            set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, size)?;
        }
    }
    Ok(())
}
