//! Handshakes with OpenSSL's client, in memory: certificates, names, protocols, limits.

use crate::common::{Client, ECDSA, RSA, Server, certificate, context, converse, settings, trust};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{SslRef, SslVersion};
use openssl::x509::X509;
use turnway_dtls::{Clients, Context, Identity, IdentityError, Received, Settings, SettingsError};

fn server(settings: &Settings) -> Server {
    Server::new(&Context::new(settings).unwrap())
}

/// What a client sees of the server's certificate.
fn common_name(ssl: &SslRef) -> String {
    let leaf = ssl.peer_certificate().unwrap();
    let name = leaf.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    name.unwrap().data().to_string().unwrap()
}

#[test]
fn a_chain_with_an_intermediate_is_shown_whole_for_rsa_and_for_ecdsa() {
    for algorithm in [RSA, ECDSA] {
        let made = certificate(algorithm, &["turn.example.org"]);
        let mut server = server(&settings(vec![made.identity()]));
        let mut client = Client::trusting(&made.root, "turn.example.org");
        converse(&mut client, &mut server);
        assert!(client.is_established(), "{algorithm:?}");
        assert_eq!(server.events, [Received::Established]);
        assert_eq!(server.session().server_name(), Some("turn.example.org"));
        let version = client.stream.ssl().version2();
        assert_eq!(version, Some(SslVersion::DTLS1_2));
        let (request, reply) = (client.send(b"over"), server.send(b"and out"));
        server.take(&request);
        client.take(&[reply]);
        assert_eq!(server.received, [b"over"]);
        assert_eq!(client.received, [b"and out"]);
    }
}

#[test]
fn the_algorithms_of_the_client_choose_between_rsa_and_ecdsa_each_with_its_own_chain() {
    let rsa = certificate(RSA, &["turn.example.org"]);
    let ecdsa = certificate(ECDSA, &["turn.example.org"]);
    let both = settings(vec![rsa.identity(), ecdsa.identity()]);
    for (root, algorithms, cipher) in [
        (&rsa.root, "RSA-PSS+SHA256:RSA+SHA256", "ECDHE-RSA"),
        (&ecdsa.root, "ECDSA+SHA256", "ECDHE-ECDSA"),
    ] {
        let mut server = server(&both);
        let mut client = Client::with(
            |builder| {
                trust(builder, root);
                builder.set_sigalgs_list(algorithms).unwrap();
            },
            |_| (),
        );
        converse(&mut client, &mut server);
        assert!(client.is_established());
        let chosen = server.session().cipher().unwrap();
        assert!(chosen.starts_with(cipher), "{chosen}");
        let shown = client.stream.ssl().peer_cert_chain().unwrap();
        assert_eq!(shown.len(), 2, "the leaf and its own intermediate only");
    }
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let names: [&[&str]; 3] =
        [&["turn.example.org"], &["turn.example.net", "stun.example.net"], &["*.example.com"]];
    let identities = names.map(|names| certificate(ECDSA, names).identity());
    let settings = settings(identities.to_vec());
    for (asked, shown) in [
        (Some("turn.example.org"), "turn.example.org"),
        (Some("STUN.example.net"), "turn.example.net"),
        (Some("any.example.com"), "*.example.com"),
        (Some("too.deep.example.com"), "turn.example.org"),
        (Some("elsewhere.test"), "turn.example.org"),
        (None, "turn.example.org"),
    ] {
        let mut server = server(&settings);
        let mut client = Client::with(
            |_| (),
            |ssl| {
                if let Some(name) = asked {
                    ssl.set_hostname(name).unwrap();
                }
            },
        );
        converse(&mut client, &mut server);
        assert_eq!(common_name(client.stream.ssl()), shown, "{asked:?}");
        assert_eq!(server.session().server_name(), asked);
    }
}

