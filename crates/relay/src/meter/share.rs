//! One shard's share of a limit in one direction: what it leased, and who may spend it.
//!
//! While the lease does, everybody spends it as they come. When a lease could not be had the
//! limit is *contended* for a while: each member (an allocation of the user; a user of the realm
//! or the server) then needs credit to pass: as much as the datagram is long, or what its part of
//! the burst allows it to save up, so that nobody is late for its turn. What comes in is credited
//! in equal parts; who has much credit already gets no more, so that what one leaves the others
//! get (max-min). What is held for nobody, or for so many that the burst would overflow, is spare:
//! it passes without credit. Credit is only a turn: what bounds the rate are the leased bytes.

use crate::address::NANOS_PER_SECOND;
use crate::ledger::{Answer, Report, WHOLE};
use crate::quota::Bandwidth;

/// A contended lease is asked for at most this often...
const ASK_NS: u64 = 10_000_000;
/// ...or this often, where the burst would otherwise overflow between two leases...
const ASK_LEAST_NS: u64 = 100_000;
/// ...and so much later for each member: whoever has very many pays for looking at all of them.
const ASK_MEMBER_NS: u64 = 100;

/// A lease that is not contended lasts at the full rate for 1/50 s: some 20 ms. It begins with one
/// datagram and doubles while it lasts less than a quarter of the time that brings a whole burst.
const CHUNKS_PER_SECOND: u64 = 50;

/// Unspent credit of a silent member is bounded by what it is due in 1/4 s.
const CREDIT_PER_SECOND: u64 = 4;

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
    leased: u64,
    /// So much of it is in a pocket, or was spent from there.
    pocketed: u64,
    used: u64,
    contended_until_ns: u64,
    members: Vec<Member>,
    /// Bumped when all tickets become void. No ticket has 0.
    generation: u32,
    limit: Bandwidth,
    /// What was asked for when [`Self::next_chunk`] was last leased, and when anything was.
    chunk: u64,
    asked_ns: u64,
    next_ask_ns: u64,
    /// Leased and not credited to anybody; negative where newcomers were credited in advance.
    uncredited: i64,
    /// What may pass without credit.
    spare: u64,
    /// What a member may hold back of the burst while it waits for its turn.
    reserve: u64,
    /// The longest datagram that has come while the limit is contended.
    longest: u64,
    /// How long after the last refusal members still need credit, and how long one who was
    /// refused or silent is taken to be still hungry or still there.
    patience_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// Of [`WHOLE`]: what it counts for on this shard.
    part: u32,
    /// It passes while this is as much as [`Share::enough`] says.
    credit: i64,
    seen_ns: u64,
    refused_ns: u64,
    used: u64,
}

impl Share {
    /// Nothing leased yet. The first datagram will ask. No ticket may have its generation, or a
    /// later one.
    pub(super) fn new(limit: Bandwidth, generation: u32) -> Self {
        Self {
            limit,
            leased: 0,
            pocketed: 0,
            used: 0,
            chunk: 0,
            asked_ns: 0,
            next_ask_ns: 0,
            contended_until_ns: 0,
            uncredited: 0,
            spare: 0,
            reserve: 0,
            longest: 0,
            patience_ns: 0,
            generation,
            members: Vec::new(),
        }
    }

    pub(super) fn limit(&self) -> Bandwidth {
        self.limit
    }

    /// The generation of all tickets that are not void.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Makes room for `members`, so that none needs memory when it comes.
    pub(super) fn make_room(&mut self, members: usize) {
        if self.members.capacity() < members {
            self.members.reserve(members.next_power_of_two() - self.members.len());
        }
    }

    /// Whether `len` bytes of a member may pass. If so, [`Self::spend`] them, or do not.
    pub(super) fn check(
        &mut self,
        ticket: &mut Ticket,
        part: u32,
        len: u64,
        now_ns: u64,
    ) -> Verdict {
        let contended = self.contended(now_ns);
        if self.leased >= len && !contended {
            return Verdict::Pass;
        }
        if contended {
            self.longest = self.longest.max(len);
            let (spare, enough) = (self.spare >= len, self.enough(len));
            let member = self.member(ticket, enough, now_ns);
            (member.part, member.seen_ns) = (part, now_ns);
            if (member.credit >= enough || spare) && self.leased >= len {
                return Verdict::Pass;
            }
        }
        if now_ns >= self.next_ask_ns {
            return Verdict::Ask;
        }
        self.contended_until_ns = now_ns + self.patience_ns;
        let member = self.member(ticket, 0, now_ns);
        (member.part, member.seen_ns, member.refused_ns) = (part, now_ns, now_ns);
        Verdict::Refuse
    }

