//! Certificates and how TLS is spoken. The files themselves are read at the start (`crate::tls`).

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::Checks;
use crate::config::raw::{RawCertificate, RawTls};
use crate::config::units::Span;
use crate::config::{CertificateFiles, ClientCertificates, Listen, Tls};

/// The settings as written, without certificates.
pub(crate) fn unchecked_tls(raw: &RawTls) -> Tls {
    Tls {
        certificates: Vec::new(),
        min_version: *raw.min_version.get_ref(),
        client_certificates: *raw.client_certificates.get_ref(),
        client_ca: None,
        handshake_timeout: raw.handshake_timeout.get_ref().0,
    }
}

impl Checks<'_> {
    pub(super) fn tls(&mut self, raw: &RawTls, listeners: &[Spanned<Listen>]) -> Tls {
        let seconds = |count| Span(Duration::from_secs(count));
        self.between(&raw.handshake_timeout, seconds(1), seconds(300));
        let mut certificates: Vec<CertificateFiles> = Vec::new();
        for table in &raw.certificate {
            let Some(files) = self.certificate(table) else { continue };
            if certificates.iter().any(|other| other.certificate == files.certificate) {
                let file = files.certificate.display();
                self.error(table.span(), format!("{file} is there already; remove one"));
            }
            certificates.push(files);
        }
        if raw.certificate.is_empty() {
            for listener in listeners.iter().filter(|it| it.get_ref().transport.is_secured()) {
                let transport = listener.get_ref().transport;
                self.error(
                    listener.span(),
                    format!(
                        "a listener with transport = \"{transport}\" needs a certificate; add \
                         [[tls.certificate]] with certificate = \"fullchain.pem\" and key = \
                         \"privkey.pem\""
                    ),
                );
            }
        }
        let client_ca = raw.client_ca.as_ref().map(|path| self.beside_file(path.get_ref()));
        match (raw.client_certificates.get_ref(), &raw.client_ca) {
            (ClientCertificates::Optional | ClientCertificates::Required, None) => self.error(
                raw.client_certificates.span(),
                "nobody is named who may sign clients' certificates; add client_ca = \
                 \"clients.pem\"",
            ),
            (ClientCertificates::Off, Some(path)) => self.warn(
                path.span(),
                "clients are not asked for certificates; write client_certificates = \
                 \"required\" or \"optional\"",
            ),
            (ClientCertificates::Off, None)
            | (ClientCertificates::Optional | ClientCertificates::Required, Some(_)) => {}
        }
        Tls { certificates, client_ca, ..unchecked_tls(raw) }
    }

    fn certificate(&mut self, table: &Spanned<RawCertificate>) -> Option<CertificateFiles> {
        let RawCertificate { certificate, key } = table.get_ref();
        let beside = |checks: &Self, path: &Option<Spanned<PathBuf>>| {
            path.as_ref().map(|path| checks.beside_file(path.get_ref()))
        };
        let (Some(certificate), Some(key)) = (beside(self, certificate), beside(self, key)) else {
            self.error(
                table.span(),
                "a certificate needs both files; write certificate = \"fullchain.pem\" and key = \
                 \"privkey.pem\"",
            );
            return None;
        };
        Some(CertificateFiles { certificate, key })
    }
}
