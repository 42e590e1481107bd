//! Certificates: a chain and its key read from two PEM files, checked against each other, and
//! chosen by the name and the signatures that a client wants.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::snapshot::provider;
use crate::config::{CertificateFiles, Warnings, read_file};

/// A certificate that ends sooner is worth a warning, in seconds.
const SOON_S: i64 = 7 * 86_400;

/// A chain and its key.
pub struct Certificate {
    /// Where they were read from.
    pub files: CertificateFiles,
    /// DNS names in lower case, wildcards as they stand there, and IP addresses; the first one
    /// names the certificate to people. The subject's common name where there is nothing else.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after_s: i64,
    /// Both files as they were read, for other implementations of TLS.
    pub pem: Pem,
    key: Arc<CertifiedKey>,
}

/// PEM text of a chain and of its key.
#[derive(Clone)]
pub struct Pem {
    /// The certificate, and those that lead to the authority's.
    pub chain: Arc<Zeroizing<String>>,
    /// The private key.
    pub key: Arc<Zeroizing<String>>,
}

impl Certificate {
    /// Reads a pair of files and checks that they belong together. `now_s` is in seconds since
    /// 1970.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, why, and what to do.
    pub fn load(files: &CertificateFiles, now_s: i64) -> Result<(Self, Warnings), String> {
        let pem = Pem {
            chain: Arc::new(read(&files.certificate, "certificate")?),
            key: Arc::new(read(&files.key, "private key")?),
        };
        let chain = read_chain(&files.certificate, &pem.chain)?;
        let key = read_key(&files.key, &pem.key)?;
        let shown = files.certificate.display();
        let facts = Facts::of(&chain).map_err(|why| format!("{shown}: {why}"))?;
        let signer = provider().key_provider.load_private_key(key).map_err(|error| {
            let file = files.key.display();
            format!("{file}: this kind of key cannot be used: {error}; use RSA or ECDSA (P-256)")
        })?;
        let key = CertifiedKey::new(chain, signer);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let file = files.key.display();
                return Err(format!(
                    "{file}: this is not the key of the certificate in {shown}; name the files of \
                     one pair"
                ));
            }
            Err(error) => return Err(format!("{shown}: the certificate cannot be used: {error}")),
        }
        let mut warnings = facts.warnings(files, now_s);
        warnings.extend(everybody_reads(&files.key));
        let Facts { names, not_after_s, .. } = facts;
        let files = files.clone();
        Ok((Self { files, names, not_after_s, pem, key: Arc::new(key) }, warnings))
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("(no name)", String::as_str)
    }

    fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Whether it has a wildcard that stands for `name`: for one label, the first.
    fn covers(&self, name: &str) -> bool {
        let Some((_, parent)) = name.split_once('.') else { return false };
        self.names.iter().any(|own| own.strip_prefix("*.") == Some(parent))
    }

    fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }
}

/// All certificates in their order, as a client's choice of them is made.
#[derive(Debug)]
pub struct Chooser(pub Arc<[Certificate]>);

impl Chooser {
    /// The certificate for a client: of those for the name it asks for, or else with a wildcard
    /// for it, or else of the names of the first one, or else of all. Among these the first that
    /// is not RSA, whose signatures are slow, and that the client can check.
    #[must_use]
    pub fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Certificate> {
        let all = &self.0;
        let among = |fits: &dyn Fn(&Certificate) -> bool| {
            let usable =
                |it: &&Certificate| fits(it) && it.key.key.choose_scheme(schemes).is_some();
            let fast = all.iter().filter(usable).find(|it| !it.is_rsa());
            fast.or_else(|| all.iter().find(usable))
        };
        let first = all.first()?;
        name.and_then(|name| among(&|it| it.is_for(name)))
            .or_else(|| name.and_then(|name| among(&|it| it.covers(name))))
            .or_else(|| among(&|it| it.names == first.names))
            .or_else(|| among(&|_| true))
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.choose(hello.server_name(), hello.signature_schemes())?;
        Some(Arc::clone(&chosen.key))
    }
}

/// What the first certificate of a chain says, and what is odd about the chain.
struct Facts {
    names: Vec<String>,
    not_before_s: i64,
    not_after_s: i64,
    /// Each certificate after the first is that of the authority which signed the one before.
    in_order: bool,
}

