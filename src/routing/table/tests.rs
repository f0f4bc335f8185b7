//! Decisions of a table with four providers, and the faults of compiling one.

use super::*;

fn rule(name: &str, models: &[&str], default: bool) -> BackendRule {
    BackendRule { name: name.into(), models: models.iter().map(|&text| text.into()).collect(), default }
}

fn providers() -> Vec<BackendRule> {
    vec![
        rule("ollama", &[], true),
        rule("openai", &["gpt-*", "o[0-9]*"], false),
        rule("anthropic", &["claude-*"], false),
        rule("mistral", &["mistral-*", "codestral-*"], false),
    ]
}

fn table(written: Written, backends: &[BackendRule]) -> Table {
    let mut faults = Faults::default();
    let table = Table::compile(written, backends, &mut faults).unwrap();
    assert!(faults.is_empty(), "{faults}");
    table
}

fn faults_of(written: Written, backends: &[BackendRule]) -> String {
    let mut faults = Faults::default();
    Table::compile(written, backends, &mut faults);
    faults.to_string()
}

fn decision(backend: usize, via: Method, strip: usize) -> Result<Decision, RouteError> {
    Ok(Decision { backend, via, strip })
}

#[test]
fn the_methods_decide_in_the_configured_order() {
    let chat = "/v1/chat/completions";
    let standard = table(Written::default(), &providers());
    assert_eq!(standard.decide(Some("mistral"), chat, Some("gpt-5")), decision(3, Method::Header, 0));
    assert_eq!(standard.decide(None, chat, Some("gpt-5")), decision(1, Method::Model, 0));
    assert_eq!(standard.decide(None, "/openai/v1/models", None), decision(1, Method::Path, 7));
    assert_eq!(standard.decide(None, chat, Some("llama3")), decision(0, Method::Default, 0));
    assert_eq!(standard.decide(None, chat, None), decision(0, Method::Default, 0));

    let path_first =
        Written { methods: vec![Method::Path, Method::Model, Method::Default], ..Written::default() };
    let path_first = table(path_first, &providers());
    assert_eq!(path_first.decide(None, "/mistral/v1", Some("gpt-5")), decision(3, Method::Path, 8));
    assert_eq!(
        path_first.decide(Some("openai"), chat, None),
        decision(0, Method::Default, 0),
        "a method that is not listed does nothing"
    );
}

#[test]
fn a_backend_header_that_names_nobody_is_refused() {
    let table = table(Written::default(), &providers());
    assert_eq!(table.decide(Some("opnai"), "/", None), Err(RouteError::UnknownBackend("opnai".into())));
    assert_eq!(table.decide(Some("  "), "/", None), decision(0, Method::Default, 0));
    assert_eq!(table.decide(Some(" openai "), "/", None), decision(1, Method::Header, 0));
}

#[test]
fn a_path_prefix_matches_a_whole_segment() {
    let table = table(Written::default(), &providers());
    assert_eq!(table.decide(None, "/openai", None), decision(1, Method::Path, 7));
    assert_eq!(table.decide(None, "/openai/", None), decision(1, Method::Path, 7));
    assert_eq!(table.decide(None, "/openai?x=/y", None), decision(1, Method::Path, 7));
    assert_eq!(table.decide(None, "/openai2/v1", None), decision(0, Method::Default, 0));
    assert_eq!(table.decide(None, "/v1/openai/x", None), decision(0, Method::Default, 0));
    assert_eq!(table.decide(None, "openai/v1", None), decision(0, Method::Default, 0));
    assert_eq!(table.decide(None, "//openai/v1", None), decision(0, Method::Default, 0));
    assert_eq!(table.decide(None, "", None), decision(0, Method::Default, 0));
}

#[test]
fn the_prefix_is_stripped_and_a_slash_is_left() {
    let forwarded = |path: &str| {
        let table = table(Written::default(), &providers());
        table.decide(None, path, None).unwrap().forwarded(path).into_owned()
    };
    assert_eq!(forwarded("/openai/v1/models?limit=2"), "/v1/models?limit=2");
    assert_eq!(forwarded("/openai"), "/");
    assert_eq!(forwarded("/openai/"), "/");
    assert_eq!(forwarded("/openai?x=1"), "/?x=1");
    assert_eq!(forwarded("/openai//x"), "//x");
    assert_eq!(forwarded("/v1/models"), "/v1/models");
}

#[test]
fn the_prefix_is_stripped_whoever_decided() {
    let standard = table(Written::default(), &providers());
    let claude = standard.decide(None, "/anthropic/v1/messages", Some("claude-opus-4-6"));
    assert_eq!(claude, decision(2, Method::Model, 10));
    let header = standard.decide(Some("mistral"), "/openai/v1/models", None);
    assert_eq!(header, decision(3, Method::Header, 7));

    let no_path = Written { methods: vec![Method::Header, Method::Default], ..Written::default() };
    assert_eq!(
        table(no_path, &providers()).decide(None, "/openai/v1", None),
        decision(0, Method::Default, 0)
    );
}

#[test]
fn strict_models_have_no_default() {
    let strict = table(Written { strict_models: true, ..Written::default() }, &providers());
    assert_eq!(strict.decide(None, "/v1/chat/completions", Some("llama3")), Err(RouteError::NoRoute));
    assert_eq!(strict.decide(None, "/v1/models", None), decision(0, Method::Default, 0));
    assert_eq!(strict.decide(None, "/ollama/api/chat", Some("llama3")), decision(0, Method::Path, 7));
}

#[test]
fn a_blocked_model_is_refused_however_it_comes() {
    let written = Written { blocked_models: vec!["gpt-4*".into()], ..Written::default() };
    let table = table(written, &providers());
    let blocked = |model: &str| Err(RouteError::BlockedModel(model.into()));
    assert_eq!(table.decide(None, "/v1/chat/completions", Some("gpt-4o")), blocked("gpt-4o"));
    assert_eq!(table.decide(Some("ollama"), "/openai/v1", Some("GPT-4")), blocked("GPT-4"));
    assert_eq!(table.decide(None, "/", Some("gpt-5")), decision(1, Method::Model, 0));
}

#[test]
fn the_default_is_marked_or_named_or_the_only_one() {
    let default =
        |written: Written, backends: &[BackendRule]| table(written, backends).decide(None, "/", None);
    let named = |name: &str| Written { default_backend: name.into(), ..Written::default() };
    let plain = [rule("a", &[], false), rule("b", &[], false)];
    assert_eq!(default(Written::default(), &providers()), decision(0, Method::Default, 0));
    assert_eq!(default(named("b"), &plain), decision(1, Method::Default, 0));
    assert_eq!(default(Written::default(), &plain[..1]), decision(0, Method::Default, 0));
    assert_eq!(default(Written::default(), &plain), Err(RouteError::NoRoute));
}

#[test]
fn faults_name_the_key_and_the_remedy() {
    let twice = vec![Method::Path, Method::Path];
    let written = Written { methods: twice, header: "X Backend".into(), ..Written::default() };
    let backends = [rule("openai", &[], true), rule("ollama", &[], true)];
    assert_eq!(
        faults_of(written, &backends),
        "routing.methods: 'path' stands twice (name each method once)\n\
         routing.header: 'X Backend' is not a header name (use letters, digits and -)\n\
         backends.ollama.default: 'openai' is the default backend already \
         (leave default: true on one of them)"
    );
    let named = |name: &str| Written { default_backend: name.into(), ..Written::default() };
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
        faults_of(Written { methods: vec![], ..Written::default() }, &providers()),
        "routing.methods: no method is left, so no request finds a backend \
         (header, model, path and default exist)"
    );
}
