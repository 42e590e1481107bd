//! The Linux socket layer of the relay: every system call that the standard library lacks, and all
//! of the project's `unsafe` code.
//!
//! One file per kernel feature:
//!
//! - [`options`]: making listeners and relay sockets with the right options; the exclusive probes.
//! - [`recv`]: a batch of datagrams received with `recvmmsg`, alone or merged by UDP_GRO, with the
//!   header fields that a relay must carry on (TTL, DSCP and ECN, the address they came to).
//! - [`send`]: a batch of outgoing datagrams for `sendmmsg`, each a prefix and a slice of what was
//!   received, with its own TTL, DSCP, source address and DF bit; runs of them by UDP_SEGMENT.
//! - [`errqueue`]: ICMP errors, read from the error queue.
//! - [`poll`]: epoll, an eventfd that wakes it from another thread, and a timer to sleep by.
//! - [`system`]: CPUs, descriptor limit, default route, monotonic clock.
//!
//! Beneath them `address` and `cmsg` translate socket addresses and control messages. A TCP
//! connection is a plain [`std::net::TcpStream`], non-blocking, which has all that is needed.
//!
//! Nothing here blocks but [`poll::Poller::wait`] and [`poll::Timer::wait`], nothing starts a thread,
//! and no path that a datagram takes allocates heap memory.

#![allow(unsafe_code)] // this crate is where it lives
#![allow(clippy::unnecessary_cast)] // the widths of some C fields differ between glibc and musl
#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod address;
mod cmsg;
pub mod errqueue;
pub mod options;
pub mod poll;
pub mod recv;
pub mod send;
pub mod system;

pub use address::Family;
pub use errqueue::{IcmpError, read_errors};
pub use options::{
    BufferGrant, Socket, TcpListenerFd, UdpListener, accept, connect_from, listener_tcp,
    listener_udp, probe_exclusive_tcp, probe_exclusive_udp, relay_tcp, relay_udp, reset,
    tune_spliced, tune_stream,
};
pub use poll::{Event, Events, Interest, Poller, Timer, Waker};
pub use recv::{ReceiveBatch, Received};
pub use send::{Outgoing, Payload, Prefix, SendBatch, send_one};
