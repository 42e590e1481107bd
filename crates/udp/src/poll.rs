//! epoll, an eventfd to wake it from another thread, and a timer to sleep by.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// What a file descriptor is watched for. Errors and hang-ups are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(u32);

impl Interest {
    /// Nothing but errors and hang-ups.
    pub const NONE: Self = Self(0);
    /// Data to read, or the peer's end of a stream.
    pub const READ: Self = Self((libc::EPOLLIN | libc::EPOLLRDHUP) as u32);
    /// Room to write.
    pub const WRITE: Self = Self(libc::EPOLLOUT as u32);
    /// Both.
    pub const READ_WRITE: Self = Self(Self::READ.0 | Self::WRITE.0);

    /// Reports a change once (edge-triggered), instead of a condition as long as it holds.
    pub const fn edge(self) -> Self {
        Self(self.0 | libc::EPOLLET as u32)
    }
}

/// Watches file descriptors, each under a token that the caller chose.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// A poller that watches nothing.
    ///
    /// # Errors
    ///
    /// `EMFILE` and the like.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Watches `fd`, until it is deleted or closed.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`: `EEXIST`, `ENOSPC`, `ENOMEM`.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), token, interest)
    }

    /// Changes the token and interest of a watched `fd`.
    ///
    /// # Errors
    ///
    /// `ENOENT` where `fd` is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd(), token, interest)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    ///
    /// `ENOENT` where `fd` is not watched.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), 0, Interest::NONE)
    }

    /// Waits until something happens or `timeout` (rounded up to milliseconds) is over; without
    /// one, as long as it takes. Fills `events`, which are none after a timeout or a signal.
    ///
    /// # Errors
    ///
    /// Those of `epoll_wait`, of which none can happen to an open poller.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.filled = 0;
        let milliseconds = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let room = events.list.len() as i32;
        let list = events.list.as_mut_ptr();
        // SAFETY: `list` has room for that many events.
        let filled = unsafe { libc::epoll_wait(self.0.as_raw_fd(), list, room, milliseconds) };
        match usize::try_from(filled) {
            Ok(filled) => events.filled = filled,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.0, u64: token };
        // SAFETY: `event` outlives the call.
        let done = unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Room for what one [`Poller::wait`] reports.
pub struct Events {
    list: Vec<libc::epoll_event>,
    filled: usize,
}

impl Events {
    /// Room for `capacity` events, at least one. What does not fit is reported by the next wait.
    pub fn new(capacity: usize) -> Self {
        let list = vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)];
        Self { list, filled: 0 }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The events.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        let filled = &self.list[..self.filled];
        filled.iter().map(|event| Event { token: event.u64, flags: event.events })
    }
}

/// What happened to one watched file descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The token it is watched under.
    pub token: u64,
    flags: u32,
}

impl Event {
    /// A read will not block: there is data, the end of a stream, or an error to learn of.
    pub fn readable(&self) -> bool {
        self.has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// A write will not block: there is room, or an error to learn of.
    pub fn writable(&self) -> bool {
        self.has(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// An error is pending, or the error queue is not empty.
    pub fn error(&self) -> bool {
        self.has(libc::EPOLLERR)
    }

    /// The stream is closed both ways.
    pub fn hangup(&self) -> bool {
        self.has(libc::EPOLLHUP)
    }

    fn has(&self, flags: i32) -> bool {
        self.flags & flags as u32 != 0
    }
}

/// Wakes a [`Poller`] that watches it for [`Interest::READ`].
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// A waker that nobody watches yet.
    ///
    /// # Errors
    ///
    /// `EMFILE` and the like.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Self)
    }

    /// Makes the waker readable; from any thread, any number of times.
    pub fn wake(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes are readable at `one`. It fails only where the counter is full, and
        // then the waker is readable already.
        unsafe {
            libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>());
        }
    }

    /// Makes it unreadable again. Look for what the waker announced after this, not before.
    pub fn drain(&self) {
        let mut count = 0_u64;
        // SAFETY: eight bytes are writable at `count`. It fails only where nobody called `wake`.
        unsafe {
            libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>());
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer that can be set long before it is slept for: to set one that is not the next to expire
/// is cheap, while a sleep has the kernel program the hardware.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    ///
    /// `EMFILE` and the like.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        owned(fd).map(Self)
    }

    /// Sets it to expire once, in `ns` nanoseconds from now (1 at least), and not at what it was set
    /// to before, if that is still to come.
    pub fn set(&self, ns: u64) {
        let after = libc::timespec {
            tv_sec: (ns / 1_000_000_000) as _,
            tv_nsec: (ns % 1_000_000_000).max(u64::from(ns == 0)) as _,
        };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: never, it_value: after };
        // SAFETY: `setting` is readable, and nothing is to be written. It cannot fail, as the time
        // is a valid one.
        unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const setting, ptr::null_mut());
        }
    }

    /// Sleeps until it expires, or not at all if it has expired since it was set. One that is not
    /// set never does. A signal ends the sleep early.
    pub fn wait(&self) {
        let mut count = 0_u64;
        // SAFETY: eight bytes are writable at `count`. It fails only where a signal came.
        unsafe {
            libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>());
        }
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