#[test]
fn alpn_is_agreed_upon_and_no_overlap_breaks_nothing() {
    let identity = certificate(ECDSA, &["turn.example.org"]).identity();
    let settings = settings(vec![identity]);
    let cases: [(&[u8], Option<&[u8]>); 4] = [
        (b"\x08http/1.1\x09stun.turn", Some(b"stun.turn")),
        (b"\x12stun.nat-discovery\x09stun.turn", Some(b"stun.turn")),
        (b"\x08http/1.1", None),
        (b"", None),
    ];
    for (offered, chosen) in cases {
        let mut server = server(&settings);
        let mut client = Client::with(
            |_| (),
            |ssl| {
                if !offered.is_empty() {
                    ssl.set_alpn_protos(offered).unwrap();
                }
            },
        );
        converse(&mut client, &mut server);
        assert!(client.is_established());
        assert_eq!(server.session().alpn(), chosen);
        assert_eq!(client.stream.ssl().selected_alpn_protocol(), chosen);
    }
}

#[test]
fn a_client_certificate_is_demanded_when_there_is_an_authority() {
    let server_side = certificate(ECDSA, &["turn.example.org"]);
    let client_side = certificate(ECDSA, &["client.example.org"]);
    let mut settings = settings(vec![server_side.identity()]);
    let stranger = certificate(ECDSA, &["client.example.org"]);
    for (optional, shows, let_in) in [
        (false, Some(&client_side), true),
        (false, Some(&stranger), false),
        (false, None, false),
        (true, Some(&client_side), true),
        (true, Some(&stranger), false),
        (true, None, true),
    ] {
        let authorities = client_side.root.clone().into_bytes();
        settings.clients = Some(Clients { authorities, optional });
        let mut server = server(&settings);
        let mut client = Client::with(
            |builder| {
                if let Some(made) = shows {
                    let chain = X509::stack_from_pem(made.chain.as_bytes()).unwrap();
                    let key = PKey::private_key_from_pem(made.key.as_bytes()).unwrap();
                    builder.set_certificate(&chain[0]).unwrap();
                    builder.add_extra_chain_cert(chain[1].clone()).unwrap();
                    builder.set_private_key(&key).unwrap();
                }
            },
            |_| (),
        );
        converse(&mut client, &mut server);
        assert_eq!(server.session().is_established(), let_in);
        assert_eq!(server.failed(), !let_in);
        assert_eq!(client.failed, !let_in, "the client is told by an alert");
    }
}

#[test]
fn no_datagram_of_a_handshake_exceeds_the_mtu() {
    let made = certificate(RSA, &["turn.example.org"]);
    let mut settings = settings(vec![made.identity()]);
    settings.mtu = 500;
    let mut server = server(&settings);
    let mut client = Client::trusting(&made.root, "turn.example.org");
    let mut to_server = client.take(&[]);
    let mut sent = 0;
    while !to_server.is_empty() {
        let mut to_client = Vec::new();
        for datagram in to_server.drain(..) {
            to_client.extend(server.take(&datagram));
        }
        assert!(to_client.iter().all(|datagram| datagram.len() <= 500));
        sent += to_client.len();
        to_server = client.take(&to_client);
    }
    assert!(client.is_established());
    assert!(sent > 5, "two RSA certificates do not fit into {sent} of 500");
}

//= rfc8489#section-6.2.3
//= type=test
//# When STUN is run by itself over TLS-over-TCP or DTLS-over-UDP, the
//# TLS_DHE_RSA_WITH_AES_128_GCM_SHA256 and
//# TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 ciphersuites MUST be
//# implemented (for compatibility with older versions of this protocol),
//# except if deprecated by rules of a specific STUN usage.
#[test]
fn a_client_chooses_the_cipher_among_what_is_safe() {
    let rsa = certificate(RSA, &["turn.example.org"]).identity();
    for (offered, chosen) in [
        ("ECDHE-RSA-AES128-GCM-SHA256", Some("ECDHE-RSA-AES128-GCM-SHA256")),
        ("DHE-RSA-AES128-GCM-SHA256", Some("DHE-RSA-AES128-GCM-SHA256")),
        (
            "DHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
            Some("ECDHE-RSA-AES256-GCM-SHA384"),
        ),
        ("ECDHE-RSA-CHACHA20-POLY1305", Some("ECDHE-RSA-CHACHA20-POLY1305")),
        ("ECDHE-RSA-AES128-SHA256", None),
        ("AES128-GCM-SHA256", None),
    ] {
        let mut server = server(&settings(vec![rsa.clone()]));
        let mut client = Client::with(|builder| builder.set_cipher_list(offered).unwrap(), |_| ());
        converse(&mut client, &mut server);
        match chosen {
            Some(chosen) => assert_eq!(server.session().cipher(), Some(chosen)),
            None => assert!(server.failed() && client.failed, "{offered}"),
        }
    }
}

