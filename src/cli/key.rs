//! `elida key`: makes keys for callers, and the digests that the configuration holds of them.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{complain, print};
use crate::identity::key_text::{self, KeyDigest};

/// Longest key that is read, in bytes.
const MAX_KEY: u64 = 4096;

/// Commands for keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Print a new key and the digest for auth.principals; the key is kept nowhere
    Generate(GenerateArgs),
    /// Read a key from standard input and print its digest for auth.principals
    Digest,
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
/// There are no random numbers, or standard input holds no key.
pub(super) fn key(command: &KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Generate(arguments) => {
            let key = key_text::generate(&arguments.prefix)?;
            let digest = KeyDigest::of(key.reveal().as_bytes()).to_string();
            print(&match arguments.json {
                true => format!("{}\n", json!({"key": key.reveal(), "key_sha256": digest})),
                false => format!("key:        {}\nkey_sha256: {digest}\n", key.reveal()),
            });
        }
        KeyCommand::Digest => {
            if io::stdin().is_terminal() {
                complain("Paste the key, then press Enter and Ctrl-D.");
            }
            print(&format!("{}\n", KeyDigest::of(read()?.as_bytes())));
        }
    }
    Ok(())
}

/// Reads a key from standard input, without its line end.
fn read() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().take(MAX_KEY + 1).read_to_string(&mut text).context("standard input holds no text")?;
    let key = text.trim();
    ensure!(text.len() as u64 <= MAX_KEY, "the key has more than {MAX_KEY} bytes");
    if key.is_empty() {
        bail!("standard input holds no key; write it there, such as: pbpaste | elida key digest");
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
