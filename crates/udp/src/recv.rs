//! Receiving a batch of datagrams: `recvmmsg` into slots that are allocated once.
//!
//! A slot holds a datagram, or a run of them that the kernel has merged (UDP_GRO): they came from
//! one sender with equal headers and follow each other in the slot, without anything in between.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::address::RawAddress;
use crate::cmsg::{CONTROL_SIZE, Control, Header};
use crate::errqueue::attempts;

/// Slots of a batch, unless told otherwise.
pub const DEFAULT_SLOTS: usize = 64;

/// Bytes of a slot: no UDP datagram is longer, so none is ever cut.
const SLOT_SIZE: usize = 65_536;

/// Bytes between the ends of slots. Without them all slots would begin in the same few sets of
/// the first-level cache.
const SLOT_GAP: usize = 256;

/// Bytes of the smallest page there is.
const PAGE: usize = 4096;

/// Datagrams received and not yet dealt with, from one or several sockets.
///
/// The memory is one allocation that the kernel backs with pages only where datagrams were
/// written, unless [`Self::prefault`] is called.
pub struct ReceiveBatch {
    slot_size: usize,
    space: Vec<u8>,
    names: Vec<RawAddress>,
    controls: Vec<Control<CONTROL_SIZE>>,
    /// Kept alive, as `headers` point into it; like those above it never grows or shrinks.
    _vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    used: usize,
    /// Where the last receive began.
    last: usize,
}

// SAFETY: the pointers in `headers` and `_vectors` lead to the heap memory of this batch alone,
// which moves with it to another thread.
unsafe impl Send for ReceiveBatch {}

/// What one slot holds: a datagram, or a run of datagrams whose headers said the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// The datagram, or the run; [`Self::segments`] tells where each one is.
    pub data: &'a [u8],
    /// Bytes of each datagram in `data`, at least 1; the last one may be shorter.
    pub segment: usize,
    /// The sender.
    pub from: SocketAddr,
    /// The destination in its header, be it a broadcast address; listeners only.
    pub local: Option<IpAddr>,
    /// The index of the interface it came through; zero where not known. Listeners only.
    pub interface: u32,
    /// IPv4 TTL or IPv6 Hop Limit as received.
    pub ttl: Option<u8>,
    /// DSCP and ECN: the IPv4 TOS byte or the IPv6 Traffic Class.
    pub tos: Option<u8>,
    /// The datagram was longer than the slot, and its end is lost.
    pub truncated: bool,
}

impl Received<'_> {
    /// Where each datagram is in `data`, in the order of their arrival. There is at least one, be
    /// it empty.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (length, size) = (self.data.len(), self.segment);
        let count = length.div_ceil(size).max(1);
        (0..count).map(move |number| number * size..length.min((number + 1) * size))
    }
}

impl ReceiveBatch {
    /// A batch of `slots` slots ([`DEFAULT_SLOTS`] is a good number) for datagrams of any length.
    pub fn new(slots: usize) -> Self {
        Self::with_slot_size(slots, SLOT_SIZE)
    }

