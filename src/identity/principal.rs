//! The principal of a request: a keyed digest of its credentials, or its address if it has none.
//!
//! All credentials that a backend may see count (listed in [`credentials`]): two callers that share only one of them,
//! such as a dummy key, are different principals. A request with a single credential has the same principal wherever
//! that credential is placed. With several, each credential is also an account of its own, so that a constant
//! credential beside changing ones cannot multiply the limits per principal.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::ids::{KeyId, PrincipalId};
use crate::protocol::dialects::credentials::credentials;
use crate::settings::key_file;

const KEY_FILE: &str = "principal.key";
const KEY_BYTES: usize = 32;
/// Length of the time after the key in its file: since when the fleet uses it, in Unix milliseconds, big-endian.
const SINCE_BYTES: usize = 8;
/// Block size of SHA-256, in bytes.
const BLOCK_BYTES: usize = 64;
/// Bytes of the digest in a principal's id; 16 hex digits.
const SHOWN: usize = 8;
/// Domain separation from other uses of the same key.
const USE: &[u8] = b"elida principal 1\0";
/// Input for the id of the key itself.
const NAME: &[u8] = b"\0the key itself";
/// Prefix of the digest of several credentials. No single credential starts like this, because header fields cannot
/// contain NUL.
const SEVERAL: &[u8] = b"\0several\0";
/// Most different credentials in a request; more are a mistake or an attack.
pub const MAX_CREDENTIALS: usize = 8;

/// The caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `cred:<digest>` or `anon:<address>`.
    pub id: PrincipalId,
    /// The principals of the single credentials; empty unless the request has several.
    pub accounts: Box<[PrincipalId]>,
}

/// A request carries more than [`MAX_CREDENTIALS`] different credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request carries {0} different credentials or more; send at most {MAX_CREDENTIALS}")]
pub struct TooMany(pub usize);

/// The key of the digests. Without it, a principal's id cannot be linked to a credential; with another key, the same
/// credential is a different principal.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// Loads the key from `data_dir`, or creates it there (readable by the owner only).
    ///
    /// # Errors
    /// The key cannot be read or written.
    pub fn load_or_make(data_dir: &Path) -> io::Result<Self> {
        Self::kept(data_dir).map(|kept| Self::from_bytes(&kept.bytes))
    }

    /// Returns the key that all instances of a fleet share. `agree` takes the local key and returns the agreed one, which
    /// replaces it in `data_dir`, or `None` to keep the local key.
    ///
    /// # Errors
    /// The key cannot be read or written.
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

    /// Creates a key for this process only.
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
        // HMAC pads a short key with zeros to the block size.
        let mut block = [0; BLOCK_BYTES];
        block[..KEY_BYTES].copy_from_slice(bytes);
        let mut mac = Hmac::new(&block.into());
        mac.update(USE);
        Self(mac)
    }

    /// Returns the id of the key: equal for equal keys, and the key cannot be computed from it.
    pub fn id(&self) -> KeyId {
        let digest = self.0.clone().chain_update(NAME).finalize().into_bytes();
        KeyId::new(HEXLOWER.encode(&digest[..SHOWN]))
    }

    /// Returns the principal: `cred:<digest>` of the credentials in head and query, otherwise `anon:<address>`.
    ///
    /// # Errors
    /// The request has more than [`MAX_CREDENTIALS`] different credentials.
    pub fn principal(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        client: IpAddr,
    ) -> Result<Principal, TooMany> {
        let mut found = credentials(headers, query);
        let alone = |id| Ok(Principal { id, accounts: Box::default() });
        match found.as_slice() {
            // IPv4 and IPv4-mapped IPv6 addresses of one host are the same principal.
            [] => alone(PrincipalId::new(format!("anon:{}", client.to_canonical()))),
            [credential] => alone(self.named(|mac| mac.update(credential))),
            all if all.len() > MAX_CREDENTIALS => Err(TooMany(all.len())),
            _ => {
                // The same credentials in any order are the same principal.
                found.sort_unstable();
                let accounts = found.iter().map(|credential| self.named(|mac| mac.update(credential)));
                let accounts = accounts.collect();
                let id = self.named(|mac| {
                    mac.update(SEVERAL);
                    for credential in &found {
                        // The length prefix keeps different lists from hashing alike.
                        mac.update(&(credential.len() as u64).to_be_bytes());
                        mac.update(credential);
                    }
                });
                Ok(Principal { id, accounts })
            }
        }
    }

    fn named(&self, fill: impl FnOnce(&mut Hmac<Sha256>)) -> PrincipalId {
        let mut mac = self.0.clone();
        fill(&mut mac);
        let digest = mac.finalize().into_bytes();
        PrincipalId::new(format!("cred:{}", HEXLOWER.encode(&digest[..SHOWN])))
    }
}

/// A key and its age, as stored in the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    bytes: [u8; KEY_BYTES],
    /// Since when the fleet uses the key, in Unix milliseconds; 0 for a key of this instance alone.
    pub since_ms: u64,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("since_ms", &self.since_ms).finish_non_exhaustive()
    }
}

