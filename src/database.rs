//! The embedded SQLite database: users with their keys and limits, and what was used.
//!
//! [`Database`] is a plain synchronous struct that one thread owns. Any number of them, in this
//! process and in others, may work on one file at a time: the daemon counts volume while
//! `turnway user` changes users. The daemon sees that by [`Database::users_version`].
//!
//! - `schema.rs`: the tables, and how an older file is brought up to date
//! - `users.rs`: users and the keys made of their passwords; passwords themselves are not kept
//! - `overrides.rs`: the limits of one user over those of everybody
//! - `usage.rs`: bytes by account and period
//!
//! A program may be killed at any time: the file stays whole, and every transaction that had
//! returned is in it. (The last ones before a power failure may be lost: the file is then as it
//! was some seconds before.)

mod overrides;
mod schema;
#[cfg(test)]
mod tests;
mod usage;
mod users;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use overrides::{Override, Overrides};
pub use usage::{MAX_DAYS, MAX_MONTHS, Usage, Used, period_names};
pub use users::{Keys, UserRow, prepared_name};

/// How long a statement waits for another program's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the write-ahead log is cut to once nobody reads what is in it any more, in bytes. Without
/// it the log keeps the disk that somebody who read for long made it take.
const WAL_BYTES: i64 = 64 << 20;

/// Closing any descriptor of a file drops the locks that SQLite holds on it in this process, so
/// nobody else opens one while we make it.
static CREATING: Mutex<()> = Mutex::new(());

/// An open database file.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl Database {
    /// Opens a file, or makes it, with mode 0600; one of an older version is brought up to date.
    ///
    /// # Errors
    ///
    /// When the folder is missing, the file is not ours or of a newer version, or it cannot be
    /// read and written.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let failed = |problem| DatabaseError::new(path, problem);
        if !folder(path).is_dir() {
            return Err(failed(Problem::NoFolder));
        }
        let creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        let create = |error| failed(Problem::Create(error));
        schema::create(path).map_err(create)?;
        // Before it is opened: one that is replaced meanwhile is noticed later.
        let file = identity(path).map_err(create)?;
        let mut connection = connect(path).map_err(failed)?;
        drop(creating);
        schema::bring_up_to_date(&mut connection).map_err(failed)?;
        Ok(Self { connection, path: path.to_owned(), file })
    }

    /// Says whether [`Self::open`] would find what it needs, and changes nothing: the file is ours
    /// and can be read, or there is none and this user may make it.
    ///
    /// # Errors
    ///
    /// As those of [`Self::open`].
    pub fn check(path: &Path) -> Result<(), DatabaseError> {
        let checked = match fs::metadata(path) {
            Ok(file) if file.is_file() => check_file(path),
            Ok(_) => Err(Problem::Foreign),
            Err(_) if !folder(path).is_dir() => Err(Problem::NoFolder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_folder(folder(path)).map_err(Problem::Create)
            }
            Err(error) => Err(Problem::Create(error)),
        };
        checked.map_err(|problem| DatabaseError::new(path, problem))
    }

    /// An error if what is at the path is not the file that is open: what is written to that one
    /// nobody would find again.
    ///
    /// # Errors
    ///
    /// The file was removed or replaced.
    pub fn still_there(&self) -> Result<(), DatabaseError> {
        let there = match identity(&self.path) {
            Ok(found) => found == self.file,
            // Of a path that cannot be looked at nothing is known; the open file works on.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        match there {
            true => Ok(()),
            false => Err(DatabaseError::new(&self.path, Problem::Replaced)),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number that grows with every change of a user, and is cheap to ask for.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn users_version(&self) -> Result<u64, DatabaseError> {
        self.named(|connection| {
            let version = "SELECT value FROM meta WHERE name = 'users_version'";
            Ok(connection.prepare_cached(version)?.query_row([], |row| row.get(0))?)
        })
    }

    /// Does something with the connection and says in an error which file it was.
    fn named<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Problem>,
    ) -> Result<T, DatabaseError> {
        work(&self.connection).map_err(|problem| DatabaseError::new(&self.path, problem))
    }

    /// As [`Self::named`], for what needs a transaction.
    fn named_mut<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, Problem>,
    ) -> Result<T, DatabaseError> {
        work(&mut self.connection).map_err(|problem| DatabaseError::new(&self.path, problem))
    }
}

fn connect(path: &Path) -> Result<Connection, Problem> {
    // No URI: a name is a name.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if connection.is_readonly("main")? {
        return Err(Problem::ReadOnly);
    }
    // Enough for a killed process; only a power failure can take back what was committed.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The keys of a user who is removed are overwritten.
    let on = |row: &rusqlite::Row<'_>| row.get::<_, i32>(0);
    connection.pragma_update_and_check(None, "secure_delete", "ON", on)?;
    let limit = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES, limit)?;
    Ok(connection)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Reads what is there without leaving anything beside it. Where there is no write-ahead log the
