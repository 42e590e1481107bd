//! [`Connections`]: the connections to peers of one server's TCP allocations (RFC 6062), found by
//! CONNECTION-ID, by allocation and peer, and by deadline.
//!
//! How they come about and end is in `connect`; here is only the table.

use std::collections::{BTreeMap, BTreeSet};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::address::{AllocationId, ConnectionId, PeerAddr};
use crate::request::Answer;

/// The connections of one server.
pub(crate) struct Connections {
    by_id: BTreeMap<ConnectionId, Connection>,
    by_peer: BTreeMap<(AllocationId, PeerAddr), ConnectionId>,
    /// Of those that wait for something.
    deadlines: BTreeSet<(u64, ConnectionId)>,
    shard: u16,
    /// Keyed: nobody foresees which number is next.
    mac: Hmac<Sha256>,
    count: u64,
}

/// A connection to a peer, or the attempt to make one.
pub(crate) struct Connection {
    pub(crate) allocation: AllocationId,
    pub(crate) peer: PeerAddr,
    pub(crate) state: State,
}

/// How far a connection has come.
pub(crate) enum State {
    /// It is being made for a Connect request, which is answered then.
    Connecting { answer: Box<Answer>, until_ns: u64 },
    /// It is there, and waits for its ConnectionBind.
    Waiting { until_ns: u64 },
    /// The client's data connection belongs to it.
    Bound,
}

impl State {
    fn until_ns(&self) -> Option<u64> {
        match self {
            Self::Connecting { until_ns, .. } | Self::Waiting { until_ns } => Some(*until_ns),
            Self::Bound => None,
        }
    }
}

impl Connections {
    /// None so far. `random` is secret, `shard` unique among the servers of a process.
    pub(crate) fn new(shard: u16, random: u64) -> Self {
        let mac = Hmac::new_from_slice(&random.to_be_bytes()).expect("any length is a key");
        Self {
            by_id: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            shard,
            mac,
            count: 0,
        }
    }

    /// Takes in a connection and names it. There must be none between the two yet.
    pub(crate) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = self.new_id();
        self.deadlines.extend(connection.state.until_ns().map(|until_ns| (until_ns, id)));
        let before = self.by_peer.insert((connection.allocation, connection.peer), id);
        debug_assert!(before.is_none(), "one connection to a peer at a time");
        self.by_id.insert(id, connection);
        id
    }

    /// A connection by its name.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.by_id.get(&id)
    }

    /// An allocation's connection to a peer.
    pub(crate) fn find(&self, allocation: AllocationId, peer: PeerAddr) -> Option<ConnectionId> {
        self.by_peer.get(&(allocation, peer)).copied()
    }

    /// Brings a connection into another state, and gives the one it was in.
    pub(crate) fn set_state(&mut self, id: ConnectionId, state: State) -> Option<State> {
        let connection = self.by_id.get_mut(&id)?;
        let until_ns = state.until_ns();
        let before = core::mem::replace(&mut connection.state, state);
        if let Some(until_ns) = before.until_ns() {
            self.deadlines.remove(&(until_ns, id));
        }
        self.deadlines.extend(until_ns.map(|until_ns| (until_ns, id)));
        Some(before)
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        self.by_peer.remove(&(connection.allocation, connection.peer));
        if let Some(until_ns) = connection.state.until_ns() {
            self.deadlines.remove(&(until_ns, id));
        }
        Some(connection)
    }

    /// The connections of an allocation.
    pub(crate) fn of(
        &self,
        allocation: AllocationId,
    ) -> impl Iterator<Item = (PeerAddr, ConnectionId)> + '_ {
        let all = (allocation, PeerAddr::LOWEST)..;
        let own = self.by_peer.range(all).take_while(move |((owner, _), _)| *owner == allocation);
        own.map(|((_, peer), id)| (*peer, *id))
    }

    /// Which connection has waited for the longest, and until when it may.
    pub(crate) fn next_deadline(&self) -> Option<(u64, ConnectionId)> {
        self.deadlines.first().copied()
    }

    /// A number that no connection has.
    fn new_id(&mut self) -> ConnectionId {
        loop {
            self.count += 1;
            let mut mac = self.mac.clone();
            mac.update(&self.count.to_be_bytes());
            let tag = mac.finalize().into_bytes();
            let random = u32::from_be_bytes([tag[0], tag[1], tag[2], tag[3]]);
            if let Some(id) = ConnectionId::new(self.shard, random)
                && !self.by_id.contains_key(&id)
            {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(port: u16, until_ns: u64) -> Connection {
        Connection {
            allocation: AllocationId { slot: 1, generation: 1 },
            peer: PeerAddr::new(([192, 0, 2, 1], port).into()),
            state: State::Waiting { until_ns },
        }
    }

    #[test]
    fn a_number_names_its_shard_is_never_zero_and_is_not_foreseen() {
        //= rfc6062#section-5.2
        //= type=test
        //# The attribute's value MUST uniquely identify the peer data connection.
        let mut connections = Connections::new(1023, 7);
        let mut ids = BTreeSet::new();
        for port in 1..=5000 {
            let id = connections.insert(connection(port, 1));
            assert_eq!(id.shard(), 1023);
            assert_ne!(id.0, 0);
            assert!(ids.insert(id));
        }
        let steps: BTreeSet<_> =
            ids.iter().zip(ids.iter().skip(1)).map(|(a, b)| b.0 - a.0).collect();
        assert!(steps.len() > 1000, "numbers a constant step apart");
        let mut other = Connections::new(1023, 8);
        let mine = Connections::new(1023, 7).insert(connection(1, 1));
        assert_ne!(other.insert(connection(1, 1)), mine);
    }

    #[test]
    fn what_is_removed_is_in_no_index() {
        let mut connections = Connections::new(0, 7);
        let (first, second) =
            (connections.insert(connection(1, 20)), connections.insert(connection(2, 10)));
        assert_eq!(connections.next_deadline(), Some((10, second)));
        connections.set_state(second, State::Bound);
        assert_eq!(connections.next_deadline(), Some((20, first)));
        let owner = AllocationId { slot: 1, generation: 1 };
        assert_eq!(connections.of(owner).count(), 2);
        assert_eq!(connections.of(AllocationId { slot: 1, generation: 2 }).count(), 0);
        for id in [first, second] {
            let removed = connections.remove(id).unwrap();
            assert_eq!(connections.find(owner, removed.peer), None);
            assert!(connections.get(id).is_none());
        }
        assert_eq!((connections.next_deadline(), connections.of(owner).count()), (None, 0));
    }
}