impl Kept {
    /// Parses a key in lower-case hex; `None` if it is not a key.
    pub fn from_hex(key: &str, since_ms: u64) -> Option<Self> {
        Some(Self { bytes: HEXLOWER.decode(key.as_bytes()).ok()?.try_into().ok()?, since_ms })
    }

    /// Returns the key in lower-case hex.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.bytes)
    }
}

/// Longest name of a principal that is shown as it is, in bytes; a longer one is replaced by a digest.
const MAX_NAME: usize = 128;
/// Bytes of the digest of a name that cannot be shown.
const DIGEST: usize = 16;

/// Returns a subject of a token or a name of a certificate as the id of a principal shows it: printable ASCII. `#`, which
/// begins the digest of any other, is not among what is shown, so none can be taken for another.
pub(super) fn shown(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@|:+=/~".contains(&byte);
    match name.len() <= MAX_NAME && name.bytes().all(is_plain) {
        true => name.to_owned(),
        false => format!("#{}", HEXLOWER.encode(&Sha256::digest(name)[..DIGEST])),
    }
}

/// Returns 32 random bytes of the operating system, by way of the UUID generator: each UUID has at least 32 fresh random
/// bits, and the digest covers 512 of them.
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
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn home() -> IpAddr {
        "::ffff:10.0.0.5".parse().unwrap()
    }

    fn whose(key: &Key, pairs: &[(&'static str, &str)], query: &str) -> PrincipalId {
        key.principal(&headers(pairs), Some(query), home()).unwrap().id
    }

    #[test]
    fn one_credential_is_one_principal_in_every_place() {
        let key = Key::from_bytes(&[7; KEY_BYTES]);
        let bearer = whose(&key, &[("authorization", "Bearer sk-1")], "");
        // HMAC-SHA256 computed elsewhere: a standing kill names it, so it must never change.
        assert_eq!(bearer.as_str(), "cred:f289f291563887c8");
        for (pairs, query) in [
            (&[("authorization", "bearer  sk-1")][..], ""),
            (&[("x-api-key", "sk-1")], ""),
            (&[("x-api-key", "sk-1"), ("api-key", "sk-1")], "key=sk-1"),
            (&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-1")], ""),
            (&[("x-api-key", "sk-1"), ("cookie", "a=1"), ("openai-project", "p")], ""),
            (&[], "alt=sse&key=sk-1"),
        ] {
            assert_eq!(whose(&key, pairs, query), bearer, "{pairs:?} {query}");
        }
        assert_ne!(bearer, whose(&key, &[("x-goog-api-key", "sk-2")], ""));
    }

    #[test]
    fn all_credentials_make_the_principal_and_each_has_its_account() {
        let key = Key::ephemeral();
        let of = |pairs: &[(&'static str, &str)]| key.principal(&headers(pairs), None, home()).unwrap();
        let both = |token: &str| of(&[("authorization", token), ("x-api-key", "dummy")]);
        assert_ne!(both("Bearer a").id, both("Bearer b").id, "who shares a dummy is somebody else");
        assert_eq!(both("Bearer a"), of(&[("x-api-key", "a"), ("authorization", "dummy")]));
        let dummy = of(&[("x-api-key", "dummy")]);
        assert!(dummy.accounts.is_empty());
        for token in ["Bearer a", "Bearer b"] {
            let both = both(token);
            assert_eq!(both.accounts.len(), 2);
            assert!(both.accounts.contains(&dummy.id) && both.id != dummy.id);
        }
        let names = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-auth-token"];
        let more = ["x-access-token", "apikey", "xi-api-key", "x-functions-key"];
        let all: Vec<_> = names.into_iter().chain(more).map(|name| (name, name)).collect();
        assert!(key.principal(&headers(&all[..8]), None, home()).is_ok());
        assert_eq!(key.principal(&headers(&all), None, home()), Err(TooMany(9)));
    }

    #[test]
    fn nothing_to_show_is_the_address() {
        let key = Key::ephemeral();
        for pairs in [&[][..], &[("authorization", "Bearer "), ("x-api-key", "")], &[("x-api-key", " ")]] {
            assert_eq!(whose(&key, pairs, "alt=sse&key=").as_str(), "anon:10.0.0.5");
        }
    }

    #[test]
    fn the_key_is_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("state");
        let made = Key::load_or_make(&place).unwrap();
        let read = Key::load_or_make(&place).unwrap();
        let sent = [("x-api-key", "sk-1")];
        assert_eq!(whose(&made, &sent, ""), whose(&read, &sent, ""));
        assert_ne!(whose(&made, &sent, ""), whose(&Key::ephemeral(), &sent, ""));
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
        let longer = |digits: &str| digits.repeat(KEY_BYTES);
        for other in ["ab".to_owned(), longer("AB"), longer("+f"), longer("0x"), longer("é")] {
            assert!(Kept::from_hex(&other, 0).is_none(), "{other}");
        }
    }

    #[test]
    fn half_a_key_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KEY_FILE), b"short").unwrap();
        assert!(Key::load_or_make(dir.path()).unwrap_err().to_string().contains(KEY_FILE));
    }
}
