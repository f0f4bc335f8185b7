//! `docs/clients.md`: what the programs did, one row each. A run compares its rows with the page; with
//! `ELIDA_WRITE_CLIENTS` set it writes them (`just clients`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// The programs of the page in order, and the package that has their version.
const PROGRAMS: [(&str, &str); 15] = [
    ("Claude Code", "@anthropic-ai/claude-code-linux-x64"),
    ("Codex", "@openai/codex-linux-x64"),
    ("opencode", "opencode-linux-x64"),
    ("openai", "openai"),
    ("openai-responses", "openai"),
    ("anthropic", "anthropic"),
    ("mistralai", "mistralai"),
    ("ollama", "ollama"),
    ("langchain-openai", "langchain-openai"),
    ("langchain-anthropic", "langchain-anthropic"),
    ("mcp", "mcp"),
    ("ai-sdk-openai", "@ai-sdk/openai"),
    ("ai-sdk-openai-chat", "@ai-sdk/openai"),
    ("ai-sdk-anthropic", "@ai-sdk/anthropic"),
    ("ai-sdk-openai-compatible", "@ai-sdk/openai-compatible"),
];

/// The tables, by their headings.
#[derive(Clone, Copy, Debug)]
pub enum Table {
    Sends,
    Errors,
    Reads,
    Refusals,
    Blocks,
}

impl Table {
    const ALL: [Self; 5] = [Self::Sends, Self::Errors, Self::Reads, Self::Refusals, Self::Blocks];

    fn heading(self) -> &'static str {
        match self {
            Self::Sends => "## What each sends",
            Self::Errors => "## How each reacts to an error",
            Self::Reads => "## What its user reads",
            Self::Refusals => "## How each takes a refusal of the gateway",
            Self::Blocks => "## How each takes a block in the middle of a stream",
        }
    }
}

/// Compares one row with the page, or writes it there.
pub fn hold(table: Table, program: &str, cells: &[String]) {
    let row = format!("| {program} {} | {} |", version(program), cells.join(" | "));
    if std::env::var_os("ELIDA_WRITE_CLIENTS").is_some() {
        return write(table, program, &row);
    }
    let rows = rows(&read(), table);
    let written = rows.iter().find(|row| is_of(row, program)).map_or("no row", String::as_str);
    assert_eq!(written, row, "docs/clients.md says otherwise; write it again with `just clients`");
}

/// A sentence of a program as a cell: on one line, without the parts that change with each run.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 200;
    let is_id = |word: &str| word.len() >= 20 && word.contains(|c: char| c.is_ascii_digit());
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut line = String::new();
    for word in text.split_inclusive(|c: char| !is_part(c)) {
        let name = word.trim_end_matches(|c: char| !is_part(c));
        match is_id(name) {
            true => line.extend(["…", &word[name.len()..]]),
            false => line.push_str(word),
        }
    }
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "'").replace('|', "\\|");
    let line = match line.split_once("127.0.0.1:") {
        Some((before, rest)) => {
            format!("{before}GATEWAY{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line,
    };
    let end = line.floor_char_boundary(LONGEST);
    if end < line.len() { format!("`{}…`", &line[..end]) } else { format!("`{line}`") }
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read() -> String {
    fs::read_to_string(path("docs/clients.md")).expect("docs/clients.md")
}

/// The version that `.ci/setup --tests` installs.
fn version(program: &str) -> String {
    let (_, package) = PROGRAMS.iter().find(|(name, _)| *name == program).expect("a program of the page");
    let python = fs::read_to_string(path("tests/clients/requirements.txt")).expect("requirements.txt");
    let pinned = python.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
    if let Some(version) = pinned {
        return version.to_owned();
    }
    let node = fs::read_to_string(path("tests/clients/package.json")).expect("package.json");
    let node: Value = serde_json::from_str(&node).expect("JSON");
    let pinned =
        node["dependencies"][package].as_str().unwrap_or_else(|| panic!("no {package} is installed"));
    let version = pinned.rsplit('@').next().unwrap_or(pinned);
    version.trim_end_matches("-linux-x64").to_owned()
}

/// The lines of a table's rows: after its heading and its two header lines.
fn place(lines: &[&str], table: Table) -> std::ops::Range<usize> {
    let heading = lines.iter().position(|line| *line == table.heading());
    let heading = heading.unwrap_or_else(|| panic!("docs/clients.md has no {:?}", table.heading()));
    let head = lines[heading..].iter().position(|line| line.starts_with("|---"));
    let start = heading + head.expect("the head of a table") + 1;
    let length = lines[start..].iter().take_while(|line| line.starts_with('|')).count();
    start..start + length
}

fn rows(page: &str, table: Table) -> Vec<String> {
    let lines: Vec<&str> = page.lines().collect();
    lines[place(&lines, table)].iter().map(|&line| line.to_owned()).collect()
}

/// Whether a line begins with `| PROGRAM 1.2.3 | …`.
fn is_of(row: &str, program: &str) -> bool {
    let rest = row.strip_prefix("| ").and_then(|row| row.strip_prefix(program)?.strip_prefix(' '));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn write(table: Table, program: &str, row: &str) {
    // Each test is a process; they write one after the other.
    let lock = File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/clients.lock")).expect("the lock file");
    lock.lock().expect("the lock");
    let page = read();
    let lines: Vec<&str> = page.lines().collect();
    let place = place(&lines, table);
    let mut rows: Vec<&str> =
        lines[place.clone()].iter().copied().filter(|old| !is_of(old, program)).chain([row]).collect();
    rows.sort_by_key(|row| PROGRAMS.iter().position(|(name, _)| is_of(row, name)));
    let today = format!("Last made: {}.", today());
    let mut written = String::new();
    for line in lines[..place.start].iter().chain(&rows).chain(&lines[place.end..]) {
        let line = if line.starts_with("Last made: ") { &today } else { *line };
        written.extend([line, "\n"]);
    }
    fs::write(path("docs/clients.md"), written).expect("docs/clients.md");
}

/// The current date (UTC).
fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now())
        .to_string()
        .chars()
        .take("2026-11-20".len())
        .collect()
}

#[test]
fn the_page_has_a_row_for_each_program_in_each_table_and_no_other() {
    let page = read();
    for table in Table::ALL {
        let firsts: Vec<String> = rows(&page, table)
            .iter()
            .map(|row| row.trim_start_matches("| ").split(" | ").next().unwrap_or_default().to_owned())
            .collect();
        let programs: Vec<String> =
            PROGRAMS.iter().map(|(program, _)| format!("{program} {}", version(program))).collect();
        assert_eq!(firsts, programs, "{table:?}: write the page again with `just clients`");
    }
}

#[test]
fn a_quoted_sentence_has_nothing_of_its_run() {
    let said = "no\n`x` | request id: 01a1f87e-b124-7214-bba7-4ebdda25a115, url: http://127.0.0.1:4321/v1";
    assert_eq!(quoted(said), "`no 'x' \\| request id: …, url: http://GATEWAY/v1`");
    assert_eq!(quoted(&"é".repeat(150)).chars().count(), 103);
}
