//! Reports as people read them: a line for each figure, with its unit.

use turnway_load::flood::{Cost, Report};
use turnway_load::search::Found;
use turnway_load::tally::{Counts, Latency};
use turnway_load::{allocate, stun};

use crate::table::{Table, bit_rate, bytes};

pub(super) fn flood(report: &Report, found: Option<Found>) -> String {
    let mut table = Table::default();
    if let Some(found) = found {
        let bound = if found.generator_bound { ", or more: generator-bound" } else { "" };
        row(&mut table, "highest rate", format!("{:.0} datagrams/s{bound}", found.rate));
        row(&mut table, "shown below", "half of it".to_owned());
    }
    let bits = bit_rate((report.payload_bits_per_second / 8.0) as u64);
    row(&mut table, "relayed", format!("{:.0} datagrams/s, {bits} of payload", report.rate));
    let asked = report.asked.map_or(String::new(), |asked| format!(" of {asked:.0} asked for"));
    row(&mut table, "sent", format!("{:.0} datagrams/s{asked}", report.sent_rate));
    row(&mut table, "lost", format!("{:.3} %", 100.0 * report.loss));
    row(&mut table, "to peers", counts(&report.to_peer));
    row(&mut table, "to clients", counts(&report.to_client));
    if report.unsent > 0 {
        let text = format!("{} that this machine or a slow connection did not take", report.unsent);
        row(&mut table, "not sent", text);
    }
    row(&mut table, "latency", latency(&report.latency_us));
    row(&mut table, "generator", generator(report.generator_busy, report.generator_bound));
    if let Some(cost) = &report.server {
        row(&mut table, "server", server(cost));
    }
    let mut text = table.to_string();
    if !report.is_sound() {
        text += "PAYLOADS WERE CHANGED OR CAME TO THE WRONG PLACE\n";
    }
    text
}

pub(super) fn allocate(report: &allocate::Report) -> String {
    let header = ["", "count", "per second", "p50 us", "p99 us", "sent again", "server CPU us"];
    let mut table = Table::headed(header);
    for (name, phase) in [
        ("Allocate", Some(&report.allocate)),
        ("CreatePermission", report.permit.as_ref()),
        ("ChannelBind", report.bind.as_ref()),
        ("Refresh", report.refresh.as_ref()),
        ("end", report.delete.as_ref()),
    ] {
        let Some(phase) = phase else { continue };
        let cpu = phase.server_cpu_us.map_or("-".to_owned(), |cpu| format!("{cpu:.1}"));
        table.row([
            name.to_owned(),
            phase.count.to_string(),
            format!("{:.0}", phase.per_second),
            format!("{:.0}", phase.latency_us.p50),
            format!("{:.0}", phase.latency_us.p99),
            phase.retransmitted.to_string(),
            cpu,
        ]);
    }
    let memory = report.memory.as_ref().map_or(String::new(), memory);
    format!("{table}{memory}")
}

fn memory(memory: &allocate::Memory) -> String {
    let header = ["", "resident", "descriptors", "kernel slab", "sockets"];
    let mut table = Table::headed(header);
    let held = [
        ("before", Some(memory.before)),
        ("with all", Some(memory.live)),
        ("after their end", memory.after),
    ];
    for (name, held) in held {
        let Some(held) = held else { continue };
        table.row([
            name.to_owned(),
            bytes(held.resident),
            held.descriptors.to_string(),
            bytes(held.kernel_slab),
            held.sockets.to_string(),
        ]);
    }
    format!(
        "\n{table}each allocation: {:.0} B resident, {:.0} B in the kernel's slabs\n",
        memory.resident_each, memory.kernel_slab_each
    )
}

pub(super) fn stun(report: &stun::Report) -> String {
    let mut table = Table::default();
    row(&mut table, "answers", format!("{:.0}/s", report.rate));
    let (sent, lost) = (report.sent, 100.0 * report.loss);
    row(&mut table, "lost", format!("{lost:.3} % of {sent} requests"));
    row(&mut table, "latency", latency(&report.latency_us));
    row(&mut table, "generator", generator(report.generator_busy, report.generator_bound));
    if let Some(cpu_ns) = report.server_cpu_ns {
        row(&mut table, "server", format!("{cpu_ns:.0} ns CPU for each answer"));
    }
    table.to_string()
}

fn row(table: &mut Table<2>, what: &str, is: String) {
    table.row([what.to_owned(), is]);
}

fn counts(counts: &Counts) -> String {
    let Counts { sent, received, lost, duplicated, reordered, corrupted, misrouted } = counts;
    format!(
        "{received} of {sent} received, {lost} lost, {duplicated} twice, {reordered} late, \
         {corrupted} changed, {misrouted} in the wrong place"
    )
}

fn latency(latency: &Latency) -> String {
    let Latency { p50, p99, p999, max } = latency;
    format!("p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us, longest {max:.0} us")
}

fn generator(busy: f64, bound: bool) -> String {
    let remark = if bound { ": generator-bound, only CPU per datagram counts" } else { "" };
    format!("busy {:.0} %{remark}", 100.0 * busy)
}

fn server(cost: &Cost) -> String {
    format!(
        "{:.0} ns CPU and {:.2} context switches for each datagram, {:.0} % of a CPU, {} resident",
        cost.cpu_ns_per_datagram,
        cost.switches_per_datagram,
        100.0 * cost.cpus,
        bytes(cost.resident)
    )
}
