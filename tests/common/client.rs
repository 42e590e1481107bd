//! A small TURN client, for what no real client does on purpose.
//!
//! One transaction at a time, nothing is ever sent twice: what gets lost is seen. It does the
//! 401 and 438 dance of long-term credentials and verifies the MESSAGE-INTEGRITY of every answer.
//! Indications and channel data that arrive in between are kept for [`Client::receive`].

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use rustls::ClientConfig;
use turnway_wire::{
    BufferFull, Builder, ChannelData, ChannelNumber, Class, Data, DontFragment, ErrorCode, Icmp,
    IntegrityAlgorithm, IntegrityKey, Lifetime, LongTermKey, Message, Method, Nonce,
    PasswordAlgorithm, Realm, RequestedAddressFamily, RequestedTransport, TransactionId, Username,
    XorMappedAddress, XorPeerAddress, XorRelayedAddress, channel_header, code, padding,
};

pub use super::link::Transport;
use super::link::{BUFFER, Link, connected, tls_config};
use super::{PASSWORD, PATIENCE, USER};

/// REQUESTED-TRANSPORT: UDP.
pub const UDP: RequestedTransport = RequestedTransport(17);

/// A client with at most one allocation.
pub struct Client {
    link: Link,
    server: SocketAddr,
    user: String,
    password: String,
    challenge: Option<Challenge>,
    waiting: VecDeque<Vec<u8>>,
    transactions: u64,
}

/// What the server asked for, and the key that answers it.
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: IntegrityKey,
}

/// A verified response.
pub struct Answer(Vec<u8>);

impl Answer {
    /// The parsed response.
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.0).expect("parsed before")
    }

    /// The error code; `None` for a success.
    pub fn code(&self) -> Option<u16> {
        let message = self.message();
        match message.class() {
            Class::Success => None,
            Class::Error => {
                Some(message.get::<ErrorCode>().expect("well-formed").expect("4.8").code)
            }
            Class::Request | Class::Indication => panic!("not a response"),
        }
    }

    /// Panics unless it is a success.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert_eq!(self.code(), None, "{:?} should have succeeded", self.message().method());
        self
    }

    /// Panics unless it has this error code.
    #[track_caller]
    pub fn expect_code(&self, code: u16) {
        assert_eq!(self.code(), Some(code), "{:?}", self.message().method());
    }

    /// The relayed transport addresses of a successful Allocate.
    pub fn relayed(&self) -> Vec<SocketAddr> {
        let message = self.message();
        message.all::<XorRelayedAddress>().map(|address| address.expect("well-formed").0).collect()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Something that was relayed to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// A Data indication.
    Data { peer: SocketAddr, data: Vec<u8> },
    /// A Data indication with the ICMP attribute.
    Icmp { peer: SocketAddr, icmp_type: u8, code: u8 },
    /// ChannelData.
    Channel { number: u16, data: Vec<u8> },
}

impl Client {
    /// A UDP client of a server on this machine.
    pub fn udp(server: SocketAddr) -> Self {
        let any = match server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self::udp_from(UdpSocket::bind((any, 0)).expect("a free port"), server)
    }

