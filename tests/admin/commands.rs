//! `turnway status`, `sessions` and `kill`.

use std::fs;

use serde_json::Value;

use crate::api::{Place, TOKEN, client_of, failing, operate, relay, relay_on_tcp};
use crate::common::client::{Client, Peer};
use crate::common::{REALM, USER, own_address};
use crate::{METERED, chat, number, text};

#[test]
fn the_commands_show_what_the_api_says() {
    let (relay, admin) = relay(2, METERED);
    let peer = Peer::on(relay.ip());
    let mut client = Client::udp(relay.address);
    let relayed = client.allocate().to_string();
    chat(&mut client, &peer, 20);
    let mut hostile = client_of(&relay, "\"quotes\" 100%");
    hostile.allocate();
    relay.await_samples("all that was relayed", |samples| {
        samples["turnway_relayed_datagrams_total{direction=\"to_client\",transport=\"udp\"}"]
            == 20.0
    });

    let status = operate(&relay, &["status"]);
    for part in [
        &format!("turnway      {}", env!("CARGO_PKG_VERSION")),
        &format!("realm        {REALM}"),
        &format!("udp {}", relay.address),
        "allocations  2 (2 udp, 0 tcp, 0 tls, 0 dtls), at most ",
        "users        2\n",
        "2.00 kB in 20 datagrams so far\n",
        "1.00 kB in 20 datagrams so far\n",
        "TOP USERS",
        "1 of 300",
        "800 Mbit/s",
        "%22quotes%22 100%25 ",
    ] {
        assert!(status.contains(part), "{part:?} is not in\n{status}");
    }
    let as_json: Value =
        serde_json::from_str(&operate(&relay, &["status", "--json"])).expect("JSON");
    assert_eq!(as_json["relayed"], admin.get("/v1/status")["relayed"]);
    assert_eq!(as_json["top_users"].as_array().expect("a list").len(), 2);

    let sessions = operate(&relay, &["sessions"]);
    let lines: Vec<&str> = sessions.lines().collect();
    assert_eq!(lines.len(), 3, "a head and two sessions:\n{sessions}");
    assert!(sessions.contains("%22quotes%22 100%25 "), "{sessions}");
    let line = lines.iter().find(|line| line.contains(&format!(" {USER} "))).expect("a session");
    for part in
        [&*relayed, &format!("udp 127.0.0.1:{}", client.local_addr().port()), "2.00 kB", "1.00 kB"]
    {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    let one = operate(&relay, &["sessions", "--user", USER, "--json"]);
    let one: Value = serde_json::from_str(&one).expect("JSON");
    let listed = admin.get(&format!("/v1/sessions?user={USER}"));
    assert_eq!(one["sessions"][0]["id"], listed["sessions"][0]["id"]);
    assert_eq!(one["sessions"].as_array().expect("a list").len(), 1);
    assert_eq!(operate(&relay, &["sessions", "--client", "127.9.9.9"]), "no sessions\n");
    let limited = operate(&relay, &["sessions", "--limit", "1"]);
    assert!(limited.contains("There are more; show them with --limit."), "{limited}");
}

#[test]
fn sessions_are_listed_over_many_pages() {
    let (relay, _) = relay(2, "");
    let mut clients: Vec<Client> = (0..30).map(|_| client_of(&relay, "many")).collect();
    for client in &mut clients {
        client.allocate();
    }
    let lines = |limit: &str| operate(&relay, &["sessions", "--limit", limit]).lines().count();
    assert_eq!(lines("1500"), 31);
    assert_eq!(lines("29"), 32, "a head, 29, a blank and a word about more");
}

#[test]
fn kill_ends_sessions_and_says_which() {
    let (relay, admin) = relay(2, "");
    let mut clients: Vec<Client> = ["a", "a", "b"].map(|user| client_of(&relay, user)).into();
    for client in &mut clients {
        client.allocate();
    }
    let found = admin.get("/v1/sessions?user=b");
    let id = text(&found["sessions"][0], "id").to_owned();
    assert_eq!(operate(&relay, &["kill", &id]), format!("ended {id}\n"));
    clients[2].refresh(600).expect_code(437);

    let config = relay.config_path();
    let config = config.to_str().expect("text");
    let (code, error) = failing(&["kill", &id, "-c", config]);
    assert_eq!(code, 1, "{error}");
    assert_eq!(error, format!("turnway: no such session, or it has ended: {id}\n"));

    assert_eq!(operate(&relay, &["kill", "--user", "a"]), "ended 2 sessions of a\n");
    clients[0].refresh(600).expect_code(437);
    clients[1].refresh(600).expect_code(437);
    let (code, error) = failing(&["kill", "--user", "a", "-c", config]);
    assert_eq!((code, &*error), (1, "turnway: a has no sessions\n"));
    assert_eq!(number(&admin.get("/v1/status"), "/users"), 0);

    for wrong in [&["kill"][..], &["kill", "x"], &["kill", "1", "--user", "a"]] {
        assert_eq!(failing(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn the_commands_reach_the_api_without_a_configuration() {
    let (relay, admin) = relay_on_tcp();
    let Place::Tcp(address) = admin else { panic!("TCP") };
    let url = format!("http://{address}");
    let token = relay.folder.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).expect("written");
    let token = token.to_str().expect("text");
    let (code, error) = failing(&["status", "--admin", &url, "--token-file", token]);
    assert_eq!((code, &*error), (0, ""));
    assert!(operate(&relay, &["status"]).contains(REALM), "and with one");

    let (code, error) = failing(&["status", "--admin", &url]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("wants a token; name a file that holds it: --token-file"), "{error}");
    fs::write(token, "wrong").expect("written");
    let (code, error) = failing(&["status", "--admin", &url, "--token-file", token]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("refuses the token"), "{error}");
    let metrics = format!("http://{}", relay.metrics);
    let (code, error) = failing(&["status", "--admin", &metrics]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("is it Turnway's admin API?"), "{error}");
}

#[test]
fn the_commands_say_why_nobody_answers() {
    let nobody = format!("http://{}:9642", own_address());
    let (code, error) = failing(&["sessions", "--admin", &nobody]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&format!("nobody listens on {nobody}: is Turnway running")), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}/s", folder.path().display());
    let (code, error) = failing(&["sessions", "--admin", &socket]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&format!("nobody listens on {socket}")), "{error}");

    let config = folder.path().join("turnway.toml");
    let config = config.to_str().expect("text");
    let (code, error) = failing(&["status", "-c", config]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("cannot read the configuration"), "{error}");
    let (code, _) = failing(&["init", "-o", config]);
    assert_eq!(code, 0);
    let (code, error) = failing(&["status", "-c", config]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("the admin API is off; add to it and restart Turnway"), "{error}");
    assert!(error.contains("[admin]\nlisten = \"unix:/run/turnway/admin.sock\""), "{error}");
}
