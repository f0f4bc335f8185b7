//! Names and their members: facts, entries of maps, and what is in JSON.

use super::check::{Checked, Checker, Node, Root, fault};
use super::expression::SourceFault;
use super::parser::{Expr, Kind};
use crate::policy::facts::{Fact, Phase, Phases, Step, Type};
use crate::settings::nearest::did_you_mean;

/// Parts of the names of fields that may carry a credential.
const CREDENTIALS: [&str; 5] = ["authorization", "cookie", "key", "token", "secret"];

/// A name with its members.
struct Name {
    root: String,
    /// The members, and whether each is written with a dot.
    members: Vec<(Step, bool)>,
}

impl Name {
    /// Reads a name with its members.
    fn of(expr: &Expr) -> Result<Self, SourceFault> {
        let (mut members, mut expr) = (Vec::new(), expr);
        loop {
            match &expr.kind {
                Kind::Name(root) => {
                    members.reverse();
                    return Ok(Self { root: root.clone(), members });
                }
                Kind::Member(of, name) => {
                    members.push((Step::Member(name.as_str().into()), true));
                    expr = of;
                }
                Kind::Index(of, key) => {
                    members.push((step(key)?, false));
                    expr = of;
                }
                _ => return Err(SourceFault::new(expr.at, "only facts have members", "")),
            }
        }
    }

    /// The name with the first `count` members, which all have dots.
    fn dotted(&self, count: usize) -> String {
        let mut dotted = self.root.clone();
        for (step, _) in &self.members[..count] {
            if let Step::Member(name) = step {
                dotted.push('.');
                dotted.push_str(name);
            }
        }
        dotted
    }

    /// How many members have dots before the first one in brackets.
    fn dots(&self) -> usize {
        self.members.iter().take_while(|(_, has_dot)| *has_dot).count()
    }

    /// Finds the fact, and how many members its name has.
    fn fact(&self) -> Option<(Fact, usize)> {
        (0..=self.dots()).rev().find_map(|count| {
            let dotted = self.dotted(count);
            let fact = Fact::ALL.iter().find(|fact| fact.name() == dotted)?;
            Some((*fact, count))
        })
    }
}

fn step(key: &Expr) -> Result<Step, SourceFault> {
    match &key.kind {
        Kind::Text(name) => Ok(Step::Member(name.as_str().into())),
        Kind::Int(index) if usize::try_from(*index).is_ok() => Ok(Step::Element(*index as usize)),
        _ => Err(SourceFault::new(key.at, "the name of a member is a constant text", "write [\"name\"]")),
    }
}

impl Checker {
    /// Checks a name with its members: a fact, an entry of a map, or what is in JSON.
    pub(super) fn name(&mut self, expr: &Expr) -> Checked {
        let name = Name::of(expr)?;
        if let Some((element, kind)) = &self.element
            && *element == name.root
        {
            if *kind != Type::Any && !name.members.is_empty() {
                return fault(expr.at, format!("{} has no members", kind.a_name()), "");
            }
            let path = name.members.into_iter().map(|(step, _)| step).collect();
            return Ok((Node::At(Root::Element, path), *kind));
        }
        let Some((fact, count)) = name.fact() else {
            let dotted = name.dotted(name.dots());
            return fault(expr.at, format!("{dotted} is not known"), unknown(&dotted));
        };
        self.learn(expr.at, fact)?;
        let members = &name.members[count..];
        match (fact.kind(), members) {
            (Type::Any, members) => {
                let path = members.iter().map(|(step, _)| step.clone()).collect();
                Ok((Node::At(Root::Fact(fact), path), Type::Any))
            }
            (kind, []) => Ok((Node::Fact(fact), kind)),
            (Type::Map, [(Step::Member(key), _)]) => {
                refuse_credential(expr.at, fact, key)?;
                Ok((Node::Entry(fact, key_of(fact, key)), Type::Text))
            }
            (Type::Marks, [(Step::Member(key), _)]) => Ok((Node::Entry(fact, key.clone()), Type::Bool)),
            (_, [(_, true), ..]) => {
                let dotted = name.dotted(name.dots());
                fault(expr.at, format!("{dotted} is not known"), unknown(&dotted))
            }
            (kind, _) => fault(expr.at, format!("{} has no members in brackets", kind.a_name()), ""),
        }
    }

    /// Notes the use of a fact.
    fn learn(&mut self, at: usize, fact: Fact) -> Result<(), SourceFault> {
        let phases = fact.phases();
        if !self.known.knows(phases) {
            let message = match self.known {
                Phase::Connect => format!("{} is not known yet when this is asked", fact.name()),
                Phase::Session => format!("{} is not known here, without a request", fact.name()),
                Phase::Routing => format!("{} is not known before the backend is chosen", fact.name()),
                phase => format!("{} is not known here, in the phase {}", fact.name(), phase.name()),
            };
            let hint = match phases {
                _ if self.known == Phase::Session => {
                    "write facts of principal, client, session, usage or time".to_owned()
                }
                _ if self.known == Phase::Routing => {
                    "write facts of principal, client, request, agent or time".to_owned()
                }
                Phases::LATER | Phases::SESSIONS | Phases::BODIES => {
                    "the body of the request has not been read then".to_owned()
                }
                _ => format!("it is known in: {}", phases.names()),
            };
            return fault(at, message, hint);
        }
        self.is_later |= !Phase::Connect.knows(phases);
        Ok(())
    }
}

/// Whether a field, whose name has small letters, may carry a credential.
pub fn may_be_credential(name: &str) -> bool {
    CREDENTIALS.iter().any(|part| name.contains(part))
}

/// Refuses fields that may carry a credential: names of counters are shown to operators.
fn refuse_credential(at: usize, fact: Fact, key: &str) -> Result<(), SourceFault> {
    let key = key.to_ascii_lowercase();
    match fact == Fact::RequestHeaders && may_be_credential(&key) {
        true => {
            fault(at, format!("the field {key} may carry a credential"), "use principal.id for the caller")
        }
        false => Ok(()),
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
