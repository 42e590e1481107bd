//! The kernel path: rows 10 to 13, and the kernel's half of row 7.
//!
//! Clients and peers are frames that an XDP program makes, and another one counts what comes back:
//! no socket could offer what a relay in the kernel takes. Only the allocations and channels are
//! made by real clients. Server and generator have a network namespace and a CPU each; what a side's
//! interface receives is handled by a kernel thread on that side's CPU, and what the server's costs
//! is charged to the server, whatever it is: coturn's datagrams go through the same cable.
//!
//! - `cable`: the namespaces, the cable, its receiving threads and its counters
//! - `frames`: what is sent and what has to come back; `flood`: generator and sink
//! - `servers`: what is compared; `hairpin`: the bare one
//! - `bpf/`: the programs and their objects, built by `bpf/build.sh`
//!
//! Needs root. The generator never sleeps, so that it is busy when it does not wait: sending, and
//! receiving beside it. Above 90 % the lossless rate may be its own and not the server's, and only
//! CPU time for each datagram counts.

#[path = "kernel/cable.rs"]
mod cable;
#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "kernel/flood.rs"]
mod flood;
#[path = "kernel/frames.rs"]
mod frames;
#[path = "kernel/hairpin.rs"]
mod hairpin;
#[path = "kernel/servers.rs"]
mod servers;

use std::convert::Infallible;
use std::time::Duration;

use turnway_load::search::{Probe, highest};

use crate::Outcome;
use crate::figures::{Spread, Target};
use crate::settings::Settings;
use cable::Cable;
use flood::{Flood, Ran};
use frames::Work;
use servers::{Running, Subject};

/// Payload bytes: 20 ms of audio.
const SIZE: usize = 172;
/// Lost frames that do not count as loss.
const LOSS: f64 = 0.001;
/// What is offered where CPU time is compared, in datagrams a second: to the kernel path, and of a
/// server's own lossless rate the share that it is offered where it cannot take that.
const OFFERED: f64 = 1_000_000.0;
const OFFERED_SHARE: f64 = 0.8;
/// Busier than this, the generator may be the limit.
const BUSY: f64 = 0.9;
/// What is offered first, until everybody is awake and in the caches.
const WARM_UP: f64 = 20_000.0;
/// More than this must not go to sockets where the kernel relays.
const STRAY: f64 = 0.01;

/// A row of the table of targets.
struct Row {
    number: u32,
    title: &'static str,
    allocations: u16,
    /// Of each allocation.
    channels: u16,
    works: &'static [Work],
    columns: &'static [Subject],
    targets: &'static [Aim],
}

/// A ratio of two columns that has to be shown.
struct Aim {
    figure: Figure,
    one: Subject,
    other: Subject,
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Figure {
    Rate,
    Cpu,
}

const BOTH: &[Work] = &[Work::ToPeer, Work::ToClient];

const ROWS: [Row; 5] = [
    Row {
        number: 7,
        title: "kernel path, STUN Binding of 1,000 clients",
        allocations: 1_000,
        channels: 0,
        works: &[Work::Binding],
        columns: &[Subject::Native, Subject::Coturn],
        targets: &[Aim {
            figure: Figure::Rate,
            one: Subject::Native,
            other: Subject::Coturn,
            target: Target::AtLeast(8.0),
        }],
    },
    Row {
        number: 10,
        title: "kernel path, native, 172 B, 1,000 allocations",
        allocations: 1_000,
        channels: 1,
        works: BOTH,
        columns: &[Subject::Native, Subject::Coturn, Subject::Hairpin],
        targets: &[
            Aim {
                figure: Figure::Rate,
                one: Subject::Native,
                other: Subject::Coturn,
                target: Target::AtLeast(10.0),
            },
            Aim {
                figure: Figure::Cpu,
                one: Subject::Native,
                other: Subject::Hairpin,
                target: Target::AtMost(1.35),
            },
        ],
    },
    Row {
        number: 11,
        title: "kernel path, native, 172 B, 40,000 channels of 1,000 allocations",
        allocations: 1_000,
        channels: 40,
        works: BOTH,
        columns: &[Subject::Native, Subject::Coturn, Subject::Hairpin],
        targets: &[Aim {
            figure: Figure::Rate,
            one: Subject::Native,
            other: Subject::Coturn,
            target: Target::AtLeast(6.0),
        }],
    },
    Row {
        number: 12,
        title: "kernel path, generic, 172 B, 1,000 allocations",
        allocations: 1_000,
        channels: 1,
        works: BOTH,
        columns: &[Subject::Generic, Subject::Coturn],
        targets: &[Aim {
            figure: Figure::Rate,
            one: Subject::Generic,
            other: Subject::Coturn,
            target: Target::AtLeast(3.0),
        }],
    },
    Row {
        number: 13,
        title: "kernel path, native, every quota, 172 B, 1,000 allocations",
        allocations: 1_000,
        channels: 1,
        works: BOTH,
        columns: &[Subject::Limited, Subject::Native],
        targets: &[Aim {
            figure: Figure::Cpu,
            one: Subject::Limited,
            other: Subject::Native,
            target: Target::AtMost(1.25),
        }],
    },
];

/// What one turn of one column showed.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The highest rate without loss; not a number where it was not looked for.
    rate: f64,
    /// The generator's share of its CPU at that rate.
    busy: f64,
    /// The server's nanoseconds for each relayed datagram, and the rate at which they were counted.
    cpu_ns: f64,
    offered: f64,
    /// The share of datagrams that got to a socket.
    strays: f64,
}

