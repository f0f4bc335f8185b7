//! The report: Markdown with measured numbers only.

use std::fmt::Write as _;
use std::process::Command;

use jiff::Timestamp;

use super::arguments::Arguments;
use super::process;
use super::rounds::{Row, Scenario};

/// A report being written.
pub(crate) struct Report {
    text: String,
    load_before: String,
}

impl Report {
    /// Begins a report.
    pub(crate) fn new(title: &str, introduction: &str) -> Self {
        let text = format!("# {title}\n\n{introduction}\n");
        Self { text, load_before: process::load_average() }
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, title: &str, heads: &[&str], rows: &[Vec<String>]) {
        let _ = write!(self.text, "\n## {title}\n\n| {} |\n|---|", heads.join(" | "));
        let _ = writeln!(self.text, "{}", "--:|".repeat(heads.len() - 1));
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
    }

    /// Adds the table of a comparison with one of the rows.
    pub(crate) fn comparison(&mut self, scenario: &Scenario, title: &str, base: &str, rows: &[Row]) {
        let unit = scenario.unit;
        let cpu = format!("CPU µs per {unit}");
        let ratio = format!("ratio to {base}");
        let heads = ["target", &cpu, &ratio, "p50 µs", "p99 µs", "added p50", "added p99", "per second"];
        let direct = &rows[0];
        let base = rows.iter().find(|row| row.name == base);
        let lines: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let is_direct = row.name == direct.name;
                let number =
                    |show: bool, value: f64| if show { format!("{value:.1}") } else { "–".to_owned() };
                let ratio = base.filter(|_| !is_direct).map_or_else(
                    || "–".to_owned(),
                    |base| format!("{:.2}", row.beside(base, |a, b| a.cpu / b.cpu)),
                );
                vec![
                    row.name.clone(),
                    number(!is_direct, row.median(|sample| sample.cpu)),
                    ratio,
                    number(true, row.median(|sample| sample.p50)),
                    number(true, row.median(|sample| sample.p99)),
                    number(!is_direct, row.beside(direct, |a, b| a.p50 - b.p50)),
                    number(!is_direct, row.beside(direct, |a, b| a.p99 - b.p99)),
                    format!("{:.0}", row.median(|sample| sample.rate)),
                ]
            })
            .collect();
        self.table(title, &heads, &lines);
    }

    /// The whole text, with where and how it was measured.
    pub(crate) fn finish(self, arguments: &Arguments) -> String {
        let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
        let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        format!(
            "{}\n## Where\n\n\
             - Command: `{}`\n- Machine: {}\n- Load average of the machine: {} before, {} after (this bench \
             alone makes about 2)\n- Date: {:.0}\n- ELIDA {} ({}), same release profile and allocator (mimalloc) as \
             the bare Pingora proxy\n",
            self.text,
            arguments.line,
            process::machine(),
            self.load_before,
            process::load_average(),
            Timestamp::now(),
            env!("CARGO_PKG_VERSION"),
            commit.unwrap_or_default(),
        )
    }
}
