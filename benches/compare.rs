//! The referee: Turnway, coturn and a bare forwarder do the same work in one run.
//!
//! The servers run on one CPU, the generator (`crates/load`) on another, and they take turns, so
//! that what the machine does besides meets them alike. All payloads are verified. Figures belong
//! to the machine; what counts is the ratio of two columns, taken in each turn, of which the
//! median is printed with the smallest and the largest.
//!
//! `benches/compare.sh` calls it: `rows 1 2 5`, `all`, `grid`, `--quick`; see [`settings`].
//!
//! - `servers.rs`: the columns, started and stopped; `forwarder.rs`: the bare one
//! - `cell.rs`: one piece of work, measured in turns; `rows.rs`: which ones, and the targets
//! - `control.rs`: rows 7 to 9: STUN, allocations, memory; `kernel.rs`: rows 10 to 13,
//!   and 7 in the kernel
//! - `figures.rs`: medians, ratios and how they are printed

#[path = "compare/cell.rs"]
mod cell;
#[path = "compare/control.rs"]
mod control;
#[path = "compare/figures.rs"]
mod figures;
#[path = "compare/forwarder.rs"]
mod forwarder;
#[path = "compare/kernel.rs"]
mod kernel;
#[path = "compare/rows.rs"]
mod rows;
#[path = "compare/servers.rs"]
mod servers;
#[path = "compare/settings.rs"]
mod settings;

use std::process::ExitCode;

use settings::Settings;

/// What a part of the run ends with: how many cells were not sound, or why it could not be made.
type Outcome = Result<usize, turnway_load::LoadError>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "forwarder") {
        return forwarder::main(&arguments[1..]);
    }
    let settings = match Settings::read(&arguments) {
        Ok(settings) => settings,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    turnway_udp::system::raise_nofile().expect("one may raise one's own soft limit");
    println!("{}", settings.headline());
    match run(&settings) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(unsound) => {
            println!("{unsound} cells had payloads that were changed or misrouted");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("cannot compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Outcome {
    let mut unsound = 0;
    for &row in &settings.rows {
        unsound += match row {
            1..=6 | 14 | 15 => rows::run(row, settings)?,
            7 => control::stun(settings)? + kernel::run(7, settings)?,
            8 => control::allocate(settings)?,
            9 => control::memory(settings)?,
            _ => kernel::run(row, settings)?,
        };
    }
    if settings.grid {
        unsound += rows::grid(settings)?;
    }
    Ok(unsound)
}
