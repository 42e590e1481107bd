//! Keeps ledger and database in step: users and their limits come from the database, used volume
//! goes into it. One thread with a connection of its own; nothing that relays waits for it.
//!
//! Volume is saved every [`STEP`], so that a killed daemon loses no more than the last second. The
//! days and months it is counted in are those of the configured time zone. They begin on time even
//! where the database fails; what it has of them is then read later.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::mpsc::UnboundedSender;
use turnway_relay::auth::opaque_string;
use turnway_relay::ledger::{ACCOUNTS_MAX, Counters, Known, Periods, Used};
use turnway_relay::quota;

use crate::database::{self, Database, DatabaseError, Usage, UserRow, period_names};
use crate::ledger::SharedLedger;

/// How often the database is looked at and written to.
pub const STEP: Duration = Duration::from_millis(500);

/// How often old periods are removed from the database.
const PRUNE: Duration = Duration::from_secs(3600);

/// Accounts taken from the ledger at a time, so that no shard waits long for it.
const PER_LOCK: usize = 256;

/// See the module.
pub struct Accounts {
    database: Database,
    /// By their numbers.
    realms: Vec<String>,
    zone: TimeZone,
    ledger: Arc<SharedLedger>,
    users: UnboundedSender<Vec<UserRow>>,
    version: u64,
    /// Taken from the ledger and not in the database yet, the oldest first.
    unsaved: VecDeque<Unsaved>,
    /// Whether the ledger knows what the database has of the present periods.
    complete: bool,
    /// `None`: not yet. A start does not wait for whoever else writes to the file.
    pruned: Option<Instant>,
    failing: bool,
    /// Whether volume was lost since the database began to fail.
    lossy: bool,
    errors: Arc<AtomicU64>,
}

/// What was used in some periods.
struct Unsaved {
    periods: Periods,
    used: Vec<(Arc<[u8]>, database::Used)>,
}

/// What the thread may be asked.
enum Order {
    Zone(TimeZone),
}

/// The thread at work.
pub struct Clerk {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

impl Accounts {
    /// Opens nothing: `database` is open. Reads the used volume into the ledger.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn new(
        database: Database,
        realms: Vec<String>,
        zone: TimeZone,
        ledger: Arc<SharedLedger>,
        users: UnboundedSender<Vec<UserRow>>,
    ) -> Result<(Self, Vec<UserRow>), DatabaseError> {
        let version = database.users_version()?;
        let rows = users_of(&database, &realms)?;
        let mut accounts = Self {
            database,
            realms,
            zone,
            ledger,
            users,
            version,
            unsaved: VecDeque::new(),
            complete: false,
            pruned: None,
            failing: false,
            lossy: false,
            errors: Arc::new(AtomicU64::new(0)),
        };
        accounts.turn_period(Timestamp::now())?;
        Ok((accounts, rows))
    }

    /// How often the database failed.
    pub fn errors(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.errors)
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub fn start(mut self) -> std::io::Result<Clerk> {
        let (orders, inbox) = mpsc::channel();
        let work = move || {
            loop {
                match inbox.recv_timeout(STEP) {
                    Ok(Order::Zone(zone)) => self.zone = zone,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                self.step(Timestamp::now());
            }
            self.finish();
        };
        let thread = thread::Builder::new().name("accounts".to_owned()).spawn(work)?;
        Ok(Clerk { orders, thread })
    }

    fn step(&mut self, now: Timestamp) {
        let done = self.turn_period(now).and_then(|()| self.save());
        match done.and_then(|()| self.prune()).and_then(|()| self.look()) {
            Ok(()) => self.works(),
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                if !self.failing {
                    tracing::error!(
                        "{error}; used volume is kept in memory until the database works again"
                    );
                }
                self.failing = true;
            }
        }
    }

