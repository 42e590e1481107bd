//! How a shard sleeps: not at once after each datagram, and with timers set ahead.
//!
//! To wake a sleeping CPU costs more than to relay a datagram does. Datagrams that come evenly, a
//! little further apart than one takes, would each pay for a wake-up; those that come while the
//! shard pauses pay for one together. [`Pace`] decides when to pause and for how long: it is told
//! how many datagrams each turn served and when, nothing else. [`Metronome`] is what pauses.

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use turnway_udp::Timer;

/// Datagrams that a wake-up is to serve: what more would save of its price is little, and all would
/// pay for it with latency.
const GATHER: u64 = 4;

/// A pause must be this long to be worth its price: a timer, and a wake-up all the same.
const LEAST_NS: u64 = 40_000;

/// The weight of what the last turn saw in the expected gap between datagrams: one in this many.
const WEIGHT: u64 = 4;

/// However long it was quiet, it counts as no longer than this, so that a few turns tell that it
/// no longer is.
const QUIET_NS: u64 = 1_000_000;

/// Wake-ups expected further apart than this are too few for [`Metronome::stay_set`].
const OFTEN_NS: u64 = 125_000;

/// How far ahead a timer is set that only has to be there: less than a tick of the kernel's clock,
/// which is 1 to 10 ms long, and much longer than [`OFTEN_NS`].
const AHEAD_NS: u64 = 1_000_000;

/// What a shard does after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It waits for events; they are rare.
    Wait,
    /// It waits for events, of which many come.
    WaitOften,
    /// It pauses for so many nanoseconds at most, whatever comes, and looks then what has come.
    Pause(u64),
}

/// A shard's sense of how fast datagrams come.
#[derive(Debug)]
pub(super) struct Pace {
    /// The longest pause; zero for none at all.
    most_ns: u64,
    /// The expected time between two datagrams.
    gap_ns: u64,
    /// When the last turn that served datagrams began.
    turned_ns: u64,
}

impl Pace {
    /// Pauses of at most `most`; none if that is zero.
    pub(super) fn new(most: Duration) -> Self {
        let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Self { most_ns, gap_ns: QUIET_NS, turned_ns: 0 }
    }

    /// What to do after a turn that began at `began_ns`, served `count` datagrams or messages, and
    /// ended at `ended_ns`.
    ///
    /// There is a pause only where one of the configured length would gather more datagrams than
    /// one, and turn and pause together are no longer than [`GATHER`] of them are expected to
    /// take: the faster they come the shorter it is. What comes in bursts, or nearly as fast as it
    /// is dealt with, shares wake-ups by itself.
    pub(super) fn rest(&mut self, began_ns: u64, ended_ns: u64, count: u64) -> Rest {
        if count == 0 {
            return Rest::Wait;
        }
        let gap_ns = (began_ns.saturating_sub(self.turned_ns) / count).min(QUIET_NS);
        self.turned_ns = began_ns;
        self.gap_ns = (self.gap_ns * (WEIGHT - 1) + gap_ns) / WEIGHT;
        if self.gap_ns > OFTEN_NS {
            return Rest::Wait;
        }
        let worked_ns = ended_ns.saturating_sub(began_ns);
        let pause_ns = (GATHER * self.gap_ns).saturating_sub(worked_ns).min(self.most_ns);
        let few_come = self.gap_ns * 3 > self.most_ns * 2;
        let many_came = count > 2 * GATHER;
        if few_come || many_came || pause_ns < LEAST_NS {
            return Rest::WaitOften;
        }
        Rest::Pause(pause_ns)
    }
}

/// Two timers that beat in turn, each set while the other one runs.
///
/// A timer that becomes the CPU's next one, or is the last one to expire, makes the kernel program
/// the hardware, and so does a wake-up when the kernel's own tick has to be resumed. A virtual
/// machine asks its host for that each time, at the price of relaying two datagrams. A timer that
/// is set behind another one costs nothing of this kind, and one that is there already spares it
/// every wake-up before its time.
pub(super) struct Metronome {
    timers: [Timer; 2],
    /// What they are set to.
    beats_ns: [u64; 2],
    /// The one that beats next.
    next: usize,
}

impl Metronome {
    /// Two timers that are not set.
    ///
    /// # Errors
    ///
    /// No descriptor for them.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { timers: [Timer::new()?, Timer::new()?], beats_ns: [0, 0], next: 0 })
    }

    /// Sleeps until the next beat, which is at most `pause_ns` after `now_ns`.
    pub(super) fn pause(&mut self, now_ns: u64, pause_ns: u64) {
        if self.beats_ns[self.next] <= now_ns {
            self.next ^= 1;
        }
        let (this, other) = (self.next, self.next ^ 1);
        if !(now_ns + 1..=now_ns + pause_ns).contains(&self.beats_ns[this]) {
            self.set(this, now_ns, now_ns + pause_ns);
        }
        let after_ns = self.beats_ns[this];
        if !(after_ns + 1..=after_ns + pause_ns).contains(&self.beats_ns[other]) {
            self.set(other, now_ns, after_ns + pause_ns);
        }
        self.timers[this].wait();
        self.next = other;
    }

    /// Sees to it that a timer is set.
    pub(super) fn stay_set(&mut self, now_ns: u64) {
        if self.beats_ns.iter().all(|&beat_ns| beat_ns <= now_ns) {
            self.set(self.next, now_ns, now_ns + AHEAD_NS);
        }
    }

    fn set(&mut self, index: usize, now_ns: u64, at_ns: u64) {
        self.beats_ns[index] = at_ns;
        // Not by the hour: whatever becomes of the clock, no sleep is longer than asked for.
        self.timers[index].set(at_ns - now_ns);
    }
}
