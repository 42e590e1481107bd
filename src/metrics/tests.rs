use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time;
use turnway_relay::shared::{AllocationCount, LivePorts, SourceLimiter};
use turnway_relay::stats::AUTH_FAILURES;
use turnway_relay::{
    ConnectionEnd, EndReason, Outcome, Quota, Reason, Request, Stats, Tickets, Transport,
};

use super::*;
use crate::http::{CONNECTIONS, HEAD_TIME};
use crate::ledger::SharedLedger;
use crate::log;
use crate::mailbox::IoStats;
use crate::ports::RelayAddrs;

/// What the clock of the tests says.
const NOW_NS: u64 = 1_000 * 1_000_000_000;

/// A label and the values it takes.
type Label<'a> = (&'a str, &'a [&'a str]);

/// Figures as the answer shows them: name, labels with values, figure.
type Shown = BTreeMap<(String, Vec<(String, String)>), u64>;

fn view(shards: usize) -> Arc<View> {
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let shared = Arc::new(Shared {
        live: LivePorts::new(&[local]),
        allocations: AllocationCount::new(5000),
        sources: SourceLimiter::new(64, 10, 10, 1),
        tickets: Tickets::new([7; 32]),
    });
    let relays = vec![RelayAddrs { local, external: local }];
    let ports = Ports::new(relays, 50_000..=50_009, 0, Arc::clone(&shared));
    let boards: Vec<Arc<Board>> = (0..shards).map(|_| Arc::default()).collect();
    for board in &boards {
        board.beat(NOW_NS);
    }
    Arc::new(View {
        boards,
        ports: Arc::new(ports),
        shared,
        ledger: Arc::new(SharedLedger::new(Arc::default(), NOW_NS)),
        offload: None,
        certificates: None,
        database_errors: Arc::default(),
        log_drops: log::Drops::default(),
        ready: Arc::new(AtomicBool::new(true)),
        started: SystemTime::now(),
        mono_ns: || NOW_NS,
    })
}

/// What `/metrics` says, each line checked.
fn shown(text: &str) -> Shown {
    let mut figures = Shown::new();
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut family = "";
    let lines: Vec<&str> = text.lines().collect();
    let (last, lines) = lines.split_last().unwrap();
    assert_eq!(*last, "# EOF");
    for line in lines {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            family = name;
            assert!(help.ends_with('.') && !help.contains("  "), "{line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family, "{line}");
            assert_eq!(kinds.insert(name, kind), None, "{name} is there twice");
            continue;
        }
        let (series, figure) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let suffix = match kinds[family] {
            "counter" => "_total",
            "gauge" => "",
            "info" => "_info",
            other => panic!("{other}"),
        };
        assert_eq!(name, format!("{family}{suffix}"), "{line}");
        let labels = labels.strip_suffix('}').unwrap();
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (label, value) = label.split_once('=').unwrap();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
            (label.to_owned(), value.to_owned())
        });
        let key = (name.to_owned(), labels.collect());
        assert_eq!(figures.insert(key, figure.parse().unwrap()), None, "{line} is there twice");
    }
    figures
}

fn figure(shown: &Shown, name: &str, labels: &[(&str, &str)]) -> u64 {
    let labels = labels.iter().map(|&(label, value)| (label.to_owned(), value.to_owned()));
    let key = (name.to_owned(), labels.collect());
    *shown.get(&key).unwrap_or_else(|| panic!("no {key:?}"))
}

/// The values of each label of a metric.
fn values<'a>(shown: &'a Shown, name: &str, label: &str) -> BTreeSet<&'a str> {
    let series = shown.keys().filter(|(shown, _)| shown == name);
    let labels = series.flat_map(|(_, labels)| labels);
    labels.filter(|(shown, _)| shown == label).map(|(_, value)| value.as_str()).collect()
}

fn scrape(view: &View) -> Shown {
    shown(&families::exposition(&reading::Reading::take(view)))
}

