//! Sessions against rustls clients, in memory.

mod hostile;

use std::io::{Read as _, Write as _};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SupportedProtocolVersion};

use super::*;
use crate::config::{ClientCertificates, TlsVersion};
use crate::tls::authority::{Authority, Kind, identity, snapshot, tls};
use crate::tls::snapshot::provider;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const NAME: &str = "turn.example.org";

/// A server with one certificate and what its clients need.
struct World {
    authority: Authority,
    snapshot: Arc<Snapshot>,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        let files = authority.issue("leaf", &[NAME, "*.example.net"], Kind::Ecdsa);
        let snapshot = Arc::new(snapshot(&tls(vec![files])));
        Self { authority, snapshot }
    }

    fn client_config(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.authority.roots())
            .with_no_client_auth()
    }

    fn pair(&self, config: &Arc<ClientConfig>) -> Pair {
        Pair::new(config, NAME, Session::new(Arc::clone(&self.snapshot)))
    }

    /// A pair whose handshake is over.
    fn established(&self, version: &'static SupportedProtocolVersion) -> Pair {
        let mut pair = self.pair(&Arc::new(self.client_config(version)));
        pair.settle().unwrap();
        assert!(!pair.client.is_handshaking() && !pair.session.is_handshaking());
        pair
    }
}

/// A client and a session, and what a shard keeps between two reads.
struct Pair {
    client: ClientConnection,
    session: Session,
    carry: Vec<u8>,
    /// All that the session decrypted.
    plain: Vec<u8>,
    closed: bool,
    /// All that the client decrypted.
    read: Vec<u8>,
    /// How many bytes the session is given at a time.
    step: usize,
}

impl Pair {
    fn new(config: &Arc<ClientConfig>, name: &'static str, session: Session) -> Self {
        let name = ServerName::try_from(name).unwrap();
        let client = ClientConnection::new(Arc::clone(config), name).unwrap();
        let (carry, plain, read) = (Vec::new(), Vec::new(), Vec::new());
        Self { client, session, carry, plain, closed: false, read, step: usize::MAX }
    }

