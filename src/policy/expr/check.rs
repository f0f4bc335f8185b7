//! Gives every part of an expression its type, and names their slots.

use ipnet::IpNet;

use super::expression::SourceFault;
use super::parser::{Expr, Kind};
use super::texts::TextTest;
use crate::policy::facts::{Fact, Phase, Type};
use crate::settings::nearest::did_you_mean;

/// A checked part.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Fact(Fact),
    /// An entry of a map.
    Entry(Fact, Box<str>),
    Not(Box<Node>),
    Negative(Box<Node>),
    And(Box<[Node]>),
    Or(Box<[Node]>),
    /// Condition, and the values for yes and no.
    Choice(Box<[Node; 3]>),
    Compare(Relation, Box<[Node; 2]>),
    Calculate(Operation, Box<[Node; 2]>),
    /// Joins two texts.
    Join(Box<[Node; 2]>),
    /// Whether a text is one of these, which are sorted.
    IsOneOf(Box<Node>, Box<[Box<str>]>),
    /// Whether a number is one of these.
    IsOneNumberOf(Box<Node>, Box<[Node]>),
    /// Whether a text is in a list of the request.
    IsIn(Box<Node>, Fact),
    /// Whether a map has the key.
    HasKey(Box<Node>, Fact),
    Test(TextTest, Box<[Node; 2]>),
    Network(Box<Node>, IpNet),
    Lower(Box<Node>),
    /// Characters of a text.
    Length(Box<Node>),
    /// Elements of a list.
    Count(Fact),
    /// Whether the request has it.
    Has(Box<Node>),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// A calculation with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Parts of the names of fields that may carry a credential.
const CREDENTIALS: [&str; 5] = ["authorization", "cookie", "key", "token", "secret"];

/// Checks the parts of one expression.
pub(super) struct Checker {
    known: Phase,
    phase: Phase,
}

pub(super) type Checked = Result<(Node, Type), SourceFault>;

pub(super) fn fault<T>(at: usize, message: String, hint: impl Into<String>) -> Result<T, SourceFault> {
    Err(SourceFault::new(at, message, hint))
}

impl Checker {
    pub(super) fn new(known: Phase) -> Self {
        Self { known, phase: Phase::Connect }
    }

    /// The latest phase of the facts so far.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Checks a part and all below it.
    ///
    /// # Errors
    /// The first fault: an unknown name, or a wrong type.
    pub(super) fn check(&mut self, expr: &Expr) -> Checked {
        Ok(match &expr.kind {
            Kind::Bool(value) => (Node::Bool(*value), Type::Bool),
            Kind::Int(number) => (Node::Int(*number), Type::Int),
            Kind::Float(number) => (Node::Float(*number), Type::Float),
            Kind::Text(text) => (Node::Text(text.as_str().into()), Type::Text),
            Kind::List(_) => {
                return fault(
                    expr.at,
                    "a list is only used behind `in`".into(),
                    "write name in [\"a\", \"b\"]",
                );
            }
            Kind::Name(_) | Kind::Member(..) | Kind::Index(..) => return self.fact(expr),
            Kind::Call { name, arguments, is_method } => {
                return self.call(expr.at, name, arguments, *is_method);
            }
            Kind::Not(inner) => (Node::Not(Box::new(self.of(inner, Type::Bool)?)), Type::Bool),
            Kind::Negative(inner) => {
                let (node, kind) = self.number(inner)?;
                (Node::Negative(Box::new(node)), kind)
            }
            Kind::And(parts) => (Node::And(self.conditions(parts)?), Type::Bool),
            Kind::Or(parts) => (Node::Or(self.conditions(parts)?), Type::Bool),
            Kind::Choice(parts) => return self.choice(parts),
            Kind::Binary("in", sides) => return self.membership(&sides[0], &sides[1]),
            Kind::Binary(sign, sides) => match relation(sign) {
                Some(relation) => return self.compare(expr.at, relation, &sides[0], &sides[1]),
                None => return self.calculate(expr.at, sign, &sides[0], &sides[1]),
            },
        })
    }

    /// Checks a part that must have this type.
    pub(super) fn of(&mut self, expr: &Expr, wanted: Type) -> Result<Node, SourceFault> {
        let (node, found) = self.check(expr)?;
        if found == wanted {
            return Ok(node);
        }
        fault(expr.at, format!("this is {}, and {} is needed", found.a_name(), wanted.a_name()), "")
    }

