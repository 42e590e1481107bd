//! Allocations, permissions, channels and refreshes: how many a second, what each costs the
//! server, and how much memory it holds for them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use turnway_wire::Method;

use crate::LoadError;
use crate::clients::{Transport, own_address};
use crate::flood::{greet, on_threads};
use crate::payload::{MIN_LEN, run_number};
use crate::server::{Held, Usage};
use crate::transact::PhaseReport;
use crate::turn::{Ask, Credentials};
use crate::worker::{Asks, Plan, Worker};

/// Before what the server holds is read, it has so long to put itself in order.
const SETTLE: Duration = Duration::from_secs(1);

/// The lifetime that refreshes ask for, in seconds.
const LIFETIME_S: u32 = 600;

/// What to do to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's address.
    pub server: SocketAddr,
    /// How clients reach it.
    pub transport: Transport,
    /// Allocations, each with a client of its own.
    pub count: usize,
    /// Transactions at a time.
    pub window: usize,
    /// Whether each gets a permission and then a channel.
    pub bind: bool,
    /// Whether each is refreshed.
    pub refresh: bool,
    /// How long they are held before they are ended.
    pub hold: Duration,
    /// Whether they are ended; otherwise they are left to expire.
    pub delete: bool,
    /// Where all peers are; by default where the server is reached from, and over loopback IPv4 at
    /// an address each.
    pub peer: Option<IpAddr>,
    /// Where the thread runs; without it, where it likes.
    pub cpu: Option<usize>,
    /// Processes of the server on this machine, to be watched.
    pub server_pids: Vec<u32>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The request without credentials, its 401, and the Allocate that succeeds.
    pub allocate: PhaseReport,
    /// CreatePermission.
    pub permit: Option<PhaseReport>,
    /// ChannelBind.
    pub bind: Option<PhaseReport>,
    /// Refresh.
    pub refresh: Option<PhaseReport>,
    /// Refresh with a lifetime of zero.
    pub delete: Option<PhaseReport>,
    /// What the server holds for them.
    pub memory: Option<Memory>,
}

/// What the server held before, with all allocations, and after their end.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Before the first one.
    pub before: Held,
    /// With all of them.
    pub live: Held,
    /// After the end of all; `None` where they were not ended.
    pub after: Option<Held>,
    /// Resident bytes for each allocation.
    pub resident_each: f64,
    /// Bytes of the kernel's slabs for each allocation, those of other programs in the same time
    /// included.
    pub kernel_slab_each: f64,
}

/// Makes allocations and what else is asked for.
///
/// # Errors
///
/// A server that does not answer or that refuses. What was made is ended, as far as possible.
pub fn run(options: &Options, credentials: &Credentials) -> Result<Report, LoadError> {
    Usage::read(&options.server_pids)?;
    greet(options.server, options.transport, Method::ALLOCATE)?;
    let run = run_number()?;
    let own = own_address(options.server)?;
    let (server, transport, count) = (options.server, options.transport, options.count);
    let (peer, first, size) = (options.peer, 0, MIN_LEN);
    let plan = Plan { server, transport, own, peer, run, first, count, size };
    let mut workers = [Worker::open(&plan)?];
    let cpus: Vec<usize> = options.cpu.into_iter().collect();
    let mut reports = on_threads(&mut workers, &cpus, |_, worker| {
        worker.introduce(server, credentials.clone(), run)?;
        let done = phases(worker, options);
        if done.is_err() {
            let _ = worker.delete(options.window);
        }
        done
    })?;
    Ok(reports.remove(0))
}

fn phases(worker: &mut Worker, options: &Options) -> Result<Report, LoadError> {
    let pids = &options.server_pids;
    let mut phase = |asks: Asks| {
        let before = Usage::read(pids)?;
        let mut report = worker.phase(asks, options.window.max(1))?;
        let used = Usage::read(pids)?.since(&before);
        let each = used.cpu_ns as f64 / 1_000.0 / report.count.max(1) as f64;
        report.server_cpu_us = (!pids.is_empty()).then_some(each);
        Ok::<_, LoadError>(report)
    };
    let before = held(pids)?;
    let allocate = phase(Ask::Allocate)?;
    let permit = options.bind.then(|| phase(Ask::Permit)).transpose()?;
    let bind = options.bind.then(|| phase(Ask::Bind)).transpose()?;
    let live = held(pids)?;
    let refresh = options.refresh.then(|| phase(|_| Ask::Refresh(LIFETIME_S))).transpose()?;
    std::thread::sleep(options.hold);
    let delete = options.delete.then(|| phase(|_| Ask::Delete)).transpose()?;
    let after = if options.delete { held(pids)? } else { None };
    let memory = before.zip(live).map(|(before, live)| {
        let each =
            |live: u64, before: u64| (live as f64 - before as f64) / options.count.max(1) as f64;
        Memory {
            before,
            live,
            after,
            resident_each: each(live.resident, before.resident),
            kernel_slab_each: each(live.kernel_slab, before.kernel_slab),
        }
    });
    Ok(Report { allocate, permit, bind, refresh, delete, memory })
}

/// What the server holds once it is at rest, if it is watched.
fn held(pids: &[u32]) -> Result<Option<Held>, LoadError> {
    if pids.is_empty() {
        return Ok(None);
    }
    std::thread::sleep(SETTLE);
    Held::read(pids).map(Some)
}
