//! The sockets of a shard and what is spoken on them.
//!
//! - `udp`: listeners and relay sockets; `dtls`: the sessions of DTLS clients
//! - `tcp`: clients' connections, plain or within TLS, perhaps behind a PROXY header (`proxy`)
//! - `peer`: connections to and from peers
//! - `door`, `sources`: what the shards' listeners have in common

pub mod door;
pub mod dtls;
pub mod peer;
pub mod proxy;
pub mod sources;
pub mod tcp;
pub mod udp;
