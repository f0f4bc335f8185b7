//! `elida key`: makes, lists, rotates and revokes keys of a running gateway, and makes keys for a configuration file.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Client;
use super::commands::{PlainArgs, read_span, show};
use super::table::{plain as plain_text, table};
use super::{complain, print};
use crate::control::api::keys::{
    KeyList, KeyView, KeysQuery, MadeKey, ManagedBy, NewKey, RevokedKey, RotateBody,
};
use crate::control::api::params::Limit;
use crate::identity::key_text::{self, KeyDigest};
use crate::settings::units::DurationText;

/// Longest key that is read, in bytes.
const MAX_KEY: u64 = 4096;

/// Commands for keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key in a running gateway and print it, the only time it is shown
    Create(CreateArgs),
    /// List the keys of a running gateway, without the keys themselves
    List(PlainArgs),
    /// Replace a key by a new one and print it
    Rotate(RotateArgs),
    /// Revoke a key: cut its open requests and refuse what follows
    Revoke(RevokeArgs),
    /// Read a key of another gateway from standard input and accept it from now on
    Import(CreateArgs),
    /// Print a new key and its digest for auth.principals; the key is kept nowhere
    Generate(GenerateArgs),
    /// Read a key from standard input and print its digest for auth.principals
    Digest,
}

/// Arguments of `elida key create` and `import`.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// The name; records and metrics show it as key:ID
    #[arg(long)]
    id: String,
    /// The tenant
    #[arg(long)]
    tenant: Option<String>,
    /// A group; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A label, such as team=web; may be repeated
    #[arg(long = "label", value_name = "NAME=TEXT", value_parser = read_label)]
    labels: Vec<(String, String)>,
    /// Patterns of the models that it may use, with commas; all without it
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    models: Vec<String>,
    /// Patterns of the backends that it may use, with commas; all without it
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    backends: Vec<String>,
    /// Patterns of the tools that it may use, with commas; all without it
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    tools: Vec<String>,
    /// How long it is valid (90d), or until when: a day (2027-01-31) or a time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

fn read_label(text: &str) -> Result<(String, String), String> {
    let (name, text) = text.split_once('=').ok_or("write NAME=TEXT, such as team=web")?;
    Ok((name.to_owned(), text.to_owned()))
}

/// Arguments of `elida key rotate`.
#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// Id of the key
    id: String,
    /// For how long the old key stays valid beside the new one
    #[arg(long, value_name = "TIME", value_parser = read_span)]
    grace: Option<DurationText>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida key revoke`.
#[derive(Args, Debug)]
pub(super) struct RevokeArgs {
    /// Id of the key
    id: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida key generate`.
#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    /// How the key begins, as auth.keys.prefix has it
    #[arg(long, default_value = key_text::PREFIX)]
    prefix: String,
    /// Print one JSON object: key, key_sha256
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The gateway refuses or cannot be reached, there are no random numbers, or standard input holds no key.
pub(super) fn key(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create(arguments) => create(arguments, None),
        KeyCommand::Import(arguments) => create(arguments, Some(read()?)),
        KeyCommand::List(arguments) => list(&arguments),
        KeyCommand::Rotate(RotateArgs { id, grace, plain }) => {
            let path = ["control", "keys", &id, "rotate"];
            let answer = Client::new(&plain.control)?.post(&path, &(), &RotateBody { grace })?;
            show(&plain, answer, made)
        }
        KeyCommand::Revoke(RevokeArgs { id, plain }) => {
            let answer = Client::new(&plain.control)?.delete(&["control", "keys", &id])?;
            show(&plain, answer, |revoked: &RevokedKey| {
                format!("{} is revoked; open requests cut: {}\n", plain_text(&revoked.id), revoked.legs_cut)
            })
        }
        KeyCommand::Generate(arguments) => generate(&arguments),
        KeyCommand::Digest => {
            print(&format!("{}\n", KeyDigest::of(read()?.as_bytes())));
            Ok(())
        }
    }
}

