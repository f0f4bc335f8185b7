//! The principal of a request: a keyed digest of the credential it carries, else its address.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::{KeyId, PrincipalId};
use crate::settings::hex::{hex, unhex};
use crate::settings::key_file;

/// Where credentials are looked for, first one first. `authorization` loses its scheme, so that one key
/// is one principal, whichever header an SDK puts it in.
const CREDENTIALS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];
const KEY_FILE: &str = "principal.key";
const KEY_BYTES: usize = 32;
/// Behind the key in its file: since when a fleet has agreed on it, in milliseconds since 1970.
const SINCE_BYTES: usize = 8;
/// SHA-256's block.
const BLOCK_BYTES: usize = 64;
/// Bytes of the digest in a principal's id; 16 hex digits.
const SHOWN: usize = 8;
/// Keeps digests of other uses of the same key apart.
const USE: &[u8] = b"elida principal 1\0";
/// Of what a key's own name is the digest.
const NAME: &[u8] = b"\0the key itself";

/// The key of the digests. Without it a principal's id cannot be tied to a credential, and with another
/// one the same credential is another principal.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// The key in `data_dir`; made there (readable by the owner only) when there is none.
    pub fn load_or_make(data_dir: &Path) -> io::Result<Self> {
        Self::kept(data_dir).map(|kept| Self::from_bytes(&kept.bytes))
    }

    /// The key that all instances of a fleet share. `agree` is given the one kept here and gives the one they agreed on,
    /// which is kept in its place; nothing when the one kept here is to stay.
    ///
    /// # Errors
    /// The key cannot be read or kept.
    pub fn agreed(data_dir: &Path, agree: impl FnOnce(&Kept) -> Option<Kept>) -> io::Result<Self> {
        let own = Self::kept(data_dir)?;
        match agree(&own) {
            Some(agreed) => {
                if agreed != own {
                    let file = [&agreed.bytes[..], &agreed.since_ms.to_be_bytes()].concat();
                    key_file::replace(data_dir, KEY_FILE, &file)?;
                }
                Ok(Self::from_bytes(&agreed.bytes))
            }
            None => Ok(Self::from_bytes(&own.bytes)),
        }
    }

    /// A key for this process only.
    pub fn ephemeral() -> Self {
        Self::from_bytes(&random())
    }

    fn kept(data_dir: &Path) -> io::Result<Kept> {
        let file = key_file::load_or_make(data_dir, KEY_FILE, || Ok(random().to_vec()))?;
        let (bytes, rest) = file.split_first_chunk().ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("{KEY_FILE} holds no whole key"))
        })?;
        let since: Option<&[u8; SINCE_BYTES]> = rest.first_chunk();
        Ok(Kept { bytes: *bytes, since_ms: since.map_or(0, |since| u64::from_be_bytes(*since)) })
    }

    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        // HMAC itself fills a short key up to its block with zeros.
        let mut block = [0; BLOCK_BYTES];
        block[..KEY_BYTES].copy_from_slice(bytes);
        let mut mac = Hmac::new(&block.into());
        mac.update(USE);
        Self(mac)
    }

    /// What the key goes by: the same for equal keys, and nothing that it could be found from.
    pub fn id(&self) -> KeyId {
        let digest = self.0.clone().chain_update(NAME).finalize().into_bytes();
        KeyId::new(hex(&digest[..SHOWN]))
    }

    /// Who calls: `cred:<digest>` of the first credential in the head, else `anon:<address>`.
    pub fn principal(&self, headers: &HeaderMap, client: IpAddr) -> PrincipalId {
        let credential = CREDENTIALS.iter().find_map(|name| {
            let value = headers.get(name)?.as_bytes().trim_ascii();
            let value = if name == AUTHORIZATION { without_scheme(value) } else { value };
            (!value.is_empty()).then_some(value)
        });
        match credential {
            Some(credential) => {
                let digest = self.0.clone().chain_update(credential).finalize().into_bytes();
                PrincipalId::new(format!("cred:{}", hex(&digest[..SHOWN])))
            }
            // One host is one principal, whether it came by IPv4 or by IPv4 mapped into IPv6.
            None => PrincipalId::new(format!("anon:{}", client.to_canonical())),
        }
    }
}

/// A key as its file holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    bytes: [u8; KEY_BYTES],
    /// Since when a fleet has agreed on it, in milliseconds since 1970; 0 when none did.
    pub since_ms: u64,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("since_ms", &self.since_ms).finish_non_exhaustive()
    }
}

