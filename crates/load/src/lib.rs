//! A load generator for TURN relays, foreign ones too: clients and peers in one process, and proof
//! that every payload arrived as it was sent.
//!
//! It shares a machine with what it measures, so a datagram must cost it little: threads pinned to
//! CPUs, few sockets, `sendmmsg` and UDP_SEGMENT, no async. While it measures it never sleeps, for
//! whoever sends to a sleeper pays for waking it.
//!
//! What can be run, each with its options and its report:
//!
//! - [`flood`]: payloads through allocations, at a rate or as fast as they go; [`search`]: the
//!   highest rate without loss
//! - [`allocate`]: allocations, permissions, channels, refreshes, and what they cost the server
//! - [`stun`]: Binding requests
//!
//! What they are made of:
//!
//! - [`payload`]: what a payload says of itself; [`tally`]: what came of all that was sent
//! - [`pace`]: when the next datagram is due; [`histogram`]: latencies
//! - [`turn`]: requests and their answers, without a socket; [`transact`]: many of them at once
//! - [`clients`]: the clients' sockets; [`streams`]: their connections, perhaps within TLS (`tls`);
//!   [`peers`]: those at the other end
//! - [`server`]: what the kernel says of the server's process

#![forbid(unsafe_code)]

pub mod allocate;
pub mod clients;
mod error;
pub mod flood;
pub mod histogram;
pub mod pace;
pub mod payload;
pub mod peers;
pub mod search;
pub mod server;
pub mod streams;
pub mod stun;
pub mod tally;
mod tls;
pub mod transact;
pub mod turn;
mod worker;

pub use error::LoadError;
