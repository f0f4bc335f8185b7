//! A certificate authority, and the files of what it has issued.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use tempfile::TempDir;

/// An authority with a folder, in which `ca.pem` is its certificate.
pub struct Authority {
    pub folder: TempDir,
    pub issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than that of the certificates, which would look self-signed.
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let authority =
            Self { folder: tempfile::tempdir().expect("a folder"), issuer: issuer.expect("an authority") };
        fs::write(authority.file("ca.pem"), authority.issuer.pem()).expect("a file");
        authority
    }

    /// The path of a file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate for these names.
    pub fn issue(&self, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    /// Writes a certificate and its key as `NAME.crt` and `NAME.key`.
    pub fn write(&self, name: &str, (leaf, key): &(Certificate, KeyPair)) {
        fs::write(self.file(&format!("{name}.crt")), leaf.pem()).expect("a file");
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}

/// A DNS name of a certificate.
pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}
