//! Evaluates checked expressions.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

use super::check::{Node, Operation, Relation};
use super::texts::is_in;
use crate::policy::facts::{Facts, Value};

/// The answer to a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// It depends on something that exists and cannot be read.
    Unknown,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Evaluates a condition. A truth value that is absent is no.
pub(super) fn truth(node: &Node, facts: &dyn Facts) -> Truth {
    match node {
        Node::Bool(value) => (*value).into(),
        Node::Not(inner) => match truth(inner, facts) {
            Truth::Yes => Truth::No,
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
        },
        Node::And(parts) => all(parts, facts, Truth::No),
        Node::Or(parts) => all(parts, facts, Truth::Yes),
        Node::Choice(parts) => {
            let [condition, yes, no] = &**parts;
            match truth(condition, facts) {
                Truth::Yes => truth(yes, facts),
                Truth::No => truth(no, facts),
                Truth::Unknown => Truth::Unknown,
            }
        }
        Node::Compare(relation, sides) => {
            compare(*relation, &value(&sides[0], facts), &value(&sides[1], facts))
        }
        Node::IsOneOf(inner, texts) => {
            on_text(inner, facts, |text| texts.binary_search_by(|one| (**one).cmp(text)).is_ok().into())
        }
        Node::IsOneNumberOf(inner, numbers) => is_one_of(&value(inner, facts), numbers, facts),
        Node::IsIn(inner, list) => on_text(inner, facts, |text| facts.has(*list, text).into()),
        Node::HasKey(inner, map) => on_text(inner, facts, |key| has(&facts.entry(*map, key))),
        Node::Test(test, sides) => on_text(&sides[0], facts, |text| {
            on_text(&sides[1], facts, |other| test.holds(text, other).into())
        }),
        Node::Network(address, network) => {
            on_text(address, facts, |address| is_in(address, network).map_or(Truth::Unknown, Truth::from))
        }
        Node::Has(inner) => has(&value(inner, facts)),
        Node::Fact(_) => match value(node, facts) {
            Value::Bool(holds) => holds.into(),
            Value::Unknown => Truth::Unknown,
            Value::Absent | Value::Int(_) | Value::Float(_) | Value::Text(_) => Truth::No,
        },
        // The check gives these other types, so none of them is asked for its truth.
        Node::Int(_)
        | Node::Float(_)
        | Node::Text(_)
        | Node::Entry(..)
        | Node::Negative(_)
        | Node::Calculate(..)
        | Node::Join(_)
        | Node::Lower(_)
        | Node::Length(_)
        | Node::Count(_) => Truth::Unknown,
    }
}

/// Whether a number is one of these constants.
fn is_one_of(found: &Value<'_>, numbers: &[Node], facts: &dyn Facts) -> Truth {
    let equals = |one: &Node| compare(Relation::Equal, found, &value(one, facts)) == Truth::Yes;
    match found {
        Value::Unknown => Truth::Unknown,
        _ => numbers.iter().any(equals).into(),
    }
}

/// Whether it is there; what cannot be read is there.
fn has(found: &Value<'_>) -> Truth {
    (*found != Value::Absent).into()
}

/// Evaluates parts until one of them is `decisive`; an unknown one counts only if none is (CEL, "Logical Operators").
fn all(parts: &[Node], facts: &dyn Facts, decisive: Truth) -> Truth {
    let mut result = if decisive == Truth::No { Truth::Yes } else { Truth::No };
    for part in parts {
        match truth(part, facts) {
            found if found == decisive => return decisive,
            Truth::Unknown => result = Truth::Unknown,
            Truth::Yes | Truth::No => {}
        }
    }
    result
}

/// Applies a test to a text; an absent one is no.
fn on_text(node: &Node, facts: &dyn Facts, test: impl FnOnce(&str) -> Truth) -> Truth {
    match value(node, facts) {
        Value::Text(text) => test(&text),
        Value::Absent => Truth::No,
        Value::Unknown | Value::Bool(_) | Value::Int(_) | Value::Float(_) => Truth::Unknown,
    }
}

fn compare(relation: Relation, left: &Value<'_>, right: &Value<'_>) -> Truth {
    let order = match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => return Truth::Unknown,
        (Value::Absent, _) | (_, Value::Absent) => return (relation == Relation::Unequal).into(),
        (Value::Text(left), Value::Text(right)) => Some(left.as_bytes().cmp(right.as_bytes())),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
        (left, right) => match (float(left), float(right)) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => None,
        },
    };
    let Some(order) = order else { return Truth::Unknown };
    match relation {
        Relation::Equal => order == Ordering::Equal,
        Relation::Unequal => order != Ordering::Equal,
        Relation::Less => order == Ordering::Less,
        Relation::AtMost => order != Ordering::Greater,
        Relation::Greater => order == Ordering::Greater,
        Relation::AtLeast => order != Ordering::Less,
    }
    .into()
}

