//! The functions of the language: their arguments and types.

use super::check::{Checked, Checker, Node, Quantifier, fault};
use super::expression::SourceFault;
use super::parser::{Expr, Kind};
use super::texts::{Pattern, TextTest, network};
use crate::policy::facts::{Fact, Type};
use crate::settings::nearest::did_you_mean;

/// All functions.
const FUNCTIONS: [&str; 11] = [
    "has",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "glob",
    "cidr",
    "lower",
    "size",
    "exists",
    "all",
];

/// Functions of CEL that this subset leaves out, which deserve a better message than a misspelt name.
const NOT_HERE: [&str; 9] =
    ["exists_one", "filter", "map", "int", "uint", "double", "string", "timestamp", "duration"];

impl Checker {
    /// Checks a call.
    ///
    /// # Errors
    /// The function is not known, or its arguments are wrong.
    pub(super) fn call(&mut self, at: usize, name: &str, arguments: &[Expr], is_method: bool) -> Checked {
        let test = match name {
            "startsWith" => Some(TextTest::StartsWith),
            "endsWith" => Some(TextTest::EndsWith),
            "contains" => Some(TextTest::Contains),
            "glob" => Some(TextTest::Glob),
            _ => None,
        };
        match (name, test, arguments) {
            (_, Some(test), [text, other]) => {
                let both = Box::new([self.of(text, Type::Text)?, self.of(other, Type::Text)?]);
                Ok((Node::Test(test, both), Type::Bool))
            }
            ("lower", _, [text]) => Ok((Node::Lower(Box::new(self.of(text, Type::Text)?)), Type::Text)),
            ("size", _, [of]) => match self.check(of)? {
                (Node::Fact(list), Type::List) => Ok((Node::Count(list), Type::Int)),
                (text, Type::Text | Type::Any) => Ok((Node::Length(Box::new(text)), Type::Int)),
                (_, kind) => fault(of.at, format!("{} has no size", kind.a_name()), ""),
            },
            ("cidr", _, [address, net]) => self.network(address, net),
            ("matches", _, [text, pattern]) => self.matches(text, pattern),
            ("exists", _, [list, element, condition]) if is_method => {
                self.each(Quantifier::Exists, list, element, condition)
            }
            ("all", _, [list, element, condition]) if is_method => {
                self.each(Quantifier::All, list, element, condition)
            }
            ("has", _, [member]) if !is_method => match self.check(member)?.0 {
                found @ (Node::Fact(_) | Node::Entry(..) | Node::At(..)) => {
                    Ok((Node::Has(Box::new(found)), Type::Bool))
                }
                _ => fault(member.at, "has() asks for a fact".into(), "write has(request.model)"),
            },
            _ if FUNCTIONS.contains(&name) => {
                let message = format!("{name}() does not take {} arguments", arguments.len());
                fault(at, message, signature(name))
            }
            _ if NOT_HERE.contains(&name) => {
                let hint = format!("known are {}", FUNCTIONS.join(", "));
                fault(at, format!("{name}() is part of CEL, but not of this subset"), hint)
            }
            _ => fault(at, format!("{name}() is not known"), did_you_mean(name, FUNCTIONS)),
        }
    }

    fn network(&mut self, address: &Expr, net: &Expr) -> Checked {
        let address = self.of(address, Type::Text)?;
        let Kind::Text(text) = &net.kind else {
            return fault(net.at, "the network is a constant text".into(), "write \"10.0.0.0/8\"");
        };
        let hint = "write \"10.0.0.0/8\" or \"2001:db8::/32\"";
        let network =
            network(text).ok_or_else(|| SourceFault::new(net.at, format!("'{text}' is no network"), hint))?;
        Ok((Node::Network(Box::new(address), network), Type::Bool))
    }

    fn matches(&mut self, text: &Expr, pattern: &Expr) -> Checked {
        let text = self.of(text, Type::Text)?;
        let Kind::Text(source) = &pattern.kind else {
            return fault(pattern.at, "the pattern is a constant text".into(), signature("matches"));
        };
        let pattern = Pattern::new(source)
            .map_err(|why| SourceFault::new(pattern.at, why, "write a shorter regular expression of RE2"))?;
        Ok((Node::Matches(Box::new(text), pattern), Type::Bool))
    }

    /// Checks `list.exists(element, condition)` and `list.all(element, condition)`.
    fn each(&mut self, quantifier: Quantifier, list: &Expr, element: &Expr, condition: &Expr) -> Checked {
        if self.element.is_some() {
            let hint = "write a rule of its own for the inner list";
            return fault(list.at, "exists() and all() are not nested".into(), hint);
        }
        let (list_node, kind) = self.check(list)?;
        let element_type = match kind {
            Type::List => Type::Text,
            Type::Any => Type::Any,
            _ => return fault(list.at, format!("{} is no list", kind.a_name()), ""),
        };
        let Kind::Name(name) = &element.kind else {
            return fault(element.at, "the name of the element is a plain word".into(), signature("exists"));
        };
        let is_taken = |fact: &Fact| fact.name().split('.').next() == Some(name);
        if Fact::ALL.iter().any(is_taken) {
            return fault(element.at, format!("'{name}' is the beginning of facts"), "choose another word");
        }
        self.element = Some((name.clone(), element_type));
        let condition = self.of(condition, Type::Bool);
        self.element = None;
        Ok((Node::Each(quantifier, Box::new([list_node, condition?])), Type::Bool))
    }
}

fn signature(name: &str) -> &'static str {
    match name {
        "has" => "write has(request.model)",
        "cidr" => "write cidr(client.addr, \"10.0.0.0/8\")",
        "glob" => "write glob(request.model, \"claude-*\")",
        "lower" => "write lower(request.host)",
        "size" => "write size(request.path)",
        "matches" => "write request.path.matches(\"^/v[0-9]+/\")",
        "exists" | "all" => "write principal.groups.exists(group, group.startsWith(\"team-\"))",
        _ => "write request.path.startsWith(\"/v1/\")",
    }
}
