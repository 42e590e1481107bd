//! Certificates as operators have them: a leaf, the intermediate that signed it, and a root above
//! both that clients trust.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, PublicKeyData as _, SignatureAlgorithm, date_time_ymd,
};

/// The name in every certificate, beside the relay's address.
pub const NAME: &str = "turn.example.org";

/// A leaf with its chain, its key, and the root that clients trust, as PEM.
pub struct Made {
    /// The leaf, and the intermediate behind it.
    pub chain: String,
    /// The leaf's key.
    pub key: String,
    /// What clients trust.
    pub root: String,
    public: Vec<u8>,
}

impl Made {
    /// With an ECDSA key.
    pub fn ecdsa(names: &[&str]) -> Self {
        Self::new(&PKCS_ECDSA_P256_SHA256, names)
    }

    /// With an RSA key.
    pub fn rsa(names: &[&str]) -> Self {
        Self::new(&PKCS_RSA_SHA256, names)
    }

    fn new(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let key = || KeyPair::generate_for(algorithm).expect("a key");
        let (root_key, middle_key, leaf_key) = (key(), key(), key());
        let (root, middle) = (authority("Turnway test root"), authority("Turnway test middle"));
        let root_pem = root.self_signed(&root_key).expect("a certificate").pem();
        let root = Issuer::new(root, root_key);
        let middle_pem = middle.signed_by(&middle_key, &root).expect("a certificate").pem();
        let middle = Issuer::new(middle, middle_key);
        let owned = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(owned).expect("names");
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.not_after = date_time_ymd(2090, 1, 1);
        let leaf = params.signed_by(&leaf_key, &middle).expect("a certificate");
        Self {
            chain: leaf.pem() + &middle_pem,
            key: leaf_key.serialize_pem(),
            root: root_pem,
            public: leaf_key.subject_public_key_info(),
        }
    }

    /// The SHA-256 of the leaf's SubjectPublicKeyInfo, in base64.
    pub fn key_hash(&self) -> String {
        openssl::base64::encode_block(&openssl::sha::sha256(&self.public))
    }

    /// Writes `<name>.pem` and `<name>.key`, and returns the `[[tls.certificate]]` that names them.
    pub fn write(&self, folder: &Path, name: &str) -> String {
        let [chain, key] = ["pem", "key"].map(|end| folder.join(format!("{name}.{end}")));
        fs::write(&chain, &self.chain).expect("a folder of ours");
        fs::write(&key, &self.key).expect("a folder of ours");
        let [chain, key] = [chain, key].map(|path| path.display().to_string());
        format!("[[tls.certificate]]\ncertificate = \"{chain}\"\nkey = \"{key}\"\n")
    }
}
