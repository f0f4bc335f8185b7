//! The `telemetry:` section.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use url::Url;

use crate::settings::fault::Faults;

/// The default service name.
const SERVICE: &str = "elida";

/// The `telemetry:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Telemetry")]
pub struct TelemetryConfig {
    /// True: export requests and sessions.
    pub enabled: bool,
    /// Where telemetry goes.
    pub exporter: Exporter,
    /// The collector, as `host:port` or a URL; empty means this machine, port 4317 (gRPC) or 4318 (HTTP).
    pub endpoint: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The service name of this instance.
    pub service_name: String,
    /// Resource attributes of this instance: `key=value,key=value`, values percent-encoded.
    pub resource_attributes: String,
    /// The share of sessions that are traced, 0 to 1; for a client's requests its own traceparent decides.
    pub sample_ratio: Ratio,
    /// True: push histograms, too.
    pub metrics: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            exporter: Exporter::Otlp,
            endpoint: String::new(),
            protocol: Protocol::Grpc,
            service_name: SERVICE.into(),
            resource_attributes: String::new(),
            sample_ratio: Ratio::new(1.0),
            metrics: false,
        }
    }
}

/// Where telemetry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exporter {
    /// A collector that accepts OTLP.
    Otlp,
    /// The same, since Jaeger accepts OTLP.
    Jaeger,
    /// Standard output: one line of OTLP JSON per batch.
    Stdout,
}

/// The transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protocol Buffers over HTTP/1.1.
    Http,
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Ratio(#[schemars(range(min = 0, max = 1))] f64);

/// Never a NaN, so it equals itself.
impl Eq for Ratio {}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&number) {
            return Ok(Self(number));
        }
        Err(de::Error::custom(format!("{number} is not between 0 (nothing) and 1 (everything)")))
    }
}

impl Ratio {
    /// Creates a ratio, clamped to 0 to 1.
    pub const fn new(ratio: f64) -> Self {
        Self(ratio.clamp(0.0, 1.0))
    }

    /// Returns true if a trace is sampled, based on the last 32 bits of its id, which are random. The result is the same
    /// for all spans of a trace, on every instance. A session's uid is its trace id.
    pub fn takes(self, trace: u128) -> bool {
        let place = (trace & u128::from(u32::MAX)) as u32;
        f64::from(place) < self.0 * (f64::from(u32::MAX) + 1.0)
    }
}

/// Where telemetry is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The URL of a collector.
    Grpc(String),
    /// The URL before `/v1/traces`.
    Http(String),
    Stdout,
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    enabled: bool,
    pub(super) target: Target,
    /// The resource attributes, the service name first.
    pub(super) resource: Vec<(String, String)>,
    pub(super) ratio: Ratio,
    pub(super) metrics: bool,
}

impl Settings {
    /// Returns true if telemetry is exported.
    pub fn enabled(&self) -> bool {
        self.enabled
    }
}

