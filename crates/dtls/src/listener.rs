//! The stateless part: who is worth a session.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::hello::{self, Hello, Ignored};
use crate::{Context, Session};

/// The length of the only answer that an unverified source can get, a HelloVerifyRequest.
pub const VERIFY_REQUEST_LEN: usize = 60;

/// What cookies are made with: 32 random bytes. They are wiped when it is dropped.
pub struct CookieSecret([u8; 32]);

impl CookieSecret {
    /// `bytes` come from a cryptographic random generator, and are used for nothing else.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Drop for CookieSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret")
    }
}

/// What is to be done about a datagram of an unverified source.
#[derive(Debug)]
pub enum Judged {
    /// Nothing.
    Ignore(Ignored),
    /// Send this many bytes of the buffer to the source, and forget it.
    Answer(usize),
    /// The source has shown that it receives what is sent to it. Keep the session for its five-tuple,
    /// and call [`Session::receive`] with an empty slice: the ClientHello in it waits for an answer.
    Accept(Session),
}

/// Judges datagrams of sources that have no session. One for each shard.
///
//= rfc7350#section-4.6
//# A TURN server using DTLS MUST implement the
//# denial-of-service countermeasure described in Section 4.2.1 of
//# [RFC6347].
pub struct Listener {
    context: Context,
    present: Cookies,
    previous: Option<Cookies>,
}

impl Listener {
    /// Sessions begin with `context`; cookies are made with `secret`.
    pub fn new(context: &Context, secret: CookieSecret) -> Self {
        Self { context: context.clone(), present: Cookies::new(&secret), previous: None }
    }

    /// Sessions from now on begin with `context`. Those that are there keep theirs; a cookie exchange
    /// under way is not disturbed.
    pub fn set_context(&mut self, context: &Context) {
        self.context = context.clone();
    }

    /// Makes cookies with `new` from now on. Those made with the present secret are accepted until
    /// the next call, those made with the one before it no longer.
    pub fn rotate(&mut self, new: CookieSecret) {
        let present = std::mem::replace(&mut self.present, Cookies::new(&new));
        self.previous = Some(present);
    }

    /// Judges a `datagram` that came from `peer`, and writes the answer, if any, into `out`.
    ///
    /// `peer` is the five-tuple in whatever form: addresses and ports of both sides. A cookie is
    /// valid for the same bytes alone. Nothing is kept of a source that has not returned one.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than [`VERIFY_REQUEST_LEN`].
    pub fn judge(&mut self, peer: &[u8], datagram: &[u8], out: &mut [u8]) -> Judged {
        let hello = match hello::parse(datagram) {
            Ok(hello) => hello,
            Err(ignored) => return Judged::Ignore(ignored),
        };
        if !self.verifies(peer, &hello) {
            let cookie = self.present.bake(peer, &hello);
            let answer = hello::verify_request(hello.sequence, &cookie);
            out[..VERIFY_REQUEST_LEN].copy_from_slice(&answer);
            return Judged::Answer(VERIFY_REQUEST_LEN);
        }
        match Session::begin(&self.context, hello.sequence, datagram) {
            Some(session) => Judged::Accept(session),
            None => Judged::Ignore(Ignored::Refused),
        }
    }

    /// Whether the ClientHello has our cookie, and is the second, which alone may have one: a
    /// session goes on from there.
    fn verifies(&self, peer: &[u8], hello: &Hello<'_>) -> bool {
        let is = |cookies: &Cookies| bool::from(cookies.bake(peer, hello)[..].ct_eq(hello.cookie));
        hello.message_sequence == 1
            && !hello.cookie.is_empty()
            && (is(&self.present) || self.previous.as_ref().is_some_and(is))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// A secret, ready to make cookies.
struct Cookies(Hmac<Sha256>);

impl Cookies {
    fn new(secret: &CookieSecret) -> Self {
        Self(Hmac::new_from_slice(&secret.0).expect("HMAC takes keys of any length"))
    }

    /// The cookie of this client with these parameters.
    fn bake(&self, peer: &[u8], hello: &Hello<'_>) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(&(peer.len() as u64).to_be_bytes());
        mac.update(peer);
        mac.update(hello.parameters);
        mac.finalize().into_bytes().into()
    }
}
