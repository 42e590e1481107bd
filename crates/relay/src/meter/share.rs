//! One shard's share of a limit in one direction: what it leased, and who may spend it.
//!
//! While the lease does, everybody spends it as they come. When a lease could not be had the
//! limit is *contended* for a while: each member (an allocation of the user; a user of the realm
//! or the server) then needs credit to pass. What comes in is credited in equal parts; who has
//! much credit already gets no more, so that what one leaves the others get (max-min). Credit is
//! only a turn: what bounds the rate are the leased bytes.

use crate::ledger::Report;
use crate::quota::{Bandwidth, DATAGRAM_BYTES};

/// How long after the last refusal members still need credit, and how long one who was refused or
/// silent is taken to be still hungry or still there.
const CONTENDED_NS: u64 = 500_000_000;

/// A contended lease is asked for at most this often...
const ASK_NS: u64 = 10_000_000;
/// ...or this often, where the burst would otherwise overflow between two leases.
const ASK_LEAST_NS: u64 = 1_000_000;

/// A lease that is not contended lasts at the full rate for 1/50 s: some 20 ms.
const CHUNKS_PER_SECOND: u64 = 50;

/// Unspent credit of a silent member is bounded by what it is due in 1/4 s.
const CREDIT_PER_SECOND: u64 = 4;
const CREDIT_LEAST: u64 = 4_096;

/// What is to become of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// More must be leased before it can be said.
    Ask,
    Refuse,
}

/// A member's place among the members of a contended share.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ticket {
    generation: u32,
    index: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Share {
    limit: Bandwidth,
    leased: u64,
    used: u64,
    next_ask_ns: u64,
    contended_until_ns: u64,
    /// Leased and not credited to anybody.
    uncredited: u64,
    /// Bumped when all tickets become void. No ticket has 0.
    generation: u32,
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// Passes while this is positive.
    credit: i64,
    seen_ns: u64,
    refused_ns: u64,
    used: u64,
}

impl Share {
    /// Nothing leased yet. The first datagram will ask.
    pub(super) fn new(limit: Bandwidth) -> Self {
        Self {
            limit,
            leased: 0,
            used: 0,
            next_ask_ns: 0,
            contended_until_ns: 0,
            uncredited: 0,
            generation: 1,
            members: Vec::new(),
        }
    }

    pub(super) fn limit(&self) -> Bandwidth {
        self.limit
    }

    /// Makes room for `members`, so that none needs memory when it comes.
    pub(super) fn make_room(&mut self, members: usize) {
        if self.members.capacity() < members {
            self.members.reserve(members.next_power_of_two() - self.members.len());
        }
    }

    /// Whether `len` bytes of a member may pass. If so, [`Self::spend`] them, or do not.
    pub(super) fn check(&mut self, ticket: &mut Ticket, len: u64, now_ns: u64) -> Verdict {
        let contended = self.contended(now_ns);
        if self.leased >= len && !contended {
            return Verdict::Pass;
        }
        let turn = self.leased >= len && {
            let ample = self.leased >= len + self.limit.burst_bytes / 4;
            let member = self.member(ticket, now_ns);
            member.seen_ns = now_ns;
            member.credit > 0 || ample
        };
        if turn {
            return Verdict::Pass;
        }
        if now_ns >= self.next_ask_ns {
            return Verdict::Ask;
        }
        self.contended_until_ns = now_ns + CONTENDED_NS;
        let member = self.member(ticket, now_ns);
        (member.seen_ns, member.refused_ns) = (now_ns, now_ns);
        Verdict::Refuse
    }

    /// Spends what [`Self::check`] let pass.
    pub(super) fn spend(&mut self, ticket: Ticket, len: u64) {
        self.leased = self.leased.saturating_sub(len);
        self.used += len;
        if ticket.generation == self.generation
            && let Some(member) = self.members.get_mut(ticket.index as usize)
        {
            member.used += len;
            let floor =
                -((self.limit.bytes_per_second / CREDIT_PER_SECOND + DATAGRAM_BYTES) as i64);
            member.credit = (member.credit - len as i64).max(floor);
        }
    }

