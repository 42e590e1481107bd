//! The rules as protocol traces: what a client sends, and what it then sees. One file per
//! subject; each quoted requirement of the RFCs has the test that proves it.

#[path = "../common/mod.rs"]
mod common;

mod allocate;
mod alternate;
mod auth_flow;
mod binding;
mod channel;
mod counts;
mod data;
mod discovery;
mod dual;
mod even_port;
mod header;
mod icmp;
mod limits;
mod mobility;
mod nat;
mod oauth;
mod offload;
mod permission;
mod quota;
mod realms;
mod refresh;
mod reload;
mod shards;
mod tcp;