/// All turns of one column and one kind of work.
struct Column {
    subject: Subject,
    work: Work,
    cells: Vec<Cell>,
}

/// Measures one row, and tells how many runs relayed nothing or a wrong payload.
pub(crate) fn run(row: u32, settings: &Settings) -> Outcome {
    let row = ROWS.iter().find(|one| one.number == row).expect("a row of the kernel path");
    println!("\nRow {}  {}", row.number, row.title);
    if settings.quick && row.number != 10 {
        println!("  left out: the quick pass has row 10 for all of them");
        return Ok(0);
    }
    if !common::can_make_namespaces() {
        return Ok(0);
    }
    let cable = Cable::new(settings.cpus);
    Ok(cable.generator.enter(|| {
        turnway_udp::system::pin_thread(cable.generator_cpu).expect("a CPU of this machine");
        let mut flood = Flood::attach(cable.near_index());
        Bench { cable: &cable, flood: &mut flood, settings, failures: 0 }.row(row)
    }))
}

struct Bench<'a> {
    cable: &'a Cable,
    flood: &'a mut Flood,
    settings: &'a Settings,
    failures: usize,
}

impl Bench<'_> {
    fn row(mut self, row: &Row) -> usize {
        let pairs = row.columns.iter().flat_map(|&subject| {
            row.works.iter().map(move |&work| Column { subject, work, cells: Vec::new() })
        });
        let mut columns: Vec<Column> = pairs.collect();
        for turn in 0.. {
            let close = |aim: &Aim| {
                row.works.iter().any(|&work| {
                    let ratios = aim.ratios(&columns, work);
                    aim.target.is_close(Spread::of(&ratios).median)
                })
            };
            let enough = turn >= self.settings.pairs
                && (turn >= self.settings.more_pairs || !row.targets.iter().any(close));
            if enough {
                break;
            }
            for &subject in row.columns {
                self.turn(row, subject, &mut columns);
            }
        }
        for &work in row.works {
            print(row, work, &columns);
        }
        self.failures
    }

    /// Starts a server and has it do all kinds of the row's work.
    fn turn(&mut self, row: &Row, subject: Subject, columns: &mut [Column]) {
        let mut running = Running::start(subject, self.cable, row.allocations, row.channels);
        for column in columns.iter_mut().filter(|column| column.subject == subject) {
            self.flood.load(column.work, &running.flows, SIZE);
            let search = row.targets.iter().any(|aim| aim.figure == Figure::Rate);
            let guess = column.cells.last().map_or(subject.guess(), |last| last.rate);
            if let Some(cell) = self.measure(&running, search, guess) {
                column.cells.push(cell);
            }
            if strayed(column) {
                println!("  {}: not by the kernel path, which says:", subject.title());
                running.explain().iter().for_each(|line| println!("    {line}"));
            }
        }
    }

    fn measure(&mut self, running: &Running, search: bool, guess: f64) -> Option<Cell> {
        let duration = self.settings.duration;
        let warm = self.send(WARM_UP, self.settings.warmup.max(Duration::from_millis(100)))?;
        let (mut rate, mut busy) = (f64::NAN, warm.busy);
        if search && !self.settings.quick {
            let found = highest(guess, LOSS, |rate| {
                let ran = self.flood.run(rate, duration);
                self.failures += usize::from(ran.wrong > 0);
                if ran.loss() <= LOSS {
                    busy = ran.busy;
                }
                Ok::<_, Infallible>(Probe { sent: ran.rate(), loss: ran.loss() })
            });
            rate = found.unwrap_or_else(|never| match never {}).rate;
        }
        let offered = if rate.is_nan() { OFFERED } else { OFFERED.min(rate * OFFERED_SHARE) };
        let offered = if self.settings.quick { WARM_UP } else { offered };
        // Credit that a quota lends grows with what is asked for.
        self.send(offered, self.settings.warmup)?;
        let (before, counted) = (running.cpu_ns(), self.cable.counted());
        let ran = self.send(offered, duration)?;
        let (after, counted_after) = (running.cpu_ns(), self.cable.counted());
        let frames = counted_after.frames - counted.frames;
        self.check(&ran, frames);
        Some(Cell {
            rate,
            busy,
            cpu_ns: (after - before) as f64 / ran.relayed as f64,
            offered: ran.rate(),
            strays: (counted_after.to_sockets - counted.to_sockets) as f64 / frames as f64,
        })
    }

    /// Every datagram is counted three times; `arrived` says what the server's interface counted.
    fn check(&mut self, ran: &Ran, arrived: u64) {
        // Neighbours and the like arrive as well.
        let sound = ran.relayed <= ran.sent && ran.relayed <= arrived;
        if self.settings.quick || !sound || ran.loss() > LOSS {
            println!(
                "  {} sent, {arrived} arrived, {} came back, {} of these verified",
                ran.sent, ran.relayed, ran.verified
            );
        }
        self.failures += usize::from(!sound);
    }

    /// Sends; nothing where nothing came back.
    fn send(&mut self, rate: f64, time: Duration) -> Option<Ran> {
        let ran = self.flood.run(rate, time);
        if ran.relayed == 0 {
            println!("  nothing of {} frames was relayed", ran.sent);
        }
        if ran.wrong > 0 {
            println!("  {} of {} frames were relayed wrongly", ran.wrong, ran.verified);
        }
        self.failures += usize::from(ran.relayed == 0 || ran.wrong > 0);
        (ran.relayed > 0).then_some(ran)
    }
}

