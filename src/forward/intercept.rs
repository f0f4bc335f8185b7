//! The authority that intercepted tunnels are opened with, and the certificates that it issues.
//!
//! The authority is limited to the hosts of `forward_proxy.intercept.hosts` by name constraints (RFC 5280, 4.2.1.10), so that its
//! key, if it is stolen, is good for nothing else. Its key stays when the hosts change, so that clients which trust it go on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::intercept_settings::Intercept;
use super::target::Host;
use crate::settings::key_file;

/// The files in the data folder.
pub const CERTIFICATE: &str = "forward-ca.pem";
const KEY: &str = "forward-ca.key";

/// How the line begins that names the hosts of an authority, in front of its certificate.
const HOSTS: &str = "# elida hosts: ";

/// The name of the authority.
const NAME: &str = "ELIDA forward proxy";

/// How long the authority is valid.
const YEARS: u64 = 10;
const DAY: Duration = Duration::from_secs(86_400);

/// Clocks of clients may be behind by this much.
const SKEW: Duration = Duration::from_secs(3600);

/// The most certificates that are remembered.
const MOST: usize = 1024;

/// Opens intercepted tunnels.
pub struct Interceptor {
    settings: Intercept,
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    /// Of all certificates.
    key: KeyPair,
    leaves: Mutex<HashMap<Host, (SystemTime, Arc<ServerConfig>)>>,
    /// Hosts whose clients have refused their certificate.
    refused: Mutex<HashSet<Host>>,
}

impl Interceptor {
    /// Reads the authority, or makes it in `folder`. Returns `None` if no host is intercepted.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn open(settings: &Intercept, folder: &Path) -> Result<Option<Self>, String> {
        if settings.hosts().is_empty() {
            return Ok(None);
        }
        let (certificate, key) = match settings.files() {
            Some((certificate, key)) => (read(certificate)?, read(key)?),
            None => {
                let named = |error: io::Error| format!("{}: {error}", folder.join(CERTIFICATE).display());
                own(settings.hosts(), folder).map_err(named)?
            }
        };
        let key = KeyPair::from_pem(&key).map_err(|error| format!("the key of the authority: {error}"))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key);
        let authority = CertificateDer::from_pem_slice(certificate.as_bytes());
        let leaf_key = KeyPair::generate();
        let (Ok(issuer), Ok(authority), Ok(key)) = (issuer, authority, leaf_key) else {
            return Err("the certificate of the authority cannot be used".to_owned());
        };
        let (settings, leaves, refused) = (settings.clone(), Mutex::default(), Mutex::default());
        Ok(Some(Self { settings, issuer, authority, key, leaves, refused }))
    }

    /// Returns the settings that this was opened with.
    pub fn settings(&self) -> &Intercept {
        &self.settings
    }

    /// Returns what answers the TLS handshake of a client that wants to reach this host; `None` if it is not intercepted, or no
    /// certificate can be made for it.
    pub fn server(&self, host: &Host) -> Option<Arc<ServerConfig>> {
        if !self.settings.contains(host) {
            return None;
        }
        let now = SystemTime::now();
        let known = self.leaves.lock().get(host).filter(|(until, _)| now < *until).cloned();
        if let Some((_, server)) = known {
            return Some(server);
        }
        let server = Arc::new(self.issue(host, now)?);
        let mut leaves = self.leaves.lock();
        if leaves.len() >= MOST {
            leaves.clear();
        }
        // The last half of its life is for the connections that are open then.
        leaves.insert(host.clone(), (now + self.settings.leaf_lifetime() / 2, Arc::clone(&server)));
        Some(server)
    }

    fn issue(&self, host: &Host, now: SystemTime) -> Option<ServerConfig> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(host.to_string().try_into().ok()?)];
        params.distinguished_name.push(DnType::CommonName, "intercepted by ELIDA");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, now, self.settings.leaf_lifetime());
        let leaf = params.signed_by(&self.key, &self.issuer).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .ok()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), self.authority.clone()], key)
            .ok()?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Some(server)
    }

    /// Notes that a client has refused the certificate of a host. Returns whether it is the first.
    pub fn was_refused(&self, host: &Host) -> bool {
        let mut refused = self.refused.lock();
        refused.len() < MOST && refused.insert(host.clone())
    }
}

