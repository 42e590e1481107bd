//! One `sendmmsg`: the messages it sends, and all that they point to.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

use super::{CALL, Outgoing, PADDING, Payload};
use crate::address::RawAddress;
use crate::cmsg::{CONTROL_SIZE, Control, ControlWriter};
use crate::errqueue::attempts;
use crate::options::set;
use crate::recv::{ReceiveBatch, empty_header};

/// Pieces that a datagram is gathered from.
const PIECES: usize = 3;

/// At most [`CALL`] datagrams in as many messages or fewer: those of a train share one.
pub(super) struct Call {
    names: Vec<RawAddress>,
    controls: Vec<Control<CONTROL_SIZE>>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// Datagrams in each message.
    counts: Vec<usize>,
    /// How many of `vectors` are in use.
    pieces: usize,
}

// SAFETY: the pointers in `headers` lead to the heap memory of this call alone, which moves with
// it. Those in `vectors` are read during a flush only, which has just set them.
unsafe impl Send for Call {}

impl Call {
    pub(super) fn new() -> Self {
        let mut names = vec![RawAddress::zeroed(); CALL];
        let mut controls = vec![Control::zeroed(); CALL];
        let names_base = names.as_mut_ptr();
        let controls_base: *mut Control<CONTROL_SIZE> = controls.as_mut_ptr();
        let headers = (0..CALL)
            .map(|position| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = names_base.wrapping_add(position).cast();
                header.msg_hdr.msg_control = controls_base.wrapping_add(position).cast();
                header
            })
            .collect();
        Self {
            names,
            controls,
            vectors: vec![vector(&[]); CALL * PIECES],
            headers,
            counts: Vec::with_capacity(CALL),
            pieces: 0,
        }
    }

    /// Forgets all messages.
    pub(super) fn clear(&mut self) {
        self.counts.clear();
        self.pieces = 0;
    }

    /// Adds one message: a datagram, or a train with the header fields and the length of its first
    /// one. All messages have [`CALL`] datagrams at most.
    pub(super) fn add<'a>(
        &mut self,
        mut train: impl ExactSizeIterator<Item = &'a Outgoing> + Clone,
        received: &ReceiveBatch,
    ) {
        let (position, count, first_piece) = (self.counts.len(), train.len(), self.pieces);
        for datagram in train.clone() {
            self.add_pieces(datagram, received);
        }
        let Some(first) = train.next() else { return };
        let segment = (count > 1).then(|| first.len() as u16);
        let control_length = write_control(&mut self.controls[position], first, segment);
        let vectors = &mut self.vectors[first_piece..];
        let header = &mut self.headers[position].msg_hdr;
        header.msg_namelen = self.names[position].set(first.to);
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = (self.pieces - first_piece) as _;
        header.msg_controllen = control_length as _;
        self.counts.push(count);
    }

    fn add_pieces(&mut self, datagram: &Outgoing, received: &ReceiveBatch) {
        let Payload { slot, offset, len } = datagram.payload;
        let payload = if len == 0 { &[] } else { &received.data(slot)[offset..][..len] };
        let padding = &PADDING[..usize::from(datagram.pad)];
        for piece in [datagram.prefix.as_slice(), payload, padding] {
            if !piece.is_empty() {
                self.vectors[self.pieces] = vector(piece);
                self.pieces += 1;
            }
        }
    }

    /// Does as [`Self::send`], with DF set.
    pub(super) fn send_with_df(
        &mut self,
        socket: RawFd,
        tags: &mut impl Iterator<Item = u32>,
        on_result: &mut dyn FnMut(u32, Result<(), io::Error>),
    ) -> usize {
        // PROBE: DF, and the path MTU that ICMP errors pretend is not heeded.
        let probe = libc::IP_PMTUDISC_PROBE;
        if let Err(error) = set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe) {
            report(tags, self.counts.iter().sum(), Some(&error), on_result);
            return 0;
        }
        let refused = self.send(socket, tags, on_result);
        // It can only fail where the socket is no longer open.
        let _ = set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT);
        refused
    }

    /// Sends the messages and reports on each of their datagrams, whose tags are `tags`. It ends
    /// before the first train that the kernel or the device will not have, and returns how many
    /// datagrams that has; zero once all messages are dealt with.
    pub(super) fn send(
        &mut self,
        socket: RawFd,
        tags: &mut impl Iterator<Item = u32>,
        on_result: &mut dyn FnMut(u32, Result<(), io::Error>),
    ) -> usize {
        let (mut next, messages) = (0, self.counts.len());
        let mut tried = 0;
        while next < messages {
            match send_from(socket, &mut self.headers[next..messages]) {
                // Less than asked for means that the next one failed. Why is not told, so it is
                // tried again, as it must be anyway.
                Ok(sent) => {
                    let count = self.counts[next..next + sent].iter().sum();
                    report(tags, count, None, on_result);
                    next += sent;
                    tried = 0;
                }
                Err(error) => {
                    let count = self.counts[next];
                    if count > 1 && refuses_train(&error) {
                        return count;
                    }
                    tried += 1;
                    if tried < attempts(&error) {
                        continue;
                    }
                    report(tags, count, Some(&error), on_result);
                    next += 1;
                    tried = 0;
                }
            }
        }
        0
    }
}

/// Whether a train failed with `error` for being one, or because its datagrams are longer than the
/// MTU. Nothing of it was sent.
fn refuses_train(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP)
    )
}

/// Tells what became of the next `count` datagrams.
fn report(
    tags: &mut impl Iterator<Item = u32>,
    count: usize,
    error: Option<&io::Error>,
    on_result: &mut dyn FnMut(u32, Result<(), io::Error>),
) {
    let code = error.map(|error| error.raw_os_error().unwrap_or(libc::EIO));
    for tag in tags.take(count) {
        on_result(tag, code.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code))));
    }
}

fn write_control(
    control: &mut Control<CONTROL_SIZE>,
    datagram: &Outgoing,
    segment: Option<u16>,
) -> usize {
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
    // Zero is what it is anyway. The kernel allocates memory for more than 36 bytes of control.
    if let Some(tos) = datagram.tos.filter(|&tos| tos != 0) {
        writer.integer(level, tos_kind, c_int::from(tos));
    }
    if datagram.dont_fragment && datagram.to.is_ipv6() {
        writer.integer(level, libc::IPV6_DONTFRAG, 1);
    }
    if let Some(size) = segment {
        writer.segment(size);
    }
    writer.length()
}

/// A piece of a datagram to send; the kernel only reads it.
pub(super) fn vector(piece: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

fn send_from(socket: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (count, flags) = (headers.len() as u32, libc::MSG_DONTWAIT);
    // SAFETY: each header was set in this flush: its name, vectors and control messages are in
    // vectors of the call that are never resized, with the lengths they have, and the vectors point
    // into the queue, the received batch and a static, all of them borrowed for the whole flush and
    // only read. The kernel writes nothing but `msg_len` in the headers.
    let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), count, flags as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