fn create(arguments: CreateArgs, key: Option<String>) -> anyhow::Result<()> {
    let CreateArgs { id, tenant, groups, labels, models, backends, tools, expires, plain } = arguments;
    let is_import = key.is_some();
    let mut body = serde_json::to_value(NewKey {
        id,
        tenant,
        groups,
        labels: BTreeMap::from_iter(labels),
        models,
        backends,
        tools,
        expires,
        key: None,
    })?;
    if let Some(key) = key {
        // A secret serializes as a mask.
        body["key"] = key.into();
    }
    let answer = Client::new(&plain.control)?.post(&["control", "keys"], &(), &body)?;
    match is_import {
        true => show(&plain, answer, |made: &MadeKey| format!("{} is accepted\n", plain_text(&made.view.id))),
        false => show(&plain, answer, made),
    }
}

/// Returns a key alone, for scripts.
fn made(made: &MadeKey) -> String {
    format!("{}\n", plain_text(&made.key))
}

fn list(plain: &PlainArgs) -> anyhow::Result<()> {
    let client = Client::new(&plain.control)?;
    if plain.json {
        print(&format!("{}\n", json!({"keys": all_pages::<Value>(&client)?})));
        return Ok(());
    }
    let keys: Vec<KeyView> = all_pages(&client)?;
    print(&if keys.is_empty() { "no keys\n".to_owned() } else { table(&key_rows(&keys), &[]) });
    Ok(())
}

/// Reads the keys of all pages.
fn all_pages<V: DeserializeOwned>(client: &Client) -> anyhow::Result<Vec<V>> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let query = KeysQuery { limit: Limit::new(usize::MAX), cursor };
        let mut page: KeyList<V> = client.get(&["control", "keys"], &query)?.read()?;
        all.append(&mut page.keys);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

/// Returns a heading and one row for each key.
fn key_rows(keys: &[KeyView]) -> Vec<Vec<String>> {
    let heading =
        ["ID", "KEY", "FROM", "TENANT", "GROUPS", "MODELS", "BACKENDS", "TOOLS", "EXPIRES", "LAST USED"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { plain_text(&text) };
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    for key in keys {
        let shown = key.shown.as_ref().map(|shown| format!("{shown}…")).unwrap_or_default();
        let from = match key.managed_by {
            ManagedBy::File => "file",
            ManagedBy::Api => "api",
        };
        let cells = [
            key.id.clone(),
            shown,
            from.to_owned(),
            key.tenant.clone().unwrap_or_default(),
            key.groups.join(","),
            key.models.join(","),
            key.backends.join(","),
            key.tools.join(","),
            key.expires.clone().unwrap_or_default(),
            time(key.last_used),
        ];
        rows.push(cells.into_iter().map(or_dash).collect());
    }
    rows
}

fn generate(arguments: &GenerateArgs) -> anyhow::Result<()> {
    let key = key_text::generate(&arguments.prefix)?;
    let digest = KeyDigest::of(key.reveal().as_bytes()).to_string();
    print(&match arguments.json {
        true => format!("{}\n", json!({"key": key.reveal(), "key_sha256": digest})),
        false => format!("key:        {}\nkey_sha256: {digest}\n", key.reveal()),
    });
    Ok(())
}

/// Reads a key from standard input, without its line end.
fn read() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        complain("Paste the key, then press Enter and Ctrl-D.");
    }
    let mut text = String::new();
    io::stdin().take(MAX_KEY + 1).read_to_string(&mut text).context("standard input holds no text")?;
    let key = text.trim();
    ensure!(text.len() as u64 <= MAX_KEY, "the key has more than {MAX_KEY} bytes");
    if key.is_empty() {
        bail!("standard input holds no key; write it there, such as: elida key digest < FILE");
    }
    let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(is_plain, "the text is not a key: a key has letters, digits and signs, without spaces");
    let least = key_text::MIN_LENGTH;
    ensure!(
        key.len() >= least,
        "the key has {} characters; with fewer than {least} it could be guessed",
        key.len()
    );
    Ok(key.to_owned())
}
