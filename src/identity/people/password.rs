//! Passwords: Argon2id (RFC 9106). Everything here takes tens of milliseconds and 19 MiB: callers run it on a thread that may block,
//! and few at a time.

use std::io;
use std::sync::LazyLock;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};

use crate::identity::key_text;
use crate::settings::secret::Secret;

/// Fewest characters of a password that a person chooses.
const MIN: usize = 12;
/// Most bytes of a password.
const MAX: usize = 256;
/// Characters of a password that is made: 142 random bits.
const MADE: usize = 24;
/// Characters of a salt: 95 random bits.
const SALT: usize = 16;

/// Memory in KiB, passes and lanes: the least that OWASP recommends for Argon2id.
const COST: (u32, u32, u32) = (19 << 10, 2, 1);

/// A hash that no password has, so that an unknown name costs what a known one does.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let made = key_text::random_after("", MADE).and_then(|text| hash(&Secret::new(text)));
    made.unwrap_or_default()
});

fn argon2() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn failed(fault: argon2::password_hash::Error) -> io::Error {
    io::Error::other(fault.to_string())
}

/// Checks a password that a person chooses.
///
/// # Errors
/// It is too short or too long.
pub fn check_new(password: &Secret) -> Result<(), String> {
    let text = password.reveal();
    if text.chars().count() < MIN || text.len() > MAX {
        return Err(format!("a password needs {MIN} characters, and has at most {MAX} bytes"));
    }
    Ok(())
}

/// Makes a password.
///
/// # Errors
/// The operating system has no random numbers.
pub fn generate() -> io::Result<Secret> {
    key_text::random_after("", MADE).map(Secret::new)
}

/// Returns the hash of a password with a salt of its own (PHC string). Blocks.
///
/// # Errors
/// The operating system has no random numbers.
pub fn hash(password: &Secret) -> io::Result<String> {
    let salt = key_text::random_after("", SALT)?;
    let salt = SaltString::encode_b64(salt.as_bytes()).map_err(failed)?;
    let hash = argon2().hash_password(password.reveal().as_bytes(), &salt).map_err(failed)?;
    Ok(hash.to_string())
}

/// Returns whether a password has this hash; without a hash it takes as long and is never right. Blocks.
pub fn verify(password: &Secret, hash: Option<&str>) -> bool {
    if password.reveal().len() > MAX {
        return false;
    }
    let written = hash.unwrap_or(&NOBODY);
    let is_right = PasswordHash::new(written)
        .is_ok_and(|hash| argon2().verify_password(password.reveal().as_bytes(), &hash).is_ok());
    is_right && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_verified_and_its_hash_does_not_contain_it() {
        let password = generate().unwrap();
        let [one, other] = [(); 2].map(|()| hash(&password).unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != other, "{one}");
        assert!(!one.contains(password.reveal()));
        assert!(verify(&password, Some(&one)) && verify(&password, Some(&other)));
        for wrong in [Secret::new("x"), Secret::new(""), generate().unwrap(), Secret::new("x".repeat(300))] {
            assert!(!verify(&wrong, Some(&one)) && !verify(&wrong, None));
        }
        assert!(
            !verify(&password, None)
                && !verify(&password, Some(""))
                && !verify(&password, Some("$argon2id$"))
        );
        assert!(
            check_new(&password).is_ok() && check_new(&Secret::new("eleven chars".replace(' ', ""))).is_err()
        );
    }
}
