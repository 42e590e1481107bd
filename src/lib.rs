//! The Turnway daemon and its command line.
//!
//! How it is asked:
//!
//! - [`cli`]: arguments, and what each subcommand does
//! - [`config`]: the configuration file
//! - [`credentials`]: time-limited credentials and `iceServers`
//! - [`init`]: a new configuration file with fresh secrets
//! - [`database`]: users with their keys and limits, and what was used
//! - [`user`]: `turnway user`, which changes it
//! - [`operate`]: `turnway status`, `sessions` and `kill`, which ask the admin API
//! - [`load`]: `turnway load`, which puts a server to work
//!
//! How it runs; the rules themselves are the crate `turnway-relay`:
//!
//! - [`run`]: start-up, signals and shutdown, in order
//! - [`shard`]: one thread's life; [`io`]: its sockets
//! - [`ports`]: relay ports with their sockets, which all shards draw from
//! - [`tls`]: TLS sessions and certificates
//! - [`mobility`]: clients that go on from another shard's address
//! - [`mailbox`]: all that may be asked of a shard, and all that it shows
//! - [`log`], [`metrics`], [`admin`]: what the operator sees; [`http`]: how it is served

#![forbid(unsafe_code)]

pub mod accounts;
pub mod admin;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod database;
pub mod http;
pub mod init;
pub mod io;
pub mod ledger;
pub mod load;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod mobility;
pub mod offload;
pub mod operate;
pub mod ports;
pub mod run;
pub mod shard;
mod table;
pub mod tls;
pub mod user;
