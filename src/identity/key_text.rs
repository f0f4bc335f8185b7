//! The text of a client key: a prefix, 43 random base62 characters (256 bits), and a CRC-32 of both in 6 more.
//!
//! The checksum distinguishes a typing error from an unknown key, and lets a secret scanner recognise a key, without a look-up.
//! Only the SHA-256 of the whole text is kept: with 256 random bits there is nothing to guess, so a slow hash would only
//! let strangers spend this gateway's time.

use std::fmt;
use std::io;

use data_encoding::HEXLOWER_PERMISSIVE;
use memchr::memmem;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::ids::{BASE62, base62_checksum};
use crate::settings::secret::Secret;

/// How keys begin unless `auth.keys.prefix` says otherwise.
pub const PREFIX: &str = "elida_";

/// Fewest characters of a key of another form: with fewer, it could be guessed.
pub const MIN_LENGTH: usize = 32;

/// Characters of a key that lists and logs show.
const SHOWN: usize = 8;

/// Random characters: 62^43 is a little more than 2^256.
pub(super) const RANDOM: usize = 43;
/// Characters of the checksum: 62^6 is more than 2^32.
const CHECKSUM: usize = 6;

/// The SHA-256 of a key: what configuration and memory hold of it. It is no credential, because what a request shows is
/// always hashed first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Returns the digest of a key.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Parses 64 hex digits; `None` if the text is anything else.
    pub fn parse(hex: &str) -> Option<Self> {
        Some(Self(HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?.try_into().ok()?))
    }

    /// Returns the bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

/// Shows the first bytes only, so that logs and panics cannot be searched for a digest.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", HEXLOWER_PERMISSIVE.encode(&self.0[..4]))
    }
}

/// Returns what lists and logs show of a key: its first characters.
pub(super) fn shown(key: &str) -> &str {
    key.char_indices().nth(SHOWN).map_or(key, |(end, _)| &key[..end])
}

/// Creates a key with this prefix.
///
/// # Errors
/// The operating system has no random numbers.
pub fn generate(prefix: &str) -> io::Result<Secret> {
    random_after(prefix, RANDOM).map(with_checksum)
}

/// Returns a text of a prefix and [`RANDOM`] characters with its checksum.
pub(super) fn with_checksum(mut text: String) -> Secret {
    let checksum = base62_checksum(text.as_bytes());
    text.extend(checksum.map(char::from));
    Secret::new(text)
}

/// Returns a text of this beginning and so many random base62 characters.
///
/// # Errors
/// The operating system has no random numbers.
pub(super) fn random_after(start: &str, characters: usize) -> io::Result<String> {
    let mut text = start.to_owned();
    let random = SystemRandom::new();
    while text.len() < start.len() + characters {
        let mut bytes = [0; RANDOM];
        random.fill(&mut bytes).map_err(|_| io::Error::other("the operating system gave no random bytes"))?;
        // 248 is the largest multiple of 62 in a byte: without the others, each character is equally likely.
        let even = bytes
            .into_iter()
            .filter(|byte| *byte < 248)
            .map(|byte| char::from(BASE62[usize::from(byte % 62)]));
        text.extend(even.take(start.len() + characters - text.len()));
    }
    Ok(text)
}

/// Returns whether the text has the form of a key with this prefix but is not one: its checksum is wrong.
pub fn is_damaged(key: &[u8], prefix: &str) -> bool {
    let Some((text, sum)) = key.split_last_chunk::<CHECKSUM>() else { return true };
    let is_long_enough = text.len() == prefix.len() + RANDOM;
    !is_long_enough || *sum != base62_checksum(text)
}

/// Returns the first key with this prefix that a text contains.
pub fn find<'t>(text: &'t [u8], prefix: &str) -> Option<&'t [u8]> {
    let whole = prefix.len() + RANDOM + CHECKSUM;
    // Most fields are shorter, and are not searched.
    if text.len() < whole {
        return None;
    }
    let keys = memmem::find_iter(text, prefix).filter_map(|at| text.get(at..at + whole));
    keys.into_iter()
        .find(|key| key[prefix.len()..].iter().all(u8::is_ascii_alphanumeric) && !is_damaged(key, prefix))
}

/// Returns whether a credential contains a key with this prefix, or what should be one.
pub fn may_contain(text: &[u8], prefix: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    memmem::find_iter(text, prefix).any(|at| at == 0 || !is_word(text[at - 1]))
        || find(text, prefix).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_their_checksum_finds_typing_errors() {
        let key = generate(PREFIX).unwrap();
        let text = key.reveal();
        assert_ne!(generate(PREFIX).unwrap(), key);
        assert_eq!(text.len(), PREFIX.len() + RANDOM + CHECKSUM);
        assert!(text[PREFIX.len()..].bytes().all(|byte| BASE62.contains(&byte)), "{text}");
        assert!(!is_damaged(text.as_bytes(), PREFIX));
        for place in 0..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[place] = if typo[place] == b'x' { b'y' } else { b'x' };
            assert!(is_damaged(&typo, PREFIX), "{place}");
        }
        for wrong in ["", "elida_", &text[1..], &text[..text.len() - 1], &format!("{text}0")] {
            assert!(is_damaged(wrong.as_bytes(), PREFIX), "{wrong}");
        }
    }

    #[test]
    fn a_key_of_an_earlier_version_stays_valid() {
        let key = format!("elida_{}", "0".repeat(43));
        let sum: String = base62_checksum(key.as_bytes()).into_iter().map(char::from).collect();
        // The CRC-32 (IEEE) of the text, computed with Python's zlib.crc32, in base62.
        assert_eq!(sum, "0PK575");
    }

    #[test]
    fn digests_are_read_in_either_case_and_never_shown_whole() {
        let digest = KeyDigest::of(b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), hex);
        assert_eq!(KeyDigest::parse(&hex.to_uppercase()), Some(digest));
        assert_eq!(format!("{digest:?}"), "ba7816bf…");
        for wrong in ["", "ba78", &hex[1..], &format!("{hex}00"), "elida_x"] {
            assert_eq!(KeyDigest::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_is_found_in_any_text_and_a_word_is_none() {
        let key = generate("elida_").unwrap();
        let key = key.reveal();
        for text in
            [key.to_owned(), format!("a{key}b"), format!("elida_ elida_{key}"), format!("x=\"{key}\"")]
        {
            assert_eq!(find(text.as_bytes(), "elida_"), Some(key.as_bytes()), "{text}");
        }
        for text in ["", "elida_", "elida_nightly-build", &key[1..], &key[..key.len() - 1]] {
            assert_eq!(find(text.as_bytes(), "elida_"), None, "{text}");
        }
        for (text, may) in
            [("elida_x", true), ("Bearer elida_x", true), ("sk-elida_x", false), ("sk.elida_", true)]
        {
            assert_eq!(may_contain(text.as_bytes(), "elida_"), may, "{text}");
        }
    }
}
