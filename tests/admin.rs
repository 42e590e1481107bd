//! The admin API of a running daemon: what it shows is what happens, and what it ends has ended.
//!
//! `admin/api.rs` asks it over HTTP, `admin/commands.rs` as an operator does.

#[path = "admin/api.rs"]
mod api;
#[path = "admin/commands.rs"]
mod commands;
mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::Value;

use api::{Place, TOKEN, client_of, relay, relay_on_tcp};
use common::client::{Client, Peer};
use common::{REALM, Relay, Setup, USER, await_some};

/// Every user's datagrams are metered, and none of them is dropped.
const METERED: &str = "[quota]\nbandwidth_per_user = \"800 Mbit/s\"\nallocations_per_user = 300\n";

/// Lets a client send `count` datagrams of 100 bytes to a peer, and the peer one of 50 back.
fn chat(client: &mut Client, peer: &Peer, count: usize) {
    client.bind(0x4000, peer.address()).expect_success();
    for _ in 0..count {
        client.send_channel(0x4000, &[1; 100]);
        let (data, from) = peer.receive();
        assert_eq!(data.len(), 100);
        peer.send(&[2; 50], from);
        assert_eq!(client.receive_data().len(), 50);
    }
}

/// A figure of an answer: `number(&status, "/relayed/to_peer_bytes")`.
#[track_caller]
fn number(answer: &Value, pointer: &str) -> u64 {
    let found = answer.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("{pointer} is no number: {answer}"))
}

#[track_caller]
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_else(|| panic!("{key} is no text: {answer}"))
}

