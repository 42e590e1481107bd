//! What all sessions of a server have in common: certificates, protocol, limits.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::pkey::Id;
use openssl::ssl::{
    AlpnError, NameType, SniError, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions,
    SslRef, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

use crate::identity::covers;
use crate::{Identity, ffi};

/// The smallest [`Settings::mtu`]: OpenSSL fragments to no less.
pub const MTU_MIN: usize = 256;

/// The largest [`Settings::mtu`]: what fits into a UDP datagram over IPv4.
const MTU_MAX: usize = 65_507;

/// What a client's certificates may take in all, in bytes. OpenSSL sets aside as much for each of
/// the ten handshake messages that may arrive out of order.
const CLIENT_CERTIFICATES_MAX: u16 = 16 * 1024;

/// Authenticated encryption with forward secrecy only, in the order of our preference. What comes
/// last nobody needs who has any of the others; RFC 8489 wants it to be there.
//= rfc8489#section-6.2.3
//# When STUN is run by itself over TLS-over-TCP or DTLS-over-UDP, the
//# TLS_DHE_RSA_WITH_AES_128_GCM_SHA256 and
//# TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 ciphersuites MUST be
//# implemented (for compatibility with older versions of this protocol),
//# except if deprecated by rules of a specific STUN usage.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:\
    DHE-RSA-AES128-GCM-SHA256";

const GROUPS: &str = "X25519:P-256:P-384";

/// What a [`Context`] is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Certificates with their keys, at least one. Those whose leaves certify the same names stand
    /// for each other: at most one with an RSA and one with an ECDSA key, and the client's
    /// algorithms decide. The client's server name decides between different names: an exact name
    /// or a wildcard, the first that covers it; the first of all when none does.
    pub identities: Vec<Identity>,
    /// ALPN protocols that we speak, the preferred first; each of 1 to 255 bytes. A client that
    /// offers others, or none, is served all the same.
    pub alpn: Vec<Vec<u8>>,
    /// Who must have issued the certificate that a client shows. `None`: a client needs none, and
    /// is not asked for one.
    pub clients: Option<Clients>,
    /// The most bytes of UDP payload in a datagram of the handshake, from [`MTU_MIN`] up: long
    /// chains go out in fragments. A datagram of [`Session::send`](crate::Session::send) is never
    /// fragmented and has the length that its contents need.
    pub mtu: usize,
}

/// What is asked of clients.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Certificates of authorities, in PEM, at least one.
    pub authorities: Vec<u8>,
    /// Whether a client may do without a certificate. One that it shows must be good all the same.
    pub optional: bool,
}

/// The certificates and rules that sessions begin with. Cloning is cheap and shares it.
///
/// It cannot be changed: to reload, make another and give it to the listeners with
/// [`Listener::set_context`](crate::Listener::set_context).
#[derive(Clone)]
pub struct Context {
    pub(crate) ssl: SslContext,
    pub(crate) mtu: u32,
}

impl Context {
    /// Makes the context that `settings` describe.
    ///
    /// # Errors
    ///
    /// Each [`SettingsError`] names the setting that is wrong.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let mtu = Some(settings.mtu)
            .filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu))
            .and_then(|mtu| u32::try_from(mtu).ok())
            .ok_or(SettingsError::Mtu)?;
        if settings.alpn.iter().any(|name| !(1..=255).contains(&name.len())) {
            return Err(SettingsError::Alpn);
        }
        let mut hosts = Vec::new();
        for group in groups(&settings.identities)? {
            let names = group[0].names().to_vec();
            hosts.push((names, host_builder(settings, &group)?));
        }
        if hosts.is_empty() {
            return Err(SettingsError::NoIdentity);
        }
        let (first_names, mut first) = hosts.remove(0);
        let others: Vec<_> =
            hosts.into_iter().map(|(names, builder)| (names, builder.build())).collect();
        first.set_servername_callback(move |ssl, _| choose_host(ssl, &first_names, &others));
        Ok(Self { ssl: first.build(), mtu })
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("mtu", &self.mtu).finish_non_exhaustive()
    }
}

/// Why [`Settings`] make no [`Context`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// There is no identity.
    NoIdentity,
    /// Two identities have the same names and the same kind of key; these are the names.
    Ambiguous(Vec<String>),
    /// An ALPN protocol is empty or longer than 255 bytes.
    Alpn,
    /// The client CA is not PEM, or there is no certificate in it.
    ClientCa,
    /// The MTU is below [`MTU_MIN`] or more than UDP carries.
    Mtu,
    /// OpenSSL refuses an identity, for the reason it gives: a key that is too short, for example.
    OpenSsl(String),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIdentity => f.write_str("there is no certificate"),
            Self::Ambiguous(names) => {
                write!(f, "two certificates for [{}] have keys of the same kind", names.join(", "))
            }
            Self::Alpn => f.write_str("an ALPN protocol has 1 to 255 bytes"),
            Self::ClientCa => f.write_str("the client CA is not a certificate in PEM"),
            Self::Mtu => write!(f, "the MTU is not from {MTU_MIN} to {MTU_MAX}"),
            Self::OpenSsl(reason) => write!(f, "OpenSSL refuses the certificate: {reason}"),
        }
    }
}

