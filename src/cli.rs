//! The command line: what can be asked for, and what happens then.
//!
//! Exit codes: 0 when it went well, 2 when the arguments or the configuration are wrong, 1 for
//! everything else.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use turnway_load::LoadError;

use crate::config::{self, Config, Secret, Span};
use crate::database::Database;
use crate::load::LoadCommand;
use crate::operate::{self, Done, KillArgs, OperateError, SessionsArgs, StatusArgs};
use crate::run::{self, ServeError};
use crate::tls::Snapshot;
use crate::user::{self, UserCommand, UserError};
use crate::{credentials, init};

/// Exit code for wrong arguments and configurations, as clap has it.
const WRONG_INPUT: u8 = 2;

/// The longest time a time-limited credential may have: ten years.
const MAX_TTL_S: u64 = 10 * 366 * 24 * 3600;

/// A STUN/TURN relay server.
#[derive(Debug, Parser)]
#[command(name = "turnway", version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    ///
    /// Without a configuration it runs in development mode: on this machine only (127.0.0.1:3478),
    /// with a secret made up for this run and iceServers to paste into a web page.
    Serve {
        /// The configuration; `turnway init` writes one
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration and print the effective one, secrets redacted
    ///
    /// Exits with 2 and says what to do if the configuration cannot be used, or the database that
    /// it names.
    Check {
        /// The configuration
        #[arg(short, long, value_name = "FILE", default_value = "turnway.toml")]
        config: PathBuf,
    },
    /// Write a new configuration with fresh secrets
    Init {
        /// Where to write it; a file that exists is never overwritten
        #[arg(short, long, value_name = "FILE", default_value = "turnway.toml")]
        output: PathBuf,
    },
    /// Print a username, a password and iceServers that expire
    ///
    /// They are computed from the first of rest_secrets; the server need not run. Secrets are
    /// read from files only: every user of the machine can see the arguments of a program.
    Credentials(CredentialsArgs),
    /// Manage the users of the database: add, list, passwd, limit, remove, usage
    ///
    /// The configuration names the database: database = "sqlite:turnway.db" in [auth]. Everything
    /// may be done while the relay runs, which takes it up within two seconds.
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Show what a running relay does, and for whom most
    ///
    /// This, `sessions` and `kill` ask the admin API of the running relay, which [admin] in the
    /// configuration turns on.
    Status(StatusArgs),
    /// Show the sessions (allocations) of a running relay
    Sessions(SessionsArgs),
    /// End sessions of a running relay
    ///
    /// They end at once. Nothing keeps a client from allocating anew: to shut a user out, remove
    /// them or change the secret.
    Kill(KillArgs),
    /// Put a TURN server to work, this one or another, and tell what it bore
    Load {
        #[command(subcommand)]
        command: LoadCommand,
    },
    /// Print every configuration key with its documentation
    #[command(hide = true)]
    Reference {
        /// As a page instead of a configuration file
        #[arg(long)]
        markdown: bool,
    },
}

#[derive(Debug, Args)]
struct CredentialsArgs {
    /// Whom they are for; the name appears in logs
    #[arg(long, value_name = "NAME")]
    user: String,
    /// How long they are valid: 90s, 5m, 1h, 1d
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: Span,
    /// The configuration with the secret and the addresses
    #[arg(short, long, value_name = "FILE", default_value = "turnway.toml")]
    config: PathBuf,
    /// A file with the secret in its first line, where there is no configuration
    #[arg(long, value_name = "FILE", conflicts_with = "config", requires = "host")]
    secret_file: Option<PathBuf>,
    /// Name or address by which clients reach the server
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// Does what the arguments ask for.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Serve { config } => serve(config.as_deref()),
        Command::Check { config } => check(&config),
        Command::Init { output } => initialize(&output),
        Command::Credentials(args) => match print_credentials(&args) {
            Ok(text) => print(&text),
            Err(message) => fail(message, WRONG_INPUT),
        },
        Command::User { command } => manage(&command),
        Command::Status(args) => operated(operate::status(&args)),
        Command::Sessions(args) => operated(operate::sessions(&args)),
        Command::Kill(args) => operated(operate::kill(&args)),
        Command::Load { command } => put_to_work(command),
        Command::Reference { markdown: false } => print(&config::reference_toml()),
        Command::Reference { markdown: true } => print(&config::reference_markdown()),
    }
}

fn manage(command: &UserCommand) -> ExitCode {
    match user::run(command) {
        Ok(said) => {
            for warning in said.warnings {
                say(format_args!("warning: {warning}"));
            }
            print(&said.text)
        }
        Err(UserError::Input(message)) => fail(message, WRONG_INPUT),
        Err(UserError::Failed(message)) => fail(message, 1),
    }
}

fn operated(done: Result<Done, OperateError>) -> ExitCode {
    let (text, problem) = match done {
        Ok((text, problem)) => (text, problem),
        Err(problem) => (String::new(), Some(problem)),
    };
    let printed = print(&text);
    match problem {
        None => printed,
        Some(error @ OperateError::Input(_)) => fail(error, WRONG_INPUT),
        Some(error @ OperateError::Runtime(_)) => fail(error, 1),
    }
}

fn put_to_work(command: LoadCommand) -> ExitCode {
    match crate::load::run(command) {
        Ok((text, sound)) => {
            let printed = print(&text);
            if sound { printed } else { ExitCode::FAILURE }
        }
        Err(error @ LoadError::Input(_)) => fail(error, WRONG_INPUT),
        Err(error) => fail(error, 1),
    }
}