#[test]
fn the_status_says_what_the_metrics_say() {
    let (relay, admin) = relay(2, METERED);
    let peer = Peer::on(relay.ip());
    let (mut udp, mut tcp) = (Client::udp(relay.address), Client::tcp(relay.address));
    udp.allocate();
    tcp.allocate();
    chat(&mut udp, &peer, 20);
    chat(&mut tcp, &peer, 10);
    let stranger = SocketAddr::new(Ipv4Addr::new(127, 9, 9, 9).into(), 1);
    udp.send(stranger, b"without a permission");
    relay.await_samples("the drop", |samples| {
        samples["turnway_dropped_datagrams_total{side=\"client\",reason=\"no_permission\"}"] == 1.0
            && samples["turnway_relayed_datagrams_total{direction=\"to_client\",transport=\"tcp\"}"]
                == 10.0
    });
    let status = admin.get("/v1/status");
    assert_eq!(text(&status, "version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&status, "realm"), REALM);
    assert_eq!(status["draining"], false);
    assert_eq!(number(&status, "/shards"), 2);
    assert_eq!(number(&status, "/users"), 1);
    let address = relay.address.to_string();
    for (index, transport) in ["udp", "tcp"].into_iter().enumerate() {
        assert_eq!(text(&status["listeners"][index], "transport"), transport);
        assert_eq!(text(&status["listeners"][index], "address"), address);
    }
    let expected = [
        ("/allocations/udp", "turnway_allocations{transport=\"udp\"", 1),
        ("/allocations/tcp", "turnway_allocations{transport=\"tcp\"", 1),
        ("/relayed/to_peer_datagrams", "turnway_relayed_datagrams_total{direction=\"to_peer\"", 30),
        ("/relayed/to_peer_bytes", "turnway_relayed_bytes_total{direction=\"to_peer\"", 3000),
        (
            "/relayed/to_client_datagrams",
            "turnway_relayed_datagrams_total{direction=\"to_client\"",
            30,
        ),
        ("/relayed/to_client_bytes", "turnway_relayed_bytes_total{direction=\"to_client\"", 1500),
        (
            "/dropped/from_clients/no_permission",
            "turnway_dropped_datagrams_total{side=\"client\",reason=\"no_permission\"",
            1,
        ),
    ];
    for (pointer, sample, value) in expected {
        assert_eq!(number(&status, pointer), value, "{pointer}");
        assert_eq!(relay.sum(sample), value as f64, "{sample}");
    }
    assert_eq!(number(&status, "/allocations/limit") as f64, relay.sum("turnway_allocation_limit"));
    await_some("a rate", || {
        let status = admin.get("/v1/status");
        let rate = |key: &str| number(&status["rate"], key) > 0;
        (rate("/to_peer_bytes_per_second") && rate("/to_client_bytes_per_second")).then_some(())
    });
}

#[test]
fn what_limits_drop_and_quotas_refuse_is_shown_in_all_and_by_user() {
    let quota = "[quota]\nallocations_per_user = 1\nbandwidth_per_user = \"8 kbit/s\"\n\
                 burst_per_user = \"2000 B\"\n";
    let (relay, admin) = relay(1, quota);
    let peer = Peer::on(relay.ip());
    let mut client = client_of(&relay, "greedy");
    client.allocate();
    client_of(&relay, "greedy").try_allocate().expect_code(486);
    client.bind(0x4000, peer.address()).expect_success();
    for _ in 0..10 {
        client.send_channel(0x4000, &[0; 1000]);
    }
    let dropped = await_some("the drops", || {
        let user = admin.get("/v1/users/greedy");
        let dropped = number(&user, "/dropped_by_limit/user_bandwidth/datagrams");
        let relayed = number(&user, "/relayed/to_peer_bytes");
        (dropped + relayed / 1000 == 10).then_some(dropped)
    });
    assert!((7..=9).contains(&dropped), "2000 bytes may pass at once, then 1000 a second");
    let user = admin.get("/v1/users/greedy");
    assert_eq!(number(&user, "/dropped_by_limit/user_bandwidth/bytes"), dropped * 1000);
    assert_eq!(number(&user, "/limits/allocations"), 1);
    assert_eq!(number(&user, "/limits/bandwidth/bytes_per_second"), 1000);
    assert_eq!(number(&user, "/limits/bandwidth/burst_bytes"), 2000);
    assert_eq!(user["limits"]["volume_per_day_bytes"], Value::Null);
    let session = &admin.get("/v1/sessions?user=greedy")["sessions"][0];
    assert_eq!(number(session, "/dropped_by_limits"), dropped);

    let status = admin.get("/v1/status");
    let pointer = "/dropped_by_limit/user_bandwidth/to_peer_datagrams";
    assert_eq!(number(&status, pointer), dropped);
    assert_eq!(number(&status, "/dropped/from_clients/user_bandwidth"), dropped);
    assert_eq!(number(&status, "/refused/user_allocations"), 1);
    let sample = "turnway_dropped_datagrams_total{side=\"client\",reason=\"user_bandwidth\"";
    assert_eq!(relay.sum(sample), dropped as f64);
    assert_eq!(relay.sum("turnway_quota_refusals_total{quota=\"user_allocations\""), 1.0);
}

#[test]
fn users_are_shown_with_what_they_use_and_the_top_ones_first() {
    let (relay, admin) = relay(2, METERED);
    let peer = Peer::on(relay.ip());
    let mut clients = Vec::new();
    for (user, allocations, datagrams) in [("a", 3, 0), ("b", 1, 40), ("c", 2, 10)] {
        for index in 0..allocations {
            let mut client = client_of(&relay, user);
            client.allocate();
            if index == 0 && datagrams > 0 {
                chat(&mut client, &peer, datagrams);
            }
            clients.push(client);
        }
    }
    await_some("all that was relayed", || {
        let relayed =
            |user| number(&admin.get(&format!("/v1/users/{user}")), "/relayed/to_peer_bytes");
        (relayed("b") == 4000 && relayed("c") == 1000).then_some(())
    });
    let names = |path: &str| -> Vec<String> {
        let users = admin.get(path);
        let users = users["users"].as_array().expect("a list");
        users.iter().map(|user| text(user, "name").to_owned()).collect()
    };
    assert_eq!(names("/v1/users?sort=allocations"), ["a", "c", "b"]);
    assert_eq!(names("/v1/users?sort=volume"), ["b", "c", "a"]);
    assert_eq!(names("/v1/users?sort=name"), ["a", "b", "c"]);
    assert_eq!(names("/v1/users?sort=allocations&top=2"), ["a", "c"]);
    await_some("rates of the two that relay", || {
        chat(&mut clients[3], &peer, 4);
        chat(&mut clients[4], &peer, 1);
        let users = admin.get("/v1/users?top=2");
        let rate =
            |index: usize| number(&users["users"][index]["rate"], "/to_peer_bytes_per_second");
        let order =
            text(&users["users"][0], "name") == "b" && text(&users["users"][1], "name") == "c";
        (order && rate(0) > rate(1) && rate(1) > 0).then_some(())
    });

    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let users = admin.get(&format!("/v1/users?limit=1{cursor}"));
        let found = users["users"].as_array().expect("a list");
        assert!(found.len() <= 1);
        paged.extend(found.iter().map(|user| text(user, "name").to_owned()));
        let Some(next) = users["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    paged.sort();
    assert_eq!(paged, ["a", "b", "c"]);

    assert_eq!(number(&admin.get("/v1/users/a"), "/allocations"), 3);
    assert_eq!(number(&admin.get("/v1/status"), "/users"), 3);
    assert!(admin.problem("GET", "/v1/users/nobody", 404).contains("no user of this name"));
    drop(clients);
}

#[test]
fn a_cursor_visits_each_of_250_sessions_on_two_shards_once() {
    let (relay, admin) = relay(2, "");
    let mut relayed = HashMap::new();
    let mut clients = Vec::new();
    for index in 0..250 {
        let mut client = client_of(&relay, if index % 5 == 0 { "fifth" } else { "other" });
        relayed.insert(client.allocate().to_string(), client.local_addr().port());
        clients.push(client);
    }
    let all = |filter: &str, limit: usize| -> Vec<Value> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = admin.get(&format!("/v1/sessions?limit={limit}{filter}{cursor}"));
            let sessions = page["sessions"].as_array().expect("a list");
            assert!(sessions.len() <= limit);
            found.extend_from_slice(sessions);
            let Some(next) = page["next_cursor"].as_str() else { return found };
            cursor = format!("&cursor={next}");
        }
    };
    for limit in [1000, 37] {
        let sessions = all("", limit);
        assert_eq!(sessions.len(), 250, "pages of {limit}");
        let ids: HashSet<&str> = sessions.iter().map(|session| text(session, "id")).collect();
        assert_eq!(ids.len(), 250, "pages of {limit}");
        let shards: HashSet<u64> =
            ids.iter().map(|id| id.parse::<u64>().expect("a number") >> 48).collect();
        assert_eq!(shards, HashSet::from([0, 1]));
        for session in &sessions {
            let address = session["relayed_addresses"][0].as_str().expect("an address");
            let client = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0).ip();
            let port = relayed[address];
            assert_eq!(text(session, "client"), format!("{client}:{port}"));
        }
    }
    assert_eq!(all("&user=fifth", 1000).len(), 50);
    assert_eq!(all("&user=fifth&client=127.0.0.1", 20).len(), 50);
    assert_eq!(all("&user=nobody", 20).len(), 0);
    assert_eq!(all("&client=127.0.0.2", 20).len(), 0);
    assert_eq!(admin.get("/v1/sessions")["sessions"].as_array().expect("a list").len(), 100);
}