    /// What to ask the ledger for, so that `len` bytes may pass. `members` is how many there are
    /// if nobody counted them.
    pub(super) fn ask(&mut self, len: u64, members: u32, now_ns: u64) -> Report {
        let mut report = Report { active: members.max(1), ..Report::default() };
        report.used = core::mem::take(&mut self.used);
        report.content = report.used;
        let rate = self.limit.bytes_per_second;
        let mut interval_ns = 0;
        if self.contended(now_ns) {
            (report.active, report.hungry) = (0, 0);
            for member in &mut self.members {
                let used = core::mem::take(&mut member.used);
                let hungry = now_ns < member.refused_ns + CONTENDED_NS;
                report.active += u32::from(now_ns < member.seen_ns + CONTENDED_NS);
                report.hungry += u32::from(hungry);
                if hungry {
                    report.content = report.content.saturating_sub(used);
                }
            }
            report.active = report.active.max(report.hungry).max(1);
            report.want = self.limit.burst_bytes;
        } else {
            let chunk = (rate / CHUNKS_PER_SECOND).min(self.limit.burst_bytes / 4);
            report.want = chunk.max(len.saturating_sub(self.leased));
        }
        let fills_ns = u128::from(self.limit.burst_bytes) * 500_000_000 / u128::from(rate.max(1));
        interval_ns += fills_ns.clamp(u128::from(ASK_LEAST_NS), u128::from(ASK_NS)) as u64;
        // Whoever has very many members pays for looking at all of them, not the others.
        interval_ns += self.members.len() as u64 * 1_000;
        self.next_ask_ns = now_ns + interval_ns;
        report
    }

    /// Takes in what the ledger gave of what was asked for.
    pub(super) fn answered(&mut self, report: &Report, granted: u64, now_ns: u64) {
        self.leased += granted;
        if self.contended(now_ns) {
            self.uncredited += granted;
            self.credit(now_ns);
        } else if granted >= report.want {
            self.next_ask_ns = now_ns;
        }
    }

    /// Reports what was spent and gives back all that was not.
    pub(super) fn give_back(&mut self) -> Report {
        let used = core::mem::take(&mut self.used);
        let give_back = core::mem::take(&mut self.leased);
        self.uncredited = 0;
        Report { used, content: used, give_back, ..Report::default() }
    }

    /// What was leased and neither spent nor given back.
    pub(super) fn unspent(&self) -> u64 {
        self.leased
    }

    /// Another limit from now on. Give back first.
    pub(super) fn set_limit(&mut self, limit: Bandwidth) {
        self.limit = limit;
        self.next_ask_ns = 0;
    }

    fn contended(&mut self, now_ns: u64) -> bool {
        let contended = now_ns < self.contended_until_ns;
        if !contended && !self.members.is_empty() {
            self.dismiss();
        }
        contended
    }

    /// Credits what came in, in equal parts to those who have room for it.
    fn credit(&mut self, now_ns: u64) {
        let here = |member: &Member| now_ns < member.seen_ns + CONTENDED_NS;
        let active = self.members.iter().filter(|member| here(member)).count() as u64;
        if active == 0 {
            return;
        }
        let due = self.limit.bytes_per_second / CREDIT_PER_SECOND / active;
        let most = due.max(CREDIT_LEAST) as i64;
        for _ in 0..ROUNDS {
            let open = |member: &&mut Member| here(member) && member.credit < most;
            let takers = self.members.iter_mut().filter(open).count() as u64;
            let part = self.uncredited.checked_div(takers).unwrap_or(0);
            if part == 0 {
                break;
            }
            for member in self.members.iter_mut().filter(open) {
                let part = part.min((most - member.credit) as u64);
                member.credit += part as i64;
                self.uncredited -= part;
            }
        }
        // What nobody has room for is there for whoever comes.
        self.uncredited = self.uncredited.min(active);
        if self.members.len() as u64 > 2 * active + 64 {
            self.dismiss();
        }
    }

    /// Voids all tickets; who is still there takes a new one.
    fn dismiss(&mut self) {
        self.members.clear();
        self.generation = self.generation.wrapping_add(1).max(1);
    }

    fn member(&mut self, ticket: &mut Ticket, now_ns: u64) -> &mut Member {
        if ticket.generation != self.generation {
            if self.members.len() == self.members.capacity() && !self.members.is_empty() {
                self.dismiss();
            }
            *ticket = Ticket { generation: self.generation, index: self.members.len() as u32 };
            self.members.push(Member { credit: 1, seen_ns: now_ns, refused_ns: 0, used: 0 });
        }
        &mut self.members[ticket.index as usize]
    }
}

/// Each round hands what the last one could not place to those who still have room.
const ROUNDS: usize = 4;
