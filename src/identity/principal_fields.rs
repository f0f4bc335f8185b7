//! What the configuration and the API say of a principal: names, tenant and groups, and the lists of what it may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{Labels, Membership};
use crate::model_patterns::{Matcher, Pattern, is_wild};
use crate::settings::fault::Faults;

/// What the ids of people who log in here end with; no issuer has this name.
pub(super) const OWN_NAME: &str = "elida";
/// Longest id, tenant or group, in bytes.
const MAX_NAME: usize = 64;
/// Longest text of a label, in bytes.
pub(super) const MAX_LABEL: usize = 256;

/// The lists of what a principal may use, as written; an empty list permits all.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenLists<'w> {
    pub(super) models: &'w [String],
    pub(super) backends: &'w [String],
    pub(super) tools: &'w [String],
}

/// What a principal may use: models, backends and tools, in this order; `None` is all.
#[derive(Clone, Debug, Default)]
pub(super) struct Permitted {
    pub(super) models: Option<Matcher>,
    pub(super) backends: Option<Matcher>,
    pub(super) tools: Option<Matcher>,
    /// The lists as written, to tell whether new ones are narrower.
    pub(super) written: [Arc<[String]>; 3],
}

impl WrittenLists<'_> {
    /// Compiles the lists at this path of the configuration. `known` are the names of the configured backends.
    pub(super) fn compile(&self, path: &str, known: &[String], faults: &mut Faults) -> Option<Permitted> {
        check_backends(self.backends, path, known, faults);
        let models = patterns(self.models, &format!("{path}.models"), faults);
        let backends = patterns(self.backends, &format!("{path}.backends"), faults);
        let tools = patterns(self.tools, &format!("{path}.tools"), faults);
        let written = [self.models, self.backends, self.tools].map(Into::into);
        Some(Permitted { models: models?, backends: backends?, tools: tools?, written })
    }
}

impl Permitted {
    /// Returns what permits no model, no backend and no tool.
    pub(super) fn nothing(faults: &mut Faults) -> Option<Self> {
        let none = Matcher::compile(Vec::new(), faults)?;
        let [models, backends, tools] = [none.clone(), none.clone(), none].map(Some);
        Some(Self { models, backends, tools, written: Default::default() })
    }

    /// Returns whether it permits less than another one in some list.
    pub(super) fn is_narrower_than(&self, other: &Self) -> bool {
        let is_narrower = |(new, old): (&Arc<[String]>, &Arc<[String]>)| {
            !new.is_empty() && (old.is_empty() || !old.iter().all(|pattern| new.contains(pattern)))
        };
        self.written.iter().zip(&other.written).any(is_narrower)
    }
}

/// Returns tenant, groups and labels; `Some(None)` without any.
pub(super) fn membership(
    tenant: Option<&str>,
    groups: &[String],
    labels: &BTreeMap<String, String>,
    path: &str,
    faults: &mut Faults,
) -> Option<Option<Arc<Membership>>> {
    let tenant = match tenant {
        None => Some(None),
        Some(tenant) => name(tenant, &format!("{path}.tenant"), faults).map(Some),
    };
    let groups = groups.iter().enumerate();
    let groups: Vec<Option<Arc<str>>> =
        groups.map(|(at, group)| name(group, &format!("{path}.groups[{at}]"), faults)).collect();
    let labels: Vec<Option<(Arc<str>, Arc<str>)>> =
        labels.iter().map(|(key, value)| label(key, value, path, faults)).collect();
    let (tenant, groups) = (tenant?, groups.into_iter().collect::<Option<Box<[_]>>>()?);
    Some(Membership::of(tenant, groups, labels.into_iter().collect::<Option<Labels>>()?))
}

fn label(key: &str, value: &str, path: &str, faults: &mut Faults) -> Option<(Arc<str>, Arc<str>)> {
    let path = format!("{path}.labels.{key}");
    let key = name(key, &path, faults)?;
    let is_valid = value.len() <= MAX_LABEL && !value.contains(char::is_control);
    if !is_valid {
        let message = format!("a label has at most {MAX_LABEL} bytes, and no control characters");
        faults.add(path, message, "write a word, such as team: web");
    }
    is_valid.then(|| (key, value.into()))
}

/// Returns the name of a principal, tenant or group.
pub(super) fn name(text: &str, path: &str, faults: &mut Faults) -> Option<Arc<str>> {
    let is_valid = !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@'));
    if !is_valid {
        let message = format!("'{text}' is not a name");
        faults.add(path, message, format!("write 1 to {MAX_NAME} letters, digits, and . _ - @"));
    }
    is_valid.then(|| text.into())
}

/// A pattern that matches no backend is a mistake that would look like a refusal without a reason.
fn check_backends(patterns: &[String], path: &str, backends: &[String], faults: &mut Faults) {
    for (at, text) in patterns.iter().enumerate().filter(|(_, text)| !is_wild(text)) {
        if !backends.iter().any(|backend| backend.eq_ignore_ascii_case(text)) {
            let message = format!("no backend has the name '{text}'");
            faults.add(format!("{path}.backends[{at}]"), message, "name one of backends, or remove it");
        }
    }
}

/// Compiles patterns; `Some(None)` without any, which means that all is allowed.
fn patterns(texts: &[String], path: &str, faults: &mut Faults) -> Option<Option<Matcher>> {
    if texts.is_empty() {
        return Some(None);
    }
    let mut found = Faults::default();
    let pattern = |(at, text)| {
        let place = format!("{path}[{at}]");
        Pattern { text, target: at, path: place, owner: (0, "") }
    };
    let matcher =
        Matcher::compile(texts.iter().map(String::as_str).enumerate().map(pattern).collect(), &mut found);
    let is_valid = found.is_empty();
    faults.absorb(found, |path| path);
    matcher.filter(|_| is_valid).map(Some)
}