impl Facts {
    fn of(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut certificates = Vec::with_capacity(chain.len());
        for (at, der) in chain.iter().enumerate() {
            let parsed = X509Certificate::from_der(der).map_err(|_| {
                format!("certificate {} of the file cannot be parsed; is it damaged?", at + 1)
            })?;
            certificates.push(parsed.1);
        }
        let in_order = certificates.windows(2).all(|pair| pair[0].issuer() == pair[1].subject());
        let leaf = certificates.first().ok_or("there is no certificate in the file")?;
        let mut names = Vec::new();
        if let Ok(Some(extension)) = leaf.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                    GeneralName::IPAddress(bytes) => names.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        if names.is_empty() {
            let common = leaf.subject().iter_common_name().next();
            names.extend(common.and_then(|it| it.as_str().ok()).map(str::to_ascii_lowercase));
        }
        let validity = leaf.validity();
        Ok(Self {
            names,
            not_before_s: validity.not_before.timestamp(),
            not_after_s: validity.not_after.timestamp(),
            in_order,
        })
    }

    fn warnings(&self, files: &CertificateFiles, now_s: i64) -> Warnings {
        let file = files.certificate.display();
        let name = self.names.first().map_or("(no name)", String::as_str);
        let mut warnings = Vec::new();
        if now_s > self.not_after_s {
            let since = date(self.not_after_s);
            warnings.push(format!(
                "{file}: the certificate for {name} expired on {since}, and clients refuse it; \
                 renew it"
            ));
        } else if self.not_after_s - now_s < SOON_S {
            let until = date(self.not_after_s);
            warnings
                .push(format!("{file}: the certificate for {name} expires on {until}; renew it"));
        }
        if now_s < self.not_before_s {
            let from = date(self.not_before_s);
            warnings.push(format!(
                "{file}: the certificate for {name} is not valid before {from}; is the clock right?"
            ));
        }
        if !self.in_order {
            warnings.push(format!(
                "{file}: the certificates are not in order, which some clients refuse; write the \
                 server's first, then that of the authority which signed it, and so on"
            ));
        }
        if self.names.is_empty() {
            warnings.push(format!("{file}: the certificate names no host, and clients refuse it"));
        }
        warnings
    }
}

/// The day of a moment, for people.
pub(super) fn date(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s)
        .map_or_else(|_| "a day out of range".to_owned(), |it| it.strftime("%Y-%m-%d").to_string())
}

fn ip_address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|it| std::net::IpAddr::from(it).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|it| std::net::IpAddr::from(it).to_string());
    v4.or_else(|_| v6()).ok()
}

/// Reads a PEM file; links are followed.
pub(super) fn read(path: &Path, what: &str) -> Result<Zeroizing<String>, String> {
    read_file(path).map_err(|error| {
        let shown = path.display();
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "; let the user Turnway runs as read it (and its directories, and what it links to)"
            }
            std::io::ErrorKind::InvalidData => "; save it as PEM, which is text",
            _ => "",
        };
        format!("{shown}: cannot read the {what}: {error}{advice}")
    })
}

/// The certificates in a PEM text, at least one.
pub(super) fn read_chain(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let chain: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match chain {
        Err(error) => Err(format!("{shown}: this is not PEM, or damaged: {error}")),
        Ok(chain) if chain.is_empty() => {
            Err(format!("{shown}: there is no certificate in the file (BEGIN CERTIFICATE)"))
        }
        Ok(chain) => Ok(chain),
    }
}

fn read_key(path: &Path, text: &str) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "{shown}: the key is encrypted; write it without a password: `openssl pkey -in {shown}`"
        ));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            format!("{shown}: there is no private key in the file (BEGIN PRIVATE KEY)")
        }
        error => format!("{shown}: this is not PEM, or damaged: {error}"),
    })
}

/// What to do about a key that is not only ours.
fn everybody_reads(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let shown = path.display();
    (mode & 0o004 != 0).then(|| {
        format!(
            "{shown}: a key that every user of this machine can read; run `chmod 640 {shown}` and \
             give the file to the group Turnway runs as"
        )
    })
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("files", &self.files)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

#[cfg(test)]
mod tests;
