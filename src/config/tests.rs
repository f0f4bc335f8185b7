//! Whole files: precedence, every fault at once, what is shown.

use proptest::prelude::*;

use super::config_file::ConfigFile;
use super::*;
use crate::settings::fault::Faults;

const NO_VARIABLES: [(&str, &str); 0] = [];

fn load<const N: usize>(text: &str, variables: [(&str, &str); N]) -> Result<Config, String> {
    let sources = Sources::new(None, variables.into_iter().collect(), Flags::default());
    sources.load_text(text).map_err(|faults| faults.to_string())
}

fn config(text: &str) -> Config {
    load(text, NO_VARIABLES).unwrap()
}

fn faults(text: &str) -> String {
    load(text, NO_VARIABLES).unwrap_err()
}

const TWO: &str = "\
backends:
  local: { url: \"http://localhost:11434\", type: ollama }
  cloud: { url: \"https://api.openai.com\", type: openai, models: [\"gpt-*\"] }
";

#[test]
fn no_file_at_all_is_a_valid_configuration() {
    let config = config("");
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.control.listen().to_string(), "127.0.0.1:9090");
    assert_eq!(config.backends.len(), 1);
    assert_eq!(config.backends[0].name().as_str(), "default");
    assert_eq!(config.backends[0].url(), "http://localhost:11434");
    assert_eq!(config.backends[0].kind().name(), "ollama");
    assert_eq!(config.routing.decide(None, "/", None).unwrap().backend, 0);
}

#[test]
fn every_fault_is_found_at_once_with_its_line_and_a_remedy() {
    let text = "\
version: 2
lisen: ':8080'
listen: 8080
server:
  threads: many
  timeouts: { read: 30, write: 0s }
  limits:
    max_body: lots
backends:
  openai:
    url: api.openai.com
    type: opnai
  local:
    type: ollama
routing:
  methods: [header, rule, model, rules]
  blocked_models: ['gpt-[']
  default_backend: opnai
session:
  idle_timout: 5m
  id_patern: x
  identity:
    - { source: hedder, name: x }
    - { source: header }
    - { source: header, name: x, nam: y }
logging:
  level: loud
";
    let expected = "\
line 1: version: version 2 is not known (write version: 1)
line 2: lisen: unknown key 'lisen' (did you mean listen?)
line 3: listen: the number 8080 does not fit (write a text, in quotes if need be)
line 5: server.threads: 'many' does not fit (write a whole number)
line 6: server.timeouts.read: the number 30 does not fit \
(write a length of time with its unit, like 300ms, 30s, 5m or 24h)
line 6: server.timeouts.write: zero would cut every request \
(write a time such as 30s; a silent peer must go away at some time)
line 8: server.limits.max_body: 'lots' does not fit (write a number of bytes, like 8192, 16KiB or 10MB)
line 11: backends.openai.url: 'api.openai.com' is not an http:// or https:// URL \
(write it like http://localhost:11434 or https://api.openai.com)
line 12: backends.openai.type: 'opnai' is not known here (did you mean openai?)
line 13: backends.local: 'url' is missing (add url:)
line 16: routing.methods[3]: 'rules' is not known here (did you mean rule?)
line 17: routing.blocked_models[0]: 'gpt-[' is not a pattern: unclosed character class; missing ']' \
(use * for any text, ? for one character, [a-z] for a set, {a,b} for a choice)
line 18: routing.default_backend: no backend is called 'opnai' (did you mean openai?)
line 20: session.idle_timout: unknown key 'idle_timout' (did you mean idle_timeout?)
line 21: session.id_patern: unknown key 'id_patern' (did you mean id_pattern?)
line 23: session.identity[0].source: 'hedder' is not known here (did you mean header?)
line 24: session.identity[1]: 'name' is missing (add name:)
line 25: session.identity[2].nam: unknown key 'nam' (did you mean name?)
line 27: logging.level: 'loud' is not known here (known are debug, info, warn, error)";
    assert_eq!(faults(text), expected);
}

#[test]
fn faults_of_routing_rules_name_the_place_and_the_remedy() {
    let text = "\
backends: { a: { url: 'http://x', type: http }, cache: { url: 'http://y', type: http } }
routing:
  rules:
    - { forward: { backend: a } }
    - { match: {}, forward: { backend: a } }
    - { match: { host: x }, forward: {} }
    - { match: { host: x }, forward: { backend: a, target: 'http://z' } }
    - { match: { host: x }, forward: { target: 'z:80' } }
    - { match: { host: x }, forward: { target: 'http://z', strip_prefix: files/ } }
    - { match: { headers: { authorization: x } }, forward: { backend: a } }
    - { match: { method: [get] }, forward: { backend: a } }
";
    let expected = "\
line 1: backends.cache: 'cache' is reserved \
(choose another name: in the log and the metrics it stands for answers from the cache)
line 4: routing.rules[0]: the rule has no condition (write match, when or both)
line 5: routing.rules[1].match: the match is empty (write host, path, method or headers)
line 6: routing.rules[2].forward: it names neither a backend nor a target \
(write backend with the name of one, or target with a URL)
line 7: routing.rules[3].forward: it names both a backend and a target (write one of the two)
line 8: routing.rules[4].forward.target: this is not an http:// or https:// URL \
(write it like http://files.internal:8080, without user, query and fragment)
line 9: routing.rules[5].forward.strip_prefix: 'files/' is not the beginning of a path (write it like /files)
line 10: routing.rules[6].match: the field authorization may carry a credential (use principal.id for the caller)
line 11: routing.rules[7].match.method[0]: 'get' is not a method (write it like GET or POST)";
    assert_eq!(faults(text), expected);
}

#[test]
fn sections_without_keys_mean_their_defaults() {
    let config =
        config("server:\n  timeouts:\nbackends:\nrouting:\n  blocked_models:\nsession:\n  header:\n");
    assert_eq!(config.server.limits().max_uri, 8192);
    assert_eq!(faults("sesion:\n"), "line 1: sesion: unknown key 'sesion' (did you mean session?)");
}

#[test]
fn later_sources_win() {
    let text = "listen: 127.0.0.1:1\nlogging: { level: error }\n";
    assert_eq!(config(text).listen.port(), 1);
    let port = |variables: &[(&str, &str)], flag: Option<&str>| {
        let flags = Flags { listen: flag.map(String::from), ..Flags::default() };
        let environment = variables.iter().copied().collect();
        Sources::new(None, environment, flags).load_text(text).unwrap().listen.port()
    };
    let mut variables = vec![("PROXY_PORT", "2")];
    assert_eq!(port(&variables, None), 2);
    variables.push(("ELIDA__LISTEN", "127.0.0.1:3"));
    assert_eq!(port(&variables, None), 3);
    variables.push(("ELIDA_LISTEN", "127.0.0.1:4"));
    assert_eq!(port(&variables, None), 4);
    assert_eq!(port(&variables, Some("127.0.0.1:5")), 5);
    assert_eq!(port(&[("ELIDA_LISTEN", "")], None), 1, "an empty variable is not set");
    assert_eq!(port(&[("PROXY_HOST", "127.0.0.1")], None), 1, "a host alone is no address");
    assert_eq!(port(&[("PROXY_HOST", "::1"), ("PROXY_PORT", "6")], None), 6);
    let environment = [("PROXY_HOST", "::1"), ("PROXY_PORT", "6")].into_iter().collect();
    let both = Sources::new(None, environment, Flags::default()).load_text(text).unwrap();
    assert_eq!(both.listen.to_string(), "[::1]:6");
}

#[test]
fn variables_reach_every_key() {
    let config = load(
        TWO,
        [
            ("ELIDA_CONTROL_LISTEN", "127.0.0.1:7"),
            ("ELIDA_LOG_LEVEL", "DEBUG"),
            ("ELIDA_LOG_FORMAT", "text"),
            ("ELIDA_DATA_DIR", "/data/elida"),
            ("ELIDA_SESSION_IDLE_TIMEOUT", "5m"),
            ("ELIDA__SERVER__THREADS", "3"),
            ("ELIDA__SERVER__LIMITS__MAX_BODY", "1MiB"),
            ("ELIDA__ROUTING__METHODS", "[path, default]"),
            ("ELIDA__SESSION__HEADER", "123"),
            ("ELIDA__BACKENDS__CLOUD__URL", "https://proxy.example/openai"),
            ("ELIDA_PORT", "tcp://10.0.0.1:8080"),
            ("DEFAULT_BACKEND", "cloud"),
        ],
    )
    .unwrap();
    assert_eq!(config.control.listen().port(), 7);
    assert_eq!(config.logging.level().name(), "debug");
    assert_eq!(config.data_dir.to_str(), Some("/data/elida"));
    assert_eq!(config.server.threads(), 3);
    assert_eq!(config.server.limits().max_body, 1 << 20);
    assert_eq!(config.backends[1].base_path(), "/openai");
    assert_eq!(config.routing.decide(None, "/", None).unwrap().backend, 1);
    let shown = config.printable();
    assert_eq!(shown["session"]["header"], "123");
    assert_eq!(shown["session"]["idle_timeout"], "5m");
    assert_eq!(shown["routing"]["methods"], serde_json::json!(["path", "default"]));
}

#[test]
fn names_that_other_programs_use_as_well_are_read() {
    fn of<const N: usize>(variables: [(&str, &str); N]) -> serde_json::Value {
        load("", variables).unwrap().printable()
    }
    assert_eq!(of([("LOG_LEVEL", "debug")])["logging"]["level"], "debug");
    assert_eq!(of([("LOG_FORMAT", "text")])["logging"]["format"], "text");
    assert_eq!(of([("DEFAULT_BACKEND", "http://localhost:8000")])["backend"], "http://localhost:8000");
    assert_eq!(
        of([("REDIS_URL", "redis://cache:6379/2")])["session"]["redis"]["url"],
        "redis://cache:6379/2"
    );
    let own = of([("LOG_LEVEL", "debug"), ("ELIDA_LOG_LEVEL", "warn")]);
    assert_eq!(own["logging"]["level"], "warn", "a name of our own goes first");
}

#[test]
fn faults_of_variables_and_flags_name_them() {
    let found = load(
        "listen: 127.0.0.1:1",
        [
            ("ELIDA__SERVER__TREADS", "3"),
            ("ELIDA__SERVER__THREADS", "[1]"),
            ("ELIDA_LISTEN", "here"),
            ("LOG_LEVEL", "loud"),
        ],
    );
    assert_eq!(
        found.unwrap_err(),
        "logging.level: 'loud' is not known here; set by LOG_LEVEL (known are debug, info, warn, error)\n\
         server.threads: a list does not fit; set by ELIDA__SERVER__THREADS (write a whole number)\n\
         ELIDA__SERVER__TREADS: unknown key 'server.treads' (did you mean threads?)\n\
         listen: 'here' is not an address to listen on; set by ELIDA_LISTEN \
         (write IP:PORT such as 127.0.0.1:8080, or :8080 for every address)"
    );
    let found = load("", [("ELIDA__SERVER", "{threads: 1, limits: x}"), ("ELIDA__SERVER__THREADS", "y")]);
    assert_eq!(
        found.unwrap_err(),
        "server.threads: 'y' does not fit; set by ELIDA__SERVER__THREADS (write a whole number)\n\
         server.limits: 'x' does not fit; set by ELIDA__SERVER (write a section of keys)"
    );
    let flags = Flags { backend: Some("http://x".into()), ..Flags::default() };
    let found = Sources::new(None, Environment::default(), flags).load_text(TWO).unwrap_err();
    assert_eq!(
        found.to_string(),
        "backend: it is used only without backends, but backends are configured; set by --backend \
         (leave it out, or remove backends)"
    );
}

#[test]
fn references_are_expanded_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "http://hidden.example\n").unwrap();
    let text = format!("backend: '${{file:{}}}'\nsession: {{ header: 'X-${{env:NAME}}' }}", file.display());
    let config = load(&text, [("NAME", "Run")]).unwrap();
    assert_eq!(config.backends[0].host(), "hidden.example");
    let shown = config.printable();
    assert_eq!(shown["session"]["header"], "X-${env:NAME}");
    assert!(!shown.to_string().contains("hidden"), "{shown}");

    let found = load("listen: '${env:ADDRESS}'", [("ADDRESS", "s3cret")]).unwrap_err();
    assert_eq!(
        found,
        "line 1: listen: '${env:ADDRESS}' is not an address to listen on \
         (write IP:PORT such as 127.0.0.1:8080, or :8080 for every address)"
    );
    let text = "\
listen: '${env:NOWHERE}'
backend: '${file:/nowhere}'
data_dir: '${HOME}'
session: { header: 'X-${env:Y' }
routing: { header: 'a${1,2}$b' }
";
    assert_eq!(
        faults(text),
        "line 1: listen: the variable NOWHERE is not set (set NOWHERE)\n\
         line 2: backend: '/nowhere' cannot be read: No such file or directory (os error 2) \
         (check the path and its permissions)\n\
         line 3: data_dir: '${HOME}' is not a known reference (write ${env:HOME} or ${file:/path})\n\
         line 4: session.header: '${env:Y' is not closed (write } at its end)\n\
         line 5: routing.header: 'a${1,2}$b' is not a header name (use letters, digits and -)"
    );
}

#[test]
fn the_control_token_comes_from_the_environment_and_is_masked() {
    let token = "0123456789abcdef0123";
    let config = load("control: { listen: ':9090' }", [("ELIDA_CONTROL_TOKEN", token)]).unwrap();
    assert_eq!(config.control.token().unwrap().reveal(), token);
    assert_eq!(config.printable()["control"]["auth"]["token"], "***");
    assert!(!format!("{config:?}{}", config.printable()).contains(token));
    let both = [("ELIDA_CONTROL_TOKEN", token), ("ELIDA_CONTROL_TOKEN_FILE", "/x")];
    assert_eq!(
        load("", both).unwrap_err(),
        "control.auth: ELIDA_CONTROL_TOKEN and ELIDA_CONTROL_TOKEN_FILE are both set (set one of the two)"
    );
}

#[test]
fn text_that_is_no_configuration_is_refused_with_its_line() {
    assert_eq!(
        faults("- a\n- b\n"),
        "line 1: the file is not a list of keys and values (write keys such as listen: 0.0.0.0:8080)"
    );
    assert!(faults("listen: [\n").starts_with("line 2: this is not YAML: "), "{}", faults("listen: [\n"));
    assert!(faults("backend: ollama").starts_with("line 1: backend: 'ollama' is not an http://"));
    assert_eq!(
        faults("listen: ':1'\nserver:\n  threads: 1\n  threads: 2\n"),
        "line 4: server.threads: is set twice, first on line 3 (remove one of the two)"
    );
    assert_eq!(
        faults("server:\n  8080: x\n"),
        "line 1: server: a key here is not a string (put the key in quotes if it is intended)"
    );
}

#[test]
fn one_unreadable_section_hides_no_fault_of_another() {
    let text = "\
listen: nowhere
backends:
  a: { url: http://h, type: http
server:
  threads: many
routing: { default_backend: a }
data_dir: ''
";
    let found = faults(text);
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 4, "{found}");
    assert!(lines[0].starts_with("line 1: listen: 'nowhere' is not an address"), "{found}");
    assert!(lines[1].contains("this is not YAML: "), "{found}");
    assert!(lines[2].starts_with("line 5: server.threads: 'many' does not fit"), "{found}");
    assert!(lines[3].starts_with("line 7: data_dir: the path is empty"), "{found}");
}

#[test]
fn what_is_allowed_and_rarely_meant_is_warned_of() {
    let text = "\
data_dir: /proc/1/elida
backends:
  a: { url: 'https://h', type: http, models: ['x-*', y], tls: { insecure_skip_verify: true } }
  b: { url: 'http://h', type: openai, models: ['X-*'] }
  c: { url: 'http://h', type: http }
routing: { methods: [model], blocked_models: [y] }
session:
  scope: global
  idle_timeout: 2h
  max_duration: 1h
";
    let variables = [("ELIDA_CONTROL_TOKEN", "0123456789abcdef")];
    let config = load(text, variables).unwrap();
    let told: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
    let starts = [
        "line 1: data_dir: nothing can be stored in /proc/1/elida: ",
        "line 3: backends.a.models[1]: 'y' is never used: routing.blocked_models blocks it",
        "line 3: backends.a.tls.insecure_skip_verify: whoever answers",
        "line 4: backends.b.models[0]: 'X-*' is never used: backends.a.models[0] says the same",
        "line 5: backends.c: nothing routes to this backend",
        "line 8: session.scope: global: ",
        "line 9: session.idle_timeout: 2h is longer than max_duration",
        "control.auth: the token in ELIDA_CONTROL_TOKEN is shorter than 32 characters",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told} is not {start}");
    }
    let place = |i: usize| (config.warnings()[i].line, config.warnings()[i].column);
    assert_eq!(place(5), (Some(8), Some(3)));
    let (_folder, data) = data_dir();
    let tidy = load(&data, [("ELIDA_CONTROL_TOKEN", "0123456789abcdef0123456789abcdef")]).unwrap();
    assert_eq!(tidy.warnings(), []);
    let alone = load(&(data + "routing: { methods: [model] }"), NO_VARIABLES).unwrap();
    assert_eq!(alone.warnings()[0].path, "backend");
}

