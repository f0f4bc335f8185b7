//! Client keys and tokens: which one a request shows, and what its holder may do.
//!
//! Keys are looked up by the digest of what a request shows, in a map that a reload replaces as a whole. A credential that
//! begins like a key and is not known is refused: it never counts as a credential of the provider, to which it would be sent.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderMap;
use jiff::Timestamp;
use subtle::ConstantTimeEq;

use super::auth_settings::{Demand, PrincipalConfig};
use super::connections::{Acl, Connections, Origin};
use super::jwt::{Jwt, Seen, TokenFault, VerifiedToken};
use super::key_fault::KeyFault;
use super::key_text::{self, KeyDigest};
use super::principal::{MAX_CREDENTIALS, TooMany};
use crate::ids::{Membership, PrincipalId};
use crate::model_patterns::Matcher;
use crate::protocol::dialects::credentials::{contains, credentials};

/// The next [`Auth::generation`].
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The keys in force, and whether callers need one.
#[derive(Debug)]
pub struct Auth {
    demand: Demand,
    prefix: String,
    /// As written.
    principals: Vec<PrincipalConfig>,
    holders: HashMap<KeyDigest, Arc<KeyHolder>>,
    generation: u64,
    made: Arc<ArcSwap<MadeKeys>>,
    others: Arc<Others>,
}

/// What the configuration says of callers beside their keys.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// `None` if no token is accepted.
    pub(super) jwt: Option<Arc<Jwt>>,
    pub(super) connections: Connections,
    pub(super) acl: Acl,
}

/// The keys that were made through the API.
#[derive(Debug, Default)]
pub struct MadeKeys {
    holders: HashMap<KeyDigest, Arc<KeyHolder>>,
    /// Digests of revoked keys.
    revoked: HashSet<KeyDigest>,
    generation: u64,
}

impl MadeKeys {
    pub(super) fn new(holders: HashMap<KeyDigest, Arc<KeyHolder>>, revoked: HashSet<KeyDigest>) -> Self {
        Self { holders, revoked, generation: GENERATION.fetch_add(1, Ordering::Relaxed) }
    }

    /// Returns whether a key with this digest is or was in force.
    pub(super) fn is_known(&self, digest: &KeyDigest) -> bool {
        self.holders.contains_key(digest) || self.revoked.contains(digest)
    }
}

/// A caller with a key or a token, and what it may do.
#[derive(Debug)]
pub struct KeyHolder {
    pub(super) id: PrincipalId,
    pub(super) membership: Option<Arc<Membership>>,
    /// `None` allows all.
    pub(super) models: Option<Matcher>,
    /// `None` allows all.
    pub(super) backends: Option<Matcher>,
    pub(super) expires: Option<Timestamp>,
    /// Set once, when the key is no longer among those in force.
    pub(super) is_revoked: AtomicBool,
    /// The minute of its last use since 1970; 0 before one.
    pub(super) last_used: AtomicI64,
}

/// The key or token that a request shows, or its caller without one.
#[derive(Clone)]
pub struct ShownKey {
    holder: Arc<KeyHolder>,
    /// `None` for a caller that is known by its connection.
    text: Option<Box<[u8]>>,
    /// `None` for anything but a token.
    token: Option<Arc<VerifiedToken>>,
}

/// What a credential of a request is.
enum Found {
    Key(Arc<KeyHolder>),
    /// It begins like a key and is not known, or was one.
    NoKey,
    Token(Result<Arc<VerifiedToken>, TokenFault>),
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
        let generation = if demand == Demand::Off { 0 } else { GENERATION.fetch_add(1, Ordering::Relaxed) };
        let (made, others) = (Arc::default(), Arc::new(others));
        Self { demand, prefix, principals, holders, generation, made, others }
    }

    /// Returns the same with the keys that were made through the API.
    pub fn with_made(&self, made: &Arc<ArcSwap<MadeKeys>>) -> Arc<Self> {
        let (prefix, principals, holders) =
            (self.prefix.clone(), self.principals.clone(), self.holders.clone());
        let Self { demand, generation, .. } = *self;
        let (made, others) = (Arc::clone(made), Arc::clone(&self.others));
        Arc::new(Self { demand, prefix, principals, holders, generation, made, others })
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

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns who holds the declared key with this digest.
    pub(super) fn declared(&self, digest: &KeyDigest) -> Option<Arc<KeyHolder>> {
        self.holders.get(digest).cloned()
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
        (self.generation, if self.is_off() { 0 } else { self.made.load().generation })
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
            let found = match self.holder(text) {
                Some(holder) => Found::Key(holder),
                None if text.starts_with(self.prefix.as_bytes()) || self.was_imported(text) => Found::NoKey,
                None => match self.others.jwt.as_ref().map_or(Seen::Other, |jwt| jwt.look(text)) {
                    Seen::Ours(token) => Found::Token(token),
                    Seen::Foreign => {
                        is_foreign = true;
                        continue;
                    }
                    Seen::Other => continue,
                },
            };
            if shown.replace((found, &**text)).is_some() {
                return Err(KeyFault::Several);
            }
        }
        match shown {
            Some((Found::Key(holder), text)) => {
                Ok(Some(ShownKey { holder, text: Some(text.into()), token: None }))
            }
            Some((Found::Token(token), text)) => Ok(Some(ShownKey::of_token(token?, text))),
            Some((Found::NoKey, text)) => Err(self.no_key(text)),
            None => match self.others.connections.holder(origin) {
                Some(holder) => Ok(Some(ShownKey { holder, text: None, token: None })),
                None if self.is_required() && is_foreign => Err(TokenFault::Issuer.into()),
                None if self.is_required() => Err(KeyFault::Missing),
                None => Ok(None),
            },
        }
    }

    /// Returns why what begins like a key is none.
    fn no_key(&self, text: &[u8]) -> KeyFault {
        if self.made.load().revoked.contains(&KeyDigest::of(text)) {
            return KeyFault::Revoked;
        }
        if key_text::is_damaged(text, &self.prefix) { KeyFault::Damaged } else { KeyFault::Unknown }
    }

    /// Revokes those keys of `before` that are not among these. Returns their holders, whose open requests the caller cuts:
    /// a request checks its key again once it can be cut, so none escapes.
    pub fn revoke_others(&self, before: &Self) -> Vec<PrincipalId> {
        if self.is_off() || before.is_off() {
            return Vec::new();
        }
        let gone = before.holders.iter().filter(|(digest, _)| !self.holders.contains_key(digest));
        gone.map(|(_, holder)| {
            holder.revoke();
            holder.id.clone()
        })
        .collect()
    }

    /// Returns whether this was a key, though it does not begin like one: it was imported, and is revoked.
    fn was_imported(&self, text: &[u8]) -> bool {
        let made = self.made.load();
        !made.revoked.is_empty() && made.revoked.contains(&KeyDigest::of(text))
    }

    fn holder(&self, text: &[u8]) -> Option<Arc<KeyHolder>> {
        let digest = KeyDigest::of(text);
        find(&self.holders, &digest).or_else(|| find(&self.made.load().holders, &digest))
    }
}

