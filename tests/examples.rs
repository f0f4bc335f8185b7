//! Every file in `conf/` and `conf/examples/` is a valid configuration.

use std::path::{Path, PathBuf};

use elida::config::{Config, Environment, Flags, Sources};

fn load(file: &Path, variables: &[(&str, &str)]) -> Config {
    let environment: Environment = variables.iter().copied().collect();
    let sources = Sources::new(Some(file.to_owned()), environment, Flags::default());
    sources.load().unwrap_or_else(|faults| panic!("{}:\n{faults}", file.display()))
}

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

#[test]
fn the_full_file_is_valid() {
    load(&conf("elida.yaml"), &[]);
}

#[test]
fn redis() {
    let config = load(&conf("examples/redis.yaml"), &[]);
    assert_eq!(config.session.redis().unwrap().shown(), "redis://localhost:6379/0");
    let config =
        load(&conf("examples/redis.yaml"), &[("REDIS_URL", "rediss://user:secret@redis.internal/2")]);
    assert_eq!(config.session.redis().unwrap().shown(), "rediss://user:***@redis.internal/2");
}

#[test]
fn every_example_is_valid_and_tested_here() {
    let mut names: Vec<String> = std::fs::read_dir(conf("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "cache.yaml",
            "custom-ca.yaml",
            "failover.yaml",
            "forward.yaml",
            "intercept.yaml",
            "ollama.yaml",
            "providers.yaml",
            "redis.yaml",
            "teams.yaml",
            "telemetry.yaml",
            "tight-limits.yaml",
            "tls.yaml"
        ]
    );
}

#[test]
fn forward() {
    let config = load(&conf("examples/forward.yaml"), &[]);
    assert!(config.forward.is_on() && !config.forward.requires_auth());
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}

#[test]
fn intercept() {
    let config = load(&conf("examples/intercept.yaml"), &[]);
    assert_eq!(config.forward.intercept().hosts(), ["api.anthropic.com"]);
    assert!(config.forward.requires_auth());
}

#[test]
fn teams() {
    let config = load(&conf("examples/teams.yaml"), &[("ANTHROPIC_API_KEY", "sk-house")]);
    assert_eq!(config.backends[0].name().as_str(), "anthropic");
}

#[test]
fn ollama() {
    let config = load(&conf("examples/ollama.yaml"), &[]);
    assert_eq!(config.backends[0].url(), "http://localhost:11434");
}

#[test]
fn providers() {
    let config = load(&conf("examples/providers.yaml"), &[]);
    let backend = |header, path: &str, model| {
        let decision = config.routing.decide(header, path, model).unwrap();
        let backend = config.backends[decision.backend].name().as_str();
        let forwarded = elida::routing::forwarded("", path.as_bytes(), decision.strip);
        (backend.to_owned(), String::from_utf8(forwarded.into_owned()).unwrap())
    };
    let expect = |name: &str, path: &str| (name.to_owned(), path.to_owned());
    let chat = "/v1/chat/completions";
    assert_eq!(backend(Some("mistral"), chat, Some("gpt-5")), expect("mistral", chat));
    assert_eq!(backend(None, "/v1/messages", Some("claude-sonnet-4-6")), expect("anthropic", "/v1/messages"));
    let prefixed = backend(None, "/anthropic/v1/messages", Some("claude-sonnet-4-6"));
    assert_eq!(prefixed, expect("anthropic", "/v1/messages"));
    assert_eq!(backend(None, "/openai/v1/models", None), expect("openai", "/v1/models"));
    assert_eq!(backend(None, "/api/chat", Some("llama3.2")), expect("ollama", "/api/chat"));
    assert!(config.routing.decide(Some("openai"), chat, Some("gpt-3.5-turbo")).is_err());
}

#[test]
fn custom_ca() {
    let ca = tempfile::NamedTempFile::new().unwrap();
    let issued = rcgen::generate_simple_self_signed(["models.house.example".to_owned()]).unwrap();
    std::fs::write(ca.path(), issued.cert.pem()).unwrap();
    let ca_file = ca.path().display().to_string();
    let config = load(&conf("examples/custom-ca.yaml"), &[("MODEL_CA", &ca_file)]);
    let tls = config.backends[0].tls().unwrap();
    assert_eq!(tls.server_name, "models.house.example");
    assert_eq!(tls.ca_pem.as_deref(), Some(issued.cert.pem().as_bytes()));
    assert_eq!(config.printable()["backends"]["house"]["tls"]["ca_file"], "${env:MODEL_CA}");
}

#[test]
fn tls() {
    let folder = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), issued.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), issued.signing_key.serialize_pem()).unwrap();
    let config = load(&conf("examples/tls.yaml"), &[("TLS_FOLDER", &folder.path().display().to_string())]);
    assert!(config.server.tls().unwrap().check_dates(std::time::SystemTime::now()).is_ok());
    assert_eq!(config.printable()["server"]["tls"]["key"], "${env:TLS_FOLDER}/tls.key");
}

#[test]
fn failover() {
    let keys = [("ANTHROPIC_KEY", "sk-ant-first"), ("SPARE_KEY", "sk-ant-second")];
    let config = load(&conf("examples/failover.yaml"), &keys);
    let route = |model: &str| {
        let decision = config.routing.decide(None, "/v1/chat/completions", Some(model)).unwrap();
        let mut names = vec![config.backends[decision.backend].name().to_string()];
        names.extend(decision.others.iter().map(|other| config.backends[other.backend].name().to_string()));
        (names, decision.served_as.map(|name| name.to_string()))
    };
    assert_eq!(route("claude-sonnet-4-6"), (vec!["anthropic".into(), "spare".into()], None));
    assert_eq!(route("qwen3-coder"), (vec!["gpu-1".into(), "gpu-2".into()], None));
    assert_eq!(route("gpt-5"), (vec!["gpu-1".into(), "gpu-2".into()], Some("qwen3-coder".into())));
    assert!(config.warnings().iter().all(|warning| warning.path == "data_dir"), "{:?}", config.warnings());
    let shown = config.printable().to_string() + &format!("{config:?}");
    assert!(shown.contains("${env:SPARE_KEY}") && !shown.contains("sk-ant"), "{shown}");
}

#[test]
fn telemetry() {
    let config = load(&conf("examples/telemetry.yaml"), &[]);
    assert!(config.telemetry.enabled());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318")];
    let elsewhere = load(&conf("examples/telemetry.yaml"), &variables);
    assert_ne!(config.telemetry, elsewhere.telemetry);
    assert_eq!(elsewhere.printable()["telemetry"]["endpoint"], "http://otel:4318");
}

#[test]
fn tight_limits() {
    let token = [("ELIDA_CONTROL_TOKEN", "0123456789abcdef0123456789abcdef")];
    let config = load(&conf("examples/tight-limits.yaml"), &token);
    assert_eq!(config.server.limits().max_body, 64 << 10);
    assert!(config.routing.decide(None, "/anthropic/v1/messages", Some("llama3.2")).is_err());
    assert!(config.control.token().is_some());
    let open =
        Sources::new(Some(conf("examples/tight-limits.yaml")), Environment::default(), Flags::default());
    let faults = open.load().unwrap_err().to_string();
    assert!(faults.contains("there is no token"), "{faults}");
}
