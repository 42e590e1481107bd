//! Real clients: the `openssl` program over a socket, and dimpl, which shares no code with OpenSSL.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, Output};
use turnway_dtls::{Context, Received};

use crate::common::{ECDSA, Made, RSA, Server, certificate, context, settings};

/// Lines by which `openssl s_client` is told what to do.
const QUIT: &str = "Q";
const RENEGOTIATE: &str = "R";

/// Serves one client on a loopback socket, and echoes, until it ends the association.
fn serve(socket: &UdpSocket, server: &mut Server) {
    let mut buffer = [0; 4096];
    while !matches!(server.events.last(), Some(Received::Closed | Received::Failed(_))) {
        let (len, from) = socket.recv_from(&mut buffer).expect("the client is silent");
        for datagram in server.take(&buffer[..len]) {
            socket.send_to(&datagram, from).unwrap();
        }
        if server.session.as_ref().is_some_and(|session| session.is_established()) {
            for plain in std::mem::take(&mut server.received) {
                let echo = server.send(&plain);
                socket.send_to(&echo, from).unwrap();
            }
        }
    }
}

/// Runs `openssl s_client` against a server with this certificate, and gives it a `command` when its
/// line was echoed. What it printed, and what the server saw.
fn s_client(made: &Made, name: &str, more: &[&str], command: &'static str) -> (String, Server) {
    let root = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(root.path(), &made.root).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-verify_return_error", "-connect"])
        .args([&address, "-servername", name, "-verify_hostname", name])
        .arg("-CAfile")
        .arg(root.path())
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program openssl is installed");
    let context = Context::new(&settings(vec![made.identity()])).unwrap();
    let mut server = Server::new(&context);
    let mut input = client.stdin.take().unwrap();
    let mut output = client.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        // The echo shows that the association works.
        input.write_all(b"are you there\n").unwrap();
        while !text.contains("are you there") {
            let len = output.read(&mut buffer).unwrap();
            assert_ne!(len, 0, "openssl gave up: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        input.write_all(command.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
        while let Ok(len @ 1..) = output.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        text
    });
    serve(&socket, &mut server);
    let end = client.wait_with_output().unwrap();
    assert_eq!(end.status.success(), command == QUIT);
    assert_eq!(server.session().server_name(), Some(name));
    let text = reader.join().unwrap() + &String::from_utf8_lossy(&end.stderr);
    (text, server)
}

#[test]
fn openssl_s_client_verifies_the_chain_and_echoes() {
    for algorithm in [RSA, ECDSA] {
        let made = certificate(algorithm, &["turn.example.org"]);
        let (text, _) = s_client(&made, "turn.example.org", &["-alpn", "h2,stun.turn"], QUIT);
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains("ALPN protocol: stun.turn"), "{text}");
        assert!(text.contains("DTLSv1.2"), "{text}");
    }
}

#[test]
fn openssl_s_client_over_a_small_mtu() {
    let made = certificate(RSA, &["turn.example.org"]);
    let (text, _) = s_client(&made, "turn.example.org", &["-mtu", "300"], QUIT);
    assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
}

#[test]
fn renegotiation_is_refused() {
    let made = certificate(ECDSA, &["turn.example.org"]);
    let (text, server) = s_client(&made, "turn.example.org", &[], RENEGOTIATE);
    assert!(text.contains("RENEGOTIATING"), "{text}");
    assert!(text.contains("no renegotiation"), "{text}");
    // The client gives up when it is refused; the server had one handshake and no quarrel.
    assert_eq!(server.events[0], Received::Established);
    assert_eq!(server.events.len(), 2, "{:?}", server.events);
}

/// Everything dimpl wants to send or say.
fn drain(client: &mut Dtls, connected: &mut bool, received: &mut Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let mut out = Vec::new();
    loop {
        match client.poll_output(&mut buffer) {
            Output::Packet(datagram) => out.push(datagram.to_vec()),
            Output::Connected => *connected = true,
            Output::ApplicationData(data) => received.push(data.to_vec()),
            Output::Timeout(_) => return out,
            _ => {}
        }
    }
}

#[test]
fn dimpl_completes_a_handshake_in_either_mode_and_exchanges_data() {
    let config = Arc::new(Config::default());
    for mode in [Dtls::new_12, Dtls::new_auto] {
        let own = dimpl::certificate::generate_self_signed_certificate().unwrap();
        let mut client = mode(config.clone(), own, Instant::now());
        client.set_active(true);
        client.handle_timeout(Instant::now()).unwrap();
        let mut server = Server::new(&context());
        let (mut connected, mut received) = (false, Vec::new());
        for _ in 0..20 {
            for datagram in drain(&mut client, &mut connected, &mut received) {
                for answer in server.take(&datagram) {
                    client.handle_packet(&answer).unwrap();
                }
            }
        }
        assert!(connected && server.session().is_established());
        client.send_application_data(b"ping").unwrap();
        for datagram in drain(&mut client, &mut connected, &mut received) {
            server.take(&datagram);
        }
        assert_eq!(server.received, [b"ping"]);
        client.handle_packet(&server.send(b"pong")).unwrap();
        drain(&mut client, &mut connected, &mut received);
        assert_eq!(received, [b"pong"]);
    }
}
