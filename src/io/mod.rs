//! The sockets of a shard: `udp` (listeners and relay sockets) and `tcp` (clients' streams).

pub mod tcp;
pub mod udp;
