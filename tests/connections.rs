//! Clients over TLS and DTLS who are slow, too many, or have nothing to do here; and those behind a
//! proxy.

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use openssl::ssl::HandshakeError;
use socket2::{Domain, Socket, Type};
use turnway_wire::{Class, Method};

use common::client::{Client, Peer, Relayed, Transport};
use common::link::{connected, dtls_client, tls_config, tls_hello};
use common::{PATIENCE, Relay, Setup, await_some, own_address};

const TIMEOUTS: &str = "turnway_handshake_timeouts_total";
const REFUSALS: &str = "turnway_source_refusals_total";
const SESSIONS: &str = "turnway_dtls_sessions";
const PROXY_ERRORS: &str = "turnway_proxy_errors_total";

fn relay(limits: &str, extra: &str) -> Relay {
    let (limits, extra) = (limits.to_owned(), extra.to_owned());
    Relay::start(Setup { transports: &["auto"], limits, extra, ..Setup::default() })
}

/// Waits until the relay ends a connection, and returns what it said before.
fn await_end(stream: &mut impl Read) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the relay should have ended the connection: {error}"),
    }
    said
}

/// A DTLS client's socket that goes silent after the ClientHello with the cookie.
struct Silent {
    socket: UdpSocket,
    flights: usize,
}

