//! One request at a time to the admin API, and what to do when it cannot be answered.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::time;

use super::{OperateError, Where};
use crate::admin::Problem;
use crate::cli;
use crate::config::{AdminListen, Config, Secret};

/// How long an answer may take: longer than the server takes at most.
const TIME: Duration = Duration::from_secs(40);

/// The largest answer: many times a page of sessions.
const ANSWER_BYTES: usize = 64 << 20;

/// What to write where there is no admin API.
const ADVICE: &str = "[admin]\nlisten = \"unix:/run/turnway/admin.sock\"";

pub(super) struct Client {
    runtime: Runtime,
    place: Place,
    token: Option<Secret>,
}

enum Place {
    /// Host and port.
    Tcp(String),
    Unix(PathBuf),
}

impl Client {
    pub(super) fn new(at: &Where) -> Result<Self, OperateError> {
        let (place, token) = match &at.admin {
            Some(text) => (Place::read(text)?, token_of(at.token_file.as_deref())?),
            None => configured(&at.config)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| OperateError::Runtime(format!("cannot begin: {error}")))?;
        Ok(Self { runtime, place, token })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, OperateError> {
        self.understood(self.ask(&Method::GET, path)?)
    }

    /// Whether there was something to delete.
    pub(super) fn delete(&self, path: &str) -> Result<bool, OperateError> {
        match self.ask(&Method::DELETE, path)? {
            (StatusCode::NO_CONTENT, _) => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            answer => Err(self.refused(&answer)),
        }
    }

    pub(super) fn delete_answered<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, OperateError> {
        self.understood(self.ask(&Method::DELETE, path)?)
    }

    fn understood<T: DeserializeOwned>(
        &self,
        answer: (StatusCode, Bytes),
    ) -> Result<T, OperateError> {
        if answer.0 != StatusCode::OK {
            return Err(self.refused(&answer));
        }
        serde_json::from_slice(&answer.1).map_err(|error| {
            let text = format!(
                "{} is not Turnway's admin API, or of another version: {error}",
                self.place
            );
            OperateError::Runtime(text)
        })
    }

    fn refused(&self, (status, body): &(StatusCode, Bytes)) -> OperateError {
        let place = &self.place;
        let detail = serde_json::from_slice::<Problem>(body).map(|problem| problem.detail);
        if *status == StatusCode::UNAUTHORIZED {
            return OperateError::Input(match self.token {
                None => format!("{place} wants a token; name a file that holds it: --token-file"),
                Some(_) => format!(
                    "{place} refuses the token; it must be the one that the running Turnway has \
                     in [admin]"
                ),
            });
        }
        match detail {
            Ok(detail) => OperateError::Runtime(detail),
            Err(_) => OperateError::Runtime(format!(
                "{place} answers {status}; is it Turnway's admin API?"
            )),
        }
    }

    fn ask(&self, method: &Method, path: &str) -> Result<(StatusCode, Bytes), OperateError> {
        let asked = async {
            match &self.place {
                Place::Tcp(authority) => {
                    let stream = TcpStream::connect(authority).await.map_err(Failed::Connect)?;
                    self.talk(stream, method, path).await
                }
                Place::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(Failed::Connect)?;
                    self.talk(stream, method, path).await
                }
            }
        };
        let limited = async { time::timeout(TIME, asked).await.unwrap_or(Err(Failed::Slow)) };
        self.runtime.block_on(limited).map_err(|failed| self.explained(failed))
    }

    fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        method: &Method,
        path: &str,
    ) -> impl Future<Output = Result<(StatusCode, Bytes), Failed>> {
        let host = match &self.place {
            Place::Tcp(authority) => authority,
            Place::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.expose());
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new());
        async move {
            let talk = |error: &dyn std::error::Error| Failed::Talk(error.to_string());
            let request = request.map_err(|error| talk(&error))?;
            let handshake = http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = handshake.map_err(|error| talk(&error))?;
            tokio::spawn(connection);
            let answer = sender.send_request(request).await.map_err(|error| talk(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| talk(&*error))?.to_bytes()))
        }
    }

    fn explained(&self, failed: Failed) -> OperateError {
        let place = &self.place;
        OperateError::Runtime(match failed {
            Failed::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!(
                    "nobody listens on {place}: is Turnway running, with [admin] listen there? \
                     ({error})"
                ),
                io::ErrorKind::PermissionDenied => format!(
                    "{place}: {error}; only the user and the group that Turnway runs as may ask: \
                     try sudo"
                ),
                _ => format!("{place}: cannot connect: {error}"),
            },
            Failed::Talk(error) => {
                format!("{place} does not talk as Turnway's admin API does: {error}")
            }
            Failed::Slow => format!("{place} did not answer within {} s", TIME.as_secs()),
        })
    }
}

enum Failed {
    Connect(io::Error),
    Talk(String),
    Slow,
}

impl Place {
    /// As `--admin` has it.
    fn read(text: &str) -> Result<Self, OperateError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with("https:") {
            return Err(OperateError::Input(format!(
                "--admin {text}: the admin API does not speak TLS; write http:, through a tunnel \
                 (ssh -L 9642:127.0.0.1:9642) where it is not this machine's"
            )));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) || authority.contains(['/', '@', ' ']) {
            return Err(OperateError::Input(format!(
                "--admin {text}: write http://127.0.0.1:9642 or unix:/run/turnway/admin.sock"
            )));
        }
        Ok(Self::Tcp(authority.to_owned()))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a configuration says.
fn configured(path: &Path) -> Result<(Place, Option<Secret>), OperateError> {
    let (config, _) = Config::load(path).map_err(|error| OperateError::Input(error.to_string()))?;
    let place = match config.admin.listen {
        Some(AdminListen::Unix(socket)) => Place::Unix(socket),
        Some(AdminListen::Tcp(mut address)) => {
            // It listens on all addresses; on loopback the token does not leave the machine.
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
            Place::Tcp(address.to_string())
        }
        None => {
            let shown = path.display();
            return Err(OperateError::Input(format!(
                "{shown}: the admin API is off; add to it and restart Turnway:\n\n{ADVICE}\n"
            )));
        }
    };
    Ok((place, config.admin.token))
}

fn token_of(path: Option<&Path>) -> Result<Option<Secret>, OperateError> {
    let read = |path| cli::first_line(path).map_err(OperateError::Input);
    path.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused_with_what_to_write() {
        let shown = |text: &str| Place::read(text).map(|place| place.to_string());
        assert_eq!(shown("http://127.0.0.1:9642").unwrap(), "http://127.0.0.1:9642");
        assert_eq!(shown("http://[::1]:9642/").unwrap(), "http://[::1]:9642");
        assert_eq!(shown("relay.example:80").unwrap(), "http://relay.example:80");
        assert_eq!(shown("unix:/run/t.sock").unwrap(), "unix:/run/t.sock");
        let error = |text: &str| shown(text).unwrap_err().to_string();
        assert!(error("https://127.0.0.1:9642").contains("does not speak TLS"));
        for wrong in ["http://127.0.0.1", "http://127.0.0.1:x", "http://a:1/b", "http://a@b:1"] {
            assert!(error(wrong).contains("write http://127.0.0.1:9642 or unix:"), "{wrong}");
        }
    }
}