/// A folder in which something can be stored, and the line that names it.
fn data_dir() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("data_dir: {:?}\n", folder.path());
    (folder, line)
}

#[test]
fn old_names_of_keys_mean_the_same() {
    let (_folder, data) = data_dir();
    let health = |keys: &str| {
        let text = format!("{data}backends: {{a: {{url: 'http://h', type: ollama, health: {{{keys}}}}}}}");
        let config = config(&text);
        (config.printable()["backends"]["a"]["health"].clone(), config.warnings().len())
    };
    let (new, none) = health("eject_for: 20s, max_eject: 1m");
    let (old, two) = health("rest: 20s, max_rest: 1m");
    assert_eq!((&old, none, two), (&new, 0, 2));
    assert_eq!((&new["eject_for"], new.get("rest")), (&"20s".into(), None));
}

#[test]
fn stand_ins_that_are_not_asked_with_a_credential_are_warned_of() {
    let (_folder, data) = data_dir();
    let warnings = |keys: &str, other: &str| {
        let text = format!(
            "{data}listen: ':1'\nstartup_guard: warn\nbackends:\n  a: {{ url: 'http://a', type: openai, default: true, {keys} }}\n  \
             b: {{ url: 'http://b', type: openai, {other} }}\n"
        );
        let paths = config(&text).warnings().iter().map(|warning| warning.path.clone()).collect::<Vec<_>>();
        paths.into_iter().filter(|path| !path.contains("auth")).collect::<Vec<_>>()
    };
    assert_eq!(warnings("fallback: b", ""), ["backends.a.fallback"]);
    assert_eq!(warnings("models: ['x-*']", "models: [y, 'X-*']"), ["backends.b.models"]);
    let none = [""; 0];
    assert_eq!(warnings("fallback: b, auth: { realm: r }", "auth: { realm: r }"), none);
    assert_eq!(warnings("fallback: b", "auth: { mode: inject, api_key: k }"), none);
    assert_eq!(warnings("models: [x]", "models: [y]"), none);
}

