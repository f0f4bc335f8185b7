//! Suppressions: findings that an operator has looked at and that count for nothing until some time. Each is a document with a
//! revision, stored before it is in force; one that is taken back stays as a tombstone, so that no older copy revives it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::SharedDocument;
use crate::ids::documents::{ChangeError, Document, Documents, IN_FORCE, MAX_DOCUMENTS, Store, TAKEN_BACK};

/// How the ids begin.
const PREFIX: &str = "supp_";

/// What is suppressed: findings of a rule, those of one principal, of one session or in one text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scope {
    /// The rule.
    pub rule: String,
    /// Only requests of this principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Only requests of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Only findings in this text, by the `digest` of the finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A suppression, as it is stored and shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suppression {
    /// Its id.
    pub id: String,
    /// Grows with each change.
    pub revision: u64,
    /// What is suppressed.
    #[serde(flatten)]
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
    /// When it was made.
    pub made: Timestamp,
    /// Who made it.
    pub by: String,
    /// The tenant that its maker is bound to; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<String>>,
    /// The principal that made it, whose own requests it does not free; absent for the control token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_for: Option<String>,
    /// When it was taken back; absent while it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<Timestamp>,
}

/// Who makes a suppression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maker {
    /// As it is shown.
    pub by: String,
    /// The tenants that the maker is bound to; `None` for all.
    pub tenants: Option<Vec<String>>,
    /// The maker, if it is a principal.
    pub not_for: Option<String>,
}

/// What a finding is about, as far as suppressions ask.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The caller.
    pub principal: &'a str,
    /// The tenant of the caller.
    pub tenant: Option<&'a str>,
    /// The session.
    pub session: Option<&'a str>,
}

impl Suppression {
    fn covers(&self, rule: &str, digest: u64, about: About<'_>) -> bool {
        let Scope { rule: suppressed, digest: only, .. } = &self.scope;
        *suppressed == *rule
            && self.concerns(about)
            && only.as_ref().is_none_or(|only| digest != 0 && *only == shown(digest))
    }

    /// Whether it is about this caller and session.
    fn concerns(&self, about: About<'_>) -> bool {
        let Scope { principal, session, .. } = &self.scope;
        let is_tenant = |tenants: &Vec<String>| {
            about.tenant.is_some_and(|tenant| tenants.iter().any(|known| known == tenant))
        };
        self.not_for.as_deref() != Some(about.principal)
            && self.tenants.as_ref().is_none_or(is_tenant)
            && principal.as_ref().is_none_or(|principal| *principal == *about.principal)
            && session.as_ref().is_none_or(|session| about.session == Some(session))
    }
}

/// The digest of a text as findings show it.
pub fn shown(digest: u64) -> String {
    format!("{digest:016x}")
}

impl Document for Suppression {
    const SHARED: &'static str = "suppression:";

    fn id(&self) -> &str {
        &self.id
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn made(&self) -> Timestamp {
        self.made
    }

    fn until(&self) -> Timestamp {
        self.until
    }

    fn taken_back(&self) -> Option<Timestamp> {
        self.taken_back
    }

    fn take_back(self, now: Timestamp) -> Self {
        Self { revision: TAKEN_BACK, taken_back: Some(now), ..self }
    }

    fn read(text: &str) -> Option<Self> {
        let document: Self = serde_json::from_str(text).ok()?;
        document.id.starts_with(PREFIX).then_some(document)
    }
}

/// Why a suppression was not made or taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuppressionError {
    /// There are too many.
    #[error("there are {MAX_DOCUMENTS} suppressions, which is the most; take back those that are not needed")]
    Full,
    /// There is no such suppression in force.
    #[error("no suppression in force has the id '{0}'")]
    Unknown(String),
    /// The document cannot be stored.
    #[error("the suppression cannot be stored, so nothing was changed: {0}")]
    Storage(String),
}

/// All suppressions.
pub struct Suppressions {
    /// Those in force; empty in most gateways.
    in_force: Arc<ArcSwap<Vec<Suppression>>>,
    all: Documents<Suppression>,
}

impl Suppressions {
    /// Reads the stored documents. One that cannot be read is logged and suppresses nothing.
    pub fn new(stored: &[String], store: Store) -> Self {
        let in_force: Arc<ArcSwap<Vec<Suppression>>> = Arc::default();
        let published = Arc::clone(&in_force);
        let publish = move |now: &mut dyn Iterator<Item = &Suppression>| {
            published.store(Arc::new(now.cloned().collect()));
        };
        let suppressions = Self { in_force, all: Documents::new(store, publish) };
        suppressions.learn(stored);
        suppressions
    }

    /// None, which are kept nowhere.
    pub fn none() -> Self {
        Self::new(&[], Box::new(|_| Ok(())))
    }

    /// Whether a finding of this rule counts for nothing.
    pub fn suppress(&self, rule: &str, digest: u64, about: About<'_>, now: Timestamp) -> bool {
        let all = self.in_force.load();
        all.iter().any(|one| one.is_in_force(now) && one.covers(rule, digest, about))
    }

    /// Whether some findings of this rule, perhaps only in one text, are suppressed now.
    pub fn concern(&self, rule: &str, about: About<'_>, now: Timestamp) -> bool {
        let all = self.in_force.load();
        all.iter().any(|one| one.scope.rule == rule && one.is_in_force(now) && one.concerns(about))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.in_force.load().is_empty()
    }

