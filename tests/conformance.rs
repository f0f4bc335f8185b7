//! `docs/conformance.md` has a row for each requirement, and names only tests and files that exist.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the requirements list whose steps are built: a letter, the first and the last number.
const ROWS: &[(char, u32, u32)] = &[
    ('E', 1, 87),
    ('E', 106, 117),
    ('E', 126, 152),
    ('K', 1, 16),
    ('C', 76, 76),
    ('P', 1, 2),
    ('P', 5, 8),
    ('P', 10, 10),
    ('P', 12, 12),
    ('P', 14, 16),
    ('P', 18, 35),
    ('P', 37, 37),
    ('P', 39, 41),
    ('P', 44, 49),
    ('P', 52, 58),
    ('P', 60, 83),
    ('P', 85, 95),
    ('P', 97, 99),
    ('P', 104, 111),
    ('P', 116, 120),
    ('P', 124, 130),
    ('P', 132, 134),
    ('P', 136, 139),
    ('P', 144, 153),
    ('P', 155, 156),
    ('P', 158, 158),
    ('P', 160, 162),
    ('P', 167, 174),
    ('S', 8, 8),
    ('S', 11, 16),
    ('S', 18, 18),
    ('S', 25, 25),
    ('S', 27, 27),
    ('S', 31, 31),
    ('S', 40, 40),
    ('S', 88, 90),
    ('S', 105, 106),
    ('A', 12, 12),
    ('A', 24, 24),
    ('A', 52, 53),
    ('A', 55, 55),
    ('A', 64, 67),
    ('A', 70, 77),
    ('A', 79, 84),
    ('A', 86, 89),
    ('A', 92, 92),
    ('A', 108, 109),
    ('A', 114, 116),
    ('A', 132, 132),
    ('A', 135, 136),
];

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
        let id = line.strip_prefix("| ").unwrap_or_default();
        id.starts_with(['E', 'K', 'C', 'P', 'S', 'A', 'I'])
            && id[1..].starts_with(|c: char| c.is_ascii_digit())
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

/// A file that `tests/gateway/main.rs` does not declare would never run.
#[test]
fn every_file_of_gateway_tests_is_in_the_table_of_contents() {
    let folder = root().join("tests/gateway");
    let contents = fs::read_to_string(folder.join("main.rs")).unwrap();
    let mut subjects = 0;
    for subject in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = subject.file_name().unwrap().to_str().unwrap();
        if name == "main.rs" || name == "support" {
            continue;
        }
        assert!(subject.is_dir(), "tests/gateway/{name} belongs into the folder of its subject");
        let section = contents.split(&format!("\nmod {name} {{\n")).nth(1);
        let section =
            section.unwrap_or_else(|| panic!("{name} is not in main.rs")).split("\n}\n").next().unwrap();
        for file in fs::read_dir(&subject).unwrap().map(|entry| entry.unwrap().path()) {
            let module = file.file_stem().unwrap().to_str().unwrap();
            let has_line = section.lines().zip(section.lines().skip(1)).any(|(doc, line)| {
                doc.trim_start().starts_with("/// ") && line.trim() == format!("pub mod {module};")
            });
            assert!(has_line, "main.rs has no line for {name}/{module}");
        }
        subjects += 1;
    }
    assert_eq!(
        subjects, 13,
        "sessions, kills, cache, policy, protocols, governance, callers, routing, fleet, dashboard, operations, forward, http"
    );
}

/// The glossary's table: word, type and file of each row.
fn glossary() -> Vec<[String; 3]> {
    let page = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [word, _, name, file] = cells[..] else { panic!("four cells: {line}") };
        [word, name, file].map(|cell| cell.trim_matches('`').to_owned())
    })
    .collect()
}

#[test]
fn every_type_of_the_glossary_exists() {
    let rows = glossary();
    assert!(rows.len() > 10, "docs/glossary.md has no table any more");
    for [word, name, file] in rows {
        let text = fs::read_to_string(root().join(&file))
            .unwrap_or_else(|_| panic!("docs/glossary.md: the file of \"{word}\" is not {file} any more"));
        let is_defined = text.lines().any(|line| {
            line.trim() == name
                || ["struct", "enum", "trait"].iter().any(|kind| {
                    let rest = line.split_once(&format!("{kind} {name}")).map(|(_, rest)| rest);
                    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                })
        });
        assert!(is_defined, "docs/glossary.md: {file} does not define {name} (\"{word}\") any more");
    }
}

/// A merge that was committed half resolved leaves its markers in pages, which nothing else reads.
#[test]
fn no_file_has_markers_of_a_merge() {
    let mut folders: Vec<_> =
        ["src", "docs", "tests/gateway", "conf", "docker", "benches"].map(|name| root().join(name)).into();
    let mut files = vec![root().join("README.md"), root().join("CHANGELOG.md"), root().join("justfile")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let list = if entry.file_type().unwrap().is_dir() { &mut folders } else { &mut files };
            list.push(entry.path());
        }
    }
    let markers = ["<", ">"].map(|mark| format!("{} ", mark.repeat(7)));
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        let found = text.lines().find(|line| markers.iter().any(|marker| line.starts_with(marker)));
        assert_eq!(found, None, "{}", file.display());
    }
}
