//! One TLS connection of a client: bytes in, bytes out, no socket and no clock.
//!
//! The caller owns all buffers. What it read lies in one buffer, plaintext that was left over
//! first and records behind it; [`Session::receive`] decrypts the records in place and moves their
//! content up to that plaintext, so that messages which span records become whole. What is to be
//! sent is encrypted to the end of the caller's queue. Between calls a session holds keys only.

use std::fmt;
use std::sync::Arc;

use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError};

use super::snapshot::Snapshot;

/// The longest record: a header, 2^14 bytes and what a cipher may add to them.
const MAX_RECORD: usize = 5 + (1 << 14) + 256;

/// What is kept of a record or of a handshake's message whose end has not come yet.
const MAX_PENDING: usize = MAX_RECORD;

/// The most plaintext in one record.
const MAX_FRAGMENT: usize = 1 << 14;

/// Room for what encryption adds to a record: header, explicit nonce, type and tag.
const OVERHEAD: usize = 32;

/// One client's side of TLS.
pub struct Session {
    state: State,
    server_name: Option<Box<str>>,
    alpn: Option<Alpn>,
}

enum State {
    /// The ClientHello is not complete yet; so many bytes of whole records were looked at in vain.
    Hello(Arc<Snapshot>, usize),
    /// From the ClientHello on.
    Open(Box<UnbufferedServerConnection>),
    /// It failed, or both sides have closed it.
    Over,
}

/// What became of received bytes. Both positions are in the buffer that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Where the plaintext ends: it is all that is before.
    pub plain: usize,
    /// Where the bytes begin that wait for more. Nothing before it is needed any more but the
    /// plaintext; these bytes may have been changed and must be given again as they are now.
    pub consumed: usize,
    /// The client has said that it sends nothing more.
    pub closed: bool,
}

/// What a client has said that it speaks within TLS; the first is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alpn {
    /// `stun.turn`
    Turn,
    /// `stun.nat-discovery`
    NatDiscovery,
}

/// Why a session is over. What is in the caller's queue, an alert mostly, should still be sent.
#[derive(Debug)]
pub enum SessionError {
    /// The client does not speak TLS.
    NotTls,
    /// A message of the handshake is longer than we wait for.
    TooLong,
    /// The handshake failed.
    Handshake(rustls::Error),
    /// A record that cannot be accepted on an established connection.
    Record(rustls::Error),
    /// The session was over already.
    Over,
}

