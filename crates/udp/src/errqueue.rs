//! The error queue of a relay socket: which peer an ICMP error was about.
//!
//! An error that waits there also fails the next call on the socket, whomever that concerns; see
//! `attempts`.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::address::{Family, RawAddress};
use crate::cmsg::{Control, Messages};
use crate::recv::empty_header;

/// Room for the error (64 bytes for IPv6) and the header fields that come with it.
const ERROR_CONTROL_SIZE: usize = 256;

const ICMP_DESTINATION_UNREACHABLE: u8 = 3;
const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
const ICMP6_PACKET_TOO_BIG: u8 = 2;

/// An ICMP or ICMPv6 error about a datagram that the socket sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the datagram was to go.
    pub peer: SocketAddr,
    /// Who reported the error.
    pub offender: Option<IpAddr>,
    /// ICMP (`V4`) or ICMPv6 (`V6`): what `icmp_type` and `code` mean.
    pub family: Family,
    /// The ICMP type.
    pub icmp_type: u8,
    /// The ICMP code.
    pub code: u8,
    /// The MTU in bytes if the datagram was too big for it, else zero.
    pub info: u32,
}

/// Takes at most `max` entries from the error queue of `socket`, hands the ICMP errors among them
/// to `on_error` and returns how many entries it took. Fewer than `max` means that it is empty.
///
/// # Errors
///
/// Those of `recvmsg`; an empty queue is none.
pub fn read_errors(
    socket: BorrowedFd<'_>,
    max: usize,
    on_error: &mut dyn FnMut(IcmpError),
) -> io::Result<usize> {
    let mut taken = 0;
    while taken < max {
        match read_one(socket) {
            Ok(Some(error)) => on_error(error),
            Ok(None) => {} // a local error, which the send has already returned
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        taken += 1;
    }
    Ok(taken)
}

/// How often a call on a relay socket is tried before its failure with `error` is believed.
///
/// An ICMP error fails the next send or receive on the socket, which is likely to concern someone
/// else, and is forgotten with that. Others may come in meanwhile, hence more than two attempts.
pub(crate) fn attempts(error: &io::Error) -> u32 {
    match error.raw_os_error() {
        // Nothing but an ICMP error fails a call on an unconnected socket with these.
        Some(
            libc::ECONNREFUSED
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EPROTO
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EINTR,
        ) => 8,
        // An ICMP error, or truly the datagram's own.
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EMSGSIZE | libc::EACCES) => 3,
        _ => 1,
    }
}

fn read_one(socket: BorrowedFd<'_>) -> io::Result<Option<IcmpError>> {
    let mut name = RawAddress::zeroed();
    let mut control = Control::<ERROR_CONTROL_SIZE>::zeroed();
    let mut header = empty_header().msg_hdr;
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = RawAddress::SIZE;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = ERROR_CONTROL_SIZE as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header points to a name and control room with the lengths they have, both
    // outliving the call, and to no data.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = (header.msg_controllen as usize).min(ERROR_CONTROL_SIZE);
    let error = Messages(&control.0[..length])
        .find(|message| is_error(message.level, message.kind))
        .zip(name.get());
    Ok(error.and_then(|(message, peer)| parse(message.data, peer)))
}

fn is_error(level: c_int, kind: c_int) -> bool {
    (level, kind) == (libc::IPPROTO_IP, libc::IP_RECVERR)
        || (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
}

/// Reads a `sock_extended_err` and the reporter's address behind it.
fn parse(data: &[u8], peer: SocketAddr) -> Option<IcmpError> {
    const HEAD: usize = size_of::<libc::sock_extended_err>();
    let head = data.get(..HEAD)?;
    // SAFETY: `head` has the size of the type, which consists of integers.
    let error = unsafe { head.as_ptr().cast::<libc::sock_extended_err>().read_unaligned() };
    let family = match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP => Family::V4,
        libc::SO_EE_ORIGIN_ICMP6 => Family::V6,
        _ => return None,
    };
    let too_big = match family {
        Family::V4 => {
            error.ee_type == ICMP_DESTINATION_UNREACHABLE
                && error.ee_code == ICMP_FRAGMENTATION_NEEDED
        }
        Family::V6 => error.ee_type == ICMP6_PACKET_TOO_BIG,
    };
    Some(IcmpError {
        peer,
        offender: RawAddress::from_bytes(&data[HEAD..]).get().map(|address| address.ip()),
        family,
        icmp_type: error.ee_type,
        code: error.ee_code,
        info: if too_big { error.ee_info } else { 0 },
    })
}
