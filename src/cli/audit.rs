//! `elida audit`: what operators changed; exports lines and verifies an exported file without the gateway.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::cdr::read_key;
use super::client::{Client, ControlArgs};
use super::output::write_file;
use super::print;
use super::table::{plain, table};
use crate::control::api::audit::{AuditLimit, AuditList, AuditQuery, AuditVerification};
use crate::control::api::params::Cursor;
use crate::history::audit::AuditLine;
use crate::history::audit::verify::verify;
use crate::history::proof::hash_chain::Tip;

/// Lines read per request.
const PAGE: usize = 1000;

/// Arguments of `elida audit`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Write all lines to a file or to standard output, oldest first, for verify
    Export(ExportArgs),
    /// Verify an exported file: no line changed, missing or moved, and each sealed by the gateway
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Only of this time or later: 2026-11-20T10:00:00Z, or an age such as 24h
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only of this operator, such as key:ada or token
    #[arg(long)]
    operator: Option<String>,
    /// Only this action, such as killSession
    #[arg(long)]
    action: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    control: ControlArgs,
    /// Print the JSON of the control API
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ExportArgs {
    /// Output file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// A file written by `elida audit export` [default: the gateway verifies its own log with its own keys]
    #[arg(requires = "keys")]
    file: Option<PathBuf>,
    /// A public key of the gateway, or the file that holds it (cdr-key.pub in its data_dir); repeat it when the key changed
    #[arg(long = "key", value_name = "KEY", requires = "file")]
    keys: Vec<String>,
    /// The gateway's audit-head.json (in its data_dir), which names a line: the file must reach it. Without it, lines may
    /// be missing at the end
    #[arg(long, value_name = "FILE", requires = "file")]
    head: Option<PathBuf>,
    /// Accept a file that does not begin with line 1
    #[arg(long, requires = "file")]
    partial: bool,
    #[command(flatten)]
    control: ControlArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// `elida audit`
pub(super) fn audit(arguments: &AuditArgs) -> anyhow::Result<()> {
    match &arguments.command {
        None => list(&arguments.list),
        Some(AuditCommand::Export(arguments)) => export(arguments),
        Some(AuditCommand::Verify(arguments)) => match &arguments.file {
            Some(file) => verify_file(arguments, file),
            None => verify_log(arguments),
        },
    }
}

fn list(arguments: &ListArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.control)?;
    // The API reads times, so that an age counts from its clock.
    let query = json!({
        "from": arguments.from, "to": arguments.to, "operator": arguments.operator, "action": arguments.action,
        "limit": arguments.limit,
    });
    let answer = client.get(&["control", "audit"], &query)?;
    if arguments.json {
        print(&format!("{}\n", answer.json()));
        return Ok(());
    }
    let page: AuditList = answer.read()?;
    print(&lines(&page.lines));
    Ok(())
}

fn lines(lines: &[AuditLine]) -> String {
    if lines.is_empty() {
        return "no line of the audit log matches\n".to_owned();
    }
    let heading = ["AT", "OPERATOR", "ADDRESS", "ACTION", "OBJECT", "STATUS", "REASON"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(lines.iter().map(|AuditLine { entry, .. }| {
        let text = |text: &Option<String>| plain(text.as_deref().unwrap_or("-"));
        let status = match &entry.code {
            Some(code) => format!("{} {code}", entry.status),
            None => entry.status.to_string(),
        };
        vec![
            format!("{:.0}", entry.at),
            plain(&entry.operator.id),
            text(&entry.operator.address),
            plain(&entry.action),
            plain(&entry.target),
            plain(&status),
            text(&entry.reason),
        ]
    }));
    table(&rows, &[])
}

fn export(arguments: &ExportArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.control)?;
    // Pages come newest first: the file is written backwards, so all lines are read before the first is written.
    let (mut all, mut cursor) = (Vec::<Box<RawValue>>::new(), None);
    loop {
        let query = AuditQuery { limit: AuditLimit::new(PAGE), cursor, ..AuditQuery::default() };
        let page: AuditList<Value> = read(&client, &query)?;
        for line in &page.lines {
            all.push(serde_json::value::to_raw_value(line)?);
        }
        cursor = page.next_cursor.and_then(|cursor| cursor.parse().ok()).map(Cursor);
        if cursor.is_none() {
            break;
        }
    }
    let write = |sink: &mut dyn Write| -> anyhow::Result<()> {
        let mut sink = BufWriter::new(sink);
        for line in all.iter().rev() {
            writeln!(sink, "{}", line.get())?;
        }
        sink.flush()?;
        Ok(())
    };
    match &arguments.output {
        Some(file) => write_file(file, write),
        None => write(&mut std::io::stdout().lock()),
    }
}

fn read<T: DeserializeOwned>(client: &Client, query: &AuditQuery) -> anyhow::Result<T> {
    client.get(&["control", "audit"], query)?.read()
}

fn verify_log(arguments: &VerifyArgs) -> anyhow::Result<()> {
    let answer = Client::new(&arguments.control)?.get(&["control", "audit", "verify"], &json!({}))?;
    if arguments.json {
        print(&format!("{}\n", answer.json()));
    }
    let found: AuditVerification = answer.read()?;
    match found.fault {
        Some(fault) => bail!("the audit log is not as it was written: {fault}"),
        None if arguments.json => {}
        None => print(&format!("{} lines are unchanged, says the gateway itself\n", found.lines)),
    }
    Ok(())
}

fn verify_file(arguments: &VerifyArgs, file: &Path) -> anyhow::Result<()> {
    let keys = arguments.keys.iter().map(|key| read_key(key)).collect::<anyhow::Result<Vec<_>>>()?;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let file = file.display();
    let head = arguments.head.as_deref().map(read_head).transpose()?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let found = verify(lines, keys, head).map_err(|breach| anyhow!("{file}: {breach}"))?;
    match found.from {
        0 => bail!("{file} has no lines; elida audit export writes all of them"),
        1 => {}
        from if arguments.partial => {
            eprintln!("{file} begins with line {from}: nothing is known of those before")
        }
        from => bail!("{file} begins with line {from}: lines are missing (--partial accepts that)"),
    }
    print(&match arguments.json {
        true => format!("{}\n", json!({"from": found.from, "to": found.to, "hash": found.hash})),
        false => {
            format!("lines {} to {} are unchanged; the last digest is {}\n", found.from, found.to, found.hash)
        }
    });
    Ok(())
}

fn read_head(file: &Path) -> anyhow::Result<Tip> {
    let shown = file.display();
    let text = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{shown} is not an audit-head.json"))
}
