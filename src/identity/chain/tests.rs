//! How sessions are recognised.

use super::*;
use crate::identity::settings::IdentityConfig;
use crate::settings::fault::Faults;

fn chain(yaml: &str) -> Settings {
    let written: IdentityConfig = serde_yaml::from_str(yaml).unwrap();
    let mut faults = Faults::default();
    written.compile(&mut faults).unwrap_or_else(|| panic!("{faults}"))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn by_header(pairs: &[(&'static str, &str)]) -> Option<FoundSession> {
    chain("{}").by_header(&headers(pairs)).unwrap()
}

fn by_body(path: &str, value: &str) -> Option<FoundSession> {
    let chain = chain("{}");
    let at = chain.body_paths().iter().position(|known| known == path).unwrap();
    chain.by_body(&|i| (i == at).then_some(value))
}

fn name(agent: &Option<AgentId>) -> Option<&str> {
    agent.as_ref().map(AgentId::as_str)
}

const UUID: &str = "bd060396-fe08-454b-8ed9-b937c9a41123";

#[test]
fn the_explicit_header_goes_first() {
    let found = by_header(&[("x-claude-code-session-id", "other"), ("x-session-id", UUID)]).unwrap();
    assert_eq!(found.id.as_str(), UUID);
    assert_eq!(&*found.source, "header:x-session-id");
    assert_eq!(found.client, None);
    assert_eq!(by_header(&[("x-session-id", " "), ("content-type", "a")]), None);
}

#[test]
fn two_explicit_ids_are_a_conflict() {
    let both = |a, b| chain("{}").by_header(&headers(&[("x-session-id", a), ("x-session-id", b)]));
    assert!(both("a", "b").is_err());
    assert_eq!(both("a", "a").unwrap().unwrap().id.as_str(), "a");
    assert_eq!(both("", "b").unwrap().unwrap().id.as_str(), "b");
}

#[test]
fn claude_code_tells_its_agents() {
    let sent = [
        ("x-claude-code-session-id", UUID),
        ("x-claude-code-agent-id", "a1"),
        ("x-claude-code-parent-agent-id", "a0"),
    ];
    let found = by_header(&sent).unwrap();
    assert_eq!(found.client.as_deref(), Some("claude-code"));
    assert_eq!((name(&found.agent_id), name(&found.parent_agent_id)), (Some("a1"), Some("a0")));
    let explicit = by_header(&[sent[0], sent[1], ("x-session-id", "mine")]).unwrap();
    assert_eq!((explicit.id.as_str(), name(&explicit.agent_id)), ("mine", Some("a1")));
}

#[test]
fn an_agent_with_the_sessions_id_is_the_main_one() {
    let found = by_header(&[("session-id", UUID), ("thread-id", UUID)]).unwrap();
    assert_eq!(found.agent_id, None);
    let thread = [("session-id", UUID), ("thread-id", "t2"), ("x-codex-parent-thread-id", UUID)];
    let found = by_header(&thread).unwrap();
    assert_eq!((name(&found.agent_id), name(&found.parent_agent_id)), (Some("t2"), None));
    // Also in a session that the caller has named otherwise.
    let explicit =
        |thread| by_header(&[("x-session-id", "mine"), ("session-id", UUID), ("thread-id", thread)]);
    assert_eq!(explicit(UUID).unwrap().agent_id, None);
    assert_eq!(name(&explicit("t2").unwrap().agent_id), Some("t2"));
}

#[test]
fn no_two_agents_become_one() {
    let agent = |id: &str| {
        let sent = [("x-claude-code-session-id", UUID), ("x-claude-code-agent-id", id)];
        by_header(&sent).unwrap().agent_id.map(|agent| agent.to_string())
    };
    assert_eq!(agent("name@team").as_deref(), Some("name@team"));
    assert_eq!((agent(""), agent("  ")), (None, None));
    let long = |last: char| agent(&format!("{}{last}", "x".repeat(MAX_AGENT))).unwrap();
    assert!(long('a').starts_with("h-") && long('a') != long('b'));
    assert_ne!(agent("a b"), agent("ab"));
    let alone = [("x-claude-code-session-id", UUID), ("x-claude-code-parent-agent-id", "a0")];
    assert_eq!(by_header(&alone).unwrap().parent_agent_id, None);
}

#[test]
fn hints_are_tried_in_their_order() {
    let found = by_header(&[("x-some-session-id", "late"), ("session-id", "early")]).unwrap();
    assert_eq!((found.id.as_str(), found.client.as_deref()), ("early", Some("codex")));
    let found = by_header(&[("x-b-session-id", "b"), ("x-a-session-id", "a")]).unwrap();
    assert_eq!((found.id.as_str(), &*found.source), ("a", "header:x-a-session-id"));
    assert_eq!(by_header(&[("x--session-id", "empty middle")]), None);
}

#[test]
fn unsafe_ids_are_hashed() {
    let hashed = |id: &str| by_header(&[("x-session-id", id)]).unwrap().id;
    for id in ["../../etc", "a b", "<script>", "é", &"x".repeat(129)] {
        let safe = hashed(id);
        assert!(safe.as_str().starts_with("h-") && safe.as_str().len() == 34, "{safe}");
        assert_eq!(safe, hashed(id));
    }
    assert_ne!(hashed("a b"), hashed("a  b"));
    assert_eq!(hashed(&"x".repeat(128)).as_str().len(), 128);
    // sha256("a b"), computed elsewhere.
    assert_eq!(hashed("a b").as_str(), "h-c8687a08aa5d6ed2044328fa6a697ab8");
    let loose = chain("id_pattern: '.*'");
    let found = loose.by_header(&headers(&[("x-session-id", "a\tb")])).unwrap().unwrap();
    assert!(found.id.as_str().starts_with("h-"));
}

#[test]
fn claude_code_metadata_is_read_in_three_forms() {
    let json = format!(r#"{{"device_id":"d","account_uuid":"a","session_id":"{UUID}"}}"#);
    let with_account = format!("user_0a1b_account_77aa_session_{UUID}");
    let without_account = format!("user_0a1b_account__session_{UUID}");
    for user_id in [json, with_account, without_account] {
        let found = by_body("metadata.user_id", &user_id).unwrap();
        assert_eq!((found.id.as_str(), found.client.as_deref()), (UUID, Some("claude-code")));
        assert_eq!(&*found.source, "body:metadata.user_id");
    }
    for other in ["alice", "{}", "{", "user_1", "x_session_1", "user_1_session_"] {
        assert_eq!(by_body("metadata.user_id", other), None, "{other}");
    }
}

#[test]
fn bodies_are_read_by_path() {
    assert_eq!(by_body("conversation", "conv_1").unwrap().id.as_str(), "conv_1");
    let found = by_body("conversation.id", "conv_2").unwrap();
    assert_eq!((found.id.as_str(), &*found.source), ("conv_2", "body:conversation"));
    assert_eq!(by_body("prompt_cache_key", "ses_1").unwrap().client, None);
    assert_eq!(by_body("message.contextId", ""), None);
    assert!(!chain("{}").body_paths().contains(&"previous_response_id".to_owned()));
}

#[test]
fn baggage_is_decoded() {
    let found = |line: &str| by_header(&[("baggage", line)]).map(|found| found.id.as_str().to_owned());
    assert_eq!(found("user=1, session.id = abc%3A1;ttl=3 ,x=2").as_deref(), Some("abc:1"));
    assert_eq!(found("session.id="), None);
    assert_eq!(found("mysession.id=1"), None);
    assert!(found("session.id=100%25%zz").unwrap().starts_with("h-"));
    let decoded = |line: &'static str| baggage(&HeaderValue::from_static(line), "k");
    assert_eq!(decoded("k=a%4").as_deref(), Some(&b"a%4"[..]));
    assert_eq!(decoded("k=%e2%82%AC%").as_deref(), Some("€%".as_bytes()));
    assert_eq!(decoded("k=%f%4%41%FF").as_deref(), Some(&b"%f%4A\xff"[..]));
}

#[test]
fn a_derived_id_is_a_fingerprint() {
    let derive = chain("{}");
    let (ada, bob) = (PrincipalId::new("cred:ada"), PrincipalId::new("cred:bob"));
    let home: IpAddr = "10.0.0.5".parse().unwrap();
    let id = |who, agent, backend| derive.fallback(who, home, agent, backend).unwrap();
    let found = id(&ada, Some("curl/8"), None);
    assert!(found.id.as_str().starts_with("auto-"));
    assert_eq!((found.idle_gap, &*found.source), (Some(Duration::from_secs(600)), "derived"));
    assert_eq!(found, id(&ada, Some("curl/8"), None));
    assert_ne!(found, id(&bob, Some("curl/8"), None));
    assert_ne!(id(&ada, Some("a"), Some("b")), id(&ada, Some("ab"), Some("")));
    assert_eq!(
        derive.by_header(&headers(&[("x-session-id", found.id.as_str())])).unwrap().unwrap().id,
        found.id
    );
}

#[test]
fn generates_id_or_refuses_when_told_so() {
    let who = PrincipalId::new("anon:10.0.0.5");
    let home: IpAddr = "10.0.0.5".parse().unwrap();
    let generate = chain("missing: generate");
    let id = || generate.fallback(&who, home, None, None).unwrap();
    assert_ne!(id().id, id().id);
    assert_eq!(Uuid::parse_str(id().id.as_str()).unwrap().get_version_num(), 7);
    assert_eq!(id().idle_gap, None);
    assert_eq!(chain("missing: reject").fallback(&who, home, None, None), None);
}

#[test]
fn a_scope_is_the_principal_or_nothing() {
    let who = PrincipalId::new("cred:ada");
    assert_eq!(chain("{}").scope(&who).as_str(), "cred:ada");
    assert_eq!(chain("scope: global").scope(&who).as_str(), "");
}
