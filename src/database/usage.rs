//! Used volume, by account and period.
//!
//! A period is a day, "2026-11-20", or a month, "2026-11", in the time zone of whoever counts. An
//! account is a user's name, or what is behind time-limited names. There is one row for each
//! account and period; [`Database::prune_usage`] bounds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::users::{integer, prepare_realm};
use super::{Database, DatabaseError, Problem};

/// How many days are kept, today among them: this month and the one before.
pub const MAX_DAYS: usize = 62;

/// How many months are kept, this one among them.
pub const MAX_MONTHS: usize = 24;

/// How many accounts are kept of one period of a realm: those that used most. Some 50 MB a period,
/// with names of usual length.
pub const MAX_ACCOUNTS: usize = 1_000_000;

/// Payload bytes of each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// From the account's clients to peers.
    pub to_peer: u64,
    /// From peers to the account's clients.
    pub to_client: u64,
}

/// What an account used in the two periods that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whose it is.
    pub account: Vec<u8>,
    /// In the day.
    pub day: Used,
    /// In the month.
    pub month: Used,
}

impl Used {
    /// Both directions, which is what a volume limit is about.
    pub fn total(self) -> u64 {
        self.to_peer.saturating_add(self.to_client)
    }
}

/// The names of the day and of the month that a date is in.
pub fn period_names(date: Date) -> (String, String) {
    (date.to_string(), format!("{:04}-{:02}", date.year(), date.month()))
}

impl Database {
    /// What every account of a realm used in `day` and `month`, by account. Who used nothing in
    /// either is not among them.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn usage(&self, realm: &str, day: &str, month: &str) -> Result<Vec<Usage>, DatabaseError> {
        self.named(|connection| {
            let realm = prepare_realm(realm)?;
            let transaction = connection.unchecked_transaction()?;
            let mut accounts = BTreeMap::<Vec<u8>, Usage>::new();
            for_each(&transaction, &realm, day, |account, used| {
                entry(&mut accounts, account).day = used;
            })?;
            for_each(&transaction, &realm, month, |account, used| {
                entry(&mut accounts, account).month = used;
            })?;
            Ok(accounts.into_values().collect())
        })
    }

    /// What one account used in `day` and `month`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn usage_of(
        &self,
        realm: &str,
        account: &[u8],
        day: &str,
        month: &str,
    ) -> Result<Usage, DatabaseError> {
        self.named(|connection| {
            let realm = prepare_realm(realm)?;
            let one = "SELECT to_peer, to_client FROM usage \
                       WHERE realm = ?1 AND period = ?2 AND account = ?3";
            let mut one = connection.prepare_cached(one)?;
            let mut used = |period| {
                let row = one.query_row((&realm, period, account), |row| {
                    Ok(Used { to_peer: row.get(0)?, to_client: row.get(1)? })
                });
                row.optional().map(Option::unwrap_or_default)
            };
            Ok(Usage { account: account.to_vec(), day: used(day)?, month: used(month)? })
        })
    }

    /// Adds what was used to the day and to the month: all of it, or after an error nothing. Sums
    /// stay at `i64::MAX`. Several programs may add to one file.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; then the same deltas can be added again.
    pub fn add_usage(
        &mut self,
        realm: &str,
        day: &str,
        month: &str,
        deltas: &[(Arc<[u8]>, Used)],
    ) -> Result<(), DatabaseError> {
        self.named_mut(|connection| {
            let realm = prepare_realm(realm)?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut add = transaction.prepare_cached(ADD)?;
                for (account, used) in deltas {
                    let (to_peer, to_client) = (integer(used.to_peer), integer(used.to_client));
                    for period in [day, month] {
                        add.execute((&realm, period, &**account, to_peer, to_client))?;
                    }
                }
            }
            Ok(transaction.commit()?)
        })
    }

    /// Removes days and months that are older than [`MAX_DAYS`] and [`MAX_MONTHS`], and of each
    /// period the accounts beyond [`MAX_ACCOUNTS`] that used least: they begin anew. Meant for
    /// once an hour or so; where there is nothing to remove it takes as long as counting the rows.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; what was removed before stays removed.
    pub fn prune_usage(&mut self, today: Date) -> Result<(), DatabaseError> {
        self.prune_usage_to(today, MAX_ACCOUNTS)
    }

    pub(super) fn prune_usage_to(
        &mut self,
        today: Date,
        accounts: usize,
    ) -> Result<(), DatabaseError> {
        let accounts = i64::try_from(accounts).unwrap_or(i64::MAX);
        self.named(|connection| {
            let mut after = (String::new(), String::new());
            // Each period in a transaction of its own, so that nobody waits for all of them.
            while let Some((realm, period)) = next_period(connection, &after)? {
                if is_old(&period, today) {
                    let remove = "DELETE FROM usage WHERE realm = ?1 AND period = ?2";
                    connection.execute(remove, (&realm, &period))?;
                } else {
                    connection.execute(REMOVE_SMALLEST, (&realm, &period, accounts))?;
                }
                after = (realm, period);
            }
            Ok(())
        })
    }
}

const ADD: &str = "
INSERT INTO usage (realm, period, account, to_peer, to_client) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO UPDATE SET
    to_peer = to_peer + min(excluded.to_peer, 9223372036854775807 - to_peer),
    to_client = to_client + min(excluded.to_client, 9223372036854775807 - to_client)";

const REMOVE_SMALLEST: &str = "
DELETE FROM usage WHERE realm = ?1 AND period = ?2 AND account IN (
    SELECT account FROM usage WHERE realm = ?1 AND period = ?2
    ORDER BY to_peer + to_client
    LIMIT max(0, (SELECT count(*) FROM usage WHERE realm = ?1 AND period = ?2) - ?3))";

fn entry(accounts: &mut BTreeMap<Vec<u8>, Usage>, account: Vec<u8>) -> &mut Usage {
    let new = Usage { account: account.clone(), ..Usage::default() };
    accounts.entry(account).or_insert(new)
}

fn for_each(
    connection: &Connection,
    realm: &str,
    period: &str,
    mut take: impl FnMut(Vec<u8>, Used),
) -> Result<(), Problem> {
    let all = "SELECT account, to_peer, to_client FROM usage WHERE realm = ?1 AND period = ?2";
    let mut all = connection.prepare_cached(all)?;
    let mut rows = all.query((realm, period))?;
    while let Some(row) = rows.next()? {
        take(row.get(0)?, Used { to_peer: row.get(1)?, to_client: row.get(2)? });
    }
    Ok(())
}

/// The realm and period that come after those, found in the index, without reading what is
/// between.
fn next_period(
    connection: &Connection,
    (realm, period): &(String, String),
) -> Result<Option<(String, String)>, Problem> {
    let next = "SELECT realm, period FROM usage WHERE (realm, period) > (?1, ?2) \
                ORDER BY realm, period LIMIT 1";
    let mut next = connection.prepare_cached(next)?;
    Ok(next.query_row((realm, period), |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

fn is_old(period: &str, today: Date) -> bool {
    match period.parse::<Date>() {
        Ok(day) => today.since(day).is_ok_and(|span| span.get_days() >= i32_of(MAX_DAYS)),
        Err(_) => format!("{period}-01").parse::<Date>().is_ok_and(|month| {
            let months = |date: Date| i32::from(date.year()) * 12 + i32::from(date.month());
            months(today) - months(month) >= i32_of(MAX_MONTHS)
        }),
    }
}

fn i32_of(small: usize) -> i32 {
    i32::try_from(small).expect("a small constant")
}