    fn number(&mut self, expr: &Expr) -> Checked {
        let (node, kind) = self.check(expr)?;
        match kind.is_number() {
            true => Ok((node, kind)),
            false => fault(expr.at, format!("this is {}, and a number is needed", kind.a_name()), ""),
        }
    }

    fn conditions(&mut self, parts: &[Expr]) -> Result<Box<[Node]>, SourceFault> {
        parts.iter().map(|part| self.of(part, Type::Bool)).collect()
    }

    fn choice(&mut self, [condition, yes, no]: &[Expr; 3]) -> Checked {
        let condition = self.of(condition, Type::Bool)?;
        let (yes, kind) = self.check(yes)?;
        let no = self.of(no, kind)?;
        Ok((Node::Choice(Box::new([condition, yes, no])), kind))
    }

    fn compare(&mut self, at: usize, relation: Relation, left: &Expr, right: &Expr) -> Checked {
        let ((left, kind), (right, other)) = (self.check(left)?, self.check(right)?);
        if kind != other && !(kind.is_number() && other.is_number()) {
            let hint = match [kind, other].contains(&Type::List) {
                true => "ask whether it is in the list: \"build\" in principal.groups",
                false => "",
            };
            let message = format!("{} is never equal to {}", kind.a_name(), other.a_name());
            return fault(at, message, hint);
        }
        let is_ordered = !matches!(kind, Type::Bool | Type::List | Type::Map);
        let is_equality = matches!(relation, Relation::Equal | Relation::Unequal);
        if !(is_ordered || kind == Type::Bool && is_equality) {
            let hint = if kind == Type::List { "ask for one text: \"a\" in the list" } else { "" };
            return fault(at, format!("{} cannot be compared so", kind.a_name()), hint);
        }
        Ok((Node::Compare(relation, Box::new([left, right])), Type::Bool))
    }

    fn calculate(&mut self, at: usize, sign: &str, left: &Expr, right: &Expr) -> Checked {
        let operation = match sign {
            "+" => Operation::Add,
            "-" => Operation::Subtract,
            "*" => Operation::Multiply,
            "/" => Operation::Divide,
            _ => Operation::Remainder,
        };
        let ((left, kind), (right, other)) = (self.check(left)?, self.check(right)?);
        let both = Box::new([left, right]);
        if operation == Operation::Add && kind == Type::Text && other == Type::Text {
            return Ok((Node::Join(both), Type::Text));
        }
        if !kind.is_number() || !other.is_number() {
            let message = format!("'{sign}' does not go with {} and {}", kind.a_name(), other.a_name());
            return fault(at, message, "it goes with two numbers, and + also with two texts");
        }
        let kind = if kind == other { kind } else { Type::Float };
        Ok((Node::Calculate(operation, both), kind))
    }

    /// Checks `left in right`.
    fn membership(&mut self, left: &Expr, right: &Expr) -> Checked {
        let (node, kind) = self.check(left)?;
        if let Kind::List(items) = &right.kind {
            return Ok((self.one_of(node, kind, left.at, items)?, Type::Bool));
        }
        let (list, list_kind) = self.check(right)?;
        let (Node::Fact(fact), Type::List | Type::Map) = (list, list_kind) else {
            return fault(
                right.at,
                format!("{} is no list", list_kind.a_name()),
                "use contains() for a part of a text",
            );
        };
        if kind != Type::Text {
            return fault(left.at, format!("the list has texts, and this is {}", kind.a_name()), "");
        }
        let node = Box::new(node);
        let found = if list_kind == Type::Map { Node::HasKey(node, fact) } else { Node::IsIn(node, fact) };
        Ok((found, Type::Bool))
    }

    fn one_of(&mut self, node: Node, kind: Type, at: usize, items: &[Expr]) -> Result<Node, SourceFault> {
        let node = Box::new(node);
        let constants: Vec<(Node, Type)> =
            items.iter().map(|item| self.check(item)).collect::<Result<_, _>>()?;
        let is_constant = |node: &Node| {
            matches!(node, Node::Text(_) | Node::Int(_) | Node::Float(_))
                || matches!(node, Node::Negative(inner) if matches!(**inner, Node::Int(_) | Node::Float(_)))
        };
        for (item, (constant, found)) in items.iter().zip(&constants) {
            if !is_constant(constant) {
                return fault(item.at, "a list holds constants".into(), "join comparisons with || instead");
            }
            if *found != kind && !(found.is_number() && kind.is_number()) {
                let message = format!("{} is never equal to {}", kind.a_name(), found.a_name());
                return fault(item.at, message, "");
            }
        }
        if kind.is_number() {
            return Ok(Node::IsOneNumberOf(node, constants.into_iter().map(|(node, _)| node).collect()));
        }
        if kind != Type::Text {
            return fault(at, format!("`in` does not go with {}", kind.a_name()), "");
        }
        let text = |(node, _)| if let Node::Text(text) = node { Some(text) } else { None };
        let mut texts: Vec<Box<str>> = constants.into_iter().filter_map(text).collect();
        texts.sort();
        Ok(Node::IsOneOf(node, texts.into()))
    }

