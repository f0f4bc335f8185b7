//! Decisions of a table with four providers, and the faults of compiling one.

use super::*;

fn rule(name: &str, models: &[&str], default: bool) -> BackendRule {
    BackendRule {
        name: name.into(),
        kind: BackendKind::OPENAI,
        models: models.iter().map(|&text| text.into()).collect(),
        aliases: BTreeMap::new(),
        rewrite_model: false,
        fallback: String::new(),
        default,
        is_target: false,
    }
}

fn alias(rule: BackendRule, alias: &str, name: &str, rewrite_model: bool) -> BackendRule {
    BackendRule { aliases: [(alias.to_owned(), name.to_owned())].into(), rewrite_model, ..rule }
}

fn fallback(rule: BackendRule, name: &str) -> BackendRule {
    BackendRule { fallback: name.into(), ..rule }
}

/// The names of those that may stand in, with their tiers and the names they know the model by.
fn others(
    backends: &[BackendRule],
    header: Option<&str>,
    model: &str,
) -> Vec<(String, usize, Option<String>)> {
    let decided =
        table(RoutingConfig::default(), backends).decide(header, "/v1/messages", Some(model)).unwrap();
    let name = |choice: Choice| {
        (backends[choice.backend].name.clone(), choice.tier, choice.served_as.map(|name| name.to_string()))
    };
    decided.others.into_iter().map(name).collect()
}

fn other(name: &str, tier: usize) -> (String, usize, Option<String>) {
    (name.into(), tier, None)
}

fn providers() -> Vec<BackendRule> {
    vec![
        rule("ollama", &[], true),
        rule("openai", &["gpt-*", "o[0-9]*"], false),
        rule("anthropic", &["claude-*"], false),
        rule("mistral", &["mistral-*", "codestral-*"], false),
    ]
}

fn table(written: RoutingConfig, backends: &[BackendRule]) -> Table {
    let mut faults = Faults::default();
    let table = Table::compile(written, backends, &mut faults).unwrap();
    assert!(faults.is_empty(), "{faults}");
    table
}

fn faults_of(written: RoutingConfig, backends: &[BackendRule]) -> String {
    let mut faults = Faults::default();
    Table::compile(written, backends, &mut faults);
    faults.to_string()
}

fn decision(backend: usize, via: RouteMethod, strip: usize) -> Result<Decision, RouteError> {
    Ok(Decision { backend, served_as: None, via, strip: 0..strip, is_announced: false, others: Vec::new() })
}

#[test]
fn the_methods_decide_in_the_configured_order() {
    let chat = "/v1/chat/completions";
    let standard = table(RoutingConfig::default(), &providers());
    assert_eq!(standard.decide(Some("mistral"), chat, Some("gpt-5")), decision(3, RouteMethod::Header, 0));
    assert_eq!(standard.decide(None, chat, Some("gpt-5")), decision(1, RouteMethod::Model, 0));
    assert_eq!(standard.decide(None, "/openai/v1/models", None), decision(1, RouteMethod::Path, 7));
    assert_eq!(standard.decide(None, chat, Some("llama3")), decision(0, RouteMethod::Default, 0));
    assert_eq!(standard.decide(None, chat, None), decision(0, RouteMethod::Default, 0));

    let path_first = RoutingConfig {
        methods: vec![RouteMethod::Path, RouteMethod::Model, RouteMethod::Default],
        ..RoutingConfig::default()
    };
    let path_first = table(path_first, &providers());
    assert_eq!(path_first.decide(None, "/mistral/v1", Some("gpt-5")), decision(3, RouteMethod::Path, 8));
    assert_eq!(
        path_first.decide(Some("openai"), chat, None),
        decision(0, RouteMethod::Default, 0),
        "a method that is not listed does nothing"
    );
}

#[test]
fn a_backend_header_that_names_nobody_is_refused() {
    let table = table(RoutingConfig::default(), &providers());
    assert_eq!(table.decide(Some("opnai"), "/", None), Err(RouteError::UnknownBackend("opnai".into())));
    assert_eq!(table.decide(Some("  "), "/", None), decision(0, RouteMethod::Default, 0));
    assert_eq!(table.decide(Some(" openai "), "/", None), decision(1, RouteMethod::Header, 0));
}