#[test]
fn a_session_is_shown_as_it_is() {
    let (relay, admin) = relay(1, "");
    let peer = Peer::on(relay.ip());
    let from = IpAddr::from(common::own_address());
    let socket = UdpSocket::bind((from, 0)).expect("a free port");
    let mut client = Client::udp_from(socket, relay.address);
    let relayed = client.allocate();
    client.permit(&[SocketAddr::new(Ipv4Addr::new(127, 9, 9, 9).into(), 1)]).expect_success();
    chat(&mut client, &peer, 3);
    let mut other = Client::tcp(relay.address);
    other.allocate();
    let found = admin.get(&format!("/v1/sessions?client={from}"));
    assert_eq!(found["sessions"].as_array().expect("a list").len(), 1);
    let id = text(&found["sessions"][0], "id").to_owned();
    let session = admin.get(&format!("/v1/sessions/{id}"));
    assert_eq!(text(&session, "id"), id);
    for (key, value) in [
        ("user", USER),
        ("username", USER),
        ("user_encoding", "utf8"),
        ("transport", "udp"),
        ("client", &client.local_addr().to_string()),
        ("server", &relay.address.to_string()),
    ] {
        assert_eq!(text(&session, key), value, "{key}");
    }
    assert_eq!(session["relayed_addresses"], serde_json::json!([relayed.to_string()]));
    assert_eq!(number(&session, "/permissions"), 2, "a channel installs one as well");
    assert_eq!(number(&session, "/channels"), 1);
    assert_eq!(number(&session, "/relayed/to_peer_bytes"), 300);
    assert_eq!(number(&session, "/relayed/to_client_datagrams"), 3);
    let (age, left) = (number(&session, "/age_seconds"), number(&session, "/expires_in_seconds"));
    assert!(age < 60 && (540..=600).contains(&left), "{session}");
    assert!(!session.to_string().contains("nonce") && !session.to_string().contains("key"));
}

