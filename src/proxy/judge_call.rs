//! Judges a call of a tool, whoever makes it: a client of MCP, or a model in its answer.

use crate::policy::command_lines::command_lines;
use crate::policy::facts::{Fact, Facts, Phase, Step, ToolFacts, Value};
use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::{Element, RuleSet};
use crate::policy::scan::{Hit, Judged, Patterns, Work};
use crate::policy::verdict::Verdict;
use crate::protocol::Dialect;
use crate::protocol::facts::tools::ToolCall;
use crate::protocol::request::segments::{self, Reader, Segment};

/// Judges a call by the rules `on: tool_call`. `facts` are those of the request, `tool` those of the call.
pub(super) fn call_verdict(
    rules: &RuleSet,
    facts: &dyn Facts,
    tool: &ToolFacts<'_>,
    table: &Judged,
) -> Verdict {
    let facts = OfTool { facts, tool };
    let mut verdict = call_of(rules, &facts, tool.name.unwrap_or_default(), tool.args, table);
    if tool.args_truncated && rules.patterns(Phase::ToolCall).is_some() {
        rules.scan_limit(&mut verdict);
    }
    verdict
}

/// The same of a call whose facts are those of the request already.
pub(super) fn call_of(
    rules: &RuleSet,
    facts: &dyn Facts,
    name: &str,
    args: &[u8],
    table: &Judged,
) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(patterns) = rules.patterns(Phase::ToolCall) {
        let digest = table.key(&[name.as_bytes(), args]) as u64;
        let mut reading = Reading {
            rules,
            facts,
            patterns,
            digest,
            // The arguments may be read three times: as they are, without escapes, and as command lines.
            work: Work::new(name.len() + 3 * args.len()),
            hits: Vec::new(),
            verdict: &mut verdict,
        };
        reading.text(Place::ToolName, name.as_bytes());
        reading.text(Place::ToolArgs, args);
        // The strings in them as they read: with escapes the text above has them otherwise.
        if args.contains(&b'\\') {
            segments::read(args, Dialect::PLAIN, &mut reading);
        }
        command_lines(args, &mut |line| reading.text(Place::ToolArgs, line.as_bytes()));
        if reading.work.exceeded() {
            rules.scan_limit(&mut verdict);
        }
    }
    rules.finish(Phase::ToolCall, facts, &mut verdict);
    verdict
}

/// The facts of a request with those of a call or a result in it.
pub(super) struct OfTool<'a> {
    pub(super) facts: &'a dyn Facts,
    pub(super) tool: &'a ToolFacts<'a>,
}

impl Facts for OfTool<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::ToolName
            | Fact::ToolServer
            | Fact::ToolArgsTruncated
            | Fact::ToolSource
            | Fact::ToolCallId
            | Fact::ToolIsError
            | Fact::ToolBytes => self.tool.get(fact),
            _ => self.facts.get(fact),
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        self.facts.entry(fact, key)
    }

    fn has(&self, fact: Fact, text: &str) -> bool {
        self.facts.has(fact, text)
    }

    fn count(&self, fact: Fact) -> usize {
        self.facts.count(fact)
    }

    fn is_partial(&self, fact: Fact) -> bool {
        self.facts.is_partial(fact)
    }

    fn element(&self, fact: Fact, index: usize) -> Value<'_> {
        self.facts.element(fact, index)
    }

    fn at(&self, fact: Fact, path: &[Step]) -> Value<'_> {
        if fact == Fact::ToolArgs { self.tool.at(path) } else { self.facts.at(fact, path) }
    }
}

/// The facts of a call that a model makes, by each name that programs may read.
pub(super) fn model_calls(call: &ToolCall) -> impl Iterator<Item = ToolFacts<'_>> {
    let named = |name| Some(name).filter(|name: &&str| !name.is_empty());
    let name = named(&*call.name);
    let unclear = (call.name_is_unclear && name.is_some()).then_some(None);
    let (joined, call_id) = (named(&*call.joined_name).map(Some), named(&*call.id));
    std::iter::once(name).chain(unclear).chain(joined).map(move |name| ToolFacts {
        name,
        args: call.arguments.as_bytes(),
        args_truncated: call.truncated,
        source: "model",
        call_id,
        ..ToolFacts::default()
    })
}

struct Reading<'a> {
    rules: &'a RuleSet,
    facts: &'a dyn Facts,
    patterns: &'a Patterns,
    digest: u64,
    work: Work,
    hits: Vec<Hit>,
    verdict: &'a mut Verdict,
}

impl Reading<'_> {
    fn text(&mut self, place: Place, text: &[u8]) {
        let hits = &mut self.hits;
        hits.clear();
        self.patterns.whole(text, &mut self.work, &mut |hit| hits.push(hit));
        let element = Element { role: Some(Role::Assistant), place, hits: &self.hits, digest: self.digest };
        self.rules.judge(Phase::ToolCall, self.facts, &element, self.verdict);
    }
}

impl Reader for Reading<'_> {
    fn begin(&mut self, _: &segments::Element<'_>) -> bool {
        true
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        self.text(Place::ToolArgs, segment.text);
    }

    fn end(&mut self, _: &segments::Element<'_>) {}
}
