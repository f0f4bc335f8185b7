//! The house rules, read off the source: arrows point down, framework crates stay in their rooms, files
//! stay small and say what they are for. A new exception needs an ADR.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Row of each module; a module may use lower rows only.
const ROWS: &[(u8, &[&str])] = &[
    (6, &["main", "cli", "app", "config"]),
    (5, &["proxy", "forward", "control", "agents", "demo"]),
    (4, &["session", "identity", "limits", "cache", "upstream", "history"]),
    (3, &["routing", "policy", "capture"]),
    (2, &["protocol", "redis"]),
    (1, &["telemetry"]),
    (0, &["error", "ids", "clock", "settings"]),
];

/// Uses inside a row that are allowed.
const SAME_ROW: &[(&str, &str)] = &[
    ("main", "cli"),
    ("cli", "app"),
    ("cli", "config"),
    ("app", "config"),
    ("control", "agents"),
    ("history", "session"),
    ("settings", "error"),
];

/// Where a crate may be named: path prefixes below `src/`.
const ROOMS: &[(&str, &[&str])] = &[
    ("pingora", &["proxy/", "forward/", "app/", "upstream/peer.rs", "control/service.rs"]),
    ("h2", &["proxy/downstream/", "upstream/peer.rs"]),
    ("x509_parser", &["proxy/tls.rs"]),
    ("axum", &["control/", "demo/"]),
    ("prometheus", &["telemetry/"]),
    ("tracing_subscriber", &["telemetry/"]),
    ("opentelemetry", &["telemetry/otlp/"]),
    ("tonic", &["telemetry/otlp/"]),
    ("rustls_native_certs", &["telemetry/otlp/"]),
    ("serde_yaml", &["config/", "settings/", "limits/settings.rs"]),
    ("rustix", &["app/", "cli/doctor/", "settings/folder.rs"]),
    ("ureq", &["cli/", "cli.rs", "telemetry/otlp/"]),
    ("clap", &["cli/", "cli.rs", "main.rs"]),
    ("rusqlite", &["history/"]),
    ("ring", &["history/", "telemetry/otlp/client.rs"]),
    ("crossterm", &["cli/top/screen.rs"]),
    ("globset", &["routing/"]),
    ("mimalloc", &["main.rs"]),
    ("fred", &["redis/", "session/store/redis"]),
    ("brotli", &["protocol/wire/coding.rs", "demo/"]),
    ("flate2", &["protocol/wire/coding.rs", "demo/"]),
    ("zstd", &["protocol/wire/coding.rs"]),
];

/// The longest file, in lines without its tests.
const MAX_LINES: usize = 400;

/// The longest function, in lines.
const MAX_FUNCTION: usize = 60;

struct Source {
    /// Path below `src/`.
    path: String,
    /// Its text up to the unit tests at its end.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(read(&root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(root: &Path, path: &PathBuf) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let code = match text.find("\n#[cfg(test)]\nmod ") {
        Some(tests) if text[tests..].contains(" {") => text[..tests].to_owned(),
        _ => text,
    };
    Source { path: path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"), code }
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs")
        || path.ends_with("testing.rs")
        || path.contains("/tests/")
        || path.ends_with("contract.rs")
}

fn module(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

fn row(module: &str) -> Option<u8> {
    ROWS.iter().find(|(_, modules)| modules.contains(&module)).map(|(row, _)| *row)
}

/// Modules of this crate that a file names.
fn uses(code: &str) -> BTreeMap<&str, usize> {
    let mut used = BTreeMap::new();
    for (number, line) in code.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            let name: &str = line[at + 7..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            used.entry(name).or_insert(number + 1);
        }
    }
    used
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn arrows_point_down() {
    let mut faults = Vec::new();
    for source in sources() {
        let from = module(&source.path);
        if from == "lib" || is_test(&source.path) {
            continue;
        }
        let Some(from_row) = row(from) else {
            faults.push(format!("src/{}: {from} stands in no row", source.path));
            continue;
        };
        for (to, line) in uses(&source.code) {
            let allowed = to == from
                || row(to).is_none_or(|to_row| to_row < from_row)
                || SAME_ROW.contains(&(from, to));
            if !allowed {
                faults.push(format!("src/{}:{line}: {from} may not use {to}", source.path));
            }
        }
    }
    none(&faults);
}

#[test]
fn framework_crates_stay_in_their_rooms() {
    let mut faults = Vec::new();
    for source in sources().into_iter().filter(|source| !is_test(&source.path)) {
        for (number, line) in source.code.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with("//") {
                continue;
            }
            for (name, rooms) in ROOMS {
                let named = line.match_indices(name).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = &line[at + name.len()..];
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"')
                        && after
                            .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                            .starts_with("::")
                });
                if named && !rooms.iter().any(|room| source.path.starts_with(room)) {
                    faults.push(format!(
                        "src/{}:{}: {name} is named outside {rooms:?}",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn every_file_says_what_it_is_for_and_stays_small() {
    let mut faults = Vec::new();
    for source in sources() {
        if !source.code.trim_start().starts_with("//!") {
            faults.push(format!("src/{}: begins without a `//!` line", source.path));
        }
        let lines = source.code.lines().count();
        if lines > MAX_LINES && !is_test(&source.path) {
            faults.push(format!("src/{}: {lines} lines, the most is {MAX_LINES}", source.path));
        }
    }
    none(&faults);
}

#[test]
fn functions_stay_small() {
    let mut faults = Vec::new();
    for source in sources().into_iter().filter(|source| !is_test(&source.path)) {
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in source.code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim_start();
            if begun.is_none() && is_function(text) && !text.ends_with(';') {
                begun = Some((number, indent, text.to_owned()));
            }
            if let Some((start, depth, head)) = &begun
                && indent == *depth
                && (text == "}" || (*start == number && text.ends_with('}')))
            {
                if number - start >= MAX_FUNCTION {
                    faults.push(format!(
                        "src/{}:{}: {} lines: {head}",
                        source.path,
                        start + 1,
                        number - start + 1
                    ));
                }
                begun = None;
            }
        }
    }
    none(&faults);
}

fn is_function(text: &str) -> bool {
    let mut words = text.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || matches!(*word, "async" | "const" | "in" | "super)" | "crate)")
    });
    words.next() == Some("fn")
}

#[test]
fn front_pages_hold_no_logic() {
    let mut faults = Vec::new();
    for source in sources().into_iter().filter(|source| source.path.ends_with("/mod.rs")) {
        for (number, line) in source.code.lines().enumerate() {
            // A trait's signature is a word, not logic.
            if is_function(line.trim_start()) && !line.ends_with(';') {
                faults.push(format!("src/{}:{}: a front page has no functions", source.path, number + 1));
            }
        }
    }
    none(&faults);
}

#[test]
fn no_file_is_named_for_leftovers() {
    let faults: Vec<String> = sources()
        .into_iter()
        .filter(|source| {
            source.path.split('/').any(|part| {
                matches!(
                    part.trim_end_matches(".rs"),
                    "util" | "utils" | "common" | "helpers" | "types" | "misc"
                )
            })
        })
        .map(|source| format!("src/{}: a helper lives with its owner", source.path))
        .collect();
    none(&faults);
}
