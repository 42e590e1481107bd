//! The poller reports what it is asked for, under the caller's tokens.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};
use std::{sync::Arc, thread};

use common::{V4, relay};
use turnway_udp::{Events, Interest, Poller, Waker};

const LONG: Option<Duration> = Some(Duration::from_secs(20));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn tokens(poller: &Poller, timeout: Option<Duration>) -> Vec<u64> {
    let mut events = Events::new(8);
    poller.wait(&mut events, timeout).unwrap();
    let mut tokens: Vec<u64> = events.iter().map(|event| event.token).collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn level_and_edge_and_change_of_interest() {
    let poller = Poller::new().unwrap();
    let (level, edge) = (relay(V4), relay(V4));
    poller.add(&level, u64::MAX, Interest::READ).unwrap();
    poller.add(&edge, 7, Interest::READ.edge()).unwrap();
    assert!(tokens(&poller, NOW).is_empty());
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in [&level, &edge] {
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    }
    assert_eq!(tokens(&poller, LONG), [7, u64::MAX]);
    assert_eq!(tokens(&poller, LONG), [u64::MAX], "an edge is reported once");

    poller.modify(&level, 1, Interest::WRITE).unwrap();
    let mut events = Events::new(8);
    poller.wait(&mut events, LONG).unwrap();
    let event = events.iter().next().unwrap();
    assert_eq!((event.token, event.writable(), event.readable()), (1, true, false));
    assert!(!event.error() && !event.hangup());
    poller.delete(&level).unwrap();
    assert!(tokens(&poller, NOW).is_empty());
    let again = poller.delete(&level).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn events_that_do_not_fit_come_with_the_next_wait() {
    let poller = Poller::new().unwrap();
    let sockets = [relay(V4), relay(V4), relay(V4)];
    for (token, socket) in (0..).zip(&sockets) {
        poller.add(socket, token, Interest::WRITE).unwrap();
    }
    let mut events = Events::new(2);
    let mut seen = Vec::new();
    for _ in 0..2 {
        poller.wait(&mut events, LONG).unwrap();
        assert_eq!(events.len(), 2);
        seen.extend(events.iter().map(|event| event.token));
    }
    for token in 0..3 {
        assert!(seen.contains(&token), "{seen:?}");
    }
}

#[test]
fn a_timeout_ends_the_wait_and_not_early() {
    let poller = Poller::new().unwrap();
    let start = Instant::now();
    let timeout = Duration::from_micros(2_300);
    assert!(tokens(&poller, Some(timeout)).is_empty());
    assert!(start.elapsed() >= timeout);
}

#[test]
fn a_waker_wakes_from_another_thread_until_it_is_drained() {
    let poller = Poller::new().unwrap();
    let waker = Arc::new(Waker::new().unwrap());
    poller.add(&*waker, 3, Interest::READ).unwrap();
    waker.drain();
    assert!(tokens(&poller, NOW).is_empty());
    let other = Arc::clone(&waker);
    let thread = thread::spawn(move || {
        other.wake();
        other.wake();
    });
    assert_eq!(tokens(&poller, None), [3]);
    thread.join().unwrap();
    assert_eq!(tokens(&poller, LONG), [3]);
    waker.drain();
    assert!(tokens(&poller, NOW).is_empty());
    waker.wake();
    assert_eq!(tokens(&poller, LONG), [3]);
}
