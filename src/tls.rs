//! TLS for clients' TCP connections: sans-IO sessions over rustls, and the certificates they show.
//!
//! - [`session`]: one connection's records, decrypted in the shard's buffer, encrypted into its
//!   queue
//! - [`certificates`]: pairs of files read and checked, and which one a client is shown
//! - [`snapshot`]: all that new connections need, made of one reading of all files
//! - [`store`]: the snapshot in force, and the watch over the files
//!
//! A shard takes the [`store::Store`]'s snapshot for each connection it accepts. A connection
//! keeps what it began with, so a new certificate ends none.

#[cfg(test)]
mod authority;
pub mod certificates;
pub mod session;
pub mod snapshot;
pub mod store;

pub use certificates::Certificate;
pub use session::{Alpn, Received, Session, SessionError};
pub use snapshot::{Problem, Snapshot};
pub use store::{Found, Store, Watch};
