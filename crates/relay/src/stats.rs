//! What a server counts. Plain integers, summed over shards by whoever shows them.

use crate::address::Transport;
use crate::effect::Traffic;
use crate::ledger::Direction;
use crate::outcome::{AuthFailure, ConnectionEnd, EndReason, Outcome, Quota, Reason, Request};

/// Counters (they only grow) and gauges (marked as such) of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Relayed datagrams and payload bytes, by [`Transport::index`] of the client.
    pub traffic: [Traffic; Transport::COUNT],
    /// Datagrams from clients that were dropped, by [`Reason::index`].
    pub client_drops: [u64; Reason::COUNT],
    /// Datagrams, ICMP errors and connections from peers that were dropped, by [`Reason::index`].
    pub peer_drops: [u64; Reason::COUNT],
    /// Answered requests, by [`Request::index`] and [`Outcome::index`].
    pub requests: [[u64; Outcome::COUNT]; Request::COUNT],
    /// Refused credentials, by [`auth_failure_index`].
    pub auth_failures: [u64; AUTH_FAILURES.len()],
    /// Allocates refused with 486, by [`Quota::index`].
    pub quota_refusals: [u64; Quota::COUNT],
    /// How often a user's volume was used up.
    pub volumes_spent: u64,
    /// ICMP errors passed on to clients.
    pub icmp_relayed: u64,
    /// Allocations made.
    pub allocations_started: u64,
    /// Allocations ended, by [`EndReason::index`].
    pub allocations_ended: [u64; EndReason::COUNT],
    /// Gauge: allocations now, by [`Transport::index`] of the client.
    pub allocations: [u64; Transport::COUNT],
    /// Gauge: connections to and from peers now, those that are being made among them (RFC 6062).
    pub connections: u64,
    /// Connections to peers that were made.
    pub connections_made: u64,
    /// Connections of peers that were accepted.
    pub connections_accepted: u64,
    /// Connections to and from peers that ended or could not be made, by
    /// [`ConnectionEnd::index`].
    pub connections_ended: [u64; ConnectionEnd::COUNT],
    /// What went over connections to and from peers: a part of the traffic of TCP clients.
    pub streams: Traffic,
    /// Refreshes with a ticket that were accepted (RFC 8016).
    pub resumes: u64,
    /// Gauge: five-tuples from which a client is about to go on.
    pub resuming: u64,
    /// Allocations that moved to another five-tuple.
    pub moves: u64,
    /// Those of them that came from another shard.
    pub moves_between_shards: u64,
    /// Gauge: permissions now.
    pub permissions: u64,
    /// Gauge: channels now.
    pub channels: u64,
}

/// The labels of [`Stats::auth_failures`], in index order.
pub const AUTH_FAILURES: [&str; 6] =
    ["unknown_user", "wrong_key", "expired", "not_time_limited", "bad_token", "not_yet_valid"];

/// Index into [`Stats::auth_failures`].
pub fn auth_failure_index(failure: AuthFailure) -> usize {
    match failure {
        AuthFailure::UnknownUser => 0,
        AuthFailure::WrongKey => 1,
        AuthFailure::Expired { .. } => 2,
        AuthFailure::NotTimeLimited => 3,
        AuthFailure::BadToken => 4,
        AuthFailure::NotYetValid { .. } => 5,
    }
}

impl Stats {
    /// The traffic of one kind of client.
    pub fn traffic_mut(&mut self, transport: Transport) -> &mut Traffic {
        &mut self.traffic[transport.index()]
    }

    /// The traffic of one kind of client.
    pub fn traffic_of(&self, transport: Transport) -> Traffic {
        self.traffic[transport.index()]
    }

    /// The traffic of all clients.
    pub fn total_traffic(&self) -> Traffic {
        self.traffic.iter().fold(Traffic::default(), |mut total, traffic| {
            total.add(*traffic);
            total
        })
    }

    /// The gauge of allocations of one kind of client.
    pub fn allocations_mut(&mut self, transport: Transport) -> &mut u64 {
        &mut self.allocations[transport.index()]
    }

    /// Allocations now, of one kind of client.
    pub fn allocations_of(&self, transport: Transport) -> u64 {
        self.allocations[transport.index()]
    }

    /// Allocations now, of all clients.
    pub fn total_allocations(&self) -> u64 {
        self.allocations.iter().sum()
    }

    /// Counts an answered request.
    pub(crate) fn answered(&mut self, request: Request, outcome: Outcome) {
        self.requests[request.index()][outcome.index()] += 1;
    }

    /// How often `request` ended in `outcome`.
    pub fn count(&self, request: Request, outcome: Outcome) -> u64 {
        self.requests[request.index()][outcome.index()]
    }

    /// Adds another server's figures to these.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.traffic.iter_mut().zip(other.traffic) {
            mine.add(theirs);
        }
        add_all(&mut self.client_drops, &other.client_drops);
        add_all(&mut self.peer_drops, &other.peer_drops);
        for (mine, theirs) in self.requests.iter_mut().zip(&other.requests) {
            add_all(mine, theirs);
        }
        add_all(&mut self.auth_failures, &other.auth_failures);
        add_all(&mut self.allocations_ended, &other.allocations_ended);
        add_all(&mut self.quota_refusals, &other.quota_refusals);
        self.volumes_spent += other.volumes_spent;
        self.icmp_relayed += other.icmp_relayed;
        self.allocations_started += other.allocations_started;
        add_all(&mut self.allocations, &other.allocations);
        self.connections += other.connections;
        self.connections_made += other.connections_made;
        self.connections_accepted += other.connections_accepted;
        add_all(&mut self.connections_ended, &other.connections_ended);
        self.streams.add(other.streams);
        self.resumes += other.resumes;
        self.resuming += other.resuming;
        self.moves += other.moves;
        self.moves_between_shards += other.moves_between_shards;
        self.permissions += other.permissions;
        self.channels += other.channels;
    }
}

impl Traffic {
    /// Of one direction.
    pub fn of(direction: Direction, datagrams: u64, bytes: u64) -> Self {
        let none = Self::default();
        match direction {
            Direction::ToPeer => Self { to_peer: datagrams, to_peer_bytes: bytes, ..none },
            Direction::ToClient => Self { to_client: datagrams, to_client_bytes: bytes, ..none },
        }
    }

    /// Adds another flow's figures to these.
    pub fn add(&mut self, other: Self) {
        self.to_peer += other.to_peer;
        self.to_peer_bytes += other.to_peer_bytes;
        self.to_client += other.to_client;
        self.to_client_bytes += other.to_client_bytes;
    }

    /// Counts one datagram from client to peer.
    pub(crate) fn count_to_peer(&mut self, payload: usize) {
        self.to_peer += 1;
        self.to_peer_bytes += payload as u64;
    }

    /// Counts one datagram from peer to client.
    pub(crate) fn count_to_client(&mut self, payload: usize) {
        self.to_client += 1;
        self.to_client_bytes += payload as u64;
    }
}

fn add_all(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}
