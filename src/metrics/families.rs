//! Every metric, defined once.
//!
//! Labels come from fixed vocabularies and the configuration only, and every combination is always
//! there, so that `rate()` works from the first scrape and no client can make the answer longer.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use turnway_relay::stats::AUTH_FAILURES;
use turnway_relay::{EndReason, Outcome, Quota, Reason, Request, Traffic, Transport};

use super::reading::Reading;

mod mobility;
mod offload;
mod peers;
mod secured;
mod tls;

/// The values of a family's labels in their order, and the figure.
type Samples = Vec<(Vec<Cow<'static, str>>, u64)>;

/// Metrics that differ in their labels' values only.
struct Family {
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Reading) -> Samples,
}

/// How a figure behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It only grows; the name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Always 1; what matters is the labels. The name ends in `_info`.
    Info,
}

/// All of them, in the order in which they are shown.
fn families() -> impl Iterator<Item = &'static Family> {
    let families =
        RELAY.iter().chain(peers::FAMILIES).chain(mobility::FAMILIES).chain(secured::FAMILIES);
    families.chain(offload::FAMILIES).chain(tls::FAMILIES)
}

const RELAY: &[Family] = &[
    Family {
        name: "turnway_relayed_datagrams",
        kind: Kind::Counter,
        labels: &["direction", "transport"],
        help: "Datagrams relayed, by direction and by the client's transport.",
        samples: |now| {
            by_direction_and_transport(now, |traffic| [traffic.to_peer, traffic.to_client])
        },
    },
    Family {
        name: "turnway_relayed_bytes",
        kind: Kind::Counter,
        labels: &["direction", "transport"],
        help: "Payload bytes relayed, without any header.",
        samples: |now| {
            by_direction_and_transport(now, |traffic| {
                [traffic.to_peer_bytes, traffic.to_client_bytes]
            })
        },
    },
    Family {
        name: "turnway_dropped_datagrams",
        kind: Kind::Counter,
        labels: &["side", "reason"],
        help: "Datagrams dropped without an answer, by the side they came from.",
        samples: |now| {
            let sides = [("client", now.rules.client_drops), ("peer", now.rules.peer_drops)];
            let of_side = |(side, drops): (&'static str, [u64; Reason::COUNT])| {
                Reason::ALL
                    .iter()
                    .map(move |reason| (values([side, reason.label()]), drops[reason.index()]))
            };
            sides.into_iter().flat_map(of_side).collect()
        },
    },
    Family {
        name: "turnway_requests",
        kind: Kind::Counter,
        labels: &["method", "outcome"],
        help: "Requests answered, by what became of them.",
        samples: |now| {
            let of_method = |&request: &Request| {
                Outcome::ALL.iter().map(move |&outcome| {
                    let labels = values([request.label(), outcome.label()]);
                    (labels, now.rules.count(request, outcome))
                })
            };
            Request::ALL.iter().flat_map(of_method).collect()
        },
    },
    Family {
        name: "turnway_auth_failures",
        kind: Kind::Counter,
        labels: &["cause"],
        help: "Credentials refused.",
        samples: |now| labelled(AUTH_FAILURES.into_iter().zip(now.rules.auth_failures)),
    },
    Family {
        name: "turnway_allocations",
        kind: Kind::Gauge,
        labels: &["transport"],
        help: "Allocations now, by the client's transport.",
        samples: |now| {
            labelled(Transport::ALL.map(|it| (it.label(), now.rules.allocations_of(it))))
        },
    },
    Family {
        name: "turnway_allocation_limit",
        kind: Kind::Gauge,
        labels: &[],
        help: "Allocations there may be at a time.",
        samples: |now| single(now.allocation_limit),
    },
    Family {
        name: "turnway_allocations_started",
        kind: Kind::Counter,
        labels: &[],
        help: "Allocations made.",
        samples: |now| single(now.rules.allocations_started),
    },
    Family {
        name: "turnway_allocations_ended",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Allocations ended.",
        samples: |now| {
            let ended = now.rules.allocations_ended;
            labelled(EndReason::ALL.iter().map(|reason| (reason.label(), ended[reason.index()])))
        },
    },
    Family {
        name: "turnway_quota_refusals",
        kind: Kind::Counter,
        labels: &["quota"],
        help: "Allocations refused with 486, by the quota that was used up.",
        samples: |now| {
            let refused = now.rules.quota_refusals;
            labelled(Quota::ALL.iter().map(|quota| (quota.label(), refused[quota.index()])))
        },
    },
    Family {
        name: "turnway_volumes_spent",
        kind: Kind::Counter,
        labels: &[],
        help: "How often a user's volume of a day or a month was used up.",
        samples: |now| single(now.rules.volumes_spent),
    },
    Family {
        name: "turnway_users",
        kind: Kind::Gauge,
        labels: &[],
        help: "Users with allocations now. The admin API knows them by name.",
        samples: |now| single(now.users),
    },
    Family {
        name: "turnway_accounts_forgotten",
        kind: Kind::Counter,
        labels: &[],
        help: "Accounts whose used volume was forgotten before the period ended, because there \
               are too many; those that used least.",
        samples: |now| single(now.accounts_forgotten),
    },
    Family {
        name: "turnway_database_errors",
        kind: Kind::Counter,
        labels: &[],
        help: "How often the database could not be read or written. Used volume waits in memory.",
        samples: |now| single(now.database_errors),
    },
    Family {
        name: "turnway_permissions",
        kind: Kind::Gauge,
        labels: &[],
        help: "Permissions now.",
        samples: |now| single(now.rules.permissions),
    },
    Family {
        name: "turnway_channels",
        kind: Kind::Gauge,
        labels: &[],
        help: "Channel bindings now.",
        samples: |now| single(now.rules.channels),
    },
    Family {
        name: "turnway_icmp_relayed",
        kind: Kind::Counter,
        labels: &[],
        help: "ICMP errors passed on to clients.",
        samples: |now| single(now.rules.icmp_relayed),
    },
    Family {
        name: "turnway_relay_ports",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Relay ports of all addresses: free, claimed by an allocation, reserved for a \
               RESERVATION-TOKEN, or set aside for a while because another program has them.",
        samples: |now| {
            labelled([
                ("free", now.ports.free as u64),
                ("claimed", now.ports.claimed as u64),
                ("reserved", now.ports.reserved as u64),
                ("set_aside", now.ports.set_aside as u64),
            ])
        },
    },
    Family {
        name: "turnway_relay_ports_busy",
        kind: Kind::Counter,
        labels: &[],
        help: "How often a relay port was found taken by another program.",
        samples: |now| single(now.ports_busy),
    },
    Family {
        name: "turnway_send_errors",
        kind: Kind::Counter,
        labels: &["direction"],
        help: "Datagrams that the kernel refused to send.",
        samples: |now| {
            labelled([
                ("to_peer", now.io.send_errors_to_peer),
                ("to_client", now.io.send_errors_to_client),
            ])
        },
    },
    Family {
        name: "turnway_kernel_drops",
        kind: Kind::Counter,
        labels: &["socket"],
        help: "Datagrams lost because a socket's receive buffer was full: the machine is too slow, \
               or `socket_buffer` too small. A run that the kernel had merged counts as one.",
        samples: |now| {
            labelled([
                ("listener", now.io.kernel_drops_listener),
                ("relay", now.io.kernel_drops_relay),
            ])
        },
    },
    Family {
        name: "turnway_tcp_connections",
        kind: Kind::Gauge,
        labels: &[],
        help: "TCP connections of clients now.",
        samples: |now| single(now.io.tcp_connections),
    },
    Family {
        name: "turnway_tcp_accepted",
        kind: Kind::Counter,
        labels: &[],
        help: "TCP connections accepted.",
        samples: |now| single(now.io.tcp_accepted),
    },
    Family {
        name: "turnway_tcp_closed",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "TCP connections closed by us: too many at a time, not speaking TURN, or without an \
               allocation for too long.",
        samples: |now| {
            labelled([
                ("too_many", now.io.tcp_refused),
                ("not_turn", now.io.tcp_protocol_errors),
                ("idle", now.io.tcp_idle_closed),
            ])
        },
    },
    Family {
        name: "turnway_tcp_queue_drops",
        kind: Kind::Counter,
        labels: &[],
        help: "Datagrams dropped because a TCP client did not read.",
        samples: |now| single(now.io.tcp_queue_drops),
    },
    Family {
        name: "turnway_accept_pauses",
        kind: Kind::Counter,
        labels: &[],
        help: "How often accepting paused for want of descriptors.",
        samples: |now| single(now.io.accept_paused),
    },
    Family {
        name: "turnway_wakeup_pauses",
        kind: Kind::Counter,
        labels: &[],
        help: "How often a shard paused, for `wakeup_delay` at most, so that a wake-up serves \
               several datagrams.",
        samples: |now| single(now.io.pauses),
    },
    Family {
        name: "turnway_log_records_dropped",
        kind: Kind::Counter,
        labels: &[],
        help: "Log lines left out because standard output is not read fast enough.",
        samples: |now| single(now.log_records_dropped),
    },
    Family {
        name: "turnway_shards",
        kind: Kind::Gauge,
        labels: &[],
        help: "Shards: threads that relay.",
        samples: |now| single(now.shards),
    },
    Family {
        name: "turnway_build",
        kind: Kind::Info,
        labels: &["version"],
        help: "The version that runs.",
        samples: |_| labelled([(env!("CARGO_PKG_VERSION"), 1)]),
    },
    Family {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the process began, in seconds since 1970.",
        samples: |now| single(now.process.started_s),
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Resident memory.",
        samples: |now| single(now.process.resident_bytes),
    },
    Family {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Open descriptors; each relay port is one.",
        samples: |now| single(now.process.open_descriptors),
    },
    Family {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Descriptors there may be.",
        samples: |now| single(now.process.max_descriptors),
    },
];

