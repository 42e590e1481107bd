//! One piece of work, done by several columns in turns.

use turnway_load::clients::Transport;
use turnway_load::flood::{DEFAULT_WINDOW, Directions, Flood, Mode, Options, Pressure};
use turnway_load::search::Found;
use turnway_load::tally::Latency;
use turnway_load::{LoadError, flood};

use crate::figures::{Spread, Target, median};
use crate::servers::{Kind, Server, forward};
use crate::settings::Settings;

/// What may be lost of a rate that counts as lossless.
const LOSS: f64 = 0.001;

/// A column: a server and how clients speak to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
}

impl Lane {
    pub(crate) const fn of(kind: Kind) -> Self {
        Self { name: kind.name(), kind, mode: Mode::Channel }
    }
}

/// The work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) transport: Transport,
    pub(crate) allocations: usize,
    pub(crate) size: usize,
    pub(crate) directions: Directions,
    pub(crate) burst: usize,
    pub(crate) work: Work,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// As fast as it goes; then the highest rate without loss, and latency at half of that.
    Saturated,
    /// So many datagrams a second.
    Paced(f64),
    /// Half of what this lane relays without loss.
    HalfOf(usize),
}

/// What is to be shown of two lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) metric: Metric,
    pub(crate) one: usize,
    pub(crate) other: usize,
    pub(crate) target: Target,
}

/// A figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Cpu,
    Lossless,
    P50,
    P99,
    P999,
}

impl Metric {
    const ALL: [Self; 5] = [Self::Cpu, Self::Lossless, Self::P50, Self::P99, Self::P999];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Lossless => "lossless rate",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
        }
    }
}

/// What one turn of one lane showed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_ns: f64,
    rate: f64,
    lossless: Option<Found>,
    latency: Latency,
    switches: f64,
    /// Of the loss in the run that CPU time was taken in.
    loss: f64,
    generator_bound: bool,
    sound: bool,
}

impl Sample {
    fn metric(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Cpu => self.cpu_ns,
            Metric::Lossless => self.lossless.map_or(f64::NAN, |found| found.rate),
            Metric::P50 => self.latency.p50,
            Metric::P99 => self.latency.p99,
            Metric::P999 => self.latency.p999,
        }
    }
}

struct Column {
    lane: Lane,
    flood: Flood,
    samples: Vec<Sample>,
    /// A forwarder lives for one cell; the others are the row's.
    _own: Option<Server>,
}

