//! Users: names, the keys of their passwords, and limits of their own.

use std::borrow::Cow;
use std::fmt;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, named_params};
use turnway_relay::auth::opaque_string;
use turnway_wire::{LongTermKey, PasswordAlgorithm};
use zeroize::Zeroizing;

use super::{Database, DatabaseError, Override, Overrides, Problem};

/// RFC 8489 section 14.3: "fewer than 509 bytes".
const NAME_MAX: usize = 508;

/// RFC 8489 section 14.9: "fewer than 128 characters".
const REALM_MAX: usize = 127;

/// What proves a user, as good as the password within its realm. Overwritten when dropped.
#[derive(Clone)]
pub struct Keys {
    /// MD5(username ":" realm ":" password).
    pub md5: Zeroizing<[u8; 16]>,
    /// SHA-256 of the same.
    pub sha256: Zeroizing<[u8; 32]>,
}

/// A user as the table has it.
#[derive(Clone)]
pub struct UserRow {
    /// The number of the realm, as whoever asked for the realm knows it; 0 from the file.
    pub realm: u16,
    /// The name, after OpaqueString.
    pub name: Vec<u8>,
    /// See [`Keys`]. `None`, as the other: limits for an account of time-limited credentials.
    pub md5: Option<Zeroizing<[u8; 16]>>,
    /// See [`Keys`].
    pub sha256: Option<Zeroizing<[u8; 32]>>,
    /// Limits of their own.
    pub overrides: Overrides,
    /// When the user was added, in seconds of Unix time.
    pub created_unix: u64,
}

impl Keys {
    /// The keys of a password. It is put through OpaqueString, as are name and realm.
    ///
    /// # Errors
    ///
    /// A name, realm or password that OpaqueString disallows.
    pub fn derive(realm: &str, name: &str, password: &str) -> Result<Self, DatabaseError> {
        let derived = || {
            let (realm, name) = (prepare_realm(realm)?, prepare_name(name)?);
            let password = opaque_string(password.as_bytes()).ok_or(Problem::Password)?;
            let password = Zeroizing::new(password.into_owned());
            let key = |algorithm| {
                let (name, realm) = (name.as_bytes(), realm.as_bytes());
                LongTermKey::derive(algorithm, name, realm, password.as_bytes())
            };
            let mut keys = Self { md5: Zeroizing::new([0; 16]), sha256: Zeroizing::new([0; 32]) };
            keys.md5.copy_from_slice(key(PasswordAlgorithm::Md5).as_bytes());
            keys.sha256.copy_from_slice(key(PasswordAlgorithm::Sha256).as_bytes());
            Ok(keys)
        };
        derived().map_err(DatabaseError::of_input)
    }
}

impl UserRow {
    /// Whether there is a key, and not only limits.
    pub fn has_keys(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl fmt::Debug for UserRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRow")
            .field("name", &String::from_utf8_lossy(&self.name))
            .field("has_keys", &self.has_keys())
            .field("overrides", &self.overrides)
            .finish_non_exhaustive()
    }
}

const COLUMNS: &str = "name, md5, sha256, allocations, bandwidth, burst, allocation_bandwidth, \
                       allocation_burst, volume_day, volume_month, created_unix";

