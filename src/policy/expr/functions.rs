//! The functions of the language: their arguments and types.

use super::check::{Checked, Checker, Node, fault};
use super::expression::SourceFault;
use super::parser::{Expr, Kind};
use super::texts::{TextTest, network};
use crate::policy::facts::Type;
use crate::settings::nearest::did_you_mean;

/// All functions.
const FUNCTIONS: [&str; 8] = ["has", "startsWith", "endsWith", "contains", "glob", "cidr", "lower", "size"];

/// Functions of CEL that this subset leaves out, which deserve a better message than a misspelt name.
const NOT_HERE: [&str; 12] = [
    "matches",
    "all",
    "exists",
    "exists_one",
    "filter",
    "map",
    "int",
    "uint",
    "double",
    "string",
    "timestamp",
    "duration",
];

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
                (text, Type::Text) => Ok((Node::Length(Box::new(text)), Type::Int)),
                (_, kind) => fault(of.at, format!("{} has no size", kind.a_name()), ""),
            },
            ("cidr", _, [address, net]) => {
                let address = self.of(address, Type::Text)?;
                let Kind::Text(text) = &net.kind else {
                    return fault(net.at, "the network is a constant text".into(), "write \"10.0.0.0/8\"");
                };
                let hint = "write \"10.0.0.0/8\" or \"2001:db8::/32\"";
                let network = network(text)
                    .ok_or_else(|| SourceFault::new(net.at, format!("'{text}' is no network"), hint))?;
                Ok((Node::Network(Box::new(address), network), Type::Bool))
            }
            ("has", _, [member]) if !is_method => match self.check(member)?.0 {
                found @ (Node::Fact(_) | Node::Entry(..)) => Ok((Node::Has(Box::new(found)), Type::Bool)),
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
}

fn signature(name: &str) -> &'static str {
    match name {
        "has" => "write has(request.model)",
        "cidr" => "write cidr(client.addr, \"10.0.0.0/8\")",
        "glob" => "write glob(request.model, \"claude-*\")",
        "lower" => "write lower(request.host)",
        "size" => "write size(request.path)",
        _ => "write request.path.startsWith(\"/v1/\")",
    }
}
