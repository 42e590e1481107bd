//! Certificates: found wanting before the start, and read again while the daemon runs and clients of
//! OpenSSL are connected.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{Relay, Setup, own_address, program};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// A certificate for `name` that ends in `year`, and its key, as PEM.
fn pair(name: &str, year: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 1, 1);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A directory of certificates.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a pair and returns the table that names it.
    fn write(&self, file: &str, name: &str, year: i32) -> String {
        let (chain, key) = pair(name, year);
        fs::write(self.path(&format!("{file}.pem")), chain).unwrap();
        fs::write(self.path(&format!("{file}.key")), key).unwrap();
        self.table(file)
    }

    fn table(&self, file: &str) -> String {
        let path = |end| self.path(&format!("{file}.{end}")).display().to_string();
        let (chain, key) = (path("pem"), path("key"));
        format!("[[tls.certificate]]\ncertificate = \"{chain}\"\nkey = \"{key}\"\n")
    }
}

fn check(config: &Path) -> Output {
    let turnway = env!("CARGO_BIN_EXE_turnway");
    Command::new(turnway).arg("check").arg("-c").arg(config).output().unwrap()
}

fn in_force(name: &str) -> impl Fn(&str) -> bool {
    move |line| line.contains("certificate in force") && line.contains(name)
}

