//! Ten thousand TLS clients that have nothing to say, and as many TCP clients as fit beside them:
//! each costs little, and those who talk notice nothing.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use turnway_wire::{Builder, Class, Method, TransactionId};

use common::certificates::NAME;
use common::client::Transport;
use common::conversation::{pairs, while_talking};
use common::link::tls_config;
use common::{PATIENCE, Relay, Setup};

/// Idle clients over TLS, and over TCP.
const TLS: usize = 10_000;
const TCP: usize = 5_000;

/// Clients that come at the same time.
const TOGETHER: usize = 4;

/// Resident memory that each may take.
const TLS_LIMIT: u64 = 24 * 1024;
const TCP_LIMIT: u64 = 2 * 1024;

const LIMITS: &str = "tcp_connections = 16000\nconnections_per_source = 0\n\
    tcp_idle_timeout = \"30m\"\nhandshakes_per_source = \"1000000/s\"\n\
    unauthenticated_per_source = \"1000000/s\"\n\
    unauthenticated_burst = 1000000";

#[test]
fn ten_thousand_idle_tls_clients_cost_little_and_disturb_nobody() {
    raise_descriptor_limit();
    let relay = Relay::start(Setup {
        transports: &["auto"],
        limits: LIMITS.to_owned(),
        descriptors: Some(20_000),
        ..Setup::default()
    });
    let mut config = Arc::unwrap_or_clone(tls_config(&relay.roots()));
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let good = pairs(relay.address, &relay.roots(), &Transport::ALL);
    let (tls, tcp) = (|| over_tls(relay.address, &config), || over_tcp(relay.address));
    while_talking(good, || {
        // What the first ones bring into memory all share.
        let mut idle = crowd(200, &tls);
        idle.extend(crowd(200, &tcp));
        let mut figures = vec![relay.resident()];
        idle.extend(crowd(TLS, &tls));
        figures.push(relay.resident());
        idle.extend(crowd(TCP, &tcp));
        figures.push(relay.resident());
        let each = |from: usize, count: usize| {
            figures[from + 1].saturating_sub(figures[from]) / count as u64
        };
        let (tls, tcp) = (each(0, TLS), each(1, TCP));
        println!("{tls} bytes for each idle TLS client, {tcp} for each TCP client");
        assert!(tls <= TLS_LIMIT, "{tls} bytes for each idle TLS client");
        assert!(tcp <= TCP_LIMIT, "{tcp} bytes for each idle TCP client");
        let all = (idle.len() + 2) as f64; // with those who talk
        relay.await_samples("all to be there", |samples| samples["turnway_tcp_connections"] == all);
        drop(idle);
        relay.await_samples("all to be gone", |samples| samples["turnway_tcp_connections"] == 2.0);
    });
}

/// So many connections, of which nothing but their sockets is kept on this side.
fn crowd(count: usize, connect: &(impl Fn() -> TcpStream + Sync)) -> Vec<TcpStream> {
    let some = || (0..count / TOGETHER).map(|_| connect()).collect::<Vec<_>>();
    thread::scope(|scope| {
        let coming = [(); TOGETHER].map(|()| scope.spawn(some));
        coming.into_iter().flat_map(|all| all.join().expect("all connect")).collect()
    })
}

/// A client that has completed its handshake and asked one question.
fn over_tls(server: SocketAddr, config: &Arc<ClientConfig>) -> TcpStream {
    let name = ServerName::try_from(NAME).expect("a name");
    let client = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
    let mut stream = StreamOwned::new(client, connect(server));
    stream.write_all(&binding()).expect("sent");
    stream.read_exact(&mut [0; 32]).expect("an answer");
    stream.sock
}

/// A client that has asked one question.
fn over_tcp(server: SocketAddr) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(&binding()).expect("sent");
    stream.read_exact(&mut [0; 32]).expect("an answer");
    stream
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

fn binding() -> Vec<u8> {
    let mut out = [0; 64];
    let id = TransactionId(*b"idle00000000");
    let builder = Builder::new(&mut out, Class::Request, Method::BINDING, id).expect("room");
    let len = builder.finish();
    out[..len].to_vec()
}

/// This process has as many connections as the relay.
fn raise_descriptor_limit() {
    let limit = rlimit::increase_nofile_limit(20_000).expect("our own limit");
    assert!(limit as usize > TLS + TCP + 1000, "{limit} descriptors: raise the hard limit");
}
