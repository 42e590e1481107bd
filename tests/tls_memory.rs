//! What an idle TLS connection takes: keys, and no buffers.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use turnway::config::{CertificateFiles, ClientCertificates, Tls, TlsVersion};
use turnway::tls::{Session, Snapshot};

const NAME: &str = "turn.example.org";
const SESSIONS: usize = 2000;
const LIMIT: u64 = 24 * 1024;

/// Resident memory of this process in bytes, of both Rust's and C's allocations.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// A snapshot with one certificate, and what trusts it.
fn server() -> (Arc<Snapshot>, RootCertStore) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key);
    let certificate = certificate.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| -> PathBuf {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let files = CertificateFiles {
        certificate: write("leaf.pem", certificate.pem()),
        key: write("leaf.key", key.serialize_pem()),
    };
    let tls = Tls {
        certificates: vec![files],
        min_version: TlsVersion::Tls12,
        client_certificates: ClientCertificates::Off,
        client_ca: None,
        handshake_timeout: Duration::from_secs(10),
    };
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    (Arc::new(Snapshot::load(&tls, None, 1_800_000_000).unwrap().0), roots)
}

/// A session whose handshake is over and through which a message has gone each way.
fn idle(snapshot: &Arc<Snapshot>, config: &Arc<ClientConfig>, buffer: &mut [u8]) -> Session {
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut session = Session::new(Arc::clone(snapshot));
    let mut out = Vec::new();
    std::io::Write::write_all(&mut client.writer(), &[7; 1200]).unwrap();
    let mut plain = 0;
    while client.wants_write() {
        let mut end = 0;
        while client.wants_write() {
            end += client.write_tls(&mut &mut buffer[end..]).unwrap();
        }
        let received = session.receive(&mut buffer[..end], 0, &mut out).unwrap();
        assert_eq!(received.consumed, end);
        plain += received.plain;
        let mut sent = &out[..];
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets().unwrap();
        }
        out.clear();
    }
    assert_eq!(plain, 1200);
    session.send(&[8; 1200], &mut out).unwrap();
    session
}

#[test]
fn an_idle_connection_takes_little() {
    let (snapshot, roots) = server();
    let mut buffer = vec![0; 64 * 1024];
    let mut sessions = Vec::new(); // all stay, so that none lives where another was
    for version in [&TLS12, &TLS13] {
        let config = config(version, roots.clone());
        // The first ones bring what all share into memory.
        sessions.extend((0..100).map(|_| idle(&snapshot, &config, &mut buffer)));
        let before = resident();
        sessions.extend((0..SESSIONS).map(|_| idle(&snapshot, &config, &mut buffer)));
        let each = resident().saturating_sub(before) / SESSIONS as u64;
        eprintln!("{:?}: {each} bytes for each idle session", version.version);
        assert!(each > 500, "the measurement sees nothing");
        assert!(each <= LIMIT, "{each} bytes for each idle session");
    }
}

fn config(version: &'static SupportedProtocolVersion, roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}
