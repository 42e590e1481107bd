//! Certificates as operators have them.

use std::fs::Permissions;

use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PSS_SHA256};

use super::*;
use crate::tls::authority::{Authority, Kind, NOW_S};

const BOTH: [SignatureScheme; 2] = [RSA_PSS_SHA256, ECDSA_NISTP256_SHA256];

fn private(files: &CertificateFiles) {
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
}

fn load(files: &CertificateFiles) -> Result<(Certificate, Warnings), String> {
    Certificate::load(files, NOW_S)
}

#[track_caller]
fn refused(files: &CertificateFiles, parts: &[&str]) {
    let error = load(files).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_good_pair_says_its_names_and_its_end() {
    let authority = Authority::new();
    for kind in [Kind::Ecdsa, Kind::Rsa] {
        let names = ["Turn.Example.org", "*.example.net", "192.0.2.1", "2001:db8::1"];
        let files = authority.issue_until("good", &names, kind, 2030);
        private(&files);
        let (certificate, warnings) = load(&files).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let lower = ["turn.example.org", "*.example.net", "192.0.2.1", "2001:db8::1"];
        assert_eq!(certificate.names, lower);
        assert_eq!(certificate.name(), "turn.example.org");
        assert_eq!(date(certificate.not_after_s), "2030-07-01");
        assert_eq!(certificate.is_rsa(), kind == Kind::Rsa);
        assert!(certificate.pem.chain.contains("BEGIN CERTIFICATE"));
        assert!(certificate.pem.key.contains("PRIVATE KEY"));
        assert!(!format!("{certificate:?} {:?}", certificate.pem).contains("PRIVATE KEY"));
    }
}

#[test]
fn links_are_followed() {
    let authority = Authority::new();
    let files = authority.issue("version1", &["a.example"], Kind::Ecdsa);
    let live = authority.files("live");
    std::os::unix::fs::symlink(&files.certificate, &live.certificate).unwrap();
    std::os::unix::fs::symlink("version1.key", &live.key).unwrap();
    assert_eq!(load(&live).unwrap().0.name(), "a.example");
}

#[test]
fn a_certificate_near_or_past_its_end_is_a_warning() {
    let authority = Authority::new();
    let files = authority.issue_until("short", &["a.example"], Kind::Ecdsa, 2027);
    private(&files);
    let end = load(&files).unwrap().0.not_after_s;
    let day = 86_400;
    for (now_s, said) in [
        (end - 8 * day, None),
        (end - 6 * day, Some("a.example expires on 2027-07-01")),
        (end + 1, Some("a.example expired on 2027-07-01")),
        (NOW_S - 3 * 365 * day, Some("not valid before 2025-01-01")),
    ] {
        let warnings = Certificate::load(&files, now_s).unwrap().1;
        match said {
            None => assert_eq!(warnings, Vec::<String>::new()),
            Some(said) => {
                assert_eq!(warnings.len(), 1, "{warnings:?}");
                assert!(warnings[0].contains(said), "{warnings:?}");
                assert!(warnings[0].contains("short.pem: "), "{warnings:?}");
            }
        }
    }
}

#[test]
fn a_key_that_everybody_can_read_is_a_warning() {
    let authority = Authority::new();
    let files = authority.issue("leaf", &["a.example"], Kind::Ecdsa);
    fs::set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();
    let warnings = load(&files).unwrap().1;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("leaf.key: ") && warnings[0].contains("chmod 640"));
}

#[test]
fn a_chain_out_of_order_is_a_warning() {
    let authority = Authority::new();
    let files = authority.issue("leaf", &["a.example"], Kind::Ecdsa);
    private(&files);
    let other = authority.issue("other", &["b.example"], Kind::Ecdsa);
    let wrong = [&files, &other].map(|it| fs::read_to_string(&it.certificate).unwrap()).concat();
    fs::write(&files.certificate, wrong).unwrap();
    let warnings = load(&files).unwrap().1;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("not in order"), "{warnings:?}");
}

