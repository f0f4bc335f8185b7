//! `elida policy`: shows presets and rules, and tests rules on cases of a file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Deserialize;

use super::commands::PlainArgs;
use super::flags::{self, FlagsArgs, SuppressArgs, UnsuppressArgs};
use super::replay::{ReplayArgs, replay};
use super::table::{plain, table};
use super::{FileArgs, complain, print, sources};
use crate::config::Flags;
use crate::policy::facts::Phase;
use crate::policy::presets::{PRESETS, Preset, text_of};
use crate::policy::rule::Action;
use crate::policy::ruleset::RuleSet;
use crate::policy::settings::PolicyConfig;
use crate::policy::trial::{Trial, TrialReport};
use crate::proxy::trial::try_on;
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;

/// Commands for rules.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Show the rules of the configuration, or the file of a preset
    Show(ShowArgs),
    /// Try rules on the cases of a file; exit code 1 if one is not as expected
    Test(TestArgs),
    /// Try rules on the requests and answers that the history has stored (capture)
    Replay(ReplayArgs),
    /// List what rules found last
    Flags(FlagsArgs),
    /// Let findings of a rule count for nothing until some time
    Suppress(SuppressArgs),
    /// List the suppressions in force
    Suppressions(PlainArgs),
    /// Take a suppression back
    Unsuppress(UnsuppressArgs),
}

/// Arguments of `elida policy show`.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// minimal, standard, strict, coding-agent or mcp; without it the rules of the configuration
    preset: Option<String>,
    #[command(flatten)]
    file: FileArgs,
}

/// Arguments of `elida policy test`.
#[derive(Args, Debug)]
pub(super) struct TestArgs {
    /// YAML with `cases`, and with `policy` if the rules are not those of the configuration
    cases: PathBuf,
    #[command(flatten)]
    file: FileArgs,
}

/// A file with rules.
#[derive(Deserialize)]
struct RulesFile {
    policy: PolicyConfig,
}

/// Reads the rules of a file with `policy`.
///
/// # Errors
/// It cannot be read, or its rules have faults.
pub(super) fn rules_of(path: &Path) -> anyhow::Result<Arc<RuleSet>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    let written: RulesFile =
        serde_yaml::from_str(&text).with_context(|| format!("{name} is not as it should be"))?;
    let mut faults = Faults::default();
    Ok(written.policy.compile(&mut faults).ok_or(faults)?)
}

/// A file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    /// The rules; those of the configuration, if absent.
    #[serde(default)]
    policy: Option<PolicyConfig>,
    cases: Vec<Case>,
}

/// What the rules are tried on, and what they must say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    expect: Expected,
    #[serde(flatten)]
    trial: Trial,
}

/// What the rules must say.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expected {
    /// What happens: an action, or `pass`.
    action: Option<ExpectedAction>,
    /// The rule that decides.
    rule: Option<String>,
    /// Rules that hold.
    holds: Vec<String>,
    /// Rules that do not.
    not: Vec<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum ExpectedAction {
    Pass,
    Flag,
    Throttle,
    Hold,
    Block,
    Kill,
}

impl ExpectedAction {
    fn is(self, action: Option<Action>) -> bool {
        match self {
            Self::Pass => action.is_none(),
            Self::Flag => action == Some(Action::Flag),
            Self::Throttle => action == Some(Action::Throttle),
            Self::Hold => action == Some(Action::Hold),
            Self::Block => action == Some(Action::Block),
            Self::Kill => action == Some(Action::Kill),
        }
    }
}