impl Session {
    /// A session for a connection that has just been accepted; it keeps to `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { state: State::Hello(snapshot, 0), server_name: None, alpn: None }
    }

    /// Takes in what was read: `buffer[..plain]` is plaintext of before, the rest are records, of
    /// which the first may begin with what an earlier call left unconsumed. Answers of the
    /// handshake, and alerts, are appended to `out`, which must be sent soon.
    ///
    /// # Errors
    ///
    /// Why the session is over: the connection is to be closed once `out` is written. What
    /// plaintext came before is in the buffer, but its length is not known any more.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        plain: usize,
        out: &mut Vec<u8>,
    ) -> Result<Received, SessionError> {
        let received = self.open(&buffer[plain..], out).and_then(|open| match open {
            true => self.records(buffer, plain, out),
            false => Ok(Received { plain, consumed: plain, closed: false }),
        });
        if received.is_err() {
            self.state = State::Over;
        }
        received
    }

    /// Encrypts `plain` to the end of `out`, in as few records as can be.
    ///
    /// # Errors
    ///
    /// The session is over, or not yet established.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SessionError> {
        if plain.is_empty() {
            return Ok(());
        }
        let State::Open(connection) = &mut self.state else { return Err(SessionError::Over) };
        loop {
            match connection.process_tls_records(&mut []).state.map_err(SessionError::Record)? {
                ConnectionState::EncodeTlsData(data) => encode(data, out),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let room = plain.len() + OVERHEAD * (1 + plain.len() / MAX_FRAGMENT);
                    return append(out, room, |space| traffic.encrypt(plain, space));
                }
                ConnectionState::PeerClosed => {}
                _ => return Err(SessionError::Over),
            }
        }
    }

    /// Says to the client that nothing more will be sent. Does nothing before the handshake is
    /// over.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.end_sending(out);
        self.state = State::Over;
    }

    /// The same, but more may be received.
    pub fn end_sending(&mut self, out: &mut Vec<u8>) {
        // In a handshake rustls may be in the middle of a message, and must not be asked without
        // the bytes that it has seen of it: it would panic.
        if self.is_handshaking() {
            return;
        }
        let State::Open(connection) = &mut self.state else { return };
        loop {
            match connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    // What cannot be encrypted any more need not be said.
                    let _ = append(out, OVERHEAD, |space| traffic.queue_close_notify(space));
                    break;
                }
                Ok(ConnectionState::PeerClosed) => {}
                Ok(_) | Err(_) => break,
            }
        }
    }

    /// Whether the handshake is under way: nothing can be sent yet.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Hello(..) => true,
            State::Open(connection) => connection.is_handshaking(),
            State::Over => false,
        }
    }

    /// The name the client asked for (SNI), in lower case; known once its hello has come.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// What was agreed upon; known once the hello has come.
    #[must_use]
    pub fn alpn(&self) -> Option<Alpn> {
        self.alpn
    }

    /// Whether the session is, or now becomes, one that decrypts: the ClientHello has come.
    fn open(&mut self, records: &[u8], out: &mut Vec<u8>) -> Result<bool, SessionError> {
        let (snapshot, looked_at) = match &mut self.state {
            State::Open(_) => return Ok(true),
            State::Over => return Err(SessionError::Over),
            State::Hello(snapshot, looked_at) => (snapshot, looked_at),
        };
        // Whoever sends it byte by byte does not have it read as often.
        let whole = whole_records(records);
        if whole > 0 && whole == *looked_at {
            return if records.len() > MAX_PENDING {
                Err(SessionError::TooLong)
            } else {
                Ok(false)
            };
        }
        *looked_at = whole;
        let Some(hello) = read_hello(records, out)? else { return Ok(false) };
        let config = snapshot.server_config(hello.alpn.is_some());
        let connection =
            UnbufferedServerConnection::new(config).map_err(SessionError::Handshake)?;
        self.state = State::Open(Box::new(connection));
        self.server_name = hello.server_name;
        self.alpn = hello.alpn;
        Ok(true)
    }

    fn records(
        &mut self,
        buffer: &mut [u8],
        mut plain: usize,
        out: &mut Vec<u8>,
    ) -> Result<Received, SessionError> {
        let State::Open(connection) = &mut self.state else { return Err(SessionError::Over) };
        let mut consumed = plain;
        let mut closed = false;
        loop {
            let status = connection.process_tls_records(&mut buffer[consumed..]);
            consumed += status.discard;
            match status.state {
                Ok(ConnectionState::ReadTraffic(_)) => {
                    plain = take_plaintext(connection, &mut buffer[..consumed], plain)?;
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => closed = true,
                Ok(ConnectionState::Closed) => break closed = true,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => break,
                Ok(_) => return Err(SessionError::Over), // early data, which is not enabled
                Err(error) => return Err(fail(connection, error, out)),
            }
        }
        let pending = &buffer[consumed..];
        let established = !connection.is_handshaking();
        if pending.len() > MAX_PENDING || (established && !closed && has_record(pending)) {
            return Err(SessionError::TooLong);
        }
        Ok(Received { plain, consumed, closed })
    }
}

/// What the ClientHello says that must be known before a connection is made of it.
struct Hello {
    server_name: Option<Box<str>>,
    alpn: Option<Alpn>,
}

/// Reads a ClientHello, of which `None` says that it is not complete.
fn read_hello(records: &[u8], out: &mut Vec<u8>) -> Result<Option<Hello>, SessionError> {
    // The first record says at once whether this is TLS; before it is whole there is no hello.
    if records.first().is_some_and(|&kind| kind != HANDSHAKE) {
        return Err(SessionError::NotTls);
    }
    if record_len(records).is_some_and(|len| len > MAX_RECORD) {
        return Err(SessionError::TooLong);
    }
    if !has_record(records) {
        return Ok(None);
    }
    let mut acceptor = Acceptor::default();
    let mut unread = records;
    while !unread.is_empty() {
        acceptor.read_tls(&mut unread).map_err(|_| SessionError::TooLong)?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let server_name = hello.server_name().map(Box::from);
                let alpn = hello.alpn().and_then(|offers| offers.filter_map(Alpn::named).min());
                return Ok(Some(Hello { server_name, alpn }));
            }
            Err((error, mut alert)) => {
                alert.write_all(out).expect("a vector takes everything");
                return Err(SessionError::Handshake(error));
            }
        }
    }
    if records.len() > MAX_PENDING { Err(SessionError::TooLong) } else { Ok(None) }
}

