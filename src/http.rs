//! How operators are served over HTTP/1.1, whatever they ask: a bounded number of connections, one
//! request on each, within a time limit.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;

/// How many requests are answered at a time; others wait in the listener's queue.
pub(crate) const CONNECTIONS: usize = 64;

/// How long a client may take to send the head of its request.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(5);

/// The longest head of a request. Nothing reads a body: what a client sends as one stays with the
/// kernel.
const HEAD_BYTES: usize = 16 * 1024;

/// How long accepting pauses when it fails, for want of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Where requests come from.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// What is served.
pub struct Service {
    /// What it is called in the log.
    pub name: &'static str,
    /// What answers.
    pub router: Router,
    /// How long a connection may take from the first byte of its request to the last of the answer.
    pub time: Duration,
}

/// Answers until `stop`. Answers under way are finished within their time limit.
pub async fn serve(listener: Listener, service: Service, stop: impl Future<Output = ()> + Send) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let next = async { (slot.await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                let (router, time) = (service.router.clone(), service.time);
                connections.spawn(async move {
                    let _slot = slot;
                    converse(stream, router, time).await;
                });
            }
            Err(error) => {
                let name = service.name;
                tracing::warn!("the {name} listener cannot accept a connection: {error}");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.join_all().await;
}

/// Answers one request on a connection, within a time limit.
async fn converse(stream: Box<dyn Stream>, router: Router, time: Duration) {
    let mut builder = http1::Builder::new();
    // One request a connection: a connection kept open would hold a slot between requests.
    builder.keep_alive(false).max_buf_size(HEAD_BYTES);
    // From the start of the connection: whoever says nothing holds a slot no longer.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // Neither a client that went away nor a slow one is of interest to anybody.
    let _ = time::timeout(time, connection).await;
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}
