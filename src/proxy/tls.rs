//! `server.tls`: reads and checks certificate and key of the proxy listener.
//!
//! A fault in the files is a configuration fault: `elida check` reports it, and a reload with bad files keeps the current
//! certificate. An expired certificate is a warning only, since clients that do not verify it can still be served.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pingora_rustls::{
    CertificateDer, PrivateKeyDer, RootCertStore, RusTlsError, ServerConfig, WebPkiClientVerifier,
    install_default_crypto_provider, version,
};
use rustls_pki_types::pem::{self, PemObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::settings::fault::Faults;

const CERT: &str = "server.tls.cert";
const KEY: &str = "server.tls.key";
const CLIENT_CA: &str = "server.tls.client_ca";

/// A certificate that expires sooner causes a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 86_400);

/// `server.tls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ServerTls")]
pub struct ServerTlsConfig {
    /// Whether the proxy listener requires TLS.
    pub enabled: bool,
    /// PEM file of the certificate, followed by the intermediate certificates.
    pub cert: String,
    /// PEM file of its private key.
    pub key: String,
    /// The lowest TLS version accepted.
    pub min_version: TlsVersion,
    /// PEM file of certificate authorities. When set, every client must present a certificate issued by one of them.
    pub client_ca: String,
    /// Protocols offered by ALPN, in order of preference.
    pub alpn: Vec<Protocol>,
}

impl Default for ServerTlsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            cert: "/etc/elida/tls/tls.crt".into(),
            key: "/etc/elida/tls/tls.key".into(),
            min_version: TlsVersion::Tls12,
            client_ca: String::new(),
            alpn: vec![Protocol::Http2, Protocol::Http11],
        }
    }
}

/// A version of TLS. Accepts text or a number, since YAML reads an unquoted version as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TlsVersion;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"1.2\" or \"1.3\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TlsVersion, E> {
                match text {
                    "1.2" => Ok(TlsVersion::Tls12),
                    "1.3" => Ok(TlsVersion::Tls13),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<TlsVersion, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A protocol by its ALPN name (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
}

impl Protocol {
    fn id(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http11 => b"http/1.1",
        }
    }
}

/// A certificate with its key, ready for handshakes.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    knows_clients: bool,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Tls {
    /// Whether clients must present a certificate.
    pub fn knows_clients(&self) -> bool {
        self.knows_clients
    }

    /// What a handshake needs.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Checks the validity dates of the certificate.
    ///
    /// # Errors
    /// The certificate has expired, expires soon, or is not valid yet.
    pub fn check_dates(&self, now: SystemTime) -> Result<Duration, String> {
        if now < self.not_before {
            return Err("the certificate is not valid yet, by the clock of this machine".to_owned());
        }
        match self.not_after.duration_since(now) {
            Err(_) => Err("the certificate has expired: clients refuse it".to_owned()),
            Ok(left) if left < EXPIRES_SOON => {
                Err(format!("the certificate expires in {} hours", left.as_secs() / 3600))
            }
            Ok(left) => Ok(left),
        }
    }
}

// Prints no key material. Two values are equal only when they are the same object.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl Eq for Tls {}

impl ServerTlsConfig {
    /// Reads the files. Returns `Some(None)` without TLS, `None` after a fault.
    pub(super) fn compile(self, faults: &mut Faults) -> Option<Option<Tls>> {
        if !self.enabled {
            return Some(None);
        }
        let chain = certificates(CERT, &self.cert, faults);
        let key = private_key(&self.key, faults);
        let clients = match self.client_ca.as_str() {
            "" => Some(None),
            file => authorities(file, faults).map(Some),
        };
        if self.alpn.is_empty() {
            faults.add("server.tls.alpn", "no protocol is offered", "write [h2, http/1.1]");
            return None;
        }
        let (chain, key, clients) = (chain?, key?, clients?);
        let (not_before, not_after) = validity(&chain, faults)?;
        let knows_clients = clients.is_some();
        let config = self.build(chain, key, clients, faults)?;
        let tls = Tls { config: Arc::new(config), knows_clients, not_before, not_after };
        if let Err(why) = tls.check_dates(SystemTime::now()) {
            faults.warn(CERT, why, "renew it, then reload");
        }
        Some(Some(tls))
    }

