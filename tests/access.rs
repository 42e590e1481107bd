//! Who gets in, and who is sent elsewhere, with coturn's own test client: access tokens
//! (RFC 7635), alternate servers, realms.

mod common;
#[path = "turnutils/uclient.rs"]
mod uclient;

use std::net::SocketAddr;
use std::time::Duration;

use common::{PASSWORD, Relay, Setup, USER, own_address, program};
use uclient::{Counts, Peer, Run};

/// Over UDP and over TCP.
const TRANSPORTS: [&[&str]; 2] = [&[], &["-t"]];

/// The key `north`, which `turnutils_uclient -J` makes its tokens with.
const NORTH: &str = "
    [[oauth.key]]
    kid = \"north\"
    key = \"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"
";
/// Its two others.
const OTHERS: &str = "
    [[oauth.key]]
    kid = \"union\"
    key = \"MTIzNDU2Nzg5MDEyMzQ1Ng==\"
    algorithm = \"A128GCM\"

    [[oauth.key]]
    kid = \"oldempire\"
    key = \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\"
";

#[test]
fn clients_with_access_tokens_lose_nothing() {
    let extra = format!("{NORTH}{OTHERS}");
    for transport in TRANSPORTS {
        for mode in [&[][..], &["-s"]] {
            let relay = Relay::start(Setup { extra: extra.clone(), ..Setup::default() });
            let peer = Peer::start(own_address().into(), 3480);
            let mut run = Run::anonymous(relay.address, peer.address);
            lossless(run.add(&["-J"]).add(transport).add(mode).sized(8, 50));
            let refused = relay.sum("turnway_auth_failures_total{");
            assert_eq!(refused, 0.0, "every token was good");
        }
    }
}

#[test]
fn a_token_for_another_server_is_refused() {
    if program("turnutils_uclient", "coturn").is_none() {
        return;
    }
    let wrong = NORTH.replace("MDEy", "MDEz") + &OTHERS.replace("MTIz", "MTI0");
    let relay = Relay::start(Setup { extra: wrong, ..Setup::default() });
    let mut run = Run::anonymous(relay.address, relay.address);
    run.add(&["-J"]).sized(1, 1).attempt(Duration::from_secs(5));
    let refused = "turnway_auth_failures_total{cause=\"bad_token\"}";
    relay.await_samples("a refused token", |samples| samples[refused] > 0.0);
    assert_eq!(relay.allocations(), 0.0);
}

#[test]
fn clients_follow_to_an_alternate_server() {
    for transport in TRANSPORTS {
        let second = Relay::start(Setup::default());
        let extra = format!("[[alternate.server]]\naddresses = [\"{}\"]\n", second.address);
        let first = Relay::start(Setup { extra, ..Setup::default() });
        let peer = Peer::start(own_address().into(), 3480);
        let mut run = Run::new(first.address, peer.address);
        if !lossless(run.add(transport).sized(6, 50)) {
            return;
        }
        let sent_on =
            first.sum("turnway_requests_total{method=\"allocate\",outcome=\"try_alternate\"}");
        assert!(sent_on > 0.0, "nobody was sent on");
        assert_eq!(first.sum("turnway_allocations_started_total"), 0.0);
        assert_eq!(first.sum("turnway_relayed_datagrams_total{"), 0.0);
    }
}

/// The second realm's password of [`USER`].
const OTHER_PASSWORD: &str = "the same name, another person";
const ORIGIN: &str = "https://app.example.net";

#[test]
fn one_name_in_two_realms_is_two_users() {
    let own = own_address();
    let extra = format!(
        "[[listen]]\ntransport = \"udp\"\naddress = \"{own}:3479\"\nrealm = \"second\"\n\
         [[realms]]\nname = \"second\"\norigins = [\"{ORIGIN}\"]\n\
         [[auth.user]]\nname = \"{USER}\"\nrealm = \"second\"\npassword = \"{OTHER_PASSWORD}\"\n\
         [quota]\nallocations_per_user = 8\n"
    );
    let address = SocketAddr::new(own.into(), 3478);
    let relay = Relay::start(Setup {
        extra,
        listen: vec![address],
        relay: Some(format!("addresses = [\"{own}\"]")),
        ..Setup::default()
    });
    let peer = Peer::start(own_address().into(), 3480);
    let second = SocketAddr::new(own.into(), 3479);
    let client = |server, password: &str, more: &[&str]| {
        let mut run = Run::anonymous(server, peer.address);
        run.add(&["-u", USER, "-w", password]).add(more).sized(2, 20);
        run
    };
    if !lossless(&client(address, PASSWORD, &[])) {
        return;
    }
    // Each has eight allocations of his own, and these are twelve.
    lossless(&client(second, OTHER_PASSWORD, &[]));
    lossless(&client(address, OTHER_PASSWORD, &["-o", ORIGIN, "-t"]));
    let wrong = "turnway_auth_failures_total{cause=\"wrong_key\"}";
    assert_eq!(relay.samples()[wrong], 0.0);
    client(second, PASSWORD, &[]).attempt(Duration::from_secs(2));
    relay.await_samples("the wrong realm's password", |samples| samples[wrong] > 0.0);
}

/// Runs the client and asserts that all its messages came back; whether there is such a program.
#[track_caller]
fn lossless(run: &Run) -> bool {
    let Some(counts) = run.finish() else { return false };
    let all = run.messages();
    assert_eq!(counts, Counts { sent: all, received: all, lost: 0, dropped: 0 }, "{run}");
    true
}
