//! Running out of descriptors is told as what it is, and the limit can be raised. One test only,
//! as the limit is the process's.

#![allow(unsafe_code)] // `setrlimit` is

mod common;

use std::net::{SocketAddr, TcpStream};

use common::{V4, wait_readable};
use turnway_udp::system::raise_nofile;
use turnway_udp::{accept, listener_tcp, listener_udp, relay_udp};

fn set_soft_limit(soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable, then readable.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = soft;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

#[test]
fn emfile_is_passed_through_until_the_limit_is_raised() {
    let any = SocketAddr::new(V4, 0);
    let listener = listener_tcp(any, 16).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    wait_readable(&listener);
    set_soft_limit(40);
    let mut held = Vec::new();
    let error = loop {
        match relay_udp(any, 0) {
            Ok(socket) => held.push(socket),
            Err(error) => break error,
        }
        assert!(held.len() < 40);
    };
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(listener_udp(any, 0).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    assert_eq!(accept(&listener).unwrap_err().raw_os_error(), Some(libc::EMFILE));

    let (soft, hard) = raise_nofile().unwrap();
    assert_eq!(soft, hard);
    assert!(soft > 40);
    held.push(relay_udp(any, 0).unwrap());
    assert!(accept(&listener).is_ok(), "the connection still waits");
}
