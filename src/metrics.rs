//! What the operator and their machines can ask over HTTP: metrics and health.
//!
//! - `GET /metrics`: every counter and gauge, in the OpenMetrics text format
//! - `GET /livez`: 200 while every shard turns its loop, else 503 with which one does not
//! - `GET /readyz`: 200 while new allocations are made, else 503 with why not
//!
//! `families.rs` defines every metric once, for the answer and for `docs/metrics.md`; `reading.rs`
//! collects the figures when somebody asks. Shards publish; nobody waits for anybody.

mod families;
mod reading;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use turnway_offload::Offload;
use turnway_relay::Shared;

use crate::http::{self, Listener, Service};
use crate::ledger::SharedLedger;
use crate::log::Drops;
use crate::mailbox::Board;
use crate::ports::Ports;
use crate::tls::Store;

pub use families::reference_markdown;

/// A shard that has not turned its loop for so long is taken for dead.
const STALE_NS: u64 = 10 * 1_000_000_000;

/// How long a connection may take from the first byte of its request to the last of the answer.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// Where the figures are.
pub struct View {
    /// One for each shard, in order.
    pub boards: Vec<Arc<Board>>,
    /// The relay ports.
    pub ports: Arc<Ports>,
    /// What the shards share.
    pub shared: Arc<Shared>,
    /// What they use of the quotas.
    pub ledger: Arc<SharedLedger>,
    /// The data path in the kernel, where there is one.
    pub offload: Option<Arc<Offload>>,
    /// The certificates, where there are any.
    pub certificates: Option<Arc<Store>>,
    /// How often the database failed.
    pub database_errors: Arc<AtomicU64>,
    /// Log records left out.
    pub log_drops: Drops,
    /// Whether new allocations are made: false while starting and while draining.
    pub ready: Arc<AtomicBool>,
    /// When the process began.
    pub started: SystemTime,
    /// The clock of the heartbeats, in `mono_ns`.
    pub mono_ns: fn() -> u64,
}

/// Answers until `stop`. Answers under way are finished within their time limit.
pub async fn serve(listener: TcpListener, view: Arc<View>, stop: impl Future<Output = ()> + Send) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(view);
    let service = Service { name: "metrics", router, time: CONNECTION_TIME };
    http::serve(Listener::Tcp(listener), service, stop).await;
}

async fn metrics(State(view): State<Arc<View>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = families::exposition(&reading::Reading::take(&view));
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn livez(State(view): State<Arc<View>>) -> Response {
    answer(live(&view.boards, (view.mono_ns)()).map(|()| "live"))
}

async fn readyz(State(view): State<Arc<View>>) -> Response {
    let live = live(&view.boards, (view.mono_ns)());
    answer(live.and_then(|()| {
        let ready = view.ready.load(Ordering::Relaxed);
        ready
            .then_some("ready")
            .ok_or_else(|| "starting or draining: no new allocations are made".to_owned())
    }))
}

/// Whether every shard has turned its loop within the 10 s before `now_ns` (`mono_ns`).
///
/// # Errors
///
/// Which shards have not, one line each.
pub fn live(boards: &[Arc<Board>], now_ns: u64) -> Result<(), String> {
    let mut silent = Vec::new();
    for (shard, board) in boards.iter().enumerate() {
        // A shard may have beaten after `now_ns` was read.
        let silence_ns = now_ns.saturating_sub(board.heartbeat_ns());
        if board.heartbeat_ns() == 0 {
            silent.push(format!("shard {shard} has not begun"));
        } else if silence_ns >= STALE_NS {
            silent.push(format!("shard {shard} is silent for {} s", silence_ns / 1_000_000_000));
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(silent.join("\n")) }
}

fn answer(health: Result<&str, String>) -> Response {
    let (status, text) = match health {
        Ok(text) => (StatusCode::OK, text.to_owned()),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    };
    let headers: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];
    (status, headers, text + "\n").into_response()
}

#[cfg(test)]
mod tests;
