//! Volume, against a reference that adds up everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::usage::ACCOUNTS_MAX;
use super::*;

fn name(index: u64) -> Arc<[u8]> {
    format!("account {index}").into_bytes().into()
}

fn periods(day: u32) -> Periods {
    Periods { day: format!("day {day}"), month: format!("month {}", day / 30) }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Add {
        account: u64,
        relayed: [u64; 2],
    },
    /// Saves what some accounts used.
    Save(usize),
    /// Another day begins, later or, after a step of the clock, earlier.
    Day(u32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let add = (0..20_u64, 0..1_000_u64, 0..1_000_u64)
        .prop_map(|(account, a, b)| Act::Add { account, relayed: [a, b] });
    let act = prop_oneof![
        20 => add,
        5 => (1..30_usize).prop_map(Act::Save),
        1 => (0..70_u32).prop_map(Act::Day),
    ];
    prop::collection::vec(act, 1..400)
}

/// A database: what was saved of each account, by period.
#[derive(Default)]
struct Saved(BTreeMap<(String, Arc<[u8]>), u64>);

impl Saved {
    fn save(&mut self, usage: &mut Usage, most: usize) -> usize {
        let Periods { day, month } = usage.periods().clone();
        let taken = usage.take_unsaved(most);
        for (account, used) in &taken {
            *self.0.entry((day.clone(), Arc::clone(account))).or_default() += used.total();
            *self.0.entry((month.clone(), Arc::clone(account))).or_default() += used.total();
        }
        taken.len()
    }

    fn save_all(&mut self, usage: &mut Usage) {
        while self.save(usage, 3) > 0 {}
    }

    fn of(&self, period: &str, account: &Arc<[u8]>) -> u64 {
        self.0.get(&(period.to_owned(), Arc::clone(account))).copied().unwrap_or(0)
    }

    fn known(&self, periods: &Periods) -> Known {
        let used = |bytes| Used { to_peer: bytes, to_client: 0 };
        let accounts = self.0.keys().filter(|(period, _)| *period == periods.month);
        let counters = |account: &Arc<[u8]>| Counters {
            day: used(self.of(&periods.day, account)),
            month: used(self.of(&periods.month, account)),
        };
        Known::new(accounts.map(|(_, account)| (Arc::clone(account), counters(account))))
    }
}

proptest! {
    #[test]
    fn every_byte_is_counted_once_in_its_day_and_month(acts in acts()) {
        let (mut usage, mut saved) = (Usage::default(), Saved::default());
        let mut all: BTreeMap<(String, Arc<[u8]>), u64> = BTreeMap::new();
        drop(usage.begin(periods(0), Known::default()));
        for act in acts {
            match act {
                Act::Add { account, relayed } => {
                    let (account, now) = (name(account), usage.periods().clone());
                    usage.add(&account, relayed);
                    for period in [now.day, now.month] {
                        *all.entry((period, Arc::clone(&account))).or_default() +=
                            relayed[0] + relayed[1];
                    }
                }
                Act::Save(most) => {
                    prop_assert!(saved.save(&mut usage, most) <= most);
                }
                Act::Day(day) => {
                    saved.save_all(&mut usage);
                    let next = periods(day);
                    drop(usage.begin(next.clone(), saved.known(&next)));
                }
            }
            let Periods { day, month } = usage.periods().clone();
            for account in (0..20).map(name) {
                let of = |period: &str| {
                    all.get(&(period.to_owned(), Arc::clone(&account))).copied().unwrap_or(0)
                };
                let counters = usage.of(&account).unwrap_or_default();
                prop_assert_eq!(counters.day.total(), of(&day));
                prop_assert_eq!(counters.month.total(), of(&month));
            }
        }
        saved.save_all(&mut usage);
        for ((period, account), bytes) in all {
            prop_assert_eq!(saved.of(&period, &account), bytes);
        }
    }
}

#[test]
fn what_comes_in_while_a_period_begins_is_counted_in_the_new_one() {
    let mut usage = Usage::default();
    drop(usage.begin(periods(0), Known::default()));
    usage.add(&name(1), [10, 5]);
    let known = Counters { day: Used::default(), month: Used { to_peer: 100, to_client: 0 } };
    drop(usage.begin(periods(1), Known::new([(name(1), known)])));
    let counters = usage.of(&name(1)).unwrap();
    assert_eq!((counters.day.total(), counters.month.total()), (15, 115));
    let unsaved = vec![(name(1), Used { to_peer: 10, to_client: 5 })];
    assert_eq!(usage.take_unsaved(10), unsaved);
    assert!(usage.take_unsaved(10).is_empty());
}

#[test]
fn a_period_that_begins_with_nothing_known_is_completed_later() {
    let mut usage = Usage::default();
    let used = |bytes| Used { to_peer: bytes, to_client: 0 };
    let counters = |day, month| Counters { day: used(day), month: used(month) };
    drop(usage.begin(periods(0), Known::new([(name(1), counters(70, 100))])));
    usage.add(&name(1), [7, 0]);
    // The next day of the month. The seven bytes came too late to be saved.
    let old = usage.begin(periods(1), Known::default());
    assert_eq!(usage.of(&name(1)), Some(counters(7, 7)));
    drop(usage.begin(periods(1), old.another_day()));
    assert_eq!(usage.of(&name(1)), Some(counters(7, 107)));
    usage.add(&name(2), [5, 0]);
    // What was stored of these periods turns up.
    let stored = [(name(1), counters(20, 120)), (name(3), counters(1, 1))];
    drop(usage.begin(periods(1), Known::new(stored)));
    let known = [1, 2, 3].map(|account| usage.of(&name(account)).unwrap());
    assert_eq!(known, [counters(27, 127), counters(5, 5), counters(1, 1)]);
    let mut unsaved = usage.take_unsaved(10);
    unsaved.sort_by_key(|(account, _)| Arc::clone(account));
    assert_eq!(unsaved, [(name(1), used(7)), (name(2), used(5))]);
}

#[test]
fn of_too_many_known_accounts_those_that_used_most_in_the_month_stay() {
    let used = |bytes| Used { to_peer: bytes, to_client: 0 };
    let most = ACCOUNTS_MAX as u64;
    let counters = |index: u64| Counters { day: used(index % 3), month: used(index * 37 % 101) };
    let known: Vec<_> = (0..101).map(|index| (name(index), counters(index))).collect();
    let mut usage = Usage::default();
    drop(usage.begin(periods(0), Known::new(known.clone())));
    assert_eq!((usage.accounts(), usage.forgotten()), (ACCOUNTS_MAX, 101 - most));
    for (account, counters) in known {
        let stays = counters.month.total() >= 101 - most;
        assert_eq!(usage.of(&account), stays.then_some(counters));
    }
}

#[test]
fn accounts_are_bounded_and_those_that_use_much_stay() {
    let mut usage = Usage::default();
    let heavy = name(1_000_000);
    usage.add(&heavy, [1 << 40, 0]);
    for index in 0..20 * ACCOUNTS_MAX as u64 {
        usage.add(&name(index), [1, 0]);
        assert!(usage.accounts() <= ACCOUNTS_MAX);
        if index % 7 == 0 {
            usage.take_unsaved(usize::MAX);
        }
    }
    assert_eq!(usage.of(&heavy).unwrap().day.to_peer, 1 << 40);
    assert_eq!(usage.forgotten(), 20 * ACCOUNTS_MAX as u64 + 1 - ACCOUNTS_MAX as u64);
}

#[test]
fn where_nothing_is_saved_accounts_are_bounded_all_the_same() {
    let mut usage = Usage::default();
    for index in 0..4 * ACCOUNTS_MAX as u64 {
        usage.add(&name(index), [1, 0]);
    }
    assert!(usage.accounts() <= ACCOUNTS_MAX, "{}", usage.accounts());
    let taken = usage.take_unsaved(usize::MAX);
    assert_eq!((taken.len(), usage.forgotten()), (ACCOUNTS_MAX, 3 * ACCOUNTS_MAX as u64));
}

/// One user with one allocation, whose volume is limited per day and month.
fn limited() -> (Ledger, UserId) {
    let limits = UserLimits {
        volume_per_day: Some(1_000),
        volume_per_month: Some(2_500),
        ..UserLimits::default()
    };
    let quotas = Quotas { default: limits, ..Quotas::default() };
    let mut ledger = Ledger::new(Arc::new(quotas), 0);
    drop(ledger.usage().begin(periods(0), Known::default()));
    let grant = ledger.reserve(&name(0), [192, 0, 2, 1].into(), 0).unwrap();
    (ledger, grant.user)
}

fn relay(ledger: &mut Ledger, user: UserId, bytes: u64) -> (Option<Period>, bool) {
    let dropped = [Dropped::default(); LIMITS.len()];
    let count =
        Count { user, relayed: [bytes, 0], dropped, spread: 1, spent: None, crossed: false };
    let mut exchange = Exchange { asks: Vec::new(), counts: vec![count] };
    ledger.exchange(0, &mut exchange, 0);
    (exchange.counts[0].spent, exchange.counts[0].crossed)
}

/// Begins a day as if all had been saved.
fn begin(ledger: &mut Ledger, day: u32, month_bytes: u64) {
    ledger.usage().take_unsaved(usize::MAX);
    let month = Used { to_peer: month_bytes, to_client: 0 };
    let known = (name(0), Counters { day: Used::default(), month });
    drop(ledger.usage().begin(periods(day), Known::new([known])));
}

#[test]
fn a_spent_volume_is_said_once_and_the_next_period_opens() {
    let (mut ledger, user) = limited();
    assert_eq!(relay(&mut ledger, user, 999), (None, false));
    assert_eq!(relay(&mut ledger, user, 1), (Some(Period::Day), true));
    assert_eq!(relay(&mut ledger, user, 5), (Some(Period::Day), false));
    let refused = ledger.reserve(&name(0), [192, 0, 2, 1].into(), 0);
    assert_eq!(refused, Err(Quota::UserVolume));

    begin(&mut ledger, 1, 1_005);
    assert!(ledger.reserve(&name(0), [192, 0, 2, 1].into(), 0).is_ok());
    assert_eq!(relay(&mut ledger, user, 999), (None, false));
    assert_eq!(relay(&mut ledger, user, 1), (Some(Period::Day), true));
    // The month ends later than the day, and is another matter.
    assert_eq!(relay(&mut ledger, user, 495), (Some(Period::Month), true));
    assert_eq!(relay(&mut ledger, user, 0), (Some(Period::Month), false));

    begin(&mut ledger, 2, 2_500);
    assert_eq!(relay(&mut ledger, user, 0), (Some(Period::Month), false));
    begin(&mut ledger, 30, 0);
    assert_eq!(relay(&mut ledger, user, 10), (None, false));
    // The clock is set back into the month that was spent.
    begin(&mut ledger, 3, 2_500);
    assert_eq!(relay(&mut ledger, user, 0), (Some(Period::Month), true));
}

#[test]
fn a_higher_limit_opens_at_once() {
    let (mut ledger, user) = limited();
    assert_eq!(relay(&mut ledger, user, 1_000), (Some(Period::Day), true));
    ledger.configure(Arc::new(Quotas { count_volume: true, ..Quotas::default() }), 0);
    assert_eq!(relay(&mut ledger, user, 1), (None, false));
    assert_eq!(ledger.usage().of(&name(0)).unwrap().day.total(), 1_001);
}