fn float(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Absent | Value::Unknown | Value::Bool(_) | Value::Text(_) => None,
    }
}

fn value<'a>(node: &'a Node, facts: &'a dyn Facts) -> Value<'a> {
    match node {
        Node::Int(number) => Value::Int(*number),
        Node::Float(number) => Value::Float(*number),
        Node::Text(text) => Value::Text(Cow::Borrowed(text)),
        Node::Fact(fact) => facts.get(*fact),
        Node::Entry(map, key) => facts.entry(*map, key),
        Node::Negative(inner) => match value(inner, facts) {
            Value::Int(number) => number.checked_neg().map_or(Value::Unknown, Value::Int),
            Value::Float(number) => Value::Float(-number),
            other => other,
        },
        Node::Choice(parts) => {
            let [condition, yes, no] = &**parts;
            match truth(condition, facts) {
                Truth::Yes => value(yes, facts),
                Truth::No => value(no, facts),
                Truth::Unknown => Value::Unknown,
            }
        }
        Node::Calculate(operation, sides) => {
            calculate(*operation, &value(&sides[0], facts), &value(&sides[1], facts))
        }
        Node::Join(sides) => match (value(&sides[0], facts), value(&sides[1], facts)) {
            (Value::Text(left), Value::Text(right)) => Value::Text(Cow::Owned(left.into_owned() + &right)),
            (Value::Unknown, _) | (_, Value::Unknown) => Value::Unknown,
            _ => Value::Absent,
        },
        Node::Lower(inner) => match value(inner, facts) {
            Value::Text(text) => Value::Text(Cow::Owned(text.to_lowercase())),
            other => other,
        },
        Node::Length(inner) => match value(inner, facts) {
            Value::Text(text) => Value::count(text.chars().count() as u64),
            other => other,
        },
        Node::Count(list) => Value::count(facts.count(*list) as u64),
        Node::Bool(_)
        | Node::Not(_)
        | Node::And(_)
        | Node::Or(_)
        | Node::Compare(..)
        | Node::IsOneOf(..)
        | Node::IsOneNumberOf(..)
        | Node::IsIn(..)
        | Node::HasKey(..)
        | Node::Test(..)
        | Node::Network(..)
        | Node::Has(_) => match truth(node, facts) {
            Truth::Yes => Value::Bool(true),
            Truth::No => Value::Bool(false),
            Truth::Unknown => Value::Unknown,
        },
    }
}

/// Calculates; what overflows or divides by zero is unknown, where CEL has an error.
fn calculate<'a>(operation: Operation, left: &Value<'_>, right: &Value<'_>) -> Value<'a> {
    if let (Value::Int(left), Value::Int(right)) = (left, right) {
        let result = match operation {
            Operation::Add => left.checked_add(*right),
            Operation::Subtract => left.checked_sub(*right),
            Operation::Multiply => left.checked_mul(*right),
            Operation::Divide => left.checked_div(*right),
            Operation::Remainder => left.checked_rem(*right),
        };
        return result.map_or(Value::Unknown, Value::Int);
    }
    match (left, right, float(left), float(right)) {
        (.., Some(left), Some(right)) => Value::Float(match operation {
            Operation::Add => left + right,
            Operation::Subtract => left - right,
            Operation::Multiply => left * right,
            Operation::Divide => left / right,
            Operation::Remainder => left % right,
        }),
        (Value::Unknown, ..) | (_, Value::Unknown, ..) => Value::Unknown,
        _ => Value::Absent,
    }
}

/// Appends the text of a part to a name; see [`super::Expression::write_name`].
pub(super) fn write_name(node: &Node, facts: &dyn Facts, name: &mut String) {
    if let Node::Join(sides) = node {
        write_name(&sides[0], facts, name);
        write_name(&sides[1], facts, name);
        return;
    }
    // Writing to a text does not fail.
    let _ = match value(node, facts) {
        Value::Text(text) => name.write_str(&text),
        Value::Int(number) => write!(name, "{number}"),
        Value::Bool(value) => write!(name, "{value}"),
        Value::Float(number) => write!(name, "{number}"),
        Value::Absent | Value::Unknown => Ok(()),
    };
}
