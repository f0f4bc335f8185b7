//! The files of the fleet under `docker/` match each other, the program and its metrics. No container engine is
//! used: each file is compared with the others, and what an image brings is listed in the tables below.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use elida::config::{Environment, Flags, Sources};
use regex::Regex;
use serde_yaml::Value;

/// Ports that images open by default (their documentation).
const PORTS_OF_IMAGES: [(&str, u16); 5] =
    [("redis", 6379), ("jaeger", 4317), ("jaeger", 16686), ("prometheus", 9090), ("grafana", 3000)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn docker(name: &str) -> PathBuf {
    root().join("docker").join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(name: &str) -> Value {
    let mut value: Value = serde_yaml::from_str(&read(&docker(name))).unwrap();
    value.apply_merge().unwrap();
    value
}

/// The texts of a list, or the keys of a map: Compose accepts both in several places.
fn names(value: &Value) -> Vec<String> {
    match value {
        Value::Sequence(list) => list.iter().map(|item| item.as_str().unwrap().to_owned()).collect(),
        Value::Mapping(map) => map.keys().map(|key| key.as_str().unwrap().to_owned()).collect(),
        Value::Null => Vec::new(),
        other => panic!("a list or a map: {other:?}"),
    }
}

/// All texts in a value, at any depth.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Sequence(list) => list.iter().for_each(|item| texts(item, found)),
        Value::Mapping(map) => map.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

struct Compose(Value);

impl Compose {
    fn read() -> Self {
        Self(yaml("compose.yaml"))
    }

    fn services(&self) -> BTreeMap<String, &Value> {
        let services = self.0["services"].as_mapping().unwrap();
        services.iter().map(|(name, service)| (name.as_str().unwrap().to_owned(), service)).collect()
    }

    /// The mounts of a service: source and target.
    fn mounts(service: &Value) -> Vec<(String, String)> {
        let volumes = names(&service["volumes"]);
        volumes
            .iter()
            .map(|volume| {
                let (source, rest) = volume.split_once(':').unwrap();
                (source.to_owned(), rest.trim_end_matches(":ro").to_owned())
            })
            .collect()
    }

    fn variables(service: &Value) -> BTreeMap<String, String> {
        let map = service["environment"].as_mapping().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        map.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// Which service listens on which port, by the files and the table above.
    fn listeners(&self) -> BTreeSet<(String, u16)> {
        let mut found: BTreeSet<_> =
            PORTS_OF_IMAGES.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        let port = |text: &str| text.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        for name in ["elida-1", "elida-2"] {
            let variables = Self::variables(self.services()[name]);
            for variable in ["ELIDA_LISTEN", "ELIDA_CONTROL_LISTEN"] {
                found.insert((name.to_owned(), port(&variables[variable])));
            }
        }
        let provider = names(&self.services()["provider"]["command"]);
        found.insert(("provider".to_owned(), port(provider.last().unwrap())));
        for protocol in ["grpc", "http"] {
            let endpoint =
                &yaml("otel/collector.yaml")["receivers"]["otlp"]["protocols"][protocol]["endpoint"];
            found.insert(("otel-collector".to_owned(), port(endpoint.as_str().unwrap())));
        }
        found
    }
}

#[test]
fn what_the_compose_file_names_is_there() {
    let compose = Compose::read();
    let services = compose.services();
    let declared = |section: &str| names(&compose.0[section]);
    let (mut published, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (name, service) in &services {
        let image = service["image"].as_str().unwrap();
        match service.get("build") {
            Some(build) => {
                let context = docker(build["context"].as_str().unwrap());
                assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file(), "{name}");
            }
            None => assert!(image.rsplit_once(':').unwrap().1.contains('.'), "{name}: no version in {image}"),
        }
        for (source, _) in Compose::mounts(service) {
            if source.starts_with('.') {
                assert!(docker(&source).exists(), "{name}: {source} is not there");
            } else {
                assert!(declared("volumes").contains(&source), "{name}: {source} is not declared");
                used.insert(source);
            }
        }
        for secret in names(&service["secrets"]) {
            assert!(declared("secrets").contains(&secret), "{name}: {secret}");
            used.insert(secret);
        }
        for other in names(&service["depends_on"]) {
            assert!(services.contains_key(&other), "{name} depends on {other}");
        }
        for port in names(&service["ports"]) {
            let parts: Vec<&str> = port.split(':').collect();
            let (inside, outside) = (parts[parts.len() - 1], parts[parts.len() - 2]);
            assert!(published.insert(outside.to_owned()), "{name}: {outside} is taken");
            assert!(
                compose.listeners().contains(&(name.clone(), inside.parse().unwrap())),
                "{name}: {inside}"
            );
            // Only the proxies are published.
            assert!(
                parts[0] == "127.0.0.1" || inside == "8080",
                "{name}: {port} is published to other hosts"
            );
        }
    }
    let declared: BTreeSet<String> = declared("volumes").into_iter().chain(declared("secrets")).collect();
    assert_eq!(used, declared);
    let head = read(&docker("compose.yaml"));
    for secret in compose.0["secrets"].as_mapping().unwrap().values() {
        let variable = secret["environment"].as_str().unwrap();
        assert!(head.contains(&format!("{variable}=$(")), "the head does not mention {variable}");
    }
}

#[test]
fn every_address_in_the_files_is_listened_to() {
    let compose = Compose::read();
    let (listeners, services) = (compose.listeners(), compose.services());
    let address = Regex::new(r"^(?:http://)?([a-z][a-z0-9-]*):([0-9]+)$").unwrap();
    let files =
        ["otel/collector.yaml", "prometheus/prometheus.yaml", "grafana/provisioning/datasources/fleet.yaml"];
    let files: Vec<Value> = files.into_iter().map(yaml).collect();
    let mut found = Vec::new();
    files.iter().for_each(|file| texts(file, &mut found));
    services.values().for_each(|service| texts(&service["environment"], &mut found));
    let found: Vec<_> = found.into_iter().filter_map(|text| address.captures(text)).collect();
    for parts in &found {
        let (name, port) = (parts[1].to_owned(), parts[2].parse().unwrap());
        assert!(listeners.contains(&(name, port)), "no service listens on {}", &parts[0]);
    }
    // Two targets, Jaeger twice, Prometheus, and three variables of each instance.
    assert_eq!(found.len(), 11, "{found:?}");
}

#[test]
fn every_file_that_a_container_is_told_to_read_is_mounted() {
    let compose = Compose::read();
    let path = Regex::new(r"^(?:--config=|--config\.file=)?(/(?:etc|run/secrets)/\S+)$").unwrap();
    let mut count = 0;
    for (name, service) in compose.services() {
        let mounts: Vec<String> = Compose::mounts(service).into_iter().map(|(_, place)| place).collect();
        let secrets = names(&service["secrets"]);
        let (mut found, prometheus) = (Vec::new(), yaml("prometheus/prometheus.yaml"));
        texts(&service["command"], &mut found);
        texts(&service["environment"], &mut found);
        let boards = yaml("grafana/provisioning/dashboards/fleet.yaml");
        match name.as_str() {
            "prometheus" => texts(&prometheus, &mut found),
            "grafana" => texts(&boards, &mut found),
            _ => {}
        }
        for file in found.into_iter().filter_map(|text| path.captures(text)) {
            let file = &file[1];
            let is_there = match file.strip_prefix("/run/secrets/") {
                Some(secret) => secrets.iter().any(|known| known == secret),
                None => mounts.iter().any(|place| place == file || place.starts_with(&format!("{file}/"))),
            };
            assert!(is_there, "{name}: nothing is mounted at {file}");
            count += 1;
        }
    }
    // Three for each instance, one for the collector, three for Prometheus, one for Grafana.
    assert_eq!(count, 11);
}

#[test]
fn the_instances_have_a_valid_configuration() {
    let compose = Compose::read();
    let secrets = tempfile::tempdir().unwrap();
    for name in names(&compose.0["secrets"]) {
        fs::write(secrets.path().join(name), "0123456789abcdef0123456789abcdef\n").unwrap();
    }
    let here = format!("{}/", secrets.path().display());
    for name in ["elida-1", "elida-2"] {
        let service = compose.services()[name];
        let reported = names(&service["command"]).pop().unwrap();
        let (source, _) = Compose::mounts(service).into_iter().find(|(_, place)| *place == reported).unwrap();
        let variables = Compose::variables(service);
        let variables = variables.iter().map(|(name, value)| (name, value.replace("/run/secrets/", &here)));
        let environment: Environment = variables.collect();
        let config = Sources::new(Some(docker(&source)), environment, Flags::default()).load();
        let config = config.unwrap_or_else(|faults| panic!("{name}:\n{faults}"));
        assert_eq!(config.session.redis().unwrap().shown(), "redis://redis:6379/0");
        assert_eq!(config.backends.len(), 4);
        assert!(config.backends.iter().all(|backend| backend.url() == "http://provider:9100"));
        assert!(config.control.token().is_some() && !config.control.listen().ip().is_loopback());
        // Prometheus scrapes by these names.
        let hosts = &config.printable()["control"]["allowed_hosts"];
        assert!(hosts.as_array().unwrap().iter().any(|host| host == name), "{hosts}");
        // A program without telemetry ignores these variables.
        if let Some(telemetry) = config.printable().get("telemetry") {
            assert_eq!((&telemetry["enabled"], &telemetry["protocol"]), (&true.into(), &"grpc".into()));
            assert_eq!(telemetry["endpoint"], "http://otel-collector:4317");
        }
        let warnings = config.warnings().iter().filter(|warning| warning.path != "data_dir");
        assert_eq!(warnings.count(), 0, "{:?}", config.warnings());
    }
}

/// The labels of each metric in `docs/metrics.md`; a unit test compares that page with the program's table. With
/// the series of histograms, and `up` and `process_*`, which Prometheus and the process collector add.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = BTreeMap::new();
    let ticked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    for line in read(&root().join("docs/metrics.md")).lines().filter(|line| line.starts_with("| `elida_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, labels) =
            (ticked(cells[1]).remove(0), ticked(cells[3]).into_iter().collect::<BTreeSet<_>>());
        if cells[2] == "histogram" {
            for series in ["bucket", "sum", "count"] {
                metrics.insert(format!("{name}_{series}"), labels.clone());
            }
        } else {
            metrics.insert(name, labels);
        }
    }
    for name in ["up", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
        metrics.insert(name.to_owned(), BTreeSet::new());
    }
    metrics
}

/// The metrics that count losses.
fn losses(metrics: &BTreeMap<String, BTreeSet<String>>) -> impl Iterator<Item = &str> {
    metrics.keys().map(String::as_str).filter(|name| name.contains("_dropped_"))
}

/// Words of PromQL that are neither metrics nor labels.
const PROMQL: &[&str] = &["absent", "by", "histogram_quantile", "increase", "min", "rate", "sum"];

/// Labels that Prometheus adds to every series, and the one of histogram buckets.
const EVERYWHERE: [&str; 3] = ["instance", "job", "le"];

static SELECTOR: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{([^}]*)\}").unwrap());
static GROUPING: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bby \(([^)]*)\)").unwrap());
static RANGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[[^\]]*\]").unwrap());
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[a-z_][a-z0-9_]*").unwrap());
static MATCHER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"([a-z_]+)(?:=~|!=|=)"[^"]*""#).unwrap());

/// Returns the metrics of a query; every metric and label in it, and every one of `shown` (labels in a legend or a
/// text), must exist. Faults are added to the list.
fn check(
    query: &str,
    shown: &str,
    metrics: &BTreeMap<String, BTreeSet<String>>,
) -> Result<Vec<String>, String> {
    let depth = |c: char| query.matches(c).count();
    if depth('(') != depth(')') || depth('[') != depth(']') || depth('{') != depth('}') {
        return Err(format!("{query}: a bracket is left open"));
    }
    let bare = SELECTOR.replace_all(query, "");
    let bare = RANGE.replace_all(&bare, "");
    let bare = GROUPING.replace_all(&bare, "");
    let words = WORD.find_iter(&bare).map(|word| word.as_str()).filter(|word| !PROMQL.contains(word));
    let (mut used, mut known) = (Vec::new(), BTreeSet::from(EVERYWHERE.map(str::to_owned)));
    for word in words {
        let labels = metrics.get(word).ok_or_else(|| format!("{query}: there is no metric {word}"))?;
        known.extend(labels.iter().cloned());
        used.push(word.to_owned());
    }
    let grouped: BTreeSet<&str> =
        GROUPING.captures_iter(query).flat_map(|found| split(found.get(1))).collect();
    let matched = SELECTOR.captures_iter(query).flat_map(|found| split(found.get(1)));
    let matched =
        matched.map(|matcher| MATCHER.captures(matcher).map_or(matcher, |found| found.extract::<1>().1[0]));
    let label = Regex::new(r"\{\{ ?(?:\$labels\.)?([a-z_]+) ?(?:\|[^}]*)?\}\}").unwrap();
    let reported: Vec<&str> = label.captures_iter(shown).map(|found| found.extract::<1>().1[0]).collect();
    for name in matched.chain(grouped.iter().copied()).chain(reported.iter().copied()) {
        if !known.contains(name) {
            return Err(format!("{query}: no metric in it has the label {name}"));
        }
    }
    // A result that is grouped by other labels, or by none, has lost this label.
    match reported.iter().find(|name| query.contains("sum") && !grouped.contains(**name)) {
        Some(name) => Err(format!("{query}: {name} is shown but not kept")),
        None => Ok(used),
    }
}

fn split(list: Option<regex::Match<'_>>) -> impl Iterator<Item = &str> {
    let list = list.map_or("", |list| list.as_str());
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

#[test]
fn the_check_of_queries_finds_what_is_wrong() {
    let metrics = metrics();
    let good = "sum by (state) (rate(elida_sessions_total{kind=\"traffic\"}[5m])) > 0.5";
    assert_eq!(check(good, "{{state}}", &metrics).unwrap(), ["elida_sessions_total"]);
    for (bad, shown, fault) in [
        ("rate(elida_session_total[5m])", "", "no metric elida_session_total"),
        ("sum(elida_kill_latency_seconds)", "", "no metric elida_kill_latency_seconds"),
        ("sum by (stat) (elida_sessions_total)", "", "the label stat"),
        ("elida_sessions_total{stat=\"killed\"}", "", "the label stat"),
        ("elida_sessions_total", "{{ $labels.stat }}", "the label stat"),
        ("sum by (kind) (elida_sessions_total)", "{{state}}", "state is shown but not kept"),
        ("sum((elida_sessions_total)", "", "a bracket"),
    ] {
        let reported = check(bad, shown, &metrics).unwrap_err();
        assert!(reported.contains(fault), "{reported}");
    }
}

#[test]
fn alerts_use_metrics_that_exist_and_miss_none_that_matters() {
    let (metrics, alerts) = (metrics(), yaml("prometheus/alerts.yaml"));
    let rules = alerts["groups"][0]["rules"].as_sequence().unwrap();
    let (mut used, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(seen.insert(name), "{name} exists twice");
        let annotations = &rule["annotations"];
        let shown = format!(
            "{} {}",
            annotations["summary"].as_str().unwrap(),
            annotations["description"].as_str().unwrap()
        );
        let shown = shown.replace("{{ $value | humanizeDuration }}", "");
        used.extend(check(rule["expr"].as_str().unwrap(), &shown, &metrics).unwrap());
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
    }
    let named = [
        "up",
        "elida_store_up",
        "elida_history_up",
        "elida_history_intact",
        "elida_panics_total",
        "elida_kill_latency_seconds_bucket",
        "elida_backend_healthy",
    ];
    for metric in named.into_iter().chain(losses(&metrics)) {
        assert!(used.contains(metric), "no alert or panel uses {metric}");
    }
}

#[test]
fn the_board_uses_metrics_and_data_sources_that_exist() {
    let board: serde_json::Value = serde_json::from_str(&read(&docker("grafana/elida.json"))).unwrap();
    let metrics = metrics();
    let sources = yaml("grafana/provisioning/datasources/fleet.yaml");
    let sources: Vec<&str> = sources["datasources"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|one| one["uid"].as_str().unwrap())
        .collect();
    let (mut used, mut ids, mut places) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in board["panels"].as_array().unwrap() {
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()) && number("x") + number("w") <= 24, "{panel}");
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(places.insert((x, y)), "{} lies over another", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert!(sources.contains(&target["datasource"]["uid"].as_str().unwrap()), "{target}");
            let (query, legend) =
                (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
            used.extend(check(query, legend, &metrics).unwrap());
        }
    }
    let named = [
        "elida_sessions_active",
        "elida_session_kills_total",
        "elida_kill_latency_seconds_bucket",
        "elida_http_requests_total",
        "elida_time_to_first_byte_seconds_bucket",
        "elida_tokens_total",
        "elida_cost_usd_total",
        "elida_open_legs",
        "elida_connections",
        "elida_history_up",
        "elida_store_up",
        "elida_store_outages_total",
        "elida_store_fallbacks_total",
    ];
    for metric in named.into_iter().chain(losses(&metrics)) {
        assert!(used.contains(metric), "no panel shows {metric}");
    }
}

#[test]
fn the_recipe_runs_the_script_with_the_program_that_it_builds() {
    let justfile = read(&root().join("justfile"));
    let recipe = justfile.split("\nfleet:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let lines: Vec<&str> = recipe.lines().map(str::trim).collect();
    assert_eq!(lines, ["cargo build --quiet --bin elida", "docker/fleet/run.sh target/debug/elida"]);
}
