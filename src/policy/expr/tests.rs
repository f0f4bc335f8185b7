//! Cases of the language: what is refused at load, and what is true of which facts.

use super::*;
use crate::policy::facts::{Fact, Facts, Phase, Value};

/// A request with some of the facts.
struct Request;

impl Facts for Request {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::PrincipalId => Value::text(Some("key:ci")),
            Fact::ClientName => Value::text(Some("claude-code")),
            Fact::ClientAddr => Value::text(Some("10.2.3.4")),
            Fact::RequestPath => Value::text(Some("/v1/messages")),
            Fact::RequestModel => Value::text(Some("claude-haiku-4-5")),
            Fact::RequestStream => Value::Unknown,
            Fact::RequestBytes => Value::Int(1000),
            Fact::TimeHour => Value::Int(13),
            _ => Value::Absent,
        }
    }

    fn entry(&self, _: Fact, key: &str) -> Value<'_> {
        Value::text((key == "x-team").then_some("Research"))
    }

    fn has(&self, _: Fact, text: &str) -> bool {
        text == "ops"
    }

    fn count(&self, _: Fact) -> usize {
        1
    }

    fn element(&self, _: Fact, _: usize) -> Value<'_> {
        Value::text(Some("ops"))
    }

    fn is_partial(&self, fact: Fact) -> bool {
        fact == Fact::RequestTools
    }
}

fn ask(source: &str) -> Truth {
    let condition = Expression::condition(source, Phase::Request);
    condition.unwrap_or_else(|fault| panic!("{source}: {fault:?}")).truth(&Request)
}

/// The fault with its position.
fn fault(source: &str) -> String {
    let fault = Expression::condition(source, Phase::Request).expect_err(source);
    format!("{}: {} ({})", fault.at, fault.message, fault.hint)
}

#[test]
fn conditions_mean_what_cel_says() {
    for yes in [
        "true",
        "!false",
        "1 + 2 * 3 == 7",
        "(1 + 2) * 3 == 9",
        "7 % 3 == 1 && 7 / 2 == 3 && -7 / 2 == -3",
        "1 < 1.5 && 2 == 2.0",
        "0.1 + 0.2 > 0.3",
        "'a' + \"b\" == 'ab'",
        "'a' < 'b' && 'B' < 'a'",
        r#"'\u00fc\n\\' == "ü\n\\""#,
        r#"r'\d' == '\\d'"#,
        "principal.id == 'key:ci'",
        "principal.id in ['a', 'key:ci']",
        "!(principal.id in ['a', 'b'])",
        "time.hour in [12, 13] && time.hour in [13.0]",
        "request.bytes >= 1000 && request.bytes < 1001",
        "request.path.startsWith('/v1/') && request.path.endsWith('s') && request.path.contains('mess')",
        "startsWith(request.path, '/v1')",
        "glob(request.model, 'claude-*-4-?') && !request.model.glob('claude')",
        "cidr(client.addr, '10.0.0.0/8') && !cidr(client.addr, '10.3.0.0/16')",
        "request.headers['X-Team'] == 'Research' && lower(request.headers['x-team']) == 'research'",
        "'x-team' in request.headers && !('x-other' in request.headers)",
        "size(request.path) == 12 && size('ü') == 1",
        "'ops' in principal.groups && !('dev' in principal.groups) && size(principal.groups) == 1",
        "true ? 1 == 1 : 1 == 2",
        "(time.hour > 12 ? 'pm' : 'am') == 'pm'",
        "false || false || true",
        "has(request.model) && has(request.headers['x-team'])",
    ] {
        assert_eq!(ask(yes), Truth::Yes, "{yes}");
    }
}

