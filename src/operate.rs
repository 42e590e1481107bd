//! `turnway status`, `sessions` and `kill`: what the admin API says, for people.
//!
//! - `client.rs`: one request to the API, over TCP or a Unix socket
//! - `text.rs`: answers as tables; names of strangers are made harmless there
//!
//! What is printed is what the API answers, with units; `--json` prints the answer itself.

mod client;
mod text;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::admin::MOST;
use crate::admin::answers::{Ended, Session, Sessions, Status, User, Users};
use crate::admin::encoded;
use client::Client;

/// Top users that `turnway status` shows.
const TOP: usize = 10;

/// How to reach the admin API of a running Turnway.
#[derive(Debug, Args)]
pub struct Where {
    /// The configuration of the running Turnway; its [admin] says where to ask
    #[arg(short, long, value_name = "FILE", default_value = "turnway.toml")]
    config: PathBuf,
    /// Ask here instead: http://127.0.0.1:9642 or unix:/run/turnway/admin.sock
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<String>,
    /// A file with the token in its first line, where there is no configuration
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

/// The arguments of `turnway status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    at: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `turnway sessions`.
#[derive(Debug, Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    at: Where,
    /// Only those of this user: the name without a timestamp
    #[arg(long, value_name = "NAME")]
    user: Option<OsString>,
    /// Only those of clients with this IP address
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `turnway kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    at: Where,
    /// Sessions to end, by the ID that `turnway sessions` and the log show
    #[arg(value_name = "ID", required_unless_present = "user", conflicts_with = "user")]
    ids: Vec<u64>,
    /// End all sessions of this user: the name without a timestamp
    #[arg(long, value_name = "NAME")]
    user: Option<OsString>,
}

/// Why nothing, or not all, could be done.
#[derive(Debug)]
pub enum OperateError {
    /// The arguments or the configuration must be changed.
    Input(String),
    /// The daemon does not run or does not do it.
    Runtime(String),
}

impl fmt::Display for OperateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) | Self::Runtime(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for OperateError {}

/// What was done, and what could not be.
pub type Done = (String, Option<OperateError>);

/// The server and its top users.
///
/// # Errors
///
/// The API cannot be asked.
pub fn status(args: &StatusArgs) -> Result<Done, OperateError> {
    let client = Client::new(&args.at)?;
    let status: Status = client.get("/v1/status")?;
    let top: Users = client.get(&format!("/v1/users?sort=rate&top={TOP}"))?;
    let text = match args.json {
        true => json(&StatusReport { status, top_users: top.users })?,
        false => text::status(&status, &top.users),
    };
    Ok((text, None))
}

/// `turnway status --json`
#[derive(Serialize)]
struct StatusReport {
    #[serde(flatten)]
    status: Status,
    top_users: Vec<User>,
}

/// Sessions, from as many pages as it takes.
///
/// # Errors
///
/// The API cannot be asked.
pub fn sessions(args: &SessionsArgs) -> Result<Done, OperateError> {
    let client = Client::new(&args.at)?;
    let mut filter = String::new();
    if let Some(user) = &args.user {
        filter += &format!("&user={}", encoded(user.as_bytes()));
    }
    if let Some(ip) = args.client {
        filter += &format!("&client={}", encoded(ip.to_string().as_bytes()));
    }
    let most = args.limit as usize;
    let mut found: Vec<Session> = Vec::new();
    let mut next = Some(String::new());
    while let Some(cursor) = &next
        && found.len() < most
    {
        let limit = (most - found.len()).min(MOST);
        let cursor = if cursor.is_empty() { "" } else { &format!("&cursor={cursor}") };
        let page: Sessions = client.get(&format!("/v1/sessions?limit={limit}{filter}{cursor}"))?;
        found.extend(page.sessions);
        next = page.next_cursor;
    }
    let text = match args.json {
        true => json(&Sessions { sessions: found, next_cursor: next })?,
        false => text::sessions(&found, next.is_some()),
    };
    Ok((text, None))
}

/// Ends sessions.
///
/// # Errors
///
/// The API cannot be asked. That some of the sessions are not there is part of what was done.
pub fn kill(args: &KillArgs) -> Result<Done, OperateError> {
    let client = Client::new(&args.at)?;
    if let Some(user) = &args.user {
        let path = format!("/v1/users/{}/sessions", encoded(user.as_bytes()));
        let Ended { ended } = client.delete_answered(&path)?;
        let name = text::name(user.as_bytes());
        if ended == 0 {
            let text = format!("{name} has no sessions");
            return Ok((String::new(), Some(OperateError::Runtime(text))));
        }
        return Ok((format!("ended {ended} sessions of {name}\n"), None));
    }
    let mut text = String::new();
    let mut missing = Vec::new();
    for id in &args.ids {
        if client.delete(&format!("/v1/sessions/{id}"))? {
            text += &format!("ended {id}\n");
        } else {
            missing.push(id.to_string());
        }
    }
    let problem = (!missing.is_empty()).then(|| {
        OperateError::Runtime(format!("no such session, or it has ended: {}", missing.join(", ")))
    });
    Ok((text, problem))
}

fn json(answer: &impl Serialize) -> Result<String, OperateError> {
    match serde_json::to_string_pretty(answer) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(OperateError::Runtime(format!("cannot write as JSON: {error}"))),
    }
}
