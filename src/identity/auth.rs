//! Client keys and tokens: which one a request shows, and what its holder may do.
//!
//! Keys are looked up by the digest of what a request shows, in a map that a reload replaces as a whole. A credential that
//! begins like a key and is not known is refused: it never counts as a credential of the provider, to which it would be sent.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderMap;
use jiff::Timestamp;
use subtle::ConstantTimeEq;

use super::auth_settings::{AuthConfig, Demand, KeysConfig, PrincipalConfig};
use super::connections::{Connections, Origin};
use super::jwt::own;
use super::jwt::{Jwt, Seen, TokenFault, VerifiedToken};
pub use super::key_documents::MadeKeys;
use super::key_documents::next_generation;
use super::key_fault::KeyFault;
pub use super::key_holder::KeyHolder;
use super::key_text::{self, KeyDigest};
use super::people::{People, PeopleSettings, Person};
use super::principal::{MAX_CREDENTIALS, TooMany};
use super::roles::{Grants, Roles};
pub use super::shown_key::ShownKey;
use crate::ids::{Membership, PrincipalId, Validity};
use crate::protocol::dialects::credentials::credentials;
use crate::settings::acl::Acl;

/// The most parts of a credential that are looked up.
const MAX_PIECES: usize = 8;

/// The keys in force, and whether callers need one.
#[derive(Debug)]
pub struct Auth {
    demand: Demand,
    prefix: String,
    /// As written.
    principals: Vec<PrincipalConfig>,
    holders: HashMap<KeyDigest, Arc<KeyHolder>>,
    /// Of callers without a key: revoked when one is required.
    keyless: Arc<Validity>,
    generation: u64,
    made: Made,
    others: Arc<Others>,
}

/// Who is known beside those whom the configuration declares.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The keys that were made through the API.
    pub keys: Arc<ArcSwap<MadeKeys>>,
    /// The people who log in.
    pub people: Arc<People>,
}

/// Who calls the control API.
#[derive(Clone, Debug)]
pub struct KnownOperator {
    /// The principal.
    pub id: PrincipalId,
    /// Its roles.
    pub grants: Grants,
    /// Its tenant and groups.
    pub membership: Option<Arc<Membership>>,
    /// The account and the log-in of a person who logged in here.
    pub person: Option<(String, String)>,
}

/// What the configuration says of callers beside their keys.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// `None` if no token is accepted.
    pub(super) jwt: Option<Arc<Jwt>>,
    pub(super) connections: Connections,
    pub(super) acl: Acl,
    /// Who may use the control API.
    pub(super) roles: Roles,
    pub(super) people: PeopleSettings,
}

/// What a credential of a request is.
enum Found {
    Key(Arc<KeyHolder>),
    /// It begins like a key and is not known, or was one.
    NoKey,
    Token(Result<Arc<VerifiedToken>, TokenFault>),
    Person(Result<Person, KeyFault>),
}

impl Auth {
    pub(super) fn new(
        demand: Demand,
        prefix: String,
        principals: Vec<PrincipalConfig>,
        holders: HashMap<KeyDigest, Arc<KeyHolder>>,
        others: Others,
    ) -> Self {
        // Without keys a caller does not depend on these settings.
        let generation = if demand == Demand::Off { 0 } else { next_generation() };
        let keyless = Arc::default();
        let (made, others) = (Made::default(), Arc::new(others));
        Self { demand, prefix, principals, holders, keyless, generation, made, others }
    }

    /// Returns the same with the keys that were made through the API and the people who log in. What a key of `before` has opened goes on, unless
    /// the key may do less now.
    pub fn with_made(&self, made: &Made, before: Option<&Self>) -> Arc<Self> {
        let continued = |(digest, holder): (&KeyDigest, &Arc<KeyHolder>)| {
            let old = before.and_then(|before| before.holders.get(digest));
            let old = old.filter(|old| !holder.is_narrower_than(old));
            let holder = old.map_or_else(|| Arc::clone(holder), |old| Arc::new(holder.continuing(old)));
            (*digest, holder)
        };
        let keyless = match before {
            Some(before) if !self.is_required() => Arc::clone(&before.keyless),
            _ => Arc::default(),
        };
        Arc::new(Self {
            demand: self.demand,
            prefix: self.prefix.clone(),
            principals: self.principals.clone(),
            holders: self.holders.iter().map(continued).collect(),
            keyless,
            generation: self.generation,
            made: made.clone(),
            others: Arc::clone(&self.others),
        })
    }