impl Read for Silent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.flights {
            0 | 1 => self.socket.recv(buffer),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Silent {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.flights += 1;
        self.socket.send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins a DTLS session that its client never completes.
fn begin_dtls(relay: &Relay) {
    let socket = connected(relay.address);
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let silent = Silent { socket, flights: 0 };
    let begun = dtls_client(&relay.roots()).connect(silent);
    assert!(matches!(begun, Err(HandshakeError::WouldBlock(_))), "{}", begun.is_ok());
}

#[test]
fn a_handshake_that_takes_too_long_ends_the_connection() {
    let relay = relay("", "[tls]\nhandshake_timeout = \"3s\"");
    let mut steady = [Transport::Tls, Transport::Dtls].map(|over| relay.client(over));
    for client in &mut steady {
        client.allocate();
    }
    let hello = tls_hello(&relay.roots());
    let mut slow: Vec<TcpStream> = [0, 1, 5, hello.len() / 2, hello.len()]
        .into_iter()
        .map(|len| {
            let mut stream = connect_from(Ipv4Addr::LOCALHOST, relay.address);
            stream.write_all(&hello[..len]).expect("sent");
            stream
        })
        .collect();
    // One that always has a little more to say is no better.
    let mut dripping = connect_from(Ipv4Addr::LOCALHOST, relay.address);
    dripping.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    let ended = hello.iter().any(|&drop| {
        let waits = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
        let sent = dripping.write_all(&[drop]);
        sent.is_err() || !dripping.read(&mut [0; 16]).is_err_and(|error| waits(&error))
    });
    assert!(ended, "a ClientHello of {} bytes arrived, one by one", hello.len());
    begin_dtls(&relay);
    for stream in &mut slow {
        let said = await_end(stream);
        assert!(said.is_empty() || said[0] == 22, "at most its side of the handshake");
    }
    relay.await_samples("all timeouts", |samples| {
        samples[TIMEOUTS] == 7.0 && samples[SESSIONS] == 1.0
    });
    for client in &mut steady {
        client.refresh(600).expect_success();
    }
    assert_eq!(relay.samples()["turnway_tcp_connections"], 1.0);
}

#[test]
fn clients_who_never_allocate_are_sent_away_whatever_else_they_do() {
    //= rfc7350#section-3
    //= type=test
    //# The same
    //# rules established in Section 7.2.2 of [RFC5389] for keeping open and
    //# closing TCP/TLS connections MUST be used as well for DTLS
    //# associations.
    let relay = relay("tcp_idle_timeout = \"2s\"", "");
    let mut steady = Transport::ALL.map(|over| relay.client(over));
    for client in &mut steady {
        client.allocate();
    }
    let idle = "turnway_tcp_closed_total{reason=\"idle\"}";
    let mut tls = relay.client(Transport::Tls);
    let question = tls.build(Class::Request, Method::BINDING, &|_| Ok(()));
    let _dtls = relay.client(Transport::Dtls);
    await_some("the end of a TLS client that asks and asks", || {
        let sent = tls.raw(&question);
        (sent.is_err() || relay.samples()[idle] == 1.0).then_some(())
    });
    relay.await_samples("both to be counted", |samples| {
        samples[idle] == 1.0
            && samples["turnway_dtls_closed_total{reason=\"idle\"}"] == 1.0
            && samples[SESSIONS] == 1.0
    });
    for client in &mut steady {
        client.refresh(600).expect_success();
    }
}

#[test]
fn a_source_has_so_many_connections_and_sessions_and_no_more() {
    let relay = relay("connections_per_source = 3", "");
    let over = [Transport::Tcp, Transport::Tls, Transport::Dtls];
    let mut inside = over.map(|over| relay.client(over));
    for client in &mut inside {
        client.allocate();
    }
    // A fourth is refused, however it comes; UDP has no connections.
    let mut fourth = connect_from(Ipv4Addr::LOCALHOST, relay.address);
    assert_eq!(await_end(&mut fourth), b"");
    begin_dtls(&relay);
    relay.await_samples("both refusals", |samples| samples[REFUSALS] == 2.0);
    relay.client(Transport::Udp).allocate();
    // Another source has places of its own.
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let stream = connect_from(other, relay.address);
    Client::tls_from(stream, relay.address, tls_config(&relay.roots())).allocate();
    // And whoever goes leaves theirs.
    let [tcp, tls, dtls] = inside;
    drop(tls);
    relay.await_samples("the place", |samples| samples["turnway_tcp_connections"] == 1.0);
    relay.client(Transport::Tls).allocate();
    for mut client in [tcp, dtls] {
        client.refresh(600).expect_success();
    }
    assert_eq!(relay.samples()[REFUSALS], 2.0);
}

#[test]
fn a_source_has_so_many_handshakes_and_no_more() {
    let relay = relay("handshakes_per_source = \"1/s\"", "");
    let hello = tls_hello(&relay.roots());
    let began = Instant::now();
    let answered = (0..40).filter(|_| {
        let mut stream = connect_from(Ipv4Addr::LOCALHOST, relay.address);
        stream.write_all(&hello).expect("sent");
        // A ServerHello, or the end of the connection.
        matches!(stream.read(&mut [0; 1]), Ok(1))
    });
    let answered = answered.count() as f64;
    let most = 11.0 + began.elapsed().as_secs_f64();
    assert!((10.0..=most).contains(&answered), "{answered} of 40 were answered");
    relay.await_samples("the others", |samples| samples[REFUSALS] == 40.0 - answered);
    // Without a handshake it is served all the same, and so is another source.
    relay.client(Transport::Tcp).allocate();
    let stream = connect_from(Ipv4Addr::new(127, 0, 0, 2), relay.address);
    Client::tls_from(stream, relay.address, tls_config(&relay.roots())).allocate();
}

/// A relay with a second listener behind proxies on 127.0.0.1, and where that is.
fn behind_proxies(limits: &str) -> (Relay, SocketAddr) {
    let front = SocketAddr::new(own_address().into(), 443);
    let listen = format!(
        "[[listen]]\ntransport = \"auto\"\naddress = \"{front}\"\n\
         proxy_protocol = [\"127.0.0.1\"]\n"
    );
    (relay(limits, &listen), front)
}

/// A header for a client, in both versions.
fn headers(client: SocketAddr, server: SocketAddr) -> [Vec<u8>; 2] {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (client.ip(), server.ip()) else {
        panic!("IPv4 is all we need");
    };
    let line = format!("PROXY TCP4 {from} {to} {} {}\r\n", client.port(), server.port());
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend(from.octets());
    binary.extend(to.octets());
    binary.extend(client.port().to_be_bytes());
    binary.extend(server.port().to_be_bytes());
    [line.into_bytes(), binary]
}

#[test]
fn behind_a_proxy_the_client_is_who_the_header_says() {
    let (mut relay, front) = behind_proxies("");
    let mut port = 40_000;
    for over in [Transport::Tcp, Transport::Tls] {
        for version in 0..2 {
            for slowly in [false, true] {
                port += 1;
                let client = SocketAddr::from(([192, 0, 2, 7], port));
                let header = &headers(client, front)[version];
                let mut stream = connect_from(Ipv4Addr::LOCALHOST, front);
                let pieces = if slowly { 1 } else { header.len() };
                header.chunks(pieces).for_each(|piece| stream.write_all(piece).expect("sent"));
                is_served_as(&mut relay, stream, front, over, client);
            }
        }
    }
    assert_eq!(relay.samples()[PROXY_ERRORS], 0.0);
}

/// Everything is as if the client at that address had connected itself.
fn is_served_as(
    relay: &mut Relay,
    stream: TcpStream,
    server: SocketAddr,
    over: Transport,
    address: SocketAddr,
) {
    let mut client = match over {
        Transport::Tls => Client::tls_from(stream, server, tls_config(&relay.roots())),
        Transport::Tcp => Client::tcp_from(stream, server),
        Transport::Udp | Transport::Dtls => panic!("proxies forward connections"),
    };
    assert_eq!(client.binding(), address);
    let relayed = client.allocate();
    let line = format!("client={address} transport={over} ");
    relay.await_line("the allocation", |said| said.contains(&line));
    let peer = Peer::on(relay.ip());
    client.bind(0x4000, peer.address()).expect_success();
    client.send_channel(0x4000, b"there");
    assert_eq!(peer.receive(), (b"there".to_vec(), relayed));
    peer.send(b"and back", relayed);
    let back = Relayed::Channel { number: 0x4000, data: b"and back".to_vec() };
    assert_eq!(client.receive(), back);
}

#[test]
fn only_trusted_proxies_speak_for_others() {
    let (mut relay, front) = behind_proxies("connections_per_source = 2");
    let client = SocketAddr::from(([192, 0, 2, 7], 50_000));
    let stranger = Ipv4Addr::new(127, 0, 0, 2);
    for header in headers(client, front) {
        // From elsewhere it is nothing but bytes that are not TURN.
        let mut stream = connect_from(stranger, front);
        stream.write_all(&header).expect("sent");
        assert_eq!(await_end(&mut stream), b"");
    }
    let stream = connect_from(stranger, front);
    let own = stream.local_addr().expect("a socket");
    is_served_as(&mut relay, stream, front, Transport::Tls, own);
    assert_eq!(relay.samples()[PROXY_ERRORS], 0.0);

    // A proxy that says nothing of its client is not served.
    let mut silent = connect_from(Ipv4Addr::LOCALHOST, front);
    silent.write_all(&tls_hello(&relay.roots())).expect("sent");
    assert_eq!(await_end(&mut silent), b"");
    relay.await_samples("the refusal", |samples| samples[PROXY_ERRORS] == 1.0);
    // On a listener without proxies nobody's header is believed.
    let mut direct = connect_from(Ipv4Addr::LOCALHOST, relay.address);
    direct.write_all(&headers(client, front)[0]).expect("sent");
    assert_eq!(await_end(&mut direct), b"");

    // The cap is the client's, and not the proxy's.
    let introduced = |port: u16, last: u8| {
        let client = SocketAddr::from(([192, 0, 2, last], port));
        let mut stream = connect_from(Ipv4Addr::LOCALHOST, front);
        stream.write_all(&headers(client, front)[1]).expect("sent");
        stream
    };
    let two = [1, 2].map(|port| {
        let mut client = Client::tcp_from(introduced(port, 8), front);
        client.binding();
        client
    });
    assert_eq!(await_end(&mut introduced(3, 8)), b"");
    relay.await_samples("the third", |samples| samples[REFUSALS] == 1.0);
    Client::tcp_from(introduced(4, 9), front).binding();
    drop(two);
}

/// A connection from an address of one's choice.
fn connect_from(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of loopback");
    socket.connect_timeout(&server.into(), Duration::from_secs(10)).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.set_tcp_nodelay(true).expect("a socket");
    socket.into()
}
