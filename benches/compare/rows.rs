//! Rows 1 to 6, 14 and 15, and the grid: what is done, by whom, and what is to be shown.

use turnway_load::LoadError;
use turnway_load::clients::Transport;
use turnway_load::flood::{Directions, Mode};

use crate::Outcome;
use crate::cell::{self, Cell, Goal, Lane, Metric, Work, cpu_goal};
use crate::figures::Target;
use crate::servers::{Kind, Server};
use crate::settings::Settings;

const TURNWAY: Lane = Lane::of(Kind::Turnway);
const COTURN: Lane = Lane::of(Kind::Coturn);
const FORWARDER: Lane = Lane::of(Kind::Forwarder);
const PLAIN: Lane = Lane::of(Kind::PlainForwarder);

/// Small datagrams both ways, as fast as they go.
const USUAL: Cell = Cell {
    transport: Transport::Udp,
    allocations: 100,
    size: 172,
    directions: Directions::Both,
    burst: 1,
    work: Work::Saturated,
};

struct Row {
    title: &'static str,
    cells: Vec<Cell>,
    lanes: Vec<Lane>,
    goals: Vec<Goal>,
}

/// Measures one row.
pub(crate) fn run(number: u32, settings: &Settings) -> Outcome {
    let row = row(number);
    println!("\nRow {number}  {}", row.title);
    let servers = start(&row.lanes, settings)?;
    let mut unsound = 0;
    for cell in &row.cells {
        let sound = cell::run(cell, &row.lanes, &row.goals, &servers, settings)?;
        unsound += usize::from(!sound);
    }
    Ok(unsound)
}

/// Measures all combinations, without targets.
pub(crate) fn grid(settings: &Settings) -> Outcome {
    println!("\nGrid");
    let lanes = [TURNWAY, COTURN, FORWARDER, PLAIN];
    let servers = start(&lanes, settings)?;
    let mut unsound = 0;
    for size in [172, 1_200] {
        for allocations in [1, 100, 1_000] {
            for directions in [Directions::ToPeer, Directions::ToClient, Directions::Both] {
                for burst in [1, 8] {
                    let cell = Cell { allocations, size, directions, burst, ..USUAL };
                    unsound += usize::from(!cell::run(&cell, &lanes, &[], &servers, settings)?);
                }
            }
        }
    }
    let modes = [TURNWAY, COTURN].map(|lane| Lane { mode: Mode::Send, ..lane });
    for size in [172, 1_200] {
        let send = Cell { size, ..USUAL };
        unsound += usize::from(!cell::run(&send, &modes, &[], &servers, settings)?);
        for transport in [Transport::Tcp, Transport::Tls] {
            let streams = Cell { transport, ..send };
            unsound += usize::from(!cell::run(&streams, &lanes[..2], &[], &servers, settings)?);
        }
    }
    Ok(unsound)
}

fn start(lanes: &[Lane], settings: &Settings) -> Result<Vec<Server>, LoadError> {
    let mut servers: Vec<Server> = Vec::new();
    for lane in lanes {
        let started = servers.iter().any(|server| server.kind == lane.kind);
        if matches!(lane.kind, Kind::Turnway | Kind::Coturn) && !started {
            servers.push(Server::start(lane.kind, settings)?);
        }
    }
    Ok(servers)
}

fn row(number: u32) -> Row {
    let lossless = |other, limit| Goal {
        metric: Metric::Lossless,
        one: 0,
        other,
        target: Target::AtLeast(limit),
    };
    let latency = |metric, target| Goal { metric, one: 0, other: 1, target };
    match number {
        1 => Row {
            title: "single datagrams, 100 allocations, both ways, saturated",
            cells: vec![USUAL, Cell { size: 1_200, ..USUAL }],
            lanes: vec![TURNWAY, COTURN, FORWARDER],
            goals: vec![cpu_goal(2, 1.15), lossless(1, 1.2)],
        },
        2 => Row {
            title: "1,200 B in bursts of 8 per flow",
            cells: vec![Cell { size: 1_200, burst: 8, ..USUAL }],
            lanes: vec![TURNWAY, COTURN, FORWARDER, PLAIN],
            goals: vec![cpu_goal(1, 0.4), lossless(1, 2.5), cpu_goal(2, 1.25)],
        },
        3 => Row {
            title: "20,000 datagrams/s, evenly paced",
            cells: [1, 100, 1_000]
                .map(|allocations| Cell { allocations, work: Work::Paced(20_000.0), ..USUAL })
                .to_vec(),
            lanes: vec![TURNWAY, COTURN, FORWARDER],
            goals: vec![cpu_goal(1, 0.6), latency(Metric::P50, Target::Margin(60.0))],
        },
        4 => Row {
            title: "1,000 allocations round robin, each direction",
            cells: [Directions::ToPeer, Directions::ToClient]
                .map(|directions| Cell { allocations: 1_000, directions, ..USUAL })
                .to_vec(),
            lanes: vec![TURNWAY, COTURN, FORWARDER],
            goals: vec![cpu_goal(2, 1.15), cpu_goal(1, 0.95)],
        },
        5 => Row {
            title: "Send and Data indications against ChannelData",
            cells: vec![USUAL],
            lanes: vec![Lane { name: "indications", mode: Mode::Send, ..TURNWAY }, TURNWAY],
            goals: vec![cpu_goal(1, 1.10)],
        },
        6 => Row {
            title: "TCP clients, 100 connections, 20,000 datagrams/s",
            cells: vec![Cell { transport: Transport::Tcp, work: Work::Paced(20_000.0), ..USUAL }],
            lanes: vec![TURNWAY, COTURN],
            goals: vec![cpu_goal(1, 0.7)],
        },
        15 => Row {
            title: "TLS clients, 100 connections, saturated",
            cells: [1_200, 172]
                .map(|size| Cell { transport: Transport::Tls, size, ..USUAL })
                .to_vec(),
            lanes: vec![TURNWAY, COTURN],
            goals: vec![lossless(1, 1.5)],
        },
        _ => Row {
            title: "latency at half of coturn's lossless rate",
            cells: vec![Cell { work: Work::HalfOf(1), ..USUAL }],
            lanes: vec![TURNWAY, COTURN],
            goals: vec![latency(Metric::P99, Target::AtMost(1.25))],
        },
    }
}