/// The figures in the order: to peer from UDP and TCP clients, to client for UDP and TCP ones.
/// `figures` are those of one transport: to peers, to clients.
fn by_direction_and_transport(now: &Reading, figures: fn(&Traffic) -> [u64; 2]) -> Samples {
    let sample = |way: &'static str, at: usize| {
        Transport::ALL.map(|it| (values([way, it.label()]), figures(&now.rules.traffic_of(it))[at]))
    };
    [sample("to_peer", 0), sample("to_client", 1)].into_iter().flatten().collect()
}

fn single(figure: u64) -> Samples {
    vec![(Vec::new(), figure)]
}

fn labelled(figures: impl IntoIterator<Item = (&'static str, u64)>) -> Samples {
    figures.into_iter().map(|(label, figure)| (values([label]), figure)).collect()
}

fn values<const N: usize>(labels: [&'static str; N]) -> Vec<Cow<'static, str>> {
    labels.map(Cow::Borrowed).into()
}

/// All metrics in the OpenMetrics text format.
pub(super) fn exposition(reading: &Reading) -> String {
    let samples = families().map(|family| (family.samples)(reading)).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Taken(samples)));
    let mut out = String::with_capacity(32 * 1024);
    text::encode(&mut out, &registry).expect("writing to a String does not fail");
    out
}

/// The samples of [`families`], in their order.
#[derive(Debug)]
struct Taken(Vec<Samples>);

impl Collector for Taken {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in families().zip(&self.0) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (values, figure) in samples {
                let values = values.iter().map(Cow::as_ref);
                let labels: Vec<_> = family.labels.iter().copied().zip(values).collect();
                encode(&mut metric, family.kind, &labels, *figure)?;
            }
        }
        Ok(())
    }
}

