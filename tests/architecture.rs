//! The rules of the code base, checked against its source: modules use lower rows only, framework crates stay in their
//! folders, folders do not use each other in a circle, files stay small and say what they are for. A new exception
//! needs an ADR.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source::Modules;

/// Row of each module; a module may use lower rows only.
const ROWS: &[(u8, &[&str])] = &[
    (6, &["main", "cli", "app", "config"]),
    (5, &["proxy", "control", "demo"]),
    (4, &["session", "identity", "pricing", "upstream", "history", "forward", "cache"]),
    (3, &["routing", "capture", "summary", "limits"]),
    (2, &["protocol", "redis", "notify"]),
    (1, &["telemetry", "model_patterns", "policy"]),
    (0, &["error", "ids", "clock", "settings"]),
];

/// Uses inside a row that are allowed.
const SAME_ROW: &[(&str, &str)] = &[
    ("main", "cli"),
    ("cli", "app"),
    ("cli", "config"),
    ("app", "config"),
    ("history", "session"),
    ("summary", "capture"),
];

/// The largest circle of files inside a folder.
const MAX_CIRCLE: usize = 6;

/// Where a crate may be named: path prefixes below `src/`.
const ROOMS: &[(&str, &[&str])] = &[
    ("pingora", &["proxy/", "cache/", "app/", "upstream/http1/", "upstream/peer.rs", "control/service.rs"]),
    ("h2", &["proxy/downstream/", "upstream/peer.rs"]),
    ("x509_parser", &["forward/intercept.rs", "proxy/tls.rs"]),
    ("axum", &["control/", "demo/"]),
    ("prometheus", &["telemetry/"]),
    ("tracing_subscriber", &["telemetry/"]),
    ("opentelemetry", &["telemetry/otlp/"]),
    ("tonic", &["telemetry/otlp/"]),
    ("rustls_native_certs", &["identity/jwt/", "notify/", "telemetry/otlp/"]),
    ("serde_yaml", &["config/", "settings/", "pricing/settings.rs", "policy/presets.rs", "cli/policy.rs"]),
    ("rustix", &["app/", "cli/doctor/", "settings/folder.rs", "proxy/downstream/http1/wire.rs"]),
    ("jsonwebtoken", &["identity/jwt/"]),
    ("ureq", &["cli/", "cli.rs", "identity/jwt/", "notify/", "telemetry/otlp/"]),
    ("clap", &["cli/", "cli.rs", "main.rs"]),
    ("rusqlite", &["history/"]),
    ("ring", &["history/", "identity/jwt/", "identity/key_text.rs", "notify/", "telemetry/otlp/client.rs"]),
    ("rcgen", &["forward/intercept.rs"]),
    ("crossterm", &["cli/top/screen.rs"]),
    ("globset", &["model_patterns.rs", "cache/purge.rs"]),
    ("mimalloc", &["main.rs"]),
    ("moka", &["cache/"]),
    ("fred", &["redis/", "session/store/redis"]),
    ("brotli", &["protocol/wire/coding.rs", "protocol/wire/encoder.rs", "demo/"]),
    ("flate2", &["protocol/wire/coding.rs", "protocol/wire/encoder.rs", "demo/"]),
    ("zstd", &["protocol/wire/coding.rs", "protocol/wire/encoder.rs"]),
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
                // `service_app` is a crate of its own.
                if !path.join("Cargo.toml").exists() {
                    folders.push(path);
                }
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

/// Modules of this crate that a file names, each with the first line that does.
fn uses(code: &str) -> BTreeMap<&str, usize> {
    let mut used = BTreeMap::new();
    for named in source::named(code) {
        // `main.rs` names the library by the name of the package.
        if let ["crate" | "elida", name, ..] = named.segments[..] {
            used.entry(name).or_insert(named.line);
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
            faults.push(format!("src/{}: {from} is in no row", source.path));
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
        for named in source::named(&source.code) {
            for (name, rooms) in ROOMS {
                let is_named = named.segments[0].starts_with(name)
                    && (named.segments.len() > 1 || named.binds.is_some())
                    && !named.segments[0].starts_with("crate");
                if is_named && !rooms.iter().any(|room| source.path.starts_with(room)) {
                    faults.push(format!(
                        "src/{}:{}: {name} is named outside {rooms:?}",
                        source.path, named.line
                    ));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn the_tables_name_only_what_exists() {
    let sources = sources();
    let modules: BTreeSet<&str> = sources.iter().map(|source| module(&source.path)).collect();
    let mut faults = Vec::new();
    let rows = ROWS.iter().flat_map(|(_, modules)| modules.iter().copied());
    let same_row = SAME_ROW.iter().flat_map(|(from, to)| [*from, *to]);
    for name in rows.chain(same_row).filter(|name| !modules.contains(name)) {
        faults.push(format!("tests/architecture.rs names the module {name}, which does not exist"));
    }
    for (from, to) in SAME_ROW {
        let is_used = |source: &Source| module(&source.path) == *from && uses(&source.code).contains_key(to);
        if !sources.iter().any(is_used) {
            faults.push(format!("{from} does not use {to}: the exception is not needed"));
        }
    }
    for (name, rooms) in ROOMS {
        for room in rooms.iter().filter(|room| !sources.iter().any(|source| source.path.starts_with(**room)))
        {
            faults.push(format!("{name} may be named in src/{room}, which does not exist"));
        }
    }
    none(&faults);
}

/// The node of a graph of a folder's children that a module belongs to; `None` for what is not below the folder, and
/// for its front page. `a/b.rs` and the files in `a/b/` are one node.
fn child<'a>(folder: &[String], module: &'a [String]) -> Option<&'a str> {
    module.strip_prefix(folder)?.first().map(String::as_str)
}

/// All uses of a module by another one, through re-exports.
fn links(sources: &[Source]) -> BTreeSet<(Vec<String>, Vec<String>)> {
    let modules = Modules::read(sources.iter().map(|source| (source.path.as_str(), source.code.as_str())));
    let mut links = BTreeSet::new();
    for source in sources.iter().filter(|source| !is_test(&source.path)) {
        let module = source::module_of(&source.path);
        for named in source::named(&source.code) {
            if let Some(path) = modules.absolute(&module, &named.segments) {
                links.insert((module.clone(), modules.home(&path)));
            }
        }
    }
    links
}

/// Which children of a folder use which.
fn edges(
    folder: &[String],
    links: &BTreeSet<(Vec<String>, Vec<String>)>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in links {
        if let (Some(from), Some(to)) = (child(folder, from), child(folder, to))
            && from != to
        {
            edges.entry(from.to_owned()).or_default().insert(to.to_owned());
        }
    }
    edges
}

/// Every folder below `src/` with its path as a module; the crate's own folder is held by the rows.
fn folders(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let parts = |source: &Source| -> Vec<String> {
        let mut parts: Vec<String> = source.path.split('/').map(str::to_owned).collect();
        parts.pop();
        parts
    };
    let all = sources.iter().map(parts);
    all.flat_map(|parts| (1..=parts.len()).map(move |end| parts[..end].to_vec())).collect()
}

#[test]
fn folders_of_a_folder_do_not_use_each_other_in_a_circle() {
    let sources = sources();
    let links = links(&sources);
    let mut faults = Vec::new();
    for folder in folders(&sources) {
        let path = folder.join("/");
        // A module in one file with children beside it (`a.rs` and `a/b.rs`) is a long file, not a folder.
        let is_folder = |name: &String| {
            let front_page = format!("{path}/{name}/mod.rs");
            sources.iter().any(|source| source.path == front_page)
        };
        let mut edges = edges(&folder, &links);
        edges.retain(|name, _| is_folder(name));
        edges.values_mut().for_each(|targets| targets.retain(is_folder));
        for circle in source::circles(&edges) {
            faults.push(format!("src/{path}: its folders use each other in a circle: {circle:?}"));
        }
    }
    none(&faults);
}

#[test]
fn circles_inside_a_folder_stay_small() {
    let sources = sources();
    let links = links(&sources);
    let mut faults = Vec::new();
    for folder in folders(&sources) {
        let path = folder.join("/");
        for circle in source::circles(&edges(&folder, &links)).iter().filter(|one| one.len() > MAX_CIRCLE) {
            faults.push(format!(
                "src/{path}: {} files use each other in a circle, the most is {MAX_CIRCLE}: {circle:?}",
                circle.len()
            ));
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

#[test]
fn one_expression_is_unsafe() {
    let crate_of_one =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/service_app/lib.rs")).unwrap();
    assert_eq!(crate_of_one.matches("unsafe {").count(), 1, "docs/adr/0031 knows one");
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""), "the other crate has none");
}
