//! A certificate authority for tests, in a directory of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::Snapshot;
use crate::config::{CertificateFiles, ClientCertificates, Tls, TlsVersion};

/// 2026-06-01, within the life of what [`Authority::issue`] makes.
pub(super) const NOW_S: i64 = 1_780_272_000;

/// Which key a certificate has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ecdsa,
    Rsa,
}

/// An authority and the files of what it signed.
pub(super) struct Authority {
    pub(super) directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Test Authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        Self { directory: TempDir::new().unwrap(), issuer, certificate }
    }

    /// A certificate for `names`, valid from 2025 to 2999, in `<file>.pem` and `<file>.key`.
    pub(super) fn issue(&self, file: &str, names: &[&str], kind: Kind) -> CertificateFiles {
        self.issue_until(file, names, kind, 2999)
    }

    pub(super) fn issue_until(
        &self,
        file: &str,
        names: &[&str],
        kind: Kind,
        year: i32,
    ) -> CertificateFiles {
        let (chain, key) = self.sign(names, kind, year);
        let files = self.files(file);
        fs::write(&files.certificate, chain).unwrap();
        fs::write(&files.key, key).unwrap();
        files
    }

    /// The PEM texts of a certificate, with the authority's behind it, and of its key.
    pub(super) fn sign(&self, names: &[&str], kind: Kind, year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(year, 7, 1);
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            Kind::Rsa => KeyPair::from_pem_and_sign_algo(rsa_key(), &PKCS_RSA_SHA256).unwrap(),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem() + &self.certificate.pem(), key.serialize_pem())
    }

    /// Where the files of a certificate are.
    pub(super) fn files(&self, file: &str) -> CertificateFiles {
        let path = |end: &str| -> PathBuf { self.directory.path().join(file.to_owned() + end) };
        CertificateFiles { certificate: path(".pem"), key: path(".key") }
    }

    /// The authority's own certificate as a file.
    pub(super) fn file(&self) -> PathBuf {
        let path = self.directory.path().join("authority.pem");
        fs::write(&path, self.certificate.pem()).unwrap();
        path
    }

    /// What a client trusts.
    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        Arc::new(roots)
    }
}

/// Made once: it takes long.
fn rsa_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem())
}

/// Settings with these certificates and no other wishes.
pub(super) fn tls(certificates: Vec<CertificateFiles>) -> Tls {
    Tls {
        certificates,
        min_version: TlsVersion::Tls12,
        client_certificates: ClientCertificates::Off,
        client_ca: None,
        handshake_timeout: Duration::from_secs(10),
    }
}

/// A snapshot of these settings.
pub(super) fn snapshot(tls: &Tls) -> Snapshot {
    Snapshot::load(tls, None, NOW_S).unwrap().0
}

/// A pair of files as a client shows it.
pub(super) fn identity(
    files: &CertificateFiles,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
}