#[test]
fn a_path_prefix_matches_a_whole_segment() {
    let table = table(RoutingConfig::default(), &providers());
    assert_eq!(table.decide(None, "/openai", None), decision(1, RouteMethod::Path, 7));
    assert_eq!(table.decide(None, "/openai/", None), decision(1, RouteMethod::Path, 7));
    assert_eq!(table.decide(None, "/openai?x=/y", None), decision(1, RouteMethod::Path, 7));
    assert_eq!(table.decide(None, "/openai2/v1", None), decision(0, RouteMethod::Default, 0));
    assert_eq!(table.decide(None, "/v1/openai/x", None), decision(0, RouteMethod::Default, 0));
    assert_eq!(table.decide(None, "openai/v1", None), decision(0, RouteMethod::Default, 0));
    assert_eq!(table.decide(None, "//openai/v1", None), decision(0, RouteMethod::Default, 0));
    assert_eq!(table.decide(None, "", None), decision(0, RouteMethod::Default, 0));
}

#[test]
fn those_who_serve_the_model_stand_in_nearest_first() {
    let anthropic = BackendRule { kind: BackendKind::ANTHROPIC, ..rule("other-type", &["claude-*"], false) };
    let backends = [
        rule("any", &["*"], true),
        rule("one", &["claude-*"], false),
        rule("two", &["x", "Claude-*"], false),
        anthropic,
        rule("three", &["claude-opus*"], false),
    ];
    let mut faults = Faults::default();
    let table = Table::compile(RoutingConfig::default(), &backends, &mut faults).unwrap();
    assert_eq!(faults.warnings().len(), 1, "only the one of another type is never used: {faults}");
    assert!(faults.warnings()[0].path.starts_with("backends.other-type"));
    let decided = table.decide(None, "/", Some("claude-sonnet")).unwrap();
    assert_eq!((decided.backend, decided.others.len()), (1, 2));
    let names = |decided: Decision| -> Vec<(usize, usize)> {
        decided.others.iter().map(|choice| (choice.backend, choice.tier)).collect()
    };
    assert_eq!(names(decided), [(2, 0), (0, 1)]);
    let opus = table.decide(None, "/", Some("claude-opus-4")).unwrap();
    assert_eq!((opus.backend, names(opus)), (4, vec![(1, 1), (2, 1), (0, 2)]));
    let named = table.decide(Some("one"), "/", Some("claude-opus-4")).unwrap();
    assert_eq!(named.others, [], "who names a backend wants that one");
    assert_eq!(table.decide(None, "/", None).unwrap().others, []);
}

#[test]
fn a_fallback_stands_in_whoever_decided() {
    let local = BackendRule { kind: BackendKind::OLLAMA, ..fallback(rule("local", &[], false), "main") };
    let backends = [
        fallback(rule("main", &["gpt-*"], true), "spare"),
        fallback(rule("spare", &[], false), "local"),
        local,
    ];
    let expected = [other("spare", 1), other("local", 2)];
    assert_eq!(others(&backends, None, "gpt-5"), expected);
    assert_eq!(others(&backends, Some("main"), "gpt-5"), expected);
    assert_eq!(others(&backends, None, "llama"), expected, "also for the default");
    assert_eq!(
        others(&backends, Some("spare"), "gpt-5"),
        [other("local", 1), other("main", 2)],
        "a ring ends"
    );
    assert_eq!(
        faults_of(
            RoutingConfig::default(),
            &[fallback(rule("a", &[], true), "a"), fallback(rule("b", &[], false), "aa")]
        ),
        "backends.a.fallback: a backend cannot stand in for itself (name another one, or leave it out)\n\
         backends.b.fallback: no backend is called 'aa' (known are a, b)"
    );
}

#[test]
fn an_alias_routes_and_is_written_only_when_told_so() {
    let served = |backends: &[BackendRule], header| {
        let decided = table(RoutingConfig::default(), backends).decide(header, "/", Some("gpt-4o")).unwrap();
        (decided.backend, decided.served_as.map(|name| name.to_string()))
    };
    let plain = [rule("main", &["gpt-*"], true), alias(rule("local", &[], false), "GPT-4*", "llama3", false)];
    assert_eq!(served(&plain, None), (1, None), "the alias is the more specific pattern");
    let written =
        [rule("main", &["gpt-*"], true), alias(rule("local", &[], false), "gpt-4*", "llama3", true)];
    assert_eq!(served(&written, None), (1, Some("llama3".into())));
    assert_eq!(served(&written, Some("local")), (1, Some("llama3".into())), "also when it is named");
    assert_eq!(served(&written, Some("main")), (0, None));
    let spare = [
        fallback(rule("main", &["gpt-*"], true), "local"),
        alias(rule("local", &[], false), "gpt-*", "llama3", true),
    ];
    assert_eq!(others(&spare, None, "gpt-4o"), [("local".into(), 0, Some("llama3".into()))]);
    assert_eq!(others(&spare, Some("main"), "gpt-4o"), [("local".into(), 1, Some("llama3".into()))]);
}

