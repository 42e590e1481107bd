//! `turnutils_uclient -T`, which connects to another of its clients, and `-P`, to whose relayed
//! port it connects itself. More than one pair of them waits for half a minute before it begins,
//! for errors that it makes itself: so there is one.

use std::fs;
use std::net::SocketAddr;

use crate::common::{Relay, Setup, own_address};
use crate::uclient::{Counts, Run};

const SESSIONS: u64 = 2;
const MESSAGES: u64 = 100;
const ALL: u64 = SESSIONS * MESSAGES;

#[test]
fn active_clients_lose_nothing() {
    each_way("-T", &[false, true], |counts| {
        assert_eq!(counts, Counts { sent: ALL, received: ALL, lost: 0, dropped: 0 });
    });
}

/// Messages come back to half of these clients only, from coturn's server as well: what the others
/// send goes to a connection that the client reads and does not count. Over TCP only: it would
/// speak TLS to its own peers as well.
#[test]
fn passive_clients_lose_nothing() {
    each_way("-P", &[false], |counts| {
        assert_eq!((counts.sent, counts.received, counts.dropped), (ALL, ALL / 2, 0));
    });
}

/// Over TCP or TLS, on one shard and on four.
fn each_way(mode: &str, over_tls: &[bool], check: impl Fn(Counts)) {
    for shards in [1, 4] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["turnway.test".to_owned()]);
        let made = made.expect("a certificate");
        fs::write(&chain, made.cert.pem()).expect("the certificate");
        fs::write(&key, made.signing_key.serialize_pem()).expect("its key");
        let own = own_address();
        let secured = SocketAddr::new(own.into(), 5349);
        let relay = Relay::start(Setup {
            shards,
            // On a data connection the client understands no long challenge.
            realm: "r",
            listen: vec![SocketAddr::new(own.into(), 3478)],
            extra: format!(
                "[[listen]]\ntransport = \"tls\"\naddress = \"{secured}\"\n\
                 [[tls.certificate]]\ncertificate = \"{}\"\nkey = \"{}\"\n",
                chain.display(),
                key.display()
            ),
            quiet: true,
            ..Setup::default()
        });
        for &tls in over_tls {
            let (server, transport): (_, &[&str]) =
                if tls { (secured, &["-t", "-S"]) } else { (relay.address, &["-t"]) };
            let mut run = Run::new(server, (own_address(), 3480).into());
            run.add(&[mode]).add(transport).sized(SESSIONS, MESSAGES);
            let Some(counts) = run.finish() else { return };
            check(counts);
            relay.await_no_allocations();
            assert_eq!(relay.samples()["turnway_peer_connections"], 0.0);
        }
    }
}
