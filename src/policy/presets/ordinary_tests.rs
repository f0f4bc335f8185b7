//! What rules of presets find in ordinary texts: those of this repository, as a program reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::tests::{Call, rules};
use crate::policy::facts::Phase;
use crate::policy::presets::PRESETS;
use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::{Element, RuleSet};
use crate::policy::scan::{HIDDEN_TEXT, Work};
use crate::policy::verdict::Verdict;

/// Where texts are about secrets, personal data, attacks and commands, so that what is found in them is right.
const ABOUT: [&str; 11] = [
    "policy",
    "text_border",
    "policies",
    "secret",
    "capture",
    "redact",
    "credential",
    "tests",
    "approvals.md",
    "conformance.md",
    "CHANGELOG.md",
];

fn texts(folder: &Path, on: &mut dyn FnMut(&str, &str)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            texts(&path, on);
        } else if path
            .extension()
            .is_some_and(|end| ["rs", "md", "yaml", "toml"].iter().any(|known| end == *known))
        {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            on(&name, &std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The rules of a preset that find something in a text which a tool has read, and in a file that is written.
fn found(rules: &RuleSet, text: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for (phase, place, role) in [
        (Phase::Request, Place::ToolResult, Role::Tool),
        (Phase::ToolResult, Place::ToolResult, Role::Tool),
        (Phase::ToolCall, Place::ToolArgs, Role::Assistant),
    ] {
        let (Some(patterns), mut hits) = (rules.patterns(phase), Vec::new()) else { continue };
        patterns.whole(text.as_bytes(), &mut Work::new(text.len()), &mut |hit| hits.push(hit));
        hits.retain(|hit| hit.pattern != HIDDEN_TEXT || phase != Phase::ToolCall);
        let mut verdict = Verdict::default();
        let element = Element { role: Some(role), place, hits: &hits, digest: 1 };
        rules.judge(phase, &Call("Write"), &element, &mut verdict);
        ids.extend(verdict.findings.iter().map(|finding| finding.rule.id.to_string()));
    }
    ids
}

#[test]
fn the_table_of_false_positives_in_the_documentation_is_what_happens() {
    let mut finding: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut count = 0;
    let presets = PRESETS.map(|(preset, _)| (preset, rules(preset)));
    for folder in ["src", "docs", "conf", "benches"] {
        texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut |name, text| {
            if ABOUT.iter().any(|about| name.contains(about)) {
                return;
            }
            count += 1;
            for (preset, rules) in &presets {
                for rule in found(rules, text) {
                    finding.entry(rule).or_default().insert(*preset);
                }
            }
        });
    }
    assert!(count > 300, "{count} texts");
    let mut table = String::from("| rule | presets |\n|---|---|\n");
    for (rule, presets) in &finding {
        let presets = presets.iter().copied().collect::<Vec<_>>().join(", ");
        table.push_str(&format!("| `{rule}` | {presets} |\n"));
    }
    crate::policy::doc_tables::hold("ordinary texts", &table);
}
