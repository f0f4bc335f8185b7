//! The section `webhooks:`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::addresses::is_public;
use super::client;
use super::services::ServiceSettings;
use super::signature::Secrets;
use super::webhook::Webhook;
use crate::policy::expr::Expression;
use crate::policy::external::ExternalConfig;
use crate::policy::facts::Phase;
use crate::policy::rule::Severity;
use crate::settings::fault::Faults;

/// The most webhooks.
const MOST: usize = 32;

/// An entry of `webhooks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Webhook")]
pub struct WebhookConfig {
    /// Its name, in metrics and the log.
    pub name: String,
    /// Where messages are posted.
    pub url: String,
    /// The events that are sent, by their names in the event feed; `session.*` is all that begin so. All, if it is empty.
    #[serde(default)]
    pub events: Vec<String>,
    /// Only events for which this is true, or that do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Only findings that are at least as severe.
    #[serde(default = "least")]
    pub severity: Severity,
    /// A file with the secret, `whsec_` and 24 to 64 bytes in Base64; several lines while it is changed.
    pub secret_file: String,
    /// True: addresses of private networks may be called.
    #[serde(default)]
    pub allow_private: bool,
    /// The form of messages: `elida` or `ocsf`.
    #[serde(default)]
    pub format: Format,
}

fn least() -> Severity {
    Severity::Info
}

/// The form of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WebhookFormat")]
pub enum Format {
    /// That of the event feed.
    #[default]
    Elida,
    /// OCSF 1.8: only findings, kills and changes by operators.
    Ocsf,
}

/// The section `ocsf:`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Ocsf")]
pub struct OcsfConfig {
    /// A file to which events are appended, one a line; empty for none.
    pub file: String,
    /// A syslog server that takes RFC 5424 over UDP, as `udp://host:514`; empty for none.
    pub syslog: String,
}

/// Where OCSF events are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OcsfTarget {
    pub(super) file: Option<PathBuf>,
    pub(super) syslog: Option<String>,
}

/// Who is told, compiled.
#[derive(Clone, Debug, Default)]
pub struct Receivers {
    pub(super) webhooks: Vec<Arc<Webhook>>,
    pub(super) ocsf: OcsfTarget,
}

impl Receivers {
    /// Returns how many connections and files are open at most for them.
    pub fn connections(&self) -> usize {
        self.webhooks.len() * client::IDLE
            + usize::from(self.ocsf.file.is_some())
            + usize::from(self.ocsf.syslog.is_some())
    }
}

impl OcsfConfig {
    fn compile(&self, faults: &mut Faults) -> OcsfTarget {
        let file = (!self.file.is_empty()).then(|| PathBuf::from(&self.file));
        let folder = file.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let message = format!("there is no directory '{}'", folder.display());
            faults.add("ocsf.file", message, "make it, or name a file in another one");
        }
        let syslog = match self.syslog.as_str() {
            "" => None,
            text => match text.strip_prefix("udp://").filter(|address| has_port(address)) {
                Some(address) => Some(address.to_owned()),
                None => {
                    faults.add("ocsf.syslog", format!("'{text}' is no server"), "write udp://host:514");
                    None
                }
            },
        };
        OcsfTarget { file, syslog }
    }
}

