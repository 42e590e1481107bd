//! What OpenSSL's own client thinks of our TLS and DTLS, and certificates that are swapped while
//! clients are there: their connections live, and whoever comes next sees the new certificate.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::certificates::{Made, NAME};
use common::client::{Client, Peer, Relayed, Transport};
use common::{PATIENCE, Relay, Setup, program};

/// What `openssl s_client` is told for each version, and what it calls that.
const VERSIONS: [(&str, &str); 3] =
    [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3"), ("-dtls1_2", "DTLSv1.2")];

fn relay() -> Relay {
    Relay::start(Setup { transports: &["auto"], ..Setup::default() })
}

/// What `openssl s_client` prints of a handshake with a server that must have a good certificate.
/// `None`, said aloud, where there is no such program.
fn s_client(relay: &Relay, roots: &Path, arguments: &[&str]) -> Option<String> {
    let openssl = program("openssl", "openssl")?;
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(openssl).arg("s_client").args(arguments);
    command.args(["-connect", &relay.address.to_string(), "-servername", NAME]);
    command.args(["-verify_hostname", NAME, "-verify_return_error"]).arg("-CAfile").arg(roots);
    let output = command.stdin(Stdio::null()).output().expect("coreutils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}\n{errors}");
    assert!(text.contains("Verify return code: 0 (ok)"), "{arguments:?}: {text}");
    Some(text)
}

#[test]
fn openssl_verifies_the_chain_of_either_key_in_every_version() {
    let relay = relay();
    let roots = relay.folder.path().join("root.pem");
    let keys = [("ECDSA+SHA256", "ECDSA"), ("RSA-PSS+SHA256:RSA+SHA256", "RSA")];
    for (version, protocol) in VERSIONS {
        for (algorithms, key) in keys {
            let arguments = [version, "-sigalgs", algorithms, "-alpn", "stun.turn"];
            let Some(text) = s_client(&relay, &roots, &arguments) else { return };
            let said = |wanted: &str| {
                assert!(text.contains(wanted), "{arguments:?}: {wanted} is not in {text}");
            };
            said(protocol);
            said("ALPN protocol: stun.turn");
            said(&format!("Peer signature type: {key}"));
            said(&format!("subject=CN = {NAME}"));
        }
    }
}

#[test]
fn clients_with_other_protocols_in_mind_are_served_all_the_same() {
    let relay = relay();
    let roots = relay.folder.path().join("root.pem");
    for (version, _) in VERSIONS {
        for alpn in [&["-alpn", "http/1.1"][..], &[]] {
            let arguments = [&[version], alpn].concat();
            let Some(text) = s_client(&relay, &roots, &arguments) else { return };
            assert!(text.contains("No ALPN negotiated"), "{arguments:?}: {text}");
        }
    }
}

/// A client with an allocation that is to outlive certificates.
struct Live {
    client: Client,
    peer: Peer,
    turns: u8,
}

impl Live {
    fn new(relay: &Relay, transport: Transport) -> Self {
        let mut client = relay.client(transport);
        client.allocate();
        let peer = Peer::on(relay.ip());
        client.bind(0x4000, peer.address()).expect_success();
        Self { client, peer, turns: 0 }
    }

    fn go_on(&mut self) {
        self.turns += 1;
        let data = vec![self.turns; 100];
        self.client.send_channel(0x4000, &data);
        let (received, relayed) = self.peer.receive();
        assert_eq!(received, data);
        self.peer.send(&data, relayed);
        assert_eq!(self.client.receive(), Relayed::Channel { number: 0x4000, data });
        self.client.refresh(600).expect_success();
    }
}

#[test]
fn certificates_are_swapped_under_live_connections() {
    let mut relay = relay();
    let folder = relay.folder.path().to_owned();
    let mut live = [Transport::Tls, Transport::Dtls].map(|over| Live::new(&relay, over));
    let mut goes_on_and_shows = |relay: &Relay, roots: &str, name: &str| {
        live.iter_mut().for_each(Live::go_on);
        for (version, _) in VERSIONS {
            let arguments = [version, "-sigalgs", "ECDSA+SHA256"];
            let Some(text) = s_client(relay, &folder.join(roots), &arguments) else { return };
            assert!(text.contains(&format!("subject=CN = {name}\n")), "{text}");
        }
        live.iter_mut().for_each(Live::go_on);
    };
    let certificate = |name: &str| {
        let made = Made::ecdsa(&[name, NAME]);
        fs::write(folder.join(format!("{name}.root")), &made.root).expect("a folder of ours");
        made
    };
    let in_force = |name: &'static str| {
        move |line: &str| line.contains("certificate in force") && line.contains(name)
    };
    goes_on_and_shows(&relay, "root.pem", NAME);

    // Half of a new certificate: the old one is shown.
    let second = certificate("second.example.org");
    let file = folder.join("ecdsa.pem");
    fs::write(&file, &second.chain[..second.chain.len() / 3]).expect("a folder of ours");
    relay.next_line("half a file", |line| {
        line.contains("the old certificates stay in force") && line.contains("ecdsa.pem")
    });
    goes_on_and_shows(&relay, "root.pem", NAME);

    // All of it.
    second.write(&folder, "ecdsa");
    relay.next_line("the new certificate", in_force("second.example.org"));
    goes_on_and_shows(&relay, "second.example.org.root", "second.example.org");

    // Another file, by SIGHUP.
    certificate("third.example.org").write(&folder, "third");
    let config = relay.config_path();
    let text = fs::read_to_string(&config).expect("ours");
    fs::write(&config, text.replace("/ecdsa.", "/third.")).expect("ours");
    relay.signal("HUP");
    relay.next_line("the third certificate", in_force("third.example.org"));
    goes_on_and_shows(&relay, "third.example.org.root", "third.example.org");
    assert_eq!(relay.allocations(), 2.0);
}

#[test]
fn a_secured_listener_does_not_start_without_a_certificate() {
    let listen = "[[listen]]\ntransport = \"tls\"\naddress = \"127.0.0.1:5349\"\n";
    let absent = "[[tls.certificate]]\ncertificate = \"absent.pem\"\nkey = \"absent.key\"\n";
    for (extra, said) in [
        (listen.to_owned(), "tls.certificate"),
        (format!("{listen}{absent}"), "absent.pem: cannot read the certificate"),
    ] {
        let (code, error) = Relay::refused(&Setup { extra, ..Setup::default() });
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(said), "{error}");
    }
}
