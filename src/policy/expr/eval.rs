//! Evaluates checked expressions.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

use super::check::{Node, Operation, Quantifier, Relation, Root};
use super::texts::is_in;
use crate::policy::facts::{Facts, Step, Type, Value};
use crate::policy::json::Json;

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

/// What an expression is evaluated with.
#[derive(Clone, Copy)]
pub(super) struct Env<'a> {
    facts: &'a dyn Facts,
    /// The element of the list that is being gone through.
    element: Option<&'a Value<'a>>,
}

impl<'a> Env<'a> {
    pub(super) fn new(facts: &'a dyn Facts) -> Self {
        Self { facts, element: None }
    }

    fn at(self, root: Root, path: &'a [Step]) -> Value<'a> {
        match (root, self.element) {
            (Root::Fact(fact), _) => self.facts.at(fact, path),
            (Root::Element, Some(Value::Json(json))) => json.at(path),
            (Root::Element, Some(element)) if path.is_empty() => element.reborrow(),
            (Root::Element, _) => Value::Unknown,
        }
    }
}

/// Evaluates a condition. A truth value that is absent is no.
pub(super) fn truth(node: &Node, env: Env<'_>) -> Truth {
    match node {
        Node::Bool(value) => (*value).into(),
        Node::Not(inner) => match truth(inner, env) {
            Truth::Yes => Truth::No,
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
        },
        Node::And(parts) => all(parts, env, Truth::No),
        Node::Or(parts) => all(parts, env, Truth::Yes),
        Node::Choice(parts) => {
            let [condition, yes, no] = &**parts;
            match truth(condition, env) {
                Truth::Yes => truth(yes, env),
                Truth::No => truth(no, env),
                Truth::Unknown => Truth::Unknown,
            }
        }
        Node::Compare(relation, sides) => compare(*relation, &value(&sides[0], env), &value(&sides[1], env)),
        Node::IsOneOf(inner, texts) => {
            on_text(inner, env, |text| texts.binary_search_by(|one| (**one).cmp(text)).is_ok().into())
        }
        Node::IsOneNumberOf(inner, numbers) => is_one_of(&value(inner, env), numbers, env),
        Node::IsIn(inner, list) => on_text(inner, env, |text| match env.facts.has(*list, text) {
            false if env.facts.is_partial(*list) => Truth::Unknown,
            found => found.into(),
        }),
        Node::HasKey(inner, map) => on_text(inner, env, |key| has(&env.facts.entry(*map, key))),
        Node::Test(test, sides) => {
            on_text(&sides[0], env, |text| on_text(&sides[1], env, |other| test.holds(text, other).into()))
        }
        Node::Network(address, network) => {
            on_text(address, env, |address| is_in(address, network).map_or(Truth::Unknown, Truth::from))
        }
        Node::Has(inner) => has(&value(inner, env)),
        Node::Matches(inner, pattern) => on_text(inner, env, |text| pattern.is_in(text).into()),
        Node::IsInJson(sides) => is_in_json(&value(&sides[0], env), &value(&sides[1], env)),
        Node::Each(quantifier, sides) => each(*quantifier, &sides[0], &sides[1], env),
        Node::Fact(_) | Node::Entry(..) | Node::At(..) | Node::Calculate(..) => match value(node, env) {
            Value::Bool(holds) => holds.into(),
            Value::Absent => Truth::No,
            Value::Unknown | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) => {
                Truth::Unknown
            }
        },
        // The check gives these other types, so none of them is asked for its truth.
        Node::Int(_)
        | Node::Float(_)
        | Node::Text(_)
        | Node::Negative(_)
        | Node::Join(_)
        | Node::Lower(_)
        | Node::Length(_)
        | Node::Count(_) => Truth::Unknown,
    }
}

/// Whether a number is one of these constants.
fn is_one_of(found: &Value<'_>, numbers: &[Node], env: Env<'_>) -> Truth {
    let equals = |one: &Node| compare(Relation::Equal, found, &value(one, env)) == Truth::Yes;
    match found {
        Value::Int(_) | Value::Float(_) => numbers.iter().any(equals).into(),
        Value::Absent => Truth::No,
        Value::Unknown | Value::Bool(_) | Value::Text(_) | Value::Json(_) => Truth::Unknown,
    }
}

/// Whether a list has the element, or an object the member. What is neither is unknown.
fn is_in_json(found: &Value<'_>, json: &Value<'_>) -> Truth {
    match (found, json) {
        (Value::Unknown, _) | (_, Value::Unknown) => Truth::Unknown,
        (Value::Absent, _) | (_, Value::Absent) => Truth::No,
        (found, Value::Json(Json::List(elements))) => {
            let equals = |element: &Json| compare(Relation::Equal, found, &element.value()) == Truth::Yes;
            elements.iter().any(equals).into()
        }
        (Value::Text(name), Value::Json(Json::Object(members))) => {
            members.iter().any(|(known, _)| **known == **name).into()
        }
        _ => Truth::Unknown,
    }
}