fn has_port(address: &str) -> bool {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Compiles `webhooks` and `ocsf`.
pub fn compile(
    written: &[WebhookConfig],
    ocsf: &OcsfConfig,
    kinds: &[&str],
    faults: &mut Faults,
) -> Option<Receivers> {
    let ocsf = ocsf.compile(faults);
    if written.len() > MOST {
        faults.add(
            "webhooks",
            format!("there are {} webhooks", written.len()),
            format!("write at most {MOST}"),
        );
        return None;
    }
    let mut compiled = Vec::new();
    for (at, hook) in written.iter().enumerate() {
        let path = format!("webhooks[{at}]");
        if written[..at].iter().any(|other| other.name == hook.name) || hook.name.is_empty() {
            faults.add(
                format!("{path}.name"),
                "the name is empty or taken",
                "give each webhook a name of its own",
            );
        }
        for event in &hook.events {
            let is_known = match event.strip_suffix('*') {
                Some(start) => kinds.iter().any(|kind| kind.starts_with(start)),
                None => kinds.contains(&event.as_str()),
            };
            if !is_known {
                let hint = format!("the events are {}", kinds.join(", "));
                faults.add(format!("{path}.events"), format!("there is no event '{event}'"), hint);
            }
        }
        let when = hook.when.as_deref().map(|source| Expression::condition(source, Phase::Session));
        let when = match when.transpose() {
            Ok(when) => when,
            Err(fault) => {
                let message = format!("character {}: {}", fault.at + 1, fault.message);
                faults.add(format!("{path}.when"), message, fault.hint);
                None
            }
        };
        check_url(hook, &path, faults);
        if let Some(secrets) = read_secrets(&hook.secret_file, &path, faults) {
            compiled.push(Arc::new(Webhook {
                name: hook.name.as_str().into(),
                url: hook.url.clone(),
                events: hook.events.clone(),
                when,
                severity: hook.severity,
                secrets,
                allow_private: hook.allow_private,
                format: hook.format,
            }));
        }
    }
    (compiled.len() == written.len()).then_some(Receivers { webhooks: compiled, ocsf })
}

fn read_secrets(file: &str, path: &str, faults: &mut Faults) -> Option<Secrets> {
    let text = fs::read_to_string(file).map_err(|fault| format!("'{file}' cannot be read: {fault}"));
    match text.and_then(|text| Secrets::read(&text)) {
        Ok(secrets) => Some(secrets),
        Err(why) => {
            let hint = "make one with: echo whsec_$(openssl rand -base64 32)";
            faults.add(format!("{path}.secret_file"), format!("the secret cannot be used: {why}"), hint);
            None
        }
    }
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Url(String),
    /// A Unix socket, and the path that is asked there.
    Unix(String, String),
}

/// Compiles where the services of `policy.external` are asked; the rest of the section is compiled with the rules.
pub fn compile_services(
    written: &[ExternalConfig],
    faults: &mut Faults,
) -> Option<Vec<Arc<ServiceSettings>>> {
    let mut compile = |(at, one): (usize, &ExternalConfig)| {
        let path = format!("policy.external[{at}]");
        let endpoint = endpoint(&one.url, &path, faults);
        let secrets = match &one.secret_file {
            Some(file) => Some(read_secrets(file, &path, faults)?),
            None => None,
        };
        Some(Arc::new(ServiceSettings {
            name: one.name.as_str().into(),
            endpoint: endpoint?,
            timeout: one.timeout.0,
            cache: one.cache.map(|cache| cache.0).filter(|cache| !cache.is_zero()),
            secrets,
        }))
    };
    let compiled: Vec<_> = written.iter().enumerate().map(&mut compile).collect();
    compiled.into_iter().collect()
}

fn endpoint(url: &str, path: &str, faults: &mut Faults) -> Option<Endpoint> {
    let path = format!("{path}.url");
    if let Some(socket) = url.strip_prefix("unix:") {
        return match socket.split_once(':') {
            Some((socket, target)) if socket.starts_with('/') && target.starts_with('/') => {
                Some(Endpoint::Unix(socket.to_owned(), target.to_owned()))
            }
            _ => {
                let hint = "write unix:/run/opa.sock:/v1/data/elida/decide";
                faults.add(path, "it names no socket with a path", hint);
                None
            }
        };
    }
    let parsed = plain_url(url, &path, faults)?;
    if parsed.scheme() == "http" && !is_local(&parsed) {
        faults.warn(path, "questions are sent unencrypted", "use https");
    }
    Some(Endpoint::Url(url.to_owned()))
}

/// An `http` or `https` URL without a password.
fn plain_url(url: &str, path: &str, faults: &mut Faults) -> Option<Url> {
    let url = match Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            faults.add(path, "it is not an http or https URL", "write https://host/path");
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        faults.add(path, "a URL is shown, and this one has a password", "remove the part before the @");
        return None;
    }
    Some(url)
}

fn is_local(url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        _ => None,
    };
    url.host_str() == Some("localhost") || address.is_some_and(|address| !is_public(address))
}

fn check_url(hook: &WebhookConfig, path: &str, faults: &mut Faults) {
    let path = format!("{path}.url");
    let Some(url) = plain_url(&hook.url, &path, faults) else { return };
    let is_local = is_local(&url);
    if is_local && !hook.allow_private {
        faults.add(path, "its address is private", "set allow_private: true if it is meant");
    } else if url.scheme() == "http" && !is_local {
        faults.warn(path, "events are sent unencrypted", "use https");
    }
}
