//! The snapshot in force, and the watch over the files it was made of.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::certificates::date;
use super::snapshot::{Problem, Snapshot};
use crate::config::{Tls, Warnings};

/// What shards take their snapshots from. Reading it takes no lock.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

impl Store {
    /// A store with its first snapshot.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(snapshot),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The snapshot in force, for a connection that begins.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// How often files were read anew and are in force, and how often they could not be used; what
    /// is wrong counts once until it changes.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}

/// Watches the files of a store, by their metadata, and reads them anew when they change. What
/// cannot be used leaves the old snapshot in force and is tried again until it can.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    tls: Tls,
    /// The files that the snapshot in force was made of.
    loaded: Fingerprint,
    /// The files at the last look.
    last: Fingerprint,
    /// What was wrong when it was last said.
    said: Vec<Problem>,
}

/// What a look at the files found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing new, or nothing new that can be used, which has been said before.
    Nothing,
    /// New certificates are in force; what is doubtful about them.
    Loaded(Warnings),
    /// What is there now cannot be used, for the first time.
    Refused(Vec<Problem>),
}

impl Watch {
    /// Watches over `store`, whose snapshot was just made of `tls`.
    #[must_use]
    pub fn new(store: Arc<Store>, tls: Tls) -> Self {
        let loaded = store.current().files.clone();
        Self { store, tls, last: loaded.clone(), loaded, said: Vec::new() }
    }

    /// Looks at the files, a second or so after the last time: they are read once two looks saw
    /// the same, so that whoever writes them can finish. `now_s` is in seconds since 1970.
    pub fn look(&mut self, now_s: i64) -> Found {
        let now = Fingerprint::of(&self.tls);
        let settled = now == self.last;
        self.last = now;
        // While something is wrong, it may be what the metadata does not show: a directory's mode.
        let changed = self.last != self.loaded || !self.said.is_empty();
        if settled && changed { self.read(now_s) } else { Found::Nothing }
    }

    /// Reads all files now, as the configuration, which may be another one, names them.
    pub fn reload(&mut self, tls: &Tls, now_s: i64) -> Found {
        self.tls = tls.clone();
        self.last = Fingerprint::of(&self.tls);
        self.said.clear();
        self.read(now_s)
    }

    fn read(&mut self, now_s: i64) -> Found {
        match Snapshot::load(&self.tls, Some(&self.store.current()), now_s) {
            Ok((snapshot, warnings)) => {
                self.loaded = snapshot.files.clone();
                self.said.clear();
                self.store.current.store(Arc::new(snapshot));
                self.store.reloads.fetch_add(1, Ordering::Relaxed);
                Found::Loaded(warnings)
            }
            Err(problems) if problems == self.said => Found::Nothing,
            Err(problems) => {
                self.said.clone_from(&problems);
                self.store.failures.fetch_add(1, Ordering::Relaxed);
                Found::Refused(problems)
            }
        }
    }
}

/// What is logged of the certificates in force: one line each.
pub fn say(snapshot: &Snapshot) {
    for certificate in snapshot.certificates.iter() {
        tracing::info!(
            names = %certificate.names.join(" "),
            expires = date(certificate.not_after_s),
            file = %certificate.files.certificate.display(),
            "certificate in force"
        );
    }
}

/// What tells whether files have changed without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Option<Mark>>);

/// A file behind all links: where it is, which it is, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    pub(super) fn of(tls: &Tls) -> Self {
        let pairs = tls.certificates.iter().flat_map(|it| [&it.certificate, &it.key]);
        Self(pairs.chain(&tls.client_ca).map(|path| Mark::of(path)).collect())
    }
}

impl Mark {
    fn of(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let metadata = fs::metadata(&path).ok()?;
        Some(Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests;