    /// Spends what [`Self::check`] let pass.
    pub(super) fn spend(&mut self, ticket: Ticket, len: u64) {
        self.leased = self.leased.saturating_sub(len);
        self.used += len;
        if ticket.generation == self.generation {
            let enough = self.enough(len);
            let Some(member) = self.members.get_mut(ticket.index as usize) else { return };
            member.used += len;
            if member.credit < enough {
                self.spare = self.spare.saturating_sub(len);
            }
            // Nobody goes hungry for what was spare.
            member.credit = (member.credit - len as i64).max(-(len as i64));
        }
    }

    /// Puts all that is leased into a pocket, from which it may be spent without asking, unless
    /// the limit is contended. Nothing else may be done with the share before
    /// [`Self::empty_pocket`].
    pub(super) fn fill_pocket(&mut self, now_ns: u64) -> u64 {
        self.pocketed = if self.contended(now_ns) { 0 } else { self.leased };
        self.pocketed
    }

    /// Takes in what was spent from the pocket, of which `left` is left.
    pub(super) fn empty_pocket(&mut self, left: u64) {
        let spent = core::mem::take(&mut self.pocketed).saturating_sub(left);
        self.leased = self.leased.saturating_sub(spent);
        self.used += spent;
    }

    /// What to ask the ledger for, so that `len` bytes may pass. `members` is how many there are
    /// if nobody counted them.
    pub(super) fn ask(&mut self, len: u64, members: u32, now_ns: u64) -> Report {
        let mut report =
            Report { active: members.max(1).saturating_mul(WHOLE), ..Report::default() };
        report.used = core::mem::take(&mut self.used);
        report.content = report.used;
        let rate = self.limit.bytes_per_second;
        if self.contended(now_ns) {
            (report.active, report.hungry) = (0, 0);
            for member in &mut self.members {
                let used = core::mem::take(&mut member.used);
                if now_ns < member.seen_ns + self.patience_ns {
                    report.active = report.active.saturating_add(member.part);
                }
                if now_ns < member.refused_ns + self.patience_ns {
                    report.hungry = report.hungry.saturating_add(member.part);
                    report.content = report.content.saturating_sub(used);
                }
            }
            report.active = report.active.max(report.hungry).max(1);
            report.want = self.limit.burst_bytes;
            self.chunk = self.most();
            // What does not do for a datagram here may do elsewhere.
            if self.leased < len {
                report.give_back = core::mem::take(&mut self.leased);
                report.need = len;
            }
        } else {
            report.need = len.saturating_sub(self.leased);
            self.chunk = self.next_chunk(report.used, now_ns).max(report.need);
            report.want = self.chunk;
        }
        self.asked_ns = now_ns;
        let eighth_ns = u128::from(self.limit.burst_bytes) * 125_000_000 / u128::from(rate.max(1));
        let interval_ns = eighth_ns.clamp(u128::from(ASK_LEAST_NS), u128::from(ASK_NS)) as u64;
        self.next_ask_ns = now_ns + interval_ns + self.members.len() as u64 * ASK_MEMBER_NS;
        report
    }

    /// How much to lease where the last lease, of which `used` was used, has run out: what lies
    /// here is missed elsewhere, so one that lasted long is followed by one for what was used.
    fn next_chunk(&self, used: u64, now_ns: u64) -> u64 {
        let Bandwidth { bytes_per_second: rate, burst_bytes: burst } = self.limit;
        let fills_ns = u128::from(burst) * u128::from(NANOS_PER_SECOND) / u128::from(rate.max(1));
        let elapsed_ns = u128::from(now_ns.saturating_sub(self.asked_ns));
        let soon = if elapsed_ns <= fills_ns / 4 {
            u128::from(self.chunk) * 2
        } else {
            u128::from(used) * 2 * (fills_ns / 4) / elapsed_ns
        };
        soon.min(u128::from(self.most())) as u64
    }

    /// The most to lease at a time while the limit is not contended.
    fn most(&self) -> u64 {
        (self.limit.bytes_per_second / CHUNKS_PER_SECOND).min(self.limit.burst_bytes / 4)
    }

