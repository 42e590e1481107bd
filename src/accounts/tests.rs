//! A database that goes away, and days that begin meanwhile. The clock is the tests'.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::ToSpan as _;
use tempfile::TempDir;
use turnway_relay::Quotas;
use turnway_relay::ledger::{Count, Dropped, Exchange, LIMITS, UserId};
use turnway_relay::outcome::{Period, Quota};
use turnway_relay::quota::UserLimits;

use super::*;

const REALM: &str = "example.org";
const DAY_BYTES: u64 = 1_000;
const MONTH_BYTES: u64 = 1_500;

/// Accounts at work, in a time of their own.
struct Office {
    accounts: Accounts,
    ledger: Arc<SharedLedger>,
    now: Timestamp,
    path: PathBuf,
    _folder: TempDir,
}

impl Office {
    fn open() -> Self {
        let limits = UserLimits {
            volume_per_day: Some(DAY_BYTES),
            volume_per_month: Some(MONTH_BYTES),
            ..UserLimits::default()
        };
        let quotas = Quotas { default: limits, count_volume: true, ..Quotas::default() };
        let ledger = Arc::new(SharedLedger::new(Arc::new(quotas), 0));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.db");
        let database = Database::open(&path).unwrap();
        let (users, _) = tokio::sync::mpsc::unbounded_channel();
        let opened =
            Accounts::new(database, vec![REALM.into()], TimeZone::UTC, Arc::clone(&ledger), users);
        let now = "2030-05-10T12:00:00Z".parse().unwrap();
        let accounts = opened.unwrap().0;
        let mut office = Self { accounts, ledger, now, path, _folder: folder };
        office.step();
        office
    }

    fn step(&mut self) {
        self.accounts.step(self.now);
    }

    fn days_later(&mut self, days: i64) {
        self.now = self.now.checked_add((24 * days).hours()).unwrap();
        self.step();
    }

    fn user(&self, name: &str) -> Result<UserId, Quota> {
        let account = Arc::from(name.as_bytes());
        let grant = self.ledger.lock().reserve(&account, [192, 0, 2, 1].into(), 0);
        grant.map(|grant| grant.user)
    }

    /// Relays so much, and says which period is spent.
    fn relay(&self, user: UserId, bytes: u64) -> Option<Period> {
        let dropped = [Dropped::default(); LIMITS.len()];
        let count =
            Count { user, relayed: [bytes, 0], dropped, spread: 1, spent: None, crossed: false };
        let mut exchange = Exchange { asks: Vec::new(), counts: vec![count] };
        self.ledger.lock().exchange(0, &mut exchange, 0);
        exchange.counts[0].spent
    }

    /// What the database has of a day and of its month.
    fn saved(&self, account: &str, day: &str) -> [u64; 2] {
        let database = Database::open(&self.path).unwrap();
        let usage = database.usage_of(REALM, account.as_bytes(), day, &day[..7]).unwrap();
        [usage.day.total(), usage.month.total()]
    }

    fn away(&self) -> PathBuf {
        let away = self.path.with_extension("away");
        fs::rename(&self.path, &away).unwrap();
        away
    }

    fn back(&self, away: &Path) {
        fs::rename(away, &self.path).unwrap();
    }

    fn errors(&self) -> u64 {
        self.accounts.errors().load(Ordering::Relaxed)
    }
}

#[test]
fn nothing_is_written_to_a_file_that_was_removed_or_replaced() {
    let mut office = Office::open();
    let alice = office.user("alice").unwrap();
    office.relay(alice, 10);
    office.step();
    assert_eq!(office.errors(), 0);
    let away = office.away();
    office.relay(alice, 20);
    office.step();
    assert_eq!(office.errors(), 1);
    let error = office.accounts.save().unwrap_err().to_string();
    let told = "users.db: was removed or replaced while running; put it back or restart Turnway";
    assert!(error.ends_with(told), "{error}");

    fs::copy(&away, &office.path).unwrap();
    let other = fs::read(&office.path).unwrap();
    office.step();
    assert_eq!(office.errors(), 2, "the same bytes are not the same file");
    assert_eq!(fs::read(&office.path).unwrap(), other);

    office.back(&away);
    office.step();
    assert_eq!(office.errors(), 2);
    assert_eq!(office.saved("alice", "2030-05-10"), [30, 30]);
}

#[test]
fn a_day_begins_on_time_where_the_database_fails() {
    let mut office = Office::open();
    let [alice, bob] = ["alice", "bob"].map(|name| office.user(name).unwrap());
    // Known to the database only, of a day to come: the clock was wrong once.
    let early: Arc<[u8]> = b"bob"[..].into();
    let used = database::Used { to_peer: 990, to_client: 0 };
    let mut other = Database::open(&office.path).unwrap();
    other.add_usage(REALM, "2030-05-11", "2030-05", &[(early, used)]).unwrap();
    drop(other);
    assert_eq!(office.relay(alice, DAY_BYTES), Some(Period::Day));
    assert_eq!(office.user("alice"), Err(Quota::UserVolume));
    let away = office.away();
    office.days_later(1);
    assert!(office.user("alice").is_ok(), "the day is another");
    assert_eq!(office.relay(alice, 100), None);
    assert_eq!(office.relay(alice, 400), Some(Period::Month), "the month is the same");
    assert_eq!(office.relay(bob, 20), None);

    office.back(&away);
    office.step();
    assert_eq!(office.relay(bob, 0), Some(Period::Day), "what is stored counts as well");
    assert_eq!(office.saved("alice", "2030-05-10"), [1_000, 1_500]);
    assert_eq!(office.saved("alice", "2030-05-11"), [500, 1_500]);
    assert_eq!(office.saved("bob", "2030-05-11"), [1_010, 1_010]);
    assert_eq!(office.relay(alice, 1), Some(Period::Month));
    office.step();
    assert_eq!(office.saved("alice", "2030-05-11"), [501, 1_501]);
}

#[test]
fn a_month_begins_on_time_where_the_database_fails() {
    let mut office = Office::open();
    let alice = office.user("alice").unwrap();
    assert_eq!(office.relay(alice, MONTH_BYTES), Some(Period::Month));
    let away = office.away();
    office.days_later(30);
    assert!(office.user("alice").is_ok());
    assert_eq!(office.relay(alice, 7), None);
    office.back(&away);
    office.step();
    assert_eq!(office.saved("alice", "2030-05-10"), [1_500, 1_500]);
    assert_eq!(office.saved("alice", "2030-06-09"), [7, 7]);
}

#[test]
fn what_waits_for_the_database_is_bounded_and_the_oldest_goes() {
    let mut office = Office::open();
    let users = ["alice", "bob"].map(|name| office.user(name).unwrap());
    let away = office.away();
    for _ in 0..3 {
        for user in users {
            office.relay(user, 1);
        }
        office.days_later(1);
    }
    office.accounts.bound(5);
    office.back(&away);
    office.step();
    assert_eq!(office.saved("alice", "2030-05-10"), [0, 2]);
    assert_eq!(office.saved("bob", "2030-05-11"), [1, 2]);
    assert_eq!(office.saved("bob", "2030-05-12"), [1, 2]);
}