impl Subject {
    /// Where the search for a lossless rate begins.
    fn guess(self) -> f64 {
        match self {
            Self::Native | Self::Limited | Self::Hairpin => 1_500_000.0,
            Self::Generic => 500_000.0,
            Self::Coturn => 100_000.0,
        }
    }
}

impl Aim {
    /// Turn by turn.
    fn ratios(&self, columns: &[Column], work: Work) -> Vec<f64> {
        let figure = |cell: &Cell| match self.figure {
            Figure::Rate => cell.rate,
            Figure::Cpu => cell.cpu_ns,
        };
        let pairs = cells(columns, self.one, work).iter().zip(cells(columns, self.other, work));
        pairs.map(|(one, other)| self.target.compare(figure(one), figure(other))).collect()
    }

    fn print(&self, columns: &[Column], work: Work) {
        let ratios = self.ratios(columns, work);
        if Spread::of(&ratios).median.is_nan() {
            return;
        }
        println!("  {}: {}", self.title(), self.target.verdict(&ratios));
        let busy: Vec<f64> = cells(columns, self.one, work).iter().map(|cell| cell.busy).collect();
        if self.figure == Figure::Rate && Spread::of(&busy).median > BUSY {
            println!("    generator-bound: it may take more, and CPU per datagram counts");
        }
    }

    fn title(&self) -> String {
        let figure = match self.figure {
            Figure::Rate => "lossless rate",
            Figure::Cpu => "CPU per datagram",
        };
        format!("{figure}, {} to {}", self.one.title(), self.other.title())
    }
}

fn cells(columns: &[Column], subject: Subject, work: Work) -> &[Cell] {
    let column = columns.iter().find(|column| (column.subject, column.work) == (subject, work));
    column.map_or(&[], |column| &column.cells)
}

/// Whether sockets did what the kernel path is there for.
fn strayed(column: &Column) -> bool {
    let by_sockets = column.subject == Subject::Coturn;
    !by_sockets && column.cells.last().is_none_or(|cell| cell.strays > STRAY)
}

fn print(row: &Row, work: Work, columns: &[Column]) {
    println!(
        "  {:<20}{:>34}{:>10}{:>28}{:>12}{:>9}",
        work.title(),
        "lossless, 1,000/s",
        "busy",
        "CPU ns each",
        "at 1,000/s",
        "sockets"
    );
    for column in columns.iter().filter(|column| column.work == work) {
        let spread = |figure: fn(&Cell) -> f64, scale: f64| {
            let values: Vec<f64> = column.cells.iter().map(|cell| figure(cell) / scale).collect();
            Spread::of(&values)
        };
        let range = |spread: Spread| match spread.median {
            median if median.is_nan() => "-".to_owned(),
            median => format!("{median:.0} ({:.0} to {:.0})", spread.least, spread.most),
        };
        let busy = spread(|cell| cell.busy, 0.01).median;
        println!(
            "  {:<20}{:>34}{:>9.0}%{:>28}{:>12.0}{:>8.1}%{}",
            column.subject.title(),
            range(spread(|cell| cell.rate, 1e3)),
            busy,
            range(spread(|cell| cell.cpu_ns, 1.0)),
            spread(|cell| cell.offered, 1e3).median,
            spread(|cell| cell.strays, 0.01).median,
            if busy > BUSY * 100.0 { "  generator-bound" } else { "" }
        );
    }
    for aim in row.targets {
        aim.print(columns, work);
    }
}
