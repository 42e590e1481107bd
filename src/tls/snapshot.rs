//! All that new connections need, made of one reading of all files.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
    danger::ClientCertVerifier,
};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use zeroize::Zeroizing;

use super::certificates::{self, Certificate, Chooser};
use super::session::Alpn;
use super::store::Fingerprint;
use crate::config::{ClientCertificates, Places, Tls, TlsVersion, Warnings};

/// Sessions of TLS 1.2 clients that know no tickets, remembered at a time: some 400 bytes each.
const REMEMBERED_SESSIONS: usize = 4096;

/// Certificates, keys and settings in force for new connections.
pub struct Snapshot {
    /// In the order of the configuration; at least one.
    pub certificates: Arc<[Certificate]>,
    /// Who may have signed clients' certificates, as PEM, if they are asked for.
    pub client_ca: Option<Arc<Zeroizing<String>>>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// The oldest version of TLS that is spoken.
    pub min_version: TlsVersion,
    /// The files as they were before they were read: a change while they are read is seen later.
    pub(super) files: Fingerprint,
    /// What DTLS sessions begin with.
    pub dtls: turnway_dtls::Context,
    with_alpn: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
    resumption: Resumption,
}

/// What is wrong with a file, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    of: Part,
    /// It names the file.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Certificate(usize),
    ClientCa,
    Machine,
}

impl Problem {
    /// The text behind the place in the configuration that names the file.
    #[must_use]
    pub fn at(&self, places: &Places) -> String {
        let place = match self.of {
            Part::Certificate(index) => places.certificates.get(index),
            Part::ClientCa => places.client_ca.as_ref(),
            Part::Machine => None,
        };
        format!("{}: {}", place.map_or("[tls]", String::as_str), self.text)
    }
}

impl Snapshot {
    /// Reads and checks all files that `tls` names. Clients resume sessions that began with
    /// `before`. `now_s` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// All problems found.
    pub fn load(
        tls: &Tls,
        before: Option<&Self>,
        now_s: i64,
    ) -> Result<(Self, Warnings), Vec<Problem>> {
        let files = Fingerprint::of(tls);
        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        let mut loaded = Vec::new();
        for (index, files) in tls.certificates.iter().enumerate() {
            match Certificate::load(files, now_s) {
                Ok((certificate, doubts)) => {
                    loaded.push(certificate);
                    warnings.extend(doubts);
                }
                Err(text) => problems.push(Problem { of: Part::Certificate(index), text }),
            }
        }
        let authority = match &tls.client_ca {
            Some(path) if tls.client_certificates != ClientCertificates::Off => {
                Authority::load(path, tls.client_certificates)
                    .map(Some)
                    .map_err(|text| problems.push(Problem { of: Part::ClientCa, text }))
            }
            Some(_) | None => Ok(None),
        };
        let (Ok(authority), true) = (authority, problems.is_empty()) else { return Err(problems) };
        let made = Self::make(tls, loaded.into(), authority, before, files);
        made.map(|made| (made, warnings)).map_err(|text| vec![Problem { of: Part::Machine, text }])
    }

    /// What a new connection is made with; `alpn` where the client offers a protocol that we know,
    /// as rustls refuses clients which offer only others.
    pub(super) fn server_config(&self, alpn: bool) -> Arc<ServerConfig> {
        Arc::clone(if alpn { &self.with_alpn } else { &self.without_alpn })
    }

    fn make(
        tls: &Tls,
        certificates: Arc<[Certificate]>,
        authority: Option<Authority>,
        before: Option<&Self>,
        files: Fingerprint,
    ) -> Result<Self, String> {
        let (client_ca, verifier) = match authority {
            Some(Authority { pem, verifier }) => (Some(pem), Some(verifier)),
            None => (None, None),
        };
        // A resumed session is not asked for its certificate again.
        let same_clients = |before: &&Self| {
            before.client_certificates == tls.client_certificates && before.client_ca == client_ca
        };
        let resumption = match before.filter(same_clients) {
            Some(before) => before.resumption.clone(),
            None => Resumption::new()?,
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(tls.min_version))
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let chooser = Arc::new(Chooser(Arc::clone(&certificates)));
        let mut config = builder.with_cert_resolver(chooser);
        config.ticketer = Arc::clone(&resumption.ticketer);
        config.session_storage = Arc::clone(&resumption.sessions);
        let mut with_alpn = config.clone();
        with_alpn.alpn_protocols = Alpn::ALL.map(|it| it.name().as_bytes().to_vec()).to_vec();
        let dtls = dtls(&certificates, client_ca.as_ref(), tls.client_certificates)?;
        Ok(Self {
            files,
            certificates,
            dtls,
            client_ca,
            client_certificates: tls.client_certificates,
            min_version: tls.min_version,
            with_alpn: Arc::new(with_alpn),
            without_alpn: Arc::new(config),
            resumption,
        })
    }
}

