//! `turnway user`: the users of the database, their limits, and what they used.
//!
//! - here: the arguments, and what each command does
//! - `user/limits.rs`: limits as arguments and as text
//! - `user/password.rs`: where a password comes from: the terminal, standard input, or chance
//! - `user/usage.rs`: what was used
//!
//! All of it is safe while the daemon runs, which sees a change within two seconds.

mod limits;
mod password;
mod usage;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde_json::json;
use turnway_relay::quota::UserLimits;

use crate::config::Config;
use crate::credentials::unix_now;
use crate::database::{Database, DatabaseError, Keys, UserRow, prepared_name};
use crate::table::Table;

use limits::LimitArgs;
use password::{NewPasswordArgs, PasswordArgs};

/// What can be asked of the database of users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user
    ///
    /// The password is asked for at the terminal. Only the keys made of it are kept.
    Add(AddArgs),
    /// List all users and their own limits
    List(ListArgs),
    /// Give a user another password
    ///
    /// Sessions of the old password end by themselves: the next request of each is answered with
    /// 401.
    Passwd(PasswdArgs),
    /// Show or change the limits of a user
    ///
    /// Without a limit to change, shows those in force. Changes reach sessions that are going on.
    Limit(LimitCommandArgs),
    /// Remove a user
    ///
    /// Nothing is asked. Sessions that are going on end within two seconds; those of a user whose
    /// password is not in the database go on, as configured for everybody. What the user used
    /// stays counted.
    Remove(RemoveArgs),
    /// Show what users used today and this month
    ///
    /// Payload bytes of both directions, as of a second ago.
    Usage(usage::UsageArgs),
}

/// Which database.
#[derive(Debug, Args)]
struct Place {
    /// The configuration, which names the database, the realm and everybody's limits
    #[arg(short, long, value_name = "FILE", default_value = "turnway.toml")]
    config: PathBuf,
    /// The database itself, where there is no configuration
    #[arg(long, value_name = "FILE", conflicts_with = "config", requires = "realm")]
    database: Option<PathBuf>,
    /// The realm of its users
    #[arg(long, value_name = "REALM", requires = "database")]
    realm: Option<String>,
}

/// `turnway user add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The name, 1 to 508 bytes; for time-limited credentials the part that is not the timestamp
    name: String,
    #[command(flatten)]
    password: NewPasswordArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    limits: LimitArgs,
}

/// `turnway user list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// As JSON; limits in bytes and bytes per second, null as configured
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// `turnway user passwd`
#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// Whose password
    name: String,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    place: Place,
}

/// `turnway user limit`
#[derive(Debug, Args)]
pub struct LimitCommandArgs {
    /// Whose limits
    name: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    limits: LimitArgs,
}

/// `turnway user remove`
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Whom to remove
    name: String,
    #[command(flatten)]
    place: Place,
}

/// What a command has to say.
#[derive(Debug, Default)]
pub struct Said {
    /// The result.
    pub text: String,
    /// What is doubtful about it.
    pub warnings: Vec<String>,
}

/// Why a command did nothing.
#[derive(Debug)]
pub enum UserError {
    /// What was asked for cannot be done; it says what can.
    Input(String),
    /// It failed.
    Failed(String),
}

impl From<DatabaseError> for UserError {
    fn from(error: DatabaseError) -> Self {
        match error.is_input() {
            true => Self::Input(error.to_string()),
            false => Self::Failed(error.to_string()),
        }
    }
}

/// Does what one of the commands asks for.
///
/// # Errors
///
/// When the arguments, the configuration or the database cannot be used; then nothing was changed.
pub fn run(command: &UserCommand) -> Result<Said, UserError> {
    match command {
        UserCommand::Add(args) => add(args),
        UserCommand::List(args) => list(args),
        UserCommand::Passwd(args) => passwd(args),
        UserCommand::Limit(args) => limit(args),
        UserCommand::Remove(args) => remove(args),
        UserCommand::Usage(args) => usage::report(args),
    }
}

