//! Reads Rust source as far as the guard needs it: which paths a file names, and in which module they end.

use std::collections::{BTreeMap, BTreeSet};

/// A word or a sign of the source, with its line (1 is the first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The words and signs of a source; comments, texts and characters are left out.
pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &code[at..];
        let (length, is_token) = match bytes[at] {
            b'/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            b'/' if rest.starts_with("/*") => (block_comment(rest), false),
            b'"' => (text(rest, 1), false),
            b'r' | b'b' | b'c' if raw_text(rest).is_some() => (raw_text(rest).unwrap_or(1), false),
            b'b' | b'c' if rest[1..].starts_with('"') => (text(rest, 2), false),
            b'\'' => (character(rest), false),
            byte if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (end.max(1), true)
            }
            b':' if rest.starts_with("::") => (2, true),
            byte => (1, !byte.is_ascii_whitespace()),
        };
        if is_token {
            tokens.push(Token { text: &rest[..length], line });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a text that begins with `begin` bytes of quote and prefix.
fn text(rest: &str, begin: usize) -> usize {
    let mut at = begin;
    while let Some(byte) = rest.as_bytes().get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` and the like; `None` for what is none.
fn raw_text(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let begin = prefix.len() + hashes + 1;
    if rest.as_bytes().get(begin - 1) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    Some(rest[begin..].find(&close).map_or(rest.len(), |end| begin + end + close.len()))
}

/// The length of a character, or of the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), Some(escaped)) => {
            let begin = 2 + escaped.len_utf8();
            rest[begin..].find('\'').map_or(rest.len(), |end| begin + end + 1)
        }
        (Some(one), Some('\'')) => 2 + one.len_utf8(),
        _ => 1,
    }
}

/// A path that the source names: `crate::a::b`, one for each leaf of a tree in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) segments: Vec<&'a str>,
    /// The name it gets here, when it stands in a `use`; of `use a::b as c` it is `c`.
    pub(crate) binds: Option<&'a str>,
    pub(crate) line: usize,
}

/// All paths of a source: those of its `use` trees, and those in its code that have more than one segment.
pub(crate) fn named(code: &str) -> Vec<Named<'_>> {
    let tokens = without_tests(&tokens(code));
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_use = tokens[at].text == "use" && tokens.get(at + 1).is_some_and(|next| next.text != "<");
        let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
        let is_inside = before(1).is_some_and(|token| token.text == "::")
            && before(2).is_some_and(|token| token.is_word() || token.text == ">");
        let begins = tokens[at].is_word() && !is_inside;
        if is_use {
            at = tree(&tokens, at + 1, &mut Vec::new(), true, &mut found);
        } else if begins && tokens.get(at + 1).is_some_and(|next| next.text == "::") {
            at = tree(&tokens, at, &mut Vec::new(), false, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// The tokens without `use` items that only tests have.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const ONLY_TESTS: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "use"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let is_test_only = tokens[at..].len() >= ONLY_TESTS.len()
            && tokens[at..].iter().zip(ONLY_TESTS).all(|(token, expected)| token.text == expected);
        if is_test_only {
            at += tokens[at..].iter().position(|token| token.text == ";").map_or(1, |end| end + 1);
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// Reads one path or tree that begins at `at`; returns where it ends.
fn tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    above: &mut Vec<&'a str>,
    is_use: bool,
    found: &mut Vec<Named<'a>>,
) -> usize {
    let depth = above.len();
    let line = tokens.get(at).map_or(0, |token| token.line);
    let mut is_leaf = true;
    while let Some(token) = tokens.get(at) {
        let next = |text: &str| tokens.get(at + 1).is_some_and(|next| next.text == text);
        if token.is_word() && token.text != "as" {
            above.push(token.text);
            at += 1;
            // A path in code ends before `::<` and at anything but `::`.
            let goes_on = tokens.get(at).is_some_and(|token| token.text == "::")
                && tokens.get(at + 1).is_some_and(|token| token.is_word() || matches!(token.text, "{" | "*"));
            if !goes_on {
                break;
            }
            at += 1;
        } else if token.text == "*" {
            above.push("*");
            at += 1;
            break;
        } else if token.text == "{" && (is_use || depth < above.len()) {
            is_leaf = false;
            at += 1;
            while let Some(token) = tokens.get(at) {
                match token.text {
                    "}" => break,
                    "," => at += 1,
                    _ => at = tree(tokens, at, above, is_use, found).max(at + 1),
                }
            }
            at += 1;
            break;
        } else if token.text == "::" && (next("{") || tokens.get(at + 1).is_some_and(Token::is_word)) {
            at += 1;
        } else {
            break;
        }
    }
    let mut alias = None;
    if is_use && tokens.get(at).is_some_and(|token| token.text == "as") {
        alias = tokens.get(at + 1).map(|token| token.text);
        at += 2;
    }
    if is_leaf && (is_use || above.len() - depth > 1 || depth > 0) && !above.is_empty() {
        let mut segments = above.clone();
        // `use a::{self, b}` names `a` itself.
        if segments.len() > 1 && segments.last() == Some(&"self") {
            segments.pop();
        }
        let binds = if is_use { alias.or(segments.last().copied()) } else { None };
        found.push(Named { segments, binds, line });
    }
    above.truncate(depth);
    at
}

/// The modules of a crate, and what their `use` items give a name.
#[derive(Default)]
pub(crate) struct Modules {
    all: BTreeSet<Vec<String>>,
    names: BTreeMap<(Vec<String>, String), Vec<String>>,
}

/// The module that a file holds: `a/b.rs` and `a/b/mod.rs` are `a::b`.
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

impl Modules {
    /// Reads all files: path below `src/`, and code.
    pub(crate) fn read<'a>(files: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        let all = files.clone().map(|(path, _)| module_of(path)).collect();
        let mut modules = Self { all, names: BTreeMap::new() };
        for (path, code) in files {
            let module = module_of(path);
            for named in named(code) {
                if let Some(name) = named.binds.filter(|name| *name != "*")
                    && let Some(target) = modules.absolute(&module, &named.segments)
                {
                    modules.names.insert((module.clone(), name.to_owned()), target);
                }
            }
        }
        modules
    }

    /// The path from the crate's root; `None` for a path into another crate.
    pub(crate) fn absolute(&self, module: &[String], segments: &[&str]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = segments;
        match *rest.first()? {
            "crate" => (base, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first() == Some(&"super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                base.push(first.to_owned());
                if !self.all.contains(&base) {
                    return None;
                }
                rest = &rest[1..];
            }
        }
        base.extend(rest.iter().map(|segment| (*segment).to_owned()));
        Some(base)
    }

    /// The module in which a path from the crate's root ends, through re-exports.
    pub(crate) fn home(&self, path: &[String]) -> Vec<String> {
        self.follow(path, 8)
    }

    fn follow(&self, path: &[String], hops: usize) -> Vec<String> {
        let mut module = Vec::new();
        for (at, segment) in path.iter().enumerate() {
            let mut below = module.clone();
            below.push(segment.clone());
            if self.all.contains(&below) {
                module = below;
            } else if let Some(target) = self.names.get(&(module.clone(), segment.clone()))
                && hops > 0
            {
                let whole: Vec<String> = target.iter().chain(&path[at + 1..]).cloned().collect();
                return self.follow(&whole, hops - 1);
            } else {
                break;
            }
        }
        module
    }
}

/// The circles of a graph: sets of more than one node that all reach each other, the largest first.
pub(crate) fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            for next in edges.get(node).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|node| (node, reached(node))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (node, seen) in &all {
        let circle: BTreeSet<String> = seen
            .iter()
            .filter(|other| all.get(other).is_some_and(|back| back.contains(*node)))
            .cloned()
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|circle| usize::MAX - circle.len());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        named(code).iter().map(|named| named.segments.join("::")).collect()
    }

    fn modules(files: &[(&str, &str)]) -> Modules {
        Modules::read(files.iter().copied())
    }

    fn home(modules: &Modules, from: &str, segments: &[&str]) -> String {
        let path = modules.absolute(&module_of(from), segments).unwrap_or_default();
        modules.home(&path).join("::")
    }

    #[test]
    fn comments_and_texts_name_nothing() {
        let code = "// crate::a\n/* crate::b /* x */ crate::c */ let x = \"crate::d\\\" crate::e\";\n\
                    let y = (r#\"crate::f \" \"#, b\"crate::g\", 'c', '\\'', '\"', br\"crate::h\");\n\
                    fn f<'a>(x: &'a str) { crate::i::j(x) }";
        assert_eq!(paths(code), ["crate::i::j"]);
        assert_eq!(named(code)[0].line, 4);
    }

    #[test]
    fn braces_name_each_leaf_nested_too() {
        let code = "use crate::{proxy, session::{self, Manager, store::{A, B as C}}, clock::*};\nuse a::b;\n\
                    pub(crate) use super::x::{\n    y,\n    z,\n};\n";
        assert_eq!(
            paths(code),
            [
                "crate::proxy",
                "crate::session",
                "crate::session::Manager",
                "crate::session::store::A",
                "crate::session::store::B",
                "crate::clock::*",
                "a::b",
                "super::x::y",
                "super::x::z",
            ]
        );
        let binds: Vec<_> = named(code).iter().filter_map(|named| named.binds).collect();
        assert_eq!(binds, ["proxy", "session", "Manager", "A", "C", "*", "b", "y", "z"]);
        assert_eq!(named(code).last().map(|named| named.line), Some(5));
        assert_eq!(paths("use {crate::a, crate::b::{c}};"), ["crate::a", "crate::b::c"]);
    }

    #[test]
    fn paths_in_code_count_and_generics_end_them() {
        let code =
            "impl X for crate::a::Y { fn f() -> Vec::<crate::b::C> { crate::d::e::<u8>(::std::x()) } }";
        assert_eq!(paths(code), ["crate::a::Y", "crate::b::C", "crate::d::e", "std::x"]);
        assert_eq!(paths("if a == crate::b::C { x } else { y }"), ["crate::b::C"]);
        assert_eq!(paths("match x { crate::b::C => {} self::D::E {} => {} }"), ["crate::b::C", "self::D::E"]);
        assert_eq!(paths("macro_rules! m { () => { $crate::a::b() } }"), ["crate::a::b"]);
    }

    #[test]
    fn what_only_tests_use_does_not_count() {
        assert_eq!(paths("#[cfg(test)]\nuse crate::{a, b};\nuse crate::c;"), ["crate::c"]);
    }

    #[test]
    fn a_path_ends_in_the_module_that_defines_it() {
        let modules = modules(&[
            ("lib.rs", "pub mod a; pub mod b;"),
            ("a/mod.rs", "mod one; pub mod two; pub use one::{X, Y as Z};"),
            ("a/one.rs", "use super::two::T;"),
            ("a/two.rs", "pub use crate::b::deep::D;"),
            ("b.rs", "pub mod deep;"),
            ("b/deep.rs", ""),
        ]);
        assert_eq!(home(&modules, "b.rs", &["crate", "a", "X"]), "a::one");
        assert_eq!(home(&modules, "b.rs", &["crate", "a", "Z", "new"]), "a::one");
        assert_eq!(home(&modules, "a/one.rs", &["super", "two", "T"]), "a::two");
        assert_eq!(home(&modules, "a/one.rs", &["super", "two", "D"]), "b::deep");
        assert_eq!(home(&modules, "a/mod.rs", &["one", "X"]), "a::one");
        assert_eq!(home(&modules, "b/deep.rs", &["super", "super", "a", "Other"]), "a");
        assert_eq!(home(&modules, "b.rs", &["deep", "D"]), "b::deep");
        assert_eq!(modules.absolute(&module_of("b.rs"), &["serde", "de"]), None);
    }

    #[test]
    fn circles_are_found_and_lines_are_none() {
        let graph = |edges: &[(&str, &str)]| {
            let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in edges {
                graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            circles(&graph)
                .iter()
                .map(|circle| circle.iter().cloned().collect::<String>())
                .collect::<Vec<_>>()
        };
        assert_eq!(graph(&[("a", "b"), ("b", "c"), ("a", "c"), ("c", "c")]), [""; 0]);
        assert_eq!(
            graph(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "c")]),
            ["cde", "ab"]
        );
    }
}