    /// Checks a name with its members: a fact, or an entry of a map.
    fn fact(&mut self, expr: &Expr) -> Checked {
        if let Kind::Index(map, key) = &expr.kind {
            let (map, kind) = self.check(map)?;
            let (Node::Fact(fact), Type::Map) = (map, kind) else {
                return fault(expr.at, format!("{} has no members in brackets", kind.a_name()), "");
            };
            let Kind::Text(key) = &key.kind else {
                return fault(key.at, "the name of a member is a constant text".into(), "write [\"name\"]");
            };
            self.refuse_credential(expr.at, fact, key)?;
            return Ok((Node::Entry(fact, key_of(fact, key)), Type::Text));
        }
        let dotted = dotted(expr).ok_or_else(|| SourceFault::new(expr.at, "only facts have members", ""))?;
        if let Some(fact) = Fact::ALL.iter().find(|fact| fact.name() == dotted) {
            self.learn(expr.at, *fact)?;
            return Ok((Node::Fact(*fact), fact.kind()));
        }
        let above = dotted.rsplit_once('.');
        let map = above.and_then(|(map, key)| Some((Fact::ALL.iter().find(|fact| fact.name() == map)?, key)));
        match map {
            Some((fact, key)) if fact.kind() == Type::Map => {
                self.learn(expr.at, *fact)?;
                self.refuse_credential(expr.at, *fact, key)?;
                Ok((Node::Entry(*fact, key_of(*fact, key)), Type::Text))
            }
            _ => fault(expr.at, format!("{dotted} is not known"), unknown(&dotted)),
        }
    }

    /// Refuses fields that may carry a credential: names of counters are shown to operators.
    fn refuse_credential(&self, at: usize, fact: Fact, key: &str) -> Result<(), SourceFault> {
        let key = key.to_ascii_lowercase();
        let is_secret = CREDENTIALS.iter().any(|part| key.contains(part));
        match fact == Fact::RequestHeaders && is_secret {
            true => fault(
                at,
                format!("the field {key} may carry a credential"),
                "use principal.id for the caller",
            ),
            false => Ok(()),
        }
    }

    /// Notes the use of a fact.
    fn learn(&mut self, at: usize, fact: Fact) -> Result<(), SourceFault> {
        if fact.phase() > self.known {
            let message = format!("{} is not known yet when this is asked", fact.name());
            return fault(at, message, "the body of the request has not been read then");
        }
        self.phase = self.phase.max(fact.phase());
        Ok(())
    }
}

fn relation(sign: &str) -> Option<Relation> {
    Some(match sign {
        "==" => Relation::Equal,
        "!=" => Relation::Unequal,
        "<" => Relation::Less,
        "<=" => Relation::AtMost,
        ">" => Relation::Greater,
        ">=" => Relation::AtLeast,
        _ => return None,
    })
}

/// Returns a name with its members; `None` for members of anything but a name.
fn dotted(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Name(name) => Some(name.clone()),
        Kind::Member(of, name) => Some(format!("{}.{name}", dotted(of)?)),
        _ => None,
    }
}

/// The names of header fields are compared in lower case (RFC 9110, 5.1).
fn key_of(fact: Fact, key: &str) -> Box<str> {
    if fact == Fact::RequestHeaders { key.to_ascii_lowercase().into() } else { key.into() }
}

/// Returns a hint for an unknown fact: the nearest one, else all of the same group, else the groups.
fn unknown(dotted: &str) -> String {
    let group = dotted.split('.').next().unwrap_or_default();
    let names = || Fact::ALL.iter().map(|fact| fact.name());
    let is_of_group = |name: &&str| name.split('.').next() == Some(group);
    if names().any(|name| is_of_group(&name)) {
        return did_you_mean(dotted, names().filter(is_of_group));
    }
    let near = did_you_mean(dotted, names());
    if near.starts_with("did") {
        return near;
    }
    let mut groups: Vec<&str> = names().filter_map(|name| name.split('.').next()).collect();
    groups.dedup();
    format!("facts begin with {}; a text has quotes: \"{dotted}\"", groups.join(", "))
}