#[test]
fn an_alias_is_no_way_around_a_blocked_model() {
    let written = RoutingConfig { blocked_models: vec!["*-preview".into()], ..RoutingConfig::default() };
    let backends = [alias(rule("a", &[], true), "gpt-4o", "secret-preview", true)];
    assert_eq!(
        faults_of(written, &backends),
        "backends.a.aliases.gpt-4o: 'secret-preview' is blocked by routing.blocked_models \
         (name another model, or unblock it)"
    );
    assert!(
        faults_of(RoutingConfig::default(), &[alias(rule("a", &[], true), "x", "", false)])
            .contains("name is empty")
    );
}

#[test]
fn a_prefix_is_removed_only_where_it_names_the_chosen_backend() {
    let standard = table(RoutingConfig::default(), &providers());
    let claude = standard.decide(None, "/anthropic/v1/messages", Some("claude-opus-4-6"));
    assert_eq!(claude, decision(2, RouteMethod::Model, 10));
    let header = standard.decide(Some("mistral"), "/openai/v1/models", None);
    assert_eq!(header, decision(3, RouteMethod::Header, 0), "another backend's own path may begin so");
    let both = standard.decide(Some("openai"), "/openai/v1/models", None);
    assert_eq!(both.map(|both| both.strip), Ok(0..7));
    let model = standard.decide(None, "/openai/deployments/x/chat/completions", Some("claude-opus-4-6"));
    assert_eq!(model, decision(2, RouteMethod::Model, 0));

    let no_path = RoutingConfig {
        methods: vec![RouteMethod::Header, RouteMethod::Default],
        ..RoutingConfig::default()
    };
    assert_eq!(
        table(no_path, &providers()).decide(None, "/openai/v1", None),
        decision(0, RouteMethod::Default, 0)
    );
}

/// A provider that is the default, and MCP servers of these names.
fn with_servers(names: &[&str]) -> Table {
    let server = |name: &&str| BackendRule { kind: BackendKind::MCP, ..rule(name, &[], false) };
    let backends: Vec<_> =
        std::iter::once(rule("openai", &[], true)).chain(names.iter().map(server)).collect();
    table(RoutingConfig::default(), &backends)
}

#[test]
fn discovery_of_an_mcp_server_is_not_for_the_default_provider() {
    let two = with_servers(&["tools", "files"]);
    let found = |path: &str| two.decide(None, path, None).map(|found| (found.backend, found.strip));
    let resource = "/.well-known/oauth-protected-resource".len();
    assert_eq!(found("/.well-known/oauth-protected-resource/files/mcp"), Ok((2, resource..resource + 6)));
    assert_eq!(found("/.well-known/oauth-protected-resource/files"), Ok((2, resource..resource + 6)));
    let server = "/.well-known/oauth-authorization-server".len();
    assert_eq!(found("/.well-known/oauth-authorization-server/tools/mcp?a"), Ok((1, server..server + 6)));
    let openid = "/.well-known/openid-configuration".len();
    assert_eq!(found("/.well-known/openid-configuration/tools"), Ok((1, openid..openid + 6)));
    assert_eq!(found("/tools/mcp/.well-known/openid-configuration"), Ok((1, 0..6)));
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/messages/?session_id=1",
        "/messages?a=b&sessionId=1",
        "/message?sessionId=1",
    ] {
        assert_eq!(found(path), Err(RouteError::UnnamedServer), "{path}");
        let named = two.decide(Some("files"), path, None).map(|found| found.backend);
        assert_eq!(named, Ok(2), "{path}");
        let one = with_servers(&["tools"]).decide(None, path, None).map(|found| found.backend);
        assert_eq!(one, Ok(1), "{path}");
        let none = with_servers(&[]).decide(None, path, None).map(|found| found.backend);
        assert_eq!(none, Ok(0), "{path}");
    }
    for path in [
        "/.well-known/oauth-protected-resources/files",
        "/v1/messages?sessionId=1",
        "/messages",
        "/messages?x=1",
    ] {
        assert_eq!(found(path), Ok((0, 0..0)), "{path}");
    }
}

