//! `elida cdr`: records of ended sessions as a file, the check of such a file without the gateway, and the bodies that
//! are kept beside them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, ControlArgs};
use super::talk::{PlainArgs, show};
use super::{print, report};
use crate::history::verify::{Report, verify};

/// What to do with records.
#[derive(Debug, Subcommand)]
pub(super) enum CdrCommand {
    /// Write the records of ended sessions to a file or to standard output
    Export(ExportArgs),
    /// Show the bodies that are kept of a session (capture), the last first
    Captures(CapturesArgs),
    /// Check an exported file: nothing changed, taken out or moved, and signed by the gateway
    Verify(VerifyArgs),
}

/// Arguments of `elida cdr export`.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// Each request that is kept (history.legs) instead of the records
    #[arg(long)]
    requests: bool,
    /// ndjson, of records with the chain, for verify; csv, for tables
    #[arg(long, value_parser = ["ndjson", "csv"], default_value = "ndjson")]
    format: String,
    /// Only what ended since: 2026-11-20T10:00:00Z, or 24h for so long ago
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only what ended before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The file; without it standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

/// Arguments of `elida cdr captures`.
#[derive(Args, Debug)]
pub(super) struct CapturesArgs {
    /// A session id, or the uid of an incarnation
    id: String,
    /// How many, up to 100
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: u32,
    /// Go on where another page ended: its next_cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida cdr verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// A file written by `elida cdr export`
    file: PathBuf,
    /// The gateway's public key, or the file that holds it (cdr-key.pub in its data_dir). Without it the file
    /// is only held against itself
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(super) fn cdr(command: &CdrCommand) -> anyhow::Result<()> {
    match command {
        CdrCommand::Export(arguments) => export(arguments),
        CdrCommand::Captures(arguments) => captures(arguments),
        CdrCommand::Verify(arguments) => check(arguments),
    }
}

fn export(arguments: &ExportArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.control)?;
    let of = if arguments.requests { "requests" } else { "records" };
    let mut query = vec![("of", of.to_owned()), ("format", arguments.format.clone())];
    query.extend(arguments.from.clone().map(|from| ("from", from)));
    query.extend(arguments.to.clone().map(|to| ("to", to)));
    let path = ["control", "records", "export"];
    let Some(file) = &arguments.output else {
        client.download(&path, &query, &mut io::stdout().lock())?;
        return Ok(());
    };
    // Under another name until it is whole: half an export must not be taken for one.
    let draft = file.with_extension("part");
    let made = File::create(&draft).with_context(|| format!("cannot write {}", draft.display()))?;
    let mut sink = BufWriter::new(made);
    client.download(&path, &query, &mut sink)?;
    sink.flush()
        .and_then(|()| sink.get_ref().sync_all())
        .and_then(|()| std::fs::rename(&draft, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn captures(arguments: &CapturesArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let mut query = vec![("limit", arguments.limit.to_string())];
    query.extend(arguments.cursor.clone().map(|cursor| ("cursor", cursor)));
    let page = client.get(&["control", "history", &arguments.id, "captures"], &query)?;
    show(&arguments.plain, &page, report::captures)
}

fn check(arguments: &VerifyArgs) -> anyhow::Result<()> {
    let name = arguments.file.display();
    let key = arguments.key.as_deref().map(read_key).transpose()?;
    let file = File::open(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    match verify(BufReader::new(file), key.as_deref()) {
        Ok(report) if arguments.json => print(&format!("{}\n", json!({"valid": true, "report": report}))),
        Ok(report) => print(&told(&report, key.is_some())),
        Err(fault) if arguments.json => {
            print(&format!("{}\n", json!({"valid": false, "fault": fault.to_string()})));
            bail!("{name} is not in order");
        }
        Err(fault) => bail!("{name} is not in order: {fault}"),
    }
    Ok(())
}

fn told(report: &Report, is_pinned: bool) -> String {
    let Report { records, first, last, heads, key } = report;
    let signer = match is_pinned {
        true => format!("signed by the key given ({key})"),
        false => format!(
            "signed by the key {key}\nwhose key that is, this file cannot say: give --key with the gateway's cdr-key.pub"
        ),
    };
    format!("in order: {records} records ({first} to {last}), {heads} signed heads, {signer}\n")
}

/// 64 hexadecimal digits, or a file that holds them.
fn read_key(text: &str) -> anyhow::Result<String> {
    let is_key = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_key(text) {
        return Ok(text.to_lowercase());
    }
    let read =
        std::fs::read_to_string(Path::new(text)).with_context(|| format!("cannot read the key in {text}"))?;
    match read.trim() {
        key if is_key(key) => Ok(key.to_lowercase()),
        _ => bail!("{text} holds no public key; it is 64 hexadecimal digits, as in cdr-key.pub of data_dir"),
    }
}
