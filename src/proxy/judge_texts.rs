//! Judges the texts of a body, element by element, and the results of tools in it. An element in which nothing was found before
//! is not searched again: a turn costs what is new in it. Rules about the facts of results are asked each time.

use super::ask::MAX_TEXT;
use super::judge_call::OfTool;
use super::text_border::{Border, Found as Joined};
use crate::policy::facts::{Facts, Phase, ToolFacts};
use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::{Element, RuleSet};
use crate::policy::scan::{Hit, Judged, Patterns, Work};
use crate::policy::verdict::Verdict;
use crate::protocol::request::segments::{self, CallResult, Reader, Segment};

/// A result that does not say of which call it is.
const UNNAMED: CallResult<'static> =
    CallResult { number: u32::MAX, call_id: None, tool: None, is_error: false, bytes: 0 };

/// What a body says, as far as rules ask.
pub(super) struct Texts<'a> {
    rules: &'a RuleSet,
    facts: &'a dyn Facts,
    table: &'a Judged,
    /// What was clean is so for one caller and one set of rules.
    scope: [&'a [u8]; 2],
    in_request: Option<&'a Patterns>,
    in_results: Option<&'a Patterns>,
    work: Work,
    request: Verdict,
    results: Verdict,
    /// Of the conversation.
    digests: Vec<u64>,
    other_digests: Vec<u64>,
    /// Bytes that were read, and those that were known.
    pub(super) read: u64,
    pub(super) known: u64,
    key: u128,
    is_clean: bool,
    /// No pattern was found in this element before: it is read for the results in it alone.
    is_known: bool,
    hits: Vec<Hit>,
    result: Option<Box<ToolResult>>,
    /// What the result says, for the services that are asked about it; `None` without any.
    said: Option<Vec<u8>>,
    asked: Vec<AskedResult>,
    /// The ends of the texts before, as the rules of either phase read them.
    request_border: Border,
    result_border: Border,
}

/// What was found in the texts of a body.
#[derive(Default)]
pub(super) struct Found {
    /// By the rules `on: request`.
    pub(super) request: Verdict,
    /// By those `on: tool_result`.
    pub(super) results: Verdict,
    /// The elements, those of the conversation first.
    pub(super) digests: Vec<u64>,
    /// How many of these a program repeats when an answer was refused; all, if there is no conversation.
    pub(super) conversation: usize,
    /// Something was not read because a bound was reached.
    pub(super) is_incomplete: bool,
    /// Results that services have not let pass before.
    pub(super) asked: Vec<AskedResult>,
}

/// A result that services are asked about.
pub(super) struct AskedResult {
    /// It is noted by this when they let it pass.
    pub(super) key: u128,
    pub(super) text: Vec<u8>,
    result: Box<ToolResult>,
}

impl AskedResult {
    pub(super) fn facts(&self) -> ToolFacts<'_> {
        self.result.facts()
    }
}

/// The result of a tool that is being read.
struct ToolResult {
    number: u32,
    call_id: Option<String>,
    tool: Option<String>,
    is_error: bool,
    bytes: u64,
}

