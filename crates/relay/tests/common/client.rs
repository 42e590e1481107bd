//! Clients as they behave in the wild: they ask, are challenged, ask again, and believe a response
//! only if its integrity is right.

use std::net::SocketAddr;

use turnway_relay::{Client, Event, FiveTuple, IpFields, Link, RealmId, Reason, Route, Transport};
use turnway_wire::{
    AddressErrorCode, AttributeType, Builder, ChannelNumber, Class, Data, Encode, ErrorCode,
    Family, IntegrityAlgorithm, IntegrityKey, Lifetime, LongTermKey, Message, Method, Nonce,
    PasswordAlgorithm, Realm, RequestedTransport, ReservationToken, TransactionId, Username,
    XorMappedAddress, XorPeerAddress, XorRelayedAddress, channel_header, padding,
};

use super::{LISTENER, LISTENER_V6, World, addr};

/// Adds one attribute to a message.
type Add = Box<dyn Fn(&mut Builder<'_>)>;

/// What to ask for: a method and its attributes.
pub(crate) struct Ask {
    method: Method,
    attributes: Vec<Add>,
}

impl Ask {
    pub(crate) fn new(method: Method) -> Self {
        Self { method, attributes: Vec::new() }
    }

    /// An Allocate for UDP.
    pub(crate) fn allocate() -> Self {
        Self::new(Method::ALLOCATE).with(RequestedTransport(17))
    }

    /// A Refresh that asks for a lifetime; 0 is the end.
    pub(crate) fn refresh(seconds: u32) -> Self {
        Self::new(Method::REFRESH).with(Lifetime(seconds))
    }

    pub(crate) fn create_permission(peers: &[&str]) -> Self {
        peers.iter().fold(Self::new(Method::CREATE_PERMISSION), |ask, peer| {
            ask.with(XorPeerAddress(addr(peer)))
        })
    }

    pub(crate) fn channel_bind(number: u16, peer: &str) -> Self {
        Self::new(Method::CHANNEL_BIND).with(ChannelNumber(number)).with(XorPeerAddress(addr(peer)))
    }

    pub(crate) fn with<A: Encode + 'static>(mut self, attribute: A) -> Self {
        let add = move |b: &mut Builder<'_>| b.add(&attribute).unwrap();
        self.attributes.push(Box::new(add));
        self
    }
}

/// An attribute of any number with any value.
#[derive(Clone)]
pub(crate) struct Raw<const NUMBER: u16>(pub(crate) Vec<u8>);

impl<const NUMBER: u16> Encode for Raw<NUMBER> {
    const TYPE: AttributeType = AttributeType(NUMBER);

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&self.0);
    }
}

/// A client with its socket, its user and what the server told it.
#[derive(Clone)]
pub(crate) struct TestClient {
    /// The server that its five-tuple belongs to.
    pub(crate) shard: usize,
    pub(crate) at: Client,
    pub(crate) user: String,
    pub(crate) password: String,
    /// The session key of an access token, which takes the place of a password.
    pub(crate) session_key: Option<Vec<u8>>,
    /// Uses SHA-256 where it is offered, as clients of RFC 8489 do.
    pub(crate) modern: bool,
    pub(crate) fingerprint: bool,
    /// Empty until the first challenge.
    pub(crate) realm: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    algorithms: Option<Vec<u8>>,
    transactions: u32,
}

impl TestClient {
    /// Alice's socket at `address`, over UDP.
    pub(crate) fn new(address: &str) -> Self {
        let client = addr(address);
        let server = if client.is_ipv4() { LISTENER } else { LISTENER_V6 };
        Self {
            shard: 0,
            at: Client {
                tuple: FiveTuple { transport: Transport::Udp, client, server: addr(server) },
                link: Link(u32::from(client.port())),
                realm: RealmId::FIRST,
            },
            user: "alice".into(),
            password: "sesame".into(),
            session_key: None,
            modern: false,
            fingerprint: false,
            realm: Vec::new(),
            nonce: Vec::new(),
            algorithms: None,
            transactions: 0,
        }
    }

    /// A client of an IPv4 network over UDP.
    pub(crate) fn udp() -> Self {
        Self::new("192.0.2.1:40000")
    }

    /// A client of an IPv4 network over TCP.
    pub(crate) fn tcp() -> Self {
        let mut client = Self::new("192.0.2.1:40001");
        client.at.tuple.transport = Transport::Tcp;
        client
    }

    /// Another user's.
    pub(crate) fn of(mut self, user: &str, password: &str) -> Self {
        (self.user, self.password) = (user.into(), password.into());
        self
    }

    /// A client of another server.
    pub(crate) fn on(mut self, shard: usize) -> Self {
        self.shard = shard;
        self
    }

    /// Asks, answers a challenge if there is one, and checks what comes back.
    pub(crate) fn ask(&mut self, world: &mut World, ask: &Ask) -> Response {
        let response = self.ask_once(world, ask);
        match response.code() {
            401 if self.nonce.is_empty() => {}
            438 => {}
            _ => return response,
        }
        self.learn(&response);
        self.ask_once(world, ask)
    }

