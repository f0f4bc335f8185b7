//! Tests of the scanner: by hand, against serde_json, and with garbage.

use std::fmt::Write;

use proptest::prelude::*;
use serde_json::Value as Tree;

use super::*;
use crate::protocol::chunks::{cut, sizes};

/// What the scanner reported, as `index=value` with strings quoted.
fn scan(paths: &[&str], chunks: &[&[u8]]) -> (Vec<(usize, String)>, Scanner) {
    let mut scanner = Scanner::new(Arc::new(PathSet::new(paths)));
    let mut found = Vec::new();
    for chunk in chunks {
        scanner.feed(chunk, &mut |index, value| found.push((index, shown(&value))));
    }
    (found, scanner)
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Str(text) => format!("{text:?}"),
        Value::Number(number) => (*number).to_owned(),
        Value::Bool(bool) => bool.to_string(),
        Value::Null => "null".to_owned(),
        Value::Part(part) | Value::Raw(part) => format!("part {}", String::from_utf8_lossy(part)),
        Value::End => "end".to_owned(),
    }
}

/// The same for paths of which something else is wanted; parts that follow each other are joined.
fn wanted(paths: &[(&str, Want)], chunks: &[&[u8]]) -> Vec<(usize, String)> {
    let paths = paths.iter().map(|(path, want)| (path, Some(*want)));
    let mut scanner = Scanner::new(Arc::new(PathSet::wanting(paths)));
    let (mut found, mut part) = (Vec::<(usize, String)>::new(), (0, Vec::new()));
    let flush = |part: &mut (usize, Vec<u8>), found: &mut Vec<(usize, String)>| {
        if !part.1.is_empty() {
            found.push((part.0, String::from_utf8_lossy(&std::mem::take(&mut part.1)).into_owned()));
        }
    };
    for chunk in chunks {
        scanner.feed(chunk, &mut |index, value| match value {
            Value::Part(bytes) | Value::Raw(bytes) => {
                if part.0 != index {
                    flush(&mut part, &mut found);
                    part.0 = index;
                }
                part.1.extend_from_slice(bytes);
            }
            value => {
                flush(&mut part, &mut found);
                found.push((index, shown(&value)));
            }
        });
    }
    flush(&mut part, &mut found);
    found
}