    /// Suppresses findings until some time. Blocks. Returns the suppression, and its document for the other processes.
    ///
    /// # Errors
    /// There are too many, or it cannot be stored.
    pub fn add(
        &self,
        scope: Scope,
        reason: String,
        until: Timestamp,
        by: Maker,
    ) -> Result<(Suppression, SharedDocument), SuppressionError> {
        let id = format!("{PREFIX}{}", Uuid::now_v7().simple());
        let Maker { by, tenants, not_for } = by;
        let made = Timestamp::now();
        let document = Suppression {
            id,
            revision: IN_FORCE,
            scope,
            reason,
            until,
            made,
            by,
            tenants,
            not_for,
            taken_back: None,
        };
        self.all.add(document).map_err(|fault| SuppressionError::of(fault, ""))
    }

    /// Takes a suppression back, if it is one that `may` be. Blocks.
    ///
    /// # Errors
    /// There is no such suppression in force, or the change cannot be stored.
    pub fn take_back(
        &self,
        id: &str,
        may: impl Fn(&Suppression) -> bool,
    ) -> Result<(Suppression, SharedDocument), SuppressionError> {
        self.all.take_back(id, may).map_err(|fault| SuppressionError::of(fault, id))
    }

    /// Returns those in force, the oldest first.
    pub fn all(&self) -> Vec<Suppression> {
        self.all.in_force(|_| true)
    }

    /// Whether a document is one of a suppression.
    pub fn is_one(document: &str) -> bool {
        Suppression::read(document).is_some()
    }

    /// Whether a document is one of a suppression that is no longer needed.
    pub fn is_over(document: &str) -> bool {
        Suppression::read(document).is_some_and(|one| one.is_over(Timestamp::now()))
    }

    /// Returns all documents that others may need.
    pub fn documents(&self) -> Vec<SharedDocument> {
        self.all.shared()
    }

    /// Takes documents of other processes. Returns those that were new here, for [`Suppressions::store`].
    pub fn learn(&self, documents: &[String]) -> Vec<SharedDocument> {
        let unread = || tracing::warn!("a suppression cannot be read and suppresses nothing here");
        self.all.learn(documents, unread)
    }

    /// Stores documents that were learned. Blocks.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, documents: &[SharedDocument]) -> Result<(), String> {
        self.all.store(documents)
    }
}

impl SuppressionError {
    fn of(fault: ChangeError, id: &str) -> Self {
        match fault {
            ChangeError::Full => Self::Full,
            ChangeError::Unknown => Self::Unknown(id.to_owned()),
            ChangeError::Storage(why) => Self::Storage(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ABOUT: About<'_> = About { principal: "key:ci", tenant: Some("acme"), session: Some("s") };

    fn maker(tenants: Option<Vec<String>>) -> Maker {
        Maker { by: "ada".into(), tenants, not_for: None }
    }

    fn later() -> Timestamp {
        Timestamp::now().checked_add(Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn a_suppression_covers_what_it_names_and_ends() {
        let all = Suppressions::none();
        let scope = |principal: &str, digest: Option<u64>| Scope {
            rule: "a".into(),
            principal: (!principal.is_empty()).then(|| principal.into()),
            session: None,
            digest: digest.map(shown),
        };
        let now = Timestamp::now();
        let (made, _) = all.add(scope("key:ci", Some(7)), "seen".into(), later(), maker(None)).unwrap();
        assert!(all.suppress("a", 7, ABOUT, now) && !all.suppress("a", 8, ABOUT, now));
        assert!(!all.suppress("b", 7, ABOUT, now) && !all.suppress("a", 0, ABOUT, now));
        assert!(!all.suppress("a", 7, About { principal: "key:other", ..ABOUT }, now));
        assert!(!all.suppress("a", 7, ABOUT, later()), "it has ended");
        assert!(all.take_back(&made.id, |_| false).is_err(), "of another tenant");
        all.take_back(&made.id, |_| true).unwrap();
        assert!(!all.suppress("a", 7, ABOUT, now) && all.all().is_empty());
        let of_tenant = Some(vec!["acme".into()]);
        all.add(scope("", None), "seen".into(), later(), maker(of_tenant)).unwrap();
        assert!(all.suppress("a", 0, ABOUT, now));
        assert!(!all.suppress("a", 0, About { tenant: None, ..ABOUT }, now));
    }

    #[test]
    fn what_an_operator_suppresses_does_not_free_its_own_requests() {
        let all = Suppressions::none();
        for (principal, session) in [(None, None), (None, Some("s")), (Some("key:ci"), None)] {
            let (principal, session) = (principal.map(str::to_owned), session.map(str::to_owned));
            let scope = Scope { rule: "a".into(), principal, session, digest: None };
            let not_for = Some("key:ci".to_owned());
            all.add(scope, "mine".into(), later(), Maker { not_for, ..maker(None) }).unwrap();
        }
        let now = Timestamp::now();
        assert!(!all.suppress("a", 0, ABOUT, now));
        assert!(all.suppress("a", 0, About { principal: "key:other", ..ABOUT }, now));
    }

    #[test]
    fn no_older_copy_revives_one_that_was_taken_back() {
        let (here, there) = (Suppressions::none(), Suppressions::none());
        let scope = Scope { rule: "a".into(), ..Scope::default() };
        let (made, document) = here.add(scope, "seen".into(), later(), maker(None)).unwrap();
        assert_eq!(there.learn(std::slice::from_ref(&document.text)).len(), 1);
        let (_, gone) = there.take_back(&made.id, |_| true).unwrap();
        assert_eq!(here.learn(&[gone.text]).len(), 1);
        assert_eq!(here.learn(&[document.text]).len(), 0);
        assert!(here.all().is_empty() && here.documents().len() == 1);
        let failing = Suppressions::new(&[], Box::new(|_| Err("full".into())));
        let scope = Scope { rule: "a".into(), ..Scope::default() };
        assert!(failing.add(scope, "".into(), later(), maker(None)).is_err() && failing.is_empty());
    }
}