#[test]
fn dtls_1_0_is_refused() {
    let mut server = Server::new(&context());
    let mut client = Client::with(
        |builder| {
            builder.set_security_level(0);
            let version = Some(SslVersion::DTLS1);
            builder.set_min_proto_version(version).unwrap();
            builder.set_max_proto_version(version).unwrap();
        },
        |_| (),
    );
    converse(&mut client, &mut server);
    assert!(server.failed() && client.failed);
}

#[test]
fn a_reload_is_seen_by_new_sessions_and_disturbs_no_old_one() {
    let old = certificate(ECDSA, &["old.example.org"]).identity();
    let new = certificate(ECDSA, &["new.example.org"]).identity();
    let mut first = server(&settings(vec![old]));
    let mut client = Client::new();
    converse(&mut client, &mut first);

    let reloaded = Context::new(&settings(vec![new])).unwrap();
    first.listener.set_context(&reloaded);
    let session = first.session.take();
    let mut later = Client::new();
    converse(&mut later, &mut first);
    assert_eq!(common_name(later.stream.ssl()), "new.example.org");

    first.session = session;
    assert_eq!(common_name(client.stream.ssl()), "old.example.org");
    let request = client.send(b"still here");
    first.take(&request);
    assert_eq!(first.received, [b"still here"]);
}

#[test]
fn what_makes_no_identity_is_named() {
    let (made, other) = (certificate(ECDSA, &["a"]), certificate(ECDSA, &["a"]));
    let wrong =
        |chain: &str, key: &str| Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(wrong(&made.chain, &other.key), IdentityError::KeyOfAnother);
    assert_eq!(wrong(&made.chain, "garbage"), IdentityError::Key);
    assert_eq!(wrong("", &made.key), IdentityError::NoCertificate);
    let cut = &made.chain[..made.chain.len() - 100];
    assert_eq!(wrong(cut, &made.key), IdentityError::Chain);
    let key = PKey::private_key_from_pem(made.key.as_bytes()).unwrap();
    let cipher = openssl::symm::Cipher::aes_128_cbc();
    let locked = key.private_key_to_pem_pkcs8_passphrase(cipher, b"secret");
    let locked = String::from_utf8(locked.unwrap()).unwrap();
    assert_eq!(wrong(&made.chain, &locked), IdentityError::KeyEncrypted);
    let shown = format!("{:?}", made.identity());
    assert_eq!(shown, r#"Identity { names: ["a"], certificates: 2, .. }"#);
}

#[test]
fn what_makes_no_context_is_named() {
    let identity = || certificate(ECDSA, &["a"]).identity();
    let wrong = |change: fn(&mut Settings)| {
        let mut settings = settings(vec![identity()]);
        change(&mut settings);
        Context::new(&settings).unwrap_err()
    };
    assert_eq!(wrong(|settings| settings.identities.clear()), SettingsError::NoIdentity);
    assert_eq!(wrong(|settings| settings.mtu = 255), SettingsError::Mtu);
    assert_eq!(wrong(|settings| settings.alpn.push(Vec::new())), SettingsError::Alpn);
    assert_eq!(
        wrong(|settings| {
            settings.clients = Some(Clients { authorities: b"nobody".to_vec(), optional: false });
        }),
        SettingsError::ClientCa
    );
    let twice = settings(vec![identity(), identity()]);
    assert_eq!(Context::new(&twice).unwrap_err(), SettingsError::Ambiguous(vec!["a".to_owned()]));
}
