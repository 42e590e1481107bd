//! Used volume, by account and period.
//!
//! A period is a day, "2026-11-20", or a month, "2026-11", in the time zone of whoever counts. An
//! account is a user's name, or what is behind time-limited names. There is one row for each
//! account and period; [`Database::prune_usage`] bounds them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::civil::Date;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use turnway_relay::ledger::ACCOUNTS_MAX;

use super::users::{integer, prepare_realm};
use super::{Database, DatabaseError, Problem};

/// How many days with use are kept of a realm, the newest ones: this month and the one before.
pub const MAX_DAYS: usize = 62;

/// How many months with use are kept of a realm.
pub const MAX_MONTHS: usize = 24;

/// The length of a day's name, as "2026-11-20"; that of a month's is another.
const DAY_LEN: usize = 10;

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

    /// Keeps the newest [`MAX_DAYS`] and [`MAX_MONTHS`] of each realm that there are, whatever day
    /// it is: a clock that once stepped years ahead takes no present month away. Of each period
    /// the [`ACCOUNTS_MAX`] accounts that used most are kept (some 25 MB, with names of usual
    /// length); others begin anew. Meant for once an hour or so; where there is nothing to remove
    /// it takes as long as counting the rows.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; what was removed before stays removed.
    pub fn prune_usage(&mut self) -> Result<(), DatabaseError> {
        self.prune_usage_to(ACCOUNTS_MAX)
    }

    pub(super) fn prune_usage_to(&mut self, accounts: usize) -> Result<(), DatabaseError> {
        let accounts = i64::try_from(accounts).unwrap_or(i64::MAX);
        self.named(|connection| {
            let periods = periods(connection)?;
            let mut kept = HashMap::new();
            // Each period in a transaction of its own, so that nobody waits for all of them.
            for (realm, period) in periods.iter().rev() {
                let most = if period.len() == DAY_LEN { MAX_DAYS } else { MAX_MONTHS };
                let kept: &mut usize = kept.entry((realm, period.len())).or_default();
                if *kept < most {
                    *kept += 1;
                    connection.execute(REMOVE_SMALLEST, (realm, period, accounts))?;
                } else {
                    let remove = "DELETE FROM usage WHERE realm = ?1 AND period = ?2";
                    connection.execute(remove, (realm, period))?;
                }
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

/// Every realm and period there is, in order, found in the index, without reading what is between.
fn periods(connection: &Connection) -> Result<Vec<(String, String)>, Problem> {
    let next = "SELECT realm, period FROM usage WHERE (realm, period) > (?1, ?2) \
                ORDER BY realm, period LIMIT 1";
    let mut next = connection.prepare_cached(next)?;
    let mut after = |(realm, period): &(String, String)| {
        next.query_row((realm, period), |row| Ok((row.get(0)?, row.get(1)?))).optional()
    };
    let mut periods = Vec::new();
    while let Some(found) = after(periods.last().unwrap_or(&Default::default()))? {
        periods.push(found);
    }
    Ok(periods)
}
