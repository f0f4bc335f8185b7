//! Extractors: the typed query and the typed JSON body of a request.
//!
//! A query is read parameter by parameter, so that one answer names every fault: unknown parameters, wrong values and
//! parameters given twice.

use std::borrow::Cow;
use std::fmt;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::StatusCode;
use http::request::Parts;
use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};

use super::api::error::ErrorCode;
use super::problem::Problem;

/// The query of a request.
#[derive(Debug)]
pub(super) struct ApiQuery<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// The body of a request, all of whose members are optional; an empty body is `{}`.
#[derive(Debug)]
pub(super) struct ApiBody<T>(pub(super) T);

impl<T: Default + DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await.map_err(unreadable)?;
        read_body(&body).map(Self)
    }
}

/// Reads a query.
///
/// # Errors
/// 400 with every fault of the query.
pub(super) fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let mut faults = Vec::new();
    for (at, (name, value)) in pairs.iter().enumerate() {
        let one = std::iter::once((&**name, Text(value)));
        match T::deserialize(MapDeserializer::new(one)) {
            Ok(_) => {}
            Err(ParameterError::Unknown) => {
                faults.push(format!("'{}' is not a parameter", name.escape_debug()));
            }
            Err(ParameterError::Wrong(why)) => faults.push(format!("{name} {why}")),
        }
        if pairs[..at].iter().any(|(before, _)| before == name) {
            faults.push(format!("'{}' is given twice", name.escape_debug()));
        }
    }
    if !faults.is_empty() {
        return Err(Problem::bad_request(faults.join("; ")));
    }
    let all = pairs.iter().map(|(name, value)| (&**name, Text(value)));
    T::deserialize(MapDeserializer::new(all))
        .map_err(|fault: ParameterError| Problem::bad_request(fault.to_string()))
}

/// Reads a JSON body.
///
/// # Errors
/// 400 when it is not a JSON object, or has unknown or wrong members.
pub(super) fn read_body<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match body.trim_ascii() {
        b"" => Ok(T::default()),
        // serde would also read an array into a struct, member by member.
        json if json.first() != Some(&b'{') => {
            Err(Problem::bad_request("the body cannot be read: it is not a JSON object"))
        }
        json => serde_json::from_slice(json)
            .map_err(|fault| Problem::bad_request(format!("the body cannot be read: {fault}"))),
    }
}

fn unreadable(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ErrorCode::BodyTooLarge, "the body is larger than 64 KiB")
        }
        _ => Problem::bad_request("the body ended early"),
    }
}

/// The text of a parameter, deserialised as an `Option`, a newtype or a variant of an enum.
#[derive(Clone, Copy)]
struct Text<'a>(&'a Cow<'a, str>);

impl<'de> IntoDeserializer<'de, ParameterError> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = ParameterError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        StrDeserializer::new(self.0).deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

/// What is wrong with one parameter.
#[derive(Debug)]
enum ParameterError {
    /// The endpoint has no such parameter.
    Unknown,
    /// The value is wrong; the text follows the parameter's name.
    Wrong(String),
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown parameter"),
            Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ParameterError {}

impl de::Error for ParameterError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Wrong(message.to_string())
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self::Unknown
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::Wrong(match expected {
            [] => "cannot have a value".to_owned(),
            [only] => format!("must be {only}"),
            [words @ .., last] => format!("must be {} or {last}", words.join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::history::{
        CapturesQuery, EventsQuery, ExportKind, ExportQuery, HistoryQuery, SeriesQuery, UsageQuery,
    };
    use crate::control::api::kills::KillBody;
    use crate::control::api::params::SessionQuery;
    use crate::control::api::sessions::SessionsQuery;
    use crate::history::read::filter::{GroupBy, Interval};
    use crate::identity::roles::Reach;
    use crate::session::{Filter, NamedBy, SessionState};

    fn fault<T: DeserializeOwned + fmt::Debug>(query: &str) -> String {
        format!("{:?}", read_query::<T>(query).unwrap_err())
    }

    #[test]
    fn a_query_becomes_a_filter() {
        let query: SessionsQuery =
            read_query("state=timed_out&kind=traffic&limit=1000&q=a%20b&client=codex").unwrap();
        let filter = Filter::from(query);
        assert_eq!(filter.state, Some(SessionState::TimedOut));
        assert_eq!((filter.limit, filter.q.as_deref()), (1000, Some("a b")));
        assert_eq!(Filter::from(read_query::<SessionsQuery>("").unwrap()).limit, 100);
    }

    #[test]
    fn every_fault_of_a_query_is_told() {
        let told = fault::<SessionsQuery>("state=dead&limit=0&colour=red&kind=x&cursor=7");
        for part in [
            "state must be active, completed, killed or timed_out",
            "limit must be a number from 1 to 1000",
            "'colour' is not a parameter",
            "kind must be traffic, agent, terminal or job",
            "cursor must be the next_cursor of another page",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(fault::<SessionsQuery>("limit=1001").contains("1 to 1000"));
        assert!(fault::<SessionsQuery>("q=a&q=b").contains("given twice"));
    }

    #[test]
    fn every_fault_of_a_query_of_the_history_is_told() {
        let good: HistoryQuery = read_query("state=killed&limit=5&cursor=9&q=a%20b&from=1h").unwrap();
        let cursor = good.cursor.map(|cursor| cursor.0);
        assert_eq!(
            (good.limit.get(), cursor, good.filter(&Reach::All).q.as_deref()),
            (5, Some(9), Some("a b"))
        );
        assert_eq!(good.filter(&Reach::All).state.as_deref(), Some("killed"));
        assert!(good.filter(&Reach::All).range.from.is_some());
        let told = fault::<HistoryQuery>("state=x&limit=0&from=now&q=1&q=2&step=day");
        for part in ["state must be", "limit must be", "from must be", "'q' is given twice", "'step' is not"]
        {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn each_endpoint_has_its_own_parameters() {
        assert_eq!(read_query::<SessionQuery>("by=uid").unwrap().by, Some(NamedBy::Uid));
        assert!(fault::<SessionQuery>("by=name").contains("by must be uid or id"));
        assert_eq!(read_query::<SeriesQuery>("").unwrap().step, Interval::Hour);
        assert!(fault::<SeriesQuery>("step=week").contains("step must be minute, hour or day"));
        assert_eq!(read_query::<UsageQuery>("by=model").unwrap().by, GroupBy::Model);
        assert!(
            fault::<UsageQuery>("by=x")
                .contains("by must be principal, tenant, group, model, client, backend or session")
        );
        assert_eq!(read_query::<ExportQuery>("of=requests").unwrap().of, ExportKind::Requests);
        assert!(fault::<ExportQuery>("format=xml&q=a").contains("format must be ndjson or csv; 'q' is not"));
        assert!(fault::<CapturesQuery>("limit=101").contains("1 to 100"));
        assert!(read_query::<EventsQuery>("type=session_killed&from=24h").is_ok());
    }

    #[test]
    fn an_unreadable_body_is_refused() {
        for (body, part) in
            [("nonsense", "cannot be read"), ("[]", "cannot be read"), (r#"["x"]"#, "cannot be read")]
        {
            let fault = format!("{:?}", read_body::<KillBody>(body.as_bytes()).unwrap_err());
            assert!(fault.contains(part), "{body}: {fault}");
        }
    }
}