impl<'a> Texts<'a> {
    /// For a body of `bytes` bytes. `generation` is that of the rules.
    pub(super) fn new(
        rules: &'a RuleSet,
        facts: &'a dyn Facts,
        table: &'a Judged,
        scope: [&'a [u8]; 2],
        bytes: usize,
    ) -> Self {
        Self {
            rules,
            facts,
            table,
            scope,
            in_request: rules.patterns(Phase::Request),
            in_results: rules.patterns(Phase::ToolResult),
            work: Work::new(bytes),
            request: Verdict::default(),
            results: Verdict::default(),
            digests: Vec::new(),
            other_digests: Vec::new(),
            read: 0,
            known: 0,
            key: 0,
            is_clean: true,
            is_known: false,
            hits: Vec::new(),
            result: None,
            said: rules.asks_services(Phase::ToolResult).then(Vec::new),
            asked: Vec::new(),
            request_border: Border::default(),
            result_border: Border::default(),
        }
    }

    /// Judges a text that is no JSON.
    pub(super) fn raw(&mut self, text: &[u8]) {
        let (role, kind) = (Role::User, Place::Text);
        let element = segments::Element { index: 0, role, kind, is_conversation: true, raw: text };
        if self.begin(&element) {
            self.segment(&Segment { role, kind, text, result: None });
            self.end(&element);
        }
    }

    /// Returns what was found.
    pub(super) fn finish(self) -> Found {
        let is_incomplete = self.work.exceeded();
        let mut digests = self.digests;
        let of_conversation = digests.len();
        digests.extend(self.other_digests);
        let conversation = if of_conversation == 0 { digests.len() } else { of_conversation };
        let Self { request, results, asked, .. } = self;
        Found { request, results, digests, conversation, is_incomplete, asked }
    }

    /// Looks for the patterns of requests in a text.
    fn search(&mut self, segment: &Segment<'_>) {
        let Some(patterns) = self.in_request else { return };
        let hits = &mut self.hits;
        hits.clear();
        patterns.whole(segment.text, &mut self.work, &mut |hit| hits.push(hit));
        if !hits.is_empty() {
            self.is_clean = false;
            let Segment { role, kind, text, .. } = *segment;
            let element =
                Element { role: Some(role), place: kind, hits: &self.hits, digest: self.digest(text) };
            self.rules.judge(Phase::Request, self.facts, &element, &mut self.request);
        }
        self.borders(|border, patterns, work, on| border.add(patterns, segment, work, on));
    }

    /// Looks for the patterns of requests over the borders of texts.
    fn borders(&mut self, find: impl FnOnce(&mut Border, &Patterns, &mut Work, &mut dyn FnMut(&Joined<'_>))) {
        let Self { rules, facts, table, scope, is_clean, request, request_border, work, .. } = self;
        let Some(patterns) = self.in_request else { return };
        find(request_border, patterns, work, &mut |joined| {
            *is_clean = false;
            let element = joined.element(table.key(&[scope[0], joined.text]) as u64);
            rules.judge(Phase::Request, *facts, &element, request);
        });
    }

    /// The same of results.
    fn result_borders(
        &mut self,
        find: impl FnOnce(&mut Border, &Patterns, &mut Work, &mut dyn FnMut(&Joined<'_>)),
    ) {
        let Self { rules, facts, table, scope, is_clean, results, result_border, work, .. } = self;
        let (Some(patterns), Some(result)) = (self.in_results, &self.result) else { return };
        let tool = result.facts();
        let facts = OfTool { facts: *facts, tool: &tool };
        find(result_border, patterns, work, &mut |joined| {
            *is_clean = false;
            let element = joined.element(table.key(&[scope[0], joined.text]) as u64);
            rules.judge(Phase::ToolResult, &facts, &element, results);
        });
    }

    /// Tells a text from others, also where the element around it changes.
    fn digest(&self, text: &[u8]) -> u64 {
        (self.table.key(&[self.scope[0], text]) as u64).max(1)
    }

    /// Looks for the patterns of results in a text of one.
    fn search_result(&mut self, segment: &Segment<'_>, result: CallResult<'_>) {
        if self.result.as_ref().is_none_or(|known| known.number != result.number) {
            self.end_result();
            self.result = Some(Box::new(ToolResult {
                number: result.number,
                call_id: result.call_id.map(str::to_owned),
                tool: result.tool.map(str::to_owned),
                is_error: result.is_error,
                bytes: result.bytes as u64,
            }));
        }
        if let Some(said) = &mut self.said {
            let room = (MAX_TEXT + 1).saturating_sub(said.len());
            said.extend_from_slice(&segment.text[..segment.text.len().min(room)]);
        }
        let patterns = self.in_results.filter(|_| !self.is_known);
        let (Some(patterns), Some(result)) = (patterns, &self.result) else { return };
        let hits = &mut self.hits;
        hits.clear();
        patterns.whole(segment.text, &mut self.work, &mut |hit| hits.push(hit));
        if !hits.is_empty() {
            self.is_clean = false;
            let tool = result.facts();
            let facts = OfTool { facts: self.facts, tool: &tool };
            let Segment { role, kind, text, .. } = *segment;
            let element =
                Element { role: Some(role), place: kind, hits: &self.hits, digest: self.digest(text) };
            self.rules.judge(Phase::ToolResult, &facts, &element, &mut self.results);
        }
        self.result_borders(|border, patterns, work, on| border.add(patterns, segment, work, on));
    }

    /// Judges a result whose texts were read by the rules without `match`.
    fn end_result(&mut self) {
        self.result_borders(|border, patterns, work, on| border.end(patterns, work, on));
        let Some(result) = self.result.take() else { return };
        let tool = result.facts();
        let facts = OfTool { facts: self.facts, tool: &tool };
        let (found, undecided) = (self.results.findings.len(), self.results.undecided.len());
        self.rules.finish(Phase::ToolResult, &facts, &mut self.results);
        let digest = match &result.call_id {
            Some(id) => self.digest(id.as_bytes()),
            None => self.digest(&self.key.to_le_bytes()),
        };
        for finding in self.results.findings.iter_mut().skip(found) {
            // The history repeats it: it counts once.
            finding.digest = digest;
        }
        self.is_clean &= found == self.results.findings.len() && undecided == self.results.undecided.len();
        if let Some(said) = &mut self.said {
            let (text, number) = (std::mem::take(said), result.number.to_le_bytes());
            let key = self.table.key(&[
                b"services",
                self.scope[0],
                self.scope[1],
                &self.key.to_le_bytes(),
                &number,
            ]);
            if !self.table.is_clean(key) {
                self.asked.push(AskedResult { key, text, result });
            }
        }
    }
}

impl ToolResult {
    fn facts(&self) -> ToolFacts<'_> {
        ToolFacts {
            name: self.tool.as_deref(),
            call_id: self.call_id.as_deref(),
            is_error: self.is_error,
            bytes: self.bytes,
            source: "model",
            ..ToolFacts::default()
        }
    }
}

impl Reader for Texts<'_> {
    fn begin(&mut self, element: &segments::Element<'_>) -> bool {
        let what = [element.role as u8, element.kind as u8];
        self.key = self.table.key(&[self.scope[0], self.scope[1], &what, element.raw]);
        if element.is_conversation { &mut self.digests } else { &mut self.other_digests }
            .push(self.key as u64);
        self.is_known = self.table.is_clean(self.key);
        if self.is_known {
            self.known += element.raw.len() as u64;
            // The facts of a result change though its text does not: its call may be another one, the session has gone on.
            if !self.rules.asks_facts(Phase::ToolResult) {
                return false;
            }
        } else {
            self.read += element.raw.len() as u64;
        }
        self.is_clean = true;
        true
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        if !self.is_known {
            self.search(segment);
        }
        if segment.kind == Place::ToolResult && self.rules.has(Phase::ToolResult) {
            self.search_result(segment, segment.result.unwrap_or(UNNAMED));
        }
    }

    fn end(&mut self, _: &segments::Element<'_>) {
        self.borders(|border, patterns, work, on| border.end(patterns, work, on));
        self.end_result();
        if self.is_clean && !self.is_known && !self.work.exceeded() {
            self.table.note_clean(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::facts::{Fact, Value};
    use crate::policy::settings::PolicyConfig;
    use crate::protocol::Dialect;
    use crate::settings::fault::Faults;

    /// A session of which only the mark is known.
    struct Session(bool);

    impl Facts for Session {
        fn get(&self, _: Fact) -> Value<'_> {
            Value::Absent
        }

        fn entry(&self, _: Fact, _: &str) -> Value<'_> {
            Value::Bool(self.0)
        }

        fn has(&self, _: Fact, _: &str) -> bool {
            false
        }

        fn count(&self, _: Fact) -> usize {
            0
        }
    }

    fn rules(yaml: &str) -> Arc<RuleSet> {
        let written: PolicyConfig = serde_yaml::from_str(yaml).unwrap();
        written.compile(&mut Faults::default()).unwrap()
    }

    fn turns(tool: &str) -> String {
        let call = serde_json::json!({ "type": "tool_use", "id": "t1", "name": tool, "input": {} });
        let result =
            serde_json::json!({ "type": "tool_result", "tool_use_id": "t1", "content": "the same text" });
        let turns = [("assistant", call), ("user", result)]
            .map(|(role, block)| serde_json::json!({ "role": role, "content": [block] }));
        serde_json::json!({ "messages": turns }).to_string()
    }

    #[test]
    fn a_result_that_was_clean_before_is_asked_for_its_facts_again() {
        let table = Judged::new(1 << 20);
        let found = |rules: &RuleSet, session: Session, body: &str| {
            let mut texts = Texts::new(rules, &session, &table, [b"alice", b"1"], body.len());
            let dialect = Dialect::all().find(|dialect| dialect.name() == "anthropic").unwrap();
            segments::read(body.as_bytes(), dialect, &mut texts);
            let known = texts.known;
            (texts.finish().results.findings.len(), known > 0)
        };
        let of_tool =
            rules("rules: [{ id: a, on: tool_result, when: 'tool.name == \"WebFetch\"', action: block }]");
        assert_eq!(found(&of_tool, Session(false), &turns("Read")), (0, false));
        assert_eq!(
            found(&of_tool, Session(false), &turns("WebFetch")),
            (1, true),
            "the text of another tool"
        );
        let of_mark = rules("rules: [{ id: b, on: tool_result, when: 'session.saw[\"x\"]', action: block }]");
        assert_eq!(found(&of_mark, Session(false), &turns("Grep")).0, 0);
        assert_eq!(found(&of_mark, Session(true), &turns("Grep")), (1, true), "the session has gone on");
    }
}
