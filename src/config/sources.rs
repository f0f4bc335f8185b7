//! Merges the sources: built-in defaults < file < environment < flags.
//!
//! `ELIDA__SECTION__KEY` sets any key. Important keys also have a variable of their own, and some an alias that other
//! programs use as well; the more specific name wins. An unknown `ELIDA__` variable is a fault. Other unknown
//! `ELIDA_` variables are not: Kubernetes sets `ELIDA_PORT` and the like for a service named `elida`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::compiled::{Config, compile};
use super::expand::expand;
use super::form::check_form;
use super::key_sources::{KeySources, Notes};
use super::lines::place_of;
use super::parse::{parse, top_fault};
use super::read::read;
use super::renamed::rename_keys;
use super::tree::{Origin, Tree, is_within};
use crate::settings::fault::{Fault, Faults};
use crate::settings::secret::Secret;
use crate::upstream::egress::{self, ProxyVariables};

/// Variables of important keys.
const NAMED: [(&str, &[&str]); 13] = [
    ("ELIDA_LISTEN", &["listen"]),
    ("ELIDA_BACKEND", &["backend"]),
    ("ELIDA_CONTROL_LISTEN", &["control", "listen"]),
    ("ELIDA_CONTROL_TOKEN_FILE", &["control", "auth", "token_file"]),
    ("ELIDA_LOG_LEVEL", &["logging", "level"]),
    ("ELIDA_LOG_FORMAT", &["logging", "format"]),
    ("ELIDA_DATA_DIR", &["data_dir"]),
    ("ELIDA_TELEMETRY_ENDPOINT", &["telemetry", "endpoint"]),
    ("ELIDA_SESSION_IDLE_TIMEOUT", &["session", "idle_timeout"]),
    ("ELIDA_SESSION_STORE", &["session", "store"]),
    ("ELIDA_REDIS_URL", &["session", "redis", "url"]),
    ("ELIDA_CACHE_MAX_MEMORY", &["cache", "max_memory"]),
    ("ELIDA_CACHE_STORE", &["cache", "store"]),
];

/// Variables of sections that are off by default; their values are booleans. The first one is of other programs, too.
const SWITCHES: [(&str, &str); 3] =
    [("CACHE_ENABLED", "cache"), ("ELIDA_CACHE_ENABLED", "cache"), ("ELIDA_TELEMETRY_ENABLED", "telemetry")];

/// The variable that holds the token itself; the file has no key for it.
const TOKEN: &str = "ELIDA_CONTROL_TOKEN";

/// The variable that names the file.
const FILE: &str = "ELIDA_CONFIG";

/// Prefix of all variables of ELIDA.
const PREFIX: &str = "ELIDA_";

/// Variables that other programs use as well ([`Sources::aliases`]).
const ALIASES: [&str; 11] = [
    "CACHE_ENABLED",
    "CACHE_MAX_MEMORY",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "REDIS_URL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "DEFAULT_BACKEND",
    "PROXY_HOST",
    "PROXY_PORT",
];

/// Prefix of variables that set any key.
const ANY_KEY: &str = "ELIDA__";

/// The variables of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    values: BTreeMap<String, String>,
    /// Names of variables whose value is not UTF-8.
    unreadable: BTreeSet<String>,
}

impl Environment {
    /// Returns the variables of this process.
    pub fn of_process() -> Self {
        Self::of(std::env::vars_os())
    }

    /// Collects variables. One that is not UTF-8 is a fault if ELIDA uses it.
    fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(environment.values.insert(name, value)),
                (Ok(name), Err(_)) => _ = environment.unreadable.insert(name),
                (Err(name), _) => _ = environment.unreadable.insert(name.to_string_lossy().into_owned()),
            }
        }
        environment
    }

    /// True if the value of the variable is not UTF-8.
    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.contains(name)
    }

    /// Returns the value of a variable, which may be empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns the value of a variable unless it is empty: `ELIDA_LISTEN=` in a compose file means "not set".
    fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let values = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { values, unreadable: BTreeSet::new() }
    }
}

/// Command-line flags that set keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<String>,
    /// `--backend`
    pub backend: Option<String>,
    /// `--control-listen`
    pub control_listen: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// The sources of a process; a reload reads them again.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    /// Used as the file's content if there is no file.
    text: String,
    environment: Environment,
    flags: Flags,
}

impl Sources {
    /// Creates the list of sources. Without a `file`, the one that `ELIDA_CONFIG` names is used, if any.
    pub fn new(file: Option<PathBuf>, environment: Environment, flags: Flags) -> Self {
        let file = file.or_else(|| environment.filled(FILE).map(PathBuf::from));
        Self { file, text: String::new(), environment, flags }
    }

    /// Creates sources from a text instead of a file, without environment.
    pub fn of_text(text: String, flags: Flags) -> Self {
        Self { file: None, text, environment: Environment::default(), flags }
    }