#[test]
fn elements_of_arrays_are_found() {
    let paths = ["a[].b", "a[].c[].d", "[].e", "a[]", "f[][]"];
    let cases: &[(&str, &[&str])] = &[
        (r#"{"a":[{"b":1},{"b":2,"c":[{"d":3},{"d":4},5]}]}"#, &["0=1", "0=2", "1=3", "1=4"]),
        (r#"{"a":[],"f":[[1,[2]],[3],4]}"#, &["4=1", "4=3"]),
        (r#"{"a":["x",null,[true]]}"#, &["3=\"x\"", "3=null"]),
        (r#" [ {"e":1} , {"x":[{"e":9}],"e":2} ]"#, &["2=1", "2=2"]),
        (r#"{"a":{"b":1},"b":1}"#, &[]),
        (r#"{"a":[{"b":1}}"#, &["0=1"]),
        (r#"{"a":[,{"b":1}]}"#, &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(each(&paths, text), *expected, "{text}");
    }
    let state = |text: &str| {
        let scanner = scan(&["a[].b"], &[text.as_bytes()]).1;
        (scanner.is_done(), scanner.is_broken())
    };
    assert_eq!(state(r#"{"a":[{"b":1},{}]}"#), (true, false));
    assert_eq!(state(r#"{"a":[{"b":1}}"#), (false, true));
    assert_eq!(state(r#"{"a":[1 2]}"#), (false, true));
}

#[test]
fn long_values_come_in_parts_and_ends_are_told() {
    let paths =
        [("a[]", Want::End), ("a[].text", Want::Parts), ("a[].id", Want::Scalar), ("input", Want::Parts)];
    let long = r#"\u00e9\ud83d\ude00\\\"ü\n"#.repeat(2000);
    let text = format!(
        r#"{{"a":[{{"text":"{long}","id":"1"}},{{"id":"2","text":""}},{{"text":{{"x":["\"}}"]}}}},{{"text":null}}],"input":12}}"#
    );
    let plain: String = serde_json::from_str(&format!("\"{long}\"")).unwrap();
    let expected = [
        (1, plain.as_str()),
        (2, "\"1\""),
        (0, "end"),
        (2, "\"2\""),
        (0, "end"),
        (1, r#"{"x":["\"}"]}"#),
        (0, "end"),
        (0, "end"),
        (3, "12"),
    ];
    for size in [1, 2, 3, 7, 11, 4096, text.len()] {
        let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
        let found = wanted(&paths, &chunks);
        let found: Vec<_> = found.iter().map(|(index, value)| (*index, value.as_str())).collect();
        assert_eq!(found, expected, "chunks of {size}");
    }
}

fn each(paths: &[&str], text: &str) -> Vec<String> {
    let whole = scan(paths, &[text.as_bytes()]).0;
    for size in 1..=text.len().min(40) {
        let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
        assert_eq!(scan(paths, &chunks).0, whole, "{text} in chunks of {size}");
    }
    whole.into_iter().map(|(index, value)| format!("{index}={value}")).collect()
}

#[test]
fn values_are_found_where_their_path_says() {
    let paths = ["model", "usage.in", "usage.more.cached", "a.b.c.d"];
    let cases: &[(&str, &[&str])] = &[
        (r#"{"model":"gpt","messages":[]}"#, &["0=\"gpt\""]),
        (r#"{"m":[{"model":"no","c":"a\"}]{\\"}],"x":{"model":"no"}, "model" : "yes" }"#, &["0=\"yes\""]),
        (r#"{"a":"model","b":"\"model\":\"bad\"","model":"m"}"#, &["0=\"m\""]),
        (r#"{"usage":{"in":12,"more":{"cached":-3.5e2},"out":1}}"#, &["1=12", "2=-3.5e2"]),
        (r#"{"usage":null,"model":null,"x":1}"#, &["0=null"]),
        (r#"{"usage":[{"in":1}],"usage":{"in":true}}"#, &["1=true"]),
        (r#"{"model":"a","model":"b"}"#, &["0=\"a\"", "0=\"b\""]),
        (r#"{"model":{"model":"x"},"usage":{"model":"x"}}"#, &[]),
        (r#"{"a":{"b":{"c":{"d":false,"e":{"d":1}}}}}"#, &["3=false"]),
        (r#"[{"model":"x"}]"#, &[]),
        (r#"{"m\u006fdel":"\ud83d\ude00\n\/\u00e9"}"#, &["0=\"😀\\n/é\""]),
        (r#"{"model":"\ud83d x \ude00 \u12"}"#, &["0=\"\u{FFFD} x \u{FFFD} \u{FFFD}12\""]),
        (r#"{"model":"","usage":{}}"#, &["0=\"\""]),
        ("\u{FEFF}{\"model\":\"m\"} {\"model\":\"later\"}", &["0=\"m\""]),
        ("  \n{\r\n\t\"model\" :\t7 , \"usage\" : { \"in\" : 1 } }", &["0=7", "1=1"]),
        (r#"{"model":NaN,"usage":{"in":1}}"#, &["1=1"]),
        (r#"{"model""#, &[]),
        (r#"{"usage":{"in":12"#, &[]),
        (r#"{"model":"cut"#, &[]),
        (r#""model""#, &[]),
        (r#"{model:"x"}"#, &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(each(&paths, text), *expected, "{text}");
    }
}

#[test]
fn the_scanner_tells_whether_the_text_ended() {
    let state = |text: &str| {
        let scanner = scan(&["a.b"], &[text.as_bytes()]).1;
        (scanner.is_done(), scanner.is_broken())
    };
    assert_eq!(state(r#"{"a":{"b":1},"c":[{}]} trailing"#), (true, false));
    assert_eq!(state("[1,[2]]\n"), (true, false));
    assert_eq!(state(r#"{"a":{"b":1}"#), (false, false));
    assert_eq!(state(r#"{"a" 1}"#), (false, true));
    assert_eq!(state(r#"{"a":}"#), (false, true));
    assert_eq!(state(r#"{"a":1]"#), (false, true));
    assert_eq!(state("model=x"), (false, true));
    assert_eq!(state("\u{FEFF}"), (false, false));
    assert_eq!(state(""), (false, false));
}

#[test]
fn a_scanner_can_be_used_again() {
    let (_, mut scanner) = scan(&["a"], &[br#"{"a":"cut \"#]);
    scanner.reset();
    let mut found = Vec::new();
    scanner.feed(br#"{"a":"b"}"#, &mut |index, value| found.push((index, shown(&value))));
    assert_eq!(found, [(0, "\"b\"".to_owned())]);
}

#[test]
fn equal_paths_are_each_reported_and_deep_ones_never() {
    assert_eq!(each(&["a", "b", "a"], r#"{"a":1}"#), ["0=1", "2=1"]);
    let deep = |keys: &str| {
        format!("{}1{}", keys.replace(|key: char| key != '.', "{\"k\":").replace('.', ""), "}".repeat(9))
    };
    let nine = ["k"; 9].join(".");
    assert_eq!(each(&[&nine], &deep(&nine)), Vec::<String>::new());
    assert_eq!(each(&["k.k[].k.k[].k.k"], r#"{"k":{"k":[{"k":{"k":[{"k":{"k":1}}]}}]}}"#), ["0=1"]);
    assert_eq!(each(&["a", "a.b"], r#"{"a":1,"a":{"b":2}}"#), ["0=1", "1=2"]);
}

#[test]
fn case_counts_unless_it_is_ignored() {
    assert_eq!(each(&["model"], r#"{"Model":1}"#), Vec::<String>::new());
    let mut scanner = Scanner::new(Arc::new(PathSet::ignoring_case(["model"])));
    let mut found = 0;
    scanner.feed(br#"{"Model":1,"MODEL":2}"#, &mut |_, _| found += 1);
    assert_eq!(found, 2);
}

#[test]
fn a_value_that_is_too_long_is_dropped_and_not_held() {
    for (length, reported) in [(KEPT_MAX, 1), (KEPT_MAX + 1, 0)] {
        let text = format!(r#"{{"a":"{}","{}":1}}"#, "x".repeat(length), "k".repeat(1 << 20));
        for size in [1, 7, 4096, text.len()] {
            let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
            let (found, scanner) = scan(&["a"], &chunks);
            assert_eq!(found.len(), reported, "{length} in chunks of {size}");
            assert!(scanner.is_done());
            assert!(scanner.kept.capacity() <= 2 * KEPT_MAX);
        }
    }
}

#[test]
fn depth_costs_no_stack() {
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let deep = format!("{{\"x\":{}", open.repeat(100_000));
        let scanner = scan(&["a", "a.a.a.a"], &[deep.as_bytes()]).1;
        assert!(!scanner.is_done() && !scanner.is_broken());
    }
    let even = format!("{{\"x\":{}{},\"a\":1}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(scan(&["a"], &[even.as_bytes()]).0.len(), 1);
}

/// Keys few enough that random paths meet random trees.
const KEYS: [&str; 6] = ["a", "b", "model", "clé", "q\"\\", "\u{1F600}"];

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<u64>().prop_map(Tree::from),
        (-1e12f64..1e12).prop_map(Tree::from),
        prop::collection::vec(any::<char>(), 0..12).prop_map(|text| Tree::from(String::from_iter(text))),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::from),
            prop::collection::vec((prop::sample::select(&KEYS[..]), inner), 0..6).prop_map(|members| {
                Tree::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// Writes a tree with whitespace and escapes as the dice say.
fn write(tree: &Tree, dice: &mut impl Iterator<Item = u8>, out: &mut String) {
    let space = |dice: &mut dyn Iterator<Item = u8>, out: &mut String| {
        out.push_str(["", " ", "\n", "\r\n\t", "", ""][usize::from(dice.next().unwrap_or(0)) % 6]);
    };
    space(dice, out);
    match tree {
        Tree::String(text) => write_text(text, dice, out),
        Tree::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write(item, dice, out);
            }
            space(dice, out);
            out.push(']');
        }
        Tree::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                space(dice, out);
                write_text(key, dice, out);
                space(dice, out);
                out.push(':');
                write(value, dice, out);
            }
            space(dice, out);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
    space(dice, out);
}

fn write_text(text: &str, dice: &mut impl Iterator<Item = u8>, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        if letter < ' ' || dice.next().unwrap_or(0).is_multiple_of(4) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").unwrap();
            }
        } else if matches!(letter, '"' | '\\') {
            out.push('\\');
            out.push(letter);
        } else {
            out.push(letter);
        }
    }
    out.push('"');
}

fn lookup<'t>(tree: &'t Tree, path: &str) -> Option<&'t Tree> {
    let found = path.split('.').try_fold(tree, |tree, key| tree.as_object()?.get(key))?;
    (!found.is_object() && !found.is_array()).then_some(found)
}

/// Everything at a path whose steps may be `[]`.
fn lookup_all<'t>(tree: &'t Tree, steps: &[&str]) -> Vec<&'t Tree> {
    match steps.split_first() {
        None => vec![tree],
        Some((&"[]", rest)) => {
            tree.as_array().into_iter().flatten().flat_map(|item| lookup_all(item, rest)).collect()
        }
        Some((key, rest)) => tree
            .as_object()
            .and_then(|members| members.get(*key))
            .map_or(Vec::new(), |it| lookup_all(it, rest)),
    }
}

fn paths() -> impl Strategy<Value = Vec<String>> {
    let path = prop::collection::vec(prop::sample::select(&KEYS[..]), 1..=4).prop_map(|keys| keys.join("."));
    prop::collection::vec(path, 1..12)
}

/// Real bodies: whole ones, and the data of events and lines.
fn bodies() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.flat_map(|file| {
        let text = std::fs::read_to_string(&file).unwrap();
        let whole = file.extension().is_some_and(|kind| kind == "json");
        let line = |line: &str| line.strip_prefix("data: ").unwrap_or(line).to_owned();
        if whole { vec![text] } else { text.lines().map(line).filter(|line| line.starts_with('{')).collect() }
    });
    texts.collect()
}

/// Reports of one text, and the scanner's state after it.
type TextRead = (Vec<(usize, String)>, bool, bool);

/// Reports and state after each text, read in chunks of these sizes; parts that follow each other are joined.
fn read_all(paths: &Arc<PathSet>, texts: &[Vec<u8>], sizes: &[usize]) -> Vec<TextRead> {
    let mut scanner = Scanner::new(paths.clone());
    let read = |text: &Vec<u8>| {
        let (mut found, mut parts) = (Vec::<(usize, String)>::new(), false);
        for chunk in cut(text, sizes) {
            scanner.feed(chunk, &mut |index, value| {
                let is_part = matches!(value, Value::Part(_) | Value::Raw(_));
                let shown = match &value {
                    Value::Part(bytes) | Value::Raw(bytes) => {
                        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
                    }
                    value => shown(value),
                };
                match found.last_mut() {
                    Some((last, text)) if is_part && parts && *last == index => text.push_str(&shown),
                    _ => found.push((index, shown)),
                }
                parts = is_part;
            });
        }
        let end = (scanner.is_done(), scanner.is_broken());
        scanner.reset();
        (found, end.0, end.1)
    };
    texts.iter().map(read).collect()
}

/// Bytes that change what follows them.
const SOUP: &[u8] = b"\"\\{}[],: \n1ntmMu\x80\xff";

proptest! {
    #[test]
    fn whole_values_and_repeated_beginnings_are_read_like_single_bytes(
        first in any::<prop::sample::Index>(),
        // Texts of one stream, mostly, each with some changes.
        texts in prop::collection::vec(
            (0usize..3, prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(SOUP)), 0..3)), 1..6),
        sizes in prop_oneof![Just(vec![1 << 20]), prop::collection::vec(1usize..400, 1..4)],
    ) {
        static BODIES: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(bodies);
        let first = first.index(BODIES.len());
        let texts: Vec<Vec<u8>> = texts.iter().map(|(next, changes)| {
            let mut text = BODIES[(first + next) % BODIES.len()].clone().into_bytes();
            changes.iter().for_each(|(at, byte)| *at.get_mut(&mut text) = *byte);
            text
        }).collect();
        let scalars = ["model", "id", "type", "created", "usage.total_tokens", "usage.prompt_tokens_details.x",
            "choices[].index", "choices[].finish_reason", "choices[].delta.role", "delta.type", "done", "message.model",
            "choices[].message.content"];
        let parts = [("choices[]", Want::End), ("choices[].delta.content", Want::Parts), ("delta.text", Want::Parts),
            ("index", Want::Parts), ("type", Want::Scalar), ("usage", Want::Parts), ("message.content", Want::Parts)];
        let parts = parts.map(|(path, want)| (path, Some(want)));
        for paths in [PathSet::new(scalars), PathSet::ignoring_case(scalars), PathSet::wanting(parts)] {
            let paths = Arc::new(paths);
            // In single bytes no value is whole, and no beginning is in one chunk.
            prop_assert_eq!(read_all(&paths, &texts, &sizes), read_all(&paths, &texts, &[1]));
        }
    }

    #[test]
    fn the_scanner_agrees_with_serde_json(
        members in prop::collection::vec((prop::sample::select(&KEYS[..]), trees()), 0..6),
        dice in prop::collection::vec(any::<u8>(), 1..40),
        paths in paths(),
        sizes in sizes(),
    ) {
        let root = Tree::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        let mut text = String::new();
        write(&root, &mut dice.into_iter().cycle(), &mut text);
        let tree: Tree = serde_json::from_str(&text).unwrap();

        let set = Arc::new(PathSet::new(&paths));
        let mut scanner = Scanner::new(set);
        let mut found: Vec<Option<Tree>> = vec![None; paths.len()];
        for chunk in cut(text.as_bytes(), &sizes) {
            scanner.feed(chunk, &mut |index, value| {
                assert!(found[index].is_none(), "reported twice");
                found[index] = Some(match value {
                    Value::Str(text) => Tree::from(text.into_owned()),
                    Value::Number(number) => serde_json::from_str(number).unwrap(),
                    Value::Bool(bool) => Tree::from(bool),
                    Value::Null => Tree::Null,
                    Value::Part(_) | Value::Raw(_) | Value::End => panic!("not wanted"),
                });
            });
        }
        prop_assert!(scanner.is_done());
        for (path, found) in paths.iter().zip(&found) {
            prop_assert_eq!(found.as_ref(), lookup(&tree, path), "{} in {}", path, text);
        }
    }

    #[test]
    fn parts_and_ends_agree_with_serde_json(
        items in prop::collection::vec(trees(), 0..6),
        steps in prop::collection::vec(prop::sample::select(&["[]", "[]", "a", "b", "model"][..]), 0..6),
        sizes in sizes(),
    ) {
        let tree = Tree::Object([("a".to_owned(), Tree::from(items))].into_iter().collect());
        let steps: Vec<&str> = ["a", "[]"].into_iter().chain(steps).collect();
        let path = steps.join(".").replace(".[]", "[]");
        let text = tree.to_string();
        let at_path = lookup_all(&tree, &steps);
        let chunks = cut(text.as_bytes(), &sizes);
        let parts: String = wanted(&[(&path, Want::Parts)], &chunks).into_iter().map(|(_, part)| part).collect();
        let expected: String = at_path.iter().map(|found| match found {
            Tree::String(text) => text.clone(),
            Tree::Null => String::new(),
            other => other.to_string(),
        }).collect();
        prop_assert_eq!(parts, expected, "{} in {}", path, text);
        let ends = wanted(&[(&path, Want::End)], &chunks).len();
        let containers = at_path.iter().filter(|found| found.is_object() || found.is_array()).count();
        prop_assert_eq!(ends, containers, "{} in {}", path, text);
        let scalars = wanted(&[(&path, Want::Scalar)], &chunks).len();
        prop_assert_eq!(scalars, at_path.len() - containers, "{} in {}", path, text);
    }

    #[test]
    fn garbage_never_panics_and_chunking_does_not_matter(
        parts in prop::collection::vec(
            prop::sample::select(&[
                "{", "}", "[", "]", "\"", ":", ",", "\\", "a", "b", "\"a\"", "{\"a\":", "1", "-", "\\u", "d83d",
                "null", "true", " ", "\n", "é", "\u{FEFF}", "{\"a\":\"",
            ][..]),
            0..60,
        ),
        raw in prop::collection::vec(any::<u8>(), 0..20),
        sizes in sizes(),
    ) {
        let mut bytes = parts.concat().into_bytes();
        bytes.extend(raw);
        let (whole, end) = scan(&["a", "b.a"], &[&bytes]);
        let (chunked, same) = scan(&["a", "b.a"], &cut(&bytes, &sizes));
        prop_assert_eq!(whole, chunked);
        prop_assert_eq!((end.is_done(), end.is_broken()), (same.is_done(), same.is_broken()));
        let paths = [("a", Want::Parts), ("a[].a", Want::Scalar), ("[].a", Want::Parts), ("b", Want::End)];
        prop_assert_eq!(wanted(&paths, &[&bytes]), wanted(&paths, &cut(&bytes, &sizes)));
    }
}
