//! Why a run could not be made.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use turnway_wire::{Method, code};

/// Why a run could not be made, or not to its end; the text says what to do.
#[derive(Debug)]
pub enum LoadError {
    /// The options contradict each other or the machine.
    Input(String),
    /// A system call failed: what was tried.
    Io(String, io::Error),
    /// The server did not answer in time.
    NoAnswer(SocketAddr),
    /// The server refused a request.
    Refused {
        /// What was asked for.
        method: Method,
        /// The error code.
        code: u16,
        /// The server's own words.
        reason: String,
    },
    /// An answer that no TURN server should give: what was wrong with it.
    BadAnswer(&'static str),
    /// The server closed a connection that was in use.
    Closed,
}

impl LoadError {
    /// For `map_err`: what was tried.
    pub(crate) fn io(tried: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let tried = tried.into();
        move |error| Self::Io(tried, error)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) => f.write_str(text),
            Self::Io(tried, error) => write!(f, "{tried}: {error}"),
            Self::NoAnswer(server) => write!(
                f,
                "{server} does not answer; is it the server's address, and does a firewall let \
                 its port through?"
            ),
            Self::Refused { method, code, reason } => {
                let name = method.name().unwrap_or("a request");
                let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
                write!(f, "the server refused {name} with {code}")?;
                if !reason.is_empty() {
                    write!(f, " ({reason})")?;
                }
                f.write_str(advice(*code))
            }
            Self::BadAnswer(what) => write!(f, "the server's answer is not one of TURN: {what}"),
            Self::Closed => f.write_str("the server closed a connection that was in use"),
        }
    }
}

impl std::error::Error for LoadError {}

/// What to do about an error code.
fn advice(number: u16) -> &'static str {
    match number {
        code::UNAUTHENTICATED => ": the user or the password is wrong",
        code::FORBIDDEN => ": it does not relay to this peer; name another with --peer-address",
        code::ALLOCATION_QUOTA_REACHED => ": the user has all the allocations it may have",
        code::INSUFFICIENT_CAPACITY => {
            ": it has no relay port or descriptor left; ask for fewer allocations"
        }
        _ => "",
    }
}
