//! Accounts: one for each direction of a channel, in memory that the program shares.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use aya::maps::{Map, MapError};

use super::mapped::Mapped;
use crate::abi::{ACCOUNT_METERED, ACCOUNT_SHUT, Account};

/// All accounts. A change is seen by the next datagram, and costs no system call.
///
/// Each account is opened, changed and closed by one thread at a time; reading is everybody's.
/// An index from [`Accounts::len`] on panics.
pub struct Accounts {
    mapped: Mapped<Account>,
}

/// What was relayed, and what the pocket did not cover, since the account was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams relayed.
    pub datagrams: u64,
    /// Payload bytes relayed.
    pub bytes: u64,
    /// Datagrams dropped because of a limit.
    pub dropped: u64,
    /// Payload bytes dropped because of a limit.
    pub dropped_bytes: u64,
    /// Payload bytes passed up because of a limit: user space decides about them.
    pub passed_bytes: u64,
    /// Credit that is left: payload bytes.
    pub pocket: u64,
}

impl Accounts {
    pub(crate) fn new(map: Map) -> Result<Accounts, MapError> {
        Ok(Accounts { mapped: Mapped::new(map)? })
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there are always as many")]
    pub fn len(&self) -> u32 {
        self.mapped.len()
    }

    /// Opens a closed account with an empty pocket, and gives the generation that its paths must
    /// carry. It is alive until `deadline_ns` of CLOCK_MONOTONIC.
    #[must_use = "a path without the generation is never alive"]
    pub fn open(&self, index: u32, deadline_ns: u64, metered: bool) -> u32 {
        let account = self.mapped.get(index);
        account.pocket.store(0, Relaxed);
        account.flags.store(if metered { ACCOUNT_METERED } else { 0 }, Relaxed);
        let counters = [
            &account.datagrams,
            &account.bytes,
            &account.dropped,
            &account.dropped_bytes,
            &account.passed_bytes,
        ];
        for counter in counters {
            counter.store(0, Relaxed);
        }
        let generation = account.generation.load(Relaxed);
        // Last: what comes with it was written before.
        account.deadline_ns.store(deadline_ns, Release);
        generation
    }

    /// Closes an account: from now on no datagram passes by any path of its generation. Gives the
    /// credit that was left.
    pub fn close(&self, index: u32) -> u64 {
        let account = self.mapped.get(index);
        account.generation.fetch_add(1, Release);
        account.deadline_ns.store(0, Release);
        self.reclaim(index)
    }

    /// Moves the deadline, in nanoseconds of CLOCK_MONOTONIC; 0 is the past.
    pub fn set_deadline(&self, index: u32, deadline_ns: u64) {
        self.mapped.get(index).deadline_ns.store(deadline_ns, Release);
    }

    /// Puts credit for so many payload bytes into the pocket.
    pub fn lend(&self, index: u32, bytes: u64) {
        self.mapped.get(index).pocket.fetch_add(bytes as i64, Relaxed);
    }

    /// Takes all credit back.
    pub fn reclaim(&self, index: u32) -> u64 {
        // The program never takes more than there is.
        self.mapped.get(index).pocket.swap(0, Relaxed).max(0) as u64
    }

    /// Whether a datagram must be covered by the pocket.
    pub fn meter(&self, index: u32, metered: bool) {
        self.set_flag(index, ACCOUNT_METERED, metered);
    }

    /// Whether what the pocket does not cover is dropped by the program; otherwise it is passed up
    /// and user space decides.
    pub fn shut(&self, index: u32, shut: bool) {
        self.set_flag(index, ACCOUNT_SHUT, shut);
    }

    /// The counters.
    pub fn read(&self, index: u32) -> Counts {
        let account = self.mapped.get(index);
        Counts {
            datagrams: account.datagrams.load(Relaxed),
            bytes: account.bytes.load(Relaxed),
            dropped: account.dropped.load(Relaxed),
            dropped_bytes: account.dropped_bytes.load(Relaxed),
            passed_bytes: account.passed_bytes.load(Relaxed),
            pocket: account.pocket.load(Relaxed).max(0) as u64,
        }
    }

    /// The generation that paths of this account must carry now.
    pub fn generation(&self, index: u32) -> u32 {
        self.mapped.get(index).generation.load(Acquire)
    }

    fn set_flag(&self, index: u32, flag: u32, on: bool) {
        let flags = &self.mapped.get(index).flags;
        if on {
            flags.fetch_or(flag, Release);
        } else {
            flags.fetch_and(!flag, Release);
        }
    }
}
