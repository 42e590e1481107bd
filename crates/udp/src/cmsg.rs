//! Control messages: the fields of a datagram's header that travel beside its data.

use std::ffi::c_int;
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr};

use crate::address::{in_addr, in6_addr, ipv4};

/// Room for what one message carries either way: PKTINFO, TTL, TOS, the drop counter or DONTFRAG,
/// and the size of segments. That is 136 bytes at most (IPv6).
pub(crate) const CONTROL_SIZE: usize = 144;

/// A buffer of control messages, aligned as their headers must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Control<N> {
    pub(crate) const fn zeroed() -> Self {
        Self([0; N])
    }
}

/// A value that may be the data of a control message.
///
/// # Safety
///
/// Every byte of the type is initialised (it has no padding), and every pattern of them is valid.
unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u16 {}
// SAFETY: an integer.
unsafe impl Plain for c_int {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: three 32-bit integers.
unsafe impl Plain for libc::in_pktinfo {}
// SAFETY: sixteen bytes and a 32-bit integer, aligned to four.
unsafe impl Plain for libc::in6_pktinfo {}

/// Writes control messages one behind the other.
pub(crate) struct ControlWriter<'a> {
    buffer: &'a mut Control<CONTROL_SIZE>,
    length: usize,
}

impl<'a> ControlWriter<'a> {
    pub(crate) fn new(buffer: &'a mut Control<CONTROL_SIZE>) -> Self {
        Self { buffer, length: 0 }
    }

    /// Leave from `source`, through the interface that the route says.
    pub(crate) fn source(&mut self, source: IpAddr) {
        match source {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(ip),
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo { ipi6_addr: in6_addr(ip), ipi6_ifindex: 0 };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    /// An option of IPv4 or IPv6 that is an integer.
    pub(crate) fn integer(&mut self, level: c_int, kind: c_int, value: c_int) {
        self.push(level, kind, value);
    }

    /// Cut the data into datagrams of `size` bytes each, of which the last may be shorter.
    pub(crate) fn segment(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }

    /// How many bytes were written.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    fn push<T: Plain>(&mut self, level: c_int, kind: c_int, value: T) {
        let space = space_of(size_of::<T>());
        let target = &mut self.buffer.0[self.length..][..space];
        // Of `cmsghdr` only these three fields have a meaning on every libc.
        let header = target.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `target` is `space` bytes long, which CMSG_SPACE makes room for a header and a
        // `T` behind CMSG_LEN(0); the buffer is aligned to 8 and CMSG_SPACE is a multiple of 8.
        unsafe {
            (*header).cmsg_len = length_of(size_of::<T>()) as _;
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            target.as_mut_ptr().add(length_of(0)).cast::<T>().write_unaligned(value);
        }
        self.length += space;
    }
}

/// What the kernel told about a received datagram. Nothing is there that was not asked for.
#[derive(Default)]
pub(crate) struct Header {
    pub(crate) local: Option<IpAddr>,
    pub(crate) interface: u32,
    pub(crate) ttl: Option<u8>,
    pub(crate) tos: Option<u8>,
    pub(crate) dropped: Option<u32>,
    pub(crate) segment: Option<usize>,
}

impl Header {
    /// Reads the control messages in `control`.
    pub(crate) fn read(control: &[u8]) -> Self {
        let mut header = Self::default();
        for message in Messages(control) {
            match (message.level, message.kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    if let Some(info) = message.value::<libc::in_pktinfo>() {
                        header.local = Some(ipv4(info.ipi_addr).into());
                        header.interface = info.ipi_ifindex as u32;
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    if let Some(info) = message.value::<libc::in6_pktinfo>() {
                        header.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                        header.interface = info.ipi6_ifindex;
                    }
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    header.ttl = message.value::<c_int>().map(|ttl| ttl as u8);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => header.tos = message.value::<u8>(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    header.tos = message.value::<c_int>().map(|class| class as u8);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => header.dropped = message.value::<u32>(),
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = message.value::<c_int>();
                    header.segment = size.and_then(|size| usize::try_from(size).ok());
                }
                _ => {}
            }
        }
        header
    }
}

/// One control message.
pub(crate) struct Message<'a> {
    pub(crate) level: c_int,
    pub(crate) kind: c_int,
    pub(crate) data: &'a [u8],
}

impl Message<'_> {
    fn value<T: Plain>(&self) -> Option<T> {
        let data = self.data.get(..size_of::<T>())?;
        // SAFETY: `data` has the size of `T`, and every pattern of bytes is a valid `T`.
        Some(unsafe { data.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// Iterates over the control messages that the kernel wrote.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let head = self.0.get(..size_of::<libc::cmsghdr>())?;
        // SAFETY: `head` has the size of a `cmsghdr`, which consists of integers.
        let header = unsafe { head.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        let data = self.0.get(length_of(0)..header.cmsg_len as usize)?;
        self.0 = self.0.get(space_of(data.len())..).unwrap_or_default();
        Some(Message { level: header.cmsg_level, kind: header.cmsg_type, data })
    }
}

/// CMSG_LEN: the length that the header of `bytes` of data states.
fn length_of(bytes: usize) -> usize {
    // SAFETY: arithmetic only.
    unsafe { libc::CMSG_LEN(bytes as u32) as usize }
}

/// CMSG_SPACE: the bytes from one header to the next.
fn space_of(bytes: usize) -> usize {
    // SAFETY: arithmetic only.
    unsafe { libc::CMSG_SPACE(bytes as u32) as usize }
}
