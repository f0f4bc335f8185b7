//! `elida cdr`: exports records of ended sessions, verifies an exported file without the gateway, shows captured bodies, and
//! accepts a changed history.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::client::{Client, ControlArgs};
use super::commands::{PlainArgs, show};
use super::output::write_file;
use super::{FileArgs, check, print, report, sources};
use crate::config::Flags;
use crate::control::api::history::{CaptureLimit, CapturesQuery, ExportKind, ExportQuery};
use crate::control::api::params::Cursor;
use crate::history::proof::accept::accept;
use crate::history::proof::verify::{Report, Requirements, TrustedHead, verify};
use crate::history::read::export::Format;
use crate::history::read::time_range::parse_time;

/// Subcommands of `elida cdr`.
#[derive(Debug, Subcommand)]
pub(super) enum CdrCommand {
    /// Write the records of ended sessions to a file or to standard output
    Export(ExportArgs),
    /// Show the captured bodies of a session (capture), newest first
    Captures(CapturesArgs),
    /// Verify an exported file: nothing changed, removed or moved, and signed by the gateway
    Verify(VerifyArgs),
    /// Accept a changed history, so that it is signed again from here on; run it on the gateway's host, as its user
    Accept(AcceptArgs),
}

/// Arguments of `elida cdr export`.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// Export the stored requests (history.legs) instead of the records
    #[arg(long)]
    requests: bool,
    /// ndjson, with the hash chain, for verify; csv, for spreadsheets
    #[arg(long, default_value = "ndjson")]
    format: FileFormat,
    /// Only what ended at this time or later: 2026-11-20T10:00:00Z, or an age such as 24h
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only what ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Output file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

/// The format of an exported file.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileFormat {
    Ndjson,
    Csv,
}

/// Arguments of `elida cdr captures`.
#[derive(Args, Debug)]
pub(super) struct CapturesArgs {
    /// Id or uid of the session
    id: String,
    /// Number of captures, up to 100
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    limit: u8,
    /// next_cursor of the page before
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<u64>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida cdr verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// A file written by `elida cdr export`
    file: PathBuf,
    /// A public key of the gateway, or the file that holds it (cdr-key.pub in its data_dir); repeat it when the key changed
    /// without a handover. Without a key the file is only checked against itself
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Require signatures up to this time at least: 2026-11-20T10:00:00Z, or an age such as 24h
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Require the record of this head: an earlier export, a line of one, or the gateway's cdr-head file
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `elida cdr accept`.
#[derive(Args, Debug)]
pub(super) struct AcceptArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Why it is accepted; the reason is signed and shown by verify. Without it, only print what is wrong
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Runs a subcommand.
pub(super) fn cdr(command: CdrCommand) -> anyhow::Result<()> {
    match command {
        CdrCommand::Export(arguments) => export(&arguments),
        CdrCommand::Captures(arguments) => captures(&arguments),
        CdrCommand::Verify(arguments) => verify_file(&arguments),
        CdrCommand::Accept(arguments) => accept_file(arguments),
    }
}

fn export(arguments: &ExportArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.control)?;
    let query = ExportQuery {
        of: if arguments.requests { ExportKind::Requests } else { ExportKind::Records },
        format: match arguments.format {
            FileFormat::Ndjson => Format::Ndjson,
            FileFormat::Csv => Format::Csv,
        },
        from: arguments.from.clone(),
        to: arguments.to.clone(),
    };
    let path = ["control", "records", "export"];
    let Some(file) = &arguments.output else {
        client.download(&path, &query, &mut io::stdout().lock())?;
        return Ok(());
    };
    // An incomplete export must not look complete.
    write_file(file, |sink| client.download(&path, &query, sink).map(drop))
}

fn captures(arguments: &CapturesArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let query = CapturesQuery {
        limit: CaptureLimit::new(arguments.limit.into()),
        cursor: arguments.cursor.map(Cursor),
    };
    let page = client.get(&["control", "history", &arguments.id, "captures"], &query)?;
    show(&arguments.plain, page, report::captures)
}

