//! Sending a batch of datagrams: `sendmmsg` straight out of what was received.
//!
//! Each datagram is a prefix (a ChannelData or Data indication header), a slice of a received
//! datagram, and padding: three pieces that the kernel gathers, so that no payload is copied here.

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::address::RawAddress;
use crate::cmsg::{CONTROL_SIZE, Control, ControlWriter};
use crate::errqueue::attempts;
use crate::options::set;
use crate::recv::{ReceiveBatch, empty_header};

/// Bytes of the longest prefix: the header of a STUN message (20), an XOR-PEER-ADDRESS with an
/// IPv6 address (24) and the header of DATA (4).
pub const MAX_PREFIX: usize = 48;

/// Datagrams of one system call.
const RUN: usize = 64;

/// Pieces that a datagram is gathered from.
const PIECES: usize = 3;

static PADDING: [u8; 3] = [0; 3];

/// One datagram to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    /// The socket it leaves through. It must stay open until the batch is flushed.
    pub socket: RawFd,
    /// Where it goes; of the socket's family.
    pub to: SocketAddr,
    /// The address it leaves from, of the same family; by default the socket's or the route's.
    pub source: Option<IpAddr>,
    /// TTL or Hop Limit, at least 1; by default the system's.
    pub ttl: Option<u8>,
    /// DSCP and ECN; by default zero.
    pub tos: Option<u8>,
    /// Sets DF (IPv4) or forbids to fragment at the source (IPv6). A datagram longer than the
    /// interface's MTU then fails with `EMSGSIZE`.
    pub dont_fragment: bool,
    /// What goes in front of the payload.
    pub prefix: Prefix,
    /// The part of a received datagram that is sent on.
    pub payload: Payload,
    /// Zero bytes behind the payload, at most 3.
    pub pad: u8,
    /// The caller's own word, handed back with the result.
    pub tag: u32,
}

/// Up to [`MAX_PREFIX`] bytes, held in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; MAX_PREFIX],
    length: u8,
}

impl Prefix {
    /// No prefix.
    pub const EMPTY: Self = Self { bytes: [0; MAX_PREFIX], length: 0 };

    /// Copies `prefix`.
    ///
    /// # Panics
    ///
    /// Where it is longer than [`MAX_PREFIX`].
    pub fn new(prefix: &[u8]) -> Self {
        let mut bytes = [0; MAX_PREFIX];
        bytes[..prefix.len()].copy_from_slice(prefix);
        Self { bytes, length: prefix.len() as u8 }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A part of a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// The datagram's index in the [`ReceiveBatch`] that the flush is given.
    pub slot: usize,
    /// Where the part begins in it, in bytes.
    pub offset: usize,
    /// Its length in bytes. If it is zero the other fields do not matter.
    pub len: usize,
}

impl Payload {
    /// No payload.
    pub const EMPTY: Self = Self { slot: 0, offset: 0, len: 0 };
}

/// Datagrams to be sent, and the memory for the system calls that send them.
///
/// It grows to the largest number ever queued at once; the caller queues no more than a few per
/// datagram received.
pub struct SendBatch {
    queue: Vec<Outgoing>,
    /// Indices into `queue`, in the order of sending.
    order: Vec<u32>,
    run: Run,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { queue: Vec::with_capacity(RUN), order: Vec::with_capacity(RUN), run: Run::new() }
    }

    /// Queues a datagram.
    pub fn push(&mut self, datagram: Outgoing) {
        debug_assert!(usize::from(datagram.pad) <= PADDING.len(), "padding is at most 3 bytes");
        debug_assert!(
            datagram.source.is_none_or(|source| source.is_ipv4() == datagram.to.is_ipv4()),
            "a datagram leaves from an address of its destination's family"
        );
        self.queue.push(datagram);
    }