    /// Gives bytes to the session, behind what it left over; returns what it answers.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, SessionError> {
        let mut out = Vec::new();
        let before = self.plain.len();
        let mut buffer = std::mem::take(&mut self.plain);
        buffer.append(&mut self.carry);
        buffer.extend_from_slice(bytes);
        let received = self.session.receive(&mut buffer, before, &mut out);
        // Also when it fails: the client shall see the alert.
        self.client_takes(&out);
        let received = received?;
        self.carry = buffer[received.consumed..].to_vec();
        buffer.truncate(received.plain);
        self.plain = buffer;
        self.closed |= received.closed;
        Ok(out)
    }

    fn client_takes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            let _ = self.client.process_new_packets(); // the client is asked for its view later
            let _ = self.client.reader().read_to_end(&mut self.read); // there may be no end
        }
    }

    /// All that the client wants to send.
    fn client_sends(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Carries bytes both ways until neither side has any.
    fn settle(&mut self) -> Result<(), SessionError> {
        while self.client.wants_write() {
            let bytes = self.client_sends();
            for piece in bytes.chunks(self.step.min(bytes.len())) {
                self.feed(piece)?;
            }
        }
        Ok(())
    }

    fn client_writes(&mut self, plain: &[u8]) {
        self.client.set_buffer_limit(None);
        self.client.writer().write_all(plain).unwrap();
        self.settle().unwrap();
    }

    /// Sends to the client; what it has read then, and how many bytes that took.
    fn session_writes(&mut self, plain: &[u8]) -> (Vec<u8>, usize) {
        let mut out = b"before".to_vec();
        self.session.send(plain, &mut out).unwrap();
        assert_eq!(&out[..6], b"before", "what was queued is untouched");
        self.client_takes(&out[6..]);
        (std::mem::take(&mut self.read), out.len() - 6)
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn both_versions_carry_data_both_ways() {
    let world = World::new();
    for version in VERSIONS {
        let mut pair = world.established(version);
        for len in [1, 100, 1200, 16_384, 16_385, 40_000] {
            let plain = pattern(len);
            pair.client_writes(&plain);
            assert_eq!(std::mem::take(&mut pair.plain), plain);
            assert!(pair.carry.is_empty());
            let (read, sent) = pair.session_writes(&plain);
            assert_eq!(read, plain);
            let records = len.div_ceil(MAX_FRAGMENT);
            assert!(sent <= len + records * OVERHEAD, "{len} bytes became {sent}");
        }
    }
}

#[test]
fn a_session_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Session>();
}

#[test]
fn bytes_may_come_one_by_one() {
    let world = World::new();
    for version in VERSIONS {
        let mut pair = world.pair(&Arc::new(world.client_config(version)));
        pair.step = 1;
        pair.settle().unwrap();
        assert!(!pair.session.is_handshaking());
        pair.client_writes(b"one by one");
        assert_eq!(pair.plain, b"one by one");
    }
}

#[test]
fn the_content_of_several_records_is_one_piece_behind_what_was_left_over() {
    let world = World::new();
    for version in VERSIONS {
        let mut pair = world.established(version);
        pair.plain = b"left over, ".to_vec();
        let mut bytes = Vec::new();
        for text in ["three ", "records ", "and a half"] {
            pair.client.writer().write_all(text.as_bytes()).unwrap();
            bytes.extend(pair.client_sends());
        }
        let cut = bytes.len() - 5;
        pair.feed(&bytes[..cut]).unwrap();
        assert_eq!(pair.plain, b"left over, three records ");
        assert!(!pair.carry.is_empty());
        pair.feed(&bytes[cut..]).unwrap();
        assert_eq!(pair.plain, b"left over, three records and a half");
        assert!(pair.carry.is_empty());
    }
}

#[test]
fn data_may_follow_the_handshake_at_once() {
    let world = World::new();
    for version in VERSIONS {
        let mut pair = world.pair(&Arc::new(world.client_config(version)));
        pair.client.writer().write_all(b"early bird").unwrap(); // sent when the handshake is over
        pair.settle().unwrap();
        assert_eq!(pair.plain, b"early bird");
    }
}

//= rfc7443#section-1
//= type=test
//# This document proposes the following ALPN labels to identify STUN
//# protocol [RFC5389] usages.
#[test]
fn alpn_is_answered_where_it_is_ours_and_else_ignored() {
    let world = World::new();
    let (turn, discovery) = ("stun.turn", "stun.nat-discovery");
    let cases: [(&[&str], Option<Alpn>); 6] = [
        (&[], None),
        (&[turn], Some(Alpn::Turn)),
        (&[discovery], Some(Alpn::NatDiscovery)),
        (&[discovery, "h2", turn], Some(Alpn::Turn)),
        (&["http/1.1"], None),
        (&["h2", "http/1.1"], None),
    ];
    for version in VERSIONS {
        for (offered, agreed) in cases {
            let mut config = world.client_config(version);
            config.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
            let mut pair = world.pair(&Arc::new(config));
            pair.settle().unwrap();
            assert_eq!(pair.session.alpn(), agreed, "{offered:?}");
            let answered = pair.client.alpn_protocol();
            assert_eq!(answered, agreed.map(|it| it.name().as_bytes()), "{offered:?}");
            pair.client_writes(b"works");
            assert_eq!(pair.plain, b"works", "{offered:?}");
        }
    }
}

#[test]
fn the_name_asked_for_is_known() {
    let world = World::new();
    let config = Arc::new(world.client_config(&TLS13));
    let mut pair = Pair::new(&config, "A.Example.NET", Session::new(Arc::clone(&world.snapshot)));
    assert_eq!(pair.session.server_name(), None);
    pair.settle().unwrap();
    assert_eq!(pair.session.server_name(), Some("a.example.net"));
    assert!(format!("{:?}", pair.session).contains("a.example.net"));
}

#[test]
fn sessions_are_resumed_also_after_certificates_were_read_anew() {
    for version in VERSIONS {
        let mut world = World::new();
        let config = Arc::new(world.client_config(version));
        let kind = |world: &World, config: &Arc<ClientConfig>| {
            let mut pair = world.pair(config);
            pair.settle().unwrap();
            pair.client_writes(b"works");
            assert_eq!(pair.plain, b"works");
            pair.client.handshake_kind()
        };
        assert_eq!(kind(&world, &config), Some(HandshakeKind::Full));
        assert_eq!(kind(&world, &config), Some(HandshakeKind::Resumed));
        let files = world.authority.issue("new", &[NAME], Kind::Ecdsa);
        let tls = tls(vec![files]);
        let renewed = Snapshot::load(&tls, Some(&world.snapshot), crate::tls::authority::NOW_S);
        world.snapshot = Arc::new(renewed.unwrap().0);
        assert_eq!(kind(&world, &config), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn keys_are_updated_from_either_side_of_an_established_connection() {
    let world = World::new();
    let mut pair = world.established(&TLS13);
    for round in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        let text = format!("after update {round}");
        pair.client_writes(text.as_bytes());
        assert_eq!(std::mem::take(&mut pair.plain), text.as_bytes());
        let (read, _) = pair.session_writes(b"answer");
        assert_eq!(read, b"answer");
    }
}

#[test]
fn either_side_may_say_that_it_is_done() {
    let world = World::new();
    for version in VERSIONS {
        let mut pair = world.established(version);
        pair.client.writer().write_all(b"last words").unwrap();
        pair.client.send_close_notify();
        pair.settle().unwrap();
        assert!(pair.closed);
        assert_eq!(pair.plain, b"last words");
        let mut out = Vec::new();
        if version.version == TLS13.version {
            // In TLS 1.3 each direction is closed by itself.
            let (read, _) = pair.session_writes(b"still answered");
            assert_eq!(read, b"still answered");
        }
        pair.session.close(&mut out);
        pair.client_takes(&out);
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        assert!(pair.session.send(b"too late", &mut out).is_err());
    }
}

#[test]
fn nothing_is_said_at_the_end_of_a_session_that_never_began() {
    let mut out = Vec::new();
    let world = World::new();
    let mut session = Session::new(Arc::clone(&world.snapshot));
    assert!(session.is_handshaking());
    assert!(session.send(b"x", &mut out).is_err());
    session.close(&mut out);
    assert_eq!(out, b"");
}

#[test]
fn a_session_may_end_anywhere_in_a_handshake() {
    // Nothing, or a piece of a message in a record that is whole.
    let pieces: [&[u8]; 2] = [&[], &[22, 3, 3, 0, 1, 16]];
    let world = World::new();
    for version in VERSIONS {
        let config = Arc::new(world.client_config(version));
        let ends = |cut: usize, piece: &[u8]| {
            let mut pair = world.pair(&config);
            let mut sent = 0;
            while pair.client.wants_write() && sent < cut {
                let mut bytes = pair.client_sends();
                bytes.truncate(cut - sent);
                sent += bytes.len();
                pair.feed(&bytes).unwrap();
            }
            let _ = pair.feed(piece); // which is an error in some places
            let mut out = Vec::new();
            pair.session.close(&mut out);
            assert!(pair.session.receive(&mut [0], 0, &mut out).is_err(), "it is over");
            sent < cut
        };
        let mut cuts = (0..).step_by(5);
        while !cuts.any(|cut| pieces.map(|piece| ends(cut, piece))[0]) {}
    }
}

#[test]
fn an_old_version_is_refused_where_1_3_is_the_least() {
    let world = World::new();
    let files = world.authority.files("leaf");
    let settings = crate::config::Tls { min_version: TlsVersion::Tls13, ..tls(vec![files]) };
    let snapshot = Arc::new(snapshot(&settings));
    let config = Arc::new(world.client_config(&TLS12));
    let mut pair = Pair::new(&config, NAME, Session::new(Arc::clone(&snapshot)));
    assert!(matches!(pair.settle(), Err(SessionError::Handshake(_))));
    assert!(matches!(pair.client.process_new_packets(), Err(rustls::Error::AlertReceived(_))));
    let config = Arc::new(world.client_config(&TLS13));
    Pair::new(&config, NAME, Session::new(snapshot)).settle().unwrap();
}

#[test]
fn clients_show_certificates_where_they_are_asked_to() {
    let world = World::new();
    let stranger = Authority::new();
    let with = |wanted, signer: Option<&Authority>, version: &'static SupportedProtocolVersion| {
        let settings = crate::config::Tls {
            client_certificates: wanted,
            client_ca: Some(world.authority.file()),
            ..tls(vec![world.authority.files("leaf")])
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(world.authority.roots());
        let mut config = match signer {
            None => builder.with_no_client_auth(),
            Some(signer) => {
                let files = signer.issue("client", &["client.example.org"], Kind::Ecdsa);
                let (chain, key) = identity(&files);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        // The shortest records there are: its certificate comes in many.
        config.max_fragment_size = Some(64);
        config.resumption = Resumption::disabled();
        let session = Session::new(Arc::new(snapshot(&settings)));
        let mut pair = Pair::new(&Arc::new(config), NAME, session);
        pair.step = 50;
        let settled = pair.settle();
        settled.map(|()| assert!(!pair.session.is_handshaking())).is_ok()
    };
    use ClientCertificates::{Off, Optional, Required};
    for version in VERSIONS {
        assert!(with(Required, Some(&world.authority), version));
        assert!(!with(Required, None, version));
        assert!(!with(Required, Some(&stranger), version));
        assert!(with(Optional, Some(&world.authority), version));
        assert!(with(Optional, None, version));
        assert!(!with(Optional, Some(&stranger), version));
        assert!(with(Off, None, version));
    }
}