#[test]
fn a_file_is_read_from_the_flag_or_the_variable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "listen: ':1'\n").unwrap();
    let variables = [("ELIDA_CONFIG", file.path().display().to_string())];
    let sources = Sources::new(None, variables.into_iter().collect(), Flags::default());
    assert_eq!(sources.file(), Some(file.path()));
    assert_eq!(sources.load().unwrap().listen.port(), 1);
    std::fs::write(file.path(), b"# one\nlisten: \xff\n").unwrap();
    let found = sources.load().unwrap_err().to_string();
    assert_eq!(found, "line 2: this is not UTF-8 text (save the file as UTF-8)");
    let missing = Sources::new(Some("/nowhere.yaml".into()), Environment::default(), Flags::default());
    assert_eq!(
        missing.load().unwrap_err().to_string(),
        "/nowhere.yaml cannot be read: No such file or directory (os error 2) \
         (check the path and its permissions)"
    );
}

#[test]
fn a_reload_reports_what_needs_a_restart() {
    let old = config("");
    let new = config(
        "listen: ':1'\ncontrol: { listen: '127.0.0.1:2' }\ndata_dir: /elsewhere\nserver: { threads: 77 }\nhistory: { enabled: false, legs: all }\ntelemetry: { enabled: true }",
    );
    assert_eq!(
        changed_restart_keys(&old, &new),
        [
            "listen",
            "control.listen",
            "server.threads",
            "data_dir",
            "history.file",
            "history.legs",
            "telemetry"
        ]
    );
    let live = config(&format!("logging: {{ level: debug }}\n{TWO}"));
    assert_eq!(changed_restart_keys(&old, &live), [""; 0]);
}