    /// Returns the path of the file, if any.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads, checks and compiles all sources. Returns a valid configuration or all faults.
    pub fn load(&self) -> Result<Config, Faults> {
        let text = match &self.file {
            Some(file) => read_file(file).map_err(only)?,
            None => self.text.clone(),
        };
        self.load_text(&text)
    }

    /// Like [`Sources::load`], with the content of the file.
    pub fn load_text(&self, text: &str) -> Result<Config, Faults> {
        let mut faults = Faults::default();
        self.check_variables(&mut faults);
        let parsed = parse(text, &mut faults);
        let mut tree = Tree::new(parsed.root);
        if parsed.is_whole {
            self.overlay(&mut tree);
        }
        expand(&mut tree, &self.environment, &mut faults);
        rename_keys(&mut tree, &mut faults);
        let proxies = ProxyVariables::read(|name| self.environment.filled(name));
        let config = read(&tree, &mut faults).and_then(|(written, removed)| {
            let (token, mut later) = (self.token(&tree, &mut faults), Faults::default());
            check_form(&written, &tree, &mut later);
            let compiled = compile(written, token, &proxies, &tree, &mut later);
            faults.absorb(later, |path| removed.original(&path));
            compiled
        });
        faults.arrange(|fault| place(fault, &parsed.readable, &tree));
        match config {
            Some(config) if faults.is_empty() => {
                let sources = KeySources::new(self.file(), &parsed.readable, &tree);
                Ok(config.with_notes(Notes { warnings: faults.warnings().to_vec(), sources }))
            }
            _ => Err(faults),
        }
    }

    /// Reports variables that cannot be read. They must not be treated as unset: ignoring a token would leave the
    /// control API open.
    fn check_variables(&self, faults: &mut Faults) {
        let is_read = |name: &&String| {
            let name = name.as_str();
            name.starts_with(PREFIX) || ALIASES.contains(&name) || egress::VARIABLES.contains(&name)
        };
        for name in self.environment.unreadable.iter().filter(is_read) {
            faults.add(name.as_str(), "its value is not UTF-8 text", "set it again, or unset it");
        }
    }

    /// Applies a variable that switches a section on or off.
    fn switch(&self, tree: &mut Tree, name: &str, section: &str) {
        if let Some(text) = self.environment.filled(name) {
            let value = text.parse().map_or_else(|_| Value::String(text.into()), Value::Bool);
            tree.set(&[section, "enabled"], value, origin(name, text));
        }
    }

    /// Applies variables and flags on top of the file, lowest precedence first.
    fn overlay(&self, tree: &mut Tree) {
        self.aliases(tree);
        for (name, text) in &self.environment.values {
            let Some(key) = name.strip_prefix(ANY_KEY) else { continue };
            let keys: Vec<&str> = key.split("__").collect();
            let value = match serde_yaml::from_str(text) {
                Ok(Value::Null) | Err(_) => Value::String(text.clone()),
                Ok(value) => value,
            };
            tree.set(&keys, value, origin(name, text));
        }
        for (name, keys) in NAMED {
            if let Some(text) = self.environment.filled(name) {
                tree.set(keys, Value::String(text.into()), origin(name, text));
            }
        }
        for (name, section) in SWITCHES.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            self.switch(tree, name, section);
        }
        let flags = &self.flags;
        let flags: [(&str, &[&str], &Option<String>); 4] = [
            ("--listen", &["listen"], &flags.listen),
            ("--backend", &["backend"], &flags.backend),
            ("--control-listen", &["control", "listen"], &flags.control_listen),
            ("--log-level", &["logging", "level"], &flags.log_level),
        ];
        for (name, keys, text) in flags {
            if let Some(text) = text {
                tree.set(keys, Value::String(text.clone()), origin(name, text));
            }
        }
    }

    /// Applies variables that other programs use as well.
    fn aliases(&self, tree: &mut Tree) {
        for (name, section) in SWITCHES.iter().filter(|(name, _)| !name.starts_with(PREFIX)) {
            self.switch(tree, name, section);
        }
        let filled = |name| self.environment.filled(name);
        let mut set = |keys: &[&str], name: &str, text: &str| {
            tree.set(keys, Value::String(text.into()), origin(name, text));
        };
        if let Some(level) = filled("LOG_LEVEL") {
            set(&["logging", "level"], "LOG_LEVEL", level);
        }
        if let Some(format) = filled("LOG_FORMAT") {
            set(&["logging", "format"], "LOG_FORMAT", format);
        }
        if let Some(url) = filled("REDIS_URL") {
            set(&["session", "redis", "url"], "REDIS_URL", url);
        }
        if let Some(size) = filled("CACHE_MAX_MEMORY") {
            set(&["cache", "max_memory"], "CACHE_MAX_MEMORY", size);
        }
        for (name, key) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint"),
            ("OTEL_SERVICE_NAME", "service_name"),
            ("OTEL_RESOURCE_ATTRIBUTES", "resource_attributes"),
        ] {
            if let Some(text) = filled(name) {
                set(&["telemetry", key], name, text);
            }
        }
        // A URL is a backend; a name is one of those in the file.
        if let Some(backend) = filled("DEFAULT_BACKEND") {
            let keys: &[&str] =
                if backend.contains("://") { &["backend"] } else { &["routing", "default_backend"] };
            set(keys, "DEFAULT_BACKEND", backend);
        }
        if let (Some(host), Some(port)) = (filled("PROXY_HOST"), filled("PROXY_PORT")) {
            let bare_v6 = host.contains(':') && !host.starts_with('[');
            let address = if bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            set(&["listen"], "PROXY_HOST and PROXY_PORT", &address);
        } else if let Some(port) = filled("PROXY_PORT") {
            set(&["listen"], "PROXY_PORT", &format!("0.0.0.0:{port}"));
        }
    }

    /// Returns the control token, if the environment has it.
    fn token(&self, tree: &Tree, faults: &mut Faults) -> Option<Secret> {
        let token = self.environment.filled(TOKEN)?;
        if let Some(file) = tree.origins.get("control.auth.token_file") {
            faults.add(
                "control.auth",
                format!("{TOKEN} and {} are both set", file.name),
                "set one of the two",
            );
        }
        Some(Secret::new(token))
    }
}

