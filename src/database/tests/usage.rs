//! Used volume: added up by several, kept through a kill, bounded.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::*;

fn used(to_peer: u64, to_client: u64) -> Used {
    Used { to_peer, to_client }
}

fn delta(account: &str, used: Used) -> (Arc<[u8]>, Used) {
    (account.as_bytes().into(), used)
}

#[test]
fn it_adds_up_by_account_day_and_month() {
    let file = file();
    let mut database = file.open();
    let alice = delta("alice", used(1, 20));
    database.add_usage(REALM, "2026-11-19", MONTH, std::slice::from_ref(&alice)).unwrap();
    database.add_usage(REALM, DAY, MONTH, &[alice, delta("bob", used(0, 5))]).unwrap();
    database.add_usage("example.com", DAY, MONTH, &[delta("alice", used(9, 9))]).unwrap();
    drop(database);

    let database = file.open();
    let alice = Usage { account: b"alice".into(), day: used(1, 20), month: used(2, 40) };
    let bob = Usage { account: b"bob".into(), day: used(0, 5), month: used(0, 5) };
    assert_eq!(database.usage(REALM, DAY, MONTH).unwrap(), [alice.clone(), bob.clone()]);
    assert_eq!(database.usage_of(REALM, b"alice", DAY, MONTH).unwrap(), alice);
    assert_eq!(alice.month.total(), 42);
    assert_eq!(period_names(date(2026, 11, 20)), (DAY.into(), MONTH.into()));
    assert_eq!(period_names(date(2026, 1, 2)), ("2026-01-02".into(), "2026-01".into()));
    let next = database.usage(REALM, "2026-12-01", "2026-12").unwrap();
    assert_eq!(next, [], "the next period begins at nothing");
    let tomorrow = database.usage_of(REALM, b"bob", "2026-11-21", MONTH).unwrap();
    assert_eq!(tomorrow, Usage { day: used(0, 0), ..bob });
}

#[test]
fn sums_stay_at_their_greatest() {
    let file = file();
    let mut database = file.open();
    let greatest = i64::MAX as u64;
    for (more, sum) in [
        (used(greatest - 1, u64::MAX), used(greatest - 1, greatest)),
        (used(1, 1), used(greatest, greatest)),
        (used(u64::MAX, u64::MAX), used(greatest, greatest)),
    ] {
        database.add_usage(REALM, DAY, MONTH, &[delta("alice", more)]).unwrap();
        assert_eq!(database.usage_of(REALM, b"alice", DAY, MONTH).unwrap().month, sum);
    }
}

#[test]
fn several_may_add_at_once_and_nothing_is_lost() {
    const ROUNDS: u64 = 100;
    let file = file();
    drop(file.open());
    thread::scope(|scope| {
        for writer in 0..3 {
            let file = &file;
            scope.spawn(move || {
                let mut database = file.open();
                let own = format!("own{writer}");
                for _ in 0..ROUNDS {
                    let deltas = [delta("all", used(1, 2)), delta(&own, used(3, 0))];
                    database.add_usage(REALM, DAY, MONTH, &deltas).unwrap();
                }
            });
        }
    });
    let usage = file.open().usage(REALM, DAY, MONTH).unwrap();
    assert_eq!(usage.len(), 4);
    for account in usage {
        let expected = match &*account.account {
            b"all" => used(3 * ROUNDS, 6 * ROUNDS),
            _ => used(3 * ROUNDS, 0),
        };
        assert_eq!((account.day, account.month), (expected, expected), "{:?}", account.account);
    }
}

/// Names the file to the child that the next test kills.
const VICTIM: &str = "TURNWAY_TEST_VICTIM";

#[test]
fn a_killed_program_loses_at_most_what_it_was_just_adding() {
    const ACCOUNTS: usize = 50;
    if let Some(path) = env::var_os(VICTIM) {
        let mut database = Database::open(path.as_ref()).unwrap();
        let deltas: Vec<_> =
            (0..ACCOUNTS).map(|account| delta(&account.to_string(), used(1, 1))).collect();
        for done in 1_u64.. {
            database.add_usage(REALM, DAY, MONTH, &deltas).unwrap();
            println!("\ndone {done}");
        }
    }
    let file = file();
    let mut last = 0;
    for round in 1..=3 {
        let name = "database::tests::usage::a_killed_program_loses_at_most_what_it_was_just_adding";
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(VICTIM, &file.path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut acknowledged = || {
            let done = lines.by_ref().find_map(|line| line.strip_prefix("done ")?.parse().ok());
            done.map(|done: u64| done)
        };
        let before = last;
        for _ in 0..10 * round {
            last = before + acknowledged().unwrap();
        }
        child.kill().unwrap();
        while let Some(done) = acknowledged() {
            last = before + done;
        }
        child.wait().unwrap();

        let usage = file.open().usage(REALM, DAY, MONTH).unwrap();
        assert_eq!(usage.len(), ACCOUNTS);
        let kept = usage[0].month.to_peer;
        assert!(kept == last || kept == last + 1, "{kept} kept, {last} acknowledged");
        let whole =
            |account: &Usage| account.month == used(kept, kept) && account.day.to_peer == kept;
        assert!(usage.iter().all(whole), "{usage:?}");
        last = kept;
    }
}

#[test]
fn the_newest_periods_are_kept_whatever_day_it_is() {
    let file = file();
    let mut database = file.open();
    let mut days: Vec<_> = date(2026, 11, 20).series(-1.day()).take(MAX_DAYS + 3).collect();
    // On this day the clock was wrong.
    days.insert(0, date(2096, 1, 1));
    let mut months: Vec<_> = date(2026, 11, 1).series(-1.month()).take(MAX_MONTHS + 3).collect();
    months.insert(0, date(2096, 1, 1));
    let names = |days: &[Date], months: &[Date]| {
        let days = days.iter().map(|date| period_names(*date).0);
        let mut names: Vec<_> = days.chain(months.iter().map(|it| period_names(*it).1)).collect();
        names.sort_unstable();
        names
    };
    for realm in [REALM, "example.com"] {
        for period in names(&days, &months) {
            database.add_usage(realm, &period, &period, &[delta("alice", used(1, 0))]).unwrap();
        }
    }
    database.prune_usage().unwrap();
    let kept = names(&days[..MAX_DAYS], &months[..MAX_MONTHS]);
    let connection = file.raw();
    for realm in [REALM, "example.com"] {
        let all = "SELECT period FROM usage WHERE realm = ?1 ORDER BY period";
        let mut all = connection.prepare(all).unwrap();
        let periods = all.query_map([realm], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(periods.map(Result::unwrap).collect::<Vec<_>>(), kept);
    }
}

#[test]
fn of_too_many_accounts_those_that_used_most_are_kept() {
    let file = file();
    let mut database = file.open();
    let deltas: Vec<_> =
        (0..10).map(|account| delta(&account.to_string(), used(account * 7 % 10, 0))).collect();
    database.add_usage(REALM, DAY, MONTH, &deltas).unwrap();
    database.prune_usage_to(10).unwrap();
    assert_eq!(database.usage(REALM, DAY, MONTH).unwrap().len(), 10);
    database.prune_usage_to(3).unwrap();
    let kept = database.usage(REALM, DAY, MONTH).unwrap();
    let mut most: Vec<u64> = kept.iter().map(|account| account.month.to_peer).collect();
    most.sort_unstable();
    assert_eq!(most, [7, 8, 9]);
    assert!(kept.iter().all(|account| account.day == account.month));
}