fn accept_file(arguments: AcceptArgs) -> anyhow::Result<()> {
    let sources = sources(arguments.file, Flags::default());
    let config = sources.load().map_err(|faults| anyhow!(check::fault_lines(&faults, sources.file())))?;
    let Some(file) = config.history.file(&config.data_dir) else {
        bail!("there is no history: history.enabled is false")
    };
    let reason = arguments.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    let accepted = accept(&file, &config.data_dir, reason)?;
    let name = file.display();
    let (what, seq) = (accepted.what, accepted.seq);
    print(&match reason {
        Some(_) => format!(
            "{name} is accepted as it is ({what}): nothing is vouched for up to record {seq}, what follows is signed again\n"
        ),
        None => format!(
            "{name} does not lead to what was signed: {what}\nput the right file back; or accept this one, up to record {seq}, \
             with --reason TEXT\n"
        ),
    });
    Ok(())
}

fn verify_file(arguments: &VerifyArgs) -> anyhow::Result<()> {
    let name = arguments.file.display();
    let demand = demand(arguments)?;
    let file = File::open(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    match verify(BufReader::new(file), &demand) {
        Ok(report) if arguments.json => print(&format!("{}\n", json!({"valid": true, "report": report}))),
        Ok(report) => print(&verified(&report, !demand.keys.is_empty())),
        Err(fault) if arguments.json => {
            print(&format!("{}\n", json!({"valid": false, "fault": fault.to_string()})));
            bail!("{name} is not in order");
        }
        Err(fault) => bail!("{name} is not in order: {fault}"),
    }
    Ok(())
}

fn demand(arguments: &VerifyArgs) -> anyhow::Result<Requirements> {
    let keys = arguments.keys.iter().map(|key| read_key(key)).collect::<anyhow::Result<_>>()?;
    let until = arguments.until.as_deref().map(|until| {
        let time = parse_time(until, Timestamp::now());
        time.with_context(|| {
            format!("--until {until} is not a time; write 2026-11-20T10:00:00Z, or an age such as 24h")
        })
    });
    let head = arguments.head.as_deref().map(|file| {
        let name = file.display();
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read the head in {name}"))?;
        TrustedHead::read(&text)
            .with_context(|| format!("{name} does not end with a signed head, and is no head file"))
    });
    Ok(Requirements { keys, until: until.transpose()?, head: head.transpose()? })
}

fn verified(report: &Report, is_pinned: bool) -> String {
    let Report { records, first, last, heads, .. } = report;
    let mut text = match records {
        0 => format!("in order: no records, {heads} signed heads\n"),
        _ => format!("in order: {records} records ({first} to {last}), {heads} signed heads\n"),
    };
    if let (Some(from), Some(to)) = (report.ended_from, report.ended_to) {
        text.push_str(&format!("their sessions ended from {from} to {to}\n"));
    }
    let from = report.from.map_or("the beginning".to_owned(), |from| from.to_string());
    text.push_str(&format!("signed from {from} until {}\n", report.signed_at));
    for accepted in &report.accepted {
        text.push_str(&format!(
            "NOT vouched for up to record {}: the history was changed, and accepted at {}: {}\n",
            accepted.seq,
            accepted.at,
            super::table::plain(&accepted.reason)
        ));
    }
    let keys = report.keys.join(", ");
    text.push_str(&match is_pinned {
        true => format!("signed by the key given ({keys})\n"),
        false => format!(
            "signed by the key {keys}\nthe file does not prove whose key this is: use --key with the gateway's cdr-key.pub\n"
        ),
    });
    text
}

/// Reads a public key: 64 hexadecimal digits, or a file that holds them.
pub(super) fn read_key(text: &str) -> anyhow::Result<String> {
    let is_key = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_key(text) {
        return Ok(text.to_lowercase());
    }
    let read =
        std::fs::read_to_string(Path::new(text)).with_context(|| format!("cannot read the key in {text}"))?;
    match read.trim() {
        key if is_key(key) => Ok(key.to_lowercase()),
        _ => bail!("{text} does not hold a public key: 64 hexadecimal digits, as in cdr-key.pub of data_dir"),
    }
}