impl std::error::Error for SettingsError {}

impl From<ErrorStack> for SettingsError {
    fn from(errors: ErrorStack) -> Self {
        let reason = errors.errors().iter().find_map(|error| error.reason());
        Self::OpenSsl(reason.unwrap_or("no reason given").to_owned())
    }
}

/// Puts together the identities that have the same names, in the order of their first.
fn groups(identities: &[Identity]) -> Result<Vec<Vec<&Identity>>, SettingsError> {
    let mut groups: Vec<Vec<&Identity>> = Vec::new();
    for identity in identities {
        let group = groups.iter_mut().find(|group| group[0].names() == identity.names());
        match group {
            None => groups.push(vec![identity]),
            Some(group) if group.iter().any(|other| kind(other) == kind(identity)) => {
                return Err(SettingsError::Ambiguous(identity.names().to_vec()));
            }
            Some(group) => group.push(identity),
        }
    }
    Ok(groups)
}

fn kind(identity: &Identity) -> Id {
    identity.key.id()
}

/// OpenSSL's context for one set of names.
fn host_builder(
    settings: &Settings,
    identities: &[&Identity],
) -> Result<SslContextBuilder, SettingsError> {
    let mut builder = SslContext::builder(SslMethod::dtls_server())?;
    set_protocol(&mut builder)?;
    for identity in identities {
        let (leaf, issuers) = identity
            .chain
            .split_first()
            .expect("an identity has a leaf, which was compared with its key");
        builder.set_certificate(leaf)?;
        builder.set_private_key(&identity.key)?;
        for issuer in issuers {
            ffi::add_chain_certificate(&mut builder, issuer)?;
        }
    }
    if !settings.alpn.is_empty() {
        let ours = settings.alpn.clone();
        builder.set_alpn_select_callback(move |_, theirs| choose_protocol(&ours, theirs));
    }
    if let Some(clients) = &settings.clients {
        demand_certificate(&mut builder, clients)?;
    }
    Ok(builder)
}

fn set_protocol(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
    builder.set_cipher_list(CIPHERS)?;
    builder.set_groups_list(GROUPS)?;
    ffi::choose_dh_parameters(builder);
    //= rfc8489#section-6.2.3
    //# Implementations
    //# MUST disable TLS-level compression.
    builder.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_TICKET
            | SslOptions::CIPHER_SERVER_PREFERENCE
            | SslOptions::PRIORITIZE_CHACHA
            // The MTU is what we say: OpenSSL knows no socket that it could ask.
            | SslOptions::NO_QUERY_MTU,
    );
    // Sessions are not resumed, so there is nothing to keep of them.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::NO_AUTO_CHAIN);
    ffi::limit_client_certificates(builder, CLIENT_CERTIFICATES_MAX);
    // OpenSSL sees a ClientHello only after `Listener` has verified its cookie.
    builder.set_cookie_verify_cb(|_, _| true);
    Ok(())
}

fn demand_certificate(
    builder: &mut SslContextBuilder,
    clients: &Clients,
) -> Result<(), SettingsError> {
    let authorities =
        X509::stack_from_pem(&clients.authorities).map_err(|_| SettingsError::ClientCa)?;
    if authorities.is_empty() {
        return Err(SettingsError::ClientCa);
    }
    let mut store = X509StoreBuilder::new()?;
    for authority in authorities {
        builder.add_client_ca(&authority)?;
        store.add_cert(authority)?;
    }
    builder.set_verify_cert_store(store.build())?;
    let mut mode = SslVerifyMode::PEER;
    if !clients.optional {
        mode |= SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    }
    builder.set_verify(mode);
    Ok(())
}

/// Goes over to the certificates of the name that the client asks for.
fn choose_host(
    ssl: &mut SslRef,
    first_names: &[String],
    others: &[(Vec<String>, SslContext)],
) -> Result<(), SniError> {
    let Some(host) = ssl.servername(NameType::HOST_NAME) else {
        return Err(SniError::NOACK);
    };
    if covers(first_names, host) {
        return Ok(());
    }
    let Some((_, other)) = others.iter().find(|(names, _)| covers(names, host)) else {
        return Err(SniError::NOACK);
    };
    ssl.set_ssl_context(other).map_err(|_| SniError::ALERT_FATAL)
}

/// The first of our protocols that is in the client's list (names, each after its length).
fn choose_protocol<'a>(ours: &[Vec<u8>], theirs: &'a [u8]) -> Result<&'a [u8], AlpnError> {
    let offered = |wanted: &Vec<u8>| {
        let mut rest = theirs;
        while let Some((&len, after)) = rest.split_first() {
            let (name, after) = after.split_at_checked(usize::from(len))?;
            if name == wanted {
                return Some(name);
            }
            rest = after;
        }
        None
    };
    ours.iter().find_map(offered).ok_or(AlpnError::NOACK)
}