/// The content type of records that carry the handshake.
const HANDSHAKE: u8 = 22;

/// Whether `records` begins with a whole record.
fn has_record(records: &[u8]) -> bool {
    record_len(records).is_some_and(|len| records.len() >= len)
}

/// How many bytes of `records` are whole records.
fn whole_records(records: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(len) = record_len(&records[whole..]).filter(|len| records.len() - whole >= *len)
    {
        whole += len;
    }
    whole
}

/// How long the first record is with its header, if that is there.
fn record_len(records: &[u8]) -> Option<usize> {
    let [_, _, _, high, low, ..] = records else { return None };
    Some(5 + usize::from(u16::from_be_bytes([*high, *low])))
}

/// Moves the plaintext that waits in the connection to `plain`; returns where it ends. The bytes
/// up to the end of `buffer` are consumed, and as many as the plaintext had among its records.
fn take_plaintext(
    connection: &mut UnbufferedServerConnection,
    buffer: &mut [u8],
    plain: usize,
) -> Result<usize, SessionError> {
    let mut end = plain;
    let state = connection.process_tls_records(&mut []).state.map_err(SessionError::Record)?;
    let ConnectionState::ReadTraffic(mut traffic) = state else { return Ok(end) };
    while let Some(record) = traffic.next_record() {
        let payload = record.map_err(SessionError::Record)?.payload;
        buffer[end..end + payload.len()].copy_from_slice(payload);
        end += payload.len();
    }
    Ok(end)
}

/// Writes the alert that goes with an error.
fn fail(
    connection: &mut UnbufferedServerConnection,
    error: rustls::Error,
    out: &mut Vec<u8>,
) -> SessionError {
    let handshaking = connection.is_handshaking();
    while connection.wants_write() {
        match connection.process_tls_records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
            // The alert waits behind what was received before the error.
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while traffic.next_record().is_some() {}
            }
            Ok(_) | Err(_) => break,
        }
    }
    if handshaking { SessionError::Handshake(error) } else { SessionError::Record(error) }
}

fn encode<T>(mut data: EncodeTlsData<'_, T>, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut room = 0;
    loop {
        out.resize(begin + room, 0);
        match data.encode(&mut out[begin..]) {
            Ok(written) => return out.truncate(begin + written),
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(begin),
        }
    }
}

/// Appends what `write` writes into a space of at least `room` bytes.
fn append(
    out: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), SessionError> {
    let begin = out.len();
    loop {
        out.resize(begin + room, 0);
        match write(&mut out[begin..]) {
            Ok(written) => {
                out.truncate(begin + written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => room = size.required_size,
            Err(EncryptError::EncryptExhausted) => {
                out.truncate(begin);
                return Err(SessionError::Over);
            }
        }
    }
}

impl Alpn {
    /// All that we know, the preferred first.
    pub const ALL: [Self; 2] = [Self::Turn, Self::NatDiscovery];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turn => "stun.turn",
            Self::NatDiscovery => "stun.nat-discovery",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name().as_bytes() == name)
    }
}

impl SessionError {
    /// A stable name for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::TooLong => "too_long",
            Self::Handshake(_) => "handshake",
            Self::Record(_) => "record",
            Self::Over => "over",
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => f.write_str("this is not TLS"),
            Self::TooLong => f.write_str("a message of the handshake is too long"),
            Self::Handshake(error) => write!(f, "the handshake failed: {error}"),
            Self::Record(error) => write!(f, "a record cannot be accepted: {error}"),
            Self::Over => f.write_str("the session is over"),
        }
    }
}

impl std::error::Error for SessionError {}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("handshaking", &self.is_handshaking())
            .field("server_name", &self.server_name)
            .field("alpn", &self.alpn)
            .finish()
    }
}

#[cfg(test)]
mod tests;
