//! Quotas held by a running daemon: how much of a user's bandwidth passes, how it is shared, and
//! what another user notices.
//!
//! Each part prints a table and what it is to be; one row that fails fails the run.
//!
//! - `rates`: payload bytes over 10 s against the limit, for 20 and 200 Mbit/s
//! - `fairness`: what each of a user's allocations gets of a limit that does not do for all
//! - `neighbour`: what another user loses and waits beside one that offers ten times its limit
//!
//! Run with `cargo bench --bench quota`, and with `-- fairness` for one part; `-- --quick` runs a
//! few rows of the first two. It takes both directions at once, wants two CPUs for itself, and
//! measures with nothing but loopback sockets.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "quota/fairness.rs"]
mod fairness;
#[path = "quota/load.rs"]
mod load;
#[path = "quota/neighbour.rs"]
mod neighbour;
#[path = "quota/rates.rs"]
mod rates;
#[path = "quota/streams.rs"]
mod streams;

use std::process::ExitCode;

use common::{Relay, Setup};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let named = |part: &str| arguments.iter().any(|argument| argument == part);
    let all = !["rates", "fairness", "neighbour"].into_iter().any(named);
    rlimit::increase_nofile_limit(u64::MAX).expect("a socket for each client");
    let mut failed = 0;
    if all || named("rates") {
        failed += rates::run(quick);
    }
    if all || named("fairness") {
        failed += fairness::run(quick);
    }
    if (all && !quick) || named("neighbour") {
        failed += neighbour::run();
    }
    if failed > 0 {
        println!("{failed} rows did not pass");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// A daemon with two shards whose users have a limit of so many Mbit/s.
fn relay(megabits: u64) -> Relay {
    start(format!("[quota]\nbandwidth_per_user = \"{megabits} Mbit/s\"\n"))
}

/// The same, whose users have none.
fn unlimited_relay() -> Relay {
    start(String::new())
}

fn start(extra: String) -> Relay {
    Relay::start(Setup { shards: 2, extra, quiet: true, ..Setup::default() })
}

/// What a row says of the daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    /// The machine was too busy to offer what was to be offered, or to take in what came.
    NotSaturated,
}

impl Verdict {
    fn of(saturated: bool, pass: bool) -> Self {
        match (saturated, pass) {
            (false, _) => Self::NotSaturated,
            (true, true) => Self::Pass,
            (true, false) => Self::Fail,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::NotSaturated => "not saturated",
        }
    }
}

/// How many of the rows did not pass. One that could not be judged is measured again.
fn failures<T>(rows: &[T], row: impl Fn(&T) -> Verdict) -> usize {
    let judged = |item: &&T| {
        let verdicts = std::iter::repeat_with(|| row(item)).take(ATTEMPTS);
        let mut judged = verdicts.skip_while(|verdict| *verdict == Verdict::NotSaturated);
        judged.next() != Some(Verdict::Pass)
    };
    rows.iter().filter(judged).count()
}

/// How often a row is measured that cannot be judged; then it counts as failed.
const ATTEMPTS: usize = 3;
