//! When the next datagrams are due.

/// What a sender that was held up does not make up for, in nanoseconds: a burst of its own would
/// fill the queues of the server and be taken for the server's loss.
const MAX_LAG_NS: u64 = 2_000_000;

/// Evenly spaced steps. Time is an argument.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval_ns: f64,
    /// When step 0 is due; moves on when steps are left out.
    start_ns: u64,
    taken: u64,
}

impl Pace {
    /// So many steps a second, the first at `start_ns`.
    #[must_use]
    pub fn new(per_second: f64, start_ns: u64) -> Self {
        Self { interval_ns: 1e9 / per_second.max(1e-3), start_ns, taken: 0 }
    }

    /// How many steps have come due, and are not taken yet. Those that are more than 2 ms late are
    /// left out.
    pub fn due(&mut self, now_ns: u64) -> u64 {
        let next_ns = self.start_ns + (self.taken as f64 * self.interval_ns) as u64;
        let Some(late_ns) = now_ns.checked_sub(next_ns) else { return 0 };
        if late_ns > MAX_LAG_NS.max(self.interval_ns as u64) {
            self.start_ns = now_ns;
            self.taken = 0;
            return 1;
        }
        ((now_ns - self.start_ns) as f64 / self.interval_ns) as u64 + 1 - self.taken
    }

    /// Takes so many of those that were due.
    pub fn take(&mut self, steps: u64) {
        self.taken += steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes what is due every `tick_ns` for a second and returns when each step was taken.
    fn second(pace: &mut Pace, from_ns: u64, tick_ns: u64) -> Vec<u64> {
        let mut times = Vec::new();
        for now in (from_ns..from_ns + SECOND).step_by(tick_ns as usize) {
            let due = pace.due(now);
            pace.take(due);
            times.extend((0..due).map(|_| now));
        }
        times
    }

    #[test]
    fn steps_are_even_and_as_many_as_asked_for() {
        for rate in [1, 7, 1_000, 20_000, 333_333] {
            let mut pace = Pace::new(f64::from(rate), 5);
            let times = second(&mut pace, 5, 1_000);
            assert!(times.len().abs_diff(rate as usize) <= 1, "{} of {rate}", times.len());
            let interval = SECOND / rate as u64;
            for (number, time) in times.iter().enumerate() {
                let due = 5 + (number as f64 * 1e9 / f64::from(rate)) as u64;
                assert!(*time >= due && *time <= due + 1_000, "step {number} at {time}");
            }
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= interval + 2_000));
        }
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        assert_eq!(Pace::new(1_000.0, 10_000).due(9_999), 0);
        assert_eq!(Pace::new(1_000.0, 10_000).due(10_000), 1);
    }

    #[test]
    fn a_short_delay_is_made_up_for_and_a_long_one_is_not() {
        let mut pace = Pace::new(20_000.0, 0);
        assert_eq!(pace.due(1_000_000), 21);
        pace.take(21);
        assert_eq!(pace.due(9_000_000), 1, "8 ms late");
        pace.take(1);
        assert_eq!(second(&mut pace, 9_050_000, 10_000).len(), 20_000);
    }

    #[test]
    fn a_slow_pace_is_not_late_by_itself() {
        let mut pace = Pace::new(2.0, 0);
        assert_eq!(second(&mut pace, 0, 100_000_000).len(), 2);
    }
}
