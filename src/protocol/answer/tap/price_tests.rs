//! Tests of what an answer says that decides its price: the service tier and the searches.

use super::*;

/// The service tier and the number of searches of an answer, fed whole and in pieces of seven bytes.
fn read(dialect: Dialect, framing: Framing, body: &str) -> (Option<String>, Option<u64>) {
    let of = |size: usize| {
        let mut tap = ResponseTap::new(dialect, framing);
        body.as_bytes().chunks(size).for_each(|chunk| tap.feed(chunk));
        tap.end();
        (tap.service_tier().map(str::to_owned), tap.usage().map(|usage| usage.web_search_requests))
    };
    let (whole, pieces) = (of(body.len()), of(7));
    assert_eq!(whole, pieces, "{body}");
    whole
}

fn events(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

fn tier(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn the_service_tier_is_that_of_the_answer() {
    let chat = r#"{"model":"m","choices":[],"service_tier":"flex","usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    assert_eq!(read(Dialect::OPENAI_CHAT, Framing::Json, chat), (tier("flex"), Some(0)));
    let chunk = r#"{"model":"m","service_tier":"priority","choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    assert_eq!(
        read(Dialect::OPENAI_CHAT, Framing::Sse, &events(&[chunk, "[DONE]"])),
        (tier("priority"), None)
    );
    // What was asked for is in the first event, what was served in the last one.
    let stream = events(&[
        r#"{"type":"response.created","response":{"service_tier":"priority","status":"in_progress"}}"#,
        r#"{"type":"response.completed","response":{"service_tier":"default","status":"completed","usage":{"input_tokens":1,"output_tokens":1}}}"#,
    ]);
    assert_eq!(read(Dialect::OPENAI_RESPONSES, Framing::Sse, &stream), (None, Some(0)));
    let stream = events(&[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"service_tier":"standard","speed":"fast"}}}"#,
        r#"{"type":"message_delta","usage":{"output_tokens":1,"server_tool_use":{"web_search_requests":2}}}"#,
        r#"{"type":"message_stop"}"#,
    ]);
    assert_eq!(read(Dialect::ANTHROPIC, Framing::Sse, &stream), (tier("fast"), Some(2)));
    let whole = r#"{"usage":{"input_tokens":1,"service_tier":"batch","speed":"standard"}}"#;
    assert_eq!(read(Dialect::ANTHROPIC, Framing::Json, whole), (tier("batch"), Some(0)));
    for (word, name) in [("ON_DEMAND_FLEX", tier("FLEX")), ("ON_DEMAND", None)] {
        let whole = format!(r#"{{"usageMetadata":{{"promptTokenCount":1,"trafficType":"{word}"}}}}"#);
        assert_eq!(read(Dialect::GEMINI, Framing::Json, &whole), (name, Some(0)));
    }
}

#[test]
fn searches_are_counted_once_however_often_they_are_told() {
    let output = r#"[{"type":"web_search_call","action":{"type":"search","query":"a"}},{"type":"web_search_call","action":{"type":"open_page","url":"b"}},{"type":"web_search_call","action":{"type":"search","query":"c"}},{"type":"file_search_call"}]"#;
    let whole = format!(r#"{{"output":{output},"usage":{{"input_tokens":1,"output_tokens":1}}}}"#);
    assert_eq!(read(Dialect::OPENAI_RESPONSES, Framing::Json, &whole), (None, Some(2)));
    let stream = events(&[
        r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"web_search_call","action":{"type":"search"}}}"#,
        &format!(
            r#"{{"type":"response.completed","response":{{"output":{output},"usage":{{"input_tokens":1}}}}}}"#
        ),
    ]);
    assert_eq!(read(Dialect::OPENAI_RESPONSES, Framing::Sse, &stream), (None, Some(2)));
    let grounded = r#"{"candidates":[{"groundingMetadata":{"webSearchQueries":["a","b","c"]}}],"usageMetadata":{"promptTokenCount":1}}"#;
    let stream = events(&[grounded, grounded]);
    assert_eq!(
        read(Dialect::GEMINI, Framing::Sse, &stream),
        (None, Some(3)),
        "an event repeats the last one's"
    );
    assert_eq!(read(Dialect::GEMINI, Framing::Json, grounded), (None, Some(3)));
}
