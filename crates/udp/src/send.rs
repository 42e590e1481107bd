//! Sending a batch of datagrams: `sendmmsg` straight out of what was received.
//!
//! Each datagram is a prefix (a ChannelData or Data indication header), a slice of a received
//! datagram, and padding: three pieces that the kernel gathers, so that no payload is copied here.
//! Datagrams of one length that follow each other to one destination are a train: the kernel gets
//! them as one message and cuts it (UDP_SEGMENT). That saves nearly all of its work but for one.

mod call;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::address::RawAddress;
use crate::cmsg::{Control, ControlWriter};
use crate::errqueue::attempts;
use crate::options::can_segment;
use crate::recv::{ReceiveBatch, empty_header};

use call::{Call, vector};

/// Bytes of the longest prefix: the header of a STUN message (20), an XOR-PEER-ADDRESS with an
/// IPv6 address (24) and the header of DATA (4).
pub const MAX_PREFIX: usize = 48;

/// Datagrams of one system call, and therefore of one train: older kernels take no more.
const CALL: usize = 64;

/// Bytes of the longest train: those of the longest datagram over IPv4.
const TRAIN_BYTES: usize = 65_507;

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

impl Outgoing {
    fn len(&self) -> usize {
        usize::from(self.prefix.length) + self.payload.len + usize::from(self.pad)
    }

    /// Whether one header does for both.
    fn is_headed_like(&self, other: &Self) -> bool {
        (self.to, self.source, self.ttl, self.tos, self.dont_fragment)
            == (other.to, other.source, other.ttl, other.tos, other.dont_fragment)
    }
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
    call: Call,
    /// Whether the kernel cuts trains.
    trains: bool,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            queue: Vec::with_capacity(CALL),
            order: Vec::with_capacity(CALL),
            call: Call::new(),
            trains: can_segment(),
        }
    }

    /// An empty batch that sends every datagram by itself: to measure what that costs.
    pub fn without_trains() -> Self {
        Self { trains: false, ..Self::new() }
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
    /// A failed datagram is given up, the others are sent all the same; what the kernel will not
    /// take as a train is sent singly. An ICMP error that was
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
        let Self { queue, order, call, trains } = self;
        order.clear();
        order.extend(0..queue.len() as u32);
        order.sort_unstable_by_key(|&index| (queue[index as usize].socket, index));

        let mut rest: &[u32] = order;
        // So many at the head of `rest` were refused as a train.
        let mut refused = 0;
        while let Some(&first) = rest.first() {
            let first = &queue[first as usize];
            let limit = if refused > 0 { refused } else { CALL };
            let together = rest
                .iter()
                .take(limit)
                .take_while(|&&index| belongs_together(first, &queue[index as usize]))
                .count();
            let (now, _) = rest.split_at(together);
            call.clear();
            let mut left = now;
            while !left.is_empty() {
                let length = if *trains && refused == 0 { train(queue, left) } else { 1 };
                let (message, others) = left.split_at(length);
                call.add(message.iter().map(|&index| &queue[index as usize]), received);
                left = others;
            }
            let mut tags = now.iter().map(|&index| queue[index as usize].tag);
            refused = if sets_df_by_option(first) {
                call.send_with_df(first.socket, &mut tags, on_result)
            } else {
                call.send(first.socket, &mut tags, on_result)
            };
            rest = &rest[together - tags.len()..];
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

/// How many datagrams at the head of `indices` go out as one message.
fn train(queue: &[Outgoing], indices: &[u32]) -> usize {
    let datagram = |position: usize| indices.get(position).map(|&index| &queue[index as usize]);
    let Some(first) = datagram(0) else { return 0 };
    let size = first.len();
    let (mut count, mut total, mut last) = (1, size, size);
    // A shorter one is the last. An empty one would leave no trace, and the option for DF is not
    // worth the trouble.
    while last == size
        && size > 0
        && !first.dont_fragment
        && let Some(next) = datagram(count)
        && (1..=size).contains(&next.len())
        && total + next.len() <= TRAIN_BYTES
        && first.is_headed_like(next)
    {
        last = next.len();
        total += last;
        count += 1;
    }
    count
}
