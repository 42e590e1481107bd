//! How one user's allocations share a limit that does not do for all of them: max-min, wherever
//! they are, and within a second of any change.

use std::time::Duration;

use crate::load::{Count, Load, Shape, Transport};
use crate::rates::{SATURATED, WARM_UP};
use crate::{Verdict, failures, relay};

const MEGABITS: u64 = 20;
/// Payload bytes per second.
const LIMIT: f64 = (MEGABITS * 1_000_000 / 8) as f64;
const ALLOCATIONS: usize = 10;
/// What an allocation may get more or less than its share.
const TOLERANCE: f64 = 0.10;
/// What one that wants less than its share may lose.
const LOSS: f64 = 0.01;
const TOTAL_TOLERANCE: f64 = 0.03;
/// Within so long others have what one leaves.
const SETTLES: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);

/// Offered through an allocation, in tenths of the limit.
const SATURATING: f64 = 1.6;

/// Where the kernel puts the allocations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Wherever.
    Any,
    /// The first one alone on its shard.
    NineToOne,
}

/// One row.
struct Case {
    name: &'static str,
    place: Place,
    /// Offered through an allocation by number, in tenths of the limit.
    offers: fn(usize) -> f64,
    /// Which allocations stop before it is measured.
    leave: std::ops::Range<usize>,
}

const CASES: [Case; 8] = [
    Case { name: "10 saturating, 9:1", place: Place::NineToOne, offers: equal, leave: 0..0 },
    Case { name: "10 saturating", place: Place::Any, offers: equal, leave: 0..0 },
    Case { name: "one offers 5x", place: Place::Any, offers: one_greedy, leave: 0..0 },
    Case { name: "one offers 5x, 9:1", place: Place::NineToOne, offers: one_greedy, leave: 0..0 },
    Case { name: "one has left", place: Place::Any, offers: equal, leave: 0..1 },
    Case { name: "the 1 of 9:1 has left", place: Place::NineToOne, offers: equal, leave: 0..1 },
    Case { name: "one of the 9 has left", place: Place::NineToOne, offers: equal, leave: 9..10 },
    Case { name: "5 want 1/40 each", place: Place::Any, offers: five_modest, leave: 0..0 },
];

fn equal(_: usize) -> f64 {
    SATURATING
}

fn one_greedy(number: usize) -> f64 {
    if number == 0 { 5.0 * SATURATING } else { SATURATING }
}

fn five_modest(number: usize) -> f64 {
    if number < 5 { ALLOCATIONS as f64 / 40.0 } else { 2.0 * SATURATING }
}

/// Prints the table; how many rows failed.
pub(crate) fn run(quick: bool) -> usize {
    println!(
        "fairness  {ALLOCATIONS} allocations of one user over UDP, {MEGABITS} Mbit/s, {} s: what \
         each got of its share",
        MEASURED.as_secs()
    );
    println!(
        "  {:<22} {:<4} {:>6} {:>6} {:>6} {:>13} {:>14}  (within {:.0} %, total {:.0} %)",
        "case",
        "way",
        "min %",
        "mean %",
        "max %",
        "modest lost %",
        "total %",
        100.0 * TOLERANCE,
        100.0 * TOTAL_TOLERANCE
    );
    let cases = if quick { &CASES[..1] } else { &CASES };
    failures(cases, row)
}

fn row(case: &Case) -> Verdict {
    let mut relay = relay(MEGABITS);
    let mut load = match case.place {
        Place::Any => Load::open(&relay, Transport::Udp, ALLOCATIONS),
        Place::NineToOne => Load::placed(&mut relay, [1, ALLOCATIONS - 1]),
    };
    load.offer_each(Shape::Constant, |number| (case.offers)(number) * LIMIT / ALLOCATIONS as f64);
    let mut before = load.run(WARM_UP);
    if !case.leave.is_empty() {
        case.leave.clone().for_each(|number| load.silence(number));
        before = load.run(SETTLES);
    }
    let count = load.run(MEASURED).since(&before);
    let verdicts = [line(case, &count, 0, "up"), line(case, &count, 1, "down")];
    let not_passed = verdicts.into_iter().find(|verdict| *verdict != Verdict::Pass);
    not_passed.unwrap_or(Verdict::Pass)
}

/// One direction of a row.
fn line(case: &Case, count: &Count, direction: usize, way: &str) -> Verdict {
    let limit = LIMIT * count.at.as_secs_f64();
    let total = count.total(direction);
    let total_deviation = total.received as f64 / limit - 1.0;
    let there = (0..ALLOCATIONS).filter(|number| !case.leave.contains(number));
    let (modest, saturating): (Vec<usize>, Vec<usize>) =
        there.partition(|&number| (case.offers)(number) < 1.0);
    let modest: Vec<_> = modest.iter().map(|&number| count.flows[number][direction]).collect();
    let taken: u64 = modest.iter().map(|tally| tally.received).sum();
    let share = (limit - taken as f64) / saturating.len() as f64;
    let shares: Vec<f64> = saturating
        .iter()
        .map(|&number| count.flows[number][direction].received as f64 / share)
        .collect();
    let lost = modest
        .iter()
        .map(|tally| 1.0 - tally.received as f64 / tally.offered as f64)
        .fold(0.0, f64::max);
    let min = shares.iter().copied().fold(f64::MAX, f64::min);
    let max = shares.iter().copied().fold(0.0, f64::max);
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let fair = min >= 1.0 - TOLERANCE && max <= 1.0 + TOLERANCE;
    let pass = fair && lost <= LOSS && total_deviation.abs() <= TOTAL_TOLERANCE;
    let saturated = total.offered as f64 >= SATURATED * limit && count.lost == 0;
    let verdict = Verdict::of(saturated, pass);
    println!(
        "  {:<22} {way:<4} {:>6.1} {:>6.1} {:>6.1} {:>13} {:>+14.2}  {}",
        case.name,
        100.0 * min,
        100.0 * mean,
        100.0 * max,
        if modest.is_empty() { "-".to_owned() } else { format!("{:.2}", 100.0 * lost) },
        100.0 * total_deviation,
        verdict.text()
    );
    verdict
}
