//! `elida check`: prints every fault and warning of a configuration, as text or as JSON.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{FileArgs, INVALID, complain, print};
use crate::app::start_faults;
use crate::config::{Config, Sources, UnpricedModel};
use crate::settings::fault::{Fault, Faults};

/// Arguments of `elida check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) file: FileArgs,
    /// Print one JSON object: ok, faults, warnings, unpriced_models
    #[arg(long)]
    pub(super) json: bool,
}

/// Reads and compiles the configuration, and tries what a start on this host needs. Exit code 0 when it is valid, with or
/// without warnings, else 2.
pub(super) fn check(sources: &Sources, json: bool) -> ExitCode {
    let file = sources.file();
    let outcome = sources.load().and_then(|config| {
        let faults = start_faults(&config);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    });
    let (faults, warnings): (Vec<&Fault>, &[Fault]) = match &outcome {
        Ok(config) => (Vec::new(), config.warnings()),
        Err(faults) => (faults.iter().collect(), faults.warnings()),
    };
    if json {
        let unpriced = outcome.as_ref().map(Config::unpriced_models).unwrap_or_default();
        let report = json!({
            "ok": outcome.is_ok(),
            "file": file,
            "faults": faults,
            "warnings": warnings,
            "unpriced_models": unpriced,
        });
        print(&format!("{report}\n"));
    } else {
        let told: Vec<String> = warnings.iter().map(|warning| line(file, "warning: ", warning)).collect();
        if !told.is_empty() {
            complain(&told.join("\n"));
        }
        match &outcome {
            Ok(config) => {
                let name = file.map_or("the defaults and the environment".into(), Path::to_string_lossy);
                let unpriced = unpriced_line(config.unpriced_models());
                print(&format!("{name}: ok{}\n{unpriced}", counted(warnings.len(), ", ", "warning")));
            }
            Err(faults) => complain(&fault_lines(faults, file)),
        }
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(INVALID) }
}

/// Names the models without a price in one line; empty if there are none.
fn unpriced_line(models: &[UnpricedModel]) -> String {
    if models.is_empty() {
        return String::new();
    }
    let names: Vec<String> = models
        .iter()
        .map(|UnpricedModel { backend, model }| format!("{model} (backends.{backend})"))
        .collect();
    format!(
        "no price, so no cost: {} (add a row to usage.prices_file if they cost something)\n",
        names.join(", ")
    )
}

/// Formats one fault per line, `FILE:LINE:COLUMN: key: message (hint)` as compilers do, and their number.
pub(super) fn fault_lines(faults: &Faults, file: Option<&Path>) -> String {
    let mut lines: Vec<String> = faults.iter().map(|fault| line(file, "", fault)).collect();
    lines.push(format!("elida: the configuration has {}", counted(lines.len(), "", "fault")));
    lines.join("\n")
}

fn line(file: Option<&Path>, word: &str, fault: &Fault) -> String {
    let (Some(file), Some(line)) = (file, fault.line) else {
        return format!("{word}{fault}");
    };
    let column = fault.column.map(|column| format!("{column}:")).unwrap_or_default();
    let placeless = Fault { line: None, ..fault.clone() };
    format!("{}:{line}:{column} {word}{placeless}", file.display())
}

/// Formats a count such as `3 faults` after a separator; empty for 0.
fn counted(count: usize, before: &str, word: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("{before}1 {word}"),
        _ => format!("{before}{count} {word}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags};

    #[test]
    fn faults_are_told_as_compilers_do() {
        let text = "listen: nowhere\nbackend: x\n";
        let sources = Sources::new(None, Environment::default(), Flags::default());
        let faults = sources.load_text(text).unwrap_err();
        assert_eq!(
            fault_lines(&faults, Some(Path::new("conf/my.yaml"))),
            "conf/my.yaml:1:1: listen: 'nowhere' is not an address to listen on \
             (write IP:PORT such as 127.0.0.1:8080, or :8080 for every address)\n\
             conf/my.yaml:2:1: backend: 'x' is not an http:// or https:// URL \
             (write it like http://localhost:11434 or https://api.openai.com)\n\
             elida: the configuration has 2 faults"
        );
    }
}
