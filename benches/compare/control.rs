//! Rows 7 to 9: STUN, allocations and refreshes, memory.

use std::time::Duration;

use turnway_load::allocate::{self, Memory};
use turnway_load::clients::Transport;
use turnway_load::flood::{DEFAULT_WINDOW, Pressure};
use turnway_load::transact::PhaseReport;
use turnway_load::{LoadError, stun};

use crate::Outcome;
use crate::figures::{Spread, Target, median};
use crate::servers::{Kind, Server, credentials};
use crate::settings::Settings;

const KINDS: [Kind; 2] = [Kind::Turnway, Kind::Coturn];

/// Requests under way while allocations are made.
const WINDOW: usize = 64;

/// Row 7: Binding requests, as fast as they are answered.
pub(crate) fn stun(settings: &Settings) -> Outcome {
    println!("\nRow 7  STUN Binding, as fast as it goes");
    let servers = KINDS.map(|kind| Server::start(kind, settings));
    let servers = servers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let [ours, theirs] = turns(settings, |at| {
        stun::run(&stun::Options {
            server: servers[at].kind.address(),
            clients: 1,
            pressure: Pressure::Window(DEFAULT_WINDOW),
            duration: settings.duration,
            warmup: settings.warmup,
            cpu: Some(settings.load_cpu()),
            server_pids: vec![servers[at].pid()],
        })
    })?;
    println!(
        "    {:<12}{:>24}{:>16}{:>8}{:>8}",
        "", "answers/s", "CPU ns/answer", "p50 us", "p99 us"
    );
    for (kind, reports) in KINDS.into_iter().zip([&ours, &theirs]) {
        let of = |take: fn(&stun::Report) -> f64| reports.iter().map(take).collect::<Vec<_>>();
        let Spread { median: rate, least, most, .. } = Spread::of(&of(|report| report.rate));
        println!(
            "    {:<12}{:>24}{:>16.0}{:>8.0}{:>8.0}{}",
            kind.name(),
            format!("{rate:.0} ({least:.0}-{most:.0})"),
            median(&of(|report| report.server_cpu_ns.unwrap_or(f64::NAN))),
            median(&of(|report| report.latency_us.p50)),
            median(&of(|report| report.latency_us.p99)),
            if reports.iter().any(|report| report.generator_bound) {
                "  generator-bound"
            } else {
                ""
            }
        );
    }
    let rates = ours.iter().zip(&theirs).map(|(one, other)| one.rate / other.rate);
    verdict("rate", Target::AtLeast(1.3), &rates.collect::<Vec<_>>());
    Ok(0)
}

/// Row 8: what an Allocate with its 401 and a Refresh cost.
pub(crate) fn allocate(settings: &Settings) -> Outcome {
    let count = if settings.quick { 100 } else { 2_000 };
    println!("\nRow 8  {count} allocations, 401 and all, then a channel and a Refresh each");
    let servers = KINDS.map(|kind| Server::start(kind, settings));
    let servers = servers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let [ours, theirs] = turns(settings, |at| make(&servers[at], count, settings))?;
    println!(
        "    {:<12}{:>14}{:>16}{:>14}{:>16}{:>14}{:>16}{:>8}",
        "",
        "allocations/s",
        "CPU us each",
        "channels/s",
        "CPU us each",
        "refreshes/s",
        "CPU us each",
        "again"
    );
    for (kind, reports) in KINDS.into_iter().zip([&ours, &theirs]) {
        let of = |take: &dyn Fn(&allocate::Report) -> f64| {
            median(&reports.iter().map(take).collect::<Vec<_>>())
        };
        let cpu = |phase: &PhaseReport| phase.server_cpu_us.unwrap_or(f64::NAN);
        println!(
            "    {:<12}{:>14.0}{:>16.1}{:>14.0}{:>16.1}{:>14.0}{:>16.1}{:>8.0}",
            kind.name(),
            of(&|report| report.allocate.per_second),
            of(&|report| cpu(&report.allocate)),
            of(&|report| optional(&report.bind, |phase| phase.per_second)),
            of(&|report| optional(&report.bind, cpu)),
            of(&|report| optional(&report.refresh, |phase| phase.per_second)),
            of(&|report| optional(&report.refresh, cpu)),
            of(&|report| report.allocate.retransmitted as f64),
        );
    }
    let cpu = |phase: &PhaseReport| phase.server_cpu_us.unwrap_or(f64::NAN);
    let ratio = |take: &dyn Fn(&allocate::Report) -> f64| {
        ours.iter().zip(&theirs).map(|(one, other)| take(one) / take(other)).collect::<Vec<_>>()
    };
    let half = Target::AtMost(0.5);
    verdict("CPU of an Allocate", half, &ratio(&|report| cpu(&report.allocate)));
    verdict("CPU of a Refresh", half, &ratio(&|report| optional(&report.refresh, cpu)));
    Ok(0)
}

