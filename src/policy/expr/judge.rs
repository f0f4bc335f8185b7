//! The crate `cel` as the judge: it evaluates the same random expressions over the same facts, and must agree.
//!
//! Left out is what differs on purpose: absent facts (an error in CEL), a comparison of whole and floating-point numbers, and the
//! functions that CEL does not have (`lower`, `glob`, `cidr`). An expression that is an error in CEL, such as an overflow, must not be true here.

use std::collections::HashMap;

use cel::{Context, Program};
use proptest::prelude::*;

use super::*;
use crate::policy::facts::{Fact, Facts, Phase, Value};

/// The same facts for both.
struct Request;

const GROUPS: [&str; 2] = ["ops", "batch"];
const HEADERS: [(&str, &str); 2] = [("x-team", "Research"), ("x-empty", "")];

impl Facts for Request {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::PrincipalId => Value::text(Some("key:ci")),
            Fact::RequestPath => Value::text(Some("/v1/messages")),
            Fact::RequestModel => Value::text(Some("claude-haiku-4-5")),
            Fact::RequestStream => Value::Bool(true),
            Fact::RequestBytes => Value::Int(1000),
            Fact::TimeHour => Value::Int(13),
            _ => Value::Absent,
        }
    }

    fn entry(&self, _: Fact, key: &str) -> Value<'_> {
        Value::text(HEADERS.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    fn has(&self, _: Fact, text: &str) -> bool {
        GROUPS.contains(&text)
    }

    fn count(&self, _: Fact) -> usize {
        GROUPS.len()
    }
}

/// The same facts in the judge's form.
fn context() -> Context<'static, 'static> {
    use cel::Value as Cel;
    let map = |entries: Vec<(&str, Cel)>| -> HashMap<String, Cel> {
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    let headers = map(HEADERS.iter().map(|(name, value)| (*name, Cel::from(*value))).collect());
    let groups: Vec<Cel> = GROUPS.iter().map(|group| Cel::from(*group)).collect();
    let mut context = Context::default();
    context
        .add_variable_from_value("principal", map(vec![("id", "key:ci".into()), ("groups", groups.into())]));
    context.add_variable_from_value(
        "request",
        map(vec![
            ("path", "/v1/messages".into()),
            ("model", "claude-haiku-4-5".into()),
            ("stream", true.into()),
            ("bytes", 1000_i64.into()),
            ("headers", headers.into()),
        ]),
    );
    context.add_variable_from_value("time", map(vec![("hour", 13_i64.into())]));
    context
}

fn text(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("principal.id".to_owned()),
        Just("request.path".to_owned()),
        Just("request.model".to_owned()),
        Just("request.headers['x-team']".to_owned()),
        Just("request.headers[\"x-empty\"]".to_owned()),
        "'(|key:ci|/v1|messages|ops|x-team|Research|ü\\\\n|claude-haiku-4-5)'",
        "[a-z]{0,3}".prop_map(|word| format!("{word:?}")),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let choice = (boolean(depth - 1), text(depth - 1), text(depth - 1));
    prop_oneof![
        3 => leaf,
        1 => (text(depth - 1), text(depth - 1)).prop_map(|(left, right)| format!("({left} + {right})")),
        1 => choice.prop_map(|(when, yes, no)| format!("({when} ? {yes} : {no})")),
    ]
    .boxed()
}

fn number(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("request.bytes".to_owned()),
        Just("time.hour".to_owned()),
        Just("size(principal.groups)".to_owned()),
        (-20_i64..1200).prop_map(|number| number.to_string()),
        Just("9223372036854775807".to_owned()),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let operation = prop_oneof![Just("+"), Just("-"), Just("*"), Just("/"), Just("%")];
    prop_oneof![
        3 => leaf,
        2 => (number(depth - 1), operation, number(depth - 1))
            .prop_map(|(left, operation, right)| format!("({left} {operation} {right})")),
        1 => number(depth - 1).prop_map(|inner| format!("(-({inner}))")),
        1 => text(depth - 1).prop_map(|inner| format!("size({inner})")),
    ]
    .boxed()
}

fn boolean(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![Just("true"), Just("false"), Just("request.stream"), Just("has(request.model)")];
    let leaf = leaf.prop_map(str::to_owned);
    if depth == 0 {
        return leaf.boxed();
    }
    let relation = || prop_oneof![Just("=="), Just("!="), Just("<"), Just("<="), Just(">"), Just(">=")];
    let test = prop_oneof![Just("startsWith"), Just("endsWith"), Just("contains")];
    let pair = |of: fn(u32) -> BoxedStrategy<String>| (of(depth - 1), relation(), of(depth - 1));
    let joined = |(left, by, right): (String, &str, String)| format!("({left} {by} {right})");
    let both = (boolean(depth - 1), prop_oneof![Just("&&"), Just("||")], boolean(depth - 1));
    let choice = (boolean(depth - 1), boolean(depth - 1), boolean(depth - 1));
    let constants = proptest::collection::vec("'(ops|key:ci|/v1|x)'", 1..4);
    let numbers = proptest::collection::vec(-2_i64..20, 1..4);
    prop_oneof![
        1 => leaf,
        3 => pair(text).prop_map(joined),
        3 => pair(number).prop_map(joined),
        1 => pair(boolean).prop_filter("an order of truth values", |(_, by, _)| by.contains("==") || by.contains("!="))
            .prop_map(joined),
        4 => both.prop_map(joined),
        2 => boolean(depth - 1).prop_map(|inner| format!("!({inner})")),
        1 => choice.prop_map(|(when, yes, no)| format!("({when} ? {yes} : {no})")),
        2 => (text(depth - 1), test, text(depth - 1)).prop_map(|(left, test, right)| format!("{left}.{test}({right})")),
        1 => text(depth - 1).prop_map(|inner| format!("({inner} in principal.groups)")),
        1 => text(depth - 1).prop_map(|inner| format!("({inner} in request.headers)")),
        1 => (text(depth - 1), constants).prop_map(|(inner, list)| format!("({inner} in [{}])", list.join(", "))),
        1 => (number(depth - 1), numbers).prop_map(|(inner, list)| format!("({inner} in {list:?})")),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
    #[test]
    fn both_give_the_same_answer(source in boolean(4)) {
        // Few exceed the limits of an expression; with many rejects the test fails.
        let condition = Expression::condition(&source, Phase::Request);
        prop_assume!(condition.is_ok());
        let condition = condition.expect("checked");
        let judged = Program::compile(&source).expect("the judge reads it").execute(&context());
        match judged {
            Ok(cel::Value::Bool(expected)) => prop_assert_eq!(condition.truth(&Request), expected.into(), "{}", source),
            Ok(other) => prop_assert!(false, "{} is {:?}", source, other),
            Err(error) => prop_assert_ne!(condition.truth(&Request), Truth::Yes, "{}: {}", source, error),
        }
    }
}
