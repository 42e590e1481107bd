//! An allocation that goes on with another shard.

use turnway_wire::Family;

use super::{GoesOnWith, Next, Resume};
use crate::address::{AllocationId, Client, FiveTuple, Now};
use crate::effect::Effect;
use crate::ledger::Grant;
use crate::limits::RESUME_TIMEOUT_S;
use crate::server::Server;
use crate::table::Allocation;

/// An allocation between two shards, with all that belongs to it but its sockets.
pub struct Departure {
    allocation: Allocation,
    grant: Grant,
    /// The client as the other shard knows it.
    client: Client,
}

impl Departure {
    /// Its number.
    pub fn session(&self) -> u64 {
        self.allocation.session
    }

    /// Which relayed transport addresses it has.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        let all = [Family::V4, Family::V6].into_iter();
        all.filter(|&family| self.allocation.relay(family).is_some())
    }
}

impl Server {
    /// Whether the client of a session is about to go on from a five-tuple of another shard.
    pub fn awaits(&self, session: u64, tuple: &FiveTuple) -> bool {
        self.awaited(session, tuple).is_some()
    }

    fn awaited(&self, session: u64, tuple: &FiveTuple) -> Option<(AllocationId, Next, u16)> {
        let id = self.table.find_session(session)?;
        let next = self.table.get(id)?.mobile.as_ref()?.next?;
        (next.client.tuple == *tuple).then_some((id, next, next.shard?))
    }

    /// A client is about to go on from here with a session of another shard. Not if it has made an
    /// allocation here meanwhile.
    pub fn expect(&mut self, client: &Client, session: u64, now: Now) {
        if self.table.find(&client.tuple).is_none() {
            let others = GoesOnWith::Others(session);
            self.goes_on_from(client, others, now.after_s(RESUME_TIMEOUT_S));
            self.count_resumes();
        }
    }

    /// The client has gone on from the other shard. What follows is [`Effect::Depart`]; false if
    /// there is no such client, or it was about to go on from somewhere else.
    pub fn claim(&mut self, session: u64, tuple: &FiveTuple, now: Now) -> bool {
        let awaited = self.awaited(session, tuple);
        let Some((id, _, shard)) = awaited.filter(|(_, next, _)| next.until_ns > now.mono_ns)
        else {
            return false;
        };
        self.leave_for(id, shard);
        true
    }

    /// The claim was refused, or will never be answered.
    pub fn stop_expecting(&mut self, session: u64, tuple: &FiveTuple) {
        if self.expected(session, tuple).is_some() {
            self.resumes.remove(tuple);
            self.count_resumes();
        }
    }

    fn expected(&self, session: u64, tuple: &FiveTuple) -> Option<Resume> {
        let resume = self.resumes.get(tuple)?;
        (resume.goes_on_with == GoesOnWith::Others(session)).then_some(*resume)
    }

    /// Has an allocation taken out. First other data paths must let go of it.
    pub(super) fn leave_for(&mut self, id: AllocationId, shard: u16) {
        self.channels_down(id);
        self.effects.push_back(Effect::Depart { allocation: id, shard });
    }

    /// The answer to [`Effect::Depart`]: takes the allocation out. It is counted where it was; only
    /// what this shard has leased and counted for its user goes back ([`Effect::Release`]).
    pub fn depart(&mut self, id: AllocationId) -> Option<Departure> {
        let client = self.table.get(id)?.mobile.as_ref()?.next?.client;
        let allocation = self.table.remove(id)?;
        self.timers.remove(id.slot);
        *self.stats.allocations_mut(allocation.client.tuple.transport) -= 1;
        self.stats.permissions -= allocation.permissions.len() as u64;
        self.stats.channels -= allocation.channels.len() as u64;
        let mut release = self.meters.leave(&allocation.meter);
        release.stays_counted = true;
        let grant = Grant { user: release.user, prefix: release.prefix };
        self.effects.push_back(Effect::Release(Box::new(release)));
        Some(Departure { allocation, grant, client })
    }

    /// Takes in an allocation that departed from another shard. Its relay sockets are known by the
    /// new name from now on; have them ready before the effects are carried out. If the client
    /// itself has gone meanwhile, the allocation waits for it.
    pub fn arrive(&mut self, departure: Departure, now: Now) -> AllocationId {
        let Departure { mut allocation, grant, client: promised } = departure;
        let from = allocation.client.tuple;
        let free = self.table.find(&promised.tuple).is_none();
        let expected = self.expected(allocation.session, &promised.tuple).filter(|_| free);
        allocation.attached = expected.is_some();
        allocation.client = match expected {
            Some(resume) => Client { link: resume.link, ..promised },
            None => promised,
        };
        if expected.is_some() {
            self.stop_expecting(allocation.session, &promised.tuple);
        }
        allocation.settled();
        let meter = self.meters.join(allocation.identity.account(), grant, now.mono_ns);
        allocation.meter = meter.succeeding(&allocation.meter);
        *self.stats.allocations_mut(promised.tuple.transport) += 1;
        self.stats.permissions += allocation.permissions.len() as u64;
        self.stats.channels += allocation.channels.len() as u64;
        self.stats.moves_between_shards += 1;
        let id = self.table.reserve();
        self.table.insert(id, allocation);
        self.log_move(id, from);
        self.channels_changed(id);
        // The configuration may have changed on its way.
        self.judge_again(id, now);
        id
    }
}