    /// Returns for how long callers without a key are accepted.
    pub fn keyless(&self) -> &Arc<Validity> {
        &self.keyless
    }

    /// Returns whether a key expires after the one time and not after the other, or a token may.
    pub fn expires_between(&self, after: Timestamp, until: Timestamp) -> bool {
        // Tokens are in no table.
        if self.others.jwt.is_some() || self.made.people.is_on() {
            return true;
        }
        let made = self.made.keys.load();
        let mut ends =
            self.holders.values().chain(made.holders.values()).filter_map(|holder| holder.validity.expires());
        ends.any(|at| at > after && at <= until)
    }

    /// Returns the issuers of tokens; `None` if no token is accepted.
    pub fn jwt(&self) -> Option<&Jwt> {
        self.others.jwt.as_deref()
    }

    /// Returns whose connections are accepted.
    pub fn acl(&self) -> &Acl {
        &self.others.acl
    }

    /// Returns whether callers are known by their certificate.
    pub fn reads_certificates(&self) -> bool {
        self.others.connections.reads_certificates()
    }

    /// Takes what `before` has fetched of the same issuers.
    pub fn take_over(&self, before: &Self) {
        if let (Some(jwt), Some(before)) = (&self.others.jwt, &before.others.jwt) {
            jwt.take_over(before);
        }
    }

    pub(super) fn principals(&self) -> &[PrincipalConfig] {
        &self.principals
    }

