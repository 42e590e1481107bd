//! What the tests have in common: certificates, an OpenSSL client in memory, and a server around
//! the crate that behaves like the daemon, with datagrams in lists instead of sockets.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SignatureAlgorithm,
};
use turnway_dtls::{
    Context, CookieSecret, Identity, Judged, Listener, PLAINTEXT_MAX, Received, Session, Settings,
    VERIFY_REQUEST_LEN,
};

pub(crate) const RSA: &SignatureAlgorithm = &PKCS_RSA_SHA256;
pub(crate) const ECDSA: &SignatureAlgorithm = &PKCS_ECDSA_P256_SHA256;

/// A leaf for some names, its key, the intermediate between, and the root above.
pub(crate) struct Made {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) root: String,
}

impl Made {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

pub(crate) fn certificate(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Made {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let key = || KeyPair::generate_for(algorithm).unwrap();
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let root = authority("root").self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(authority("root"), root_key);
    let middle = authority("middle").signed_by(&middle_key, &root_issuer).unwrap();
    let middle_issuer = Issuer::new(authority("middle"), middle_key);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    if let Some(name) = names.first() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let leaf = params.signed_by(&leaf_key, &middle_issuer).unwrap();
    Made { chain: leaf.pem() + &middle.pem(), key: leaf_key.serialize_pem(), root: root.pem() }
}

pub(crate) fn settings(identities: Vec<Identity>) -> Settings {
    Settings {
        identities,
        alpn: vec![b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()],
        clients: None,
        mtu: 1200,
    }
}

/// A context with one new ECDSA certificate.
pub(crate) fn context() -> Context {
    let identity = certificate(ECDSA, &["turn.example.org"]).identity();
    Context::new(&settings(vec![identity])).unwrap()
}

pub(crate) fn listener(context: &Context) -> Listener {
    Listener::new(context, CookieSecret::new([7; 32]))
}

/// A server with one client: a session once there is one, and what came of it.
pub(crate) struct Server {
    pub(crate) listener: Listener,
    pub(crate) peer: Vec<u8>,
    pub(crate) session: Option<Session>,
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) events: Vec<Received>,
}

impl Server {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            listener: listener(context),
            peer: b"192.0.2.1:1000 -> 198.51.100.1:5349".to_vec(),
            session: None,
            received: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Takes a datagram as the daemon would, and returns what it sends.
    pub(crate) fn take(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut datagram = datagram;
        if self.session.is_none() {
            let mut answer = [0; VERIFY_REQUEST_LEN];
            match self.listener.judge(&self.peer, datagram, &mut answer) {
                Judged::Ignore(_) => return Vec::new(),
                Judged::Answer(len) => return vec![answer[..len].to_vec()],
                Judged::Accept(session) => self.session = Some(session),
            }
            datagram = &[];
        }
        let session = self.session.as_mut().unwrap();
        let mut out = Vec::new();
        let mut plain = vec![0; PLAINTEXT_MAX];
        loop {
            let event = session.receive(datagram, &mut plain, |sent| out.push(sent.to_vec()));
            datagram = &[];
            match event {
                Received::Idle => return out,
                Received::Data(len) => self.received.push(plain[..len].to_vec()),
                Received::Established => self.events.push(event),
                Received::Closed | Received::Failed(_) => {
                    self.events.push(event);
                    return out;
                }
            }
        }
    }

    pub(crate) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a session was accepted")
    }

    pub(crate) fn send(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plain.len() + turnway_dtls::RECORD_OVERHEAD];
        let len = self.session().send(plain, &mut out).unwrap();
        out.truncate(len);
        out
    }

    pub(crate) fn failed(&self) -> bool {
        matches!(self.events.last(), Some(Received::Failed(_)))
    }
}

/// Datagrams to and from a client.
#[derive(Default)]
pub(crate) struct Wire {
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

/// OpenSSL's client.
pub(crate) struct Client {
    pub(crate) stream: SslStream<Wire>,
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) failed: bool,
    pub(crate) closed: bool,
}

impl Client {
    /// A client that trusts anybody.
    pub(crate) fn new() -> Self {
        Self::with(|_| (), |_| ())
    }

    /// A client that trusts `root` and asks for `name`.
    pub(crate) fn trusting(root: &str, name: &str) -> Self {
        let name = name.to_owned();
        let root = root.to_owned();
        Self::with(
            move |builder| trust(builder, &root),
            move |ssl| {
                ssl.set_hostname(&name).unwrap();
                ssl.param_mut().set_host(&name).unwrap();
            },
        )
    }

    pub(crate) fn with(
        configure: impl FnOnce(&mut SslContextBuilder),
        set: impl FnOnce(&mut Ssl),
    ) -> Self {
        let mut builder = SslContext::builder(SslMethod::dtls_client()).unwrap();
        builder.set_options(SslOptions::NO_QUERY_MTU);
        builder.set_min_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
        configure(&mut builder);
        let mut ssl = Ssl::new(&builder.build()).unwrap();
        ssl.set_connect_state();
        ssl.set_mtu(1200).unwrap();
        set(&mut ssl);
        Self {
            stream: SslStream::new(ssl, Wire::default()).unwrap(),
            received: Vec::new(),
            failed: false,
            closed: false,
        }
    }

    /// Takes datagrams (none to begin) and returns what it sends.
    pub(crate) fn take(&mut self, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let incoming = datagrams.iter().cloned();
        self.stream.get_mut().incoming.extend(incoming);
        let mut plain = vec![0; 20_000];
        loop {
            match self.stream.ssl_read(&mut plain) {
                Ok(len) => self.received.push(plain[..len].to_vec()),
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.closed = true;
                    break;
                }
                Err(_) => {
                    self.failed = true;
                    break;
                }
            }
        }
        self.sent()
    }

    pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.stream.get_mut().outgoing)
    }

    pub(crate) fn send(&mut self, plain: &[u8]) -> Vec<u8> {
        self.stream.ssl_write(plain).unwrap();
        self.sent().remove(0)
    }

    pub(crate) fn is_established(&self) -> bool {
        self.stream.ssl().is_init_finished()
    }
}

pub(crate) fn trust(builder: &mut SslContextBuilder, root: &str) {
    let mut store = X509StoreBuilder::new().unwrap();
    store.add_cert(X509::from_pem(root.as_bytes()).unwrap()).unwrap();
    builder.set_cert_store(store.build());
    builder.set_verify(SslVerifyMode::PEER);
}

/// Delivers everything to both until both are silent.
pub(crate) fn converse(client: &mut Client, server: &mut Server) {
    let mut to_server = client.take(&[]);
    for _ in 0..20 {
        let mut to_client = Vec::new();
        for datagram in to_server.drain(..) {
            to_client.extend(server.take(&datagram));
        }
        to_server = client.take(&to_client);
        if to_server.is_empty() {
            return;
        }
    }
    panic!("they never stop talking");
}

/// A client and a server that have completed a handshake.
pub(crate) fn established() -> (Client, Server) {
    let mut client = Client::new();
    let mut server = Server::new(&context());
    converse(&mut client, &mut server);
    assert!(client.is_established() && server.session().is_established());
    (client, server)
}

/// Adds to the sequence numbers of the client's records in the clear.
pub(crate) fn shift(datagram: &mut [u8], by: u8) {
    let mut at = 0;
    while at < datagram.len() {
        if datagram[at + 3..at + 5] == [0, 0] {
            datagram[at + 10] += by;
        }
        let len = u16::from_be_bytes([datagram[at + 11], datagram[at + 12]]);
        at += 13 + usize::from(len);
    }
}