    /// Saves what the shards left behind. There is no later time to save what cannot be now.
    fn finish(&mut self) {
        let Err(error) = self.save() else { return self.works() };
        self.take();
        let all = || self.unsaved.iter().flat_map(|unsaved| &unsaved.used);
        let accounts = all().map(|(account, _)| account).collect::<BTreeSet<_>>().len();
        let bytes = sum(all());
        tracing::error!(accounts, bytes, "{error}; used volume that was not saved is lost");
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.failing) {
            match std::mem::take(&mut self.lossy) {
                false => tracing::info!("the database works again; nothing was lost"),
                true => tracing::info!("the database works again"),
            }
        }
    }

    /// Begins the day and the month that it is now, if they are not the ledger's already, and
    /// reads what was used in them.
    fn turn_period(&mut self, now: Timestamp) -> Result<(), DatabaseError> {
        let (day, month) = period_names(now.to_zoned(self.zone.clone()).date());
        let periods = Periods { day, month };
        let present = self.ledger.lock().usage().periods().clone();
        let other = present != periods;
        if !other && self.complete {
            return Ok(());
        }
        if other && !present.day.is_empty() {
            tracing::info!(day = periods.day, "a new day of volume begins");
        }
        let Periods { day, month } = &periods;
        // Saved first: what is still the ledger's alone is added to what is read.
        let read = self.save().and_then(|()| self.usage(day, month));
        self.complete = read.is_ok();
        let failed = match read {
            Ok(rows) => {
                drop(self.begin(periods, Known::new(rows)));
                return Ok(());
            }
            Err(failed) => failed,
        };
        if other {
            self.begin_unread(&present, periods);
        }
        Err(failed)
    }

    /// What the database has of two periods.
    fn usage(&self, day: &str, month: &str) -> Result<Vec<Row>, DatabaseError> {
        let mut all = Vec::new();
        for (number, realm) in self.realms.iter().enumerate() {
            let of = prepared(realm).filter(|_| number > 0);
            let rows = self.database.usage(realm, day, month)?.into_iter().map(known);
            all.extend(rows.map(|(name, used)| (quota::account(&name, of.as_deref()), used)));
        }
        Ok(all)
    }

    /// Begins periods on time although the database cannot say what was used in them: who has
    /// spent a day is let in again the next day. A month goes on with what the ledger has of it.
    fn begin_unread(&mut self, present: &Periods, periods: Periods) {
        self.take();
        self.bound(ACCOUNTS_MAX);
        let same_month = present.month == periods.month;
        let old = self.begin(periods.clone(), Known::default());
        if same_month {
            drop(self.begin(periods, old.another_day()));
        }
    }

    /// Gives what the ledger knew before, to be dropped while no shard waits for it.
    fn begin(&self, periods: Periods, known: Known) -> Known {
        self.ledger.lock().usage().begin(periods, known)
    }

    /// Writes what was used since the last time.
    fn save(&mut self) -> Result<(), DatabaseError> {
        self.database.still_there()?;
        // First what could not be written before. Until it can, the ledger adds up by account,
        // where here it would pile up.
        self.write()?;
        self.take();
        self.write()
    }

    /// Takes from the ledger what is not saved of its periods.
    fn take(&mut self) {
        let periods = self.ledger.lock().usage().periods().clone();
        let mut used = Vec::new();
        loop {
            let taken = self.ledger.lock().usage().take_unsaved(PER_LOCK);
            if taken.is_empty() {
                break;
            }
            used.extend(taken.into_iter().map(|(account, used)| (account, of(used))));
        }
        if !used.is_empty() {
            self.unsaved.push_back(Unsaved { periods, used });
        }
    }

    /// Writes what was taken from the ledger, which stays here until that succeeds.
    fn write(&mut self) -> Result<(), DatabaseError> {
        while let Some(Unsaved { periods: Periods { day, month }, used }) = self.unsaved.front() {
            for (number, realm) in self.realms.iter().enumerate() {
                let of_realm = |account: &[u8]| {
                    let (name, of) = quota::split(account);
                    let is_it = match of {
                        None => number == 0,
                        Some(of) => number > 0 && prepared(realm).as_deref() == Some(of),
                    };
                    is_it.then(|| Arc::<[u8]>::from(name))
                };
                let used: Vec<_> = used
                    .iter()
                    .filter_map(|(account, used)| Some((of_realm(account)?, *used)))
                    .collect();
                if !used.is_empty() {
                    self.database.add_usage(realm, day, month, &used)?;
                }
            }
            self.unsaved.pop_front();
        }
        Ok(())
    }

    /// Forgets the oldest of what was taken, so that of a database that fails for many days not
    /// more than `most` accounts pile up.
    fn bound(&mut self, most: usize) {
        let waiting = |all: &VecDeque<Unsaved>| all.iter().map(|it| it.used.len()).sum::<usize>();
        while waiting(&self.unsaved) > most
            && let Some(Unsaved { periods, used }) = self.unsaved.pop_front()
        {
            self.lossy = true;
            let (day, accounts, bytes) = (periods.day, used.len(), sum(&used));
            tracing::error!(day, accounts, bytes, "too much waits for the database; some is lost");
        }
    }

    /// Removes old periods now and then.
    fn prune(&mut self) -> Result<(), DatabaseError> {
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE) {
            return Ok(());
        }
        self.pruned = Some(Instant::now());
        self.database.prune_usage()
    }

    /// Hands the users over if any of them changed.
    fn look(&mut self) -> Result<(), DatabaseError> {
        let version = self.database.users_version()?;
        if version != self.version {
            let users = users_of(&self.database, &self.realms)?;
            self.version = version;
            // The control plane ends before this thread does.
            let _ = self.users.send(users);
        }
        Ok(())
    }
}