    /// Takes in what the ledger gave of what was asked for.
    pub(super) fn answered(&mut self, report: &Report, answer: Answer, now_ns: u64) {
        self.leased += answer.granted;
        self.patience_ns = answer.patience_ns;
        // If anything is to spare, a datagram is.
        self.spare = if answer.spare > 0 { answer.spare.max(self.longest) } else { 0 };
        if self.contended(now_ns) {
            self.uncredited += answer.granted as i64 - report.give_back as i64;
            self.credit(answer.part, now_ns);
        } else if answer.granted >= report.want {
            self.next_ask_ns = 0;
        }
    }

    /// Reports what was spent and gives back all that was not.
    pub(super) fn give_back(&mut self) -> Report {
        let used = core::mem::take(&mut self.used);
        let give_back = core::mem::take(&mut self.leased);
        self.uncredited = 0;
        Report { used, content: used, give_back, ..Report::default() }
    }

    /// Takes back what was spent and then not needed: of what a larger limit had lent no more than
    /// this one ever has at once.
    pub(super) fn take_back(&mut self, len: u64) {
        let len = len.min(self.limit.burst_bytes.saturating_sub(self.leased));
        // The ledger may have been told that it was used.
        self.used = self.used.saturating_sub(len);
        self.leased += len;
        // While the limit is contended it was somebody's turn; now it is nobody's.
        self.spare = self.spare.saturating_add(len);
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

    /// The credit with which `len` bytes pass: as many, or what can be saved up.
    fn enough(&self, len: u64) -> i64 {
        self.reserve.clamp(1, len.max(1)) as i64
    }

    fn contended(&mut self, now_ns: u64) -> bool {
        let contended = now_ns < self.contended_until_ns;
        if !contended && !self.members.is_empty() {
            self.dismiss();
        }
        contended
    }

    /// Credits what came in, in equal parts to those who have room for it.
    fn credit(&mut self, part: u64, now_ns: u64) {
        let patience_ns = self.patience_ns;
        let here = |member: &Member| now_ns < member.seen_ns + patience_ns;
        let weight = |member: &Member| u64::from(member.part);
        let active = self.members.iter().filter(|member| here(member)).count() as u64;
        let weights: u64 = self.members.iter().filter(|m| here(m)).map(weight).sum();
        if weights == 0 {
            return;
        }
        // What a whole member gets of something, and what another.
        let whole = |bytes: u64, all: u64| bytes.saturating_mul(WHOLE.into()) / all;
        let of = |whole: u64, member: &Member| whole * weight(member) / u64::from(WHOLE);
        self.reserve = whole(part, weights);
        let due = whole(self.limit.bytes_per_second / CREDIT_PER_SECOND, weights);
        let longest = self.longest;
        let most = |member: &Member| of(due, member).max(longest) as i64;
        for _ in 0..ROUNDS {
            let open = |member: &Member| here(member) && member.credit < most(member);
            let takers: u64 = self.members.iter().filter(|m| open(m)).map(weight).sum();
            let bytes = self.uncredited.max(0) as u64;
            let each = whole(bytes, takers.max(1));
            if each == 0 || takers == 0 {
                break;
            }
            for member in self.members.iter_mut().filter(|member| open(member)) {
                let part = (of(each, member) as i64).min(most(member) - member.credit);
                member.credit += part;
                self.uncredited -= part;
            }
        }
        // What nobody has room for is there for whoever comes.
        self.uncredited = self.uncredited.min(active as i64);
        let held: u64 = self.members.iter().map(|member| member.credit.max(0) as u64).sum();
        self.spare = self.spare.max(self.leased.saturating_sub(held + active));
        if self.members.len() as u64 > 2 * active + 64 {
            self.dismiss();
        }
    }

    /// Voids all tickets; who is still there takes a new one.
    fn dismiss(&mut self) {
        (self.longest, self.uncredited) = (0, 0);
        self.members.clear();
        self.generation = after(self.generation);
    }

    fn member(&mut self, ticket: &mut Ticket, credit: i64, now_ns: u64) -> &mut Member {
        if ticket.generation != self.generation {
            if self.members.len() == self.members.capacity() && !self.members.is_empty() {
                self.dismiss();
            }
            *ticket = Ticket { generation: self.generation, index: self.members.len() as u32 };
            self.uncredited -= credit;
            self.members.push(Member {
                part: WHOLE,
                credit,
                seen_ns: now_ns,
                refused_ns: 0,
                used: 0,
            });
        }
        &mut self.members[ticket.index as usize]
    }
}

/// The generation of tickets after another.
pub(super) fn after(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// Each round hands what the last one could not place to those who still have room.
const ROUNDS: usize = 4;