/// The same for DTLS.
fn dtls(
    certificates: &[Certificate],
    client_ca: Option<&Arc<Zeroizing<String>>>,
    wanted: ClientCertificates,
) -> Result<turnway_dtls::Context, String> {
    let identity = |certificate: &Certificate| {
        let (chain, key) = (certificate.pem.chain.as_bytes(), certificate.pem.key.as_bytes());
        turnway_dtls::Identity::from_pem(chain, key)
            .map_err(|error| format!("{}: {error}", certificate.files.certificate.display()))
    };
    let optional = match wanted {
        ClientCertificates::Required | ClientCertificates::Off => false,
        ClientCertificates::Optional => true,
    };
    let clients = client_ca
        .map(|pem| turnway_dtls::Clients { authorities: pem.as_bytes().to_vec(), optional });
    let settings = turnway_dtls::Settings {
        identities: certificates.iter().map(identity).collect::<Result<_, _>>()?,
        alpn: Alpn::ALL.map(|it| it.name().as_bytes().to_vec()).to_vec(),
        clients,
        mtu: DTLS_MTU,
    };
    turnway_dtls::Context::new(&settings).map_err(|error| format!("DTLS cannot be set up: {error}"))
}

/// Bytes of UDP payload that arrive by every path: what IPv6 promises, without its headers.
const DTLS_MTU: usize = 1280 - 40 - 8;

/// How sessions are resumed: by tickets that only we can open, and for clients that know none by a
/// bounded memory. All shards share it, and it outlives certificates.
#[derive(Clone)]
struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    fn new() -> Result<Self, String> {
        let ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|error| format!("the system has no randomness: {error}"))?;
        Ok(Self { ticketer, sessions: ServerSessionMemoryCache::new(REMEMBERED_SESSIONS) })
    }
}

/// Who signs clients' certificates.
struct Authority {
    pem: Arc<Zeroizing<String>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    fn load(path: &std::path::Path, wanted: ClientCertificates) -> Result<Self, String> {
        let pem = Arc::new(certificates::read(path, "clients' authority")?);
        let shown = path.display();
        let mut roots = RootCertStore::empty();
        for certificate in certificates::read_chain(path, &pem)? {
            roots.add(certificate).map_err(|error| {
                format!("{shown}: a certificate cannot be used as an authority: {error}")
            })?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = match wanted {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional | ClientCertificates::Off => {
                builder.allow_unauthenticated()
            }
        };
        let verifier = builder
            .build()
            .map_err(|error| format!("{shown}: clients cannot be verified with it: {error}"))?;
        Ok(Self { pem, verifier })
    }
}

/// The cryptography that TLS is made of.
//= rfc8489#section-6.2.3
//= type=exception
//= reason=rustls has no TLS_DHE suites, which nobody needs who has the ECDHE suites beside them;
//= reason=over DTLS both are there.
//# When STUN is run by itself over TLS-over-TCP or DTLS-over-UDP, the
//# TLS_DHE_RSA_WITH_AES_128_GCM_SHA256 and
//# TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 ciphersuites MUST be
//# implemented (for compatibility with older versions of this protocol),
//# except if deprecated by rules of a specific STUN usage.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    static FROM_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];
    match min {
        TlsVersion::Tls12 => &FROM_1_2,
        TlsVersion::Tls13 => &FROM_1_3,
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("certificates", &self.certificates)
            .field("client_certificates", &self.client_certificates)
            .field("min_version", &self.min_version)
            .finish_non_exhaustive()
    }
}