/// file is all there is, and SQLite would make one to read it.
fn check_file(path: &Path) -> Result<(), Problem> {
    let mut log = OsString::from(path);
    log.push("-wal");
    let alone = if Path::new(&log).exists() { "" } else { "&immutable=1" };
    let name = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(format!("file:{name}?mode=ro{alone}"), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    schema::recognize(&connection.unchecked_transaction()?)?;
    Ok(())
}

/// Only writing says for sure whether one may.
fn check_folder(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".turnway-check-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    fs::remove_file(&probe)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What went wrong with which file, and what to do.
#[derive(Debug)]
pub struct DatabaseError {
    path: PathBuf,
    problem: Problem,
}

impl DatabaseError {
    fn new(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), problem }
    }

    /// What is wrong with an argument; no file has a part in it.
    fn of_input(problem: Problem) -> Self {
        Self::new(Path::new(""), problem)
    }

    /// Whether somebody must mend what was asked for or where the file is, rather than that it
    /// failed: trying again would only say it again.
    pub fn is_input(&self) -> bool {
        match &self.problem {
            Problem::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
            ),
            Problem::Replaced => false,
            Problem::NoFolder
            | Problem::Create(_)
            | Problem::ReadOnly
            | Problem::NoWal
            | Problem::Foreign
            | Problem::Newer { .. }
            | Problem::Realm
            | Problem::Name(_)
            | Problem::Password
            | Problem::UserExists(_)
            | Problem::NoUser(_)
            | Problem::Refused(_) => true,
        }
    }
}

#[derive(Debug)]
enum Problem {
    NoFolder,
    Create(io::Error),
    ReadOnly,
    NoWal,
    Replaced,
    Foreign,
    Newer { found: usize, known: usize },
    Sqlite(rusqlite::Error),
    Realm,
    Name(String),
    Password,
    UserExists(String),
    NoUser(String),
    Refused(String),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(_) | None => Self::Sqlite(error),
        }
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let folder = folder(&self.path).display();
        match &self.problem {
            Problem::NoFolder => {
                write!(f, "{path}: the folder {folder} is not there; make it first")
            }
            Problem::Create(error) => write!(
                f,
                "{path}: cannot make it: {error}; let the user Turnway runs as write to {folder}"
            ),
            Problem::ReadOnly => write!(
                f,
                "{path}: cannot be written; let the user Turnway runs as write it and {folder}"
            ),
            Problem::NoWal => write!(
                f,
                "{path}: its file system has no shared memory, which several programs at one \
                 database need; put it on a local disk"
            ),
            Problem::Replaced => write!(
                f,
                "{path}: was removed or replaced while running; put it back or restart Turnway"
            ),
            Problem::Foreign => write!(
                f,
                "{path}: is not a database of Turnway, and is left as it is; name another file"
            ),
            Problem::Newer { found, known } => write!(
                f,
                "{path}: was made by a newer Turnway (version {found}; this one knows {known}), \
                 and is left as it is; run that one, or name another file"
            ),
            Problem::Sqlite(error) => write!(f, "{path}: {error}; {}", advice(error, &self.path)),
            Problem::Realm => f.write_str(
                "the realm must be text of 1 to 127 characters without quotes, backslashes and \
                 control characters",
            ),
            Problem::Name(name) => write!(
                f,
                "{name:?} is not a user name: it must be text of 1 to 508 bytes without control \
                 characters (RFC 8265)"
            ),
            Problem::Password => f.write_str(
                "the password must be text, not empty and without control characters (RFC 8265)",
            ),
            Problem::Refused(why) => f.write_str(why),
            Problem::UserExists(name) => write!(
                f,
                "{path}: the user {name:?} is there already; `turnway user passwd` gives another \
                 password, `turnway user limit` other limits"
            ),
            Problem::NoUser(name) => write!(
                f,
                "{path}: there is no user {name:?}; `turnway user list` shows who there is, and \
                 `turnway user add --no-password` adds one whose name comes from elsewhere \
                 (time-limited REST credentials, [[auth.user]]) for limits only"
            ),
        }
    }
}

fn advice(error: &rusqlite::Error, path: &Path) -> String {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program has been writing to it for 5 seconds; try again, or end that program"
                .to_owned()
        }
        Some(ErrorCode::DiskFull) => "make room on its disk".to_owned(),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            format!("let the user Turnway runs as read and write {path} and its folder")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("restore a backup, or see what `sqlite3 {path} '.recover'` can save")
        }
        Some(_) | None => "see whether its disk is well".to_owned(),
    }
}

impl std::error::Error for DatabaseError {}