#[test]
fn without_the_certificate_it_was_told_to_use_nothing_starts() {
    let files = Files::new();
    let good = files.write("good", "turn.example.org", 2090);
    fs::copy(files.path("good.pem"), files.path("half.pem")).unwrap();
    let (_, other_key) = pair("turn.example.org", 2090);
    fs::write(files.path("half.key"), other_key).unwrap();
    for (table, said) in [
        (files.table("absent"), "absent.pem: cannot read the certificate"),
        (files.table("half"), "half.key: this is not the key of the certificate in"),
    ] {
        let extra = good.clone() + &table;
        let (code, error) = Relay::refused(&Setup { extra, ..Setup::default() });
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("turnway.toml:") && error.contains("tls.certificate: "), "{error}");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_check_reads_the_certificates() {
    let files = Files::new();
    let config = files.path("turnway.toml");
    let write = |table: &str| {
        let text = format!(
            "[[listen]]\ntransport = \"tls\"\naddress = \"127.0.0.1:5349\"\n\
             [auth]\nrest_secrets = [\"0123456789abcdef\"]\n{table}"
        );
        fs::write(&config, text).unwrap();
    };
    write(&files.table("leaf"));
    let missing = check(&config);
    assert_eq!(missing.status.code(), Some(2));
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(error.contains("turnway.toml:6: tls.certificate: "), "{error}");
    assert!(error.contains("leaf.pem: cannot read the certificate"), "{error}");

    write(&files.write("leaf", "turn.example.org", 2020));
    let expired = check(&config);
    assert!(expired.status.success());
    let warnings = String::from_utf8(expired.stderr).unwrap();
    assert!(warnings.contains("turn.example.org expired on 2020-01-01"), "{warnings}");
    assert!(warnings.contains("leaf.key: a key that every user of this machine can read"));
    let shown = String::from_utf8(expired.stdout).unwrap();
    assert!(shown.contains("transport = \"tls\"") && shown.contains("leaf.key"), "{shown}");
}

#[test]
fn changed_certificates_are_in_force_without_a_restart() {
    let files = Files::new();
    let extra = files.write("leaf", "one.example.org", 2090);
    let mut relay = Relay::start(Setup { extra, ..Setup::default() });
    relay.await_line("the first certificate", in_force("one.example.org"));
    let (_, metrics) = relay.get("/metrics");
    let expiry = "turnway_certificate_expiry_timestamp_seconds{name=\"one.example.org\",file=\"";
    assert!(metrics.contains(expiry) && metrics.contains("leaf.pem\"} 3786912000"), "{metrics}");

    // Half of the new certificate, then all of it, and its key at last.
    let (chain, key) = pair("two.example.org", 2091);
    fs::write(files.path("leaf.pem"), &chain[..chain.len() / 2]).unwrap();
    relay.next_line("half a file", |line| {
        line.contains("the old certificates stay in force") && line.contains("leaf.pem")
    });
    fs::write(files.path("leaf.pem"), chain).unwrap();
    relay.next_line("the other's key", |line| {
        line.contains("the old certificates stay in force") && line.contains("leaf.key")
    });
    assert!(relay.get("/metrics").1.contains(expiry), "the old one is still in force");
    fs::write(files.path("leaf.key"), key).unwrap();
    relay.next_line("the new certificate", in_force("two.example.org"));
    let (_, metrics) = relay.get("/metrics");
    assert!(!metrics.contains("one.example.org"), "{metrics}");
    assert!(metrics.contains("turnway_certificate_reloads_total{outcome=\"success\"} 1"));
    assert!(metrics.contains("turnway_certificate_reloads_total{outcome=\"failure\"} 2"));

    // One more, by the configuration.
    let three = files.write("three", "three.example.org", 2092);
    let config = relay.config_path();
    fs::write(&config, fs::read_to_string(&config).unwrap() + &three).unwrap();
    relay.signal("HUP");
    relay.next_line("the added certificate", in_force("three.example.org"));
    relay.await_line("the reload", |line| line.contains("reloaded"));
    assert!(relay.is_alive());
}

/// A client of OpenSSL that has connected.
struct Live(Child);

impl Live {
    fn connect(openssl: &Path, to: SocketAddr, version: &str) -> Self {
        let mut command = Command::new(openssl);
        command.args(["s_client", "-quiet", version, "-connect"]).arg(to.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().expect("openssl runs"))
    }

    /// Sends a Binding request and reads the answer.
    #[track_caller]
    fn ask(&mut self, number: u8) {
        let mut request = [0; 20];
        request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        request[19] = number;
        let stdin = self.0.stdin.as_mut().expect("piped");
        stdin.write_all(&request).and_then(|()| stdin.flush()).expect("openssl reads");
        let stdout = self.0.stdout.as_mut().expect("piped");
        let mut answer = [0; 20];
        stdout.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[..2], [1, 1], "a success of Binding");
        assert_eq!(answer[4..], request[4..], "to this request");
        let mut rest = vec![0; usize::from(u16::from_be_bytes([answer[2], answer[3]]))];
        stdout.read_exact(&mut rest).expect("the whole answer");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The subject of the certificate that a new client is shown.
fn shown(openssl: &Path, to: SocketAddr, version: &str) -> String {
    let mut command = Command::new(openssl);
    command.args(["s_client", version, "-connect"]).arg(to.to_string()).stdin(Stdio::null());
    let output = command.output().expect("openssl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
    subject.unwrap_or_else(|| panic!("no certificate over {version}: {text}")).to_owned()
}

#[test]
fn a_certificate_is_swapped_under_live_connections() {
    let Some(openssl) = program("openssl", "openssl") else { return };
    let files = Files::new();
    let ip = own_address().into();
    let secured = SocketAddr::new(ip, 5349);
    let table = files.write("leaf", "one.example.org", 2090);
    let extra = format!("{table}[[listen]]\ntransport = \"auto\"\naddress = \"{secured}\"\n");
    let listen = vec![SocketAddr::new(ip, 3478)];
    let mut relay = Relay::start(Setup { extra, listen, ..Setup::default() });
    relay.await_line("the first certificate", in_force("one.example.org"));

    const VERSIONS: [&str; 3] = ["-tls1_2", "-tls1_3", "-dtls1_2"];
    let mut live = VERSIONS.map(|version| Live::connect(&openssl, secured, version));
    live.iter_mut().for_each(|client| client.ask(1));
    for version in VERSIONS {
        let subject = shown(&openssl, secured, version);
        assert!(subject.contains("one.example.org"), "{version}: {subject}");
    }

    files.write("leaf", "two.example.org", 2090);
    relay.next_line("the new certificate", in_force("two.example.org"));
    for version in VERSIONS {
        let subject = shown(&openssl, secured, version);
        assert!(subject.contains("two.example.org"), "{version}: {subject}");
    }
    live.iter_mut().for_each(|client| client.ask(2));
}
