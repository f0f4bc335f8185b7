//! Turns the claims of a verified token into a caller.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::tokens::TokenFault;
use crate::identity::principal::shown;
use crate::ids::{Labels, Membership, PrincipalId};

/// Longest tenant or group, in bytes.
const MAX_NAME: usize = 256;

/// Which claims say who calls: a name, or a path with dots (`realm_access.roles`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimNames {
    pub(super) id: String,
    /// `None` for callers without a tenant.
    pub(super) tenant: Option<String>,
    /// `None` for callers without groups.
    pub(super) groups: Option<String>,
    /// Claims that become labels, which are called as the claims are.
    pub(super) labels: Vec<Arc<str>>,
}

impl ClaimNames {
    /// Returns the principal, `user:SUBJECT@ISSUER`, and where it belongs.
    ///
    /// # Errors
    /// A claim is missing, or is not what it should be. Missing groups are no groups; a group that cannot be read is an
    /// error, because a rule may deny by it.
    pub(super) fn caller(
        &self,
        claims: &Map<String, Value>,
        issuer: &str,
    ) -> Result<(PrincipalId, Option<Arc<Membership>>), TokenFault> {
        let subject = at(claims, &self.id).and_then(Value::as_str).filter(|subject| !subject.is_empty());
        let subject = subject.ok_or_else(|| TokenFault::Claim(self.id.clone()))?;
        let id = PrincipalId::new(format!("user:{}@{issuer}", shown(subject)));
        let tenant = match &self.tenant {
            None => None,
            Some(claim) => {
                let tenant = at(claims, claim).and_then(Value::as_str).and_then(name);
                Some(tenant.ok_or_else(|| TokenFault::Claim(claim.clone()))?)
            }
        };
        let groups = match &self.groups {
            None => Box::default(),
            Some(claim) => groups(at(claims, claim)).ok_or_else(|| TokenFault::Claim(claim.clone()))?,
        };
        let labels = self.labels.iter().filter_map(|claim| label(claim, at(claims, claim)));
        let labels = labels.collect::<Result<Labels, _>>()?;
        Ok((id, Membership::of(tenant, groups, labels)))
    }
}

/// Returns the claim with this name, else the one at this path.
fn at<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    claims.get(path).or_else(|| {
        let mut steps = path.split('.');
        let first = claims.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(step))
    })
}

fn name(text: &str) -> Option<Arc<str>> {
    let is_good = !text.is_empty() && text.len() <= MAX_NAME && !text.contains(char::is_control);
    is_good.then(|| text.into())
}

/// Returns the groups: a list of names, or one text with spaces between them.
fn groups(claim: Option<&Value>) -> Option<Box<[Arc<str>]>> {
    match claim {
        None | Some(Value::Null) => Some(Box::default()),
        Some(Value::String(text)) => text.split_whitespace().map(name).collect(),
        Some(Value::Array(list)) => list.iter().map(|group| name(group.as_str()?)).collect(),
        Some(_) => None,
    }
}

/// The name of a label and its value.
type Label = (Arc<str>, Arc<str>);

/// Returns a label; `None` if the token has no such claim.
fn label(claim: &Arc<str>, value: Option<&Value>) -> Option<Result<Label, TokenFault>> {
    let text = match value {
        None | Some(Value::Null) => return None,
        Some(Value::String(text)) => name(text),
        Some(Value::Bool(_) | Value::Number(_)) => value.map(|value| value.to_string().into()),
        Some(Value::Array(_) | Value::Object(_)) => None,
    };
    let label = text.map(|text| (Arc::clone(claim), text));
    Some(label.ok_or_else(|| TokenFault::Claim(claim.to_string())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn caller(claims: &Value) -> Result<(String, Option<Membership>), TokenFault> {
        let names = ClaimNames {
            id: "sub".into(),
            tenant: Some("https://a.example/org".into()),
            groups: Some("realm.roles".into()),
            labels: vec!["team".into(), "realm.level".into()],
        };
        let (id, membership) = names.caller(claims.as_object().unwrap(), "idp")?;
        Ok((id.to_string(), membership.map(|membership| (*membership).clone())))
    }

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let (id, membership) = caller(&json!({
            "sub": "auth0|ada@x.example", "https://a.example/org": "acme", "realm": {"roles": ["a b", "c"]},
        }))
        .unwrap();
        assert_eq!(id, "user:auth0|ada@x.example@idp");
        let membership = membership.unwrap();
        assert_eq!(membership.tenant.as_deref(), Some("acme"));
        assert_eq!(&*membership.groups, ["a b".into(), "c".into()]);
        let spaced = json!({"sub": "1", "https://a.example/org": "acme", "realm": {"roles": "x y"}});
        assert_eq!(caller(&spaced).unwrap().1.unwrap().groups.len(), 2);
        let none = json!({"sub": "1", "https://a.example/org": "acme"});
        assert!(caller(&none).unwrap().1.unwrap().groups.is_empty());
    }

    #[test]
    fn claims_become_labels() {
        let labels = |claims: Value| caller(&claims).map(|(_, found)| found.unwrap_or_default().labels);
        let org = "https://a.example/org";
        let found = labels(json!({"sub": "1", org: "acme", "team": "web", "realm": {"level": 3}})).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(found, [("realm.level", "3"), ("team", "web")]);
        assert!(labels(json!({"sub": "1", org: "acme"})).unwrap().is_empty());
        for team in [json!(["a"]), json!({}), json!("a\nb"), json!("")] {
            let refused = labels(json!({"sub": "1", org: "acme", "team": team}));
            assert_eq!(refused, Err(TokenFault::Claim("team".into())));
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_an_absence() {
        let fault = |claims: Value| caller(&claims).unwrap_err();
        let sub = || TokenFault::Claim("sub".into());
        assert_eq!(fault(json!({"https://a.example/org": "acme"})), sub());
        assert_eq!(fault(json!({"sub": "", "https://a.example/org": "acme"})), sub());
        assert_eq!(fault(json!({"sub": 7, "https://a.example/org": "acme"})), sub());
        assert_eq!(fault(json!({"sub": "1"})), TokenFault::Claim("https://a.example/org".into()));
        for roles in [json!(["a", 7]), json!({"a": 1}), json!([""]), json!(["a\nb"]), json!(7)] {
            let claims = json!({"sub": "1", "https://a.example/org": "acme", "realm": {"roles": roles}});
            assert_eq!(fault(claims), TokenFault::Claim("realm.roles".into()), "{roles}");
        }
    }

    #[test]
    fn no_subject_is_taken_for_another() {
        let id = |subject: &str| caller(&json!({"sub": subject, "https://a.example/org": "acme"})).unwrap().0;
        let strange = id("a b");
        assert!(
            strange.starts_with("user:#") && strange.ends_with("@idp") && strange.is_ascii(),
            "{strange}"
        );
        let copied = strange.strip_prefix("user:").unwrap().strip_suffix("@idp").unwrap();
        assert_ne!(id(copied), strange);
        assert_ne!(id("ä"), id("ö"));
        assert_ne!(id(&"x".repeat(129)), id(&"x".repeat(130)));
    }
}