fn origin(name: &str, text: &str) -> Origin {
    Origin { name: name.to_owned(), text: text.to_owned() }
}

fn only(fault: Fault) -> Faults {
    let mut faults = Faults::default();
    faults.push(fault);
    faults
}

fn read_file(file: &Path) -> Result<String, Fault> {
    let bytes = std::fs::read(file).map_err(|error| {
        let message = format!("{} cannot be read: {error}", file.display());
        top_fault(None, None, message, "check the path and its permissions")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        top_fault(Some(line), None, "this is not UTF-8 text", "save the file as UTF-8")
    })
}

/// Completes a fault with its position: line and column in the file, or the variable or flag. Replaces expanded
/// values by their reference.
fn place(fault: &mut Fault, text: &str, tree: &Tree) {
    for (path, expanded) in &tree.expanded {
        let concerned = is_within(path, &fault.path) || is_within(&fault.path, path);
        if concerned && !expanded.text.is_empty() {
            fault.message = fault.message.replace(&expanded.text, &expanded.reference);
        }
    }
    let written = tree.written_path(&fault.path);
    if let Some(origin) = tree.origin(&fault.path) {
        fault.message = format!("{}; set by {}", fault.message, origin.name);
    } else if fault.line.is_none()
        && let Some((line, column)) = place_of(text, written.as_ref().unwrap_or(&fault.path))
    {
        (fault.line, fault.column) = (Some(line), Some(column));
        place_within(fault, text);
    }
    if let Some(written) = written {
        fault.path = written;
    }
}

/// Moves a fault in a part of a value from the key to that part, if the value is written in the line of the key as it is
/// read; else the message says which character it is.
fn place_within(fault: &mut Fault, text: &str) {
    let Some((value, at)) = fault.within.take().map(|within| *within) else { return };
    let (Some(line), Some(column)) = (fault.line, fault.column) else { return };
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let begins = written.char_indices().nth(column - 1).map_or(0, |(begins, _)| begins);
    let in_value = value.get(..at).map_or(0, |before| before.chars().count());
    match written[begins..].find(value.as_str()) {
        Some(found) if !value.is_empty() => {
            fault.column = Some(written[..begins + found].chars().count() + in_value + 1);
        }
        _ => fault.message = format!("at character {}: {}", in_value + 1, fault.message),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn faults(text: &str, name: &str) -> Option<String> {
        let value = OsString::from_vec(b"0123456789abcdef\xff".to_vec());
        let variables = [(OsString::from(name), value), (OsString::from("PATH"), OsString::from("/bin"))];
        let sources = Sources::new(None, Environment::of(variables.into_iter()), Flags::default());
        sources.load_text(text).err().map(|faults| faults.to_string())
    }

    #[test]
    fn a_variable_that_is_read_and_not_utf8_is_a_fault() {
        for name in
            ["ELIDA_CONTROL_TOKEN", "ELIDA_LISTEN", "ELIDA__SESSION__HEADER", "PROXY_PORT", "ELIDA_CONFIG"]
        {
            let told = faults("", name).unwrap_or_default();
            assert_eq!(told, format!("{name}: its value is not UTF-8 text (set it again, or unset it)"));
        }
        assert_eq!(faults("", "OTHER"), None, "another program's variable");
        let told = faults("listen: '${env:OTHER}'", "OTHER").unwrap_or_default();
        assert!(told.contains("the variable OTHER is not UTF-8 text"), "{told}");
    }
}