fn encode(
    metric: &mut MetricEncoder<'_>,
    kind: Kind,
    labels: &Vec<(&str, &str)>,
    figure: u64,
) -> fmt::Result {
    let write = |metric: &mut MetricEncoder<'_>| match kind {
        Kind::Counter => metric.encode_counter::<NoLabelSet, u64, f64>(&figure, None),
        Kind::Gauge => metric.encode_gauge(&figure),
        Kind::Info => metric.encode_info(labels),
    };
    // An empty family would be printed with braces around nothing, and info brings its own labels.
    if labels.is_empty() || kind == Kind::Info {
        write(metric)
    } else {
        write(&mut metric.encode_family(labels)?)
    }
}

const INTRODUCTION: &str = "\
# Metrics and health

<!-- Generated from src/metrics/families.rs; a test says how when it is stale. -->

`[metrics] listen` in the configuration opens an HTTP listener. It is for the operator: keep it on
loopback or a private network.

| Request | Answer |
|---|---|
| `GET /metrics` | the metrics below, in the OpenMetrics text format that Prometheus reads |
| `GET /livez` | 200 while every shard works; 503 with the shard that has been silent for 10 s |
| `GET /readyz` | 200 while new allocations are made; 503 while starting, draining, or not live |

Each answer closes its connection, and a slow client is cut off after 10 s.

Every combination of label values is there from the start, so `rate()` misses nothing. No label
holds a user, an address or anything else that a client could choose. Datagrams are counted while
they flow, not when an allocation ends.

| Metric | Type | Labels | Meaning |
|---|---|---|---|
";

/// `docs/metrics.md`: what can be asked, and a table of all metrics.
#[must_use]
pub fn reference_markdown() -> String {
    let nothing = Reading::default();
    let rows = families().map(|family| row(family, &(family.samples)(&nothing)));
    rows.fold(INTRODUCTION.to_owned(), |page, row| page + &row)
}

fn row(family: &Family, samples: &Samples) -> String {
    let (suffix, kind) = match family.kind {
        Kind::Counter => ("_total", "counter"),
        Kind::Gauge => ("", "gauge"),
        Kind::Info => ("_info", "info"),
    };
    let cell = |(at, label): (usize, &&str)| {
        if family.kind == Kind::Info || samples.is_empty() {
            // Its value changes with each release, or is the operator's.
            return format!("`{label}`");
        }
        let mut values: Vec<String> = Vec::new();
        for (labels, _) in samples {
            let value = format!("`{}`", labels[at]);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        format!("`{label}`: {}", values.join(", "))
    };
    let labels: Vec<String> = family.labels.iter().enumerate().map(cell).collect();
    let (name, labels, help) = (family.name, labels.join("; "), family.help);
    format!("| `{name}{suffix}` | {kind} | {labels} | {help} |\n")
}