#[test]
fn what_is_absent_is_no_and_what_cannot_be_read_is_unknown() {
    for no in [
        "has(agent.id)",
        "agent.id == 'a'",
        "agent.id < 'a' || agent.id >= 'a'",
        "agent.id in ['a'] || agent.id.startsWith('') || glob(agent.id, '*')",
        "request.max_tokens > 10",
        "request.max_tokens + 1 > 0",
        "agent.id + 'a' == 'a'",
        "false && request.stream",
        "request.headers['x-other'] == 'a'",
    ] {
        assert_eq!(ask(no), Truth::No, "{no}");
    }
    for yes in ["agent.id != 'a'", "!(agent.id == 'a')", "true || request.stream", "has(request.stream)"] {
        assert_eq!(ask(yes), Truth::Yes, "{yes}");
    }
    for unknown in [
        "request.stream",
        "!request.stream",
        "true && request.stream",
        "false || request.stream",
        "request.stream == true",
        "request.stream ? true : true",
        "1 / 0 == 1",
        "9223372036854775807 + 1 > 0",
        "cidr(principal.id, '10.0.0.0/8')",
        "'dev' in request.tools",
        "!('dev' in request.tools)",
        "size(request.tools) > 0",
        "request.tools.exists(t, t == 'dev')",
        "request.tools.all(t, t == 'ops')",
    ] {
        assert_eq!(ask(unknown), Truth::Unknown, "{unknown}");
    }
    assert_eq!(ask("'ops' in request.tools && request.tools.exists(t, t == 'ops')"), Truth::Yes);
    assert_eq!(ask("request.tools.all(t, t == 'dev')"), Truth::No);
}

#[test]
fn names_are_joined_and_absent_parts_are_empty() {
    let name = |source: &str| {
        let mut name = String::new();
        Expression::name(source, Phase::Request).unwrap().write_name(&Request, &mut name);
        name
    };
    assert_eq!(name("client.addr"), "10.2.3.4");
    assert_eq!(name("principal.id + '/' + request.model"), "key:ci/claude-haiku-4-5");
    assert_eq!(name("agent.id + '/' + request.model"), "/claude-haiku-4-5");
    assert_eq!(name("agent.id"), "");
    assert_eq!(name("'all'"), "all");
    assert_eq!(name("time.hour"), "13");
    let phase = |source| Expression::name(source, Phase::Request).unwrap().phase();
    assert_eq!(phase("client.addr + request.host"), Phase::Connect);
    assert_eq!(phase("client.addr + request.model"), Phase::Request);
    let fault = Expression::name("request.headers", Phase::Request).unwrap_err();
    assert!(fault.message.contains("map(string, string)"), "{fault:?}");
}

#[test]
fn faults_say_where_what_and_what_else() {
    for (source, expected) in [
        ("", "0: the expression is empty (write a fact, such as principal.id)"),
        ("true &&", "7: the expression ends too early ()"),
        ("principal.idd == 'a'", "0: principal.idd is not known (did you mean principal.id?)"),
        ("true && request.modle == 'a'", "8: request.modle is not known (did you mean request.model?)"),
        (
            "agent.generation == 'a'",
            "0: agent.generation is not known (known are agent.id, agent.parent, agent.depth)",
        ),
        (
            "user == 'a'",
            "0: user is not known (facts begin with principal, client, request, messages, session, agent, usage, budget, text, findings, tool, turn, time; a text has quotes: \"user\")",
        ),
        ("principal.id", "0: a condition is true or false, and this is a string (compare it with something)"),
        ("principal.id == 1", "13: a string is never equal to an int ()"),
        ("principal.id in [1]", "17: a string is never equal to an int ()"),
        (
            "time.hour + 'a' == 1",
            "10: '+' does not go with an int and a string (it goes with two numbers, and + also \
          with two texts)",
        ),
        ("principal.id = 'a'", "13: '=' has no meaning here (compare with ==)"),
        ("true & true", "5: '&' has no meaning here (write && for and)"),
        ("true true", "5: true is not expected here (join two conditions with && or ||)"),
        ("(true", "5: ')' is missing before the end ()"),
        ("true ? false", "12: ':' is missing before the end ()"),
        ("'a", "0: this text has no end (close it with the quote that opens it)"),
        ("1 == 1x", "5: '1' is followed by letters (write numbers in decimal digits, such as 10 or 0.5)"),
        ("99999999999999999999 > 1", "0: 99999999999999999999 is too large (numbers have 64 bits)"),
        ("principal.id.startWith('a')", "12: startWith() is not known (did you mean startsWith?)"),
        ("size()  == 1", "0: size() does not take 0 arguments (write size(request.path))"),
        (
            "cidr(client.addr, '10/99')",
            "18: '10/99' is no network (write \"10.0.0.0/8\" or \"2001:db8::/32\")",
        ),
        ("request.headers == request.headers", "16: a map(string, string) cannot be compared so ()"),
        (
            "request.headers['X-API-Key'] == 'a'",
            "15: the field x-api-key may carry a credential (use principal.id for the caller)",
        ),
        ("has(1)", "4: has() asks for a fact (write has(request.model))"),
        ("[1, 2] == 1", "0: a list is only used behind `in` (write name in [\"a\", \"b\"])"),
    ] {
        assert_eq!(fault(source), expected, "{source}");
    }
    assert!(fault("principal.groups.filter(g, true)").contains("part of CEL, but not of this subset"));
    assert!(
        fault("principal.id.matches('(a')").starts_with("21: this is no regular expression: unclosed group")
    );
    assert!(fault("principal.id.matches('\\\\w{5000}')").contains("the pattern is too large"));
    assert!(fault("principal.groups.exists(g, principal.groups.all(h, h == g))").contains("are not nested"));
    assert!(fault("principal.groups.exists(time, true)").contains("is the beginning of facts"));
    assert!(fault("tool.args.path == 'a'").contains("it is known in: tool_call"));
    let early = Expression::condition("request.model == 'a'", Phase::Connect).unwrap_err();
    assert!(early.message.contains("request.model is not known yet"), "{early:?}");
}

