//! A verified client: its handshake, then records to plaintext and back.

use std::fmt;
use std::time::Duration;

use openssl::ssl::{Error, ErrorCode, NameType, Ssl, SslStream};

use crate::Context;
use crate::ffi::{Stream, Wire};
use crate::record::{self, ANY_VERSION, VERSION};

/// The most bytes of plaintext in one record, and so in one datagram.
pub const PLAINTEXT_MAX: usize = 16_384;

/// By how many bytes at most a record is longer than its plaintext: header, explicit nonce and tag.
pub const RECORD_OVERHEAD: usize = 13 + 8 + 16;

/// What an encrypted record has at least, with AES-GCM: explicit nonce and tag.
const SEALED_MIN: usize = 8 + 16;

/// The same with ChaCha20-Poly1305: a tag.
const SEALED_MIN_CHACHA20: usize = 16;

/// How many encrypted records a session may receive before its keys are there. OpenSSL keeps what
/// comes too early, some 17 KB for each record however short. A handshake needs one, for the
/// client's Finished, and another each time it is repeated.
const EARLY_RECORDS_MAX: usize = 8;

/// What came of a call of [`Session::receive`] or [`Session::retransmit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Received {
    /// Nothing more for now.
    Idle,
    /// The handshake is complete: [`Session::send`] works. More may be in the datagram.
    Established,
    /// So many bytes of plaintext, one record. More may be in the datagram.
    Data(usize),
    /// The client has closed the association; our own good-bye was given to `out`.
    Closed,
    /// The handshake failed or the client sent a fatal alert. Drop the session.
    Failed(Failure),
}

/// Why a session failed, in the words of OpenSSL: "no shared cipher", for example. For logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a datagram could not be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The handshake is not complete, or the association is closed.
    NotEstablished,
    /// The plaintext is longer than [`PLAINTEXT_MAX`], or the buffer has no room for the record:
    /// [`RECORD_OVERHEAD`] bytes more than the plaintext.
    TooLong,
    /// OpenSSL has failed. Drop the session.
    Failed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEstablished => "the DTLS association is not established",
            Self::TooLong => "the datagram is too long for a DTLS record or its buffer",
            Self::Failed => "OpenSSL failed to encrypt a datagram",
        })
    }
}

impl std::error::Error for SendError {}

/// A DTLS association with a client that has proven its address.
///
/// It can move to another thread. Dropping it sends nothing; [`Session::close`] says good-bye.
pub struct Session {
    stream: Stream,
    phase: Phase,
    early_records: usize,
    sealed_min: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The ClientHello is not complete, or not answered.
    Hello,
    Handshaking,
    Established,
    /// By either side, or failed.
    Over,
}

impl Session {
    /// Begins with a `datagram` whose ClientHello has a verified cookie, in a record with this
    /// `sequence` number. `None`: OpenSSL wants none of it.
    pub(crate) fn begin(context: &Context, sequence: u64, datagram: &[u8]) -> Option<Self> {
        let mut ssl = Ssl::new(&context.ssl).ok()?;
        ssl.set_accept_state();
        ssl.set_mtu(context.mtu).ok()?;
        // OpenSSL continues with number 1.
        let mut stream = Stream::new(ssl, sequence.wrapping_sub(1)).ok()?;
        stream.listen(datagram).then_some(Self {
            stream,
            phase: Phase::Hello,
            early_records: 0,
            sealed_min: SEALED_MIN,
        })
    }

    /// Takes one datagram of the client, writes plaintext to `plain` and gives each datagram that
    /// must be sent to `out`.
    ///
    /// A datagram can have several records: after `Established` or `Data`, call again with an empty
    /// `datagram` until it is `Idle`. Records that are forged, repeated, damaged or of another
    /// association are dropped silently, as datagrams are.
    ///
    /// `plain` has room for [`PLAINTEXT_MAX`] bytes; what does not fit of a record comes as if it
    /// were the next.
    pub fn receive(
        &mut self,
        datagram: &[u8],
        plain: &mut [u8],
        mut out: impl FnMut(&[u8]),
    ) -> Received {
        if self.phase == Phase::Over {
            return Received::Closed;
        }
        if !self.admits(datagram) {
            return Received::Idle;
        }
        let established = self.phase == Phase::Established;
        if established && datagram.is_empty() && !self.stream.has_pending() {
            return Received::Idle;
        }
        let mut answered = false;
        let mut send = |datagram: &[u8]| {
            answered = true;
            out(datagram);
        };
        let step = self.stream.lend(datagram, &mut send, |stream| {
            if established {
                stream.ssl_read(plain).map(Received::Data)
            } else {
                stream.do_handshake().map(|()| Received::Established)
            }
        });
        if self.phase == Phase::Hello && answered {
            self.phase = Phase::Handshaking;
        }
        match step {
            Ok(Received::Established) => {
                self.establish();
                Received::Established
            }
            Ok(received) => received,
            Err(error) => self.stopped(&error, out),
        }
    }

