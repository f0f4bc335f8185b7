//! JSON as rules read it: arguments of tools.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::facts::{Step, Value};

/// A JSON value. Unlike `serde_json::Value` it keeps members that are written twice: which of them a tool obeys is not
/// known.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Object(Vec<(Box<str>, Json)>),
}

impl Json {
    /// Reads a JSON text; `None` if it is none.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The value for an expression.
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(number) => Value::Int(*number),
            Self::Float(number) => Value::Float(*number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Null | Self::List(_) | Self::Object(_) => Value::Json(self),
        }
    }

    /// Returns what is at a path. A member that is written twice, and a member of what has none, are unknown.
    pub fn at(&self, path: &[Step]) -> Value<'_> {
        let Some((step, rest)) = path.split_first() else { return self.value() };
        match (self, step) {
            (Self::Object(members), Step::Member(name)) => {
                let mut found = members.iter().filter(|(known, _)| known == name);
                match (found.next(), found.next()) {
                    (None, _) => Value::Absent,
                    (Some((_, member)), None) => member.at(rest),
                    (Some(_), Some(_)) => Value::Unknown,
                }
            }
            (Self::List(elements), Step::Element(index)) => {
                elements.get(*index).map_or(Value::Absent, |element| element.at(rest))
            }
            _ => Value::Unknown,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Int(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(i64::try_from(number).map_or(Json::Float(number as f64), Json::Int))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
                Ok(Json::Float(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
                let mut object = Vec::new();
                while let Some((name, member)) = members.next_entry::<String, Json>()? {
                    object.push((name.into(), member));
                }
                Ok(Json::Object(object))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_written_twice_are_unknown_and_others_are_found() {
        let json = Json::read(br#"{"a": {"b": [1, "x", null]}, "c": 1, "c": 2, "n": 18446744073709551615}"#);
        let json = json.unwrap();
        let member = |name: &str| Step::Member(name.into());
        assert_eq!(json.at(&[member("a"), member("b"), Step::Element(0)]), Value::Int(1));
        assert_eq!(json.at(&[member("a"), member("b"), Step::Element(1)]), Value::text(Some("x")));
        assert_eq!(json.at(&[member("a"), member("b"), Step::Element(2)]), Value::Json(&Json::Null));
        assert_eq!(json.at(&[member("a"), member("b"), Step::Element(3)]), Value::Absent);
        assert_eq!(json.at(&[member("c")]), Value::Unknown);
        assert_eq!(json.at(&[member("c"), member("x")]), Value::Unknown);
        assert_eq!(json.at(&[member("n")]), Value::Float(u64::MAX as f64));
        assert_eq!(json.at(&[member("d")]), Value::Absent);
        assert_eq!(json.at(&[member("n"), member("x")]), Value::Unknown);
        assert!(Json::read(b"{\"a\": 1").is_none() && Json::read(&b"[".repeat(1000)).is_none());
    }
}
