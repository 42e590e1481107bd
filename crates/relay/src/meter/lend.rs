//! What another data path may spend on its own: bytes are lent to it in advance, held to the same
//! limits as datagrams are, and what it did not use comes back.

use super::{Admission, Meter, Meters, empty_pocket, user};
use crate::address::Now;
use crate::ledger::{Direction, Dropped, Release};
use crate::outcome::Reason;
use crate::quota::Bandwidth;

/// Bytes are lent in pieces, each held to the limits like a datagram. The first is as long as a
/// small one, so that who waits for its turn is not asked for more than it can save up; while they
/// pass they double, and what is refused is tried for in halves.
const PIECE: core::ops::RangeInclusive<u64> = 256..=65_507;

/// What may be lent of a limit at a time: what it brings in a part of a second, or some datagrams...
const CHUNKS_PER_SECOND: u64 = 10;
const CHUNK_LEAST: u64 = 3_000;
/// ...but a part of the burst only: the rest is for who asks for each datagram. Where that is less
/// than a usual datagram, nothing is lent.
const CHUNKS_PER_BURST: u64 = 4;
const USUAL_DATAGRAM: u64 = 1_500;

/// What became of a wish to borrow: how many bytes may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// As many as were wanted.
    All(u64),
    /// A lease has run out: exchange with the ledger and ask for the rest.
    Lease(u64),
    /// This limit gives no more now.
    Over(u64, Reason),
}

impl Meters {
    /// Whether anything is limited or counted at all.
    pub(crate) fn on(&self) -> bool {
        self.on
    }

    /// Whether the user's volume is spent.
    pub(crate) fn volume_spent(&self, meter: &Meter) -> bool {
        self.purses.get(meter.user as usize).is_some_and(|purse| purse.spent.is_some())
    }

    /// See [`crate::offload::Terms::chunk`].
    pub(crate) fn chunk(&self, meter: &Meter) -> Option<u64> {
        let purse = self.purses.get(meter.user as usize)?;
        let user = self.users[meter.user as usize].as_ref()?;
        let realm = &self.realms[usize::from(user.home.0)];
        let shares = [&user.shares, &realm.shares, &self.total];
        let limits = shares.into_iter().flatten().map(|shares| shares[0].limit());
        let chunk = |limit: Bandwidth| {
            let chunk = (limit.bytes_per_second / CHUNKS_PER_SECOND).max(CHUNK_LEAST);
            let most = limit.burst_bytes / CHUNKS_PER_BURST;
            if most < USUAL_DATAGRAM { 0 } else { chunk.min(most) }
        };
        limits.chain(purse.allocation).map(chunk).min()
    }

    /// Lends up to `want` bytes of one direction. They are not counted as relayed.
    pub(crate) fn lend(
        &mut self,
        meter: &mut Meter,
        direction: Direction,
        want: u64,
        now: Now,
    ) -> Lent {
        let (mut piece, mut growing) = (*PIECE.start(), true);
        let mut lent = 0;
        while lent < want {
            piece = piece.min(want - lent);
            match self.judge_bytes(meter, direction, piece, now.mono_ns) {
                Admission::Pass => {
                    lent += piece;
                    piece = if growing { (2 * piece).min(*PIECE.end()) } else { piece };
                }
                Admission::Lease => return Lent::Lease(lent),
                Admission::Drop(_) if piece >= 2 * PIECE.start() => {
                    (piece, growing) = (piece / 2, false);
                }
                Admission::Drop(reason) => return Lent::Over(lent, reason),
            }
        }
        Lent::All(lent)
    }

    /// Takes back what was lent and not spent.
    pub(crate) fn take_back(&mut self, meter: &mut Meter, direction: Direction, bytes: u64) {
        let at = direction.index();
        let Some(user) = user(&mut self.users, meter.user) else { return };
        let purse = &mut self.purses[meter.user as usize];
        if let Some(limit) = &purse.allocation {
            meter.buckets[at].put_back(limit, bytes);
        }
        let realm = &mut self.realms[usize::from(user.home.0)];
        for (shares, pocket) in [
            (&mut user.shares, &mut purse.pockets[at]),
            (&mut realm.shares, &mut realm.pockets[at]),
            (&mut self.total, &mut self.total_pockets[at]),
        ] {
            if shares.is_some() {
                empty_pocket(shares, pocket, at);
            }
            if let Some(shares) = shares {
                shares[at].take_back(bytes);
            }
        }
    }

    /// Counts what another data path relayed.
    pub(crate) fn relayed(&mut self, meter: &Meter, direction: Direction, bytes: u64, now: Now) {
        if self.on {
            self.touch(meter.user, now.mono_ns);
            self.purses[meter.user as usize].relayed[direction.index()] += bytes;
        }
    }

    /// Counts what another data path dropped, and has the ledger say whether it still must.
    pub(crate) fn dropped_elsewhere(
        &mut self,
        meter: &mut Meter,
        reason: Reason,
        dropped: Dropped,
        now: Now,
    ) {
        if self.on {
            self.touch(meter.user, now.mono_ns);
        }
        self.dropped(meter, reason, dropped);
    }

    /// Counts what another data path relayed of an allocation that is no more. False if its user
    /// has no other here.
    pub(crate) fn relayed_late(&mut self, release: &Release, bytes: [u64; 2], now: Now) -> bool {
        let is_it = user(&mut self.users, release.place).is_some_and(|u| u.id == release.user);
        if is_it && self.on {
            self.touch(release.place, now.mono_ns);
            let purse = &mut self.purses[release.place as usize];
            for (relayed, more) in purse.relayed.iter_mut().zip(bytes) {
                *relayed += more;
            }
        }
        is_it
    }
}