/// The file that is shipped, and the same with its examples (lines that begin with `#:`) in force.
fn shipped() -> (String, String) {
    let text = include_str!("../../conf/elida.yaml").to_owned();
    let examples = text.lines().map(|line| match line.split_once("#:") {
        Some((before, example)) if before.trim().is_empty() => format!("{before}{example}\n"),
        _ => format!("{line}\n"),
    });
    let with_examples = examples.collect();
    (text, with_examples)
}

fn read(text: &str) -> ConfigFile {
    let mut faults = Faults::default();
    let tree = tree::Tree::new(parse::parse(text, &mut faults).root);
    let written = read::read(&tree, &mut faults).unwrap().0;
    assert!(faults.is_empty(), "{faults}");
    written
}

#[test]
fn the_shipped_file_holds_exactly_the_defaults() {
    let (text, _) = shipped();
    assert_eq!(read(&text), ConfigFile::default());
    config(&text);
}

#[test]
fn the_shipped_file_names_every_key() {
    let (_, with_examples) = shipped();
    // Secrets are read when the file is.
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&secret, format!("whsec_{}=\n", "A".repeat(43))).unwrap();
    let with_examples = with_examples.replace("/run/secrets/webhook", secret.path().to_str().unwrap());
    config(&with_examples);
    let written = read(&with_examples);
    let effective = serde_yaml::to_value(&written).unwrap();
    let mut missing = Vec::new();
    keys("", &effective, &mut |path| {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent).to_owned();
        let place = lines::place_of(&with_examples, &path);
        if place.is_none() || (!parent.is_empty() && place == lines::place_of(&with_examples, &parent)) {
            missing.push(path);
        }
    });
    // An example of one backend shows the keys of all.
    let shown = |path: &String| path.starts_with("backends.") && !path.starts_with("backends.custom");
    missing.retain(|path| !shown(path));
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_page_about_configuration_tells_every_key_and_its_default() {
    let page = include_str!("../../docs/configuration.md");
    let mut missing = Vec::new();
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let one = "{url: 'http://h', type: ollama}";
    let backend = serde_yaml::from_str::<crate::upstream::settings::BackendConfig>(one).unwrap();
    keys("", &serde_yaml::to_value(backend).unwrap(), &mut |path| {
        let row = format!("backends.NAME.{path}");
        if !matches!(path.as_str(), "pool" | "tls") && !rows.contains(&row.as_str()) {
            missing.push(row);
        }
    });
    let defaults = serde_yaml::to_value(ConfigFile::default()).unwrap();
    keys("", &defaults, &mut |path| {
        let value = path.split('.').try_fold(&defaults, |value, key| value.get(key)).unwrap();
        let told = match value {
            serde_yaml::Value::Mapping(_) => return,
            _ if path == "session.identity" => "see `conf/elida.yaml`".to_owned(),
            value => format!("`{}`", shown(value)),
        };
        let row = format!("| `{path}` | {told} |");
        if !page.contains(&row) {
            missing.push(row);
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

fn shown(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::String(text) if text.is_empty() => "\"\"".into(),
        serde_yaml::Value::String(text) => text.clone(),
        serde_yaml::Value::Sequence(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        other => serde_json::to_string(other).unwrap(),
    }
}

fn keys(path: &str, value: &serde_yaml::Value, each: &mut dyn FnMut(String)) {
    let serde_yaml::Value::Mapping(mapping) = value else { return };
    for (key, value) in mapping {
        let mut path = path.to_owned();
        tree::push(&mut path, key.as_str().unwrap());
        keys(&path, value, each);
        each(path);
    }
}

proptest! {
    #[test]
    fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = load(&String::from_utf8_lossy(&bytes), [("A", "b")]);
    }

    #[test]
    fn no_tree_of_known_keys_panics(text in tree_text()) {
        let _ = load(&text, [("ELIDA__SERVER__THREADS", "3"), ("A", "b")]);
    }

    #[test]
    fn no_variable_panics(key in "[A-Z_]{0,20}", value in "\\PC{0,40}") {
        let _ = load(TWO, [(format!("ELIDA__{key}").as_str(), value.as_str())]);
    }
}

/// YAML of known and unknown keys with values of every type in the wrong places.
fn tree_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("server"),
        Just("limits"),
        Just("timeouts"),
        Just("read"),
        Just("session"),
        Just("identity"),
        Just("derive"),
        Just("backends"),
        Just("url"),
        Just("type"),
        Just("tls"),
        Just("routing"),
        Just("methods"),
        Just("version"),
        Just("listen"),
        Just("nonsense"),
        Just("a.b"),
        Just("\"${env:A}\""),
    ];
    let scalar = prop_oneof![
        Just("1"),
        Just("x"),
        Just("~"),
        Just("true"),
        Just("-1.5"),
        Just("30s"),
        Just("\"${env:A}\"")
    ];
    let leaf = scalar.prop_map(String::from);
    let word = word.boxed();
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let pairs = proptest::collection::vec((word.clone(), inner.clone()), 0..5);
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            pairs.prop_map(|pairs| {
                let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                format!("{{{}}}", pairs.join(", "))
            }),
        ]
    })
}

