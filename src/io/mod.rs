//! The sockets of a shard: `udp` (listeners and relay sockets), `tcp` (clients' streams), and `proxy`
//! (the PROXY protocol before them).

pub mod proxy;
pub mod tcp;
pub mod udp;
