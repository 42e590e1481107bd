//! Whole days in the life of a relay, simulated from a seed.
//!
//! A thousand clients, echoing peers and people with bad intentions meet four servers under a
//! virtual clock, over a network that loses, duplicates, delays and reorders. Everything that
//! happens follows from the seed, so a failure happens again:
//!
//! ```text
//! TURNWAY_SEED=7 cargo test -p turnway-relay --test simulation
//! ```
//!
//! | Module | What is there |
//! |---|---|
//! | `world` | a day: who comes when, and what must be true at the end |
//! | `network` | the virtual clock, the events, loss and delay |
//! | `session`, `client`, `relaying` | sessions that behave like real clients |
//! | `attack` | people who have no right to anything |
//! | `shell`, `replies` | the daemon's part; every route and effect is judged here |
//! | `record` | who holds what, written down independently of the rules under test |
//! | `relay` | what is under test |
//! | `messages`, `payload`, `plan`, `rng` | requests, tagged datagrams, addresses, randomness |

mod attack;
mod client;
mod messages;
mod network;
mod payload;
mod plan;
mod record;
mod relay;
mod relaying;
mod replies;
mod rng;
mod session;
mod shell;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use relay::Relay;
use world::{Totals, World};

const SEEDS: u64 = 20;

/// What the servers may hold on to when everything has ended: tables keep their slots, each of
/// which remembers how often it was used, and queues their capacity.
const KEPT_BYTES_MAX: i64 = 128 * 1024;
/// What a second day like the first may add to that: a table doubles if a peak is higher by one
/// allocation. To lose 8 bytes with every session would be 100 KiB.
const GROWTH_BYTES_MAX: i64 = 32 * 1024;
/// The second day begins when the first is over and all it left behind has expired.
const SECOND_DAY_NS: u64 = 30 * plan::HOUR;

#[test]
fn a_thousand_clients_for_a_day() {
    if let Ok(seed) = std::env::var("TURNWAY_SEED") {
        return run(seed.parse().expect("TURNWAY_SEED is a number"));
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let seed @ 0..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
                    run(seed);
                }
            });
        }
    });
}

/// Says how to repeat a run if it fails.
struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "seed {0} failed; alone: TURNWAY_SEED={0} cargo test -p turnway-relay --test simulation",
                self.0
            );
        }
    }
}

fn run(seed: u64) {
    let _repeat = Repeat(seed);
    let mut relay = Relay::new(seed);
    let (first, kept) = day(&mut relay, seed, 0);
    check_variety(&first);
    assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes kept");
    let (_, growth) = day(&mut relay, seed, SECOND_DAY_NS);
    println!("seed {seed}: {kept} bytes kept, {growth} more after a second day; {first:?}");
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes more after the second day");
}

/// Runs a day; says also by how many bytes of heap the relay is larger afterwards.
fn day(relay: &mut Relay, seed: u64, start_ns: u64) -> (Totals, i64) {
    let mut totals = None;
    let heap = allocation_counter::measure(|| {
        totals = Some(World::new(relay, seed, start_ns).run());
    });
    (totals.expect("the day is over"), heap.bytes_current)
}

/// A simulation in which nothing happens shows nothing.
fn check_variety(totals: &Totals) {
    assert!(totals.sessions > 5000 && totals.relayed > 50_000, "{totals:?}");
    assert!(totals.most_at_once > 500, "{totals:?}");
    let rare = [
        totals.pairs,
        totals.refused,
        totals.forbidden,
        totals.borrowed,
        totals.moved,
        totals.retried,
        totals.reservations_expired,
        totals.late_attacks,
        totals.overslept,
    ];
    assert!(rare.iter().all(|count| *count > 10), "{totals:?}");
}
