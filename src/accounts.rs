//! Keeps ledger and database in step: users and their limits come from the database, used volume
//! goes into it. One thread with a connection of its own; nothing that relays waits for it.
//!
//! Volume is saved every [`STEP`], so that a killed daemon loses no more than the last second. The
//! days and months it is counted in are those of the configured time zone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::mpsc::UnboundedSender;
use turnway_relay::ledger::{Counters, Periods, Used};

use crate::database::{self, Database, DatabaseError, UserRow};
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
    realm: String,
    zone: TimeZone,
    ledger: Arc<SharedLedger>,
    users: UnboundedSender<Vec<UserRow>>,
    version: u64,
    /// Of the present periods, and not in the database yet.
    unsaved: Vec<(Arc<[u8]>, database::Used)>,
    /// `None`: not yet. A start does not wait for whoever else writes to the file.
    pruned: Option<Instant>,
    failing: bool,
    errors: Arc<AtomicU64>,
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
        realm: String,
        zone: TimeZone,
        ledger: Arc<SharedLedger>,
        users: UnboundedSender<Vec<UserRow>>,
    ) -> Result<(Self, Vec<UserRow>), DatabaseError> {
        let version = database.users_version()?;
        let rows = database.users(&realm)?;
        let mut accounts = Self {
            database,
            realm,
            zone,
            ledger,
            users,
            version,
            unsaved: Vec::new(),
            pruned: None,
            failing: false,
            errors: Arc::new(AtomicU64::new(0)),
        };
        accounts.turn_period()?;
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
                self.step();
            }
            self.step(); // what the shards left behind
        };
        let thread = thread::Builder::new().name("accounts".to_owned()).spawn(work)?;
        Ok(Clerk { orders, thread })
    }

    fn step(&mut self) {
        let done = self.turn_period().and_then(|()| self.save()).and_then(|()| self.look());
        match done {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the database works again; nothing was lost");
            }
            Ok(()) => {}
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

    /// Begins the day and the month that it is now, if it is not the ledger's already.
    fn turn_period(&mut self) -> Result<(), DatabaseError> {
        let today = Timestamp::now().to_zoned(self.zone.clone()).date();
        let day = today.to_string();
        let periods = Periods { month: day[..day.len() - 3].to_owned(), day };
        let present = self.ledger.lock().usage().periods().clone();
        if present == periods {
            return Ok(());
        }
        if !present.day.is_empty() {
            self.save()?;
            tracing::info!(day = periods.day, "a new day of volume begins");
        }
        let known = self.database.usage(&self.realm, &periods.day, &periods.month)?;
        let known: Vec<_> = known
            .into_iter()
            .map(|row| {
                let counters =
                    Counters { day: into_ledger(row.day), month: into_ledger(row.month) };
                (Arc::from(row.account), counters)
            })
            .collect();
        self.ledger.lock().usage().begin(periods, known);
        Ok(())
    }

    /// Writes what was used since the last time.
    fn save(&mut self) -> Result<(), DatabaseError> {
        let periods = self.ledger.lock().usage().periods().clone();
        // First what could not be written before. Until it can, the ledger adds up by account,
        // where here it would pile up.
        self.write(&periods)?;
        loop {
            let taken = self.ledger.lock().usage().take_unsaved(PER_LOCK);
            if taken.is_empty() {
                break;
            }
            self.unsaved.extend(taken.into_iter().map(|(account, used)| (account, of(used))));
        }
        self.write(&periods)?;
        if self.pruned.is_none_or(|at| at.elapsed() >= PRUNE) {
            self.pruned = Some(Instant::now());
            let today = Timestamp::now().to_zoned(self.zone.clone()).date();
            self.database.prune_usage(today)?;
        }
        Ok(())
    }

    /// Writes what was taken from the ledger, which stays here until that succeeds.
    fn write(&mut self, Periods { day, month }: &Periods) -> Result<(), DatabaseError> {
        if !self.unsaved.is_empty() {
            self.database.add_usage(&self.realm, day, month, &self.unsaved)?;
            self.unsaved.clear();
        }
        Ok(())
    }

    /// Hands the users over if any of them changed.
    fn look(&mut self) -> Result<(), DatabaseError> {
        let version = self.database.users_version()?;
        if version != self.version {
            let users = self.database.users(&self.realm)?;
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
        let _ = self.thread.join();
    }
}

fn into_ledger(used: database::Used) -> Used {
    Used { to_peer: used.to_peer, to_client: used.to_client }
}

fn of(used: Used) -> database::Used {
    database::Used { to_peer: used.to_peer, to_client: used.to_client }
}
