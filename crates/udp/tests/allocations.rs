//! A datagram's way through the batches allocates no heap memory.

mod common;

use std::alloc::System;
use std::os::fd::AsFd;

use common::{V4, V6, closed_port, plain, receive, relay};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use turnway_udp::{Outgoing, Payload, ReceiveBatch, SendBatch, read_errors, send_one};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn receiving_sending_and_failing_allocate_nothing() {
    let (client, peer) = (relay(V4), relay(V6));
    let (listener, relayed) = (relay(V4), relay(V6));
    let [to_listener, to_peer] = [&listener, &peer].map(|socket| socket.local_addr().unwrap());
    let nobody = closed_port(V6);
    let (mut received, mut arrived) = (ReceiveBatch::new(64), ReceiveBatch::new(64));
    let mut batch = SendBatch::new();
    let mut failed = 0;

    let mut round = || {
        for _ in 0..64 {
            send_one(client.as_fd(), &[1; 200], to_listener, None).unwrap();
        }
        receive(&mut received, &listener, 64);
        let region = Region::new(ALLOCATOR);
        for slot in 0..64 {
            let to = match slot {
                5 => nobody,
                6 => to_listener, // IPv4 through an IPv6 socket
                _ => to_peer,
            };
            let data = received.get(slot);
            batch.push(Outgoing {
                ttl: data.ttl,
                tos: data.tos,
                payload: Payload { slot, offset: 4, len: data.data.len() - 4 },
                pad: 3,
                ..plain(&relayed, to, b"head")
            });
        }
        batch.flush(&received, &mut |_, result| failed += u32::from(result.is_err()));
        received.clear();
        read_errors(relayed.as_fd(), 8, &mut |_| {}).unwrap();
        // Loopback delivers at once.
        let slots = arrived.receive(peer.as_fd(), 64).unwrap();
        let count: usize = slots.map(|slot| arrived.get(slot).segments().len()).sum();
        assert_eq!(count, 62);
        arrived.clear();
        let change = region.change();
        assert_eq!(change.allocations + change.reallocations, 0, "{change:?}");
    };
    round();
    round();
    assert_eq!(failed, 2);
}
