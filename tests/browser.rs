//! A browser: with nothing but what `turnway serve` prints in development mode, and with TLS.
//!
//! Headless Chromium opens `browser/page.html`: two peer connections that may use relay candidates
//! only, over one transport after the other. Data and a camera's video must arrive. The page sends
//! what it saw back to the test.

mod common;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use common::netns::Namespace;
use common::{PASSWORD, Relay, Setup, USER, can_make_namespaces, in_namespace, program};
use serde_json::{Value, json};

/// How long the browser may take for everything.
const BROWSER_PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn chromium_relays_over_udp_and_tcp_with_what_development_mode_prints() {
    let Some((chromium, namespace)) = ready() else { return };
    // Development mode has one address, 127.0.0.1:3478: in a namespace it is ours alone.
    let (_relay, ice_servers) = development_mode(&namespace);
    let only = |transport: &str| {
        let mut servers = ice_servers.clone();
        for server in servers.as_array_mut().expect("a list") {
            let urls = server["urls"].as_array_mut().expect("a list");
            urls.retain(|url| url.as_str().is_some_and(|url| url.ends_with(transport)));
            assert_eq!(urls.len(), 1);
        }
        servers
    };
    let transports = json!({ "udp": only("?transport=udp"), "tcp": only("?transport=tcp") });
    relays(&chromium, &namespace, &transports, &[]);
}

#[test]
fn chromium_relays_over_tls() {
    let Some((chromium, namespace)) = ready() else { return };
    let localhost = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let relay = Relay::start(Setup {
        namespace: Some(namespace.name.clone()),
        listen: vec![localhost(3478)],
        metrics: Some(localhost(9641)),
        transports: &["auto"],
        ..Setup::default()
    });
    let urls = [format!("turns:{}?transport=tcp", relay.address)];
    let server = json!([{ "urls": urls, "username": USER, "credential": PASSWORD }]);
    // It trusts what the system trusts, and this one key.
    let trusted = format!("--ignore-certificate-errors-spki-list={}", relay.key_hash());
    relays(&chromium, &namespace, &json!({ "tls": server }), &[&trusted]);
}

/// Where the browser is, and a namespace for it; `None`, said aloud, where that cannot be had.
fn ready() -> Option<(PathBuf, Namespace)> {
    let chromium = program("chromium", "chromium")?;
    can_make_namespaces().then(|| (chromium, Namespace::new("browser")))
}

/// Has the browser relay over each of the transports, and asserts that all arrives.
fn relays(chromium: &Path, namespace: &Namespace, transports: &Value, arguments: &[&str]) {
    let page = include_str!("browser/page.html").replace("ICE_SERVERS", &transports.to_string());
    let (url, results) = serve_page(namespace, page);
    let profile = tempfile::tempdir().expect("a temporary folder");
    let _browser = open(namespace, chromium, profile.path(), &url, arguments);
    let result = results.recv_timeout(BROWSER_PATIENCE);
    let result: Value = serde_json::from_str(&result.expect("the page's result")).expect("JSON");
    for transport in transports.as_object().expect("by name").keys() {
        let peer = json!({ "local": "relay", "remote": "relay", "by": transport });
        let expected =
            json!({ "bytes": 5 << 20, "intact": true, "seconds": 5, "peers": [peer, peer] });
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

fn open(
    namespace: &Namespace,
    chromium: &Path,
    profile: &Path,
    url: &str,
    arguments: &[&str],
) -> Group {
    let mut command = in_namespace(Some(&namespace.name), chromium.to_str().expect("text"));
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--no-first-run", "--disable-quic", "--disable-sync", "--disable-extensions"]);
    command.args(["--disable-background-networking", "--disable-component-update"]);
    // The namespace has no interface but loopback.
    command.args(["--allow-loopback-in-peer-connection"]);
    // A camera that shows a test picture, and nobody who has to allow it.
    command.args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(arguments).arg(url);
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
