//! Gives every part of an expression its type, and names their slots.

use ipnet::IpNet;

use super::expression::SourceFault;
use super::parser::{Expr, Kind};
use super::texts::{Pattern, TextTest};
use crate::policy::facts::{Fact, Phase, Step, Type};

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
    /// What is at a path in JSON.
    At(Root, Box<[Step]>),
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
    /// Whether JSON has this element or this member.
    IsInJson(Box<[Node; 2]>),
    /// Whether a map has the key.
    HasKey(Box<Node>, Fact),
    Test(TextTest, Box<[Node; 2]>),
    Matches(Box<Node>, Pattern),
    /// Whether a condition holds for an element of the list, or for each.
    Each(Quantifier, Box<[Node; 2]>),
    Network(Box<Node>, IpNet),
    Lower(Box<Node>),
    /// Characters of a text.
    Length(Box<Node>),
    /// Elements of a list.
    Count(Fact),
    /// Whether the request has it.
    Has(Box<Node>),
}

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Fact(Fact),
    /// The element of the list that is being gone through.
    Element,
}

/// For how many elements of a list a condition must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    Exists,
    All,
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

/// Checks the parts of one expression.
pub(super) struct Checker {
    /// The phase that the expression is asked in.
    pub(super) known: Phase,
    /// Whether it asks for what is not known before the request is.
    pub(super) is_later: bool,
    /// The name and the type of the element of the list that is gone through.
    pub(super) element: Option<(String, Type)>,
}

pub(super) type Checked = Result<(Node, Type), SourceFault>;

pub(super) fn fault<T>(at: usize, message: String, hint: impl Into<String>) -> Result<T, SourceFault> {
    Err(SourceFault::new(at, message, hint))
}

impl Checker {
    pub(super) fn new(known: Phase) -> Self {
        Self { known, is_later: false, element: None }
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
            Kind::Name(_) | Kind::Member(..) | Kind::Index(..) => return self.name(expr),
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
        if found.may_be(wanted) {
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
        let (at, (no, other)) = (no.at, self.check(no)?);
        if !kind.may_be(other) && !other.may_be(kind) {
            return fault(at, format!("this is {}, and {} is needed", other.a_name(), kind.a_name()), "");
        }
        let kind = if other == Type::Any { other } else { kind };
        Ok((Node::Choice(Box::new([condition, yes, no])), kind))
    }

    fn compare(&mut self, at: usize, relation: Relation, left: &Expr, right: &Expr) -> Checked {
        let ((left, kind), (right, other)) = (self.check(left)?, self.check(right)?);
        let are_alike = kind.may_be(other) || other.may_be(kind);
        if !(are_alike || kind.is_number() && other.is_number()) {
            let hint = match [kind, other].contains(&Type::List) {
                true => "ask whether it is in the list: \"build\" in principal.groups",
                false => "",
            };
            let message = format!("{} is never equal to {}", kind.a_name(), other.a_name());
            return fault(at, message, hint);
        }
        let is_ordered = |kind| !matches!(kind, Type::Bool | Type::List | Type::Map | Type::Marks);
        let is_equality = matches!(relation, Relation::Equal | Relation::Unequal);
        let of = |kind| is_ordered(kind) || kind == Type::Bool && is_equality;
        if !(of(kind) && of(other)) {
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
        if operation == Operation::Add
            && [kind, other].iter().all(|kind| kind.may_be(Type::Text))
            && kind != other
        {
            return Ok((Node::Calculate(operation, both), Type::Any));
        }
        if operation == Operation::Add && kind == Type::Text && other == Type::Text {
            return Ok((Node::Join(both), Type::Text));
        }
        if !kind.is_number() || !other.is_number() {
            let message = format!("'{sign}' does not go with {} and {}", kind.a_name(), other.a_name());
            return fault(at, message, "it goes with two numbers, and + also with two texts");
        }
        let kind = match (kind, other) {
            (Type::Any, _) | (_, Type::Any) => Type::Any,
            _ if kind == other => kind,
            _ => Type::Float,
        };
        Ok((Node::Calculate(operation, both), kind))
    }

    /// Checks `left in right`.
    fn membership(&mut self, left: &Expr, right: &Expr) -> Checked {
        let (node, kind) = self.check(left)?;
        if let Kind::List(items) = &right.kind {
            return Ok((self.one_of(node, kind, left.at, items)?, Type::Bool));
        }
        let (list, list_kind) = self.check(right)?;
        if list_kind == Type::Any && !matches!(kind, Type::List | Type::Map | Type::Marks) {
            return Ok((Node::IsInJson(Box::new([node, list])), Type::Bool));
        }
        let (Node::Fact(fact), Type::List | Type::Map) = (list, list_kind) else {
            return fault(
                right.at,
                format!("{} is no list", list_kind.a_name()),
                "use contains() for a part of a text",
            );
        };
        if !kind.may_be(Type::Text) {
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
        let kind = match (kind, constants.first()) {
            (Type::Any, Some((_, first))) => *first,
            _ => kind,
        };
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
