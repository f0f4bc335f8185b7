//! Which answers are the same: the key of a request, and the variants of an answer.

use http::header::VARY;
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// A digest that names a stored answer, or all that is stored of one URL.
pub type Id = [u8; 32];

/// What a request asks for, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL as the client sees it, for purges and lists.
    pub url: Box<str>,
    /// The digest of the URL and of the backend.
    pub id: Id,
}

impl Target {
    /// The target of a request. `backend` is its backend, and `generation` changes with the settings of that.
    pub fn new(backend: &str, generation: u64, scheme: &str, authority: &str, path: &[u8]) -> Self {
        let authority = authority.to_ascii_lowercase();
        let mut digest = Sha256::new();
        add(&mut digest, b"url");
        add(&mut digest, backend.as_bytes());
        add(&mut digest, &generation.to_be_bytes());
        for part in [scheme.as_bytes(), authority.as_bytes(), path] {
            add(&mut digest, part);
        }
        let url = format!("{scheme}://{authority}{}", String::from_utf8_lossy(path)).into();
        Self { url, id: digest.finalize().into() }
    }

    /// The key of the answers for the callers of `owner`, such as a tenant; `None` for what all callers share.
    pub fn key_for(&self, owner: Option<&str>) -> Id {
        let mut digest = Sha256::new();
        add(&mut digest, if owner.is_some() { b"owner" } else { b"all" });
        add(&mut digest, &self.id);
        add(&mut digest, owner.unwrap_or_default().as_bytes());
        digest.finalize().into()
    }
}

/// Adds a part with its length, so that the border between two parts counts.
fn add(digest: &mut Sha256, part: &[u8]) {
    digest.update((part.len() as u64).to_be_bytes());
    digest.update(part);
}

/// Returns the place of a variant among the answers of a key; the first one has the place of the key itself.
pub fn place(key: &Id, variance: Option<&[u8; 16]>) -> Id {
    let Some(variance) = variance else { return *key };
    let mut digest = Sha256::new();
    add(&mut digest, key);
    add(&mut digest, variance);
    digest.finalize().into()
}

/// Returns the digest of the fields of the request by which the answer varies (RFC 9111, 4.1); `None` if it names none.
pub fn variance(answer: &HeaderMap, request: &HeaderMap) -> Option<[u8; 16]> {
    let mut names: Vec<HeaderName> = names(answer).filter_map(|name| name.parse().ok()).collect();
    if names.is_empty() {
        return None;
    }
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    let mut digest = Sha256::new();
    for name in &names {
        add(&mut digest, name.as_str().as_bytes());
        // Fields of one name mean the same as one field with their list; white space around its members is of no account.
        let values =
            request.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let values: Vec<&[u8]> = values.map(<[u8]>::trim_ascii).collect();
        add(&mut digest, if request.contains_key(name) { b"1" } else { b"0" });
        add(&mut digest, &values.join(&b","[..]));
    }
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied()
}

/// Returns whether the answer fits no other request.
pub(super) fn varies_by_everything(answer: &HeaderMap) -> bool {
    names(answer).any(|name| name == "*")
}

fn names(answer: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = answer.get_all(VARY).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn each_part_of_the_key_counts() {
        let of = |backend, generation, authority, path: &str| {
            Target::new(backend, generation, "http", authority, path.as_bytes()).id
        };
        let one = of("files", 1, "a.test", "/x");
        let others =
            [of("other", 1, "a.test", "/x"), of("files", 2, "a.test", "/x"), of("files", 1, "b.test", "/x")];
        assert!(others.iter().all(|other| *other != one));
        assert_ne!(of("files", 1, "a.test/", "x"), one);
        assert_ne!(of("files", 1, "a.test", "/x?"), one);
        assert_eq!(of("files", 1, "A.test", "/x"), one);
        let target = Target::new("files", 1, "http", "a.test", b"/x");
        let keys = [target.key_for(None), target.key_for(Some("")), target.key_for(Some("a")), target.id];
        for (at, key) in keys.iter().enumerate() {
            assert!(keys[at + 1..].iter().all(|other| other != key), "{at}");
        }
    }

    #[test]
    fn variants_go_by_the_fields_that_the_answer_names() {
        let request = |fields_of: &[(&'static str, &'static str)]| {
            variance(&fields(&[("vary", "Accept, x-a"), ("vary", "ACCEPT")]), &fields(fields_of))
        };
        let plain = request(&[]);
        assert!(plain.is_some());
        assert_eq!(request(&[("other", "1")]), plain);
        assert_ne!(request(&[("accept", "")]), plain);
        let listed = request(&[("accept", "a,b")]);
        assert_eq!(request(&[("accept", "a"), ("accept", " b")]), listed);
        assert_eq!(request(&[("accept", "a, b")]), listed);
        assert_ne!(request(&[("accept", "b, a")]), listed);
        assert_ne!(request(&[("x-a", "a, b")]), listed);
        assert_eq!(variance(&fields(&[]), &fields(&[("accept", "a")])), None);
        assert!(varies_by_everything(&fields(&[("vary", "accept, *")])));
        assert!(!varies_by_everything(&fields(&[("vary", "accept")])));
    }
}
