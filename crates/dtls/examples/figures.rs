//! What a session costs: time per record of 1,200 bytes, per handshake and per stranger, and the
//! memory of an idle session. `cargo run --release -p turnway-dtls --example figures`

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslStream};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use turnway_dtls::{
    Context, CookieSecret, Identity, Judged, Listener, PLAINTEXT_MAX, RECORD_OVERHEAD, Received,
    Session, Settings, VERIFY_REQUEST_LEN,
};

const RECORDS: u32 = 20_000;
const ROUNDS: usize = 15;
const SESSIONS: usize = 2_000;

fn main() {
    let context = context();
    let mut listener = Listener::new(&context, CookieSecret::new([7; 32]));
    let (mut session, mut client) = handshake(&mut listener);
    println!("cipher: {}", session.cipher().unwrap_or("none"));
    records(&mut session, &mut client);
    strangers(&mut listener);
    memory(&mut listener);
}

fn records(session: &mut Session, client: &mut SslStream<Wire>) {
    let plain = [0x40; 1200];
    let mut out = [0; 1200 + RECORD_OVERHEAD];
    let encrypt = median(|| {
        let start = Instant::now();
        for _ in 0..RECORDS {
            black_box(session.send(black_box(&plain), &mut out).expect("established"));
        }
        start.elapsed() / RECORDS
    });
    let mut buffer = vec![0; PLAINTEXT_MAX];
    let decrypt = median(|| {
        for _ in 0..RECORDS {
            client.ssl_write(&plain).expect("established");
        }
        let records = std::mem::take(&mut client.get_mut().outgoing);
        let start = Instant::now();
        for record in &records {
            let first = session.receive(record, &mut buffer, |_| ());
            assert_eq!(first, Received::Data(1200));
            assert_eq!(session.receive(&[], &mut buffer, |_| ()), Received::Idle);
        }
        start.elapsed() / RECORDS
    });
    println!("encrypt 1200 B: {encrypt:?}");
    println!("decrypt 1200 B, with the call that finds nothing more: {decrypt:?}");
}

fn strangers(listener: &mut Listener) {
    let mut client = client();
    let hello = step(&mut client, None).remove(0);
    let mut out = [0; VERIFY_REQUEST_LEN];
    let judge = median(|| {
        let start = Instant::now();
        for source in 0..RECORDS {
            let judged = listener.judge(&source.to_be_bytes(), &hello, &mut out);
            assert!(matches!(judged, Judged::Answer(_)));
        }
        start.elapsed() / RECORDS
    });
    println!("ClientHello of a stranger: {judge:?}");
}

fn memory(listener: &mut Listener) {
    let warm: Vec<_> = (0..100).map(|_| handshake(listener).0).collect();
    let before = resident();
    let start = Instant::now();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| handshake(listener).0).collect();
    println!("handshake, both sides: {:?}", start.elapsed() / SESSIONS as u32);
    let grown = resident().saturating_sub(before);
    println!("memory of an idle session: {} bytes", grown / SESSIONS);
    drop((warm, sessions));
}

fn handshake(listener: &mut Listener) -> (Session, SslStream<Wire>) {
    let mut client = client();
    let peer = b"peer";
    let mut out = [0; VERIFY_REQUEST_LEN];
    let hello = step(&mut client, None).remove(0);
    let Judged::Answer(len) = listener.judge(peer, &hello, &mut out) else {
        panic!("a first hello is answered");
    };
    let hello = step(&mut client, Some(out[..len].to_vec())).remove(0);
    let Judged::Accept(mut session) = listener.judge(peer, &hello, &mut out) else {
        panic!("a second hello is accepted");
    };
    let mut plain = vec![0; PLAINTEXT_MAX];
    let mut to_server = vec![Vec::new()];
    while !session.is_established() {
        let mut to_client = Vec::new();
        for datagram in to_server.drain(..) {
            let _ = session.receive(&datagram, &mut plain, |sent| to_client.push(sent.to_vec()));
        }
        for datagram in to_client {
            to_server.extend(step(&mut client, Some(datagram)));
        }
    }
    (session, client)
}

fn context() -> Context {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["turn.example.org".to_owned()]).expect("a certificate");
    let key = signing_key.serialize_pem();
    let identity = Identity::from_pem(cert.pem().as_bytes(), key.as_bytes()).expect("an identity");
    Context::new(&Settings {
        identities: vec![identity],
        alpn: vec![b"stun.turn".to_vec()],
        clients: None,
        mtu: 1200,
    })
    .expect("a context")
}

fn client() -> SslStream<Wire> {
    let mut context = SslContext::builder(SslMethod::dtls_client()).expect("OpenSSL");
    context.set_options(SslOptions::NO_QUERY_MTU);
    let mut ssl = Ssl::new(&context.build()).expect("OpenSSL");
    ssl.set_connect_state();
    ssl.set_mtu(1200).expect("OpenSSL");
    SslStream::new(ssl, Wire::default()).expect("OpenSSL")
}

/// Gives the client a datagram, and returns what it sends.
fn step(client: &mut SslStream<Wire>, datagram: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    client.get_mut().incoming.extend(datagram);
    let _ = client.do_handshake();
    std::mem::take(&mut client.get_mut().outgoing)
}

#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.incoming.pop_front();
        let datagram = datagram.ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Wire {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.outgoing.push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0)
}