#[test]
fn a_killed_session_is_gone_at_once_and_its_count_given_back() {
    let (mut relay, admin) = relay(2, "[quota]\nallocations_per_user = 1\n");
    let mut client = client_of(&relay, "alice");
    let relayed = client.allocate();
    let mut second = client_of(&relay, "alice");
    second.try_allocate().expect_code(486);
    let id = text(&admin.get("/v1/sessions")["sessions"][0], "id").to_owned();
    let path = format!("/v1/sessions/{id}");

    let answer = admin.ask("DELETE", &path, Some(TOKEN));
    assert_eq!((answer.code, answer.json), (204, Value::Null));
    client.refresh(600).expect_code(437);
    UdpSocket::bind(relayed).expect("the relay port is closed");
    assert!(admin.problem("DELETE", &path, 404).contains("no such session"));
    assert!(admin.problem("GET", &path, 404).contains("no such session"));
    relay.await_samples("the end", |samples| {
        samples["turnway_allocations_ended_total{reason=\"killed\"}"] == 1.0
            && samples["turnway_allocations{transport=\"udp\"}"] == 0.0
    });
    relay.await_line("the end", |line| {
        line.contains("allocation ended") && line.contains("killed") && line.contains(&id)
    });
    assert_eq!(number(&admin.get("/v1/status"), "/users"), 0);
    second.allocate();
    for id in ["0", "x", "-1", "18446744073709551615", "99999999999999999999999", "%FF"] {
        admin.problem("DELETE", &format!("/v1/sessions/{id}"), 404);
    }
    second.refresh(600).expect_success();
}

#[test]
fn all_sessions_of_a_user_end_at_once_and_no_others() {
    let (relay, admin) = relay(2, "");
    let mut clients: Vec<Client> = (0..40)
        .map(|index| client_of(&relay, if index % 2 == 0 { "even" } else { "odd" }))
        .collect();
    for client in &mut clients {
        client.allocate();
    }
    let mut tcp = Client::tcp(relay.address);
    tcp.allocate();
    let answer = admin.ask("DELETE", "/v1/users/even/sessions", Some(TOKEN));
    assert_eq!((answer.code, number(&answer.json, "/ended")), (200, 20));
    let answer = admin.ask("DELETE", "/v1/users/even/sessions", Some(TOKEN));
    assert_eq!((answer.code, number(&answer.json, "/ended")), (200, 0));
    for (index, client) in clients.iter_mut().enumerate() {
        match index % 2 {
            0 => client.refresh(600).expect_code(437),
            _ => drop(client.refresh(600).expect_success()),
        }
    }
    let answer = admin.ask("DELETE", &format!("/v1/users/{USER}/sessions"), Some(TOKEN));
    assert_eq!(number(&answer.json, "/ended"), 1);
    tcp.refresh(600).expect_code(437);
    relay.await_samples("the odd ones", |samples| {
        samples["turnway_allocations{transport=\"udp\"}"] == 20.0
            && samples["turnway_allocations{transport=\"tcp\"}"] == 0.0
    });
    let users: BTreeMap<String, u64> = admin.get("/v1/users")["users"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|user| (text(user, "name").to_owned(), number(user, "/allocations")))
        .collect();
    assert_eq!(users, BTreeMap::from([("odd".to_owned(), 20)]));
}