/// Asks for the elements of a list. An absent list has none.
fn each(quantifier: Quantifier, list: &Node, condition: &Node, env: Env<'_>) -> Truth {
    let decisive = if quantifier == Quantifier::Exists { Truth::Yes } else { Truth::No };
    let mut result = if decisive == Truth::No { Truth::Yes } else { Truth::No };
    let mut ask = |element: &Value<'_>| {
        match truth(condition, Env { facts: env.facts, element: Some(element) }) {
            found if found == decisive => return true,
            Truth::Unknown => result = Truth::Unknown,
            Truth::Yes | Truth::No => {}
        }
        false
    };
    let is_decided = match list {
        Node::Fact(list) if list.kind() == Type::List => {
            let found = (0..env.facts.count(*list)).any(|index| ask(&env.facts.element(*list, index)));
            if !found && env.facts.is_partial(*list) {
                return Truth::Unknown;
            }
            found
        }
        _ => match value(list, env) {
            Value::Json(Json::List(elements)) => elements.iter().any(|element| ask(&element.value())),
            Value::Absent => false,
            _ => return Truth::Unknown,
        },
    };
    if is_decided { decisive } else { result }
}

/// Whether it is there; what cannot be read is there.
fn has(found: &Value<'_>) -> Truth {
    (*found != Value::Absent).into()
}

/// Evaluates parts until one of them is `decisive`; an unknown one counts only if none is (CEL, "Logical Operators").
fn all(parts: &[Node], env: Env<'_>, decisive: Truth) -> Truth {
    let mut result = if decisive == Truth::No { Truth::Yes } else { Truth::No };
    for part in parts {
        match truth(part, env) {
            found if found == decisive => return decisive,
            Truth::Unknown => result = Truth::Unknown,
            Truth::Yes | Truth::No => {}
        }
    }
    result
}

/// Applies a test to a text; an absent one is no.
fn on_text(node: &Node, env: Env<'_>, test: impl FnOnce(&str) -> Truth) -> Truth {
    match value(node, env) {
        Value::Text(text) => test(&text),
        Value::Absent => Truth::No,
        Value::Unknown | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Json(_) => Truth::Unknown,
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
        Value::Absent | Value::Unknown | Value::Bool(_) | Value::Text(_) | Value::Json(_) => None,
    }
}

fn value<'a>(node: &'a Node, env: Env<'a>) -> Value<'a> {
    match node {
        Node::Int(number) => Value::Int(*number),
        Node::Float(number) => Value::Float(*number),
        Node::Text(text) => Value::Text(Cow::Borrowed(text)),
        Node::Fact(fact) => env.facts.get(*fact),
        Node::Entry(map, key) => env.facts.entry(*map, key),
        Node::At(root, path) => env.at(*root, path),
        Node::Negative(inner) => match value(inner, env) {
            Value::Int(number) => number.checked_neg().map_or(Value::Unknown, Value::Int),
            Value::Float(number) => Value::Float(-number),
            Value::Absent => Value::Absent,
            Value::Unknown | Value::Bool(_) | Value::Text(_) | Value::Json(_) => Value::Unknown,
        },
        Node::Choice(parts) => {
            let [condition, yes, no] = &**parts;
            match truth(condition, env) {
                Truth::Yes => value(yes, env),
                Truth::No => value(no, env),
                Truth::Unknown => Value::Unknown,
            }
        }
        Node::Calculate(operation, sides) => {
            calculate(*operation, &value(&sides[0], env), &value(&sides[1], env))
        }
        Node::Join(sides) => match (value(&sides[0], env), value(&sides[1], env)) {
            (Value::Text(left), Value::Text(right)) => Value::Text(Cow::Owned(left.into_owned() + &right)),
            (Value::Unknown, _) | (_, Value::Unknown) => Value::Unknown,
            (Value::Absent, _) | (_, Value::Absent) => Value::Absent,
            _ => Value::Unknown,
        },
        Node::Lower(inner) => match value(inner, env) {
            Value::Text(text) => Value::Text(Cow::Owned(text.to_lowercase())),
            Value::Absent => Value::Absent,
            _ => Value::Unknown,
        },
        Node::Length(inner) => length(&value(inner, env)),
        Node::Count(list) if env.facts.is_partial(*list) => Value::Unknown,
        Node::Count(list) => Value::count(env.facts.count(*list) as u64),
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
        | Node::Matches(..)
        | Node::IsInJson(_)
        | Node::Each(..)
        | Node::Has(_) => match truth(node, env) {
            Truth::Yes => Value::Bool(true),
            Truth::No => Value::Bool(false),
            Truth::Unknown => Value::Unknown,
        },
    }
}

fn length<'a>(of: &Value<'_>) -> Value<'a> {
    match of {
        Value::Text(text) => Value::count(text.chars().count() as u64),
        Value::Json(Json::List(elements)) => Value::count(elements.len() as u64),
        Value::Json(Json::Object(members)) => Value::count(members.len() as u64),
        Value::Absent => Value::Absent,
        _ => Value::Unknown,
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
    if let (Value::Text(left), Value::Text(right), Operation::Add) = (left, right, operation) {
        return Value::Text(Cow::Owned(format!("{left}{right}")));
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
        (Value::Absent, ..) | (_, Value::Absent, ..) => Value::Absent,
        _ => Value::Unknown,
    }
}

/// Appends the text of a part to a name; see [`super::Expression::write_name`].
pub(super) fn write_name(node: &Node, env: Env<'_>, name: &mut String) {
    if let Node::Join(sides) = node {
        write_name(&sides[0], env, name);
        write_name(&sides[1], env, name);
        return;
    }
    // Writing to a text does not fail.
    let _ = match value(node, env) {
        Value::Text(text) => name.write_str(&text),
        Value::Int(number) => write!(name, "{number}"),
        Value::Bool(value) => write!(name, "{value}"),
        Value::Float(number) => write!(name, "{number}"),
        Value::Absent | Value::Unknown | Value::Json(_) => Ok(()),
    };
}
