//! Arguments of tools, whose types are known only when they are read, and lists.

use super::*;
use crate::policy::facts::{Fact, Facts, Phase, Step, ToolFacts, Value};

struct Call(ToolFacts<'static>);

impl Facts for Call {
    fn get(&self, fact: Fact) -> Value<'_> {
        self.0.get(fact)
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        if fact == Fact::SessionSaw { Value::Bool(key == "web") } else { Value::Absent }
    }

    fn has(&self, fact: Fact, text: &str) -> bool {
        (0..self.count(fact)).any(|index| self.element(fact, index) == Value::text(Some(text)))
    }

    fn count(&self, _: Fact) -> usize {
        2
    }

    fn element(&self, _: Fact, index: usize) -> Value<'_> {
        Value::text(["ops", "team-a"].get(index).copied())
    }

    fn at(&self, _: Fact, path: &[Step]) -> Value<'_> {
        self.0.at(path)
    }
}

fn ask(args: &'static str, source: &str) -> Truth {
    let condition = Expression::condition(source, Phase::ToolCall);
    let condition = condition.unwrap_or_else(|fault| panic!("{source}: {fault:?}"));
    let tool = ToolFacts {
        name: Some("mcp__git__push"),
        args: args.as_bytes(),
        source: "model",
        ..Default::default()
    };
    condition.truth(&Call(tool))
}

const ARGS: &str = r#"{"path": "/etc/passwd", "force": true, "times": 3, "ratio": 0.5, "mode": null,
    "files": ["a.rs", "b.toml", 7], "deep": {"a": {"b": "c"}}, "twice": 1, "twice": 2, "no": false, "x-y": 1}"#;

#[test]
fn arguments_have_the_types_that_are_found() {
    for yes in [
        "tool.args.path.startsWith('/etc/') && tool.args['path'] == '/etc/passwd'",
        "tool.args.force && !tool.args.no",
        "tool.args.times == 3 && tool.args.times > 2.5 && tool.args.times + 1 == 4 && -tool.args.times == -3",
        "tool.args.ratio < 1 && tool.args.times in [1, 3]",
        "tool.args.path in ['/etc/passwd', 'x'] && 'a.rs' in tool.args.files && 'deep' in tool.args",
        "tool.args.files[1] == 'b.toml' && size(tool.args.files) == 3 && size(tool.args.path) == 11",
        "tool.args.deep.a.b == 'c' && tool.args.deep['a'].b.matches('^[a-c]$')",
        "has(tool.args.mode) && !has(tool.args.other) && has(tool.args.twice) && tool.args['x-y'] == 1",
        "tool.args.other != 'a' && !(tool.args.other == 'a') && !(tool.args.other in ['a'])",
        "tool.args.files.exists(f, f.endsWith('.rs'))",
        "principal.groups.exists(g, g.startsWith('team-')) && principal.groups.all(g, size(g) > 2)",
        "tool.args.path + '!' == '/etc/passwd!' && lower(tool.args.path).contains('passwd')",
        "session.saw['web'] && !session.saw.other && session.saw['web'] == true",
        "tool.server == 'git' && tool.name.glob('mcp__*__push') && tool.source == 'model'",
        "(tool.args.force ? tool.args.path : 'x') == '/etc/passwd'",
    ] {
        assert_eq!(ask(ARGS, yes), Truth::Yes, "{yes}");
    }
    for no in [
        "tool.args.files.exists(f, f == 'z') && false",
        "tool.args.none.exists(x, true)",
        "false && tool.args.twice == 1",
    ] {
        assert_eq!(ask(ARGS, no), Truth::No, "{no}");
    }
}

#[test]
fn another_type_than_compared_with_is_unknown_and_so_is_what_cannot_be_read() {
    for unknown in [
        "tool.args.times == '3'",
        "tool.args.times != '3'",
        "tool.args.path > 1",
        "tool.args.path in [1, 2]",
        "tool.args.mode == 'a'",
        "tool.args.times.startsWith('3')",
        "tool.args.path",
        "!tool.args.times",
        "tool.args.deep == 'a'",
        "tool.args.twice == 1",
        "tool.args.path.inner == 'a'",
        "tool.args.files.all(f, f.size() < 10)",
        "tool.args.path.exists(p, true)",
        "'a' in tool.args.times",
        "tool.args.path - 1 == 2",
        "size(tool.args.times) == 1",
        "lower(tool.args.times) == '3'",
    ] {
        assert_eq!(ask(ARGS, unknown), Truth::Unknown, "{unknown}");
    }
    for (args, source) in [
        ("{\"path\": ", "tool.args.path == 'a'"),
        ("rm -rf /", "has(tool.args.path) && tool.args.path == 'a'"),
    ] {
        assert_eq!(ask(args, source), Truth::Unknown, "{args}");
    }
    assert_eq!(ask("", "tool.args.path == 'a'"), Truth::No, "a call without arguments");
    let condition = Expression::condition("tool.args.path == 'a'", Phase::ToolCall).unwrap();
    let tool = ToolFacts { args: br#"{"path": "b"}"#, args_truncated: true, ..Default::default() };
    assert_eq!(condition.truth(&Call(tool)), Truth::Unknown, "not all arguments were kept");
}