#[test]
fn label_values_are_the_vocabulary_and_every_combination_is_there() {
    let shown = scrape(&view(2));
    let directions = ["to_peer", "to_client"];
    let transports = Transport::ALL.map(Transport::label);
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    let outcomes: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
    let methods: Vec<&str> = Request::ALL.iter().map(|request| request.label()).collect();
    let ends: Vec<&str> = EndReason::ALL.iter().map(|reason| reason.label()).collect();
    let peer_ends: Vec<&str> = ConnectionEnd::ALL.iter().map(|reason| reason.label()).collect();
    let quotas: Vec<&str> = Quota::ALL.iter().map(|quota| quota.label()).collect();
    let states = ["free", "claimed", "reserved", "set_aside"];
    let version = [env!("CARGO_PKG_VERSION")];
    let kernel: Vec<&str> = turnway_offload::Outcome::ALL.map(|outcome| outcome.label()).into();
    let refusals: Vec<&str> = turnway_offload::Refusal::ALL.map(|why| why.label()).into();
    let labelled: &[(&str, &[Label<'_>])] = &[
        (
            "turnway_relayed_datagrams_total",
            &[("direction", &directions), ("transport", &transports)],
        ),
        ("turnway_relayed_bytes_total", &[("direction", &directions), ("transport", &transports)]),
        ("turnway_dropped_datagrams_total", &[("side", &["client", "peer"]), ("reason", &reasons)]),
        ("turnway_requests_total", &[("method", &methods), ("outcome", &outcomes)]),
        ("turnway_auth_failures_total", &[("cause", &AUTH_FAILURES)]),
        ("turnway_allocations", &[("transport", &transports)]),
        ("turnway_allocations_ended_total", &[("reason", &ends)]),
        ("turnway_quota_refusals_total", &[("quota", &quotas)]),
        ("turnway_relay_ports", &[("state", &states)]),
        ("turnway_send_errors_total", &[("direction", &directions)]),
        ("turnway_kernel_drops_total", &[("socket", &["listener", "relay"])]),
        ("turnway_tcp_closed_total", &[("reason", &["too_many", "not_turn", "idle"])]),
        ("turnway_tls_handshakes_total", &[("outcome", &["completed", "failed"])]),
        ("turnway_dtls_handshakes_total", &[("outcome", &["completed", "failed"])]),
        ("turnway_dtls_strangers_total", &[("outcome", &["answered", "ignored"])]),
        ("turnway_dtls_closed_total", &[("reason", &["too_many", "idle"])]),
        ("turnway_peer_connections_made_total", &[("by", &["client", "peer"])]),
        ("turnway_peer_connections_ended_total", &[("reason", &peer_ends)]),
        ("turnway_peer_connection_bytes_total", &[("direction", &directions)]),
        ("turnway_build_info", &[("version", &version)]),
        ("turnway_offload_datagrams_total", &[("direction", &directions)]),
        ("turnway_offload_bytes_total", &[("direction", &directions)]),
        ("turnway_offload_outcomes_total", &[("outcome", &kernel)]),
        ("turnway_offload_paths_refused_total", &[("reason", &refusals)]),
        ("turnway_offload_interfaces", &[("mode", &["native", "generic", "off"])]),
        ("turnway_certificate_reloads_total", &[("outcome", &["success", "failure"])]),
    ];
    let mut series = 0;
    for (name, labels) in labelled {
        let mut combinations = 1;
        for (label, expected) in *labels {
            let expected: BTreeSet<&str> = expected.iter().copied().collect();
            assert_eq!(values(&shown, name, label), expected, "{name} {label}");
            combinations *= expected.len();
        }
        let there = shown.keys().filter(|(shown, _)| shown == name).count();
        assert_eq!(there, combinations, "{name}");
        series += combinations;
    }
    let unlabelled = shown.keys().filter(|(_, labels)| labels.is_empty()).count();
    assert_eq!(shown.len(), series + unlabelled, "a labelled metric is missing in this test");
}

#[test]
fn figures_are_the_sum_over_the_shards() {
    let view = view(2);
    let mut rules =
        Stats { allocations_started: 3, permissions: 4, channels: 5, ..Stats::default() };
    rules.traffic[Transport::Udp.index()].to_peer = 10;
    rules.traffic[Transport::Udp.index()].to_client_bytes = 11;
    rules.traffic[Transport::Tcp.index()].to_client = 12;
    rules.traffic[Transport::Tcp.index()].to_peer_bytes = 13;
    rules.client_drops[Reason::NoPermission.index()] = 14;
    rules.peer_drops[Reason::TtlExceeded.index()] = 15;
    rules.requests[Request::Allocate.index()][Outcome::QuotaReached.index()] = 16;
    rules.auth_failures[2] = 17;
    rules.allocations_ended[EndReason::Deleted.index()] = 18;
    rules.icmp_relayed = 19;
    rules.allocations[Transport::Udp.index()] = 20;
    rules.allocations[Transport::Tcp.index()] = 21;
    for board in &view.boards {
        board.publish(&rules, &IoStats::default());
    }
    let shown = scrape(&view);
    let twice = |expected: u64, name: &str, labels: &[(&str, &str)]| {
        assert_eq!(figure(&shown, name, labels), 2 * expected, "{name} {labels:?}");
    };
    let relayed = "turnway_relayed_datagrams_total";
    twice(10, relayed, &[("direction", "to_peer"), ("transport", "udp")]);
    twice(12, relayed, &[("direction", "to_client"), ("transport", "tcp")]);
    twice(0, relayed, &[("direction", "to_client"), ("transport", "udp")]);
    let bytes = "turnway_relayed_bytes_total";
    twice(11, bytes, &[("direction", "to_client"), ("transport", "udp")]);
    twice(13, bytes, &[("direction", "to_peer"), ("transport", "tcp")]);
    let dropped = "turnway_dropped_datagrams_total";
    twice(14, dropped, &[("side", "client"), ("reason", "no_permission")]);
    twice(15, dropped, &[("side", "peer"), ("reason", "ttl_exceeded")]);
    twice(0, dropped, &[("side", "peer"), ("reason", "no_permission")]);
    let requests = "turnway_requests_total";
    twice(16, requests, &[("method", "allocate"), ("outcome", "quota_reached")]);
    twice(17, "turnway_auth_failures_total", &[("cause", "expired")]);
    twice(18, "turnway_allocations_ended_total", &[("reason", "deleted")]);
    twice(3, "turnway_allocations_started_total", &[]);
    twice(4, "turnway_permissions", &[]);
    twice(5, "turnway_channels", &[]);
    twice(19, "turnway_icmp_relayed_total", &[]);
    twice(20, "turnway_allocations", &[("transport", "udp")]);
    twice(21, "turnway_allocations", &[("transport", "tcp")]);
}

#[test]
fn figures_of_sockets_and_process_are_shown() {
    let view = view(1);
    let io = IoStats {
        send_errors_to_peer: 1,
        send_errors_to_client: 2,
        kernel_drops_listener: 3,
        kernel_drops_relay: 4,
        tcp_connections: 5,
        tcp_accepted: 6,
        tcp_refused: 7,
        tcp_protocol_errors: 8,
        tcp_idle_closed: 9,
        tcp_queue_drops: 10,
        accept_paused: 11,
        pauses: 12,
        tls_handshakes: 20,
        tls_handshake_failures: 21,
        dtls_sessions: 22,
        dtls_handshakes: 23,
        dtls_handshake_failures: 24,
        dtls_hellos: 25,
        dtls_ignored: 26,
        dtls_refused: 27,
        dtls_idle_closed: 28,
        source_refused: 29,
        handshake_timeouts: 30,
        proxy_errors: 31,
        ..IoStats::default()
    };
    view.boards[0].publish(&Stats::default(), &io);
    let shown = scrape(&view);
    let figure = |name: &str, labels: &[(&str, &str)]| figure(&shown, name, labels);
    assert_eq!(figure("turnway_send_errors_total", &[("direction", "to_peer")]), 1);
    assert_eq!(figure("turnway_send_errors_total", &[("direction", "to_client")]), 2);
    assert_eq!(figure("turnway_kernel_drops_total", &[("socket", "listener")]), 3);
    assert_eq!(figure("turnway_kernel_drops_total", &[("socket", "relay")]), 4);
    assert_eq!(figure("turnway_tcp_connections", &[]), 5);
    assert_eq!(figure("turnway_tcp_accepted_total", &[]), 6);
    assert_eq!(figure("turnway_tcp_closed_total", &[("reason", "too_many")]), 7);
    assert_eq!(figure("turnway_tcp_closed_total", &[("reason", "not_turn")]), 8);
    assert_eq!(figure("turnway_tcp_closed_total", &[("reason", "idle")]), 9);
    assert_eq!(figure("turnway_tcp_queue_drops_total", &[]), 10);
    assert_eq!(figure("turnway_accept_pauses_total", &[]), 11);
    assert_eq!(figure("turnway_wakeup_pauses_total", &[]), 12);
    assert_eq!(figure("turnway_tls_handshakes_total", &[("outcome", "completed")]), 20);
    assert_eq!(figure("turnway_tls_handshakes_total", &[("outcome", "failed")]), 21);
    assert_eq!(figure("turnway_dtls_sessions", &[]), 22);
    assert_eq!(figure("turnway_dtls_handshakes_total", &[("outcome", "completed")]), 23);
    assert_eq!(figure("turnway_dtls_handshakes_total", &[("outcome", "failed")]), 24);
    assert_eq!(figure("turnway_dtls_strangers_total", &[("outcome", "answered")]), 25);
    assert_eq!(figure("turnway_dtls_strangers_total", &[("outcome", "ignored")]), 26);
    assert_eq!(figure("turnway_dtls_closed_total", &[("reason", "too_many")]), 27);
    assert_eq!(figure("turnway_dtls_closed_total", &[("reason", "idle")]), 28);
    assert_eq!(figure("turnway_source_refusals_total", &[]), 29);
    assert_eq!(figure("turnway_handshake_timeouts_total", &[]), 30);
    assert_eq!(figure("turnway_proxy_errors_total", &[]), 31);
    assert_eq!(figure("turnway_allocation_limit", &[]), 5000);
    assert_eq!(figure("turnway_relay_ports", &[("state", "free")]), 10);
    assert_eq!(figure("turnway_relay_ports_busy_total", &[]), 0);
    assert_eq!(figure("turnway_log_records_dropped_total", &[]), 0);
    assert_eq!(figure("turnway_shards", &[]), 1);
    assert!(figure("process_start_time_seconds", &[]) > 1_700_000_000);
    let resident = figure("process_resident_memory_bytes", &[]);
    assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    let (open, most) = (figure("process_open_fds", &[]), figure("process_max_fds", &[]));
    assert!(open >= 3 && open <= most, "{open} of {most}");
}

#[test]
fn an_opened_descriptor_is_counted() {
    let before = figure(&scrape(&view(1)), "process_open_fds", &[]);
    // More than other tests of this process close meanwhile.
    let held: Vec<fs::File> = (0..400).map(|_| fs::File::open("/dev/null").unwrap()).collect();
    let after = figure(&scrape(&view(1)), "process_open_fds", &[]);
    assert!(after >= before + 200, "{before} and {} more: {after}", held.len());
}

#[test]
fn the_reference_is_what_the_definitions_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let expected = reference_markdown();
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == expected,
        "docs/metrics.md is stale; run: WRITE_REFERENCE=1 cargo test -p turnway metrics"
    );
}