    /// Asks without a second try.
    pub(crate) fn ask_once(&mut self, world: &mut World, ask: &Ask) -> Response {
        let request = self.request(ask);
        let response = self.exchange(world, &request);
        response.expect("a request is answered")
    }

    /// Sends a request that was made before, and checks what comes back.
    pub(crate) fn exchange(&mut self, world: &mut World, request: &[u8]) -> Option<Response> {
        let response = self.send_raw(world, request)?;
        let asked = Message::parse(request).unwrap();
        let message = response.message();
        assert_eq!(message.method(), asked.method());
        assert_eq!(message.transaction_id(), asked.transaction_id());
        assert_eq!(message.has_fingerprint(), asked.has_fingerprint());
        let signed = asked.integrity().is_some() && asked.method() != Method::BINDING;
        match response.code() {
            401 | 438 => assert!(message.integrity().is_none()),
            400 if message.integrity().is_none() => {}
            _ if signed => assert!(message.verify(&self.key()), "the response is not the server's"),
            _ => {}
        }
        Some(response)
    }

    /// Sends bytes that must go to the handler of requests.
    pub(crate) fn send_raw(&self, world: &mut World, data: &[u8]) -> Option<Response> {
        let server = &mut world.servers[self.shard];
        let route = server.route_client(&self.at, data, None, world.now);
        let from = self.at;
        let reply = match route {
            Route::Request => world.handle(self.shard, Event::Request { from, data }),
            Route::Elsewhere { session } => world.elsewhere(self.shard, from, data, session),
            Route::Arriving => {
                world.settle(self.shard, &from);
                return self.send_raw(world, data);
            }
            Route::ToPeer { .. } | Route::ToClient { .. } | Route::Lease | Route::Drop(_) => {
                panic!("{route:?} for a request")
            }
        };
        let (to, bytes) = reply?;
        assert_eq!(to, self.at, "a reply to somebody else");
        Some(Response { bytes })
    }

    /// The bytes of a request with the credentials known so far.
    pub(crate) fn request(&mut self, ask: &Ask) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&self.transactions.to_be_bytes());
        transaction[4..6].copy_from_slice(&self.at.tuple.client.port().to_be_bytes());
        self.request_in(ask, TransactionId(transaction))
    }

    /// The same in a given transaction.
    pub(crate) fn request_in(&self, ask: &Ask, transaction: TransactionId) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let mut b = Builder::new(&mut out, Class::Request, ask.method, transaction).unwrap();
        for add in &ask.attributes {
            add(&mut b);
        }
        if !self.nonce.is_empty() {
            b.add(&Username(self.user.as_bytes())).unwrap();
            b.add(&Realm(&self.realm)).unwrap();
            b.add(&Nonce(&self.nonce)).unwrap();
            if let Some(list) = self.algorithms.as_ref().filter(|_| self.modern) {
                b.add(&Raw::<0x8002>(list.clone())).unwrap();
                b.add(&Raw::<0x001D>(vec![0, 2, 0, 0])).unwrap();
            }
            b.integrity(&self.key()).unwrap();
        }
        if self.fingerprint {
            b.fingerprint().unwrap();
        }
        let len = b.finish();
        out.truncate(len);
        out
    }

    /// The key of the user's password.
    pub(crate) fn key(&self) -> IntegrityKey {
        if let Some(key) = &self.session_key {
            return IntegrityKey::new(IntegrityAlgorithm::Sha1, key);
        }
        let modern = self.modern && self.algorithms.is_some();
        let (password, integrity) = match modern {
            true => (PasswordAlgorithm::Sha256, IntegrityAlgorithm::Sha256),
            false => (PasswordAlgorithm::Md5, IntegrityAlgorithm::Sha1),
        };
        let (user, secret) = (self.user.as_bytes(), self.password.as_bytes());
        let key = LongTermKey::derive(password, user, &self.realm, secret);
        IntegrityKey::new(integrity, key.as_bytes())
    }

    /// Takes realm and nonce from a challenge.
    pub(crate) fn learn(&mut self, challenge: &Response) {
        let message = challenge.message();
        let value = |ty| message.raw(ty).map(<[u8]>::to_vec);
        self.realm = value(AttributeType::REALM).expect("a challenge names the realm");
        self.nonce = value(AttributeType::NONCE).expect("a challenge has a nonce");
        self.algorithms = value(AttributeType::PASSWORD_ALGORITHMS);
    }

    /// Allocates, and gives the first relayed transport address.
    pub(crate) fn allocate(&mut self, world: &mut World) -> SocketAddr {
        let response = self.ask(world, &Ask::allocate());
        assert_eq!(response.code(), 0, "{response:?}");
        response.relayed()[0]
    }

    /// Creates permissions, which must succeed.
    pub(crate) fn permit(&mut self, world: &mut World, peers: &[&str]) {
        let response = self.ask(world, &Ask::create_permission(peers));
        assert_eq!(response.code(), 0, "{response:?}");
    }

    /// Binds a channel, which must succeed.
    pub(crate) fn bind(&mut self, world: &mut World, number: u16, peer: &str) {
        let response = self.ask(world, &Ask::channel_bind(number, peer));
        assert_eq!(response.code(), 0, "{response:?}");
    }

    /// Sends ChannelData, padded as its transport wants.
    pub(crate) fn channel_data(
        &self,
        world: &mut World,
        number: u16,
        payload: &[u8],
    ) -> Result<Sent, Reason> {
        let mut data = channel_header(number, payload.len() as u16).to_vec();
        data.extend_from_slice(payload);
        if self.at.tuple.transport.is_stream() {
            data.resize(data.len() + padding(payload.len()), 0);
        }
        self.datagram(world, &data, None)
    }

    /// Sends a Send indication.
    pub(crate) fn send(
        &self,
        world: &mut World,
        peer: &str,
        payload: &[u8],
    ) -> Result<Sent, Reason> {
        let ask = Ask::new(Method::SEND)
            .with(XorPeerAddress(addr(peer)))
            .with(Raw::<0x0013>(payload.to_vec()));
        self.datagram(world, &indication(&ask), None)
    }

    /// Sends a datagram for a peer, and gives what the peer receives.
    pub(crate) fn datagram(
        &self,
        world: &mut World,
        data: &[u8],
        ip: Option<IpFields>,
    ) -> Result<Sent, Reason> {
        let mut route = world.servers[self.shard].route_client(&self.at, data, ip, world.now);
        if matches!(route, Route::Lease) {
            world.exchange(self.shard);
            route = world.servers[self.shard].route_client(&self.at, data, ip, world.now);
        }
        match route {
            Route::ToPeer { via, to, skip, len, dont_fragment, ip } => Ok(Sent {
                from: world.sockets[self.shard][&via],
                to,
                payload: data[usize::from(skip)..usize::from(skip) + usize::from(len)].to_vec(),
                dont_fragment,
                ip,
            }),
            Route::Drop(reason) => Err(reason),
            Route::Arriving => {
                world.settle(self.shard, &self.at);
                self.datagram(world, data, ip)
            }
            Route::ToClient { .. } | Route::Request | Route::Lease | Route::Elsewhere { .. } => {
                panic!("{route:?} for a datagram to a peer")
            }
        }
    }
}