/// Returns the holder of the key with this digest.
fn find(holders: &HashMap<KeyDigest, Arc<KeyHolder>>, digest: &KeyDigest) -> Option<Arc<KeyHolder>> {
    let (known, holder) = holders.get_key_value(digest)?;
    bool::from(known.as_bytes().ct_eq(digest.as_bytes())).then(|| Arc::clone(holder))
}

impl KeyHolder {
    /// Returns a caller that may use all models and backends.
    pub(super) fn unlimited(
        id: PrincipalId,
        membership: Option<Arc<Membership>>,
        expires: Option<Timestamp>,
    ) -> Self {
        let (is_revoked, last_used) = (AtomicBool::new(false), AtomicI64::new(0));
        Self { id, membership, models: None, backends: None, expires, is_revoked, last_used }
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Revokes the key wherever it was shown.
    pub(super) fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Release);
    }

    /// Returns the minute of its last use; `None` before one.
    pub(super) fn last_used(&self) -> Option<Timestamp> {
        let minute = Some(self.last_used.load(Ordering::Relaxed)).filter(|minute| *minute != 0);
        Timestamp::from_second(minute? * 60).ok()
    }

    /// Returns its principal: `key:ID`, `user:SUBJECT@ISSUER`, `cert:NAME` or `network:ID`.
    pub fn id(&self) -> &PrincipalId {
        &self.id
    }

    /// Returns its tenant and groups; `None` if it has neither.
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// Returns whether it may use some models only.
    pub fn limits_models(&self) -> bool {
        self.models.is_some()
    }

    /// Returns whether it may use this model.
    pub fn may_use_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.matches(model))
    }

    /// Returns whether it may use this backend.
    pub fn may_use_backend(&self, backend: &str) -> bool {
        self.backends.as_ref().is_none_or(|backends| backends.matches(backend))
    }
}

impl ShownKey {
    fn of_token(token: Arc<VerifiedToken>, text: &[u8]) -> Self {
        let holder = KeyHolder::unlimited(token.id.clone(), token.membership.clone(), Some(token.expires));
        Self { holder: Arc::new(holder), text: Some(text.into()), token: Some(token) }
    }

    /// Returns whether it need not be looked up again: a token is verified once a minute.
    pub fn is_fresh(&self) -> bool {
        self.token.as_ref().is_none_or(|token| token.is_fresh())
    }

    /// Returns who holds the key.
    pub fn holder(&self) -> &KeyHolder {
        &self.holder
    }

    /// Returns the key itself, to find it in a request; `None` if its caller is known by its connection.
    pub fn text(&self) -> Option<&[u8]> {
        self.text.as_deref()
    }

    /// Returns whether a field's value contains the key.
    pub fn is_in(&self, value: &[u8]) -> bool {
        self.text.as_deref().is_some_and(|text| contains(value, text))
    }

    /// Checks that the key is still valid.
    ///
    /// # Errors
    /// It has expired or was revoked.
    pub fn check(&self) -> Result<(), KeyFault> {
        if self.holder.is_revoked.load(Ordering::Acquire) {
            return Err(KeyFault::Revoked);
        }
        let now = Timestamp::now();
        let minute = now.as_second() / 60;
        if self.holder.last_used.load(Ordering::Relaxed) != minute {
            self.holder.last_used.store(minute, Ordering::Relaxed);
        }
        match self.holder.expires {
            Some(at) if at <= now && self.token.is_some() => Err(TokenFault::Expired.into()),
            Some(at) if at <= now => Err(KeyFault::Expired { id: self.holder.id.clone(), at }),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShownKey").field("holder", &self.holder.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::auth_settings::AuthConfig;
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
        let same = auth("required", &[("ci", key.reveal()), ("kept", other.reveal())]);
        assert!(same.revoke_others(&before).is_empty() && gone.check().is_ok());
        let after = auth("required", &[("ci", other.reveal())]);
        assert_eq!(after.revoke_others(&before), [PrincipalId::new("key:ci")]);
        assert_eq!(
            (gone.check(), kept.check()),
            (Err(KeyFault::Revoked), Ok(())),
            "the digest counts, not the id"
        );
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