#[test]
fn an_announced_target_goes_to_its_backend_unless_another_one_is_named() {
    let two = with_servers(&["tools", "files"]);
    let found = two.decide_announced("files", None, "/messages?sessionId=1").unwrap();
    assert!(found.backend == 2 && found.is_announced && found.strip.is_empty());
    assert_eq!(two.decide_announced("files", Some("tools"), "/messages?sessionId=1"), None);
    assert_eq!(two.decide_announced("files", None, "/tools/messages?sessionId=1"), None);
    assert_eq!(two.decide_announced("gone", None, "/messages?sessionId=1"), None);
}

#[test]
fn strict_models_have_no_default() {
    let strict = table(RoutingConfig { strict_models: true, ..RoutingConfig::default() }, &providers());
    assert_eq!(strict.decide(None, "/v1/chat/completions", Some("llama3")), Err(RouteError::NoRoute));
    assert_eq!(strict.decide(None, "/v1/models", None), decision(0, RouteMethod::Default, 0));
    assert_eq!(strict.decide(None, "/ollama/api/chat", Some("llama3")), decision(0, RouteMethod::Path, 7));
}

#[test]
fn a_blocked_model_is_refused_however_it_comes() {
    let written = RoutingConfig { blocked_models: vec!["gpt-4*".into()], ..RoutingConfig::default() };
    let table = table(written, &providers());
    let blocked = |model: &str| Err(RouteError::BlockedModel(model.into()));
    assert_eq!(table.decide(None, "/v1/chat/completions", Some("gpt-4o")), blocked("gpt-4o"));
    assert_eq!(table.decide(Some("ollama"), "/openai/v1", Some("GPT-4")), blocked("GPT-4"));
    assert_eq!(table.decide(None, "/", Some("gpt-5")), decision(1, RouteMethod::Model, 0));
}

#[test]
fn the_default_is_marked_or_named_or_the_only_one() {
    let default =
        |written: RoutingConfig, backends: &[BackendRule]| table(written, backends).decide(None, "/", None);
    let named = |name: &str| RoutingConfig { default_backend: name.into(), ..RoutingConfig::default() };
    let plain = [rule("a", &[], false), rule("b", &[], false)];
    assert_eq!(default(RoutingConfig::default(), &providers()), decision(0, RouteMethod::Default, 0));
    assert_eq!(default(named("b"), &plain), decision(1, RouteMethod::Default, 0));
    assert_eq!(default(RoutingConfig::default(), &plain[..1]), decision(0, RouteMethod::Default, 0));
    assert_eq!(default(RoutingConfig::default(), &plain), Err(RouteError::NoRoute));
}

#[test]
fn faults_name_the_key_and_the_remedy() {
    let twice = vec![RouteMethod::Path, RouteMethod::Path];
    let written = RoutingConfig { methods: twice, header: "X Backend".into(), ..RoutingConfig::default() };
    let backends = [rule("openai", &[], true), rule("ollama", &[], true)];
    assert_eq!(
        faults_of(written, &backends),
        "routing.methods: 'path' stands twice (name each method once)\n\
         routing.header: 'X Backend' is not a header name (use letters, digits and -)\n\
         backends.ollama.default: 'openai' is the default backend already \
         (leave default: true on one of them)"
    );
    let named = |name: &str| RoutingConfig { default_backend: name.into(), ..RoutingConfig::default() };
    assert_eq!(
        faults_of(named("opnai"), &providers()),
        "routing.default_backend: no backend is called 'opnai' (did you mean openai?)"
    );
    assert_eq!(
        faults_of(named("openai"), &providers()),
        "routing.default_backend: 'openai' is named here, but backends.ollama says default: true \
         (keep one of the two)"
    );
    assert_eq!(
        faults_of(RoutingConfig { methods: vec![], ..RoutingConfig::default() }, &providers()),
        "routing.methods: no method is left, so no request finds a backend \
         (header, rule, model, path and default exist)"
    );
}