#[test]
fn what_cannot_be_used_is_refused_with_file_and_reason() {
    let authority = Authority::new();
    let good = authority.issue("good", &["a.example"], Kind::Ecdsa);
    let other = authority.issue("other", &["b.example"], Kind::Ecdsa);
    let path = |name: &str| authority.directory.path().join(name);
    let file = |name: &str, text: &str| {
        fs::write(path(name), text).unwrap();
        path(name)
    };
    let chain = |certificate| CertificateFiles { certificate, key: good.key.clone() };
    let key = |key| CertificateFiles { certificate: good.certificate.clone(), key };

    refused(&key(other.key), &["other.key: this is not the key of the certificate in", "good.pem"]);
    refused(&chain(path("absent.pem")), &["absent.pem: cannot read the certificate", "No such"]);
    refused(&chain(path(".")), &["not a regular file"]);
    refused(&key(path("absent.key")), &["absent.key: cannot read the private key"]);
    refused(&chain(good.key.clone()), &["good.key: there is no certificate in the file"]);
    refused(&key(good.certificate.clone()), &["good.pem: there is no private key in the file"]);
    let empty = file("empty", "");
    refused(&chain(empty.clone()), &["empty: there is no certificate"]);
    refused(&key(empty), &["empty: there is no private key"]);

    let text = fs::read_to_string(&good.certificate).unwrap();
    refused(&chain(file("half", &text[..text.len() / 4])), &["half: this is not PEM, or damaged"]);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused(&chain(file("broken", broken)), &["broken: certificate 1", "cannot be parsed"]);
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    refused(&key(file("locked", locked)), &["locked: the key is encrypted", "openssl pkey -in"]);
    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    refused(&key(file("nonsense", nonsense)), &["nonsense: this kind of key cannot be used"]);
}

#[test]
fn the_name_asked_for_chooses_the_certificate() {
    let authority = Authority::new();
    let certificates = [
        ("first", &["first.example"][..]),
        ("wild", &["*.example.org"]),
        ("exact", &["turn.example.org"]),
        ("several", &["a.example", "b.example"]),
    ];
    let all = certificates
        .map(|(file, names)| load(&authority.issue(file, names, Kind::Ecdsa)).unwrap().0);
    let chooser = Chooser(Arc::new(all));
    for (asked, name) in [
        (Some("turn.example.org"), "turn.example.org"),
        (Some("other.example.org"), "*.example.org"),
        (Some("deep.other.example.org"), "first.example"),
        (Some("example.org"), "first.example"),
        (Some("b.example"), "a.example"),
        (Some("unknown.example"), "first.example"),
        (None, "first.example"),
    ] {
        assert_eq!(chooser.choose(asked, &BOTH).map(Certificate::name), Some(name), "{asked:?}");
    }
    assert!(chooser.choose(None, &[RSA_PSS_SHA256]).is_none(), "none has an RSA key");
}

#[test]
fn of_two_keys_for_a_name_the_faster_one_is_used_if_the_client_knows_it() {
    let authority = Authority::new();
    let all = [
        ("rsa", "a.example", Kind::Rsa),
        ("ecdsa", "a.example", Kind::Ecdsa),
        ("other", "b.example", Kind::Ecdsa),
    ]
    .map(|(file, name, kind)| load(&authority.issue(file, &[name], kind)).unwrap().0);
    let chooser = Chooser(Arc::new(all));
    for asked in [Some("a.example"), Some("unknown.example"), None] {
        let rsa = |schemes: &[SignatureScheme]| {
            let chosen = chooser.choose(asked, schemes).unwrap();
            assert_eq!(chosen.name(), "a.example");
            chosen.is_rsa()
        };
        assert!(!rsa(&BOTH));
        assert!(rsa(&[RSA_PSS_SHA256]));
        assert!(!rsa(&[ECDSA_NISTP256_SHA256]));
    }
}