fn serve(path: Option<&Path>) -> ExitCode {
    let Some(path) = path else { return develop() };
    match load(path) {
        Ok(config) => ended(run::serve(config, Some(path.to_owned()), || {})),
        Err(code) => code,
    }
}

/// Runs for development, and says what to paste where once the relay listens.
fn develop() -> ExitCode {
    let secret = match Secret::random() {
        Ok(secret) => secret,
        Err(error) => return fail(format!("the system has no randomness: {error}"), 1),
    };
    let config = Config::development(secret);
    match credentials::development_text(&config, credentials::unix_now()) {
        Ok(text) => ended(run::serve(config, None, || {
            print(&text);
        })),
        Err(error) => fail(error, 1),
    }
}

fn ended(served: Result<(), ServeError>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ ServeError::Input(_)) => fail(error, WRONG_INPUT),
        Err(error @ ServeError::Runtime(_)) => fail(error, 1),
    }
}

fn check(path: &Path) -> ExitCode {
    let checked = load(path).and_then(|config| {
        check_database(&config)?;
        check_certificates(&config)?;
        Ok(config)
    });
    match checked {
        Ok(config) => print(&format!(
            "# {} can be used. In force, secrets redacted:\n{}",
            path.display(),
            config.effective()
        )),
        Err(code) => code,
    }
}

/// Looks at the database that a configuration names, prints what is wrong with it.
fn check_database(config: &Config) -> Result<(), ExitCode> {
    let Some(database) = &config.auth.database else { return Ok(()) };
    Database::check(database).map_err(|error| {
        let place = config.places.database.as_deref().unwrap_or("[auth] database");
        say(format_args!("{place}: {error}"));
        ExitCode::from(if error.is_input() { WRONG_INPUT } else { 1 })
    })
}

/// Reads the certificates that a configuration names, prints what is wrong with them.
fn check_certificates(config: &Config) -> Result<(), ExitCode> {
    if config.tls.certificates.is_empty() {
        return Ok(());
    }
    let now_s = i64::try_from(credentials::unix_now()).unwrap_or(i64::MAX);
    match Snapshot::load(&config.tls, None, now_s) {
        Ok((_, warnings)) => {
            for warning in warnings {
                say(format_args!("warning: {warning}"));
            }
            Ok(())
        }
        Err(problems) => {
            for problem in problems {
                say(format_args!("{}", problem.at(&config.places)));
            }
            Err(ExitCode::from(WRONG_INPUT))
        }
    }
}

/// Loads a configuration, prints its warnings or errors.
fn load(path: &Path) -> Result<Config, ExitCode> {
    match Config::load(path) {
        Ok((config, warnings)) => {
            for warning in warnings {
                say(format_args!("warning: {warning}"));
            }
            Ok(config)
        }
        Err(error) => {
            // Each line begins with its file.
            eprintln!("{error}");
            Err(ExitCode::from(WRONG_INPUT))
        }
    }
}

fn initialize(path: &Path) -> ExitCode {
    let shown = path.display();
    match init::write(path) {
        Ok(()) => print(&format!(
            "Wrote {shown} with fresh secrets. Next:\n  \
             turnway check -c {shown}\n  turnway serve -c {shown}\n"
        )),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fail(
            format!("{shown} is there already and is not overwritten; name another file with -o"),
            WRONG_INPUT,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fail(format!("{shown}: the folder is not there; make it first"), WRONG_INPUT)
        }
        Err(error) => fail(format!("{shown}: cannot write: {error}"), WRONG_INPUT),
    }
}

fn print_credentials(args: &CredentialsArgs) -> Result<String, String> {
    let text = |error: credentials::CredentialsError| error.to_string();
    let host = args.host.as_deref();
    let (secret, separator, uris) = match &args.secret_file {
        Some(path) => {
            let uris = credentials::default_uris(host.unwrap_or_default()).map_err(text)?;
            (first_line(path)?, ':', uris)
        }
        None => {
            let (config, _) = Config::load(&args.config).map_err(|error| error.to_string())?;
            let secret = credentials::first_secret(&config).map_err(text)?.clone();
            let uris = credentials::uris(&config, host).map_err(text)?;
            (secret, config.auth.rest_separator, uris)
        }
    };
    let ttl = args.ttl.0.as_secs();
    if ttl == 0 {
        return Err("--ttl 0s would have expired already; write for example --ttl 1h".to_owned());
    }
    if ttl > MAX_TTL_S {
        return Err("--ttl is more than ten years; that is a password, not a credential that \
                    expires: use [[auth.user]]"
            .to_owned());
    }
    let expires = credentials::unix_now().saturating_add(ttl);
    let minted = credentials::mint(&secret, separator, &args.user, expires).map_err(text)?;
    Ok(format!(
        "username: {}\npassword: {}\nvalid for: {}\n\n{}\n",
        minted.username,
        minted.password.expose(),
        args.ttl,
        credentials::ice_servers(&uris, &minted)
    ))
}

/// The secret in the first line of a file.
pub(crate) fn first_line(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let text = config::read_file(path);
    let text = text.map_err(|error| format!("{shown}: cannot read the secret: {error}"))?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line =
        line.ok_or_else(|| format!("{shown}: the file is empty; write the secret into it"))?;
    Ok(Secret::new(line.to_owned()))
}

/// A reader that went away (`| head`) is no failure of ours.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(format!("cannot write to standard output: {error}"), 1),
    }
}

fn fail(message: impl Display, code: u8) -> ExitCode {
    say(format_args!("turnway: {message}"));
    ExitCode::from(code)
}

/// Writes to standard error, and does not mind when nobody takes it.
fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
