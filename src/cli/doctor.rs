//! `elida doctor`: checks whether the gateway can work on this host: backends, ports, data folder, limits, clock. Each line
//! says ok, warn or fail, and what to do about it.

mod machine;
mod ports;

use std::process::ExitCode;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::check::fault_lines;
use super::{FAILED, FileArgs, INVALID, complain, is_plain, print};
use crate::app;
use crate::config::{Config, Sources};
use crate::forward::intercept::{self, Authority};

/// Arguments of `elida doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) file: FileArgs,
    /// Print one JSON object: ok, findings
    #[arg(long)]
    pub(super) json: bool,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warn,
    Fail,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    status: Health,
    message: String,
    /// What to do; empty when the check passed.
    remedy: String,
}

impl Finding {
    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Health::Ok, check, message, "")
    }

    fn new(
        status: Health,
        check: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check: check.into(), status, message: message.into(), remedy: remedy.into() }
    }
}

/// Runs all checks. Exit code 0 when none fails, 1 when one does, 2 when the configuration is invalid.
pub(super) fn doctor(sources: &Sources, json: bool) -> ExitCode {
    let config = match sources.load() {
        Ok(config) => config,
        Err(faults) => {
            let told = fault_lines(&faults, sources.file());
            if json {
                let remedy = "see: elida check";
                show(&[Finding::new(Health::Fail, "configuration", told, remedy)], true);
            } else {
                complain(&told);
            }
            return ExitCode::from(INVALID);
        }
    };
    let findings = examine(&config);
    show(&findings, json);
    let fails = findings.iter().any(|finding| finding.status == Health::Fail);
    if fails { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
}

fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![configuration(config)];
    findings.extend(backends(config));
    findings.extend(redis(config));
    findings.extend(ports::examine(config));
    findings.extend(forward_proxy(config));
    findings.extend(machine::certificate(config));
    findings.push(machine::folder(&config.data_dir));
    findings.push(machine::open_files(config));
    findings.push(machine::clock());
    findings
}

fn configuration(config: &Config) -> Finding {
    match config.warnings() {
        [] => Finding::ok("configuration", "valid"),
        warnings => {
            let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            Finding::new(Health::Warn, "configuration", told.join("; "), "see: elida check")
        }
    }
}

fn backends(config: &Config) -> Vec<Finding> {
    let checks = match app::check_backends(config) {
        Ok(checks) => checks,
        Err(error) => {
            return vec![Finding::new(Health::Fail, "backends", format!("{error:#}"), "try again")];
        }
    };
    let finding = |app::BackendCheck { backend, outcome }| {
        let check = format!("backends.{backend}");
        match outcome {
            Ok(message) => Finding::ok(check, message),
            Err(fault) => Finding::new(Health::Fail, check, fault.message, fault.remedy),
        }
    };
    checks.into_iter().map(finding).collect()
}

fn redis(config: &Config) -> Option<Finding> {
    let found = match app::check_redis(config)? {
        Ok(found) => found,
        Err(fault) => return Some(Finding::new(Health::Fail, "redis", fault.message, fault.remedy)),
    };
    let shown = config.session.redis().map_or("", |redis| redis.shown());
    let message = format!("{shown} answers, version {}", found.version);
    Some(match found.evicts {
        None => Finding::ok("redis", message),
        Some(policy) => Finding::new(
            Health::Warn,
            "redis",
            format!("{message}; when its memory is full it evicts keys ({policy}), kill orders among them"),
            "set maxmemory-policy noeviction",
        ),
    })
}

/// From here on before the end of an authority it is told.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Says who may use the forward proxy, and where it leads.
fn forward_proxy(config: &Config) -> Option<Finding> {
    let forward = &config.forward;
    forward.is_on().then(|| {
        let mut message = format!("on at {}: {}", config.listen, forward.described());
        let hosts = forward.intercept().hosts();
        if hosts.is_empty() {
            return Finding::ok("forward_proxy", message);
        }
        message.push_str(&format!("; tunnels to {} are opened", hosts.join(", ")));
        match intercept::describe(forward.intercept(), &config.data_dir) {
            Ok(Authority { described, expires }) => {
                let message = format!("{message} with {described}, valid until {}", expires.strftime("%F"));
                if expires.duration_since(Timestamp::now()) >= EXPIRES_SOON {
                    return Finding::ok("forward_proxy", message);
                }
                let remedy = "replace the files of ca_cert and ca_key (without these keys: remove forward-ca.pem from data_dir and \
                              restart), and give clients the new certificate";
                Finding::new(Health::Warn, "forward_proxy", message, remedy)
            }
            Err(why) => {
                let remedy =
                    "the first start makes the authority in data_dir; name ca_cert and ca_key to use another";
                Finding::new(Health::Warn, "forward_proxy", format!("{message}; {why}"), remedy)
            }
        }
    })
}

fn show(findings: &[Finding], json: bool) {
    if json {
        let ok = findings.iter().all(|finding| finding.status != Health::Fail);
        print(&format!("{}\n", json!({"ok": ok, "findings": findings})));
    } else {
        print(&lines(findings, !is_plain()));
    }
}

fn lines(findings: &[Finding], coloured: bool) -> String {
    let mut text = String::new();
    for Finding { check, status, message, remedy } in findings {
        let (word, colour) = match status {
            Health::Ok => ("ok  ", 32),
            Health::Warn => ("warn", 33),
            Health::Fail => ("FAIL", 31),
        };
        let word = if coloured { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() };
        text.push_str(&format!("{word}  {check}: {message}\n"));
        if !remedy.is_empty() {
            text.push_str(&format!("      -> {remedy}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_remedy() {
        let findings = [Finding::ok("a", "well"), Finding::new(Health::Fail, "b", "ill", "rest")];
        assert_eq!(lines(&findings, false), "ok    a: well\nFAIL  b: ill\n      -> rest\n");
        assert!(lines(&findings, true).starts_with("\u{1b}[32mok  \u{1b}[0m  a: well\n"));
    }
}