#[test]
fn bodies_cannot_be_kept_without_a_history() {
    let found = faults("history: { enabled: false }\ncapture: { mode: all }\n");
    assert!(found.contains("capture.mode") && found.contains("history.enabled"), "{found}");
    assert!(!config("history: { enabled: false }").capture.is_on());
    assert!(config("capture: { mode: flagged }").capture.is_on());
}

#[test]
fn an_example_that_was_not_filled_in_and_roles_without_an_admin_are_told() {
    let roles = |role: &str| {
        let text = format!(
            "backend: http://localhost:9\nauth:\n  principals: [{{ id: ops, key_sha256: {} }}]\n  \
             roles: [{{ role: {role}, principals: ['key:ops'] }}]\n",
            "a".repeat(64)
        );
        let config = config(&text);
        config.warnings().iter().map(|fault| fault.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(roles("operator"), ["auth.principals[0].key_sha256", "auth.roles"]);
    assert_eq!(roles("admin"), ["auth.principals[0].key_sha256"]);
}

#[test]
fn faults_behind_an_item_that_was_left_out_keep_their_place() {
    let text = "backend: http://localhost:1\npolicy:\n  rules:\n    - { id: a, on: tool_cal, when: 'true' }\n    \
                - { id: b, on: request, when: 'request.modl == \"x\"' }\n    - id: c\n      on: request\n      \
                match: { any: [ab, { regex: \"(\" }, purple] }\n  score: { block: much }\nocsf: { file: /no/such/dir/x }\n";
    let told = faults(text);
    for part in [
        "line 4: policy.rules[0].on: 'tool_cal' is not known here",
        "line 5: policy.rules[1].when: request.modl is not known",
        "line 8: policy.rules[2].match.any[0]: the phrase 'ab'",
        "line 8: policy.rules[2].match.any[1]: ",
        "policy.score.block: 'much' does not fit (write a number)",
        "ocsf.file: there is no directory '/no/such/dir'",
    ] {
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
}