    /// Returns how keys begin.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the first key of this gateway's own form, or access token of a person, that a text contains; `None` while keys are
    /// not read.
    pub fn key_in<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        if self.is_off() { None } else { key_text::find(text, &self.prefix).or_else(|| own::find(text)) }
    }

    /// Returns a text for a log: of a key of this gateway's own form, and of what follows it, only the first characters stay.
    pub fn without_keys<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match text.find(&self.prefix) {
            None => Cow::Borrowed(text),
            Some(at) => Cow::Owned(format!("{}{}…", &text[..at], key_text::shown(&text[at..]))),
        }
    }

    /// Returns what the configuration says of keys.
    pub fn written(&self) -> AuthConfig {
        let keys = KeysConfig { prefix: self.prefix.clone() };
        AuthConfig { proxy: self.demand, keys, principals: self.principals.clone(), ..AuthConfig::default() }
    }

    /// Returns who holds the declared key with this digest.
    pub(super) fn declared(&self, digest: &KeyDigest) -> Option<Arc<KeyHolder>> {
        self.holders.get(digest).cloned()
    }

    /// Returns who has which role on the control API.
    pub fn roles(&self) -> &Roles {
        &self.others.roles
    }

    /// Returns what the configuration says of people who log in.
    pub fn people(&self) -> &PeopleSettings {
        &self.others.people
    }

    /// Returns who shows this text as a key or token on the control API, and its roles; `None` if the text is neither. Does not
    /// depend on whether the proxy reads them.
    ///
    /// # Errors
    /// The key is not known or damaged, was revoked, or has expired; the token is no good.
    pub fn operator(&self, text: &[u8]) -> Result<Option<KnownOperator>, KeyFault> {
        let person = self.made.people.find(text).transpose()?;
        let holder = person.as_ref().map(|person| Arc::clone(&person.holder));
        let shown = match holder.or_else(|| self.holder(text)) {
            Some(holder) => ShownKey::of_key(holder, text),
            None if text.starts_with(self.prefix.as_bytes()) || self.was_revoked(text) => {
                return Err(self.no_key(text));
            }
            None => match self.look_for_token(text) {
                Seen::Ours(token) => ShownKey::of_token(token?, text),
                Seen::Foreign => return Err(TokenFault::Issuer.into()),
                Seen::Other => return Ok(None),
            },
        };
        shown.check()?;
        let holder = shown.holder();
        let grants = self.others.roles.of(holder.id(), holder.membership().map(|member| &**member));
        let grants = match &person {
            Some(person) => person.grants(grants),
            None => grants,
        };
        let (id, membership) = (holder.id().clone(), holder.membership().cloned());
        let person = person.map(|person| (person.name, person.login));
        Ok(Some(KnownOperator { id, grants, membership, person }))
    }

    /// Returns whether keys are not read.
    pub fn is_off(&self) -> bool {
        self.demand == Demand::Off
    }

    /// Returns whether a request without a key is refused.
    pub fn is_required(&self) -> bool {
        self.demand == Demand::Required
    }

    /// Returns numbers that no other set of keys of this process has; 0 while keys are not read.
    pub fn generation(&self) -> (u64, u64) {
        // Both parts only grow.
        let made = || self.made.keys.load().generation + self.made.people.generation();
        (self.generation, if self.is_off() { 0 } else { made() })
    }

    /// Returns the key or token that a request shows, else the caller that its certificate or address names; `None` without
    /// any, when none is required. Whether a key has expired is for [`ShownKey::check`] to say.
    ///
    /// # Errors
    /// The key is not known or damaged, the token is no good, there are two, or there is none although one is required.
    pub fn shown(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        origin: &Origin<'_>,
    ) -> Result<Option<ShownKey>, KeyFault> {
        if self.is_off() {
            return Ok(None);
        }
        let found = credentials(headers, query);
        if found.len() > MAX_CREDENTIALS {
            return Err(TooMany(found.len()).into());
        }
        let (mut shown, mut is_foreign) = (None, false);
        for text in &found {
            let known = pieces(text).find_map(|piece| Some((Found::Key(self.holder(piece)?), piece)));
            let is_ours = || {
                key_text::may_contain(text, &self.prefix)
                    || own::find(text).is_some()
                    || pieces(text).any(|piece| self.was_revoked(piece))
            };
            let person =
                || pieces(text).find_map(|piece| Some((Found::Person(self.made.people.find(piece)?), piece)));
            let found = match known.or_else(person).or_else(|| is_ours().then_some((Found::NoKey, &**text))) {
                Some(found) => found,
                None => match self.token_among(text, &mut is_foreign) {
                    Some(found) => found,
                    None => continue,
                },
            };
            // Clients send one key in several places, and not always in the same form.
            let (is_key, piece) = (matches!(found.0, Found::Key(_)), found.1);
            if shown.replace(found).is_some_and(|(_, other)| !is_key || other != piece) {
                return Err(KeyFault::Several);
            }
        }
        match shown {
            Some((Found::Key(holder), text)) => Ok(Some(ShownKey::of_key(holder, text))),
            Some((Found::Person(person), text)) => Ok(Some(ShownKey::of_person(person?.holder, text))),
            Some((Found::Token(token), text)) => Ok(Some(ShownKey::of_token(token?, text))),
            Some((Found::NoKey, text)) => Err(self.no_key(text)),
            None => match self.others.connections.holder(origin) {
                Some(holder) => Ok(Some(ShownKey::of_connection(holder))),
                None if self.is_required() && is_foreign => Err(TokenFault::Issuer.into()),
                None if self.is_required() => Err(KeyFault::Missing),
                None => Ok(None),
            },
        }
    }

    /// Returns the token of an issuer in a credential; `is_foreign` is set if there is one of another issuer.
    fn token_among<'t>(&self, text: &'t [u8], is_foreign: &mut bool) -> Option<(Found, &'t [u8])> {
        self.others.jwt.as_ref()?;
        pieces(text).find_map(|piece| match self.look_for_token(piece) {
            Seen::Ours(token) => Some((Found::Token(token), piece)),
            Seen::Foreign => {
                *is_foreign = true;
                None
            }
            Seen::Other => None,
        })
    }

    /// Returns why what begins like a key is none.
    fn no_key(&self, text: &[u8]) -> KeyFault {
        if pieces(text).any(|piece| self.was_revoked(piece)) {
            return KeyFault::Revoked;
        }
        if key_text::is_damaged(text, &self.prefix) { KeyFault::Damaged } else { KeyFault::Unknown }
    }

    /// Revokes those keys of `before` that are not among these or may do less here, and callers without a key if one is
    /// required now. Returns the holders of the keys. The caller cuts what they have opened: a request checks its key again
    /// once it can be cut, so none escapes.
    pub fn revoke_others(&self, before: &Self) -> Vec<PrincipalId> {
        if self.is_off() {
            return Vec::new();
        }
        if self.is_required() && !before.is_required() {
            before.keyless.revoke();
        }
        let mut revoked = Vec::new();
        for (digest, old) in &before.holders {
            match self.holders.get(digest) {
                Some(new) if Arc::ptr_eq(&new.validity, &old.validity) => {
                    old.validity.set_expiry(new.expires)
                }
                _ => {
                    old.revoke();
                    revoked.push(old.id.clone());
                }
            }
        }
        revoked
    }

    /// Returns whether this was a key of the API, of any form, and is revoked.
    fn was_revoked(&self, text: &[u8]) -> bool {
        let made = self.made.keys.load();
        !made.revoked.is_empty() && made.revoked.contains(&KeyDigest::of(text))
    }

    fn look_for_token(&self, text: &[u8]) -> Seen {
        self.others.jwt.as_ref().map_or(Seen::Other, |jwt| jwt.look(text))
    }

    fn holder(&self, text: &[u8]) -> Option<Arc<KeyHolder>> {
        let digest = KeyDigest::of(text);
        find(&self.holders, &digest).or_else(|| find(&self.made.keys.load().holders, &digest))
    }
}