#[test]
fn the_reference_names_every_metric_that_is_served() {
    let reference = reference_markdown();
    for (name, _) in scrape(&view(1)).keys() {
        assert!(reference.contains(&format!("\n| `{name}` |")), "{name}");
    }
}

#[test]
fn a_shard_is_live_for_ten_seconds_after_a_turn() {
    let view = view(3);
    let boards = &view.boards;
    assert_eq!(live(boards, NOW_NS), Ok(()));
    assert_eq!(live(boards, NOW_NS - 1), Ok(()), "a beat after the clock was read");
    assert_eq!(live(boards, NOW_NS + STALE_NS - 1), Ok(()));
    boards[0].beat(NOW_NS + STALE_NS);
    boards[2].beat(NOW_NS + STALE_NS);
    let silent = Err("shard 1 is silent for 10 s".to_owned());
    assert_eq!(live(boards, NOW_NS + STALE_NS), silent);
    boards[1].beat(NOW_NS + STALE_NS);
    assert_eq!(live(boards, NOW_NS + STALE_NS), Ok(()));

    let new = [Arc::new(Board::default())];
    assert_eq!(live(&new, NOW_NS), Err("shard 0 has not begun".to_owned()));
}

/// A listener that answers, and what stops it.
struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn served(view: Arc<View>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    let task = tokio::spawn(serve(listener, view, stopped));
    Served { address, stop, task }
}

