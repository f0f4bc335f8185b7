//! Looks into checked expressions.

use super::check::{Node, Relation};
use crate::policy::facts::{Fact, Type};

impl Node {
    /// Returns the texts of which a fact must be one for this to hold.
    pub(super) fn guard(&self) -> Option<(Fact, Vec<&str>)> {
        match self {
            Self::Compare(Relation::Equal, sides) => match &**sides {
                [Self::Fact(fact), Self::Text(text)] | [Self::Text(text), Self::Fact(fact)] => {
                    Some((*fact, vec![text]))
                }
                _ => None,
            },
            Self::IsOneOf(inner, texts) => match &**inner {
                Self::Fact(fact) if fact.kind() == Type::Text => {
                    Some((*fact, texts.iter().map(|text| &**text).collect()))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether this or a part of it is like that.
    pub(super) fn any(&self, is_it: &impl Fn(&Self) -> bool) -> bool {
        is_it(self)
            || match self {
                Self::Bool(_)
                | Self::Int(_)
                | Self::Float(_)
                | Self::Text(_)
                | Self::Fact(_)
                | Self::Entry(..)
                | Self::At(..)
                | Self::Count(_) => false,
                Self::Not(one)
                | Self::Negative(one)
                | Self::IsOneOf(one, _)
                | Self::IsIn(one, _)
                | Self::HasKey(one, _)
                | Self::Matches(one, _)
                | Self::Network(one, _)
                | Self::Lower(one)
                | Self::Length(one)
                | Self::Has(one) => one.any(is_it),
                Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.any(is_it)),
                Self::IsOneNumberOf(one, _) => one.any(is_it),
                Self::Choice(parts) => parts.iter().any(|part| part.any(is_it)),
                Self::Compare(_, sides)
                | Self::Calculate(_, sides)
                | Self::Join(sides)
                | Self::IsInJson(sides)
                | Self::Test(_, sides)
                | Self::Each(_, sides) => sides.iter().any(|part| part.any(is_it)),
            }
    }
}