/// Runs the command. Exit code 1 when a case is not as expected.
///
/// # Errors
/// A file cannot be read, or its rules have faults.
pub(super) fn policy(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Show(ShowArgs { preset: Some(name), .. }) => match text_of(&name) {
            Some(text) => {
                print(text);
                Ok(ExitCode::SUCCESS)
            }
            None => {
                let hint = did_you_mean(&name, PRESETS.map(|(name, _)| name));
                anyhow::bail!("no preset is called '{}' ({hint})", plain(&name))
            }
        },
        PolicyCommand::Show(ShowArgs { preset: None, file }) => {
            let config = sources(file, Flags::default()).load()?;
            print(&shown(&config.rules));
            Ok(ExitCode::SUCCESS)
        }
        PolicyCommand::Test(arguments) => test(arguments),
        PolicyCommand::Replay(arguments) => replay(arguments).map(done),
        PolicyCommand::Flags(arguments) => flags::flags(arguments).map(done),
        PolicyCommand::Suppress(arguments) => flags::suppress(arguments).map(done),
        PolicyCommand::Suppressions(plain) => flags::suppressions(&plain).map(done),
        PolicyCommand::Unsuppress(arguments) => flags::unsuppress(&arguments).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Formats the presets and the rules of a configuration.
fn shown(rules: &RuleSet) -> String {
    let mut text = String::new();
    let mut rows = vec![["RULE", "ON", "ACTION", "SEVERITY", "MODE", "FROM"].map(str::to_owned).to_vec()];
    for phase in Phase::ALL {
        rows.extend(rules.rules(phase).iter().map(|rule| {
            let words =
                [phase.name(), rule.action.name(), rule.severity.name(), rule.mode.name(), rule.origin];
            std::iter::once(plain(&rule.id)).chain(words.map(str::to_owned)).collect()
        }));
    }
    match rows.len() {
        1 if rules.externals().is_empty() => text.push_str("no rules; the presets are:\n\n"),
        lines => {
            if lines > 1 {
                text.push_str(&table(&rows, &[]));
            }
            text.push_str(&services(rules));
            text.push_str("\nThe presets are (elida policy show NAME prints one):\n\n");
        }
    }
    let presets = PRESETS.iter().map(|(name, file)| {
        let preset: Option<Preset> = serde_yaml::from_str(file).ok();
        vec![(*name).to_owned(), preset.map(|preset| preset.summary).unwrap_or_default()]
    });
    text.push_str(&table(&presets.collect::<Vec<_>>(), &[]));
    text
}

/// Formats the services that are asked besides.
fn services(rules: &RuleSet) -> String {
    if rules.externals().is_empty() {
        return String::new();
    }
    let mut rows = vec![["SERVICE", "ON", "MODE", "ON ERROR"].map(str::to_owned).to_vec()];
    rows.extend(rules.externals().iter().map(|service| {
        let phases = Phase::ALL.into_iter().filter(|phase| service.knows(*phase)).map(Phase::name);
        let phases = phases.collect::<Vec<_>>().join(", ");
        let on_error = if service.fails_closed { "closed" } else { "open" };
        vec![plain(&service.name), phases, service.mode.name().to_owned(), on_error.to_owned()]
    }));
    format!("\nServices are asked besides:\n\n{}", table(&rows, &[]))
}

fn test(TestArgs { cases, file }: TestArgs) -> anyhow::Result<ExitCode> {
    let name = cases.display();
    let text = std::fs::read_to_string(&cases).with_context(|| format!("{name} cannot be read"))?;
    let written: CaseFile =
        serde_yaml::from_str(&text).with_context(|| format!("{name} is not as it should be"))?;
    let rules = match written.policy {
        None => sources(file, Flags::default()).load()?.rules,
        Some(policy) => {
            let mut faults = Faults::default();
            policy.compile(&mut faults).ok_or(faults)?
        }
    };
    let mut failed = 0;
    for Case { name, expect, trial } in &written.cases {
        let name = plain(name);
        let wrong = match try_on(&rules, trial) {
            Ok(report) => wrong(expect, &report),
            Err(fault) => vec![fault],
        };
        if wrong.is_empty() {
            print(&format!("ok    {name}\n"));
        } else {
            failed += 1;
            print(&format!("FAIL  {name}\n"));
            wrong.iter().for_each(|why| print(&format!("      {}\n", plain(why))));
        }
    }
    let count = written.cases.len();
    if failed > 0 {
        complain(&format!("{failed} of {count} cases are not as expected"));
        return Ok(ExitCode::FAILURE);
    }
    print(&format!("{count} cases are as expected\n"));
    Ok(ExitCode::SUCCESS)
}

/// Returns what is not as expected.
fn wrong(expected: &Expected, report: &TrialReport) -> Vec<String> {
    let mut wrong = Vec::new();
    let by = report.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
    let happens = report.action.map_or("pass", Action::name);
    if expected.action.is_some_and(|action| !action.is(report.action)) {
        wrong.push(format!("what happens is {happens}{by}"));
    }
    if expected.rule.is_some() && expected.rule != report.rule {
        wrong.push(format!("what decides is {}", report.rule.as_deref().unwrap_or("no rule")));
    }
    let holds = |id: &str| report.rules.iter().find(|rule| rule.rule == id).map(|rule| rule.holds);
    for id in &expected.holds {
        match holds(id) {
            Some(true) => {}
            Some(false) => wrong.push(format!("{id} does not hold{}", why(id, report))),
            None => wrong.push(format!("no rule of the phase {} is called {id}", report.on.name())),
        }
    }
    for id in expected.not.iter().filter(|id| holds(id) == Some(true)) {
        wrong.push(format!("{id} holds{}", why(id, report)));
    }
    wrong
}

/// Says what a rule has asked for.
fn why(id: &str, report: &TrialReport) -> String {
    let Some(answer) = report.rules.iter().find(|answer| answer.rule == id) else { return String::new() };
    let found = answer.found.map(|found| format!("patterns found: {found}"));
    let facts = answer.facts.iter().map(|(name, value)| format!("{name}: {value}"));
    let all: Vec<String> = found.into_iter().chain(facts).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(", ")) }
}