impl Served {
    /// Head and body of the answer; the server must close the connection after it.
    async fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: turnway\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    async fn status(&self, request: &str) -> u16 {
        let (head, _) = self.ask(request).await;
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn every_route_answers() {
    let view = view(2);
    let served = served(Arc::clone(&view)).await;
    let (head, body) = served.ask("GET /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert_eq!(figure(&shown(&body), "turnway_shards", &[]), 2);
    assert_eq!(served.ask("GET /livez").await.1, "live\n");
    assert_eq!(served.ask("GET /readyz").await.1, "ready\n");
    assert_eq!(served.status("GET /").await, 404);
    assert_eq!(served.status("GET /metrics/..").await, 404);
    assert_eq!(served.status("POST /metrics").await, 405);

    served.stop.send(()).unwrap();
    served.task.await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn health_follows_the_shards_and_the_drain() {
    let view = view(2);
    let served = served(Arc::clone(&view)).await;
    assert_eq!(served.status("GET /livez").await, 200);
    assert_eq!(served.status("GET /readyz").await, 200);

    view.ready.store(false, Ordering::Relaxed);
    assert_eq!(served.status("GET /livez").await, 200, "draining is no reason to be killed");
    let (head, body) = served.ask("GET /readyz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.contains("draining"), "{body}");

    view.ready.store(true, Ordering::Relaxed);
    view.boards[1].beat(NOW_NS - STALE_NS - 2_000_000_000);
    for request in ["GET /livez", "GET /readyz"] {
        let (head, body) = served.ask(request).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert_eq!(body, "shard 1 is silent for 12 s\n");
    }
    assert_eq!(served.status("GET /metrics").await, 200, "the figures are still to be had");
}

#[tokio::test]
async fn a_slow_client_does_not_hold_up_others_and_is_cut_off() {
    let served = served(view(1)).await;
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS - 1 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(served.status("GET /livez").await, 200);
    assert!(begun.elapsed() < HEAD_TIME / 2, "{:?}", begun.elapsed());

    // The last of them is cut off like all others, without having been answered.
    let mut last = slow.pop().unwrap();
    let mut answer = Vec::new();
    let cut = time::timeout(2 * CONNECTION_TIME, last.read_to_end(&mut answer)).await;
    assert!(cut.is_ok(), "the connection is still open");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}