impl Kept {
    /// A key written in hex; `None` when that is no key.
    pub fn from_hex(key: &str, since_ms: u64) -> Option<Self> {
        Some(Self { bytes: unhex(key)?.try_into().ok()?, since_ms })
    }

    /// The key in hex.
    pub fn hex(&self) -> String {
        hex(&self.bytes)
    }
}

/// What follows `Bearer`, `Basic` or another scheme; the whole value when there is no scheme.
fn without_scheme(value: &[u8]) -> &[u8] {
    match value.iter().position(|byte| *byte == b' ') {
        Some(space) => value[space..].trim_ascii_start(),
        // The word alone is the same for all who forgot their key.
        None if value.eq_ignore_ascii_case(b"bearer") || value.eq_ignore_ascii_case(b"basic") => b"",
        None => value,
    }
}

/// 32 bytes of the operating system's randomness, by way of the generator of uuids: each uuid holds at
/// least 32 fresh random bits, and their digest holds 512 of them.
fn random() -> [u8; KEY_BYTES] {
    let mut pool = Sha256::new();
    for _ in 0..16 {
        pool.update(Uuid::now_v7().as_bytes());
    }
    pool.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn home() -> IpAddr {
        "::ffff:10.0.0.5".parse().unwrap()
    }

    #[test]
    fn one_credential_is_one_principal_in_every_header() {
        let key = Key::ephemeral();
        let who = |pairs: &[(&'static str, &str)]| key.principal(&headers(pairs), home());
        let bearer = who(&[("authorization", "Bearer sk-1")]);
        assert_eq!(bearer, who(&[("authorization", "bearer  sk-1")]));
        assert_eq!(bearer, who(&[("x-api-key", "sk-1")]));
        assert_eq!(bearer, who(&[("x-api-key", "sk-1"), ("api-key", "other")]));
        assert_ne!(bearer, who(&[("x-goog-api-key", "sk-2")]));
        assert_eq!(bearer.as_str().len(), "cred:".len() + 16);
        assert!(!bearer.as_str().contains("sk-1"));
    }

    #[test]
    fn nothing_to_show_is_the_address() {
        let key = Key::ephemeral();
        assert_eq!(key.principal(&HeaderMap::new(), home()).as_str(), "anon:10.0.0.5");
        let empty = headers(&[("authorization", "Bearer "), ("x-api-key", "")]);
        assert_eq!(key.principal(&empty, home()).as_str(), "anon:10.0.0.5");
        let blank = headers(&[("x-api-key", " ")]);
        assert_eq!(key.principal(&blank, home()).as_str(), "anon:10.0.0.5");
    }

    #[test]
    fn the_key_is_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("state");
        let made = Key::load_or_make(&place).unwrap();
        let read = Key::load_or_make(&place).unwrap();
        let sent = headers(&[("x-api-key", "sk-1")]);
        assert_eq!(made.principal(&sent, home()), read.principal(&sent, home()));
        assert_ne!(made.principal(&sent, home()), Key::ephemeral().principal(&sent, home()));
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(place.join(KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn what_a_fleet_agreed_on_is_kept_with_its_time_and_its_name_tells_it_apart() {
        let dir = tempfile::tempdir().unwrap();
        let own = Key::load_or_make(dir.path()).unwrap();
        let other = Kept::from_hex(&"ab".repeat(KEY_BYTES), 1_700_000_000_000).unwrap();
        let agreed = Key::agreed(dir.path(), |kept| {
            assert_eq!(kept.since_ms, 0);
            Some(other.clone())
        });
        let agreed = agreed.unwrap();
        assert_ne!(agreed.id(), own.id());
        let again = Key::agreed(dir.path(), |kept| {
            assert_eq!(*kept, other);
            None
        });
        assert_eq!(again.unwrap().id(), agreed.id());
        // An older version reads the key from the same file.
        assert_eq!(Key::load_or_make(dir.path()).unwrap().id(), agreed.id());
        assert_eq!(std::fs::read(dir.path().join(KEY_FILE)).unwrap()[..KEY_BYTES], [0xab; KEY_BYTES]);
        assert!(Kept::from_hex("ab", 0).is_none());
    }

    #[test]
    fn half_a_key_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KEY_FILE), b"short").unwrap();
        assert!(Key::load_or_make(dir.path()).unwrap_err().to_string().contains(KEY_FILE));
    }
}
