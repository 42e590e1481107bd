//! `…/sessions…`: allocations, from the shards' tables.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use turnway_relay::{Session, SessionFilter};

use super::request::{Query, segment, text_of};
use super::{Api, MOST, Problem, USUAL, answers, json};
use crate::mailbox::{Command, SessionPage, SessionQuery, shard_of};

/// Pieces of tables that are looked at for one answer. A filter that lets little through is
/// answered with a short page, and the cursor goes on behind them.
const PIECES_PER_REQUEST: usize = 256;

/// Allocations
///
/// In pages, in no order. A page may be short or empty although there is a next one. An allocation
/// that is there all the time is seen exactly once.
#[utoipa::path(
    get, path = "/v1/sessions", tag = "sessions",
    params(
        ("user" = Option<String>, Query, description = "Only those of this user, percent-encoded"),
        ("client" = Option<String>, Query, description = "Only those of clients with this IP \
            address"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "How many on a page at most, 100 unless given"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = OK, body = answers::Sessions),
        (status = BAD_REQUEST, body = Problem, content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "A shard does not answer", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn sessions(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::read(&uri, &["user", "client", "limit", "cursor"])?;
    let filter = SessionFilter {
        account: query.bytes("user").map(<[u8]>::to_vec),
        client: query.parse("client")?,
    };
    let most = query.amount("limit", USUAL)?;
    let mut walk = Walk { api: &api, filter, next: Some(Cursor::default()) };
    if let Some(cursor) = query.parse::<Cursor>("cursor")? {
        if cursor.shard >= api.shards() {
            return Err(Problem::bad_request("the cursor is not one of this server"));
        }
        walk.next = Some(cursor);
    }
    let mut found = Vec::new();
    for _ in 0..PIECES_PER_REQUEST {
        if found.len() >= most {
            break;
        }
        let Some(piece) = walk.step(most - found.len()).await? else { break };
        found.extend(piece.iter().map(shown));
    }
    let next_cursor = walk.next.map(|cursor| cursor.to_string());
    Ok(json(&answers::Sessions { sessions: found, next_cursor }))
}

/// An allocation
#[utoipa::path(
    get, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The `id` of the session")),
    responses(
        (status = OK, body = answers::Session),
        (status = NOT_FOUND, description = "There is none, or it has ended", body = Problem,
            content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "A shard does not answer", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn session(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let (shard, id) = find(&api, &uri)?;
    let found = api.ask(shard, |answer| Command::Session(id, answer)).await?;
    found.map(|session| json(&shown(&session))).ok_or_else(no_session)
}

/// End an allocation
///
/// It ends at once, without a word to the client, whose next request is answered with 437.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The `id` of the session")),
    responses(
        (status = NO_CONTENT, description = "It has ended"),
        (status = NOT_FOUND, description = "There is none, or it had ended", body = Problem,
            content_type = "application/problem+json"),
        (status = SERVICE_UNAVAILABLE, description = "A shard does not answer", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn end(State(api): State<Arc<Api>>, uri: Uri) -> Result<StatusCode, Problem> {
    Query::read(&uri, &[])?;
    let (shard, id) = find(&api, &uri)?;
    let ended = api.ask(shard, |answer| Command::Kill(id, answer)).await?;
    ended.map(|_| StatusCode::NO_CONTENT).ok_or_else(no_session)
}

/// End all allocations of a user
///
/// Those that are there; nothing keeps the user from making new ones.
#[utoipa::path(
    delete, path = "/v1/users/{name}/sessions", tag = "users",
    params(("name" = String, Path, description = "The name, percent-encoded")),
    responses(
        (status = OK, description = "How many have ended; 0 if there was none",
            body = answers::Ended),
        (status = SERVICE_UNAVAILABLE, description = "A shard does not answer; some may have \
            ended", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn end_all(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let filter = SessionFilter { account: Some(segment(&uri, 3)), client: None };
    let mut walk = Walk { api: &api, filter, next: Some(Cursor::default()) };
    let mut ended = 0;
    while let Some(piece) = walk.step(MOST).await? {
        for session in piece {
            let (shard, id) = (shard_of(session.session), session.session);
            let killed = api.ask(shard, |answer| Command::Kill(id, answer)).await?;
            ended += u64::from(killed.is_some());
        }
    }
    Ok(json(&answers::Ended { ended }))
}

/// The shard and the number of the session that a path names.
fn find(api: &Api, uri: &Uri) -> Result<(usize, u64), Problem> {
    let id = segment(uri, 3);
    let id: Option<u64> = std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok());
    let id = id.filter(|id| shard_of(*id) < api.shards()).ok_or_else(no_session)?;
    Ok((shard_of(id), id))
}

fn no_session() -> Problem {
    Problem::not_found("there is no such session; it may have ended")
}

/// A place between two sessions: a shard, and a place in its table.
#[derive(Clone, Copy, Default)]
struct Cursor {
    shard: usize,
    from: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.from)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |text: &str| {
            let (shard, from) = text.split_once('.')?;
            Some(Self { shard: shard.parse().ok()?, from: from.parse().ok()? })
        };
        read(text).ok_or("a cursor is the next_cursor of another answer")
    }
}

/// A walk over the tables of all shards, piece by piece.
struct Walk<'a> {
    api: &'a Api,
    filter: SessionFilter,
    /// Where it goes on; `None`: it is over.
    next: Option<Cursor>,
}

impl Walk<'_> {
    /// The sessions of the next piece, at most `most`; `None` if the walk is over.
    async fn step(&mut self, most: usize) -> Result<Option<Vec<Session>>, Problem> {
        let Some(Cursor { shard, from }) = self.next else { return Ok(None) };
        let query = SessionQuery { filter: self.filter.clone(), from, most };
        let asked = self.api.ask(shard, |answer| Command::Sessions(query, answer));
        let SessionPage { sessions, next } = asked.await?;
        self.next = match next {
            Some(from) => Some(Cursor { shard, from }),
            None if shard + 1 < self.api.shards() => Some(Cursor { shard: shard + 1, from: 0 }),
            None => None,
        };
        Ok(Some(sessions))
    }
}

fn shown(session: &Session) -> answers::Session {
    let (user, user_encoding) = text_of(turnway_relay::quota::split(&session.account).0);
    let (username, username_encoding) = text_of(&session.user);
    let relayed = [session.v4, session.v6].into_iter().flatten();
    answers::Session {
        id: session.session.to_string(),
        user,
        user_encoding,
        username,
        username_encoding,
        transport: session.tuple.transport.to_string(),
        client: session.tuple.client.to_string(),
        server: session.tuple.server.to_string(),
        relayed_addresses: relayed.map(|address| address.to_string()).collect(),
        age_seconds: session.age_s,
        expires_in_seconds: session.expires_in_s,
        permissions: session.permissions,
        channels: session.channels,
        relayed_transport: session.protocol.to_string(),
        connections: session.connections,
        relayed: session.traffic.into(),
        dropped_by_limits: session.dropped,
    }
}
