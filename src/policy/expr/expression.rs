//! A compiled expression.

use super::check::{Checker, Node, Root};
use super::eval::{Env, Truth, truth, write_name};
use super::lexer::tokens;
use super::never::is_never;
use super::parser::parse;
use crate::policy::facts::{Fact, Facts, Phase, Type};

/// The longest expression, in bytes.
const MAX_SOURCE: usize = 2 << 10;
/// The most parts of an expression.
pub(super) const MAX_NODES: usize = 256;
/// How deep parts may be nested.
pub(super) const MAX_DEPTH: usize = 16;

/// Why an expression cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFault {
    /// Where, in bytes from the beginning of the expression.
    pub at: usize,
    /// What is wrong.
    pub message: String,
    /// How to fix it; empty for no hint.
    pub hint: String,
}

impl SourceFault {
    pub(super) fn new(at: usize, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: hint.into() }
    }
}

/// A checked expression. Evaluating it allocates only for texts that it joins or lowers.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Box<str>,
    node: Node,
    is_later: bool,
}

impl Expression {
    /// Compiles a condition whose facts are those of `known`.
    ///
    /// # Errors
    /// The first fault, with its position.
    pub fn condition(source: &str, known: Phase) -> Result<Self, SourceFault> {
        Self::compile(source, known, |kind| match kind {
            Type::Bool | Type::Any => None,
            _ => Some(("a condition is true or false", "compare it with something")),
        })
    }

    /// Compiles the name of a counter whose facts are those of `known`.
    ///
    /// # Errors
    /// The first fault, with its position.
    pub fn name(source: &str, known: Phase) -> Result<Self, SourceFault> {
        Self::compile(source, known, |kind| match kind {
            Type::Text | Type::Int | Type::Bool => None,
            Type::Float | Type::List | Type::Map | Type::Marks | Type::Any => {
                Some(("the name of a counter is a text", "write principal.id, or join texts with +"))
            }
        })
    }

    fn compile(
        source: &str,
        known: Phase,
        refuse: impl FnOnce(Type) -> Option<(&'static str, &'static str)>,
    ) -> Result<Self, SourceFault> {
        if source.len() > MAX_SOURCE {
            let message = format!("the expression has {} bytes, the most are {MAX_SOURCE}", source.len());
            return Err(SourceFault::new(MAX_SOURCE, message, "split it into several rules"));
        }
        if source.trim().is_empty() {
            return Err(SourceFault::new(0, "the expression is empty", "write a fact, such as principal.id"));
        }
        let parsed = parse(tokens(source)?, source.len())?;
        let mut checker = Checker::new(known);
        let (node, kind) = checker.check(&parsed)?;
        if let Some((wanted, hint)) = refuse(kind) {
            return Err(SourceFault::new(
                parsed.at,
                format!("{wanted}, and this is {}", kind.a_name()),
                hint,
            ));
        }
        Ok(Self { source: source.into(), node, is_later: checker.is_later })
    }

    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The first phase of a request that knows all its facts.
    pub fn phase(&self) -> Phase {
        if self.is_later { Phase::Request } else { Phase::Connect }
    }

    /// Returns the texts of which a fact must be one for the condition to hold, if it says so: of several such facts, the
    /// first.
    pub(in crate::policy) fn guard(&self) -> Option<(Fact, Vec<&str>)> {
        let parts = match &self.node {
            Node::And(parts) => &**parts,
            one => std::slice::from_ref(one),
        };
        parts.iter().find_map(Node::guard)
    }

    /// Whether it holds for no facts at all.
    pub(in crate::policy) fn is_never(&self) -> bool {
        is_never(&self.node)
    }

    /// Whether it asks for a fact.
    pub fn asks_for(&self, fact: Fact) -> bool {
        self.node.any(&|node| {
            matches!(node, Node::Fact(found) | Node::Entry(found, _) | Node::IsIn(_, found) | Node::HasKey(_, found)
                | Node::Count(found) | Node::At(Root::Fact(found), _) if *found == fact)
        })
    }

    /// Returns the expression if it asks for nothing that only rules have read.
    ///
    /// # Errors
    /// It does.
    pub fn outside_rules(self) -> Result<Self, SourceFault> {
        let fact = Fact::RequestSystemDigest;
        if self.asks_for(fact) {
            let message = format!("{} is known to rules only", fact.name());
            return Err(SourceFault::new(0, message, "ask for it in a rule of policy"));
        }
        Ok(self)
    }

    /// Evaluates a condition.
    pub fn truth(&self, facts: &dyn Facts) -> Truth {
        truth(&self.node, Env::new(facts))
    }

    /// Appends the name that the expression gives to a request. A part that is absent or cannot be read is empty, so that
    /// requests without it share one name: leaving a header out must not lead past a limit.
    pub fn write_name(&self, facts: &dyn Facts, name: &mut String) {
        write_name(&self.node, Env::new(facts), name);
    }
}
