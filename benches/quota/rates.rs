//! What passes of a user's traffic in 10 s, in each direction, against what the limit brings.

use std::time::Duration;

use crate::load::{Count, Load, Shape, Transport};
use crate::{Verdict, failures, relay};

/// What receivers may have more or less than the limit brings.
const TOLERANCE: f64 = 0.03;
/// What is offered, in limits.
const OFFERED: f64 = 1.6;
/// With less offered a limit is not shown to hold.
pub(crate) const SATURATED: f64 = 1.2;
/// The burst is what comes in half a second, and the offer spends it at 0.6 limits: 0.9 s, and
/// another second.
pub(crate) const WARM_UP: Duration = Duration::from_millis(1_900);
const MEASURED: Duration = Duration::from_secs(10);

/// One row.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    megabits: u64,
    allocations: usize,
    shape: Shape,
    transport: Transport,
}

/// Prints the table; how many rows failed.
pub(crate) fn run(quick: bool) -> usize {
    println!("rates  one user, two shards: payload that receivers got in 10 s, up and down");
    println!(
        "  {:>10} {:>6} {:<8} {:<3} {:>13} {:>19} {:>17}  (within {:.0} %)",
        "limit",
        "allocs",
        "load",
        "by",
        "offered/limit",
        "MB relayed",
        "deviation %",
        100.0 * TOLERANCE
    );
    failures(&cells(quick), row)
}

fn cells(quick: bool) -> Vec<Cell> {
    let (udp, tcp) = (Transport::Udp, Transport::Tcp);
    let (constant, bursty) = (Shape::Constant, Shape::Bursty);
    let mut cells = Vec::new();
    for megabits in [20, 200] {
        for allocations in [1, 10, 1_000] {
            for shape in [constant, bursty] {
                for transport in [udp, tcp] {
                    cells.push(Cell { megabits, allocations, shape, transport });
                }
            }
        }
    }
    let few = [(20, 10, bursty, udp), (200, 10, constant, udp), (20, 1_000, constant, tcp)];
    cells.retain(|cell| {
        !quick || few.contains(&(cell.megabits, cell.allocations, cell.shape, cell.transport))
    });
    cells
}

fn row(cell: &Cell) -> Verdict {
    let relay = relay(cell.megabits);
    let limit = cell.megabits * 1_000_000 / 8;
    let mut load = Load::open(&relay, cell.transport, cell.allocations);
    load.offer(cell.shape, (OFFERED * limit as f64) as u64);
    let before = load.run(WARM_UP);
    let count = load.run(MEASURED).since(&before);
    let [up, down] = [0, 1].map(|direction| Direction::of(&count, direction, limit));
    let saturated = up.offered.min(down.offered) >= SATURATED && count.lost == 0;
    let verdict = Verdict::of(saturated, up.holds() && down.holds());
    println!(
        "  {:>3} Mbit/s {:>6} {:<8} {:<3} {:>6.2} {:>6.2} {:>9.2} {:>9.2} {:>+8.2} {:>+8.2}  {}",
        cell.megabits,
        cell.allocations,
        format!("{:?}", cell.shape).to_lowercase(),
        format!("{:?}", cell.transport).to_lowercase(),
        up.offered,
        down.offered,
        up.megabytes,
        down.megabytes,
        100.0 * up.deviation,
        100.0 * down.deviation,
        verdict.text()
    );
    verdict
}

/// One direction of a row.
struct Direction {
    /// In limits.
    offered: f64,
    megabytes: f64,
    deviation: f64,
}

impl Direction {
    fn of(count: &Count, direction: usize, limit: u64) -> Self {
        let due = limit as f64 * count.at.as_secs_f64();
        let total = count.total(direction);
        Self {
            offered: total.offered as f64 / due,
            megabytes: total.received as f64 / 1e6,
            deviation: total.received as f64 / due - 1.0,
        }
    }

    fn holds(&self) -> bool {
        self.deviation.abs() <= TOLERANCE
    }
}
