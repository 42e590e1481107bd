//! Waking the thread: an eventfd, written only if the thread may be asleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Set by whoever queues something, cleared by the thread.
#[derive(Debug)]
pub(super) struct Wake {
    event: OwnedFd,
    /// The event is set, or about to be.
    set: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> io::Result<Wake> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake { event, set: AtomicBool::new(false) })
    }

    /// After queueing: the thread will look.
    pub(super) fn up(&self) {
        if !self.set.swap(true, Ordering::AcqRel) {
            // Full only if it is set already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Before looking: what is queued from now on sets it again.
    pub(super) fn taken(&self) {
        // Empty if nobody set it.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        // A swap and no store: it takes part in the order of those of `up`, so that what was queued
        // before one that found it set is seen from here on.
        self.set.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