    /// A UDP client on a socket of one's choice, which is not connected.
    pub fn udp_from(socket: UdpSocket, server: SocketAddr) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self::new(Link::Udp(socket), server)
    }

    /// A client over any transport. What it trusts (PEM) is of interest to TLS and DTLS.
    pub fn over(transport: Transport, server: SocketAddr, roots: &str) -> Self {
        match transport {
            Transport::Udp => Self::udp(server),
            Transport::Tcp => Self::tcp(server),
            Transport::Tls => {
                let stream = TcpStream::connect_timeout(&server, PATIENCE).expect("connects");
                Self::tls_from(stream, server, tls_config(roots))
            }
            Transport::Dtls => Self::dtls_from(connected(server), server, roots),
        }
    }

    /// A TCP client.
    pub fn tcp(server: SocketAddr) -> Self {
        Self::tcp_from(TcpStream::connect_timeout(&server, PATIENCE).expect("connects"), server)
    }

    /// A TCP client on a connection of one's choice.
    pub fn tcp_from(stream: TcpStream, server: SocketAddr) -> Self {
        Self::new(Link::tcp(stream), server)
    }

    /// A TLS client on a connection of one's choice.
    pub fn tls_from(stream: TcpStream, server: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::new(Link::tls(stream, config), server)
    }

    /// A DTLS client on a socket of one's choice, which is connected to the server.
    pub fn dtls_from(socket: UdpSocket, server: SocketAddr, roots: &str) -> Self {
        Self::new(Link::dtls(socket, roots), server)
    }

    fn new(link: Link, server: SocketAddr) -> Self {
        Self {
            link,
            server,
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            challenge: None,
            waiting: VecDeque::new(),
            transactions: 0,
        }
    }

    /// Other credentials than the usual ones.
    pub fn with_credentials(mut self, user: &str, password: &str) -> Self {
        self.user = user.to_owned();
        self.password = password.to_owned();
        self
    }

    /// The client's own transport address.
    pub fn local_addr(&self) -> SocketAddr {
        self.link.local_addr()
    }

    /// The server's transport address.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The UDP socket, also that below DTLS, to change its options or to misuse it.
    pub fn socket(&self) -> &UdpSocket {
        match &self.link {
            Link::Udp(socket) => socket,
            Link::Dtls(stream) => &stream.get_ref().0,
            Link::Tcp { .. } | Link::Tls { .. } => panic!("no UDP client"),
        }
    }

    /// The TCP stream, also that below TLS, to misuse it.
    pub fn stream(&self) -> &TcpStream {
        match &self.link {
            Link::Tcp { stream, .. } => stream,
            Link::Tls { stream, .. } => &stream.sock,
            Link::Udp(_) | Link::Dtls(_) => panic!("no TCP client"),
        }
    }

    /// The TCP stream itself, and what was read from it and not looked at.
    pub fn into_stream(self) -> (TcpStream, Vec<u8>) {
        match self.link {
            Link::Tcp { stream, received } => (stream, received),
            Link::Udp(_) | Link::Tls { .. } | Link::Dtls(_) => panic!("no plain TCP client"),
        }
    }

    /// A Binding request: the address the server sees.
    pub fn binding(&mut self) -> SocketAddr {
        let answer = self.transact(Method::BINDING, &|_| Ok(())).expect_success();
        let mapped = answer.message().get::<XorMappedAddress>();
        mapped.expect("well-formed").expect("XOR-MAPPED-ADDRESS").0
    }

    /// Allocates for UDP over IPv4 and returns the relayed transport address.
    pub fn allocate(&mut self) -> SocketAddr {
        self.try_allocate().expect_success().relayed()[0]
    }

    /// Allocates for UDP over IPv4.
    pub fn try_allocate(&mut self) -> Answer {
        self.request(Method::ALLOCATE, &|b| b.add(&UDP))
    }

    /// Allocates a relayed transport address of a family.
    pub fn allocate_family(&mut self, family: turnway_wire::Family) -> SocketAddr {
        let answer = self.request(Method::ALLOCATE, &|b| {
            b.add(&UDP)?;
            b.add(&RequestedAddressFamily { family: Some(family) })
        });
        answer.expect_success().relayed()[0]
    }

    /// Installs permissions for peers; their ports do not matter.
    pub fn permit(&mut self, peers: &[SocketAddr]) -> Answer {
        self.request(Method::CREATE_PERMISSION, &|b| {
            peers.iter().try_for_each(|&peer| b.add(&XorPeerAddress(peer)))
        })
    }

    /// Binds a channel.
    pub fn bind(&mut self, number: u16, peer: SocketAddr) -> Answer {
        self.request(Method::CHANNEL_BIND, &|b| {
            b.add(&ChannelNumber(number))?;
            b.add(&XorPeerAddress(peer))
        })
    }

    /// Refreshes the allocation; 0 ends it.
    pub fn refresh(&mut self, seconds: u32) -> Answer {
        self.request(Method::REFRESH, &|b| b.add(&Lifetime(seconds)))
    }

    /// Sends to a peer with a Send indication.
    pub fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        self.send_indication(peer, data, false);
    }

    /// Sends to a peer with a Send indication that has DONT-FRAGMENT.
    pub fn send_unfragmented(&mut self, peer: SocketAddr, data: &[u8]) {
        self.send_indication(peer, data, true);
    }

    fn send_indication(&mut self, peer: SocketAddr, data: &[u8], dont_fragment: bool) {
        let indication = self.build(Class::Indication, Method::SEND, &|b| {
            b.add(&XorPeerAddress(peer))?;
            if dont_fragment {
                b.add(&DontFragment)?;
            }
            b.add(&Data(data))
        });
        self.raw(&indication).expect("sent");
    }

    /// Sends to a peer by channel.
    pub fn send_channel(&mut self, number: u16, data: &[u8]) {
        let mut message = channel_header(number, data.len() as u16).to_vec();
        message.extend_from_slice(data);
        if self.link.is_stream() {
            message.resize(message.len() + padding(data.len()), 0);
        }
        self.raw(&message).expect("sent");
    }

    /// Waits for the next thing that is relayed to us.
    #[track_caller]
    pub fn receive(&mut self) -> Relayed {
        let message = self.waiting.pop_front().unwrap_or_else(|| self.next_message());
        relayed(&message)
    }

    /// What was relayed to us while we waited for responses.
    pub fn received_meanwhile(&mut self) -> Vec<Relayed> {
        self.waiting.drain(..).map(|message| relayed(&message)).collect()
    }

    /// Waits for the next Data indication or ChannelData, whoever it is from.
    #[track_caller]
    pub fn receive_data(&mut self) -> Vec<u8> {
        match self.receive() {
            Relayed::Data { data, .. } | Relayed::Channel { data, .. } => data,
            Relayed::Icmp { peer, .. } => panic!("ICMP from {peer} instead of data"),
        }
    }

    /// Asserts that nothing was relayed to us before the server answered one more request.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.binding();
        let waiting: Vec<Relayed> = self.waiting.iter().map(|message| relayed(message)).collect();
        assert_eq!(waiting, []);
    }

    /// A request with credentials, as soon as the server has asked for them.
    pub fn request(
        &mut self,
        method: Method,
        fill: &dyn Fn(&mut Builder<'_>) -> Result<(), BufferFull>,
    ) -> Answer {
        let first = self.transact(method, fill);
        match first.code() {
            Some(code::UNAUTHENTICATED) if self.challenge.is_none() => {}
            Some(code::STALE_NONCE) => {}
            _ => return first,
        }
        let message = first.message();
        let realm = message.get::<Realm>().expect("well-formed").expect("REALM").0;
        let nonce = message.get::<Nonce>().expect("well-formed").expect("NONCE").0;
        let (user, password) = (self.user.as_bytes(), self.password.as_bytes());
        let key = LongTermKey::derive(PasswordAlgorithm::Md5, user, realm, password);
        self.challenge = Some(Challenge {
            realm: realm.to_vec(),
            nonce: nonce.to_vec(),
            key: IntegrityKey::new(IntegrityAlgorithm::Sha1, key.as_bytes()),
        });
        self.transact(method, fill)
    }

    /// One request and its response.
    pub fn transact(
        &mut self,
        method: Method,
        fill: &dyn Fn(&mut Builder<'_>) -> Result<(), BufferFull>,
    ) -> Answer {
        let request = self.build(Class::Request, method, fill);
        let transaction = Message::parse(&request).expect("we built it").transaction_id();
        self.raw(&request).expect("sent");
        loop {
            let bytes = self.next_message();
            match Message::parse(&bytes) {
                Ok(message) if message.transaction_id() == transaction => {
                    self.verify(&message);
                    return Answer(bytes);
                }
                _ => self.waiting.push_back(bytes),
            }
        }
    }

    /// A message with credentials where there are any, and with a fingerprint.
    pub fn build(
        &mut self,
        class: Class,
        method: Method,
        fill: &dyn Fn(&mut Builder<'_>) -> Result<(), BufferFull>,
    ) -> Vec<u8> {
        let mut out = vec![0; BUFFER];
        self.transactions += 1;
        let mut id = *b"test00000000";
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        let mut builder = Builder::new(&mut out, class, method, TransactionId(id)).expect("room");
        fill(&mut builder).expect("room");
        let signed = class == Class::Request && method != Method::BINDING;
        if let Some(challenge) = self.challenge.as_ref().filter(|_| signed) {
            builder.add(&Username(self.user.as_bytes())).expect("room");
            builder.add(&Realm(&challenge.realm)).expect("room");
            builder.add(&Nonce(&challenge.nonce)).expect("room");
            builder.integrity(&challenge.key).expect("room");
        }
        let len = builder.finish();
        out.truncate(len);
        out
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link.send(bytes, self.server)
    }

    /// All answers to authenticated requests are signed, and so are their errors, but for those
    /// that are about the credentials themselves.
    fn verify(&self, message: &Message<'_>) {
        let refused = match message.get::<ErrorCode>() {
            Ok(Some(error)) => matches!(error.code, code::UNAUTHENTICATED | code::STALE_NONCE),
            Ok(None) => false,
            Err(error) => panic!("{error:?}"),
        };
        let Some(challenge) = self.challenge.as_ref().filter(|_| !refused) else {
            return;
        };
        if message.method() != Method::BINDING {
            assert!(message.verify(&challenge.key), "an answer with a wrong MESSAGE-INTEGRITY");
        }
    }

    /// The next datagram or frame from the server, which must be where we sent to.
    #[track_caller]
    pub fn next_message(&mut self) -> Vec<u8> {
        self.link.receive(self.server)
    }
}

fn relayed(message: &[u8]) -> Relayed {
    if let Some(ChannelData { number, data, .. }) = ChannelData::parse(message) {
        return Relayed::Channel { number, data: data.to_vec() };
    }
    let message = Message::parse(message).expect("a STUN message");
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    let peer = message.get::<XorPeerAddress>().expect("well-formed").expect("a peer").0;
    match message.get::<Icmp>().expect("well-formed") {
        Some(icmp) => Relayed::Icmp { peer, icmp_type: icmp.icmp_type, code: icmp.code },
        None => {
            let data = message.get::<Data>().expect("well-formed").expect("DATA");
            Relayed::Data { peer, data: data.0.to_vec() }
        }
    }
}

/// A peer: a UDP socket of its own that waits for what comes.
pub struct Peer(pub UdpSocket);

impl Peer {
    /// On any port of an address.
    pub fn on(ip: IpAddr) -> Self {
        Self::from(UdpSocket::bind((ip, 0)).expect("a free port"))
    }

    /// On a socket of one's choice.
    pub fn from(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(socket)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("a socket")
    }

    /// Waits for a datagram.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; BUFFER];
        let (len, from) = self.0.recv_from(&mut buffer).expect("nothing came");
        buffer.truncate(len);
        (buffer, from)
    }

    /// Sends a datagram.
    pub fn send(&self, data: &[u8], to: SocketAddr) {
        self.0.send_to(data, to).expect("sent");
    }

    /// Asserts that nothing came. What is to prove it must have arrived before.
    #[track_caller]
    pub fn expect_nothing(&self) {
        self.0.set_nonblocking(true).expect("a socket");
        let came = self.0.recv_from(&mut [0; 16]);
        assert_eq!(came.expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        self.0.set_nonblocking(false).expect("a socket");
        self.0.set_read_timeout(Some(PATIENCE)).expect("a socket");
    }
}

/// Random numbers that a seed repeats (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is small.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_ne_bytes());
        words.flatten().take(len).collect()
    }
}

/// A seed for [`Random`]: another one in each run, or `TURNWAY_SEED`.
pub fn seed() -> u64 {
    let given = std::env::var("TURNWAY_SEED").ok().map(|seed| seed.parse().expect("a number"));
    given.unwrap_or_else(|| RandomState::new().hash_one(0_u64))
}
