//! The head of a request: principal, program and session, whatever the fields hold. What comes out can
//! stand in a log line and is bounded; the same head gives the same result.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use elida::identity::client::Client;
use elida::identity::settings::{IdentityConfig, Settings};
use elida::identity::Key;
use elida::settings::fault::Faults;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

static CHAIN: LazyLock<Settings> =
    LazyLock::new(|| IdentityConfig::default().compile(&mut Faults::default()).expect("the defaults"));
static KEY: LazyLock<Key> = LazyLock::new(Key::ephemeral);

/// Names that mean something, so that the fuzzer need not guess them.
const NAMES: [&str; 16] = [
    "x-session-id",
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
    "x-claude-code-parent-agent-id",
    "session-id",
    "thread-id",
    "session_id",
    "mcp-session-id",
    "x-my-session-id",
    "baggage",
    "authorization",
    "x-api-key",
    "api-key",
    "user-agent",
    "originator",
    "x-goog-api-key",
];

fn printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fuzz_target!(|fields: Vec<(u8, &[u8])>| {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().take(64) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]), value);
        }
    }
    let address: IpAddr = [192, 0, 2, 1].into();
    let principal = KEY.principal(&headers, None, address);
    assert_eq!(principal, KEY.principal(&headers, None, address));
    if let Ok(principal) = principal {
        assert!(printable(principal.id.as_str()) && principal.id.as_str().len() <= 64);
    }
    let client = Client::recognise(&headers);
    assert!(client.name.as_deref().is_none_or(|name| name.len() <= 64 && printable(name)));
    assert!(client.version.as_deref().is_none_or(|version| version.len() <= 64 && printable(version)));
    let Ok(found) = CHAIN.by_header(&headers) else { return };
    assert_eq!(CHAIN.by_header(&headers).ok(), Some(found.clone()));
    if let Some(found) = found {
        assert!(printable(found.id.as_str()) && !found.id.as_str().is_empty() && found.id.as_str().len() <= 256);
    }
    let text = fields.first().and_then(|(_, value)| std::str::from_utf8(value).ok());
    for index in 0..CHAIN.body_paths().len() {
        if let Some(found) = CHAIN.by_body(&|asked| (asked == index).then_some(text).flatten()) {
            assert!(printable(found.id.as_str()) && found.id.as_str().len() <= 256);
        }
    }
});
