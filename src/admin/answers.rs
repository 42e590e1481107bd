//! Every answer of the admin API. The server writes them, the command line reads them, and the
//! OpenAPI description is made from them.
//!
//! Bytes are payload bytes. "To peers" is what clients send, "to clients" what peers send. A name
//! is text where it is UTF-8; where it is not, its bytes are percent-encoded and the field beside
//! it says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The server as a whole.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Of Turnway.
    pub version: String,
    /// Seconds since the process began.
    pub uptime_seconds: u64,
    /// The realm.
    pub realm: String,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Threads that relay.
    pub shards: usize,
    /// Whether new allocations are refused because the server is about to stop.
    pub draining: bool,
    /// Allocations now.
    pub allocations: Allocations,
    /// Users with allocations now.
    pub users: usize,
    /// Relayed since the process began.
    pub relayed: Traffic,
    /// Over the last seconds.
    pub rate: Rate,
    /// Datagrams dropped since the process began.
    pub dropped: Drops,
    /// What of them a bandwidth or volume limit dropped.
    pub dropped_by_limit: BTreeMap<String, DroppedDatagrams>,
    /// Allocate requests refused with 486 since the process began, by quota.
    pub refused: BTreeMap<String, u64>,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    /// `udp` or `tcp`.
    pub transport: String,
    /// Address and port.
    pub address: String,
}

/// Allocations now.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Allocations {
    /// Of clients that connect over UDP.
    pub udp: u64,
    /// Of clients that connect over TCP.
    pub tcp: u64,
    /// Of clients that connect over TLS.
    pub tls: u64,
    /// Of clients that connect over DTLS.
    pub dtls: u64,
    /// The most there can be.
    pub limit: u64,
}

/// Datagrams dropped, by reason. The reasons are those of the metrics.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Drops {
    /// Of datagrams from clients.
    pub from_clients: BTreeMap<String, u64>,
    /// Of datagrams from peers.
    pub from_peers: BTreeMap<String, u64>,
}

/// Datagrams dropped at one limit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct DroppedDatagrams {
    /// From clients.
    pub to_peer_datagrams: u64,
    /// From peers.
    pub to_client_datagrams: u64,
}

/// What was relayed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Datagrams from clients to peers.
    pub to_peer_datagrams: u64,
    /// Their payload bytes.
    pub to_peer_bytes: u64,
    /// Datagrams from peers to clients.
    pub to_client_datagrams: u64,
    /// Their payload bytes.
    pub to_client_bytes: u64,
}

/// Payload bytes of both directions.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Bytes {
    /// From clients to peers.
    pub to_peer_bytes: u64,
    /// From peers to clients.
    pub to_client_bytes: u64,
}

/// Payload bytes per second over the last seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// From clients to peers.
    pub to_peer_bytes_per_second: u64,
    /// From peers to clients.
    pub to_client_bytes_per_second: u64,
}

/// Some users with allocations.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Users {
    /// Those found.
    pub users: Vec<User>,
    /// Where to go on: the `cursor` of the next request. Null where that was all.
    pub next_cursor: Option<String>,
}

/// A user with allocations. Behind rotating time-limited usernames it is the part that is not the
/// timestamp. What was relayed and dropped is counted since the first of the user's present
/// allocations, if there is any limit of bandwidth or volume or a database; else it stays 0.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// The name.
    pub name: String,
    /// How it is written here.
    pub name_encoding: Encoding,
    /// Allocations now.
    pub allocations: u32,
    /// What the user may use.
    pub limits: Limits,
    /// All allocations together.
    pub rate: Rate,
    /// All allocations together.
    pub relayed: Bytes,
    /// What each limit dropped.
    pub dropped_by_limit: BTreeMap<String, Dropped>,
    /// The volume used. Null where none is counted.
    pub volume: Option<Volume>,
    /// The period whose volume is used up, if one is; the user relays nothing until it ends.
    pub spent: Option<Period>,
}

/// How a name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As it is.
    Utf8,
    /// It is not UTF-8; its bytes are percent-encoded.
    Percent,
}

/// What a user may use. Null is no limit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Allocations at a time.
    pub allocations: Option<u32>,
    /// All allocations together, each direction.
    pub bandwidth: Option<Bandwidth>,
    /// Each allocation, each direction.
    pub bandwidth_per_allocation: Option<Bandwidth>,
    /// Payload bytes of both directions in a day.
    pub volume_per_day_bytes: Option<u64>,
    /// Payload bytes of both directions in a calendar month.
    pub volume_per_month_bytes: Option<u64>,
}

/// A limit of bandwidth.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Bandwidth {
    /// Payload bytes.
    pub bytes_per_second: u64,
    /// Payload bytes that may pass at once after a pause.
    pub burst_bytes: u64,
}

/// What a limit dropped.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// Datagrams of both directions.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

/// The volume used in the present periods.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Today.
    pub day: Bytes,
    /// This calendar month.
    pub month: Bytes,
}

/// A period that volume is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Today.
    Day,
    /// This calendar month.
    Month,
}

/// Some allocations.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// Those found. There may be fewer than asked for although there is a next page.
    pub sessions: Vec<Session>,
    /// Where to go on: the `cursor` of the next request. Null where that was all.
    pub next_cursor: Option<String>,
}

/// An allocation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// A number, as text: it can be larger than what JSON keeps exactly. The log has the same.
    pub id: String,
    /// The user that the quotas count it for.
    pub user: String,
    /// How `user` is written here.
    pub user_encoding: Encoding,
    /// The user name that the client sent: with the timestamp of a time-limited one.
    pub username: String,
    /// How `username` is written here.
    pub username_encoding: Encoding,
    /// Between client and server: `udp` or `tcp`.
    pub transport: String,
    /// The client's address and port.
    pub client: String,
    /// The server's address and port that the client sends to.
    pub server: String,
    /// The relayed transport addresses, as the client was told: one, or one of each family.
    pub relayed_addresses: Vec<String>,
    /// Since it began.
    pub age_seconds: u64,
    /// Until it ends unless it is refreshed.
    pub expires_in_seconds: u64,
    /// Permissions installed.
    pub permissions: u32,
    /// Channels bound.
    pub channels: u32,
    /// How its peers are reached: `udp`, or `tcp` (RFC 6062).
    pub relayed_transport: String,
    /// Connections to and from peers.
    pub connections: u32,
    /// What it has relayed.
    pub relayed: Traffic,
    /// Datagrams dropped at any bandwidth or volume limit.
    pub dropped_by_limits: u64,
}

/// Allocations were ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// How many.
    pub ended: u64,
}