    fn build(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        clients: Option<RootCertStore>,
        faults: &mut Faults,
    ) -> Option<ServerConfig> {
        install_default_crypto_provider();
        let versions: &[_] = match self.min_version {
            TlsVersion::Tls12 => &[&version::TLS12, &version::TLS13],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_protocol_versions(versions);
        let builder = match clients.map(|roots| WebPkiClientVerifier::builder(Arc::new(roots)).build()) {
            None => builder.with_no_client_auth(),
            Some(Ok(verifier)) => builder.with_client_cert_verifier(verifier),
            Some(Err(error)) => {
                faults.add(CLIENT_CA, error.to_string(), "give a PEM file of certificates");
                return None;
            }
        };
        match builder.with_single_cert(chain, key) {
            Ok(mut config) => {
                config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.id().to_vec()).collect();
                Some(config)
            }
            Err(RusTlsError::InconsistentKeys(_)) => {
                let message = format!("'{}' is not the key of the certificate in '{}'", self.key, self.cert);
                faults.add(KEY, message, "name the two files that were made together");
                None
            }
            Err(error) => {
                let message = format!("'{}' and '{}' cannot be used: {error}", self.cert, self.key);
                faults.add(CERT, message, "give a certificate with its RSA, ECDSA or Ed25519 key");
                None
            }
        }
    }
}

/// Returns the names of a client's certificate (RFC 5280, 4.2.1.6): URIs, DNS names and e-mail addresses.
pub(super) fn subject_names(certificate: &CertificateDer<'_>) -> Arc<[Box<str>]> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Arc::default() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Arc::default() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    });
    names.map(Box::from).collect()
}

fn certificates(path: &str, file: &str, faults: &mut Faults) -> Option<Vec<CertificateDer<'static>>> {
    let hint = "give a PEM file of certificates";
    let text = read(path, file, faults)?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => {
            faults.add(path, format!("'{file}' holds no certificate"), hint);
            None
        }
        Err(error) => {
            faults.add(path, format!("'{file}' is not PEM: {error}"), hint);
            None
        }
    }
}

fn private_key(file: &str, faults: &mut Faults) -> Option<PrivateKeyDer<'static>> {
    let text = read(KEY, file, faults)?;
    if fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0) {
        faults.warn(KEY, format!("every user of this machine may read '{file}'"), format!("chmod o= {file}"));
    }
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| {
            let (message, hint) = match error {
                pem::Error::NoItemsFound
                    if memchr::memmem::find(&text, b"ENCRYPTED PRIVATE KEY").is_some() =>
                {
                    (format!("the key in '{file}' is encrypted"), "decrypt it: openssl pkey -in IN -out OUT")
                }
                pem::Error::NoItemsFound => {
                    (format!("'{file}' holds no private key"), "give the PEM file of the certificate's key")
                }
                error => {
                    (format!("'{file}' is not PEM: {error}"), "give the PEM file of the certificate's key")
                }
            };
            faults.add(KEY, message, hint);
        })
        .ok()
}

fn authorities(file: &str, faults: &mut Faults) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA, file, faults)? {
        if let Err(error) = roots.add(certificate) {
            let message = format!("'{file}' holds a certificate that is no authority: {error}");
            faults.add(CLIENT_CA, message, "give a PEM file of authorities");
            return None;
        }
    }
    Some(roots)
}

fn read(path: &str, file: &str, faults: &mut Faults) -> Option<Vec<u8>> {
    fs::read(file).map_err(|error| faults.unreadable(path, file, &error)).ok()
}

