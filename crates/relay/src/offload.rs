//! What a second data path says to the rules, and asks of them: one that relays for channels by
//! itself, as [`Effect::ChannelUp`] allowed it to. It is told of every limit in bytes that it may
//! spend, and its datagrams count as if they had come through [`Server::route_client`] and
//! [`Server::route_peer`].
//!
//! [`Effect::ChannelUp`]: crate::Effect::ChannelUp

use crate::address::{AllocationId, Now, Transport};
use crate::effect::{Record, Traffic};
use crate::ledger::{Direction, Dropped, Release, UserId};
use crate::meter::Lent;
use crate::outcome::Reason;
use crate::server::Server;

impl Server {
    /// Whether what is relayed is limited or counted for anybody: if not, nothing need be lent.
    pub fn meters(&self) -> bool {
        self.meters.on()
    }

    /// Lends up to `want` payload bytes of one direction of an allocation, held to its limits, its
    /// user's, the realm's and the server's. On [`Lent::Lease`] show the ledger
    /// [`Self::exchange`], say [`Event::Exchanged`] and ask for the rest.
    ///
    /// [`Event::Exchanged`]: crate::Event::Exchanged
    pub fn lend(&mut self, id: AllocationId, direction: Direction, want: u64, now: Now) -> Lent {
        match self.table.get_mut(id) {
            Some(allocation) => self.meters.lend(&mut allocation.meter, direction, want, now),
            None => Lent::Over(0, Reason::NoAllocation),
        }
    }

    /// What holds for an allocation now; `None` if it is no more.
    pub fn terms(&self, id: AllocationId) -> Option<Terms> {
        let allocation = self.table.get(id)?;
        Some(Terms {
            chunk: self.meters.chunk(&allocation.meter),
            spent: self.meters.volume_spent(&allocation.meter),
            relayed: [allocation.traffic.to_peer_bytes, allocation.traffic.to_client_bytes],
        })
    }

    /// Takes back bytes that were lent and not spent.
    pub fn take_back(&mut self, id: AllocationId, direction: Direction, bytes: u64) {
        if let Some(allocation) = self.table.get_mut(id) {
            self.meters.take_back(&mut allocation.meter, direction, bytes);
        }
    }

    /// Counts datagrams of a UDP client that were relayed elsewhere. False if the allocation is no
    /// more: then they are to be added to its [`Release`] and its last record, see [`Late`].
    pub fn relayed(
        &mut self,
        id: AllocationId,
        direction: Direction,
        datagrams: u64,
        bytes: u64,
        now: Now,
    ) -> bool {
        let traffic = Traffic::of(direction, datagrams, bytes);
        self.stats.traffic_mut(Transport::Udp).add(traffic);
        let Some(allocation) = self.table.get_mut(id) else { return false };
        allocation.traffic.add(traffic);
        self.meters.relayed(&allocation.meter, direction, bytes, now);
        true
    }

    /// Counts datagrams that were dropped elsewhere, because nothing was lent for them.
    pub fn dropped(
        &mut self,
        id: AllocationId,
        direction: Direction,
        reason: Reason,
        datagrams: u64,
        bytes: u64,
        now: Now,
    ) {
        let drops = match direction {
            Direction::ToPeer => &mut self.stats.client_drops,
            Direction::ToClient => &mut self.stats.peer_drops,
        };
        drops[reason.index()] += datagrams;
        if let Some(allocation) = self.table.get_mut(id) {
            let dropped = Dropped { datagrams, bytes };
            self.meters.dropped_elsewhere(&mut allocation.meter, reason, dropped, now);
        }
    }
}

/// What holds for what a second data path relays of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The most bytes that may be lent to one direction of a channel at a time: of each limit that
    /// holds for the allocation what it brings in 1/10 s or 3,000 bytes, whichever is more, but a
    /// quarter of its burst at most, and nothing if that is less than 1,500 bytes; of these the
    /// least. `None`: nothing limits it.
    pub chunk: Option<u64>,
    /// The user's volume is spent: nothing may be relayed, and what was lent must come back.
    pub spent: bool,
    /// Payload bytes relayed so far by both data paths, by [`Direction::index`].
    pub relayed: [u64; 2],
}

impl Terms {
    /// Whether bytes must be lent for datagrams to pass.
    pub fn metered(&self) -> bool {
        self.spent || self.chunk.is_some()
    }
}

/// What was relayed elsewhere for an allocation that has ended, between its last
/// [`Effect::ChannelDown`] and its [`Record::Ended`]: the effects of an end follow each other.
///
/// [`Effect::ChannelDown`]: crate::Effect::ChannelDown
#[derive(Debug, Default)]
pub struct Late {
    traffic: Traffic,
    /// Of users whose last allocation here has ended as well, and is to be released next.
    owed: Vec<(UserId, [u64; 2])>,
}

impl Late {
    /// Remembers what [`Server::relayed`] could not add.
    pub fn count(&mut self, direction: Direction, datagrams: u64, bytes: u64) {
        self.traffic.add(Traffic::of(direction, datagrams, bytes));
    }

    /// Adds it to what the ledger hears of the user.
    pub fn add_to_release(&mut self, release: &mut Release, server: &mut Server, now: Now) {
        let bytes = [self.traffic.to_peer_bytes, self.traffic.to_client_bytes];
        if bytes != [0; 2] {
            self.owed.push((release.user, bytes));
        }
        self.owed.retain(|(user, bytes)| {
            if *user != release.user {
                return true;
            }
            match &mut release.last {
                Some(last) => {
                    for (relayed, more) in last.count.relayed.iter_mut().zip(bytes) {
                        *relayed += *more;
                    }
                    false
                }
                None => !server.meters.relayed_late(release, *bytes, now),
            }
        });
    }

    /// Adds it to the last record of the allocation. Nothing is left then.
    pub fn add_to_record(&mut self, record: &mut Record) {
        match record {
            Record::Ended(ended) => ended.traffic.add(core::mem::take(&mut self.traffic)),
            Record::Started(_)
            | Record::AuthFailed(_)
            | Record::VolumeSpent(_)
            | Record::Moved(_) => {}
        }
    }
}
