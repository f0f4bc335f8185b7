//! The tools that an MCP server lists in an answer: those that may not be called are taken out of it, and those that are defined
//! in another way than before are a finding.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use super::facts::RequestFacts;
use super::judge_answer::Hearing;
use crate::policy::arguments::arguments_digest;
use crate::policy::facts::{Phase, ToolFacts};
use crate::protocol::answer::tool_lists::ToolLists;
use crate::protocol::wire::framing::Framing;

impl Hearing<'_> {
    /// Looks at a unit of an answer that may list tools, and returns what leaves in its place.
    pub(super) fn listed(&mut self, unit: Bytes, framing: Framing) -> Bytes {
        if framing == Framing::Opaque {
            // It is compressed.
            self.limit();
            return unit;
        }
        let lists = ToolLists::read(&unit, framing == Framing::Sse);
        if lists.tools().next().is_none() {
            return unit;
        }
        self.compare(&lists);
        if !self.rules.hides_tools() {
            return unit;
        }
        lists.without(&unit, |name| self.is_denied(name)).map_or(unit, Bytes::from)
    }

    /// Notes how tools are defined, and what follows where that has changed.
    fn compare(&mut self, lists: &ToolLists) {
        let ends = self.with.ends;
        let server = ends.route.backend.settings().name().as_str();
        for (name, definition) in lists.tools() {
            let digest = arguments_digest(definition);
            match ends.leg.session().policy_state().redefines(server, name, &digest) {
                Some(false) => {}
                None => self.limit(),
                Some(true) => {
                    let mut hasher = DefaultHasher::new();
                    (server, name, digest).hash(&mut hasher);
                    let verdict = self.rules.tool_redefined(hasher.finish().max(1));
                    let tool = tool(server, name);
                    self.follow(Phase::ToolResult, &verdict, Some(&tool), false);
                }
            }
        }
    }

    /// Whether the caller may not call this tool, whatever the arguments.
    fn is_denied(&self, name: &str) -> bool {
        let ends = self.with.ends;
        let tool = tool(ends.route.backend.settings().name().as_str(), name);
        let facts = RequestFacts { tool: Some(&tool), ..self.facts };
        let key = ends.who.caller.key.as_ref();
        key.is_some_and(|key| !key.holder().may_use_tool(name)) || self.rules.denies_tool(&facts)
    }
}

fn tool<'a>(server: &'a str, name: &'a str) -> ToolFacts<'a> {
    ToolFacts { name: Some(name), server: Some(server), source: "client", ..ToolFacts::default() }
}