/// Tells the thread of another time zone.
pub struct Zones(mpsc::Sender<Order>);

impl Zones {
    /// Days and months begin by this one from now on.
    pub fn set(&self, zone: TimeZone) {
        // Without the thread nothing is counted that a zone could matter to.
        let _ = self.0.send(Order::Zone(zone));
    }
}

impl Clerk {
    /// For whoever reads the configuration again. Drop it before [`Self::finish`].
    pub fn zones(&self) -> Zones {
        Zones(self.orders.clone())
    }

    /// Saves what is left and ends. The shards must have ended.
    pub fn finish(self) {
        drop(self.orders);
        if self.thread.join().is_err() {
            tracing::error!("the accounts panicked; used volume that was not saved is lost");
        }
    }
}

/// The users of all realms.
fn users_of(database: &Database, realms: &[String]) -> Result<Vec<UserRow>, DatabaseError> {
    let mut all = Vec::new();
    for (number, realm) in (0..).zip(realms) {
        let rows = database.users(realm)?.into_iter();
        all.extend(rows.map(|row| UserRow { realm: number, ..row }));
    }
    Ok(all)
}

/// A realm as accounts name it.
fn prepared(realm: &str) -> Option<Vec<u8>> {
    opaque_string(realm.as_bytes()).map(|realm| realm.into_owned().into_bytes())
}

/// An account as the ledger names it, and what it has used.
type Row = (Arc<[u8]>, Counters);

fn known(row: Usage) -> Row {
    let counters = Counters { day: into_ledger(row.day), month: into_ledger(row.month) };
    (Arc::from(row.account), counters)
}

/// Bytes in all.
fn sum<'a>(used: impl IntoIterator<Item = &'a (Arc<[u8]>, database::Used)>) -> u64 {
    used.into_iter().fold(0, |sum, (_, used)| sum.saturating_add(used.total()))
}

fn into_ledger(used: database::Used) -> Used {
    Used { to_peer: used.to_peer, to_client: used.to_client }
}

fn of(used: Used) -> database::Used {
    database::Used { to_peer: used.to_peer, to_client: used.to_client }
}