/// Returns the validity period of the first certificate.
fn validity(chain: &[CertificateDer<'_>], faults: &mut Faults) -> Option<(SystemTime, SystemTime)> {
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    match chain.first().map(|first| X509Certificate::from_der(first)) {
        Some(Ok((_, certificate))) => {
            let validity = certificate.validity();
            Some((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
        }
        _ => {
            let hint = "give a PEM file of certificates";
            faults.add(CERT, "its first certificate cannot be read (RFC 5280)", hint);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;

    /// A certificate valid in these years, and its key.
    fn made(folder: &Path, years: [i32; 2]) -> ServerTlsConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["gateway.example".to_owned()]).unwrap();
        [params.not_before, params.not_after] = years.map(|year| date_time_ymd(year, 1, 1));
        let certificate = params.self_signed(&key).unwrap();
        let [cert, key_file] = ["tls.crt", "tls.key"].map(|name| folder.join(name).display().to_string());
        fs::write(&cert, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        fs::set_permissions(&key_file, PermissionsExt::from_mode(0o600)).unwrap();
        ServerTlsConfig { enabled: true, cert, key: key_file, ..ServerTlsConfig::default() }
    }

    fn folder() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn faults_of(written: ServerTlsConfig) -> String {
        let mut faults = Faults::default();
        assert!(written.compile(&mut faults).is_none());
        faults.to_string()
    }

    fn warnings_of(written: ServerTlsConfig) -> Vec<String> {
        let mut faults = Faults::default();
        assert!(written.compile(&mut faults).unwrap().is_some(), "{faults}");
        faults.warnings().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_certificate_and_its_key_are_taken_without_a_word() {
        let folder = folder();
        assert_eq!(warnings_of(made(folder.path(), [2020, 4000])), Vec::<String>::new());
        let off = ServerTlsConfig { cert: "/nowhere".into(), ..ServerTlsConfig::default() };
        assert_eq!(off.compile(&mut Faults::default()), Some(None), "off, nothing is read");
    }

    #[test]
    fn each_fault_of_the_files_is_told_with_its_key() {
        let (folder, other) = (folder(), folder());
        let good = || made(folder.path(), [2020, 4000]);
        let file = |name: &str, text: &str| {
            fs::write(other.path().join(name), text).unwrap();
            other.path().join(name).display().to_string()
        };
        let missing = ServerTlsConfig { cert: "/nowhere/a".into(), key: "/nowhere/b".into(), ..good() };
        let told = faults_of(missing);
        assert!(told.contains("server.tls.cert: '/nowhere/a' cannot be read"), "{told}");
        assert!(told.contains("server.tls.key: '/nowhere/b' cannot be read"), "{told}");
        let empty = ServerTlsConfig { cert: file("empty", ""), ..good() };
        assert!(faults_of(empty).contains("holds no certificate"));
        let junk = file("junk", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
        assert!(
            faults_of(ServerTlsConfig { cert: junk.clone(), ..good() }).contains("cannot be read (RFC 5280)")
        );
        let locked = file(
            "locked",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        assert!(faults_of(ServerTlsConfig { key: locked, ..good() }).contains("is encrypted (decrypt it"));
        let no_key = ServerTlsConfig { key: good().cert, ..good() };
        assert!(faults_of(no_key).contains("holds no private key"));
        let mismatch = ServerTlsConfig { key: made(other.path(), [2020, 4000]).key, ..good() };
        assert!(faults_of(mismatch).contains("is not the key of the certificate"));
        assert!(faults_of(ServerTlsConfig { client_ca: junk, ..good() }).contains("server.tls.client_ca"));
        assert!(faults_of(ServerTlsConfig { alpn: vec![], ..good() }).contains("server.tls.alpn"));
    }

    #[test]
    fn dates_and_permissions_are_warned_of() {
        let folder = folder();
        let told = |years| warnings_of(made(folder.path(), years)).join("\n");
        assert!(told([2020, 2021]).contains("has expired"));
        assert!(told([3999, 4000]).contains("not valid yet"));
        let open = made(folder.path(), [2020, 4000]);
        fs::set_permissions(&open.key, PermissionsExt::from_mode(0o644)).unwrap();
        let told = warnings_of(open).join("\n");
        assert!(told.contains("every user of this machine may read") && told.contains("chmod o= "), "{told}");
        let mut faults = Faults::default();
        let tls = made(folder.path(), [2020, 4000]).compile(&mut faults).unwrap().unwrap();
        let nearly = tls.not_after - Duration::from_secs(7200);
        assert_eq!(tls.check_dates(nearly), Err("the certificate expires in 2 hours".to_owned()));
    }

    #[test]
    fn a_version_may_be_written_as_text_or_number() {
        let read = |text: &str| serde_yaml::from_str::<TlsVersion>(text);
        assert_eq!((read("1.2").unwrap(), read("\"1.3\"").unwrap()), (TlsVersion::Tls12, TlsVersion::Tls13));
        assert!(read("1.1").unwrap_err().to_string().contains("\"1.2\" or \"1.3\""));
    }
}