/// Where users are, and what holds for all of them.
struct Users {
    database: PathBuf,
    realm: String,
    /// `None`: there is no configuration to say it.
    base: Option<UserLimits>,
    time_zone: TimeZone,
    rest_separator: char,
    /// Names in the configuration, after OpaqueString.
    configured: Vec<String>,
    /// What all users together may use, in bytes per second: whose it is, its key, how much.
    shared: Vec<(&'static str, &'static str, u64)>,
}

impl Users {
    fn find(place: &Place) -> Result<Self, UserError> {
        if let (Some(database), Some(realm)) = (&place.database, &place.realm) {
            return Ok(Self {
                database: database.clone(),
                realm: realm.clone(),
                base: None,
                time_zone: TimeZone::UTC,
                rest_separator: ':',
                configured: Vec::new(),
                shared: Vec::new(),
            });
        }
        // A wrong file says so line by line, each with the name of the file.
        let loaded = Config::load(&place.config);
        let (config, _) = loaded.map_err(|error| UserError::Input(error.to_string()))?;
        let Some(database) = config.auth.database else {
            return Err(UserError::Input(format!(
                "{}: names no database to keep users in; add database = \"sqlite:turnway.db\" to \
                 [auth]",
                place.config.display()
            )));
        };
        let names = config.auth.users.iter().map(|user| prepared_name(&user.name));
        let shared = [
            ("realm", "bandwidth_per_realm in [quota]", config.quota.realm_bandwidth),
            ("server", "bandwidth in [limits]", config.limits.bandwidth),
        ];
        let shared = shared.into_iter();
        Ok(Self {
            database,
            realm: config.realm,
            base: Some(config.quota.user),
            time_zone: config.quota.time_zone,
            rest_separator: config.auth.rest_separator,
            configured: names.collect::<Result<_, _>>()?,
            shared: shared
                .filter_map(|(whose, key, limit)| Some((whose, key, limit?.bytes_per_second)))
                .collect(),
        })
    }

    /// The database; one that is not there yet has no users, and only `add` makes it.
    fn open(&self) -> Result<Database, UserError> {
        if !self.database.exists() {
            return Err(UserError::Input(format!(
                "{}: there is no database yet; `turnway user add` makes it",
                self.database.display()
            )));
        }
        Ok(Database::open(&self.database)?)
    }

    /// Whether the configuration has the password of a user.
    fn is_configured(&self, prepared: &[u8]) -> bool {
        self.configured.iter().any(|name| name.as_bytes() == prepared)
    }

    /// Of a user in the configuration and in the database the daemon would take one.
    fn not_configured(&self, name: &str) -> Result<(), UserError> {
        if !self.is_configured(prepared_name(name)?.as_bytes()) {
            return Ok(());
        }
        Err(UserError::Input(format!(
            "the user {name:?} has a password in the configuration; remove that [[auth.user]] \
             first (for limits alone: `turnway user add --no-password`)"
        )))
    }
}

fn add(args: &AddArgs) -> Result<Said, UserError> {
    args.password.with.check()?;
    let users = Users::find(&args.place)?;
    let name = prepared_name(&args.name)?;
    let overrides = args.limits.change(Default::default(), users.base.as_ref());
    let overrides = overrides.map_err(UserError::Input)?;
    let mut database = Database::open(&users.database)?;
    // Before the password is asked for.
    database.no_such_user(&users.realm, &name)?;
    let password = match args.password.none {
        true => None,
        false => {
            users.not_configured(&name)?;
            Some(args.password.with.read(&name)?)
        }
    };
    let keys = password.as_ref().map(|new| Keys::derive(&users.realm, &name, &new.text));
    let keys = keys.transpose()?;
    database.add_user(&users.realm, &name, keys.as_ref(), &overrides, unix_now())?;
    let mut text = format!("Added {name:?} to the realm {:?}.\n", users.realm);
    text += &password.map(|password| password.shown()).unwrap_or_default();
    if overrides != Default::default() {
        text += &limits::in_force(&name, &overrides, users.base.as_ref());
    }
    let mut warnings = timed_name_warning(&name, users.rest_separator);
    warnings.extend(limits::above_shared(&name, &overrides, &users.shared));
    Ok(Said { text, warnings })
}

