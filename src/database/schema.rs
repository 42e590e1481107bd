//! The form of the file: how a new one is made, an old one brought up to date, and a wrong one
//! recognized.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{BUSY_TIMEOUT, Problem};

/// How long a file that is busy is left alone.
const RETRY: Duration = Duration::from_millis(10);

/// Says in the file's header that it is ours: "TwUs".
const APPLICATION_ID: i32 = 0x5477_5573;

/// `MIGRATIONS[n]` makes version n + 1 of version n; each in a transaction of its own. One that
/// was released is never changed.
pub(super) const MIGRATIONS: [&str; 1] = [VERSION_1];

/// Of a limit: NULL is as configured, -1 unlimited. Names and accounts are the bytes that go over
/// the wire, after OpaqueString. The order of the keys is that of what is read together: all users
/// of a realm, all accounts of a period.
const VERSION_1: &str = "
CREATE TABLE users (
    realm                TEXT    NOT NULL,
    name                 BLOB    NOT NULL CHECK (length(name) BETWEEN 1 AND 508),
    md5                  BLOB    CHECK (length(md5) = 16),
    sha256               BLOB    CHECK (length(sha256) = 32),
    allocations          INTEGER CHECK (allocations BETWEEN -1 AND 4294967295),
    bandwidth            INTEGER CHECK (bandwidth = -1 OR bandwidth > 0),
    burst                INTEGER CHECK (burst > 0),
    allocation_bandwidth INTEGER CHECK (allocation_bandwidth = -1 OR allocation_bandwidth > 0),
    allocation_burst     INTEGER CHECK (allocation_burst > 0),
    volume_day           INTEGER CHECK (volume_day >= -1),
    volume_month         INTEGER CHECK (volume_month >= -1),
    created_unix         INTEGER NOT NULL,
    PRIMARY KEY (realm, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage (
    realm     TEXT    NOT NULL,
    period    TEXT    NOT NULL CHECK (length(period) IN (7, 10)),
    account   BLOB    NOT NULL,
    to_peer   INTEGER NOT NULL CHECK (to_peer >= 0),
    to_client INTEGER NOT NULL CHECK (to_client >= 0),
    PRIMARY KEY (realm, period, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('users_version', 1);

CREATE TRIGGER users_insert AFTER INSERT ON users BEGIN
    UPDATE meta SET value = value + 1 WHERE name = 'users_version';
END;
CREATE TRIGGER users_update AFTER UPDATE ON users BEGIN
    UPDATE meta SET value = value + 1 WHERE name = 'users_version';
END;
CREATE TRIGGER users_delete AFTER DELETE ON users BEGIN
    UPDATE meta SET value = value + 1 WHERE name = 'users_version';
END;
";

/// Makes an empty file that only its owner can read. The owner is the folder's, if we may say so:
/// `root` adds the first user, and the daemon, who is somebody else, must write the file too.
pub(super) fn create(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    };
    let folder = fs::metadata(super::folder(path))?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (folder.uid(), folder.gid()) {
        // Only root may; whoever else made it keeps it.
        let _ = fchown(&file, Some(folder.uid()), Some(folder.gid()));
    }
    Ok(())
}

/// Brings the file to the newest version, if it is ours.
///
/// Several programs may begin a file at once. Where two change its journal mode, SQLite does not
/// wait for either but says at once that the file is busy, so waiting is up to us.
pub(super) fn bring_up_to_date(connection: &mut Connection) -> Result<(), Problem> {
    let began = Instant::now();
    loop {
        match bring_to(connection, MIGRATIONS.len()) {
            Err(Problem::Sqlite(error)) if is_busy(&error) && began.elapsed() < BUSY_TIMEOUT => {
                thread::sleep(RETRY);
            }
            done => return done,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// As [`bring_up_to_date`], but not beyond `version`.
pub(super) fn bring_to(connection: &mut Connection, version: usize) -> Result<(), Problem> {
    // Nothing may be written to a file that is not ours, its journal mode neither.
    let mut found = recognize(&connection.transaction()?)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Problem::NoWal);
    }
    while found < version {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Somebody else may have done it while we waited.
        found = recognize(&transaction)?;
        if found < version {
            transaction.execute_batch(MIGRATIONS[found])?;
            found += 1;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", found)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The version of our file; 0 is an empty one. In a transaction: what is read belongs together.
pub(super) fn recognize(connection: &Transaction<'_>) -> Result<usize, Problem> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (id, version) = (number("application_id")?, number("user_version")?);
    let version = usize::try_from(version).map_err(|_| Problem::Foreign)?;
    let empty = || {
        let count = "SELECT count(*) FROM sqlite_schema";
        connection.query_row(count, [], |row| Ok(row.get::<_, u32>(0)? == 0))
    };
    match (id, version) {
        (APPLICATION_ID, 1..) if version > MIGRATIONS.len() => {
            Err(Problem::Newer { found: version, known: MIGRATIONS.len() })
        }
        (APPLICATION_ID, 1..) => Ok(version),
        (0, 0) if empty()? => Ok(0),
        (_, _) => Err(Problem::Foreign),
    }
}
