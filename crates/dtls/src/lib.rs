//! A DTLS 1.2 server without sockets: datagrams in, datagrams out, and nothing kept for strangers.
//!
//! The engine is OpenSSL, built from its own source; which engine it is, is a decision of this
//! crate alone. No socket, thread or lock is in here. Two things OpenSSL takes from the system
//! itself: randomness, and the clock of its handshake retransmissions (see [`Session::time_left`]).
//!
//! In the order in which a daemon meets them:
//!
//! - [`Identity`]: a certificate chain and its key, read from PEM and checked against each other.
//! - [`Settings`] become a [`Context`], which all shards share. A reload makes a new one for new
//!   sessions; established sessions keep the one they began with.
//! - [`Listener`], one per shard, judges datagrams of sources without a session. It answers a
//!   ClientHello with a HelloVerifyRequest and keeps nothing: OpenSSL, and memory, come into play
//!   only for a source that has returned the cookie and so receives what is sent to it.
//! - [`Session`], one per verified client: the handshake, then records to plaintext and back.
//!
//! Beneath them `hello` reads a ClientHello and writes the HelloVerifyRequest, both in safe code
//! without OpenSSL; `record` looks at records before OpenSSL does; and `ffi` has what the `openssl`
//! crate lacks, and all `unsafe` of this crate.
//!
//! ```text
//! datagram of an unknown five-tuple -> Listener::judge -> Ignore | Answer | Accept(Session)
//! datagram of a known five-tuple    -> Session::receive until Idle
//! a datagram for the client         -> Session::send
//! Session::time_left has run out    -> Session::retransmit
//! ```

#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod context;
mod ffi;
mod hello;
mod identity;
mod listener;
mod record;
mod session;

pub use context::{Clients, Context, MTU_MIN, Settings, SettingsError};
pub use hello::{Ignored, opens_association};
pub use identity::{Identity, IdentityError};
pub use listener::{CookieSecret, Judged, Listener, VERIFY_REQUEST_LEN};
pub use session::{Failure, PLAINTEXT_MAX, RECORD_OVERHEAD, Received, SendError, Session};
