//! `docs/conformance.md` has a row for each requirement, and names only tests and files that exist.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rows of issue 2: a letter, the first and the last number.
const ROWS: [(char, u32, u32); 4] = [('E', 1, 87), ('E', 106, 117), ('E', 126, 152), ('K', 1, 16)];

struct Row {
    id: String,
    /// The names in backticks in the column "Shown by".
    shown: Vec<String>,
    not_yet: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let is_row = |line: &&str| {
        ["| E", "| K", "| I3", "| I4", "| I5", "| I10"].iter().any(|start| line.starts_with(start))
    };
    let lines = page.lines().filter(is_row);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [id, _, shown, not_yet] = cells[..] else { panic!("four cells: {line}") };
            let shown = shown.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Row { id: id.to_owned(), shown, not_yet: not_yet.to_owned() }
        })
        .collect()
}

/// Returns the file of a test's module: below `tests/`, or below the root for names that begin with `src/`.
fn file_of(module: &str) -> PathBuf {
    let folder = if module.starts_with("src/") { root().to_owned() } else { root().join("tests") };
    folder.join(module).with_extension("rs")
}

/// Whether the file has this function as a test, or as an entry of a suite that a macro expands to tests.
fn has_test(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let before = text[..at].rsplit("\n\n").next().unwrap_or_default();
    let is_part = || {
        let suite = text.split("macro_rules! suite").nth(1).and_then(|rest| rest.split("\n}\n").next());
        suite.is_some_and(|suite| suite.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == name))
    };
    before.contains("#[test]") || before.contains("#[tokio::test") || is_part()
}

#[test]
fn every_requirement_has_its_row() {
    let expected: Vec<String> = ROWS
        .iter()
        .flat_map(|(letter, first, last)| (*first..=*last).map(move |number| format!("{letter}{number:03}")))
        .collect();
    let found: Vec<String> = rows().into_iter().map(|row| row.id).filter(|id| !id.starts_with('I')).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_row_names_what_shows_it_or_says_that_it_does_not_hold() {
    for row in rows() {
        assert!(
            row.not_yet.is_empty() || row.not_yet.starts_with("not yet: "),
            "{}: {}",
            row.id,
            row.not_yet
        );
        assert!(!row.shown.is_empty() || !row.not_yet.is_empty(), "{} says nothing", row.id);
    }
}

#[test]
fn every_test_and_file_named_exists() {
    let mut missing = Vec::new();
    for Row { id, shown, .. } in rows() {
        for name in shown {
            let exists = match name.split_once("::") {
                Some((module, test)) => {
                    fs::read_to_string(file_of(module)).is_ok_and(|text| has_test(&text, test))
                }
                None => root().join(&name).exists(),
            };
            if !exists {
                missing.push(format!("{id}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_function_that_is_no_test_does_not_count() {
    let text = "fn helper() {}\n\n#[test]\nfn shown() {}\n\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn waits() {}\n";
    assert!(has_test(text, "shown") && has_test(text, "waits"));
    assert!(!has_test(text, "helper") && !has_test(text, "show") && !has_test(text, "gone"));
}
