//! The admin API: who uses the relay, how much, and how to end it. JSON over HTTP, on TCP with a
//! token or on a Unix socket.
//!
//! | Route | |
//! |---|---|
//! | `GET /v1/status` | the server as a whole |
//! | `GET /v1/users` | users with allocations: all of them, or the top ones |
//! | `GET /v1/users/{name}` | one of them |
//! | `DELETE /v1/users/{name}/sessions` | ends all allocations of a user |
//! | `GET /v1/sessions` | allocations |
//! | `GET /v1/sessions/{id}` | one of them |
//! | `DELETE /v1/sessions/{id}` | ends it |
//! | `GET /v1/openapi.json` | the description of all this |
//!
//! In reading order:
//!
//! - `answers.rs`: every answer as a type, for the server, its description and the command line
//! - `status.rs`, `users.rs`, `sessions.rs`: what answers
//! - `gate.rs`: the token; `door.rs`: the listener, and the socket's file
//! - `request.rs`: names and numbers in paths and queries; `problem.rs`: errors (RFC 9457)
//! - `description.rs`: OpenAPI, made from the same types
//!
//! Shards are asked through their mailboxes, a bounded piece of their tables at a time; the ledger
//! is locked for one page of users at a time. No datagram waits for an operator.

pub mod answers;
mod description;
mod door;
mod gate;
mod problem;
mod request;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod users;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time;

use crate::config::Listen;
use crate::http::{self, Service};
use crate::mailbox::{Command, Mailbox};
use crate::metrics::View;

pub use door::Door;
pub use gate::Token;
pub use problem::Problem;
pub(crate) use request::{bytes_of, encoded};

use status::Speed;

/// How long a shard may take to answer. It reads its mail between two batches, so this is ample.
const SHARD_TIME: Duration = Duration::from_secs(2);

/// How long a request may take: long enough to end all allocations of the largest user.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// The most elements in one answer.
pub const MOST: usize = 1000;

/// How many there are unless somebody asks for another number.
const USUAL: usize = 100;

/// What the API is about.
pub struct Subject {
    /// Counters, the ledger, and whether new allocations are made.
    pub view: Arc<View>,
    /// The shards.
    pub mailboxes: Arc<[Mailbox]>,
    /// The realm.
    pub realm: String,
    /// Where clients connect.
    pub listeners: Vec<Listen>,
}

struct Api {
    subject: Subject,
    speed: Speed,
}

/// Answers until `stop`. A Unix socket's file is gone when the future is.
///
/// # Errors
///
/// The listener cannot be watched.
pub fn serve(
    door: Door,
    subject: Subject,
    token: Arc<Token>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let gate = Arc::new(gate::Gate { token, required: door.needs_token() });
    let (listener, file) = door.open()?;
    let api = Arc::new(Api { subject, speed: Speed::default() });
    let router = routes(Arc::clone(&api))
        .layer(middleware::from_fn_with_state(gate, gate::pass))
        .layer(middleware::map_response(uncached));
    let service = Service { name: "admin", router, time: REQUEST_TIME };
    Ok(async move {
        let _file = file;
        tokio::select! {
            () = http::serve(listener, service, stop) => {}
            () = status::watch_speed(api) => {}
        }
    })
}

fn routes(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for (path, methods) in table() {
        router = router.route(path, methods);
    }
    router.fallback(no_route).method_not_allowed_fallback(no_method).with_state(api)
}

/// Every route. The description has the same ones, or a test fails.
fn table() -> [(&'static str, axum::routing::MethodRouter<Arc<Api>>); 7] {
    [
        ("/v1/status", get(status::status)),
        ("/v1/users", get(users::users)),
        ("/v1/users/{name}", get(users::user)),
        ("/v1/users/{name}/sessions", delete(sessions::end_all)),
        ("/v1/sessions", get(sessions::sessions)),
        ("/v1/sessions/{id}", get(sessions::session).delete(sessions::end)),
        ("/v1/openapi.json", get(description::description)),
    ]
}

impl Api {
    /// Asks a shard, which has [`SHARD_TIME`] to answer.
    async fn ask<T>(
        &self,
        shard: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Problem> {
        ask(&self.subject.mailboxes, shard, command).await
    }

    /// How many shards there are.
    fn shards(&self) -> usize {
        self.subject.mailboxes.len()
    }

    /// The clock of the shards and the ledger.
    fn now_ns(&self) -> u64 {
        (self.subject.view.mono_ns)()
    }
}

async fn ask<T>(
    mailboxes: &[Mailbox],
    shard: usize,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Problem> {
    let (sender, answer) = oneshot::channel();
    mailboxes[shard].send(command(sender));
    match time::timeout(SHARD_TIME, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Problem::unavailable(format!("shard {shard} has ended"))),
        Err(_) => Err(Problem::unavailable(format!(
            "shard {shard} did not answer within {} s; see /livez and the log",
            SHARD_TIME.as_secs()
        ))),
    }
}

async fn no_route() -> Problem {
    Problem::not_found("there is no such path; GET /v1/openapi.json describes what there is")
}

async fn no_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "the path is right, the method is not; GET /v1/openapi.json describes what there is",
    )
}

/// What is true now is not tomorrow, and none of it belongs into a cache.
async fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer as JSON.
fn json(answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}
