//! A flood of ClientHellos from sources that never return a cookie takes no memory. Alone in its
//! program, because it counts what the whole program allocates.

use std::alloc::System;

use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use turnway_dtls::{
    Context, CookieSecret, Identity, Judged, Listener, Settings, VERIFY_REQUEST_LEN,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SOURCES: u32 = 100_000;

#[test]
fn a_hundred_thousand_strangers_leave_nothing_behind() {
    let mut listener = Listener::new(&context(), CookieSecret::new([7; 32]));
    let (first, second) = (client_hello(), with_cookie(&client_hello()));
    let mut out = [0; VERIFY_REQUEST_LEN];
    let resident_before = resident();
    let region = Region::new(ALLOCATOR);
    let mut answers = 0;
    for source in 0..SOURCES {
        let peer = source.to_be_bytes();
        for hello in [&first, &second] {
            match listener.judge(&peer, hello, &mut out) {
                Judged::Answer(_) => answers += 1,
                Judged::Ignore(_) | Judged::Accept(_) => panic!("a stranger is answered"),
            }
        }
    }
    assert_eq!(answers, 2 * SOURCES);
    assert_eq!(region.change().allocations, 0);
    // OpenSSL has an allocator of its own, which the count above does not see.
    let grown = resident().saturating_sub(resident_before);
    assert!(grown < 256 * 1024, "{grown} bytes more are resident");
}

fn context() -> Context {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["turn.example.org".to_owned()]).unwrap();
    let key = signing_key.serialize_pem();
    assert!(PKey::private_key_from_pem(key.as_bytes()).is_ok());
    let identity = Identity::from_pem(cert.pem().as_bytes(), key.as_bytes()).unwrap();
    Context::new(&Settings {
        identities: vec![identity],
        alpn: Vec::new(),
        clients: None,
        mtu: 1200,
    })
    .unwrap()
}

/// The first ClientHello of OpenSSL's client.
fn client_hello() -> Vec<u8> {
    let context = SslContext::builder(SslMethod::dtls_client()).unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_connect_state();
    ssl.set_mtu(1200).unwrap();
    let mut stream = SslStream::new(ssl, std::io::Cursor::new(Vec::new())).unwrap();
    let waits = stream.do_handshake().unwrap_err();
    drop(waits);
    stream.get_ref().get_ref().clone()
}

/// The same as a second ClientHello, with a cookie that somebody made up.
fn with_cookie(hello: &[u8]) -> Vec<u8> {
    let cookie_at = 13 + 12 + 2 + 32 + 1;
    let mut with = hello.to_vec();
    assert_eq!(with[cookie_at], 0);
    with[cookie_at] = 32;
    with.splice(cookie_at + 1..cookie_at + 1, [0x5a; 32]);
    with[13 + 5] = 1;
    for at in [11, 13 + 2, 13 + 10] {
        let len = u16::from_be_bytes([with[at], with[at + 1]]) + 32;
        with[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }
    with
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