#[test]
fn hostile_expressions_are_refused_quickly() {
    let nested = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    for source in [
        nested("(", "true", ")", 300),
        nested("!", "true", "", 300),
        nested("true ? true : ", "true", "", 100),
        nested("size('a' + ", "'b'", ")", 100),
        format!("true{}", " && true".repeat(255)),
        format!("1{} == 1", " + 1".repeat(255)),
        format!("1 in [{}]", "1,".repeat(300)),
        "a".repeat(2049),
        "(".repeat(2048),
        "\u{fffd}".into(),
    ] {
        let begun = std::time::Instant::now();
        assert!(Expression::condition(&source, Phase::Request).is_err(), "{source}");
        assert!(begun.elapsed().as_millis() < 100, "{source}");
    }
    assert_eq!(ask(&format!("true{}", " && true".repeat(200))), Truth::Yes);
    assert_eq!(ask(&nested("(", "true", ")", 15)), Truth::Yes);
}

#[test]
fn globs_take_bounded_time_and_match_whole_texts() {
    use super::texts::TextTest::Glob;
    for (text, pattern, expected) in [
        ("", "", true),
        ("", "*", true),
        ("a", "", false),
        ("abc", "a*c", true),
        ("abcd", "a*c", false),
        ("a/b/c", "a*c", true),
        ("aXbXc", "*X?", true),
        ("claude-haiku", "claude-*", true),
        ("Claude-haiku", "claude-*", false),
        ("a*", "a\\*", false),
    ] {
        assert_eq!(Glob.holds(text, pattern), expected, "{text} {pattern}");
    }
    assert!(!Glob.holds(&"a".repeat(5000), &"*a".repeat(200).replace('a', "ab")));
}

proptest::proptest! {
    /// No text makes the compiler panic, and what compiles can be evaluated.
    #[test]
    fn no_text_makes_it_panic(source in "[ a-z0-9.'\"()\\[\\]!&|<>=?:+*/%,\\\\-]{0,60}") {
        if let Ok(condition) = Expression::condition(&source, Phase::Request) {
            condition.truth(&Request);
        }
    }

    /// The same for texts made of words of the language, which compile more often.
    #[test]
    fn no_words_make_it_panic(words in proptest::collection::vec(proptest::sample::select(vec![
        "true", "!", "(", ")", "&&", "||", "==", "<", "in", "[", "]", ",", "'a'", "1", "1.5", "+", "-", "?", ":",
        "principal.id", "request.stream", "agent.id", "request.headers", ".", "has(", "size(", "lower(", "contains(",
    ]), 0..12)) {
        if let Ok(condition) = Expression::condition(&words.join(" "), Phase::Request) {
            condition.truth(&Request);
        }
    }
}