fn list(args: &ListArgs) -> Result<Said, UserError> {
    let users = Users::find(&args.place)?;
    let rows = users.open()?.users(&users.realm)?;
    if args.json {
        let row = |user: &UserRow| {
            json!({
                "name": String::from_utf8_lossy(&user.name),
                "keys": user.has_keys(),
                "created_unix": user.created_unix,
                "limits": limits::as_json(&user.overrides),
            })
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        return Ok(said_json(&json!({ "realm": users.realm, "users": rows })));
    }
    if rows.is_empty() {
        let realm = &users.realm;
        return Ok(said(format!(
            "No users in the realm {realm:?} yet; `turnway user add NAME` adds one.\n"
        )));
    }
    let mut table = Table::headed(["NAME", "PASSWORD", "LIMITS OF THEIR OWN"]);
    for user in rows {
        let password = if users.is_configured(&user.name) {
            "in configuration"
        } else if user.has_keys() {
            "yes"
        } else {
            "no"
        };
        table.row([shown(&user.name), password.into(), limits::in_short(&user.overrides)]);
    }
    Ok(said(table.to_string()))
}

fn passwd(args: &PasswdArgs) -> Result<Said, UserError> {
    args.password.check()?;
    let users = Users::find(&args.place)?;
    let mut database = users.open()?;
    let name = prepared_name(&args.name)?;
    // Before the password is asked for.
    database.existing_user(&users.realm, &name)?;
    users.not_configured(&name)?;
    let password = args.password.read(&name)?;
    let keys = Keys::derive(&users.realm, &name, &password.text)?;
    database.set_keys(&users.realm, &name, &keys)?;
    Ok(said(format!("{name:?} has another password.\n{}", password.shown())))
}

fn limit(args: &LimitCommandArgs) -> Result<Said, UserError> {
    let users = Users::find(&args.place)?;
    let base = users.base.as_ref();
    let mut database = users.open()?;
    let name = prepared_name(&args.name)?;
    let overrides = match args.limits.is_empty() {
        true => database.existing_user(&users.realm, &name)?.overrides,
        false => database
            .set_overrides(&users.realm, &name, |of_now| args.limits.change(of_now, base))?,
    };
    let warnings = limits::above_shared(&name, &overrides, &users.shared);
    Ok(Said { text: limits::in_force(&name, &overrides, base), warnings })
}

fn remove(args: &RemoveArgs) -> Result<Said, UserError> {
    let users = Users::find(&args.place)?;
    let name = prepared_name(&args.name)?;
    let mut database = users.open()?;
    let user = database.existing_user(&users.realm, &name)?;
    database.remove_user(&users.realm, &name)?;
    let sessions = if users.is_configured(&user.name) {
        " Sessions go on, as configured for everybody: the password is in the configuration."
    } else if user.has_keys() {
        ""
    } else {
        " Sessions go on, as configured for everybody: the credentials come from the application."
    };
    Ok(said(format!("Removed {name:?} from the realm {:?}.{sessions}\n", users.realm)))
}

/// A name that ends by itself is made by a web service, not kept in a table.
fn timed_name_warning(name: &str, separator: char) -> Vec<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let timed = |timestamp: &str, account: &str| digits(timestamp).then(|| account.to_owned());
    let account = name
        .split_once(separator)
        .and_then(|(front, rest)| timed(front, rest))
        .or_else(|| name.rsplit_once(separator).and_then(|(rest, back)| timed(back, rest)));
    let what = format!("{name:?} looks like the name of a time-limited (REST) credential");
    match account {
        Some(account) => {
            vec![format!("{what}, whose limits are those of the user {account:?}")]
        }
        None if digits(name) => vec![format!("{what} without a name in it")],
        None => Vec::new(),
    }
}

/// Names may hold whatever a terminal obeys: what anybody put into the file.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

fn said(text: String) -> Said {
    Said { text, warnings: Vec::new() }
}

fn said_json(value: &serde_json::Value) -> Said {
    said(format!("{value:#}\n"))
}
