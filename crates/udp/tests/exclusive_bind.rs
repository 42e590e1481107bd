//! An address that any other socket holds is refused, whoever holds it.

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use common::{V4, V6, in_namespace, relay, wait_readable};
use turnway_udp::{
    listener_tcp, listener_udp, probe_exclusive_tcp, probe_exclusive_udp, relay_udp,
};

/// Runs one test at a time, in a namespace of its own: a process being started would hold other
/// tests' sockets for a moment, and another program could take a port that was just let go of.
fn alone(body: impl FnOnce() + Send) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    in_namespace(&["link set lo up"], body);
}

/// A process that holds `socket` as its standard input, and nothing else of ours.
struct Holder(Child);

impl Holder {
    fn of(socket: impl AsFd) -> Self {
        let socket = socket.as_fd().try_clone_to_owned().unwrap();
        Self(Command::new("sleep").arg("600").stdin(socket).spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn is_in_use(probe: fn(SocketAddr) -> std::io::Result<()>, at: SocketAddr) -> bool {
    match probe(at) {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            true
        }
    }
}

#[test]
fn a_udp_listener_refuses_the_probe_until_it_is_closed() {
    alone(|| {
        for ip in [V4, V6] {
            let (listener, _) = listener_udp(SocketAddr::new(ip, 0), 0).unwrap();
            let at = listener.local_addr().unwrap();
            assert!(listener_udp(at, 0).is_ok(), "shards share the address");
            assert!(is_in_use(probe_exclusive_udp, at), "ours");
            let holder = Holder::of(&listener);
            drop(listener);
            assert!(is_in_use(probe_exclusive_udp, at), "another process's");
            drop(holder);
            assert!(!is_in_use(probe_exclusive_udp, at));
            assert!(!is_in_use(probe_exclusive_udp, at), "the probe itself lets go");
        }
    });
}

#[test]
fn a_tcp_listener_refuses_the_probe_until_it_is_closed() {
    alone(|| {
        for ip in [V4, V6] {
            let listener = listener_tcp(SocketAddr::new(ip, 0), 16).unwrap();
            let at = listener.local_addr().unwrap();
            assert!(listener_tcp(at, 16).is_ok(), "shards share the address");
            assert!(is_in_use(probe_exclusive_tcp, at), "ours");
            let holder = Holder::of(&listener);
            drop(listener);
            assert!(is_in_use(probe_exclusive_tcp, at), "another process's");
            drop(holder);
            assert!(!is_in_use(probe_exclusive_tcp, at));
            assert!(listener_tcp(at, 16).is_ok());
        }
    });
}

#[test]
fn connections_in_time_wait_do_not_refuse_the_probe() {
    alone(|| {
        let listener = listener_tcp(SocketAddr::new(V4, 0), 16).unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        wait_readable(&listener);
        let (stream, _, _) = turnway_udp::accept(&listener).unwrap();
        // Who closes first keeps the TIME_WAIT.
        drop(stream);
        drop(client);
        drop(listener);
        assert!(!is_in_use(probe_exclusive_tcp, at));
    });
}

#[test]
fn the_wildcard_address_counts_as_in_use_where_one_address_is() {
    alone(|| {
        let (listener, _) = listener_udp("127.0.0.1:0".parse().unwrap(), 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_in_use(probe_exclusive_udp, SocketAddr::from(([0; 4], port))));
        assert!(!is_in_use(probe_exclusive_udp, SocketAddr::from(([0_u16; 8], port))));
    });
}

#[test]
fn a_relayed_transport_address_is_nobody_elses() {
    alone(|| {
        for ip in [V4, V6] {
            let relay = relay(ip);
            let at = relay.local_addr().unwrap();
            assert_eq!(relay_udp(at, 0).unwrap_err().kind(), ErrorKind::AddrInUse);
            assert_eq!(listener_udp(at, 0).unwrap_err().kind(), ErrorKind::AddrInUse);
            drop(relay);
            let (_listener, _) = listener_udp(at, 0).unwrap();
            assert_eq!(relay_udp(at, 0).unwrap_err().kind(), ErrorKind::AddrInUse);
        }
    });
}