/// The bytes of an indication.
pub(crate) fn indication(ask: &Ask) -> Vec<u8> {
    let mut out = vec![0; 70_000];
    let transaction = TransactionId([9; 12]);
    let mut b = Builder::new(&mut out, Class::Indication, ask.method, transaction).unwrap();
    for add in &ask.attributes {
        add(&mut b);
    }
    let len = b.finish();
    out.truncate(len);
    out
}

/// What a peer receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The relayed transport address, as bound.
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
    pub(crate) dont_fragment: bool,
    pub(crate) ip: Option<IpFields>,
}

/// A response, to be asked about.
pub(crate) struct Response {
    pub(crate) bytes: Vec<u8>,
}

impl Response {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("the server writes valid messages")
    }

    /// The error code; 0 of a success response.
    pub(crate) fn code(&self) -> u16 {
        let message = self.message();
        let error = message.get::<ErrorCode<'_>>().unwrap();
        assert_eq!(error.is_some(), message.class() == Class::Error);
        error.map_or(0, |error| error.code)
    }

    pub(crate) fn relayed(&self) -> Vec<SocketAddr> {
        let message = self.message();
        let all = message.all::<XorRelayedAddress>();
        all.map(|relayed| relayed.unwrap().0).collect()
    }

    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        let mapped = self.message().get::<XorMappedAddress>().unwrap();
        mapped.map(|mapped| mapped.0)
    }

    pub(crate) fn lifetime(&self) -> Option<u32> {
        let lifetime = self.message().get::<Lifetime>().unwrap();
        lifetime.map(|lifetime| lifetime.0)
    }

    pub(crate) fn token(&self) -> Option<[u8; 8]> {
        let token = self.message().get::<ReservationToken>().unwrap();
        token.map(|token| token.0)
    }

    /// Which family a dual allocation lacks, and why.
    pub(crate) fn lacking(&self) -> Option<(Family, u16)> {
        let error = self.message();
        let error = error.get::<AddressErrorCode<'_>>().unwrap();
        error.map(|error| (error.family, error.code))
    }

    /// The numbers of the attributes, in order.
    pub(crate) fn attributes(&self) -> Vec<AttributeType> {
        self.message().attributes().map(|(ty, _)| ty).collect()
    }

    /// The payload of a Data indication.
    pub(crate) fn data(&self) -> Option<Vec<u8>> {
        let data = self.message();
        let data = data.get::<Data<'_>>().unwrap();
        data.map(|data| data.0.to_vec())
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.code(), self.attributes())
    }
}
