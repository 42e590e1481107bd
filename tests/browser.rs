//! A browser with nothing but what `turnway serve` prints in development mode.
//!
//! Headless Chromium opens `browser/page.html`: two peer connections that may use relay candidates
//! only, first over UDP, then over TCP. The page sends what it saw back to the test.

mod common;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use common::netns::Namespace;
use common::{can_make_namespaces, in_namespace, program};
use serde_json::{Value, json};

/// How long the browser may take for everything.
const BROWSER_PATIENCE: Duration = Duration::from_secs(55);

#[test]
fn chromium_relays_over_udp_and_tcp_with_what_development_mode_prints() {
    let Some(chromium) = program("chromium", "chromium") else {
        return;
    };
    if !can_make_namespaces() {
        return;
    }
    // Development mode has one address, 127.0.0.1:3478: in a namespace it is ours alone.
    let namespace = Namespace::new("browser");
    let (_relay, ice_servers) = development_mode(&namespace);
    let page = include_str!("browser/page.html").replace("ICE_SERVERS", &ice_servers.to_string());
    let (url, results) = serve_page(&namespace, page);
    let profile = tempfile::tempdir().expect("a temporary folder");
    let _browser = open(&namespace, &chromium, profile.path(), &url);

    let result = results.recv_timeout(BROWSER_PATIENCE);
    let result: Value = serde_json::from_str(&result.expect("the page's result")).expect("JSON");
    for transport in ["udp", "tcp"] {
        let peer = json!({ "local": "relay", "remote": "relay", "by": transport });
        let expected = json!({ "bytes": 1 << 20, "intact": true, "peers": [peer, peer] });
        assert_eq!(result[transport], expected, "{result}");
    }
}

/// A process and all it started. Killed when dropped.
struct Group(Child);

impl Group {
    fn spawn(command: &mut Command) -> Self {
        Self(command.process_group(0).stdin(Stdio::null()).spawn().expect("starts"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.0.wait();
    }
}

/// `turnway serve` without a configuration, and the `iceServers` it prints.
fn development_mode(namespace: &Namespace) -> (Group, Value) {
    let mut command = in_namespace(Some(&namespace.name), env!("CARGO_BIN_EXE_turnway"));
    let mut relay = Group::spawn(command.arg("serve").stdout(Stdio::piped()));
    let output = BufReader::new(relay.0.stdout.take().expect("piped"));
    let mut lines = output.lines().map(|line| line.expect("text"));
    let mut text = String::new();
    for line in lines.by_ref().skip_while(|line| line != "{") {
        text += &line;
        if line == "}" {
            break;
        }
    }
    thread::spawn(move || lines.for_each(drop)); // the log
    let mut printed: Value = serde_json::from_str(&text).expect("iceServers as JSON");
    (relay, printed["iceServers"].take())
}

fn open(namespace: &Namespace, chromium: &Path, profile: &Path, url: &str) -> Group {
    let mut command = in_namespace(Some(&namespace.name), chromium.to_str().expect("text"));
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--no-first-run", "--disable-quic", "--disable-sync", "--disable-extensions"]);
    command.args(["--disable-background-networking", "--disable-component-update"]);
    // The namespace has no interface but loopback.
    command.args(["--allow-loopback-in-peer-connection"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(url);
    Group::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Serves the page and hands on what it posts.
fn serve_page(namespace: &Namespace, page: String) -> (String, Receiver<String>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = namespace.enter(|| TcpListener::bind(any)).expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("a socket"));
    let (sender, results) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (page, sender) = (page.clone(), sender.clone());
            // The browser opens connections that it does not use: none may hold up the others.
            thread::spawn(move || answer(stream, &page, &sender));
        }
    });
    (url, results)
}

/// Answers one request: the page, or thanks for the result.
fn answer(stream: TcpStream, page: &str, results: &mpsc::Sender<String>) -> io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, content) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/", _] => ("200 OK", page),
        ["POST", "/result", _] => ("200 OK", ""),
        _ => ("404 Not Found", ""),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close\r\n");
    write!(&stream, "{head}Content-Length: {}\r\n\r\n{content}", content.len())?;
    if length > 0 {
        // The test may have ended.
        let _ = results.send(String::from_utf8_lossy(&body).into_owned());
    }
    Ok(())
}