impl Database {
    /// All users of a realm, by name.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn users(&self, realm: &str) -> Result<Vec<UserRow>, DatabaseError> {
        self.named(|connection| {
            let all = format!("SELECT {COLUMNS} FROM users WHERE realm = ?1 ORDER BY name");
            let mut all = connection.prepare_cached(&all)?;
            let rows = all.query_map([prepare_realm(realm)?], user_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// One user.
    ///
    /// # Errors
    ///
    /// When the name cannot be one, or the file cannot be read.
    pub fn user(&self, realm: &str, name: &str) -> Result<Option<UserRow>, DatabaseError> {
        self.named(|connection| find(connection, realm, name))
    }

    /// One user who must be there.
    ///
    /// # Errors
    ///
    /// When there is no such user, the name cannot be one, or the file cannot be read.
    pub fn existing_user(&self, realm: &str, name: &str) -> Result<UserRow, DatabaseError> {
        self.named(|connection| {
            find(connection, realm, name)?.ok_or_else(|| Problem::NoUser(name.to_owned()))
        })
    }

    /// Says whether a user can be added: the error is that of [`Self::add_user`].
    ///
    /// # Errors
    ///
    /// When there is such a user, the name cannot be one, or the file cannot be read.
    pub fn no_such_user(&self, realm: &str, name: &str) -> Result<(), DatabaseError> {
        self.named(|connection| match find(connection, realm, name)? {
            Some(_) => Err(Problem::UserExists(name.to_owned())),
            None => Ok(()),
        })
    }

    /// Adds a user, with keys or only with limits.
    ///
    /// # Errors
    ///
    /// When the user is there already, the name cannot be one, or the file cannot be written.
    pub fn add_user(
        &mut self,
        realm: &str,
        name: &str,
        keys: Option<&Keys>,
        overrides: &Overrides,
        created_unix: u64,
    ) -> Result<(), DatabaseError> {
        self.named(|connection| {
            let added = connection.execute(
                "INSERT INTO users VALUES (:realm, :name, :md5, :sha256, :allocations, \
                 :bandwidth, :burst, :allocation_bandwidth, :allocation_burst, :volume_day, \
                 :volume_month, :created_unix) ON CONFLICT DO NOTHING",
                named_params! {
                    ":realm": prepare_realm(realm)?,
                    ":name": prepare_name(name)?.as_bytes(),
                    ":md5": keys.map(|keys| keys.md5.as_slice()),
                    ":sha256": keys.map(|keys| keys.sha256.as_slice()),
                    ":allocations": overrides.allocations,
                    ":bandwidth": overrides.bandwidth,
                    ":burst": overrides.burst.map(integer),
                    ":allocation_bandwidth": overrides.allocation_bandwidth,
                    ":allocation_burst": overrides.allocation_burst.map(integer),
                    ":volume_day": overrides.volume_day,
                    ":volume_month": overrides.volume_month,
                    ":created_unix": integer(created_unix),
                },
            )?;
            if added == 0 { Err(Problem::UserExists(name.to_owned())) } else { Ok(()) }
        })
    }

    /// Gives a user other keys.
    ///
    /// # Errors
    ///
    /// When there is no such user, or the file cannot be written.
    pub fn set_keys(&mut self, realm: &str, name: &str, keys: &Keys) -> Result<(), DatabaseError> {
        self.named(|connection| {
            let changed = connection.execute(
                "UPDATE users SET md5 = :md5, sha256 = :sha256 \
                 WHERE realm = :realm AND name = :name",
                named_params! {
                    ":realm": prepare_realm(realm)?,
                    ":name": prepare_name(name)?.as_bytes(),
                    ":md5": keys.md5.as_slice(),
                    ":sha256": keys.sha256.as_slice(),
                },
            )?;
            was_there(changed, name)
        })
    }

    /// Changes limits of a user: `change` is given those of now, which no other program changes
    /// meanwhile. Where it says why not, they stay as they are.
    ///
    /// # Errors
    ///
    /// When there is no such user, `change` refuses, or the file cannot be written.
    pub fn set_overrides(
        &mut self,
        realm: &str,
        name: &str,
        change: impl FnOnce(Overrides) -> Result<Overrides, String>,
    ) -> Result<Overrides, DatabaseError> {
        self.named_mut(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let user =
                find(&transaction, realm, name)?.ok_or_else(|| Problem::NoUser(name.to_owned()))?;
            let overrides = change(user.overrides).map_err(Problem::Refused)?;
            transaction.execute(
                "UPDATE users SET allocations = :allocations, bandwidth = :bandwidth, \
                 burst = :burst, allocation_bandwidth = :allocation_bandwidth, \
                 allocation_burst = :allocation_burst, volume_day = :volume_day, \
                 volume_month = :volume_month WHERE realm = :realm AND name = :name",
                named_params! {
                    ":realm": prepare_realm(realm)?,
                    ":name": user.name,
                    ":allocations": overrides.allocations,
                    ":bandwidth": overrides.bandwidth,
                    ":burst": overrides.burst.map(integer),
                    ":allocation_bandwidth": overrides.allocation_bandwidth,
                    ":allocation_burst": overrides.allocation_burst.map(integer),
                    ":volume_day": overrides.volume_day,
                    ":volume_month": overrides.volume_month,
                },
            )?;
            transaction.commit()?;
            Ok(overrides)
        })
    }

    /// Removes a user. What the user used stays counted.
    ///
    /// # Errors
    ///
    /// When there is no such user, or the file cannot be written.
    pub fn remove_user(&mut self, realm: &str, name: &str) -> Result<(), DatabaseError> {
        self.named(|connection| {
            let (realm, prepared) = (prepare_realm(realm)?, prepare_name(name)?);
            let remove = "DELETE FROM users WHERE realm = ?1 AND name = ?2";
            was_there(connection.execute(remove, (realm, prepared.as_bytes()))?, name)
        })
    }
}

/// A name as it is stored and compared.
///
/// # Errors
///
/// When OpaqueString disallows it, or it has more than 508 bytes.
pub fn prepared_name(name: &str) -> Result<String, DatabaseError> {
    prepare_name(name).map_err(DatabaseError::of_input)
}

fn prepare_name(name: &str) -> Result<String, Problem> {
    opaque_string(name.as_bytes())
        .filter(|prepared| prepared.len() <= NAME_MAX)
        .map(Cow::into_owned)
        .ok_or_else(|| Problem::Name(name.to_owned()))
}

pub(super) fn prepare_realm(realm: &str) -> Result<String, Problem> {
    opaque_string(realm.as_bytes())
        .filter(|realm| realm.chars().count() <= REALM_MAX && !realm.contains(['"', '\\']))
        .map(Cow::into_owned)
        .ok_or(Problem::Realm)
}

fn find(connection: &Connection, realm: &str, name: &str) -> Result<Option<UserRow>, Problem> {
    let one = format!("SELECT {COLUMNS} FROM users WHERE realm = ?1 AND name = ?2");
    let (realm, name) = (prepare_realm(realm)?, prepare_name(name)?);
    let mut one = connection.prepare_cached(&one)?;
    Ok(one.query_row((realm, name.as_bytes()), user_row).optional()?)
}

fn was_there(changed: usize, name: &str) -> Result<(), Problem> {
    if changed == 0 { Err(Problem::NoUser(name.to_owned())) } else { Ok(()) }
}

fn user_row(row: &Row<'_>) -> rusqlite::Result<UserRow> {
    Ok(UserRow {
        realm: 0,
        name: row.get("name")?,
        md5: row.get::<_, Option<_>>("md5")?.map(Zeroizing::new),
        sha256: row.get::<_, Option<_>>("sha256")?.map(Zeroizing::new),
        overrides: Overrides {
            allocations: row.get("allocations")?,
            bandwidth: row.get("bandwidth")?,
            burst: row.get("burst")?,
            allocation_bandwidth: row.get("allocation_bandwidth")?,
            allocation_burst: row.get("allocation_burst")?,
            volume_day: row.get("volume_day")?,
            volume_month: row.get("volume_month")?,
        },
        created_unix: row.get("created_unix")?,
    })
}

/// SQLite's integers have a sign; what is beyond them is as good as their greatest.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const UNLIMITED: i64 = -1;

impl<T: Copy + Into<u64>> ToSql for Override<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Inherit => ToSqlOutput::from(rusqlite::types::Null),
            Self::Unlimited => ToSqlOutput::from(UNLIMITED),
            Self::Limit(limit) => ToSqlOutput::from(integer((*limit).into())),
        })
    }
}

impl<T: FromSql> FromSql for Override<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Null => Ok(Self::Inherit),
            ValueRef::Integer(UNLIMITED) => Ok(Self::Unlimited),
            ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => {
                T::column_result(value).map(Self::Limit)
            }
        }
    }
}
