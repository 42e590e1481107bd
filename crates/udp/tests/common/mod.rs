//! What the tests share: waiting for datagrams, building outgoing ones, network namespaces.

#![allow(dead_code, unsafe_code)] // each test uses a part; `unshare` is unsafe

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;
use std::{io, thread};

use turnway_udp::{
    Events, Interest, Outgoing, Payload, Poller, Prefix, ReceiveBatch, Received, Socket,
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A relay socket on a free port of `ip`.
pub(crate) fn relay(ip: IpAddr) -> Socket {
    turnway_udp::relay_udp(SocketAddr::new(ip, 0), 1 << 20).unwrap()
}

/// An address of `ip` where nobody listens: the port of the discard service.
pub(crate) fn closed_port(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 9)
}

/// Waits until `socket` is readable.
pub(crate) fn wait_readable(socket: impl AsFd) {
    let poller = Poller::new().unwrap();
    poller.add(socket, 0, Interest::READ).unwrap();
    let mut events = Events::new(1);
    poller.wait(&mut events, Some(PATIENCE)).unwrap();
    assert!(!events.is_empty(), "nothing to read came");
}

/// Receives exactly `count` datagrams from `socket`, behind those in `batch`.
pub(crate) fn receive(batch: &mut ReceiveBatch, socket: impl AsFd, count: usize) {
    let target = datagrams(batch).len() + count;
    while datagrams(batch).len() < target {
        wait_readable(&socket);
        let missing = target - datagrams(batch).len();
        batch.receive(socket.as_fd(), missing).unwrap();
    }
    assert_eq!(datagrams(batch).len(), target);
}

/// The datagrams in `batch` one by one, whether or not the kernel has merged them.
pub(crate) fn datagrams(batch: &ReceiveBatch) -> Vec<Received<'_>> {
    let slots = (0..batch.len()).map(|slot| batch.get(slot));
    let split = slots.flat_map(|slot| {
        let one = move |range: Range<usize>| Received { data: &slot.data[range], ..slot };
        slot.segments().map(one)
    });
    split.collect()
}

/// Whether nothing waits at `socket`.
pub(crate) fn is_idle(socket: impl AsFd) -> bool {
    ReceiveBatch::new(1).receive(socket.as_fd(), 1).unwrap().is_empty()
}

/// A batch that holds `data` as its only datagram.
pub(crate) fn holding(data: &[u8]) -> ReceiveBatch {
    let socket = relay(V4);
    let sender = relay(V4);
    turnway_udp::send_one(sender.as_fd(), data, socket.local_addr().unwrap(), None).unwrap();
    let mut batch = ReceiveBatch::new(1);
    receive(&mut batch, &socket, 1);
    batch
}

/// A datagram without any extras that consists of `prefix`.
pub(crate) fn plain(socket: &Socket, to: SocketAddr, prefix: &[u8]) -> Outgoing {
    Outgoing {
        socket: socket.as_raw_fd(),
        to,
        source: None,
        ttl: None,
        tos: None,
        dont_fragment: false,
        prefix: Prefix::new(prefix),
        payload: Payload::EMPTY,
        pad: 0,
        tag: 0,
    }
}

/// Flushes `batch` and returns the tag and the error number (zero: sent) of each datagram.
pub(crate) fn flush(
    batch: &mut turnway_udp::SendBatch,
    received: &ReceiveBatch,
) -> Vec<(u32, i32)> {
    let mut results = Vec::new();
    batch.flush(received, &mut |tag, result| {
        results.push((tag, result.err().map_or(0, |error| error.raw_os_error().unwrap())));
    });
    results
}

/// Runs `body` on a thread in a network namespace of its own, which begins with the `ip` commands
/// in `setup` (one each) and ends with the thread. Says so where it may not.
pub(crate) fn in_namespace(setup: &[&str], body: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let run = || {
            // SAFETY: no memory is involved; only this thread changes its namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let error = io::Error::last_os_error();
                let why = format!("no network namespace can be made here: {error}");
                assert!(std::env::var_os("TURNWAY_NO_SKIP").is_none(), "{why}");
                eprintln!("SKIPPED: {why}");
                return;
            }
            for command in setup {
                ip_command(command);
            }
            body();
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs an `ip` command in this thread's network namespace.
pub(crate) fn ip_command(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status();
    let status = status.expect("`ip` (package iproute2) is needed");
    assert!(status.success(), "ip {command}");
}