    /// Encrypts `plain` into one datagram in `out`, and returns its length. `plain` is not empty.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; nothing is written then.
    pub fn send(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, SendError> {
        if self.phase != Phase::Established {
            return Err(SendError::NotEstablished);
        }
        if plain.len() > PLAINTEXT_MAX || out.len() < plain.len() + RECORD_OVERHEAD {
            return Err(SendError::TooLong);
        }
        let mut written = 0;
        let mut keep = |datagram: &[u8]| {
            out[..datagram.len()].copy_from_slice(datagram);
            written = datagram.len();
        };
        let step = |stream: &mut SslStream<Wire>| stream.ssl_write(plain);
        match self.stream.lend(&[], &mut keep, step) {
            Ok(_) => Ok(written),
            Err(_) => {
                self.phase = Phase::Over;
                Err(SendError::Failed)
            }
        }
    }

    /// How long until [`Session::retransmit`] wants to be called; `None` when nothing is waited for.
    ///
    /// OpenSSL measures it by the system's clock and lets nobody else tell it the time. It begins
    /// with one second and doubles with each retransmission. It does not bound the handshake: how
    /// long that may take is for the caller to say.
    pub fn time_left(&self) -> Option<Duration> {
        match self.phase {
            Phase::Over => None,
            Phase::Hello | Phase::Handshaking | Phase::Established => self.stream.time_left(),
        }
    }

    /// Sends the last flight of the handshake again when [`Session::time_left`] has run out, and
    /// does nothing before. `Failed` after too many times, otherwise `Idle`.
    pub fn retransmit(&mut self, mut out: impl FnMut(&[u8])) -> Received {
        if self.phase != Phase::Over && !self.stream.handle_timeout(&mut out) {
            self.phase = Phase::Over;
            return Received::Failed(Failure("the client has stopped answering".to_owned()));
        }
        Received::Idle
    }

    /// Whether the handshake is complete and neither side has closed.
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// The server name that the client asked for, whether or not a certificate covers it.
    pub fn server_name(&self) -> Option<&str> {
        self.stream.ssl().servername(NameType::HOST_NAME)
    }

    /// The ALPN protocol that was agreed upon; `None` when the client offered none of ours.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.stream.ssl().selected_alpn_protocol()
    }

    /// The cipher suite, by OpenSSL's name; `None` before the handshake has chosen one.
    pub fn cipher(&self) -> Option<&'static str> {
        self.stream.ssl().current_cipher().map(|cipher| cipher.name())
    }

    /// Ends an established association: tells the client, once, and expects no answer.
    pub fn close(&mut self, mut out: impl FnMut(&[u8])) {
        if self.phase == Phase::Established {
            // What the client makes of it, if it gets it, changes nothing here.
            let _ = self.stream.lend(&[], &mut out, |stream| stream.shutdown());
        }
        self.phase = Phase::Over;
    }

    /// Whether OpenSSL may see a datagram: see [`record::sealed`]. What it would have to keep is
    /// counted while the keys are not there.
    fn admits(&mut self, datagram: &[u8]) -> bool {
        let versions: &[_] = match self.phase {
            Phase::Hello => &[ANY_VERSION, VERSION],
            Phase::Handshaking | Phase::Established | Phase::Over => &[VERSION],
        };
        let Some(sealed) = record::sealed(datagram, versions, self.sealed_min) else {
            return false;
        };
        match self.phase {
            Phase::Hello => sealed == 0,
            Phase::Handshaking => {
                self.early_records = self.early_records.saturating_add(sealed);
                sealed == 0 || self.early_records <= EARLY_RECORDS_MAX
            }
            Phase::Established | Phase::Over => true,
        }
    }

    fn establish(&mut self) {
        self.phase = Phase::Established;
        if self.cipher().is_some_and(|name| name.contains("CHACHA20")) {
            self.sealed_min = SEALED_MIN_CHACHA20;
        }
    }

    fn stopped(&mut self, error: &Error, out: impl FnMut(&[u8])) -> Received {
        let code = error.code();
        if code == ErrorCode::WANT_READ || code == ErrorCode::WANT_WRITE {
            return Received::Idle;
        }
        if code == ErrorCode::ZERO_RETURN {
            self.close(out);
            return Received::Closed;
        }
        self.phase = Phase::Over;
        let errors = error.ssl_error().map(|stack| stack.errors());
        let reason = errors.unwrap_or(&[]).iter().find_map(|error| error.reason());
        Received::Failed(Failure(reason.unwrap_or("no reason given").to_owned()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("state", &self.stream.ssl().state_string_long())
            .finish_non_exhaustive()
    }
}
