//! Certificates, listeners that need them, and proxies.

use super::*;

const CERTIFICATE: &str =
    "[[tls.certificate]]\ncertificate = \"fullchain.pem\"\nkey = \"privkey.pem\"\n";

fn listen(transport: &str, port: u16, more: &str) -> String {
    format!("[[listen]]\ntransport = \"{transport}\"\naddress = \"0.0.0.0:{port}\"\n{more}\n")
}

fn tls(text: &str) -> String {
    format!("[tls]\n{text}\n{CERTIFICATE}")
}

#[test]
fn a_listener_that_needs_a_certificate_has_one() {
    for transport in ["tls", "dtls", "auto"] {
        let listener = listen(transport, 5349, "");
        let config = good(&(listener.clone() + CERTIFICATE));
        assert_eq!(config.listen[0].transport.to_string(), transport);
        assert_eq!(config.tls.certificates[0].certificate, Path::new("fullchain.pem"));
        refused(
            &listener,
            &["t.toml:3: listen", transport, "needs a certificate", "add [[tls.certificate]]"],
        );
    }
    let names = ["ssl", "TLS", ""];
    for name in names {
        refused(&listen(name, 5349, ""), &["t.toml:2: listen.transport", "\"dtls\" or \"auto\""]);
    }
}

#[test]
fn the_files_are_beside_the_configuration() {
    let text = format!("{CERTIFICATE}{LISTEN}{AUTH}");
    let config = Config::parse(Path::new("/etc/turnway/turnway.toml"), &text).unwrap().0;
    let CertificateFiles { certificate, key } = &config.tls.certificates[0];
    assert_eq!(certificate, Path::new("/etc/turnway/fullchain.pem"));
    assert_eq!(key, Path::new("/etc/turnway/privkey.pem"));
    assert!(config.places.certificates[0].starts_with("/etc/turnway/turnway.toml:1"));
}

#[test]
fn a_certificate_is_two_files_and_there_once() {
    for half in ["certificate = \"a.pem\"", "key = \"a.pem\"", ""] {
        refused(
            &format!("[[tls.certificate]]\n{half}"),
            &["t.toml:1: tls.certificate", "needs both files"],
        );
    }
    let twice = CERTIFICATE.to_owned() + CERTIFICATE;
    refused(&twice, &["t.toml:4: tls.certificate", "fullchain.pem is there already"]);
}

#[test]
fn versions_that_are_broken_are_not_spoken() {
    for (version, part) in [("1.0", "is broken"), ("1.1", "is broken"), ("1.4", "not a version")] {
        refused(
            &tls(&format!("min_version = \"{version}\"")),
            &["t.toml:2: tls.min_version", part, "\"1.2\" or \"1.3\""],
        );
    }
    refused(&tls("handshake_timeout = \"0s\""), &["tls.handshake_timeout", "the least is 1s"]);
    refused(&tls("handshake_timeout = \"1h\""), &["tls.handshake_timeout", "the most is 5m"]);
}

#[test]
fn clients_certificates_need_an_authority_and_the_other_way_round() {
    for wanted in ["optional", "required"] {
        let line = format!("client_certificates = \"{wanted}\"");
        refused(&tls(&line), &["t.toml:2: tls.client_certificates", "add client_ca"]);
        good(&tls(&(line + "\nclient_ca = \"clients.pem\"")));
    }
    warned(&tls("client_ca = \"clients.pem\""), &["t.toml:2: tls.client_ca", "are not asked"]);
    refused(&tls("client_certificates = \"yes\""), &["tls.client_certificates", "\"required\""]);
}

#[test]
fn an_auto_listener_takes_both_ports_of_its_address() {
    for transport in ["udp", "tcp", "tls", "dtls", "auto"] {
        let auto = listen("auto", 443, "") + CERTIFICATE;
        refused(&(listen(transport, 443, "") + &auto), &["already covered by", transport]);
    }
    good(&(listen("tls", 443, "") + &listen("dtls", 443, "") + CERTIFICATE));
    refused(
        &(listen("tcp", 443, "") + &listen("tls", 443, "") + CERTIFICATE),
        &["tls 0.0.0.0:443 is already covered by tcp 0.0.0.0:443"],
    );
    refused(
        &(listen("auto", 443, "") + CERTIFICATE + "[metrics]\nlisten = \"127.0.0.1:443\""),
        &["metrics.listen", "already covered"],
    );
}

#[test]
fn proxies_are_ranges_and_speak_tcp() {
    let proxies = "proxy_protocol = [\"10.0.0.0/8\", \"::1\"]";
    for transport in ["tcp", "tls", "auto"] {
        let config = good(&(listen(transport, 443, proxies) + CERTIFICATE));
        let expected: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert_eq!(config.listen[0].proxies, expected);
        assert!(config.effective().contains("proxy_protocol = [\"10.0.0.0/8\", \"::1/128\"]"));
    }
    for transport in ["udp", "dtls"] {
        refused(
            &(listen(transport, 443, proxies) + CERTIFICATE),
            &["t.toml:4: listen.proxy_protocol", "for TCP", transport],
        );
    }
    refused(&listen("tcp", 443, "proxy_protocol = [\"nginx\"]"), &["not an address range"]);
    warned(&listen("tcp", 443, "proxy_protocol = [\"0.0.0.0/0\"]"), &["every client"]);
}
