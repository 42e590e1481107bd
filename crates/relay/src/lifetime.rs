//! How things end: by time, by the client, by a new configuration, with the server.
//!
//! Whatever ends an allocation goes through [`Server::end`], so that every port, count and
//! channel is given back exactly once.

use std::sync::Arc;

use turnway_wire::Family;

use crate::address::{AllocationId, FiveTuple, NANOS_PER_SECOND, Now, RelayId, family_of};
use crate::effect::{ChannelPath, Effect, Ended, Record};
use crate::outcome::{ConnectionEnd, EndReason};
use crate::policy::Verdict;
use crate::realms::Realm;
use crate::server::{Config, Server};
use crate::table::{Channel, Permission, is_own};

impl Server {
    /// Removes from the allocation in `slot` what has run out, or all of it.
    pub(crate) fn sweep(&mut self, slot: u32, now: Now) {
        let Some(id) = self.table.occupant(slot) else {
            self.timers.remove(slot);
            return;
        };
        for family in [Family::V4, Family::V6] {
            let relay = self.table.get(id).and_then(|allocation| allocation.relay(family));
            if relay.is_some_and(|relay| relay.expires_ns <= now.mono_ns) {
                self.end_family(id, family, EndReason::Expired, now);
            }
        }
        self.drop_channels(id, |channel| channel.expires_ns <= now.mono_ns);
        self.drop_permissions(id, |permission| permission.expires_ns <= now.mono_ns);
        self.channels_changed(id);
    }

    /// The allocation of a five-tuple as it is at this moment. What ran out since the last
    /// [`Server::expire`] is ended first: no request finds it, and none revives it.
    pub(crate) fn find_live(&mut self, tuple: &FiveTuple, now: Now) -> Option<AllocationId> {
        let id = self.table.find(tuple)?;
        self.freshen(id, now);
        self.table.find(tuple)
    }

