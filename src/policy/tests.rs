//! Rules as the file has them, asked with facts.

use std::sync::Arc;

use super::facts::{Fact, Facts, Phase, Step, ToolFacts, Value};
use super::rule::{Action, Mode, Place, Role};
use super::ruleset::{Element, RuleSet};
use super::scan::{HIDDEN_TEXT, Hit, Via, Work};
use super::session_state::{Refused, SessionState};
use super::settings::PolicyConfig;
use super::verdict::Verdict;
use crate::error::ErrorKind;
use crate::settings::fault::Faults;

struct Call(ToolFacts<'static>);

impl Call {
    fn of(name: &'static str, args: &'static str) -> Self {
        Self(ToolFacts { name: Some(name), args: args.as_bytes(), source: "model", ..Default::default() })
    }
}

impl Facts for Call {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::RequestModel => Value::Unknown,
            _ => self.0.get(fact),
        }
    }

    fn entry(&self, _: Fact, _: &str) -> Value<'_> {
        Value::Absent
    }

    fn has(&self, _: Fact, _: &str) -> bool {
        false
    }

    fn count(&self, _: Fact) -> usize {
        0
    }

    fn at(&self, _: Fact, path: &[Step]) -> Value<'_> {
        self.0.at(path)
    }
}

fn compiled(yaml: &str) -> Result<Arc<RuleSet>, String> {
    let written: PolicyConfig = serde_yaml::from_str(yaml).map_err(|fault| fault.to_string())?;
    let mut faults = Faults::default();
    written.compile(&mut faults).ok_or_else(|| faults.to_string())
}

fn rules(yaml: &str) -> Arc<RuleSet> {
    compiled(yaml).unwrap_or_else(|faults| panic!("{yaml}\n{faults}"))
}

fn ids(verdict: &Verdict) -> Vec<&str> {
    verdict.findings.iter().map(|finding| &*finding.rule.id).collect()
}

fn call(rules: &RuleSet, call: &Call) -> Verdict {
    let mut verdict = Verdict::default();
    rules.finish(Phase::ToolCall, call, &mut verdict);
    verdict
}

