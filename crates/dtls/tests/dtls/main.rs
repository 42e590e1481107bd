//! What a client notices of the DTLS server: OpenSSL's client in memory where datagrams must be
//! lost, changed or counted, and real programs over a socket.

mod common;
mod cookie;
mod handshake;
mod loss;
mod programs;
mod records;
