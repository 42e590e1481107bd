//! A small client of the admin API that is not the one of the command line, so that each proves the
//! other.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use turnway_relay::auth::rest_password;

use crate::common::client::Client;
use crate::common::{PATIENCE, Relay, SECRET, Setup, own_address};

/// The token of the tests.
pub(crate) const TOKEN: &str = "a-token-of-the-tests";

/// `[limits]` without a limit for strangers: many clients come at once.
const LIMITS: &str = "unauthenticated_per_source = \"100000/s\"\nunauthenticated_burst = 100000";

/// Where the API is.
pub(crate) enum Place {
    /// HTTP over TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// By name in lower case.
    pub(crate) headers: HashMap<String, String>,
    /// Null if there was no body.
    pub(crate) json: Value,
}

impl Place {
    /// Asks, showing a token if there is one.
    pub(crate) fn ask(&self, method: &str, path: &str, token: Option<&str>) -> Answer {
        let authorization =
            token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n"))
    }

    /// Sends a request as it is.
    pub(crate) fn send(&self, request: &str) -> Answer {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE).expect("it listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                talk(stream, request)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).expect("it listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                talk(stream, request)
            }
        }
    }

    /// Asks with the token; the JSON of the answer, which is a success.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Some(TOKEN));
        assert_eq!(answer.code, 200, "{path}: {}", answer.json);
        assert_eq!(answer.headers["content-type"], "application/json");
        answer.json
    }

    /// Asks with the token; the detail of the problem that is answered.
    #[track_caller]
    pub(crate) fn problem(&self, method: &str, path: &str, code: u16) -> String {
        let answer = self.ask(method, path, Some(TOKEN));
        assert_eq!(answer.code, code, "{path}: {}", answer.json);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.json["status"], code);
        assert_eq!(answer.json["type"], "about:blank");
        answer.json["detail"].as_str().expect("a text").to_owned()
    }
}

fn talk(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let mut lines = head.lines();
    let code = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_ascii_lowercase(), value.to_owned())
    };
    Answer {
        code: code.parse().expect("a number"),
        headers: lines.map(header).collect(),
        json: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

/// A relay with the API on a Unix socket, and a token beside it.
pub(crate) fn relay(shards: usize, extra: &str) -> (Relay, Place) {
    let extra = format!("[admin]\nlisten = \"unix:admin.sock\"\ntoken = \"{TOKEN}\"\n{extra}");
    let limits = LIMITS.to_owned();
    let relay = Relay::start(Setup { shards, extra, limits, ..Setup::default() });
    let socket = relay.folder.path().join("admin.sock");
    (relay, Place::Unix(socket))
}

/// A relay with the API on TCP.
pub(crate) fn relay_on_tcp() -> (Relay, Place) {
    let address = SocketAddr::new(own_address().into(), 9642);
    let extra = format!("[admin]\nlisten = \"{address}\"\ntoken = \"{TOKEN}\"\n");
    (Relay::start(Setup { extra, ..Setup::default() }), Place::Tcp(address))
}

/// A client with time-limited credentials for a user.
pub(crate) fn client_of(relay: &Relay, user: &str) -> Client {
    let username = format!("4000000000:{user}");
    let password = rest_password(SECRET.as_bytes(), username.as_bytes());
    Client::udp(relay.address).with_credentials(&username, &password)
}

/// Runs `turnway` with arguments.
pub(crate) fn turnway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnway"));
    command.args(arguments).output().expect("it runs")
}

/// Runs a subcommand of `turnway` on a relay's configuration; its standard output, which is all
/// that it says.
#[track_caller]
pub(crate) fn operate(relay: &Relay, arguments: &[&str]) -> String {
    let config = relay.config_path();
    let output = turnway(&[arguments, &["-c", config.to_str().expect("text")]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The same of one that goes wrong: its exit code, and what it says to standard error.
#[track_caller]
pub(crate) fn failing(arguments: &[&str]) -> (i32, String) {
    let output = turnway(arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    (output.status.code().expect("no signal"), error)
}
