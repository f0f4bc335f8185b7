//! Conditions that hold for no facts.

use super::check::{Node, Root};
use super::eval::{Env, Truth, truth};
use crate::policy::facts::{Fact, Facts, Value};

/// No facts, for what asks for none.
struct Nothing;

impl Facts for Nothing {
    fn get(&self, _: Fact) -> Value<'_> {
        Value::Absent
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
}

/// Whether a condition never holds: a part that must is constant, or two parts want different texts of one fact.
pub(super) fn is_never(node: &Node) -> bool {
    let parts = match node {
        Node::And(parts) => &**parts,
        one => std::slice::from_ref(one),
    };
    let is_false = |part: &Node| !part.any(&asks) && truth(part, Env::new(&Nothing)) == Truth::No;
    let guards: Vec<_> = parts.iter().filter_map(Node::guard).collect();
    let differ = |(at, (fact, texts)): (usize, &(Fact, Vec<&str>))| {
        let mut others = guards[at + 1..].iter().filter(|(other, _)| other == fact);
        others.any(|(_, others)| !others.iter().any(|text| texts.contains(text)))
    };
    parts.iter().any(is_false) || guards.iter().enumerate().any(differ)
}

fn asks(node: &Node) -> bool {
    matches!(
        node,
        Node::Fact(_)
            | Node::Entry(..)
            | Node::IsIn(..)
            | Node::HasKey(..)
            | Node::Count(_)
            | Node::At(Root::Fact(_), _)
    )
}
