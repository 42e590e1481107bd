//! What carries a [`super::client::Client`]'s messages: UDP, TCP, TLS or DTLS.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use openssl::ssl::{
    HandshakeError, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use turnway_wire::{Frame, frame};

use super::PATIENCE;
use super::certificates::NAME;

/// Any message fits.
pub(super) const BUFFER: usize = 70_000;

/// How a client reaches the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
    /// A connection with TLS.
    Tls,
    /// Datagrams with DTLS.
    Dtls,
}

impl Transport {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls];

    /// Whether messages are framed by their lengths alone.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// As metrics and log lines have it.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        })
    }
}

pub(super) enum Link {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, received: Vec<u8> },
    Tls { stream: Box<StreamOwned<ClientConnection, TcpStream>>, received: Vec<u8> },
    Dtls(Box<SslStream<Datagrams>>),
}

impl Link {
    /// Over TCP.
    pub(super) fn tcp(stream: TcpStream) -> Self {
        prepare(&stream);
        Self::Tcp { stream, received: Vec::new() }
    }

    /// Over TLS, with a server whose certificate is signed by one of the roots.
    pub(super) fn tls(stream: TcpStream, config: Arc<ClientConfig>) -> Self {
        prepare(&stream);
        let name = ServerName::try_from(NAME).expect("a name");
        let connection = ClientConnection::new(config, name).expect("a configuration");
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("a TLS handshake");
        }
        Self::Tls { stream: Box::new(stream), received: Vec::new() }
    }

    /// Over DTLS, with a server whose certificate is signed by one of the roots. The socket is
    /// connected.
    pub(super) fn dtls(socket: UdpSocket, roots: &str) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let stream = dtls_client(roots).connect(Datagrams(socket));
        Self::Dtls(Box::new(stream.unwrap_or_else(|error| panic!("a DTLS handshake: {error:?}"))))
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp { stream, .. } => stream.local_addr(),
            Self::Tls { stream, .. } => stream.sock.local_addr(),
            Self::Dtls(stream) => stream.get_ref().0.local_addr(),
        }
        .expect("a socket")
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Tcp { .. } | Self::Tls { .. })
    }

    /// Sends bytes as they are.
    pub(super) fn send(&mut self, bytes: &[u8], server: SocketAddr) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send_to(bytes, server).map(drop),
            Self::Tcp { stream, .. } => stream.write_all(bytes),
            Self::Tls { stream, .. } => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::Dtls(stream) => stream.write_all(bytes),
        }
    }

    /// The next datagram or frame from the server, which must be where we sent to.
    #[track_caller]
    pub(super) fn receive(&mut self, server: SocketAddr) -> Vec<u8> {
        let mut buffer = vec![0; BUFFER];
        let len = match self {
            Self::Udp(socket) => {
                let (len, from) = socket.recv_from(&mut buffer).expect("nothing came");
                assert_eq!(from, server, "an answer from elsewhere");
                len
            }
            Self::Tcp { stream, received } => return next_frame(stream, received),
            Self::Tls { stream, received } => return next_frame(stream, received),
            Self::Dtls(stream) => {
                let len = stream.read(&mut buffer).expect("nothing came");
                assert!(len > 0, "the server closed the DTLS session");
                len
            }
        };
        buffer.truncate(len);
        buffer
    }
}

/// What a TLS client has that trusts these roots. With a configuration of one's own there is no
/// resumption of others' sessions.
pub fn tls_config(roots: &str) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3");
    Arc::new(builder.with_root_certificates(store).with_no_client_auth())
}

/// A DTLS client that has not begun, and trusts these roots.
pub fn dtls_client(roots: &str) -> Ssl {
    let mut store = X509StoreBuilder::new().expect("memory");
    for root in X509::stack_from_pem(roots.as_bytes()).expect("PEM") {
        store.add_cert(root).expect("a certificate");
    }
    let mut builder = SslContext::builder(SslMethod::dtls_client()).expect("memory");
    builder.set_options(SslOptions::NO_QUERY_MTU);
    builder.set_min_proto_version(Some(SslVersion::DTLS1_2)).expect("known");
    builder.set_cert_store(store.build());
    builder.set_verify(SslVerifyMode::PEER);
    let mut ssl = Ssl::new(&builder.build()).expect("memory");
    ssl.set_mtu(1200).expect("enough");
    ssl.set_hostname(NAME).expect("a name");
    ssl.param_mut().set_host(NAME).expect("a name");
    ssl
}

/// Keeps the last datagram of a client whom nobody answers.
#[derive(Debug, Default)]
struct Recorder(Vec<u8>);

impl Read for Recorder {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Recorder {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0 = datagram.to_vec();
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first flight of a DTLS client, which has no cookie yet.
pub fn dtls_hello(roots: &str) -> Vec<u8> {
    match dtls_client(roots).connect(Recorder::default()) {
        Err(HandshakeError::WouldBlock(waiting)) => waiting.get_ref().0.clone(),
        Err(_) | Ok(_) => panic!("nobody has answered"),
    }
}

/// The first flight of a TLS client.
pub fn tls_hello(roots: &str) -> Vec<u8> {
    let name = ServerName::try_from(NAME).expect("a name");
    let client = ClientConnection::new(tls_config(roots), name);
    let mut hello = Vec::new();
    client.expect("a configuration").write_tls(&mut hello).expect("memory");
    hello
}

/// A UDP socket that is connected to `server`, from any address.
pub fn connected(server: SocketAddr) -> UdpSocket {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).expect("a free port");
    socket.connect(server).expect("a socket");
    socket
}

fn prepare(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
}

#[track_caller]
fn next_frame(stream: &mut impl Read, received: &mut Vec<u8>) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Frame::Complete { len, payload } = frame(received) {
            let mut message: Vec<u8> = received.drain(..len).collect();
            message.truncate(payload);
            return message;
        }
        assert!(Instant::now() < deadline, "no whole message came");
        let mut buffer = [0; 4096];
        let len = stream.read(&mut buffer).expect("nothing came");
        assert!(len > 0, "the server closed the connection");
        received.extend_from_slice(&buffer[..len]);
    }
}

/// A connected socket as OpenSSL wants it: a datagram for each read and write.
#[derive(Debug)]
pub(super) struct Datagrams(pub(super) UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