    /// Ends what ran out of an allocation, and judges it by the present configuration.
    pub(crate) fn freshen(&mut self, id: AllocationId, now: Now) {
        let deadline_ns = self.timers.get(id.slot);
        if deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now.mono_ns) {
            self.sweep(id.slot, now);
        }
        if self.judging.is_some_and(|next| id.slot >= next) {
            self.judge_again(id, now);
        }
    }

    /// Ends one family of an allocation, and the allocation itself when that was the last.
    //= rfc8656#section-8.1
    //# Deleting a single allocation destroys any permissions or channels associated with that
    //# particular allocation; it MUST NOT affect any permissions or channels associated with
    //# allocations for the other address family.
    pub(crate) fn end_family(
        &mut self,
        id: AllocationId,
        family: Family,
        reason: EndReason,
        now: Now,
    ) {
        let Some(allocation) = self.table.get(id) else {
            return;
        };
        let other = match family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        if allocation.relay(other).is_none() {
            self.end(id, reason, now);
            return;
        }
        self.drop_connections(id, ConnectionEnd::AllocationEnded, |peer| peer.family() == family);
        self.drop_channels(id, |channel| channel.peer.family() == family);
        self.drop_permissions(id, |permission| family_of(permission.ip) == family);
        let allocation = self.table.get_mut(id).expect("found above");
        if allocation.relay_mut(family).take().is_some() {
            self.effects.push_back(Effect::Close { relay: RelayId { allocation: id, family } });
        }
    }

    /// Ends an allocation with all that belongs to it.
    pub(crate) fn end(&mut self, id: AllocationId, reason: EndReason, now: Now) {
        self.drop_connections(id, ConnectionEnd::AllocationEnded, |_| true);
        self.drop_channels(id, |_| true);
        self.drop_permissions(id, |_| true);
        let Some(allocation) = self.table.remove(id) else {
            return;
        };
        self.timers.remove(id.slot);
        self.forget_mobile(&allocation);
        for family in [Family::V4, Family::V6] {
            if allocation.relay(family).is_some() {
                self.effects.push_back(Effect::Close { relay: RelayId { allocation: id, family } });
            }
        }
        *self.stats.allocations_mut(allocation.client.tuple.transport) -= 1;
        self.stats.allocations_ended[reason.index()] += 1;
        self.shared.allocations.give_back();
        let release = self.meters.leave(&allocation.meter);
        self.effects.push_back(Effect::Release(Box::new(release)));
        let lived_ns = now.mono_ns.saturating_sub(allocation.created_ns);
        self.effects.push_back(Effect::Log(Record::Ended(Box::new(Ended {
            session: allocation.session,
            user: Arc::clone(allocation.identity.user()),
            tuple: allocation.client.tuple,
            v4: allocation.answer.relayed.of(Family::V4),
            v6: allocation.answer.relayed.of(Family::V6),
            seconds: lived_ns / NANOS_PER_SECOND,
            traffic: allocation.traffic,
            reason,
        }))));
    }

    /// Adopts a new configuration. Cached keys are checked again at the next request; what the new
    /// peer policy forbids, and what belonged to a user that is no more, ends. Of a large table some
    /// is judged now and the rest by [`Server::expire`], so that it does not hold up relaying.
    pub(crate) fn configure(&mut self, config: Arc<Config>, now: Now) {
        self.meters.configure(Arc::clone(&config.quotas));
        self.config = config;
        self.judging = Some(0);
        self.judge_some(now);
    }

    /// Judges some of the allocations that the present configuration has not judged yet.
    pub(crate) fn judge_some(&mut self, now: Now) {
        let Some(from) = self.judging else { return };
        let end = from.saturating_add(JUDGED_PER_CALL).min(self.table.slots());
        for slot in from..end {
            if let Some(id) = self.table.occupant(slot) {
                self.judge_again(id, now);
            }
        }
        self.judging = (end < self.table.slots()).then_some(end);
    }

    pub(crate) fn judge_again(&mut self, id: AllocationId, now: Now) {
        let config = Arc::clone(&self.config);
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let Realm { auth, policy, .. } = config.realms.get(allocation.identity.realm());
        if !auth.has(&allocation.identity) {
            return self.end(id, EndReason::UserRemoved, now);
        }
        allocation.identity.outdate();
        let shared = Arc::clone(&self.shared);
        let protocol = allocation.protocol();
        let denied = |peer| !policy.check(protocol, peer, &shared.live);
        self.drop_connections(id, ConnectionEnd::PeerDenied, denied);
        self.drop_channels(id, |channel| denied(channel.peer));
        self.drop_permissions(id, |permission| match policy.check_ip(permission.ip) {
            Verdict::Denied => true,
            Verdict::Open | Verdict::OwnPorts => false,
        });
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        for permission in &mut *allocation.permissions {
            permission.own = is_own(policy.check_ip(permission.ip));
        }
        for channel in &mut *allocation.channels {
            channel.own = is_own(policy.check_ip(channel.peer.ip()));
        }
        self.channels_changed(id);
    }

    /// Brings deadlines, the timer and listeners up to date after something was made, refreshed
    /// or removed.
    pub(crate) fn channels_changed(&mut self, id: AllocationId) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let (client, effects) = (allocation.client, &mut self.effects);
        allocation.update_deadlines(|channel| {
            effects.push_back(Effect::ChannelUp(ChannelPath {
                client,
                relay: RelayId { allocation: id, family: channel.peer.family() },
                number: channel.number,
                peer: channel.peer,
                deadline_ns: channel.deadline_ns,
            }));
        });
        self.timers.set(id.slot, allocation.deadline_ns());
    }

    fn drop_channels(&mut self, id: AllocationId, doomed: impl Fn(&Channel) -> bool) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let (effects, stats) = (&mut self.effects, &mut self.stats);
        allocation.remove_channels(doomed, |channel| {
            stats.channels -= 1;
            let family = channel.peer.family();
            let relay = RelayId { allocation: id, family };
            let (number, peer) = (channel.number, channel.peer);
            effects.push_back(Effect::ChannelDown { relay, number, peer });
        });
    }

    fn drop_permissions(&mut self, id: AllocationId, doomed: impl Fn(&Permission) -> bool) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        let before = allocation.permissions.len();
        allocation.permissions.retain(|permission| !doomed(permission));
        self.stats.permissions -= (before - allocation.permissions.len()) as u64;
    }
}

/// Allocations judged at a time by a new configuration: some 200 µs of work.
const JUDGED_PER_CALL: u32 = 1024;