/// Measures a cell, prints it, and tells whether all payloads were sound.
pub(crate) fn run(
    cell: &Cell,
    lanes: &[Lane],
    goals: &[Goal],
    servers: &[Server],
    settings: &Settings,
) -> Result<bool, LoadError> {
    println!("\n  {}", name(cell));
    let mut columns = lanes
        .iter()
        .map(|lane| open(cell, *lane, servers, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let pressure = pressure(cell, &mut columns, settings)?;
    let mut wanted = settings.pairs;
    let mut turn = 0;
    while turn < wanted {
        let mut order: Vec<&mut Column> = columns.iter_mut().collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for column in order {
            let sample = column.sample(cell, pressure, settings)?;
            column.samples.push(sample);
        }
        turn += 1;
        if turn == wanted && is_close(&columns, goals) {
            wanted = wanted.max(settings.more_pairs);
        }
    }
    print(&columns, goals);
    let sound = columns.iter().flat_map(|column| &column.samples).all(|sample| sample.sound);
    columns.into_iter().try_for_each(|column| column.flood.close())?;
    Ok(sound)
}

fn open(
    cell: &Cell,
    lane: Lane,
    servers: &[Server],
    settings: &Settings,
) -> Result<Column, LoadError> {
    let options = Options {
        server: lane.kind.address_for(cell.transport),
        transport: cell.transport,
        allocations: cell.allocations,
        size: cell.size,
        directions: cell.directions,
        burst: cell.burst,
        mode: lane.mode,
        duration: settings.duration,
        warmup: settings.warmup,
        peer: None,
        cpus: vec![settings.load_cpu()],
        server_pids: Vec::new(),
    };
    let (own, flood) = match lane.kind {
        Kind::Forwarder | Kind::PlainForwarder => {
            let (server, flood) = forward(lane.kind, &options, settings)?;
            (Some(server), flood)
        }
        Kind::Turnway | Kind::Coturn => {
            let server = servers.iter().find(|server| server.kind == lane.kind);
            (None, server.expect("a row starts what it compares").open(options)?)
        }
    };
    Ok(Column { lane, flood, samples: Vec::new(), _own: own })
}

fn pressure(
    cell: &Cell,
    columns: &mut [Column],
    settings: &Settings,
) -> Result<Pressure, LoadError> {
    Ok(match cell.work {
        Work::Saturated => Pressure::Window(DEFAULT_WINDOW),
        Work::Paced(rate) => Pressure::Rate(rate),
        Work::HalfOf(lane) => {
            let found = columns[lane].search(settings, None)?;
            println!(
                "  at half of the {:.0} datagrams/s of {}:",
                found.rate, columns[lane].lane.name
            );
            Pressure::Rate((found.rate / 2.0).max(1_000.0))
        }
    })
}

impl Column {
    fn sample(
        &mut self,
        cell: &Cell,
        pressure: Pressure,
        settings: &Settings,
    ) -> Result<Sample, LoadError> {
        let saturated = self.flood.run(pressure)?;
        let cost = saturated.server.expect("each server is watched");
        let mut sample = Sample {
            cpu_ns: cost.cpu_ns_per_datagram,
            rate: saturated.rate,
            lossless: None,
            latency: saturated.latency_us,
            switches: cost.switches_per_datagram,
            loss: saturated.loss,
            generator_bound: saturated.generator_bound,
            sound: saturated.is_sound(),
        };
        if cell.work == Work::Saturated && !settings.quick {
            let before = self.samples.last().and_then(|sample| sample.lossless);
            let found = self.search(settings, before.map(|found| found.rate))?;
            let half: flood::Report =
                self.flood.run(Pressure::Rate((found.rate / 2.0).max(1.0)))?;
            sample.lossless = Some(found);
            sample.latency = half.latency_us;
            sample.sound &= half.is_sound();
        }
        Ok(sample)
    }

    fn search(&mut self, settings: &Settings, guess: Option<f64>) -> Result<Found, LoadError> {
        self.flood.time(settings.attempt / 4, settings.attempt);
        let found = self.flood.search(guess, LOSS);
        self.flood.time(settings.warmup, settings.duration);
        found
    }

    /// Whether the generator ended a search for the lossless rate, not the server.
    fn is_bound(&self) -> bool {
        let mut found = self.samples.iter().filter_map(|sample| sample.lossless);
        found.any(|found| found.generator_bound)
    }

    fn values(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.metric(metric)).collect()
    }
}

/// One lane's figure against another's, turn by turn.
fn compared(columns: &[Column], goal: &Goal) -> Vec<f64> {
    let (one, other) =
        (columns[goal.one].values(goal.metric), columns[goal.other].values(goal.metric));
    one.into_iter().zip(other).map(|(one, other)| goal.target.compare(one, other)).collect()
}

/// Whether a ratio is so near 1 that more turns are wanted.
fn is_close(columns: &[Column], goals: &[Goal]) -> bool {
    let cpu = (1..columns.len()).map(|other| cpu_goal(other, 1.0));
    let goals = goals.iter().copied();
    let wanted: Vec<Goal> = if goals.len() > 0 { goals.collect() } else { cpu.collect() };
    wanted.iter().any(|goal| goal.target.is_close(median(&compared(columns, goal))))
}

/// That the first lane needs at most so many times the CPU of another.
pub(crate) const fn cpu_goal(other: usize, limit: f64) -> Goal {
    Goal { metric: Metric::Cpu, one: 0, other, target: Target::AtMost(limit) }
}

fn name(cell: &Cell) -> String {
    let Cell { transport, allocations, size, directions, burst, work } = cell;
    let transport = match transport {
        Transport::Udp => "",
        Transport::Tcp => "TCP clients, ",
        Transport::Tls => "TLS clients, ",
    };
    let directions = match directions {
        Directions::ToPeer => "to peers",
        Directions::ToClient => "to clients",
        Directions::Both => "both ways",
    };
    let burst = if *burst == 1 { String::new() } else { format!(", in bursts of {burst}") };
    let work = match work {
        Work::Saturated => "as fast as it goes".to_owned(),
        Work::Paced(rate) => format!("{rate:.0} datagrams/s"),
        Work::HalfOf(_) => "at half speed".to_owned(),
    };
    format!("{transport}{size} B, {allocations} allocations, {directions}{burst}, {work}")
}

fn print(columns: &[Column], goals: &[Goal]) {
    println!(
        "    {:<18}{:>21}{:>11}{:>12}{:>8}{:>8}{:>9}{:>10}{:>9}",
        "",
        "CPU ns/datagram",
        "relayed/s",
        "lossless/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "switches",
        "loss"
    );
    for column in columns {
        let figure = |metric| median(&column.values(metric));
        let of =
            |take: fn(&Sample) -> f64| median(&column.samples.iter().map(take).collect::<Vec<_>>());
        let Spread { median: cpu, least, most, .. } = Spread::of(&column.values(Metric::Cpu));
        let open = if column.is_bound() { ">" } else { "" };
        let lossless = match figure(Metric::Lossless) {
            none if none.is_nan() => "-".to_owned(),
            rate => format!("{open}{rate:.0}"),
        };
        let bound = column.samples.iter().any(|sample| sample.generator_bound);
        println!(
            "    {:<18}{:>21}{:>11.0}{:>12}{:>8.0}{:>8.0}{:>9.0}{:>10.3}{:>8.2}%{}",
            column.lane.name,
            format!("{cpu:.0} ({least:.0}-{most:.0})"),
            of(|sample| sample.rate),
            lossless,
            figure(Metric::P50),
            figure(Metric::P99),
            figure(Metric::P999),
            of(|sample| sample.switches),
            of(|sample| 100.0 * sample.loss),
            if bound { "  generator-bound: only CPU counts" } else { "" }
        );
    }
    print_ratios(columns);
    for goal in goals {
        let values = compared(columns, goal);
        if values.iter().all(|value| value.is_nan()) {
            continue;
        }
        let (one, other) = (columns[goal.one].lane.name, columns[goal.other].lane.name);
        let sign = match goal.target {
            Target::AtMost(_) | Target::AtLeast(_) => "/",
            Target::Margin(_) => "less",
        };
        let verdict = goal.target.verdict(&values);
        let bound = goal.metric == Metric::Lossless
            && [goal.one, goal.other].iter().any(|&lane| columns[lane].is_bound());
        let remark = if bound { "; generator-bound, so it does not count" } else { "" };
        println!("    * {} {one} {sign} {other}: {verdict}{remark}", goal.metric.name());
    }
}

/// The first column against each other one: medians and, in brackets, extremes.
fn print_ratios(columns: &[Column]) {
    for (other, column) in columns.iter().enumerate().skip(1) {
        let ratios = Metric::ALL.into_iter().filter_map(|metric| {
            let goal = Goal { metric, ..cpu_goal(other, 1.0) };
            let Spread { median, least, most, .. } = Spread::of(&compared(columns, &goal));
            let figure = || format!("{} {median:.2} ({least:.2}-{most:.2})", metric.name());
            (!median.is_nan()).then(figure)
        });
        let ratios: Vec<String> = ratios.collect();
        println!("    {} / {}: {}", columns[0].lane.name, column.lane.name, ratios.join(", "));
    }
}