    /// A batch of `slots` slots of `slot_size` bytes; longer datagrams and runs are truncated. No
    /// run is longer than the longest datagram.
    pub fn with_slot_size(slots: usize, slot_size: usize) -> Self {
        let stride = slot_size + SLOT_GAP;
        let mut space = vec![0; slots * stride];
        let mut names = vec![RawAddress::zeroed(); slots];
        let mut controls = vec![Control::zeroed(); slots];
        let (space_base, names_base) = (space.as_mut_ptr(), names.as_mut_ptr());
        let controls_base: *mut Control<CONTROL_SIZE> = controls.as_mut_ptr();
        let mut vectors: Vec<libc::iovec> = (0..slots)
            .map(|slot| libc::iovec {
                iov_base: space_base.wrapping_add(slot * stride).cast(),
                iov_len: slot_size,
            })
            .collect();
        let vectors_base = vectors.as_mut_ptr();
        let headers = (0..slots)
            .map(|slot| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = names_base.wrapping_add(slot).cast();
                header.msg_hdr.msg_iov = vectors_base.wrapping_add(slot);
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = controls_base.wrapping_add(slot).cast();
                reset(&mut header);
                header
            })
            .collect();
        Self { slot_size, space, names, controls, _vectors: vectors, headers, used: 0, last: 0 }
    }

    /// Touches all memory once, so that no page is faulted in while datagrams wait, and none that a
    /// large datagram needs makes the process grow later.
    pub fn prefault(&mut self) {
        for byte in self.space.iter_mut().step_by(PAGE) {
            *std::hint::black_box(byte) = 1;
        }
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.headers.len() - self.used
    }

    /// How many slots are in use; their indices are below this.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether the batch holds no datagram.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Receives what waits at `socket` into up to `max` slots behind those in use, and returns
    /// their indices. The range is empty where nothing waits and where the batch is full.
    ///
    /// # Errors
    ///
    /// Those of `recvmmsg`, except that an ICMP error pending on the socket is not one: it is read
    /// with [`crate::read_errors`].
    pub fn receive(&mut self, socket: BorrowedFd<'_>, max: usize) -> io::Result<Range<usize>> {
        let first = self.used;
        self.last = first;
        let count = max.min(self.free());
        if count == 0 {
            return Ok(first..first);
        }
        let mut tried = 0;
        loop {
            match receive_into(socket, &mut self.headers[first..first + count]) {
                Ok(received) => {
                    self.used = first + received;
                    return Ok(first..self.used);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(first..first),
                Err(error) => {
                    tried += 1;
                    if tried >= attempts(&error) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Reads once from `stream` into a free slot, behind what earlier reads left over: the pieces
    /// of `carry` in their order. Returns the slot's index and how many bytes were read; 0 is the
    /// end of the stream, and then no slot is used. [`Self::data`] gives all parts as one.
    ///
    /// # Errors
    ///
    /// Those of the stream. `carry` must be shorter than a slot, and a slot must be free, or it is
    /// `InvalidInput`.
    pub fn read_stream(
        &mut self,
        carry: [&[u8]; 2],
        stream: &mut impl io::Read,
    ) -> io::Result<(usize, usize)> {
        let slot = self.used;
        let carried = carry[0].len() + carry[1].len();
        if self.free() == 0 || carried >= self.slot_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let space = &mut self.space[slot * (self.slot_size + SLOT_GAP)..][..self.slot_size];
        let (first, rest) = space.split_at_mut(carry[0].len());
        first.copy_from_slice(carry[0]);
        let (second, room) = rest.split_at_mut(carry[1].len());
        second.copy_from_slice(carry[1]);
        let read = stream.read(room)?;
        if read > 0 {
            let header = &mut self.headers[slot];
            header.msg_len = (carried + read) as u32;
            header.msg_hdr.msg_controllen = 0;
            self.used += 1;
            self.last = self.used;
        }
        Ok((slot, read))
    }

    /// The bytes of the datagram or run at `index`, to be decrypted where they lie; panics as
    /// [`Self::get`] does.
    pub fn data_mut(&mut self, index: usize) -> &mut [u8] {
        assert!(index < self.used, "no datagram was received at this index");
        let length = self.headers[index].msg_len as usize;
        &mut self.space[index * (self.slot_size + SLOT_GAP)..][..length]
    }

    /// Forgets the bytes at `index` from `len` on; panics as [`Self::get`] does.
    pub fn truncate(&mut self, index: usize, len: usize) {
        assert!(index < self.used, "no datagram was received at this index");
        let header = &mut self.headers[index];
        header.msg_len = header.msg_len.min(len as u32);
    }

    /// Takes a free slot for a datagram of one's own making, to be sent from there: its index, and
    /// its `len` bytes, which are what was last in the slot. `None` where no slot is free, or none
    /// is that large.
    pub fn compose(&mut self, len: usize) -> Option<(usize, &mut [u8])> {
        if self.free() == 0 || len > self.slot_size {
            return None;
        }
        let slot = self.used;
        let header = &mut self.headers[slot];
        header.msg_len = len as u32;
        header.msg_hdr.msg_controllen = 0;
        self.used += 1;
        self.last = self.used;
        Some((slot, &mut self.space[slot * (self.slot_size + SLOT_GAP)..][..len]))
    }

    /// The datagram or run at `index`.
    ///
    /// # Panics
    ///
    /// Where `index` is none that [`Self::receive`] returned since the last [`Self::clear`].
    pub fn get(&self, index: usize) -> Received<'_> {
        let header = self.header(index);
        let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let data = self.data(index);
        Received {
            data,
            segment: header.segment.unwrap_or(data.len()).max(1),
            // Only a socket that is no UDP socket leaves the sender out.
            from: self.names[index].get().unwrap_or(unknown),
            local: header.local,
            interface: header.interface,
            ttl: header.ttl,
            tos: header.tos,
            truncated: self.headers[index].msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }

    /// The bytes of the datagram or run at `index`; panics as [`Self::get`] does.
    pub fn data(&self, index: usize) -> &[u8] {
        assert!(index < self.used, "no datagram was received at this index");
        let length = self.headers[index].msg_len as usize;
        &self.space[index * (self.slot_size + SLOT_GAP)..][..length]
    }

    /// How many datagrams the kernel has dropped in the life of the last socket received from,
    /// modulo 2^32, because its buffer was full; a run that it had merged counts as one. `None`
    /// means that the last receive did not tell:
    /// it got nothing, or nothing was ever dropped.
    pub fn dropped(&self) -> Option<u32> {
        if self.used == self.last {
            return None;
        }
        self.header(self.used - 1).dropped
    }

    /// Forgets all datagrams, so that their slots can be used again.
    pub fn clear(&mut self) {
        for (header, name) in self.headers.iter_mut().zip(&mut self.names).take(self.used) {
            reset(header);
            *name = RawAddress::zeroed();
        }
        self.used = 0;
        self.last = 0;
    }

    fn header(&self, index: usize) -> Header {
        assert!(index < self.used, "no datagram was received at this index");
        let length = self.headers[index].msg_hdr.msg_controllen as usize;
        Header::read(&self.controls[index].0[..length.min(CONTROL_SIZE)])
    }
}

/// A message header that points to nothing.
pub(crate) fn empty_header() -> libc::mmsghdr {
    // SAFETY: it consists of integers and pointers, for which zero is a valid value.
    unsafe { std::mem::zeroed() }
}

/// Undoes what the kernel changed, so that the header can be received into once more.
fn reset(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = RawAddress::SIZE;
    header.msg_hdr.msg_controllen = CONTROL_SIZE as _;
    header.msg_hdr.msg_flags = 0;
    header.msg_len = 0;
}

fn receive_into(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (count, flags) = (headers.len() as u32, libc::MSG_DONTWAIT);
    // SAFETY: each header points to a name, a vector, control room and slot of its own, with the
    // lengths they have, in vectors of the batch that are never resized; nobody has a reference to
    // them, since the batch is mutably borrowed here. A null timeout means none.
    let received = unsafe {
        let headers = headers.as_mut_ptr();
        libc::recvmmsg(socket.as_raw_fd(), headers, count, flags as _, ptr::null_mut())
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}
