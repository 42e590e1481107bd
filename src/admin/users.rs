//! `GET /v1/users…`: users with allocations, from the ledger.

use std::cmp::{Ordering, Reverse};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use turnway_relay::Period;
use turnway_relay::ledger::{Counters, LIMITS, Used, UserReport};
use turnway_relay::quota::{Bandwidth, UserLimits};

use super::request::{Query, segment, text_of};
use super::{Api, Problem, USUAL, answers, json};

/// Places of the ledger looked at under one lock: well below a millisecond.
const PLACES_PER_LOCK: u32 = 256;

/// Places looked at for one page; the cursor goes on behind them.
const PLACES_PER_REQUEST: u32 = 64 * PLACES_PER_LOCK;

/// How many top users there are unless somebody asks for another number.
const USUAL_TOP: usize = 20;

/// Users with allocations
///
/// In pages, in no order; or with `sort` or `top` the first of all.
#[utoipa::path(
    get, path = "/v1/users", tag = "users",
    params(
        ("sort" = Option<String>, Query, description = "Show the top users: `rate` (both \
            directions, the usual order), `allocations` or `volume` (of the month, or what was \
            relayed where no volume is counted) with the largest first, or by `name`"),
        ("top" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "How many top users, 20 unless given"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "How many users on a page at most, 100 unless given"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = OK, body = answers::Users),
        (status = BAD_REQUEST, body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn users(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::read(&uri, &["sort", "top", "limit", "cursor"])?;
    let sort: Option<Sort> = query.parse("sort")?;
    let users = if sort.is_some() || query.bytes("top").is_some() {
        if query.bytes("limit").or(query.bytes("cursor")).is_some() {
            let text = "the top users have no pages: write top=N instead of limit and cursor";
            return Err(Problem::bad_request(text));
        }
        let most = query.amount("top", USUAL_TOP)?;
        let users = top(&api, sort.unwrap_or(Sort::Rate), most).await;
        answers::Users { users: users.iter().map(shown).collect(), next_cursor: None }
    } else {
        let cursor = query.parse("cursor")?.unwrap_or(0);
        page(&api, cursor, query.amount("limit", USUAL)?).await
    };
    Ok(json(&users))
}

/// A user with allocations, used volume or limits of their own
#[utoipa::path(
    get, path = "/v1/users/{name}", tag = "users",
    params(("name" = String, Path, description = "The name, percent-encoded")),
    responses(
        (status = OK, body = answers::User),
        (status = NOT_FOUND, description = "Nothing is known of such a user",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn user(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    let name = segment(&uri, 3);
    let found = api.subject.view.ledger.lock().user(&name, api.now_ns());
    match found {
        Some(user) => Ok(json(&shown(&user))),
        None => Err(Problem::not_found(
            "no user of this name has allocations, used volume or limits of their own",
        )),
    }
}

/// Users from a place in the ledger on.
async fn page(api: &Api, from: u32, most: usize) -> answers::Users {
    let mut users = Vec::new();
    let mut next = Some(from);
    let end = from.saturating_add(PLACES_PER_REQUEST);
    while let Some(place) = next.filter(|place| *place < end)
        && users.len() < most
    {
        // No more places than users are wanted, so that none found is left out.
        let places = PLACES_PER_LOCK.min((most - users.len()) as u32);
        let mut found = Vec::with_capacity(places as usize);
        next = api.subject.view.ledger.lock().page(place, places, api.now_ns(), &mut found);
        users.extend(found.iter().map(shown));
        tokio::task::yield_now().await;
    }
    answers::Users { users, next_cursor: next.map(|place| place.to_string()) }
}

/// The first users of all. Who comes or goes meanwhile may be missed.
async fn top(api: &Api, sort: Sort, most: usize) -> Vec<UserReport> {
    let mut first = Vec::with_capacity(most + PLACES_PER_LOCK as usize);
    let mut next = Some(0);
    while let Some(place) = next {
        let ledger = &api.subject.view.ledger;
        next = ledger.lock().page(place, PLACES_PER_LOCK, api.now_ns(), &mut first);
        first.sort_by(|one, other| sort.compare(one, other));
        first.truncate(most);
        tokio::task::yield_now().await;
    }
    first
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Rate,
    Allocations,
    Volume,
    Name,
}

impl FromStr for Sort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rate" => Ok(Self::Rate),
            "allocations" => Ok(Self::Allocations),
            "volume" => Ok(Self::Volume),
            "name" => Ok(Self::Name),
            _ => Err("write rate, allocations, volume or name"),
        }
    }
}

impl Sort {
    fn compare(self, one: &UserReport, other: &UserReport) -> Ordering {
        let key = |user: &UserReport| {
            Reverse(match self {
                Self::Rate => user.rates[0].saturating_add(user.rates[1]),
                Self::Allocations => user.allocations.into(),
                Self::Volume => match user.volume {
                    Some(volume) => volume.month.total(),
                    None => user.relayed[0].saturating_add(user.relayed[1]),
                },
                Self::Name => 0,
            })
        };
        key(one).cmp(&key(other)).then_with(|| one.account.cmp(&other.account))
    }
}

fn shown(user: &UserReport) -> answers::User {
    let (name, name_encoding) = text_of(turnway_relay::quota::split(&user.account).0);
    let [to_peer_bytes_per_second, to_client_bytes_per_second] = user.rates;
    let [to_peer_bytes, to_client_bytes] = user.relayed;
    let dropped = |(limit, dropped): (&turnway_relay::Reason, &turnway_relay::ledger::Dropped)| {
        let (datagrams, bytes) = (dropped.datagrams, dropped.bytes);
        (limit.label().to_owned(), answers::Dropped { datagrams, bytes })
    };
    answers::User {
        name,
        name_encoding,
        allocations: user.allocations,
        limits: user.limits.into(),
        rate: answers::Rate { to_peer_bytes_per_second, to_client_bytes_per_second },
        relayed: answers::Bytes { to_peer_bytes, to_client_bytes },
        dropped_by_limit: LIMITS.iter().zip(&user.dropped).map(dropped).collect(),
        volume: user.volume.map(Into::into),
        spent: user.spent.map(Into::into),
    }
}

impl From<UserLimits> for answers::Limits {
    fn from(limits: UserLimits) -> Self {
        let bandwidth = |limit: Bandwidth| answers::Bandwidth {
            bytes_per_second: limit.bytes_per_second,
            burst_bytes: limit.burst_bytes,
        };
        Self {
            allocations: limits.allocations,
            bandwidth: limits.bandwidth.map(bandwidth),
            bandwidth_per_allocation: limits.bandwidth_per_allocation.map(bandwidth),
            volume_per_day_bytes: limits.volume_per_day,
            volume_per_month_bytes: limits.volume_per_month,
        }
    }
}

impl From<Counters> for answers::Volume {
    fn from(counters: Counters) -> Self {
        let bytes = |used: Used| answers::Bytes {
            to_peer_bytes: used.to_peer,
            to_client_bytes: used.to_client,
        };
        Self { day: bytes(counters.day), month: bytes(counters.month) }
    }
}

impl From<Period> for answers::Period {
    fn from(period: Period) -> Self {
        match period {
            Period::Day => Self::Day,
            Period::Month => Self::Month,
        }
    }
}