    /// How many datagrams are queued.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no datagram is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends everything queued, their payloads being in `received`, and calls `on_result` once for
    /// each datagram with its tag. The datagrams of one socket leave in the order they were
    /// queued in.
    ///
    /// A failed datagram is given up, the others are sent all the same. An ICMP error that was
    /// pending on the socket fails none: it is read with [`crate::read_errors`]. `EAGAIN` and
    /// `ENOBUFS` mean that the kernel's buffer is full.
    ///
    /// # Panics
    ///
    /// Where a payload is not within a datagram of `received`.
    pub fn flush(
        &mut self,
        received: &ReceiveBatch,
        on_result: &mut dyn FnMut(u32, Result<(), io::Error>),
    ) {
        let Self { queue, order, run } = self;
        order.clear();
        order.extend(0..queue.len() as u32);
        order.sort_unstable_by_key(|&index| (queue[index as usize].socket, index));

        let mut rest: &[u32] = order;
        while let Some(&first) = rest.first() {
            let first = &queue[first as usize];
            let length = rest
                .iter()
                .take(RUN)
                .take_while(|&&index| belongs_together(first, &queue[index as usize]))
                .count();
            let (now, later) = rest.split_at(length);
            rest = later;
            for (position, &index) in now.iter().enumerate() {
                run.load(position, &queue[index as usize], received);
            }
            let tags = now.iter().map(|&index| queue[index as usize].tag);
            if sets_df_by_option(first) {
                run.send_with_df(first.socket, tags, on_result);
            } else {
                run.send(first.socket, tags, on_result);
            }
        }
        queue.clear();
    }
}

/// Sends one datagram, for answers that are not worth a batch. `source` is the address it leaves
/// from.
///
/// # Errors
///
/// Those of `sendmsg`, once a pending ICMP error is ruled out.
pub fn send_one(
    socket: BorrowedFd<'_>,
    data: &[u8],
    to: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<()> {
    let mut name = RawAddress::zeroed();
    let mut control = Control::zeroed();
    let mut writer = ControlWriter::new(&mut control);
    if let Some(source) = source {
        writer.source(source);
    }
    let control_length = writer.length();
    let mut piece = vector(data);
    let mut header = empty_header().msg_hdr;
    header.msg_namelen = name.set(to);
    header.msg_name = (&raw mut name).cast();
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = control_length as _;
    let mut tried = 0;
    loop {
        // SAFETY: the header points to a name, a vector, its data and control messages with the
        // lengths they have; all outlive the call, which only reads them.
        if unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) } >= 0
        {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        tried += 1;
        if tried >= attempts(&error) {
            return Err(error);
        }
    }
}

/// Whether one system call may send both.
fn belongs_together(a: &Outgoing, b: &Outgoing) -> bool {
    a.socket == b.socket && sets_df_by_option(a) == sets_df_by_option(b)
}

/// IPv4 has no control message for DF: it is an option of the socket.
fn sets_df_by_option(datagram: &Outgoing) -> bool {
    datagram.dont_fragment && datagram.to.is_ipv4()
}

/// What one `sendmmsg` reads: headers, and what they point to.
struct Run {
    names: Vec<RawAddress>,
    controls: Vec<Control<CONTROL_SIZE>>,
    vectors: Vec<[libc::iovec; PIECES]>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `headers` lead to the heap memory of this run alone, which moves with it.
// Those in `vectors` are read during a flush only, which has just set them.
unsafe impl Send for Run {}

impl Run {
    fn new() -> Self {
        let mut names = vec![RawAddress::zeroed(); RUN];
        let mut controls = vec![Control::zeroed(); RUN];
        let mut vectors = vec![[vector(&[]); PIECES]; RUN];
        let names_base = names.as_mut_ptr();
        let controls_base: *mut Control<CONTROL_SIZE> = controls.as_mut_ptr();
        let vectors_base = vectors.as_mut_ptr();
        let headers = (0..RUN)
            .map(|position| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = names_base.wrapping_add(position).cast();
                header.msg_hdr.msg_iov = vectors_base.wrapping_add(position).cast();
                header.msg_hdr.msg_control = controls_base.wrapping_add(position).cast();
                header
            })
            .collect();
        Self { names, controls, vectors, headers }
    }