/// Sets serial number and times.
fn limit(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
    params.not_before = date_time_ymd(1970, 1, 1) + since.saturating_sub(SKEW);
    params.not_after = date_time_ymd(1970, 1, 1) + since + lifetime;
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Returns certificate and key of the gateway's own authority; makes both if they are not there, and the certificate anew if it
/// is limited to other hosts.
fn own(hosts: &[String], folder: &Path) -> io::Result<(String, String)> {
    let fresh = || KeyPair::generate().map(|key| key.serialize_pem().into_bytes()).map_err(io::Error::other);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(io::Error::other);
    let key = text(key_file::load_or_make(folder, KEY, fresh)?)?;
    let certificate = text(key_file::load_or_make(folder, CERTIFICATE, || certificate(hosts, &key))?)?;
    if written_hosts(&certificate) == Some(hosts.join(" ")) {
        return Ok((certificate, key));
    }
    let certificate = self::certificate(hosts, &key)?;
    key_file::replace(folder, CERTIFICATE, &certificate)?;
    let file: PathBuf = folder.join(CERTIFICATE);
    tracing::warn!(file = %file.display(), "the hosts to intercept have changed: clients of new ones need this file again");
    Ok((text(certificate)?, key))
}

fn written_hosts(certificate: &str) -> Option<String> {
    certificate.lines().find_map(|line| line.strip_prefix(HOSTS)).map(str::to_owned)
}

/// Makes the certificate of an authority for these hosts.
fn certificate(hosts: &[String], key: &str) -> io::Result<Vec<u8>> {
    let key = KeyPair::from_pem(key).map_err(io::Error::other)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, NAME);
    let subtree = |host: &String| GeneralSubtree::DnsName(host.trim_start_matches("*.").to_owned());
    let permitted_subtrees = hosts.iter().map(subtree).collect();
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    limit(&mut params, SystemTime::now(), DAY * 365 * YEARS as u32);
    let made = params.self_signed(&key).map_err(io::Error::other)?;
    Ok(format!("{HOSTS}{}\n{}", hosts.join(" "), made.pem()).into_bytes())
}

/// What `elida doctor` says of an authority.
#[derive(Debug)]
pub struct Authority {
    /// Its file and the digest of its certificate.
    pub described: String,
    /// When it expires.
    pub expires: Timestamp,
}

/// Returns which authority there is.
///
/// # Errors
/// A sentence that names the file and what is wrong with it.
pub fn describe(settings: &Intercept, folder: &Path) -> Result<Authority, String> {
    let own = folder.join(CERTIFICATE);
    let file = settings.files().map_or(&*own, |(certificate, _)| certificate);
    let fault = |why: &str| format!("{}: {why}", file.display());
    let authority = CertificateDer::from_pem_slice(read(file)?.as_bytes());
    let authority = authority.map_err(|_| fault("it is no certificate in PEM"))?;
    let (_, parsed) = X509Certificate::from_der(&authority).map_err(|_| fault("it is no certificate"))?;
    let expires = Timestamp::from_second(parsed.validity().not_after.timestamp());
    let bytes = Sha256::digest(&authority);
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(Authority {
        described: format!("{}, SHA-256 {}", file.display(), pairs.join(":")),
        expires: expires.map_err(|_| fault("its end is no time"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::intercept_settings::InterceptConfig;
    use crate::settings::fault::Faults;

    fn settings(hosts: &[&str]) -> Intercept {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        InterceptConfig { hosts, ..InterceptConfig::default() }.compile(&mut Faults::default()).unwrap()
    }

    #[test]
    fn the_authority_is_made_once_and_only_its_certificate_follows_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let open = |hosts: &[&str]| Interceptor::open(&settings(hosts), folder.path()).unwrap().unwrap();
        assert!(Interceptor::open(&settings(&[]), folder.path()).unwrap().is_none());
        assert!(!folder.path().join(KEY).exists(), "nothing is made where nothing is intercepted");
        open(&["api.test"]);
        let (certificate, key) = (read(CERTIFICATE), read(KEY));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(folder.path().join(KEY)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        open(&["api.test"]);
        assert_eq!((read(CERTIFICATE), read(KEY)), (certificate.clone(), key.clone()));
        open(&["api.test", "*.b.test"]);
        assert_eq!(read(KEY), key);
        assert_ne!(read(CERTIFICATE), certificate);
        let authority = describe(&settings(&["api.test"]), folder.path()).unwrap();
        assert!(authority.described.contains("SHA-256 "), "{authority:?}");
        let years = authority.expires.duration_since(Timestamp::now()).as_hours() / 24 / 365;
        assert!((9..=10).contains(&years), "{authority:?}");
    }

    #[test]
    fn only_hosts_that_are_named_get_a_certificate_and_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let interceptor =
            Interceptor::open(&settings(&["api.test", "*.b.test"]), folder.path()).unwrap().unwrap();
        let server = |name: &str| interceptor.server(&Host::parse(name).unwrap());
        let first = server("api.test").unwrap();
        assert!(Arc::ptr_eq(&first, &server("API.test.").unwrap()));
        assert!(server("x.b.test").is_some());
        for other in ["b.test", "x.api.test", "a.test", "127.0.0.1"] {
            assert!(server(other).is_none(), "{other}");
        }
        assert!(interceptor.was_refused(&Host::parse("api.test").unwrap()));
        assert!(!interceptor.was_refused(&Host::parse("api.test").unwrap()));
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(KEY), "no key").unwrap();
        let told = Interceptor::open(&settings(&["api.test"]), folder.path()).err().unwrap();
        assert!(told.contains(CERTIFICATE), "{told}");
    }
}
