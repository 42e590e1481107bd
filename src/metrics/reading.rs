//! All figures at one moment, summed over the shards.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use turnway_offload::{Figures, Outcome};
use turnway_relay as relay;
use turnway_relay::ports::Counts;

use super::View;
use crate::mailbox::IoStats;
use crate::tls::{Certificate, Store};

/// What the metrics are made from.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) rules: relay::Stats,
    pub(super) io: IoStats,
    pub(super) ports: Counts,
    pub(super) ports_busy: u64,
    pub(super) allocation_limit: u64,
    pub(super) log_records_dropped: u64,
    pub(super) shards: u64,
    pub(super) users: u64,
    pub(super) accounts_forgotten: u64,
    pub(super) database_errors: u64,
    pub(super) process: Process,
    pub(super) offload: Option<Figures>,
    pub(super) certificates: Certificates,
}

/// What is known of the certificates in force.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// Name, file, and when it ends in seconds since 1970.
    pub(super) in_force: Vec<(String, String, u64)>,
    pub(super) reloads: u64,
    pub(super) failures: u64,
}

/// What the system knows of this process. What it does not tell is 0.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// Seconds since 1970.
    pub(super) started_s: u64,
    pub(super) resident_bytes: u64,
    pub(super) open_descriptors: u64,
    pub(super) max_descriptors: u64,
}

impl Reading {
    /// Reads what every shard last published.
    pub(super) fn take(view: &View) -> Self {
        let mut reading = Self {
            ports: view.ports.counts(),
            ports_busy: view.ports.busy(),
            allocation_limit: view.shared.allocations.cap().into(),
            log_records_dropped: view.log_drops.count(),
            shards: view.boards.len() as u64,
            process: Process {
                started_s: view.started.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()),
                ..Process::read()
            },
            certificates: view.certificates.as_deref().map(Certificates::of).unwrap_or_default(),
            offload: view.offload.as_ref().map(|offload| offload.figures()),
            database_errors: view.database_errors.load(Ordering::Relaxed),
            ..Self::default()
        };
        {
            let mut ledger = view.ledger.lock();
            reading.users = ledger.users() as u64;
            reading.accounts_forgotten = ledger.usage().forgotten();
        }
        for board in &view.boards {
            let snapshot = board.read();
            reading.rules.add(&snapshot.rules);
            reading.io.add(&snapshot.io);
        }
        if let Some(figures) = &reading.offload {
            let answered = figures.outcomes[Outcome::BindingAnswered as usize];
            let (method, outcome) = (relay::Request::Binding, relay::Outcome::Success);
            reading.rules.requests[method.index()][outcome.index()] += answered;
        }
        reading
    }
}

impl Certificates {
    fn of(store: &Store) -> Self {
        let (reloads, failures) = store.reloads();
        let snapshot = store.current();
        let facts = |it: &Certificate| {
            let file = it.files.certificate.display().to_string();
            (it.name().to_owned(), file, u64::try_from(it.not_after_s).unwrap_or(0))
        };
        Self { in_force: snapshot.certificates.iter().map(facts).collect(), reloads, failures }
    }
}

impl Process {
    fn read() -> Self {
        Self {
            started_s: 0,
            resident_bytes: resident_bytes().unwrap_or(0),
            open_descriptors: open_descriptors().unwrap_or(0),
            max_descriptors: rlimit::Resource::NOFILE.get_soft().unwrap_or(0),
        }
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Since Linux 6.2 the size of the directory is the number of descriptors, which spares us reading
/// a hundred thousand names on a busy relay.
fn open_descriptors() -> io::Result<u64> {
    let directory = "/proc/self/fd";
    let size = fs::metadata(directory)?.len();
    if size > 0 {
        return Ok(size);
    }
    // One is that of the directory being read.
    Ok((fs::read_dir(directory)?.count() as u64).saturating_sub(1))
}