#[test]
fn rules_are_found_by_their_constant_guards_and_the_strongest_action_wins() {
    let rules = rules(
        r#"
rules:
  - { id: shell, on: tool_call, when: 'tool.name in ["Bash", "shell"] && tool.args.command.contains("rm")', action: block }
  - { id: any-shell, on: tool_call, when: 'tool.name == "Bash"', action: flag }
  - { id: web, on: tool_call, when: '"WebFetch" == tool.name', action: hold }
  - { id: always, on: tool_call, when: 'tool.source == "model"' }
  - { id: after, on: tool_call, when: 'tool.args.x == 1 || tool.name.startsWith("Ba")', action: hold }
  - { id: other-phase, on: request, when: 'true', action: kill }
"#,
    );
    let verdict = call(&rules, &Call::of("Bash", r#"{"command": "rm -rf /"}"#));
    let mut found = ids(&verdict);
    found.sort_unstable();
    assert_eq!(found, ["after", "always", "any-shell", "shell"]);
    assert_eq!(verdict.action(), Some(Action::Block));
    assert_eq!(ids(&call(&rules, &Call::of("WebFetch", ""))), ["web", "always"]);
    assert_eq!(ids(&call(&rules, &Call::of("Read", ""))), ["always"]);
    // A name that is not known may be any: what acts holds, what flags does not.
    let nameless = Call(ToolFacts { source: "model", ..Default::default() });
    let verdict = call(&rules, &nameless);
    let mut found = ids(&verdict);
    found.sort_unstable();
    assert_eq!(found, ["after", "always", "web"], "and the shell's arguments are absent");
    assert!(verdict.findings.iter().any(|finding| finding.unknown));
    assert!(verdict.undecided.iter().any(|rule| *rule.id == *"any-shell"));
}

#[test]
fn audit_acts_on_nothing_and_a_rule_may_say_otherwise() {
    let rules = rules(
        r#"
mode: audit
rules:
  - { id: a, on: tool_call, when: 'tool.name == "Bash"', action: kill }
  - { id: b, on: tool_call, when: 'tool.name == "Bash"', action: hold, mode: enforce }
"#,
    );
    let verdict = call(&rules, &Call::of("Bash", ""));
    assert_eq!((ids(&verdict), verdict.action()), (vec!["a", "b"], Some(Action::Hold)));
    assert_eq!(verdict.findings[0].mode, Mode::Audit);
}

#[test]
fn tools_are_allowed_and_denied_by_name_also_those_of_servers() {
    let rules = rules("tools: { allow: [Read, 'mcp__*'], deny: ['mcp__prod__*'] }");
    let of = |tool: ToolFacts<'static>| ids(&call(&rules, &Call(tool))).join(" ");
    let named = |name| ToolFacts { name: Some(name), source: "model", ..Default::default() };
    assert_eq!(of(named("Read")), "");
    assert_eq!(of(named("Bash")), "tools-allow");
    assert_eq!(of(named("mcp__prod__drop")), "tools-deny");
    assert_eq!(of(named("mcp__git__push")), "");
    assert_eq!(of(ToolFacts { server: Some("prod"), ..named("drop") }), "tools-deny");
    assert_eq!(of(ToolFacts { server: Some("git"), ..named("push") }), "");
    assert_eq!(of(ToolFacts::default()), "tools-deny tools-allow", "a name that is not known");
    // Denied in any case, allowed in one.
    assert_eq!(of(named("MCP__Prod__drop")), "tools-deny tools-allow");
    assert_eq!(of(named("read")), "tools-allow");
    // What is denied is so as it reads, whatever it is written with.
    for spelled in ["mcp__prod__drop ", " MCP__PROD__Drop", "mcp__pro\u{200b}d__drop", "ｍcp__prod__drop"] {
        assert!(of(named(spelled)).starts_with("tools-deny"), "{spelled:?}");
    }
}

#[test]
fn what_is_found_in_a_text_belongs_to_the_rules_that_look_for_it_there() {
    let rules = rules(
        r#"
rules:
  - { id: destroys, on: tool_call, match: { in: tool.args, any: ["terraform destroy", "kubectl delete"] }, action: hold }
  - { id: of-users, on: request, match: { any: ["terraform destroy"] }, when: 'text.role == "user"', action: block }
  - { id: hidden, on: request, match: { in: [text, system], any: [{ detector: hidden-text }] } }
  - { id: both, on: request, when: '"hidden" in findings && "of-users" in findings && findings.exists(f, f == "hidden")' }
"#,
    );
    assert!(rules.patterns(Phase::Response).is_none());
    let patterns = rules.patterns(Phase::Request).expect("patterns");
    let mut hits = Vec::new();
    patterns.whole(b"please run TERRAFORM   destroy", &mut Work::new(1000), &mut |hit| hits.push(hit));
    assert_eq!(hits.len(), 1);
    hits.push(Hit { pattern: HIDDEN_TEXT, start: 0, end: 0, via: Via::Plain });
    let facts = Call::of("Bash", "");
    let mut verdict = Verdict::default();
    let element = Element { role: Some(Role::User), place: Place::Text, hits: &hits, digest: 7 };
    rules.judge(Phase::Request, &facts, &element, &mut verdict);
    rules.judge(Phase::Request, &facts, &element, &mut verdict);
    rules.finish(Phase::Request, &facts, &mut verdict);
    assert_eq!(ids(&verdict), ["of-users", "hidden", "both"]);
    assert_eq!((verdict.findings[0].count, verdict.findings[0].digest), (2, 7));
    let mut verdict = Verdict::default();
    let element = Element { role: Some(Role::Tool), place: Place::ToolResult, ..element };
    rules.judge(Phase::Request, &facts, &element, &mut verdict);
    assert!(verdict.findings.is_empty(), "{:?}", ids(&verdict));
}

#[test]
fn faults_name_the_key_and_the_remedy() {
    for (yaml, expected) in [
        ("rules: [{ id: a, on: request }]", "policy.rules[0]: the rule holds always"),
        ("rules: [{ id: 'a b', on: request, when: 'true' }]", "policy.rules[0].id"),
        (
            "rules: [{ id: a, on: request, when: 'true' }, { id: a, on: turn, when: 'true' }]",
            "another rule is called 'a'",
        ),
        ("rules: [{ id: a, on: request, when: 'true', action: throttle }]", "throttle needs a rate"),
        ("rules: [{ id: a, on: request, when: 'true', rate: 1/s }]", "a rate goes with throttle"),
        ("rules: [{ id: a, on: response, when: 'true', action: throttle, rate: 1/s }]", "slows the requests"),
        ("rules: [{ id: a, on: connect, when: 'true', action: kill }]", "the session has not begun"),
        ("rules: [{ id: a, on: connect, match: { any: [abcd] } }]", "no text is read in this phase"),
        ("rules: [{ id: a, on: request, match: { any: [] } }]", "it looks for nothing"),
        ("rules: [{ id: a, on: request, when: 'text.role == \"user\"' }]", "this rule looks for none"),
        ("rules: [{ id: a, on: tool_result, when: 'tool.args.x == 1' }]", "it is known in: tool_call"),
        ("rules: [{ id: a, on: request, match: { any: [{ regex: '(' }] } }]", "policy.rules[0].match.any[0]"),
        ("disable: [x]", "no rule of the presets is called 'x'"),
        ("score: { throttle: 5, block: 3 }", "the score is not above 5"),
        (
            "rules: [{ id: a, on: request, match: { any: [{ regex: a, detector: b }] } }]",
            "write one of regex and detector",
        ),
        ("rules: [{ id: a, on: request, match: { any: [abcd], in: tool.argz } }]", "tool.argz"),
    ] {
        let faults = compiled(yaml).expect_err(yaml);
        assert!(faults.contains(expected), "{yaml}\n{faults}");
    }
}

#[test]
fn rules_that_never_hold_are_reported() {
    let told = |yaml: &str| {
        let written: PolicyConfig = serde_yaml::from_str(yaml).unwrap();
        let mut faults = Faults::default();
        let is_valid = written.compile(&mut faults).is_some();
        let warnings: Vec<String> = faults.warnings().iter().map(ToString::to_string).collect();
        (is_valid, format!("{faults}{}", warnings.join("\n")))
    };
    for (rule, is_valid, expected) in [
        ("on: request, when: 'false'", true, "policy.rules[0].when: the condition never holds"),
        ("on: tool_call, when: '1 > 2 && tool.name == \"Bash\"'", true, "the condition never holds"),
        (
            "on: tool_call, when: 'tool.name == \"Bash\" && tool.name in [\"sh\", \"zsh\"]'",
            true,
            "the condition never holds",
        ),
        (
            "on: response, match: { in: tool.args, any: [abcd] }",
            false,
            "no text of on: response is in tool.args",
        ),
        (
            "on: tool_call, match: { in: [tool.args, text], any: [abcd] }",
            true,
            "no text of on: tool_call is in text",
        ),
        ("on: request, match: { any: ['\u{200b}\u{200c}\u{200d}'] }", false, "has fewer than 3 characters"),
        ("on: request, match: { any: [{ regex: 'abc^def' }] }", false, "matches no text as it is read"),
        ("on: request, match: { any: [{ regex: 'abc\\bdef' }] }", false, "matches no text as it is read"),
        ("on: request, match: { any: [{ regex: '$abcd' }] }", false, "matches no text as it is read"),
        (
            "on: request, match: { any: [{ regex: 'abc[\\x01\\x02]def' }] }",
            false,
            "matches no text as it is read",
        ),
    ] {
        let (valid, told) = told(&format!("rules: [{{ id: a, {rule} }}]"));
        assert!(valid == is_valid && told.contains(expected), "{rule}: {valid}, {told}");
    }
    for rule in [
        "on: request, when: 'true'",
        "on: tool_call, when: 'tool.name == \"Bash\" && tool.name in [\"Bash\", \"zsh\"]'",
        "on: tool_call, when: 'tool.name == \"a\" || tool.name == \"b\"'",
        "on: tool_result, match: { in: [tool.result, tool.definition], any: [abcd] }",
        "on: request, match: { any: [{ regex: '^ABC  def$' }, { regex: '\\babc\\b-[A-Z]{2}' }, { regex: 'абв[А-Я]', slow: true }] }",
    ] {
        let (valid, told) = told(&format!("rules: [{{ id: a, {rule} }}]"));
        assert!(valid && told.is_empty(), "{rule}: {valid}, {told}");
    }
    for (name, _) in super::presets::PRESETS {
        assert_eq!(told(&format!("presets: [{name}]")), (true, String::new()), "{name}");
    }
}

#[test]
fn presets_are_rules_that_can_be_left_out_and_replaced() {
    for (name, text) in super::presets::PRESETS {
        let rules = rules(&format!("presets: [{name}]"));
        assert!(!rules.is_empty(), "{name} {text}");
    }
    let all = |yaml: &str| {
        let rules = rules(yaml);
        let rules = Phase::ALL.into_iter().flat_map(|phase| rules.rules(phase).to_vec());
        rules.map(|rule| (rule.id.to_string(), rule.origin)).collect::<Vec<_>>()
    };
    let minimal = all("presets: [minimal]");
    assert_eq!(minimal, all("presets: [minimal, minimal]"));
    let (first, _) = &minimal[0];
    assert!(all(&format!("presets: [minimal]\ndisable: [{first}]")).len() < minimal.len());
    let replaced = all(&format!("presets: [minimal]\nrules: [{{ id: {first}, on: turn, when: 'true' }}]"));
    assert_eq!(replaced.iter().find(|(id, _)| id == first).map(|(_, origin)| *origin), Some("file"));
}

#[test]
fn presets_that_are_listed_together_lose_no_rule() {
    let of = |presets: &str, args: &str| {
        let rules = rules(&format!("presets: {presets}"));
        let trial = serde_json::json!({ "on": "tool_call", "facts": { "tool.name": "Bash", "tool.args": { "command": args } } });
        let report = rules.try_on(&serde_json::from_value(trial).unwrap()).unwrap();
        (report.rule.unwrap_or_default(), report.action)
    };
    for presets in ["[strict, coding-agent]", "[coding-agent, strict]", "[strict, coding-agent, mcp]"] {
        let found = |args| of(presets, args);
        let destroys = "destructive-call".to_owned();
        assert_eq!(found("rm -rf /"), (destroys.clone(), Some(Action::Block)), "{presets}");
        assert_eq!(found("npm publish"), (destroys.clone(), Some(Action::Hold)), "{presets}");
        assert_eq!(found("ls"), (String::new(), None), "{presets}");
        let rules = rules(&format!("presets: {presets}"));
        let calls = rules.rules(Phase::ToolCall).iter();
        let origins: Vec<_> = calls.filter(|rule| *rule.id == *destroys).map(|rule| rule.origin).collect();
        assert_eq!(origins.len(), 2, "{origins:?}");
        assert!(origins.contains(&"strict") && origins.contains(&"coding-agent"));
        // What one preset finds wholly is asked once.
        let requests = rules.rules(Phase::Request).iter();
        assert_eq!(requests.filter(|rule| *rule.id == *"hidden-text").count(), 1);
    }
}

#[test]
fn results_are_asked_again_only_for_their_facts() {
    let asks = |yaml: &str| rules(yaml).asks_facts(Phase::ToolResult);
    assert!(asks("rules: [{ id: a, on: tool_result, when: 'tool.name == \"WebFetch\"' }]"));
    assert!(asks("rules: [{ id: a, on: tool_result, when: 'session.risk > 5.0' }]"));
    assert!(!asks("rules: [{ id: a, on: tool_result, when: 'tool.is_error', match: { any: [abcd] } }]"));
    assert!(!asks("rules: [{ id: a, on: tool_call, when: 'tool.name == \"WebFetch\"' }]"));
}

#[test]
fn a_score_halves_in_half_an_hour_and_counts_each_text_once() {
    let rules = rules(
        r#"
score: { throttle: 9, block: 15, kill: 60 }
rules:
  - { id: a, on: request, match: { any: [abcd] }, severity: high, mark: seen }
"#,
    );
    let state = SessionState::default();
    let find = |digest, role| {
        let mut verdict = Verdict::default();
        let hits = [Hit { pattern: 0, start: 0, end: 4, via: Via::Plain }];
        let element = Element { role: Some(role), place: Place::Text, hits: &hits, digest };
        rules.judge(Phase::Request, &Call::of("x", ""), &element, &mut verdict);
        verdict.findings.remove(0)
    };
    assert!(state.count(&find(1, Role::User), 0));
    assert!(!state.count(&find(1, Role::User), 0), "the same text again");
    assert_eq!(state.score(0), 10.0);
    assert!(state.count(&find(2, Role::Assistant), 0));
    assert_eq!((state.score(0), state.score(30 * 60_000)), (13.0, 6.5));
    assert!(state.count(&find(3, Role::System), 0) && state.score(0) == 13.0);
    let of = |score| rules.of_score(score).map(|rule| rule.id.to_string());
    assert_eq!(
        (of(8.9), of(9.0), of(15.0)),
        (None, Some("score-throttle".into()), Some("score-block".into()))
    );
    assert_eq!(of(100.0), Some("score-kill".into()));
    assert!(
        state.saw("seen")
            && !state.saw("other")
            && state.flags().iter().map(|found| found.count).sum::<u64>() == 3
    );
}

#[test]
fn what_was_refused_is_refused_again_for_a_minute() {
    let rule = rules("rules: [{ id: a, on: request, when: 'true', action: block }]").rules(Phase::Request)[0]
        .clone();
    let state = SessionState::default();
    let refused = Refused { rule, message: "no".into(), kind: ErrorKind::PolicyBlocked };
    state.refuse_repeats(Some("sub"), &[3, 1, 2], refused.clone(), 1000);
    let repeats = |agent, digests: &[u64], now| state.repeats(agent, digests, now).is_some();
    assert!(repeats(Some("sub"), &[1, 2, 3], 60_999) && !repeats(Some("sub"), &[1, 2, 3], 61_000));
    assert!(!repeats(None, &[1, 2, 3], 2000), "another agent");
    assert!(!repeats(Some("sub"), &[1, 2], 2000) && !repeats(Some("sub"), &[1, 2, 3, 4], 2000));
    state.refuse_repeats(None, &[], refused.clone(), 1000);
    assert!(!repeats(None, &[], 2000), "a request that is not known by its elements");
    state.refuse_all(refused);
    assert!(repeats(None, &[], 99_000));
}