impl TelemetryConfig {
    /// Compiles the section.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let endpoint = self.endpoint(faults);
        let resource = self.resource(faults);
        let endpoint = endpoint?;
        let target = match (self.exporter, self.protocol) {
            (Exporter::Stdout, _) => Target::Stdout,
            (Exporter::Otlp | Exporter::Jaeger, Protocol::Grpc) => Target::Grpc(endpoint),
            (Exporter::Otlp | Exporter::Jaeger, Protocol::Http) => Target::Http(endpoint),
        };
        Some(Settings {
            enabled: self.enabled,
            target,
            resource: resource?,
            ratio: self.sample_ratio,
            metrics: self.metrics,
        })
    }

    /// The collector's URL without a trailing slash.
    fn endpoint(&self, faults: &mut Faults) -> Option<String> {
        let mut fault = |message: &str| {
            let hint = "write host:port, or a URL such as http://collector:4317";
            faults.add("telemetry.endpoint", message, hint);
            None
        };
        let text = match (self.endpoint.as_str(), self.protocol) {
            ("", Protocol::Grpc) => "http://localhost:4317".to_owned(),
            ("", Protocol::Http) => "http://localhost:4318".to_owned(),
            (text, _) if text.contains("://") => text.to_owned(),
            (text, _) => format!("http://{text}"),
        };
        let Ok(url) = Url::parse(&text) else { return fault("this is not an address of a collector") };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return fault("the address of a collector must use http or https");
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return fault("user, password and query are not supported in the address of a collector");
        }
        if self.protocol == Protocol::Grpc && url.path() != "/" {
            return fault("gRPC has no path; remove it, or write telemetry.protocol: http");
        }
        Some(url.as_str().trim_end_matches('/').to_owned())
    }

    /// The resource attributes. `service.name` among them is used if `telemetry.service_name` has its default value.
    fn resource(&self, faults: &mut Faults) -> Option<Vec<(String, String)>> {
        let mut resource = Vec::new();
        let mut good = true;
        for pair in self.resource_attributes.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').map(|(key, value)| (key.trim(), decoded(value.trim()))) {
                Some((key, Some(value))) if !key.is_empty() => resource.push((key.to_owned(), value)),
                _ => {
                    let message = format!("{pair:?} is not an attribute");
                    faults.add("telemetry.resource_attributes", message, "write key=value,key=value");
                    good = false;
                }
            }
        }
        let named = resource.iter().position(|(key, _)| key == "service.name").map(|at| resource.remove(at));
        let name = named.filter(|_| self.service_name == SERVICE);
        let name = name.unwrap_or_else(|| ("service.name".to_owned(), self.service_name.clone()));
        resource.insert(0, name);
        good.then_some(resource)
    }
}

/// Decodes percent-encoding; `None` if it is invalid.
fn decoded(text: &str) -> Option<String> {
    let is_whole =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_whole) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: &str) -> Result<Settings, String> {
        let written: TelemetryConfig = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
        let mut faults = Faults::default();
        written.compile(&mut faults).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn a_collector_is_named_by_host_or_url() {
        for (yaml, target) in [
            ("{}", Target::Grpc("http://localhost:4317".into())),
            ("protocol: http", Target::Http("http://localhost:4318".into())),
            ("endpoint: 'otel:4317'\nexporter: jaeger", Target::Grpc("http://otel:4317".into())),
            ("endpoint: 'https://otel/otlp/'\nprotocol: http", Target::Http("https://otel/otlp".into())),
            ("exporter: stdout", Target::Stdout),
        ] {
            assert_eq!(compiled(yaml).unwrap().target, target, "{yaml}");
        }
        for yaml in ["endpoint: 'http://u:p@otel'", "endpoint: 'http://otel/x'", "endpoint: 'ftp://otel'"] {
            assert!(compiled(yaml).unwrap_err().contains("telemetry.endpoint"), "{yaml}");
        }
    }

    #[test]
    fn attributes_are_read_as_the_variable_has_them() {
        let resource = |yaml: &str| compiled(yaml).unwrap().resource;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let one = "resource_attributes: 'a=b%2Cc, service.name=x'";
        assert_eq!(resource(one), [pair("service.name", "x"), pair("a", "b,c")]);
        assert_eq!(resource(&format!("{one}\nservice_name: y"))[0], pair("service.name", "y"));
        assert!(compiled("resource_attributes: 'a'").unwrap_err().contains("\"a\""));
        assert!(compiled("resource_attributes: 'a=%'").is_err());
    }

    #[test]
    fn a_ratio_takes_its_share() {
        let ratio = |text: &str| serde_yaml::from_str::<Ratio>(text);
        assert!(ratio("1.5").is_err() && ratio(".nan").is_err() && ratio("-0.1").is_err());
        let all = [0, 1, u128::from(u32::MAX), u128::MAX];
        assert!(all.iter().all(|trace| ratio("1").unwrap().takes(*trace)));
        assert!(!all.iter().any(|trace| ratio("0").unwrap().takes(*trace)));
        let taken = (0..1000_u128).filter(|n| ratio("0.25").unwrap().takes(n * 4_294_967)).count();
        assert!((240..=260).contains(&taken), "{taken}");
    }
}
