//! What can be seen of the allocations of one server: for the admin API, page by page.

use core::net::SocketAddr;
use std::sync::Arc;

use turnway_wire::Family;

use crate::address::{FiveTuple, NANOS_PER_SECOND, Now, Protocol};
use crate::effect::Traffic;
use crate::server::Server;

/// One allocation as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Unique in the life of the process.
    pub session: u64,
    /// The user name as sent. Hostile bytes: escape before printing.
    pub user: Arc<[u8]>,
    /// Who the quotas count it for: the user name without a timestamp.
    pub account: Arc<[u8]>,
    /// The client.
    pub tuple: FiveTuple,
    /// The IPv4 relayed transport address as announced.
    pub v4: Option<SocketAddr>,
    /// The IPv6 relayed transport address as announced.
    pub v6: Option<SocketAddr>,
    /// Whole seconds since it began.
    pub age_s: u64,
    /// Whole seconds until it ends unless it is refreshed.
    pub expires_in_s: u64,
    /// Permissions installed.
    pub permissions: u32,
    /// Channels bound.
    pub channels: u32,
    /// How its peers are reached.
    pub protocol: Protocol,
    /// Connections to and from peers (RFC 6062).
    pub connections: u32,
    /// What it has relayed.
    pub traffic: Traffic,
    /// Datagrams dropped at any bandwidth or volume limit.
    pub dropped: u64,
}

/// Which sessions are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Only those of this account.
    pub account: Option<Vec<u8>>,
    /// Only those of clients with this address.
    pub client: Option<core::net::IpAddr>,
}

impl Server {
    /// Adds to `out` the sessions that `filter` lets through, from a place in the table on, until
    /// `most` were added or `places` were looked at. Gives the next place to look from, until
    /// there is none: a long table is read in pieces, so that no datagram waits for it.
    pub fn sessions(
        &self,
        filter: &SessionFilter,
        from: u32,
        places: u32,
        most: usize,
        now: Now,
        out: &mut Vec<Session>,
    ) -> Option<u32> {
        let end = from.saturating_add(places).min(self.table.slots());
        let full = out.len() + most;
        for slot in from..end {
            if out.len() >= full {
                return Some(slot);
            }
            out.extend(self.session(slot, filter, now));
        }
        (end < self.table.slots()).then_some(end)
    }

    /// One session by its number.
    pub fn find_session(&self, session: u64, now: Now) -> Option<Session> {
        let id = self.table.find_session(session)?;
        self.session(id.slot, &SessionFilter::default(), now)
    }

    fn session(&self, slot: u32, filter: &SessionFilter, now: Now) -> Option<Session> {
        let id = self.table.occupant(slot)?;
        let allocation = self.table.get(id)?;
        let account = allocation.identity.account();
        let tuple = allocation.client.tuple;
        if filter.account.as_deref().is_some_and(|wanted| wanted != &**account)
            || filter.client.is_some_and(|ip| ip.to_canonical() != tuple.client.ip().to_canonical())
        {
            return None;
        }
        let relays = [allocation.v4, allocation.v6].into_iter().flatten();
        let expires_ns = relays.map(|relay| relay.expires_ns).max().unwrap_or(0);
        let shown = |family: Family| {
            allocation.relay(family).and_then(|_| allocation.answer.relayed.of(family))
        };
        let whole = |ns: u64| ns / NANOS_PER_SECOND;
        Some(Session {
            session: allocation.session,
            user: Arc::clone(allocation.identity.user()),
            account: Arc::clone(account),
            tuple,
            v4: shown(Family::V4),
            v6: shown(Family::V6),
            age_s: whole(now.mono_ns.saturating_sub(allocation.created_ns)),
            expires_in_s: whole(expires_ns.saturating_sub(now.mono_ns)),
            permissions: allocation.permissions.len() as u32,
            channels: allocation.channels.len() as u32,
            protocol: allocation.protocol(),
            connections: self.connections.of(id).count() as u32,
            traffic: allocation.traffic,
            dropped: allocation.meter.dropped,
        })
    }
}
