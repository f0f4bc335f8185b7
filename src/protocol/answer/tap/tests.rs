//! Tests of the tap: answers of every dialect, whole and streamed, in every chunking.

use proptest::prelude::*;

use super::*;
use crate::protocol::chunks::{cut, sizes};

const ANTHROPIC_STREAM: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":3,"cache_read_input_tokens":40,"output_tokens":1}}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"{\"type\":\"message_stop\"}"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":26,"output_tokens":15}}

event: message_stop
data: {"type":"message_stop"}

"#;

const CHAT_STREAM: &str = r#"data: {"id":"c","object":"chat.completion.chunk","model":"gpt-5-2026","choices":[{"index":0,"delta":{"content":"Hi [DONE]"}}],"usage":null}

data: {"id":"c","object":"chat.completion.chunk","model":"gpt-5-2026","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}

data: [DONE]

"#;

const RESPONSES_STREAM: &str = r#"event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"r","model":"gpt-5-codex","status":"in_progress","usage":null}}

event: response.completed
data: {"type":"response.completed","sequence_number":9,"response":{"id":"r","model":"gpt-5-codex","output":[{"type":"message","usage":{"input_tokens":1}}],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":64},"output_tokens":20,"output_tokens_details":{"reasoning_tokens":8},"total_tokens":120}}}

"#;

const OLLAMA_STREAM: &str = "{\"model\":\"llama3\",\"message\":{\"content\":\"Hi\"},\"done\":false}\n\
    {\"model\":\"llama3\",\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":7,\"eval_count\":31}\n";

const GEMINI_STREAM: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4,\"totalTokenCount\":4},\"modelVersion\":\"gemini-2.5-pro\"}\r\n\r\ndata: {\"candidates\":[{\"finishReason\":\"STOP\",\"usageMetadata\":{\"promptTokenCount\":99}}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":9,\"cachedContentTokenCount\":2,\"thoughtsTokenCount\":31,\"totalTokenCount\":44},\"modelVersion\":\"gemini-2.5-pro\"}\r\n\r\n";

/// All that a tap tells.
type Told = (Option<Usage>, Option<String>, bool, bool);

fn tap(dialect: Dialect, framing: Framing, chunks: &[&[u8]]) -> Told {
    let mut tap = ResponseTap::new(dialect, framing);
    for chunk in chunks {
        tap.feed(chunk);
    }
    tap.end();
    (tap.usage(), tap.model().map(str::to_owned), tap.at_boundary(), tap.is_complete())
}

fn whole(dialect: Dialect, framing: Framing, text: &str) -> Told {
    tap(dialect, framing, &[text.as_bytes()])
}

fn usage(input: u64, output: u64, cache_read: u64, cache_write: u64, reasoning: u64) -> Option<Usage> {
    Some(Usage {
        input_tokens: input,
        output_tokens: output,
        cache_read_tokens: cache_read,
        cache_write_tokens: cache_write,
        reasoning_tokens: reasoning,
        ..Usage::default()
    })
}

fn streams() -> [(Dialect, Framing, &'static str, Option<Usage>, &'static str); 5] {
    [
        (Dialect::ANTHROPIC, Framing::Sse, ANTHROPIC_STREAM, usage(26, 15, 40, 3, 0), "claude-sonnet-4-5"),
        (Dialect::OPENAI_CHAT, Framing::Sse, CHAT_STREAM, usage(5, 12, 4, 0, 5), "gpt-5-2026"),
        (Dialect::MISTRAL, Framing::Sse, CHAT_STREAM, usage(5, 12, 4, 0, 5), "gpt-5-2026"),
        (Dialect::OPENAI_RESPONSES, Framing::Sse, RESPONSES_STREAM, usage(36, 20, 64, 0, 8), "gpt-5-codex"),
        (Dialect::OLLAMA, Framing::Ndjson, OLLAMA_STREAM, usage(7, 31, 0, 0, 0), "llama3"),
    ]
}

#[test]
fn a_count_that_cannot_be_true_is_left_out_and_flagged() {
    let read = |input: &str| {
        let answer = format!(r#"{{"usage":{{"prompt_tokens":{input},"completion_tokens":7}}}}"#);
        let mut tap = ResponseTap::new(Dialect::OPENAI_CHAT, Framing::Json);
        tap.feed(answer.as_bytes());
        (tap.usage().map(|usage| (usage.input_tokens, usage.output_tokens)), tap.has_false_count())
    };
    for (input, count) in [("12", 12), ("12.0", 12), ("1e9", 1_000_000_000), ("1000000000", 1_000_000_000)] {
        assert_eq!(read(input), (Some((count, 7)), false), "{input}");
    }
    for input in ["1000000001", "9223372036854775807", "18446744073709551616", "1e300", "-1", "-0.5"] {
        assert_eq!(read(input), (Some((0, 7)), true), "{input}");
    }
}

#[test]
fn streams_are_read() {
    for (dialect, framing, text, usage, model) in streams() {
        let told = whole(dialect, framing, text);
        assert_eq!(told, (usage, Some(model.to_owned()), true, true), "{dialect:?}");
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(whole(dialect, framing, &crlf), told, "{dialect:?} with CRLF");
    }
}

#[test]
fn whole_answers_are_read() {
    let cases = [
        (
            Dialect::ANTHROPIC,
            r#"{"type":"message","model":"m","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":3,"cache_creation_input_tokens":4,"cache_creation":{"ephemeral_5m_input_tokens":4}}}"#,
            usage(1, 2, 3, 4, 0),
        ),
        (
            Dialect::OPENAI_CHAT,
            r#"{"model":"m","choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":2.0}}"#,
            usage(1, 2, 0, 0, 0),
        ),
        (
            Dialect::OPENAI_OTHER,
            r#"{"object":"list","data":[{"embedding":[0.1,-2e-3]}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            usage(8, 0, 0, 0, 0),
        ),
        (
            Dialect::OPENAI_RESPONSES,
            r#"{"id":"r","model":"m","usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":2},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":4}}}"#,
            usage(1, 5, 2, 0, 4),
        ),
        (
            Dialect::OLLAMA,
            r#"{"model":"m","done":true,"eval_count":2,"prompt_eval_count":1}"#,
            usage(1, 2, 0, 0, 0),
        ),
    ];
    for (dialect, text, usage) in cases {
        assert_eq!(
            whole(dialect, Framing::Json, text),
            (usage, Some("m".to_owned()), false, true),
            "{dialect:?}"
        );
        let cut = &text[..text.len() - 1];
        assert!(!whole(dialect, Framing::Json, cut).3, "{dialect:?} cut short");
    }
}

#[test]
fn gemini_is_read_as_events_as_an_array_and_whole() {
    let expected = usage(2, 40, 2, 0, 31);
    let model = Some("gemini-2.5-pro".to_owned());
    let told = whole(Dialect::GEMINI, Framing::Sse, GEMINI_STREAM);
    assert_eq!((told.0, told.1), (expected, model.clone()));
    let elements: Vec<&str> =
        GEMINI_STREAM.split("data: ").map(str::trim).filter(|text| !text.is_empty()).collect();
    let array = format!("[{}\n]", elements.join("\n,\r\n"));
    for size in 1..array.len() {
        let chunks: Vec<_> = array.as_bytes().chunks(size).collect();
        let told = tap(Dialect::GEMINI, Framing::Json, &chunks);
        assert_eq!((told.0, told.1, told.3), (expected, model.clone(), true), "in chunks of {size}");
    }
    assert!(!whole(Dialect::GEMINI, Framing::Json, &array[..array.len() - 1]).3);
    let told = whole(Dialect::GEMINI, Framing::Json, elements[1]);
    assert_eq!((told.0, told.1, told.3), (expected, model, true));
}

#[test]
fn a_stream_is_complete_only_with_its_last_event() {
    for (dialect, framing, text, ..) in streams() {
        let end = text.trim_end().len();
        for at in 0..=text.len() {
            let complete = tap(dialect, framing, &[&text.as_bytes()[..at]]).3;
            // An event needs its blank line; a last line does not need its line feed.
            let expected = if framing == Framing::Sse { at == text.len() } else { at >= end };
            assert_eq!(complete, expected, "{dialect:?} cut at {at} of {}", text.len());
        }
    }
}

#[test]
fn an_error_event_is_not_an_end() {
    let text = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    for dialect in [Dialect::ANTHROPIC, Dialect::OPENAI_RESPONSES, Dialect::OPENAI_CHAT] {
        assert_eq!(whole(dialect, Framing::Sse, text), (None, None, true, false));
    }
    // Words of another dialect end nothing.
    assert!(!whole(Dialect::ANTHROPIC, Framing::Sse, "data: [DONE]\n\n").3);
    assert!(!whole(Dialect::OPENAI_CHAT, Framing::Sse, "data: {\"type\":\"message_stop\"}\n\n").3);
}

/// The usage of a whole answer.
fn counted(dialect: Dialect, counts: &str) -> Option<Usage> {
    whole(dialect, Framing::Json, &format!("{{{counts}}}")).0
}

#[test]
fn each_token_is_counted_in_one_place_whatever_its_provider_counts_where() {
    let cases = [
        // All of them have read 60 tokens, 30 of the cache, and written 5, and answered with 12 of which 8 are thoughts.
        (
            Dialect::OPENAI_CHAT,
            r#""usage":{"prompt_tokens":95,"completion_tokens":12,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":30,"cache_write_tokens":5},"completion_tokens_details":{"reasoning_tokens":8}}"#,
            usage(60, 12, 30, 5, 8),
        ),
        (
            Dialect::OPENAI_RESPONSES,
            r#""usage":{"input_tokens":95,"output_tokens":12,"total_tokens":107,"input_tokens_details":{"cached_tokens":30,"cache_write_tokens":5},"output_tokens_details":{"reasoning_tokens":8}}"#,
            usage(60, 12, 30, 5, 8),
        ),
        (
            Dialect::ANTHROPIC,
            r#""usage":{"input_tokens":60,"output_tokens":12,"cache_read_input_tokens":30,"cache_creation_input_tokens":5,"output_tokens_details":{"thinking_tokens":8}}"#,
            usage(60, 12, 30, 5, 8),
        ),
        (
            Dialect::GEMINI,
            r#""usageMetadata":{"promptTokenCount":90,"candidatesTokenCount":4,"thoughtsTokenCount":8,"cachedContentTokenCount":30,"totalTokenCount":102}"#,
            usage(60, 12, 30, 0, 8),
        ),
        // Results of tools are input.
        (
            Dialect::GEMINI,
            r#""usageMetadata":{"promptTokenCount":70,"toolUsePromptTokenCount":20,"candidatesTokenCount":4,"thoughtsTokenCount":8,"cachedContentTokenCount":30,"totalTokenCount":102}"#,
            usage(60, 12, 30, 0, 8),
        ),
        // Thoughts that the total shows to be in the candidates are not added, with tools or without.
        (
            Dialect::GEMINI,
            r#""usageMetadata":{"promptTokenCount":90,"candidatesTokenCount":12,"thoughtsTokenCount":8,"cachedContentTokenCount":30,"totalTokenCount":102}"#,
            usage(60, 12, 30, 0, 8),
        ),
        (
            Dialect::GEMINI,
            r#""usageMetadata":{"promptTokenCount":70,"toolUsePromptTokenCount":20,"candidatesTokenCount":12,"thoughtsTokenCount":8,"cachedContentTokenCount":30,"totalTokenCount":102}"#,
            usage(60, 12, 30, 0, 8),
        ),
        // Without a total they are beside the candidates.
        (
            Dialect::GEMINI,
            r#""usageMetadata":{"promptTokenCount":90,"candidatesTokenCount":4,"thoughtsTokenCount":8,"cachedContentTokenCount":30}"#,
            usage(60, 12, 30, 0, 8),
        ),
        // xAI counts reasoning in the total only, and Gemini behind OpenAI's API does not even report it.
        (
            Dialect::OPENAI_CHAT,
            r#""usage":{"prompt_tokens":90,"completion_tokens":4,"total_tokens":102,"prompt_tokens_details":{"cached_tokens":30},"completion_tokens_details":{"reasoning_tokens":8}}"#,
            usage(60, 12, 30, 0, 8),
        ),
        (
            Dialect::OPENAI_CHAT,
            r#""usage":{"prompt_tokens":60,"completion_tokens":4,"total_tokens":72}"#,
            usage(60, 12, 0, 0, 0),
        ),
        // DeepSeek, Mistral and Moonshot have words of their own for what the cache held.
        (
            Dialect::OPENAI_CHAT,
            r#""usage":{"prompt_tokens":90,"completion_tokens":12,"total_tokens":102,"prompt_cache_hit_tokens":30,"prompt_cache_miss_tokens":60}"#,
            usage(60, 12, 30, 0, 0),
        ),
        (
            Dialect::MISTRAL,
            r#""usage":{"prompt_tokens":90,"completion_tokens":12,"total_tokens":102,"num_cached_tokens":30}"#,
            usage(60, 12, 30, 0, 0),
        ),
        (
            Dialect::OPENAI_CHAT,
            r#""choices":[{"index":0,"usage":{"prompt_tokens":90,"completion_tokens":12,"total_tokens":102,"cached_tokens":30}}]"#,
            usage(60, 12, 30, 0, 0),
        ),
        // Embeddings of Voyage have a total only.
        (Dialect::OPENAI_OTHER, r#""usage":{"total_tokens":60}"#, usage(60, 0, 0, 0, 0)),
        // Ollama has neither.
        (Dialect::OLLAMA, r#""prompt_eval_count":60,"eval_count":12"#, usage(60, 12, 0, 0, 0)),
        (
            Dialect::COHERE,
            r#""usage":{"billed_units":{"input_tokens":90,"output_tokens":12},"cached_tokens":30}"#,
            usage(60, 12, 30, 0, 0),
        ),
    ];
    for (dialect, counts, expected) in cases {
        assert_eq!(counted(dialect, counts), expected, "{dialect:?} {counts}");
    }
}

#[test]
fn what_is_kept_for_an_hour_is_a_part_of_what_is_written() {
    for whole in [r#""cache_creation_input_tokens":9,"#, ""] {
        let text = format!(
            r#""usage":{{"input_tokens":1,"output_tokens":1,{whole}"cache_creation":{{"ephemeral_1h_input_tokens":9}}}}"#
        );
        let usage = counted(Dialect::ANTHROPIC, &text).unwrap();
        assert_eq!((usage.cache_write_tokens, usage.cache_write_1h_tokens), (9, 9), "{text}");
    }
}

#[test]
fn no_later_count_takes_a_token_back() {
    let cases = [
        (
            Dialect::ANTHROPIC,
            [
                r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}"#,
                r#"{"type":"message_delta","usage":{"input_tokens":0,"cache_read_input_tokens":0,"output_tokens":7}}"#,
                r#"{"type":"message_stop"}"#,
            ],
            usage(9, 7, 4, 0, 0),
        ),
        (
            Dialect::OPENAI_CHAT,
            [
                r#"{"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
                r#"{"usage":{"prompt_tokens":9,"completion_tokens":7}}"#,
                r#"{"usage":{"prompt_tokens":0,"completion_tokens":0}}"#,
            ],
            usage(9, 7, 0, 0, 0),
        ),
        (
            Dialect::OPENAI_RESPONSES,
            [
                r#"{"response":{"usage":{"input_tokens":9,"output_tokens":7}}}"#,
                r#"{"response":{"usage":{"input_tokens":0,"output_tokens":0}}}"#,
                "{}",
            ],
            usage(9, 7, 0, 0, 0),
        ),
        (
            Dialect::GEMINI,
            [
                r#"{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":7,"totalTokenCount":16}}"#,
                r#"{"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#,
                r#"{"usageMetadata":{"promptTokenCount":0,"candidatesTokenCount":0}}"#,
            ],
            usage(9, 7, 0, 0, 0),
        ),
        (
            Dialect::COHERE,
            [
                r#"{"delta":{"usage":{"billed_units":{"input_tokens":9,"output_tokens":7}}}}"#,
                r#"{"delta":{"usage":{"billed_units":{"input_tokens":0,"output_tokens":0}}}}"#,
                "{}",
            ],
            usage(9, 7, 0, 0, 0),
        ),
    ];
    for (dialect, events, expected) in cases {
        let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        assert_eq!(whole(dialect, Framing::Sse, &stream).0, expected, "{dialect:?}");
    }
    let lines = "{\"prompt_eval_count\":9,\"eval_count\":7}\n{\"prompt_eval_count\":0,\"eval_count\":0}\n";
    assert_eq!(whole(Dialect::OLLAMA, Framing::Ndjson, lines).0, usage(9, 7, 0, 0, 0));
}

/// The error that a tap has read, and whether the answer is cut short.
fn fault(dialect: Dialect, framing: Framing, text: &str) -> (Option<String>, bool) {
    let mut tap = ResponseTap::new(dialect, framing);
    for chunk in text.as_bytes().chunks(7) {
        tap.feed(chunk);
    }
    tap.end();
    (tap.error().map(str::to_owned), tap.is_cut_short())
}

#[test]
fn an_error_inside_an_answer_is_read_in_every_dialect() {
    let sse = |data: &str| format!("data: {{}}\n\ndata: {data}\n\n");
    let cases = [
        (
            Dialect::ANTHROPIC,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            "overloaded_error",
        ),
        (
            Dialect::OPENAI_CHAT,
            r#"{"error":{"message":"no","type":"server_error","param":null,"code":null}}"#,
            "server_error",
        ),
        (
            Dialect::OPENAI_CHAT,
            r#"{"error":{"message":"no","code":502},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#,
            "502",
        ),
        (Dialect::OPENAI_CHAT, r#"{"error":"no"}"#, ""),
        (
            Dialect::OPENAI_CHAT,
            r#"{"object":"error","message":"no","type":"BadRequestError","code":400}"#,
            "",
        ),
        (Dialect::OPENAI_OTHER, r#"{"choices":[{"error":{"code":500,"message":"no"},"text":""}]}"#, "500"),
        (Dialect::MISTRAL, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#, ""),
        (
            Dialect::OPENAI_RESPONSES,
            r#"{"type":"error","code":"server_error","message":"no","param":null}"#,
            "",
        ),
        (
            Dialect::OPENAI_RESPONSES,
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"no"}}}"#,
            "rate_limit_exceeded",
        ),
        (Dialect::GEMINI, r#"{"error":{"code":503,"message":"no","status":"UNAVAILABLE"}}"#, "503"),
        (Dialect::COHERE, r#"{"type":"message-end","delta":{"error":"no","finish_reason":"ERROR"}}"#, ""),
        (
            Dialect::OPENAI_REALTIME,
            r#"{"type":"error","error":{"type":"server_error","code":null}}"#,
            "server_error",
        ),
    ];
    for (dialect, event, word) in cases {
        for (framing, text) in [(Framing::Sse, sse(event)), (Framing::Json, event.to_owned())] {
            assert_eq!(fault(dialect, framing, &text).0.as_deref(), Some(word), "{dialect:?} {text}");
        }
    }
    let lines = "{\"done\":false}\n{\"error\":\"the runner has crashed\"}\n";
    assert_eq!(fault(Dialect::OLLAMA, Framing::Ndjson, lines), (Some(String::new()), true));
    let array = r#"[{"candidates":[]},{"error":{"code":500,"message":"no","status":"INTERNAL"}}]"#;
    assert_eq!(fault(Dialect::GEMINI, Framing::Json, array).0.as_deref(), Some("500"));
    // What looks like one is none.
    for (dialect, event) in [
        (
            Dialect::OPENAI_CHAT,
            r#"{"error":null,"choices":[{"delta":{"content":"{\"error\":1}"},"finish_reason":"stop"}]}"#,
        ),
        (
            Dialect::OPENAI_RESPONSES,
            r#"{"status":"completed","error":null,"output":[{"type":"mcp_call","error":{"code":1}}]}"#,
        ),
        (
            Dialect::OPENAI_RESPONSES,
            r#"{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}"#,
        ),
        (
            Dialect::OPENAI_RESPONSES,
            r#"{"type":"response.code_interpreter_call_code.done","code":"print(1)"}"#,
        ),
        (Dialect::COHERE, r#"{"type":"message-end","delta":{"error":null,"finish_reason":"COMPLETE"}}"#),
        (
            Dialect::ANTHROPIC,
            r#"{"type":"message","content":[{"type":"web_search_tool_result","content":{"type":"error","error_code":"x"}}]}"#,
        ),
    ] {
        assert_eq!(fault(dialect, Framing::Json, event).0, None, "{dialect:?} {event}");
    }
}

#[test]
fn an_answer_without_its_end_is_cut_short() {
    for (dialect, framing, text, ..) in streams() {
        assert_eq!(fault(dialect, framing, text), (None, false), "{dialect:?}");
        let last = text.trim_end().rfind("\n").unwrap_or_default();
        assert_eq!(
            fault(dialect, framing, &text[..last]),
            (None, true),
            "{dialect:?} without its last event"
        );
        assert!(fault(dialect, framing, "").1, "{dialect:?}: nothing at all");
    }
    assert_eq!(fault(Dialect::GEMINI, Framing::Sse, GEMINI_STREAM), (None, false));
    let first = &GEMINI_STREAM[..GEMINI_STREAM.find("\r\n\r\n").unwrap() + 4];
    assert_eq!(fault(Dialect::GEMINI, Framing::Sse, first), (None, true));
    // Not every server of OpenAI's API ends with its marker.
    let stopped = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    assert_eq!(fault(Dialect::OPENAI_CHAT, Framing::Sse, stopped), (None, false));
    // Bodies that are whole, or are not JSON at all, or are not read.
    assert!(!fault(Dialect::OPENAI_CHAT, Framing::Json, "{}").1);
    assert!(!fault(Dialect::OPENAI_CHAT, Framing::Json, "no").1);
    assert!(!fault(Dialect::OPENAI_CHAT, Framing::Opaque, "").1);
    assert!(fault(Dialect::OPENAI_CHAT, Framing::Json, "{\"choices\":[").1);
}

#[test]
fn usage_may_be_repeated_or_null() {
    let text = "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\n\
                data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n\
                data: {\"usage\":null}\n\ndata: {\"usage\":{\"prompt_tokens\":-1}}\n\n\
                data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":0}}\n\n";
    assert_eq!(whole(Dialect::OPENAI_CHAT, Framing::Sse, text).0, usage(5, 9, 0, 0, 0));
}

#[test]
fn what_cannot_be_read_is_let_by() {
    for (dialect, framing) in [
        (Dialect::PLAIN, Framing::Sse),
        (Dialect::PLAIN, Framing::Json),
        (Dialect::ANTHROPIC, Framing::Opaque),
    ] {
        assert_eq!(whole(dialect, framing, ANTHROPIC_STREAM), (None, None, false, false));
    }
}

#[test]
fn an_event_of_many_megabytes_is_read_without_holding_it() {
    let text = format!(
        "data: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"text\":\"{}\"}}],\
         \"usage\":{{\"input_tokens\":1,\"output_tokens\":2}}}}}}\n\n",
        "word \\n ".repeat(1 << 19)
    );
    let chunks: Vec<_> = text.as_bytes().chunks(1500).collect();
    assert_eq!(
        tap(Dialect::OPENAI_RESPONSES, Framing::Sse, &chunks),
        (usage(1, 2, 0, 0, 0), None, true, true)
    );
}

proptest! {
    #[test]
    fn chunking_does_not_matter(which in 0usize..5, at in any::<prop::sample::Index>(), sizes in sizes()) {
        let (dialect, framing, text, ..) = streams()[which];
        let bytes = &text.as_bytes()[..at.index(text.len() + 1)];
        prop_assert_eq!(tap(dialect, framing, &cut(bytes, &sizes)), tap(dialect, framing, &[bytes]));
        prop_assert_eq!(
            tap(dialect, Framing::Json, &cut(bytes, &sizes)),
            tap(dialect, Framing::Json, &[bytes])
        );
    }

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        which in 0usize..5,
        sizes in sizes(),
    ) {
        let (dialect, framing, text, ..) = streams()[which];
        let mut mixed = text.as_bytes()[..text.len() / 2].to_vec();
        mixed.extend(bytes);
        prop_assert_eq!(tap(dialect, framing, &cut(&mixed, &sizes)), tap(dialect, framing, &[&mixed]));
    }
}