#[test]
fn over_tcp_nothing_is_said_without_the_token() {
    let (relay, admin) = relay_on_tcp();
    for path in ["/v1/status", "/v1/users", "/v1/sessions", "/v1/openapi.json", "/", "/x"] {
        for token in [None, Some(""), Some("wrong"), Some("a-token-of-the-test")] {
            let answer = admin.ask("GET", path, token);
            assert_eq!(answer.code, 401, "{path} {token:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"turnway admin\"");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
    }
    let mut client = Client::udp(relay.address);
    client.allocate();
    let path = format!("/v1/users/{USER}/sessions");
    assert_eq!(admin.ask("DELETE", &path, None).code, 401);
    client.refresh(600).expect_success();

    let from_a_page = format!(
        "GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    let answer = admin.send(&from_a_page);
    assert_eq!(answer.code, 200, "whoever has the token may ask");
    assert!(!answer.headers.keys().any(|name| name.starts_with("access-control")), "no CORS");
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[test]
fn a_reload_changes_the_token() {
    let (mut relay, admin) = relay_on_tcp();
    let config = fs::read_to_string(relay.config_path()).expect("the configuration");
    let other = "another-token-of-the-tests";
    fs::write(relay.config_path(), config.replace(TOKEN, other)).expect("written");
    relay.signal("HUP");
    relay.await_line("the reload", |line| line.contains("reloaded"));
    assert_eq!(admin.ask("GET", "/v1/status", Some(TOKEN)).code, 401);
    assert_eq!(admin.ask("GET", "/v1/status", Some(other)).code, 200);
    assert!(!relay.log().iter().any(|line| line.contains("token-of-the-tests")), "no secret");
}

#[test]
fn the_socket_is_for_owner_and_group_whatever_the_umask_and_needs_no_token() {
    let umask = ["sh", "-c", "umask 0; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    let extra = "[admin]\nlisten = \"unix:admin.sock\"\n".to_owned();
    let mut relay = Relay::start(Setup { extra, runner: umask, ..Setup::default() });
    let path = relay.folder.path().join("admin.sock");
    let mode = fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let admin = Place::Unix(path.clone());
    assert_eq!(admin.ask("GET", "/v1/status", None).code, 200);
    assert_eq!(admin.ask("GET", "/v1/status", Some("wrong")).code, 401);
    relay.signal("INT");
    assert!(relay.wait().success());
    assert!(!path.exists(), "the socket is removed at the end");
}

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists(), "as a killed daemon leaves it");
    let setup = || Setup {
        extra: format!("[admin]\nlisten = \"unix:{}\"\n", path.display()),
        ..Setup::default()
    };
    let _relay = Relay::start(setup());
    let admin = Place::Unix(path.clone());
    assert_eq!(admin.ask("GET", "/v1/status", None).code, 200);

    let (code, error) = Relay::refused(&setup());
    assert_eq!(code, Some(2), "{error}");
    let problem = format!("cannot listen on unix:{}", path.display());
    assert!(error.contains("admin.listen") && error.contains(&problem), "{error}");
    assert!(error.contains("another turnway answers there"), "{error}");
    assert_eq!(admin.ask("GET", "/v1/status", None).code, 200, "it is undisturbed");

    let file = folder.path().join("file");
    fs::write(&file, "precious").expect("written");
    let extra = format!("[admin]\nlisten = \"unix:{}\"\n", file.display());
    let (code, error) = Relay::refused(&Setup { extra, ..Setup::default() });
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("it is not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");

    let extra = format!("[admin]\nlisten = \"unix:{}/no/s\"\n", folder.path().display());
    let (code, error) = Relay::refused(&Setup { extra, ..Setup::default() });
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("make its directory first"), "{error}");
}

#[test]
fn hostile_names_come_through_whole_and_harmless() {
    let (relay, admin) = relay(1, "");
    // What a decoder could take for something else. Control characters are refused at the door.
    let names = ["a/b?c=d&e#f", "%2F%00", "..", "\"quotes\\ 'and <script>", "größe 日本 +"];
    let mut clients = Vec::new();
    for name in names {
        let mut client = client_of(&relay, name);
        client.allocate();
        clients.push(client);
    }
    for (name, client) in names.into_iter().zip(&mut clients) {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let user = admin.get(&format!("/v1/users/{encoded}"));
        assert_eq!((text(&user, "name"), text(&user, "name_encoding")), (name, "utf8"));
        let found = admin.get(&format!("/v1/sessions?user={encoded}"));
        assert_eq!(found["sessions"].as_array().expect("a list").len(), 1, "{name:?}");
        assert_eq!(text(&found["sessions"][0], "user"), name);
        assert_eq!(text(&found["sessions"][0], "username"), format!("4000000000:{name}"));
        let answer = admin.ask("DELETE", &format!("/v1/users/{encoded}/sessions"), Some(TOKEN));
        assert_eq!(number(&answer.json, "/ended"), 1, "{name:?}");
        client.refresh(600).expect_code(437);
    }
    assert_eq!(admin.get("/v1/sessions?user=%FF%FE")["sessions"], serde_json::json!([]));
}

#[test]
fn wrong_questions_are_told_what_is_wrong() {
    let (_relay, admin) = relay(1, "");
    for (path, detail) in [
        ("/v1/sessions?limit=0", "limit=0: write 1 to 1000"),
        ("/v1/sessions?limit=1001", "limit=1001: write 1 to 1000"),
        ("/v1/sessions?limit=many", "limit=many: "),
        ("/v1/sessions?client=localhost", "client=localhost: "),
        ("/v1/sessions?cursor=x", "a cursor is the next_cursor of another answer"),
        ("/v1/sessions?cursor=7.0", "not one of this server"),
        ("/v1/sessions?usr=alice", "\"usr\" is unknown; there are: user, client, limit, cursor"),
        ("/v1/sessions?user=a&user=b", "user is there twice"),
        ("/v1/users?sort=age", "write rate, allocations, volume or name"),
        ("/v1/users?top=1001", "write 1 to 1000"),
        ("/v1/users?sort=rate&limit=5", "the top users have no pages"),
        ("/v1/users?cursor=-1", "cursor=-1: "),
        ("/v1/status?x", "there are: none"),
    ] {
        let problem = admin.problem("GET", path, 400);
        assert!(problem.contains(detail), "{path}: {problem}");
    }
    assert!(admin.problem("GET", "/v2/status", 404).contains("/v1/openapi.json"));
    assert_eq!(admin.ask("POST", "/v1/status", Some(TOKEN)).code, 405);
    // Places behind the end of every table.
    assert_eq!(admin.get("/v1/sessions?cursor=0.4294967295")["sessions"], serde_json::json!([]));
    assert_eq!(admin.get("/v1/users?cursor=4294967295")["users"], serde_json::json!([]));
    // Longer than the head of a request may be: it is cut off, and with luck told why before.
    let Place::Unix(path) = &admin else { panic!("a socket") };
    let mut stream = UnixStream::connect(path).expect("it listens");
    let sent = (0..1 << 16).try_for_each(|_| stream.write_all(&[b'a'; 1 << 10]));
    assert!(sent.is_err(), "64 MiB of a request line were taken");
    assert_eq!(admin.ask("GET", "/v1/status", Some(TOKEN)).code, 200, "and it goes on");
}

#[test]
fn the_description_names_every_route_and_no_other() {
    let (_relay, admin) = relay(1, "");
    let description = admin.get("/v1/openapi.json");
    let paths = description["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 7);
    for (path, methods) in paths {
        let concrete = path.replace("{id}", "0").replace("{name}", "nobody");
        for method in ["get", "post", "put", "patch", "delete"] {
            let answer = admin.ask(&method.to_uppercase(), &concrete, Some(TOKEN));
            let Some(operation) = methods.get(method) else {
                assert_eq!(answer.code, 405, "{method} {path} is not described");
                continue;
            };
            let code = answer.code.to_string();
            assert!(operation["responses"][&code].is_object(), "{method} {path}: {code}");
            let is_missing = answer.json["detail"].as_str().is_some_and(|it| it.contains("path"));
            assert!(!is_missing, "{method} {path}");
        }
    }
}

#[test]
fn a_draining_server_says_so_and_still_answers() {
    let (mut relay, admin) = relay(2, "");
    let mut client = Client::udp(relay.address);
    client.allocate();
    relay.signal("TERM");
    relay.await_line("the drain", |line| line.contains("draining"));
    assert_eq!(admin.get("/v1/status")["draining"], true);
    let answer = admin.ask("DELETE", &format!("/v1/users/{USER}/sessions"), Some(TOKEN));
    assert_eq!(number(&answer.json, "/ended"), 1);
    assert!(relay.wait().success(), "the last session has ended");
}