    /// Makes `datagram` the one at `position`.
    fn load(&mut self, position: usize, datagram: &Outgoing, received: &ReceiveBatch) {
        let Payload { slot, offset, len } = datagram.payload;
        let payload = if len == 0 { &[] } else { &received.data(slot)[offset..][..len] };
        let padding = &PADDING[..usize::from(datagram.pad)];
        let mut pieces = 0;
        for piece in [datagram.prefix.as_slice(), payload, padding] {
            if !piece.is_empty() {
                self.vectors[position][pieces] = vector(piece);
                pieces += 1;
            }
        }
        let control_length = write_control(&mut self.controls[position], datagram);
        let header = &mut self.headers[position].msg_hdr;
        header.msg_namelen = self.names[position].set(datagram.to);
        header.msg_iovlen = pieces as _;
        header.msg_controllen = control_length as _;
    }

    /// Sends the datagrams loaded last, one for each of `tags`, with DF set.
    fn send_with_df(
        &mut self,
        socket: RawFd,
        tags: impl ExactSizeIterator<Item = u32>,
        on_result: &mut dyn FnMut(u32, Result<(), io::Error>),
    ) {
        // PROBE: DF, and the path MTU that ICMP errors pretend is not heeded.
        let probe = libc::IP_PMTUDISC_PROBE;
        if let Err(error) = set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe) {
            let code = error.raw_os_error().unwrap_or(libc::EIO);
            tags.for_each(|tag| on_result(tag, Err(io::Error::from_raw_os_error(code))));
            return;
        }
        self.send(socket, tags, on_result);
        // It can only fail where the socket is no longer open.
        let _ = set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT);
    }

    /// Sends the datagrams loaded last, one for each of `tags`.
    fn send(
        &mut self,
        socket: RawFd,
        mut tags: impl ExactSizeIterator<Item = u32>,
        on_result: &mut dyn FnMut(u32, Result<(), io::Error>),
    ) {
        let mut rest = &mut self.headers[..tags.len()];
        let mut tried = 0;
        while !rest.is_empty() {
            match send_from(socket, rest) {
                // Less than asked for means that the next one failed. Why is not told, so it is
                // tried again, as it must be anyway.
                Ok(sent) => {
                    tags.by_ref().take(sent).for_each(|tag| on_result(tag, Ok(())));
                    rest = &mut rest[sent..];
                    tried = 0;
                }
                Err(error) => {
                    tried += 1;
                    if tried < attempts(&error) {
                        continue;
                    }
                    if let Some(tag) = tags.next() {
                        on_result(tag, Err(error));
                    }
                    rest = &mut rest[1..];
                    tried = 0;
                }
            }
        }
    }
}

fn write_control(control: &mut Control<CONTROL_SIZE>, datagram: &Outgoing) -> usize {
    let (level, ttl_kind, tos_kind) = if datagram.to.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS)
    };
    let mut writer = ControlWriter::new(control);
    if let Some(source) = datagram.source {
        writer.source(source);
    }
    if let Some(ttl) = datagram.ttl {
        writer.integer(level, ttl_kind, c_int::from(ttl));
    }
    if let Some(tos) = datagram.tos {
        writer.integer(level, tos_kind, c_int::from(tos));
    }
    if datagram.dont_fragment && datagram.to.is_ipv6() {
        writer.integer(level, libc::IPV6_DONTFRAG, 1);
    }
    writer.length()
}

/// A piece of a datagram to send; the kernel only reads it.
fn vector(piece: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

fn send_from(socket: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (count, flags) = (headers.len() as u32, libc::MSG_DONTWAIT);
    // SAFETY: each header was loaded in this flush: its name, vectors and control messages are in
    // vectors of the run that are never resized, with the lengths they have, and the vectors point
    // into the queue, the received batch and a static, all of them borrowed for the whole flush and
    // only read. The kernel writes nothing but `msg_len` in the headers.
    let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), count, flags as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