/// Returns the text of a credential, then the parts of it that may be a key: some clients write a scheme, quotes or two
/// schemes where others write the key alone.
fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_between =
        |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b',' | b';' | b'=' | b':');
    let parts = text.split(is_between).filter(move |part| !part.is_empty() && part.len() < text.len());
    std::iter::once(text).chain(parts.take(MAX_PIECES))
}

/// Returns the holder of the key with this digest.
fn find(holders: &HashMap<KeyDigest, Arc<KeyHolder>>, digest: &KeyDigest) -> Option<Arc<KeyHolder>> {
    let (known, holder) = holders.get_key_value(digest)?;
    bool::from(known.as_bytes().ct_eq(digest.as_bytes())).then(|| Arc::clone(holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection by which no caller is known.
    const NOWHERE: Origin<'static> =
        Origin { names: &[], address: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) };
    use crate::settings::fault::Faults;

    fn auth(proxy: &str, keys: &[(&str, &str)]) -> Arc<Auth> {
        let row = |(id, key): &(&str, &str)| {
            format!("  - {{ id: {id}, key_sha256: '{}' }}\n", KeyDigest::of(key.as_bytes()))
        };
        let rows: String = keys.iter().map(row).collect();
        let written: AuthConfig =
            serde_yaml::from_str(&format!("proxy: {proxy}\nprincipals:\n{rows}")).unwrap();
        written.compile(&[], &mut Faults::default()).unwrap()
    }

    fn shown(auth: &Auth, pairs: &[(&'static str, &str)], query: &str) -> Result<Option<String>, KeyFault> {
        let headers =
            pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        let shown = auth.shown(&headers.collect(), Some(query), &NOWHERE)?;
        Ok(shown.map(|shown| shown.holder().id().to_string()))
    }

    #[test]
    fn a_key_is_found_wherever_clients_send_keys() {
        let key = key_text::generate("elida_").unwrap();
        let foreign = "a-key-of-another-gateway-0123456789";
        let auth = auth("optional", &[("ci", key.reveal()), ("old", foreign)]);
        let key = key.reveal();
        let ci = Ok(Some("key:ci".to_owned()));
        for (name, value) in [
            ("authorization", format!("Bearer {key}")),
            ("x-api-key", key.to_owned()),
            ("api-key", key.to_owned()),
            ("x-goog-api-key", key.to_owned()),
            ("x-elida-key", key.to_owned()),
            ("sec-websocket-protocol", format!("realtime, openai-insecure-api-key.{key}")),
        ] {
            assert_eq!(shown(&auth, &[(name, &value)], ""), ci, "{name}");
        }
        assert_eq!(shown(&auth, &[], &format!("alt=sse&key={key}")), ci);
        assert_eq!(shown(&auth, &[("x-elida-key", key), ("authorization", "Bearer sk-1")], ""), ci);
        assert_eq!(shown(&auth, &[("x-elida-key", key), ("x-api-key", key)], ""), ci, "the same one twice");
        assert_eq!(shown(&auth, &[("x-api-key", foreign)], ""), Ok(Some("key:old".to_owned())));
        assert_eq!(shown(&auth, &[("x-api-key", "sk-1")], ""), Ok(None));
    }

    #[test]
    fn what_looks_like_a_key_never_counts_as_anything_else() {
        let [key, other] = [(); 2].map(|()| key_text::generate("elida_").unwrap());
        let (key, other) = (key.reveal(), other.reveal());
        for demand in ["optional", "required"] {
            let auth = auth(demand, &[("ci", key)]);
            assert_eq!(shown(&auth, &[("x-api-key", other)], ""), Err(KeyFault::Unknown));
            assert_eq!(shown(&auth, &[("x-api-key", &key[..20])], ""), Err(KeyFault::Damaged));
            assert_eq!(
                shown(&auth, &[("x-api-key", key), ("x-elida-key", other)], ""),
                Err(KeyFault::Several)
            );
            let digest = KeyDigest::of(key.as_bytes()).to_string();
            assert!(
                !matches!(shown(&auth, &[("x-api-key", &digest)], ""), Ok(Some(_))),
                "a digest is no key"
            );
        }
        let auth = auth("required", &[("ci", key)]);
        assert_eq!(shown(&auth, &[("x-api-key", "sk-1")], ""), Err(KeyFault::Missing));
        let many: Vec<_> = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-auth-token"]
            .into_iter()
            .chain(["x-access-token", "apikey", "xi-api-key", "x-functions-key"])
            .map(|name| (name, name))
            .collect();
        assert_eq!(shown(&auth, &many, ""), Err(KeyFault::TooMany(TooMany(9))));
    }

    #[test]
    fn while_keys_are_off_none_is_read() {
        let key = key_text::generate("elida_").unwrap();
        let auth = auth("off", &[("ci", key.reveal())]);
        assert_eq!(shown(&auth, &[("x-api-key", key.reveal())], ""), Ok(None));
        assert_eq!(auth.generation(), (0, 0));
    }

    #[test]
    fn a_key_that_is_gone_is_revoked_where_it_was_shown() {
        let [key, other] = [(); 2].map(|()| key_text::generate("elida_").unwrap());
        let before = auth("required", &[("ci", key.reveal()), ("kept", other.reveal())]);
        let headers = |key: &str| -> HeaderMap {
            std::iter::once((http::HeaderName::from_static("x-api-key"), key.parse().unwrap())).collect()
        };
        let [gone, kept] =
            [&key, &other].map(|key| before.shown(&headers(key.reveal()), None, &NOWHERE).unwrap().unwrap());
        let after = |after: &Arc<Auth>| after.with_made(&Made::default(), Some(&*before));
        let same = after(&auth("required", &[("ci", key.reveal()), ("kept", other.reveal())]));
        assert!(same.revoke_others(&before).is_empty() && gone.check().is_ok());
        let after = after(&auth("required", &[("kept", other.reveal())]));
        assert_eq!(after.revoke_others(&before), [PrincipalId::new("key:ci")]);
        assert_eq!((gone.check(), kept.check()), (Err(KeyFault::Revoked), Ok(())));
        assert!(auth("off", &[]).revoke_others(&after).is_empty());
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = key_text::generate("elida_").unwrap();
        let auth = auth("required", &[("ci", key.reveal())]);
        let headers =
            std::iter::once((http::HeaderName::from_static("x-api-key"), key.reveal().parse().unwrap()));
        let shown = auth.shown(&headers.collect(), None, &NOWHERE).unwrap();
        let printed = format!("{auth:?} {shown:?}");
        assert!(!printed.contains(key.reveal()) && printed.contains("key:ci"), "{printed}");
    }
}
