//! The rules of a STUN (RFC 8489) and TURN (RFC 8656) server, without a clock, a socket, a
//! thread or a lock.
//!
//! Read in this order:
//!
//! * [`address`]: what is what: five-tuple, peer, relayed transport address, time.
//! * [`effect`]: the seam. [`Event`]s come in, [`Effect`]s go out, a datagram gets a [`Route`].
//! * [`server`]: one shard's state and its doors; `lifetime` says how things end.
//! * `route`: the data path.
//! * `request` and then one file per method: `binding`, `allocate`, `refresh`, `permission`,
//!   `channel`; `icmp` for what comes back from the network.
//! * `connect`: TCP allocations, whose peers are reached over connections.
//! * [`mobility`]: clients that go on from another five-tuple, and maybe on another shard.
//! * [`realms`]: for whom; [`auth`]: who may; [`alternate`]: who is sent elsewhere; [`policy`]:
//!   whereto; [`ports`]: from which port; [`limits`]: how much.
//! * [`quota`]: what a user may use; [`ledger`]: what all shards use of it; `meter`: one shard's
//!   part of it, datagram by datagram; [`session`]: what can be seen of an allocation.
//! * [`offload`]: what a second data path, which relays by itself, says and asks; [`mirror`]: keeps
//!   it up to date and in funds.
//! * [`outcome`], [`stats`]: the vocabulary of logs, metrics and tests.

#![forbid(unsafe_code)]

pub mod address;
mod allocate;
pub mod alternate;
pub mod auth;
mod binding;
mod bucket;
mod channel;
mod connect;
mod connections;
pub mod discovery;
pub mod effect;
mod few;
mod icmp;
mod index;
pub mod ledger;
mod lifetime;
pub mod limits;
mod meter;
pub mod mirror;
pub mod mobility;
pub mod offload;
pub mod outcome;
mod permission;
pub mod pieces;
pub mod policy;
pub mod ports;
pub mod quota;
pub mod realms;
mod refresh;
mod request;
mod route;
pub mod server;
pub mod session;
pub mod shared;
mod slab;
pub mod stats;
mod table;
mod timers;

pub use address::{
    AllocationId, Client, ConnectionId, FiveTuple, IpFields, Link, Now, PeerAddr, Protocol,
    RealmId, RelayAddr, RelayId, Transport,
};
pub use effect::{
    BindFailure, Bound, ConnectFailure, Effect, Event, IcmpError, Record, Route, Stream, Traffic,
    Want,
};
pub use ledger::{Direction, Ledger};
pub use meter::Lent;
pub use mirror::{Mirror, SecondPath};
pub use mobility::{Departure, Tickets};
pub use outcome::{ConnectionEnd, EndReason, Outcome, Period, Quota, Reason, Request};
pub use quota::Quotas;
pub use realms::{Realm, Realms};
pub use server::{Config, Seed, Server};
pub use session::{Session, SessionFilter};
pub use shared::Shared;
pub use stats::Stats;
