//! `GET /v1/status`: sums over all shards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use tokio::time;
use turnway_relay::effect::Traffic;
use turnway_relay::ledger::LIMITS;
use turnway_relay::{Quota, Reason, Stats, Transport};

use super::request::Query;
use super::{Api, Problem, answers, json};

/// The server as a whole
#[utoipa::path(
    get, path = "/v1/status", tag = "server",
    responses((status = OK, body = answers::Status))
)]
pub(super) async fn status(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    Query::read(&uri, &[])?;
    Ok(json(&read(&api)))
}

fn read(api: &Api) -> answers::Status {
    let subject = &api.subject;
    let view = &subject.view;
    let stats = sum(api);
    let traffic = stats.total_traffic();
    let listener = |listen: &crate::config::Listen| answers::Listener {
        transport: listen.transport.to_string(),
        address: listen.address.to_string(),
    };
    let now = SystemTime::now();
    answers::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: now.duration_since(view.started).map_or(0, |age| age.as_secs()),
        realm: subject.realm.clone(),
        listeners: subject.listeners.iter().map(listener).collect(),
        shards: api.shards(),
        draining: !view.ready.load(std::sync::atomic::Ordering::Relaxed),
        allocations: answers::Allocations {
            udp: stats.allocations_of(Transport::Udp),
            tcp: stats.allocations_of(Transport::Tcp),
            tls: stats.allocations_of(Transport::Tls),
            dtls: stats.allocations_of(Transport::Dtls),
            limit: view.shared.allocations.cap().into(),
        },
        users: view.ledger.lock().users(),
        relayed: traffic.into(),
        rate: api.speed.now(Reading { at_ns: api.now_ns(), traffic }),
        dropped: answers::Drops {
            from_clients: by_label(&stats.client_drops),
            from_peers: by_label(&stats.peer_drops),
        },
        dropped_by_limit: LIMITS.into_iter().map(|limit| by_limit(&stats, limit)).collect(),
        refused: Quota::ALL
            .iter()
            .map(|quota| (quota.label().to_owned(), stats.quota_refusals[quota.index()]))
            .collect(),
    }
}

/// What every shard last published.
fn sum(api: &Api) -> Stats {
    let mut sum = Stats::default();
    for board in &api.subject.view.boards {
        sum.add(&board.read().rules);
    }
    sum
}

fn by_label(drops: &[u64; Reason::COUNT]) -> BTreeMap<String, u64> {
    Reason::ALL.iter().map(|reason| (reason.label().to_owned(), drops[reason.index()])).collect()
}

fn by_limit(stats: &Stats, limit: Reason) -> (String, answers::DroppedDatagrams) {
    let dropped = answers::DroppedDatagrams {
        to_peer_datagrams: stats.client_drops[limit.index()],
        to_client_datagrams: stats.peer_drops[limit.index()],
    };
    (limit.label().to_owned(), dropped)
}

impl From<Traffic> for answers::Traffic {
    fn from(traffic: Traffic) -> Self {
        Self {
            to_peer_datagrams: traffic.to_peer,
            to_peer_bytes: traffic.to_peer_bytes,
            to_client_datagrams: traffic.to_client,
            to_client_bytes: traffic.to_client_bytes,
        }
    }
}

/// How often the sums are read, for the rate.
const STEP: Duration = Duration::from_secs(1);

/// The rate is that of so many steps.
const STEPS: usize = 4;

/// Reads the sums again and again, for ever.
pub(super) async fn watch_speed(api: Arc<Api>) {
    let mut step = time::interval(STEP);
    loop {
        step.tick().await;
        let traffic = sum(&api).total_traffic();
        api.speed.note(Reading { at_ns: api.now_ns(), traffic });
    }
}

/// How fast it goes: what was read in the last seconds, the oldest first.
#[derive(Default)]
pub(super) struct Speed(Mutex<VecDeque<Reading>>);

#[derive(Clone, Copy)]
struct Reading {
    at_ns: u64,
    traffic: Traffic,
}

impl Speed {
    fn note(&self, reading: Reading) {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() == STEPS {
            readings.pop_front();
        }
        readings.push_back(reading);
    }

    /// From the oldest reading to this one.
    fn now(&self, now: Reading) -> answers::Rate {
        let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let then = readings.front().copied().unwrap_or(now);
        // A shorter time than a step says nothing: datagrams are published in lumps.
        let nanos = now.at_ns.saturating_sub(then.at_ns).max(STEP.as_nanos() as u64);
        let rate = |now: u64, then: u64| {
            let bytes = u128::from(now.saturating_sub(then));
            (bytes * 1_000_000_000 / u128::from(nanos)) as u64
        };
        answers::Rate {
            to_peer_bytes_per_second: rate(now.traffic.to_peer_bytes, then.traffic.to_peer_bytes),
            to_client_bytes_per_second: rate(
                now.traffic.to_client_bytes,
                then.traffic.to_client_bytes,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(seconds: u64, to_peer_bytes: u64, to_client_bytes: u64) -> Reading {
        let traffic = Traffic { to_peer_bytes, to_client_bytes, ..Traffic::default() };
        Reading { at_ns: seconds * 1_000_000_000, traffic }
    }

    fn rates(speed: &Speed, now: Reading) -> [u64; 2] {
        let rate = speed.now(now);
        [rate.to_peer_bytes_per_second, rate.to_client_bytes_per_second]
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let speed = Speed::default();
        assert_eq!(rates(&speed, reading(10, 1_000, 1_000)), [0, 0], "nothing to compare with");
        for second in 10..30 {
            speed.note(reading(second, second * 100, 0));
        }
        assert_eq!(rates(&speed, reading(30, 3_000, 4_000)), [100, 1_000]);
        for second in 30..34 {
            speed.note(reading(second, 3_000, 4_000));
        }
        assert_eq!(rates(&speed, reading(34, 3_000, 4_000)), [0, 0], "it is quiet");
    }

    #[test]
    fn a_short_time_makes_no_large_rate() {
        let speed = Speed::default();
        speed.note(reading(10, 0, 0));
        assert_eq!(rates(&speed, reading(10, 5_000, 0)), [5_000, 0]);
    }
}