/// Row 9: memory of idle allocations, each with a permission and a channel; new servers each time.
pub(crate) fn memory(settings: &Settings) -> Outcome {
    let count = if settings.quick { 200 } else { 10_000 };
    println!("\nRow 9  {count} idle allocations, each with a permission and a channel");
    let [ours, theirs] = turns(settings, |at| {
        let server = Server::start(KINDS[at], settings)?;
        let report = make(&server, count, settings)?;
        Ok(report.memory.expect("the server is watched"))
    })?;
    println!(
        "    {:<12}{:>20}{:>14}{:>14}{:>14}{:>14}{:>18}",
        "",
        "resident B each",
        "slab B each",
        "MiB before",
        "with all",
        "after the end",
        "sockets left open"
    );
    for (kind, memories) in KINDS.into_iter().zip([&ours, &theirs]) {
        let of = |take: fn(&Memory) -> f64| memories.iter().map(take).collect::<Vec<_>>();
        let Spread { median: each, least, most, .. } = Spread::of(&of(|it| it.resident_each));
        println!(
            "    {:<12}{:>20}{:>14.0}{:>14.1}{:>14.1}{:>14.1}{:>18.0}",
            kind.name(),
            format!("{each:.0} ({least:.0}-{most:.0})"),
            median(&of(|it| it.kernel_slab_each)),
            median(&of(|it| it.before.resident as f64 / MIB)),
            median(&of(|it| it.live.resident as f64 / MIB)),
            median(&of(|it| after(it).resident as f64 / MIB)),
            median(&of(left_open)),
        );
    }
    let of = |take: fn(&Memory) -> f64| ours.iter().map(take).collect::<Vec<_>>();
    println!(
        "    * resident B each: {}",
        Target::AtMost(1024.0).verdict(&of(|it| it.resident_each))
    );
    let grown = of(|it| after(it).resident as f64 / it.before.resident as f64);
    println!("    * resident after / before: {}", Target::AtMost(1.1).verdict(&grown));
    println!("    * sockets left open: {}", Target::AtMost(0.0).verdict(&of(left_open)));
    Ok(0)
}

const MIB: f64 = 1_048_576.0;

fn after(memory: &Memory) -> turnway_load::server::Held {
    memory.after.expect("they were ended")
}

fn left_open(memory: &Memory) -> f64 {
    after(memory).descriptors as f64 - memory.before.descriptors as f64
}

fn make(server: &Server, count: usize, settings: &Settings) -> Result<allocate::Report, LoadError> {
    let options = allocate::Options {
        server: server.kind.address(),
        transport: Transport::Udp,
        count,
        window: WINDOW,
        bind: true,
        refresh: true,
        hold: Duration::ZERO,
        delete: true,
        peer: None,
        cpu: Some(settings.load_cpu()),
        server_pids: vec![server.pid()],
    };
    allocate::run(&options, &credentials())
}

fn optional(phase: &Option<PhaseReport>, take: impl Fn(&PhaseReport) -> f64) -> f64 {
    phase.as_ref().map_or(f64::NAN, take)
}

/// What each of [`KINDS`] shows, in turns.
fn turns<T>(
    settings: &Settings,
    mut measure: impl FnMut(usize) -> Result<T, LoadError>,
) -> Result<[Vec<T>; 2], LoadError> {
    let mut shown = [Vec::new(), Vec::new()];
    for turn in 0..settings.more_pairs {
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            shown[at].push(measure(at)?);
        }
    }
    Ok(shown)
}

fn verdict(what: &str, target: Target, ratios: &[f64]) {
    println!("    * {what} turnway / coturn: {}", target.verdict(ratios));
}
