//! Tests of what an answer says beside its counts: calls, text and the reason for the stop, from recorded and
//! made-up streams of every dialect, in every chunking.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::protocol::answer::tool_calls::{ARGUMENTS_MAX, CALLS_MAX};
use crate::protocol::chunks::{cut, sizes};
use crate::protocol::facts::tools::ToolCall;

/// Everything a listener heard, and what the tap shows after the end.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: Vec<u8>,
    thoughts: Vec<u8>,
    calls: Vec<ToolCall>,
    stops: Vec<String>,
    usage: Option<Usage>,
    tools: Vec<(String, u64)>,
}

/// Tools, stop reason, counts, model, and whether the last event was seen.
type Shown = (Vec<(String, u64)>, Option<String>, Option<Usage>, Option<String>, bool);

fn shown(tap: &ResponseTap) -> Shown {
    let tools = tap.tools().map(|tools| tools.iter().map(|(name, calls)| (name.to_owned(), calls)).collect());
    let (stop, model) = (tap.stop_reason().map(str::to_owned), tap.model().map(str::to_owned));
    (tools.unwrap_or_default(), stop, tap.usage(), model, tap.is_complete())
}

fn listen(dialect: Dialect, framing: Framing, chunks: &[&[u8]]) -> Heard {
    let mut heard = Heard::default();
    let mut tap = ResponseTap::listening(dialect, framing, Coding::Identity);
    let mut facts = ResponseTap::new(dialect, framing);
    for chunk in chunks {
        tap.listen(chunk, &mut |event| match event {
            Event::Text(text) => heard.text.extend_from_slice(text),
            Event::Reasoning(text) | Event::Definition(text) => heard.thoughts.extend_from_slice(text),
            Event::Call(call) => heard.calls.push(call.clone()),
            Event::Stop(why) => heard.stops.push(why.to_owned()),
            Event::Usage(usage) => heard.usage = Some(usage),
            Event::Result(_) | Event::Ambiguous | Event::Choice(_) | Event::Piece(_) | Event::End { .. } => {}
        });
        facts.feed(chunk);
    }
    tap.end();
    facts.end();
    assert_eq!(shown(&tap), shown(&facts), "whoever does not listen sees the same facts");
    assert_eq!(heard.stops.last().map(String::as_str), tap.stop_reason());
    heard.tools = shown(&tap).0;
    // One that is followed by more, or by no end, was told before.
    assert!(heard.tools.iter().map(|(_, calls)| calls).sum::<u64>() <= heard.calls.len() as u64);
    heard
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.into(), ..ToolCall::default() }
}

/// What each recording says: a part of its text, its calls, why it stopped.
type Recorded = (&'static str, Dialect, &'static str, Vec<ToolCall>, Option<&'static str>);

fn recorded() -> Vec<Recorded> {
    let weather = r#"{"city": "Z\u00fcrich", "units": ["C", "hPa"]}"#;
    let shell = r#"{"command":["bash","-lc","echo 'ünï'"]}"#;
    let nested = r#"{"city":"Zürich","nested":{"a":[1,2,{"b":null}]}}"#;
    let chat_calls = vec![call("call_Q1", "weather", r#"{"city":"Zürich"}"#), call("call_Q2", "time", "{}")];
    vec![
        ("anthropic_text_crlf.sse", Dialect::ANTHROPIC, "", vec![], Some("end_turn")),
        (
            "anthropic_thinking_tool.sse",
            Dialect::ANTHROPIC,
            "",
            vec![call("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "weather", weather)],
            Some("tool_use"),
        ),
        ("anthropic_overloaded_midway.sse", Dialect::ANTHROPIC, "", vec![], None),
        ("mistral_text.sse", Dialect::MISTRAL, "", vec![], Some("stop")),
        (
            "mistral_thinking_tool.sse",
            Dialect::MISTRAL,
            "",
            vec![call("D681PevKs", "weather", r#"{"city": "Zürich"}"#)],
            Some("tool_calls"),
        ),
        ("mistral_whole.json", Dialect::MISTRAL, "C'est l'été ☀️", vec![], Some("stop")),
        ("ollama_chat_thinking.ndjson", Dialect::OLLAMA, "", vec![], Some("stop")),
        (
            "ollama_chat_tool_crlf.ndjson",
            Dialect::OLLAMA,
            "",
            vec![call("call_x", "weather", nested)],
            Some("stop"),
        ),
        ("ollama_whole.json", Dialect::OLLAMA, "Salut 🌍", vec![], Some("stop")),
        ("openai_chat_comments_crlf.sse", Dialect::OPENAI_CHAT, "", vec![], Some("stop")),
        ("openai_chat_tools.sse", Dialect::OPENAI_CHAT, "", chat_calls, Some("tool_calls")),
        ("openai_chat_usage.sse", Dialect::OPENAI_CHAT, "", vec![], Some("stop")),
        ("openai_whole.json", Dialect::OPENAI_CHAT, "Café 🚀 \"ok\"", vec![], Some("stop")),
        ("responses_incomplete.sse", Dialect::OPENAI_RESPONSES, "", vec![], Some("max_output_tokens")),
        (
            "responses_reasoning_tool.sse",
            Dialect::OPENAI_RESPONSES,
            "",
            vec![call("call_7", "shell", shell)],
            Some("completed"),
        ),
        (
            "responses_whole.json",
            Dialect::OPENAI_RESPONSES,
            "",
            vec![call("call_7", "shell", shell)],
            Some("completed"),
        ),
    ]
}

fn recording(name: &str) -> (Framing, Vec<u8>) {
    let framing = match name.rsplit('.').next() {
        Some("sse") => Framing::Sse,
        Some("ndjson") => Framing::Ndjson,
        _ => Framing::Json,
    };
    let path = format!("{}/tests/recordings/{name}", env!("CARGO_MANIFEST_DIR"));
    (framing, fs::read(path).unwrap())
}

#[test]
fn recordings_are_read() {
    for (name, dialect, text, calls, stop) in recorded() {
        let (framing, bytes) = recording(name);
        let heard = listen(dialect, framing, &[&bytes]);
        assert_eq!(heard.calls, calls, "{name}");
        assert_eq!(heard.stops.last().map(String::as_str), stop, "{name}");
        assert!(
            std::str::from_utf8(&heard.text).is_ok_and(|heard| heard.contains(text)),
            "{name}: {heard:?}"
        );
        for size in [1, 2, 3, 5, 17, 64, 1000] {
            let chunks: Vec<_> = bytes.chunks(size).collect();
            assert_eq!(listen(dialect, framing, &chunks), heard, "{name} in chunks of {size}");
        }
    }
}

fn sse(events: &[&str]) -> Vec<u8> {
    events.iter().map(|data| format!("data: {data}\n\n")).collect::<String>().into_bytes()
}

fn heard(dialect: Dialect, events: &[&str]) -> Heard {
    let bytes = sse(events);
    let heard = listen(dialect, Framing::Sse, &[&bytes]);
    for size in [1, 3, 50] {
        let chunks: Vec<_> = bytes.chunks(size).collect();
        assert_eq!(listen(dialect, Framing::Sse, &chunks), heard);
    }
    heard
}

#[test]
fn chat_calls_may_interleave_and_choices_too() {
    let told = heard(
        Dialect::OPENAI_CHAT,
        &[
            r#"{"choices":[{"index":0,"delta":{"content":"Hé ","tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\""}},{"index":1,"id":"b","function":{"name":"g","arguments":""}}]}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"du","tool_calls":[{"index":0,"id":"c","function":{"arguments":"[]","name":"f"}}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"y\":2}"}},{"function":{"arguments":":1}"},"index":0}]},"finish_reason":null}]}"#,
            r#"{"choices":[{"finish_reason":"stop","index":1,"delta":{}}]}"#,
            r#"{"choices":[{"finish_reason":"tool_calls","index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" "}}]}}]}"#,
            "[DONE]",
        ],
    );
    assert_eq!(told.calls, [call("c", "f", "[]"), call("b", "g", "{\"y\":2}"), call("a", "f", "{\"x\":1}")]);
    assert_eq!(told.stops, ["stop", "tool_calls"]);
    assert_eq!(told.text, "Hé du".as_bytes());
    assert_eq!(told.tools, [("f".to_owned(), 2), ("g".to_owned(), 1)]);
}

#[test]
fn chat_calls_of_servers_that_imitate() {
    // Every call has index 0, or none at all; nothing says why it stopped.
    let told = heard(
        Dialect::OPENAI_CHAT,
        &[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}},{"index":0,"id":"b","function":{"name":"f","arguments":{"n":1}}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"c","type":"custom","custom":{"name":"sql","input":"select"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"custom":{"input":" 1"}}]}}]}"#,
            "[DONE]",
        ],
    );
    let expected = [call("a", "f", "{}"), call("b", "f", "{\"n\":1}"), call("c", "sql", "select 1")];
    assert_eq!(told.calls, expected);
    let old = heard(
        Dialect::OPENAI_CHAT,
        &[
            r#"{"choices":[{"index":0,"delta":{"function_call":{"name":"old","arguments":"{"}}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"function_call":{"arguments":"}"}},"finish_reason":"function_call"}]}"#,
        ],
    );
    assert_eq!(old.calls, [call("", "old", "{}")]);
    let whole = r#"{"choices":[{"message":{"content":[{"type":"text","text":"t"}],"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\"a\":\"\\u00e9\"}"}},{"id":"b","custom":{"name":"g","input":"x"}}]},"finish_reason":"tool_calls"},{"message":{"function_call":{"name":"h","arguments":""}}}]}"#;
    let told = listen(Dialect::OPENAI_CHAT, Framing::Json, &[whole.as_bytes()]);
    assert_eq!(told.calls, [call("a", "f", r#"{"a":"\u00e9"}"#), call("b", "g", "x"), call("", "h", "")]);
    assert_eq!(told.text, b"t");
}

#[test]
fn parallel_calls_without_ids_or_with_one_index_are_counted_apart() {
    let names = |told: &Heard| {
        told.calls.iter().map(|call| (call.name.clone(), call.arguments.clone())).collect::<Vec<_>>()
    };
    let expected = |calls: &[(&str, &str)]| {
        calls
            .iter()
            .map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned()))
            .collect::<Vec<_>>()
    };
    let whole = [("f", "{\"n\":1}"), ("f", "{\"n\":2}"), ("g", "")];
    // In one event or in several; with one index for all, or null, or none.
    for index in [r#""index":0,"#, r#""index":null,"#, ""] {
        let piece = |name: &str, arguments: &str| {
            let arguments = arguments.replace('"', "\\\"");
            format!(r#"{{{index}"id":null,"function":{{"name":"{name}","arguments":"{arguments}"}}}}"#)
        };
        let event =
            |pieces: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{pieces}]}}}}]}}"#);
        let pieces: Vec<String> = whole.iter().map(|(name, arguments)| piece(name, arguments)).collect();
        let at_once = event(&pieces.join(","));
        let told = heard(Dialect::OPENAI_CHAT, &[&at_once, "[DONE]"]);
        assert_eq!(names(&told), expected(&whole), "{index}");
        let one_by_one: Vec<String> = pieces.iter().map(|piece| event(piece)).collect();
        let mut events: Vec<&str> = one_by_one.iter().map(String::as_str).collect();
        events.push("[DONE]");
        assert_eq!(names(&heard(Dialect::OPENAI_CHAT, &events)), expected(&whole), "{index}");
    }
    // Arguments in pieces belong to the call before; a name that a server repeats beside no id is no other call.
    let told = heard(
        Dialect::OPENAI_CHAT,
        &[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"["}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"]"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"a","function":{"name":"h","arguments":"1"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"function":{"name":"h","arguments":"2"}}]}}]}"#,
            "[DONE]",
        ],
    );
    // A number has no end of its own.
    assert_eq!(names(&told), expected(&[("f", "{}"), ("f", "[]"), ("h", "1"), ("h", "12")]));
}

#[test]
fn items_and_blocks_without_ids_or_with_one_index_are_counted_apart() {
    let responses = |at: &str| {
        [
            format!(
                r#"{{"type":"response.output_item.added"{at},"item":{{"type":"function_call","name":"f"}}}}"#
            ),
            format!(r#"{{"type":"response.function_call_arguments.done"{at},"arguments":"{{}}"}}"#),
            format!(
                r#"{{"type":"response.output_item.done"{at},"item":{{"type":"function_call","name":"f","arguments":"{{}}"}}}}"#
            ),
        ]
    };
    let anthropic = |at: &str| {
        [
            format!(
                r#"{{"type":"content_block_start"{at},"content_block":{{"type":"tool_use","name":"f","input":{{}}}}}}"#
            ),
            format!(
                r#"{{"type":"content_block_delta"{at},"delta":{{"type":"input_json_delta","partial_json":"{{}}"}}}}"#
            ),
            format!(r#"{{"type":"content_block_stop"{at}}}"#),
        ]
    };
    for at in [r#","output_index":0,"index":0"#, ""] {
        for (dialect, one) in
            [(Dialect::OPENAI_RESPONSES, responses(at)), (Dialect::ANTHROPIC, anthropic(at))]
        {
            let events: Vec<&str> = [&one, &one, &one].into_iter().flatten().map(String::as_str).collect();
            let told = heard(dialect, &events);
            assert_eq!(told.calls, vec![call("", "f", "{}"); 3], "{dialect:?} {at}");
        }
    }
    // Only the item that is done is sent.
    let done = &responses("")[2];
    assert_eq!(heard(Dialect::OPENAI_RESPONSES, &[done, done]).calls, vec![call("", "f", "{}"); 2]);
}

#[test]
fn names_that_programs_read_differently_are_told() {
    let names = |told: &Heard| {
        let name = |call: &ToolCall| (call.name.clone(), call.joined_name.clone(), call.name_is_unclear);
        told.calls.iter().map(name).collect::<Vec<_>>()
    };
    let of = |name: &str, joined: &str, is_unclear| (name.to_owned(), joined.to_owned(), is_unclear);
    // In pieces, without index and id.
    for around in [r#""tool_calls":[{"function":PIECE}]"#, r#""function_call":PIECE"#] {
        let event = |piece: &str| {
            format!(r#"{{"choices":[{{"index":0,"delta":{{{}}}}}]}}"#, around.replace("PIECE", piece))
        };
        let (first, second) = (event(r#"{"name":"Dan"}"#), event(r#"{"name":"ger","arguments":"{}"}"#));
        let told = heard(Dialect::OPENAI_CHAT, &[&first, &second, "[DONE]"]);
        assert!(names(&told).contains(&of("ger", "Danger", false)), "{told:?}");
    }
    // Twice in one call.
    let twice = r#"{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"Danger","name":"ok","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#;
    let told = listen(Dialect::OPENAI_CHAT, Framing::Json, &[twice.as_bytes()]);
    assert_eq!(names(&told), [of("ok", "", true)]);
    // Only at the end, and as protobuf writes it.
    let done = r#"{"type":"response.function_call_arguments.done","output_index":0,"item_id":"f","name":"Danger","arguments":"{}"}"#;
    assert_eq!(heard(Dialect::OPENAI_RESPONSES, &[done]).calls, [call("", "Danger", "{}")]);
    let snake =
        r#"{"candidates":[{"content":{"parts":[{"function_call":{"name":"Danger","args":{"a":1}}}]}}]}"#;
    let told = listen(Dialect::GEMINI, Framing::Json, &[snake.as_bytes()]);
    assert_eq!(told.calls, [call("", "Danger", r#"{"a":1}"#)]);
}

#[test]
fn a_call_that_was_cut_off_is_none() {
    for (dialect, events) in [
        (
            Dialect::OPENAI_CHAT,
            [
                r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x"}}]}}]}"#,
                r#"{"error":{"message":"overloaded"}}"#,
            ],
        ),
        (
            Dialect::ANTHROPIC,
            [
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}}}"#,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"x"}}"#,
            ],
        ),
        (
            Dialect::OPENAI_RESPONSES,
            [
                r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"function_call","name":"f","call_id":"a"}}"#,
                r#"{"type":"response.function_call_arguments.delta","output_index":0,"delta":"{"}"#,
            ],
        ),
    ] {
        assert_eq!(heard(dialect, &events), Heard::default(), "{dialect:?}");
    }
}

#[test]
fn anthropic_blocks_may_interleave_and_have_no_input() {
    let told = heard(
        Dialect::ANTHROPIC,
        &[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"cache_creation_input_tokens":9,"cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":7}}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"Read","input":{}}}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"server_tool_use","id":"s","name":"web_search","input":{}}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"q\":"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a \u00e9"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"delta":{"partial_json":"1}","type":"input_json_delta"},"index":2,"type":"content_block_delta"}"#,
            r#"{"type":"content_block_stop","index":2}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"input_tokens":null,"output_tokens":30,"output_tokens_details":{"thinking_tokens":12},"server_tool_use":{"web_search_requests":3,"web_fetch_requests":1}}}"#,
            r#"{"type":"message_stop"}"#,
        ],
    );
    assert_eq!(told.calls, [call("a", "Read", "{}"), call("s", "web_search", "{\"q\":1}")]);
    assert_eq!(
        (told.text.as_slice(), told.stops.as_slice()),
        ("a é".as_bytes(), &["tool_use".to_owned()][..])
    );
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 30,
        cache_write_tokens: 9,
        cache_write_1h_tokens: 7,
        reasoning_tokens: 12,
        web_search_requests: 3,
        ..Usage::default()
    };
    assert_eq!(told.usage, Some(usage));
    let whole = br#"{"type":"message","content":[{"type":"thinking","thinking":"h"},{"type":"text","text":"t"},{"type":"tool_use","id":"a","name":"f","input":{"x":[1]}}],"stop_reason":"tool_use"}"#;
    let told = listen(Dialect::ANTHROPIC, Framing::Json, &[whole]);
    assert_eq!((told.calls, told.text), (vec![call("a", "f", "{\"x\":[1]}")], b"t".to_vec()));
    let counted = listen(Dialect::ANTHROPIC, Framing::Json, &[br#"{"input_tokens":2095}"#]);
    assert_eq!(counted, Heard::default(), "count_tokens uses nothing up");
}

#[test]
fn responses_items_are_each_counted_once() {
    let added = r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"custom_tool_call","call_id":"a","name":"patch","input":""}}"#;
    let deltas = [
        r#"{"type":"response.custom_tool_call_input.delta","output_index":0,"delta":"*** Be"}"#,
        r#"{"delta":"gin","type":"response.custom_tool_call_input.delta","output_index":0}"#,
    ];
    let done = r#"{"type":"response.custom_tool_call_input.done","output_index":0,"input":"*** Begin"}"#;
    let item = r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"custom_tool_call","call_id":"a","name":"patch","input":"*** Begin"}}"#;
    let search = r#"{"type":"response.output_item.done","output_index":1,"item":{"type":"web_search_call","id":"ws","action":{"query":"q"}}}"#;
    let end = r#"{"type":"response.completed","response":{"status":"completed","incomplete_details":null,"output":[{"type":"custom_tool_call","call_id":"a","name":"patch","input":"*** Begin"},{"type":"web_search_call","id":"ws","action":{"query":"q"}},{"type":"message","content":[{"type":"output_text","text":"Hi"}]}]}}"#;
    let text = [
        r#"{"type":"response.output_text.delta","output_index":2,"delta":"H"}"#,
        r#"{"delta":"i","type":"response.output_text.delta","output_index":2}"#,
        r#"{"type":"response.output_text.done","output_index":2,"text":"Hi"}"#,
    ];
    let both = [call("a", "patch", "*** Begin"), call("", "web_search", "{\"query\":\"q\"}")];
    let ways: [&[&str]; 4] = [
        &[added, deltas[0], deltas[1], done, item, search, text[0], text[1], text[2], end],
        &[added, deltas[0], deltas[1], item, search, text[0], text[1], end],
        &[item, search, text[0], text[1], end],
        &[text[0], text[1], end],
    ];
    for events in ways {
        let told = heard(Dialect::OPENAI_RESPONSES, events);
        assert_eq!(told.calls, both, "{events:#?}");
        assert_eq!(
            (told.text.as_slice(), told.stops.as_slice()),
            (&b"Hi"[..], &["completed".to_owned()][..])
        );
    }
    let running = listen(Dialect::OPENAI_RESPONSES, Framing::Json, &[br#"{"status":"queued","output":[]}"#]);
    assert!(running.stops.is_empty(), "it has not stopped");
}

#[test]
fn a_call_in_pieces_is_told_as_soon_as_programs_may_make_it() {
    let event = |id: &str, arguments: &str| {
        let arguments = serde_json::to_string(arguments).unwrap();
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,{id}"function":{{{}"arguments":{arguments}}}}}]}}}}]}}"#,
            if id.is_empty() { "" } else { r#""name":"f","# },
        )
    };
    for (pieces, whole) in [
        (&[r#"{"a}":"\"{[","b":[1,{}]"#, " ", "}"][..], 2),
        (&["", " ", "{", "}"], 3),
        (&["[", "]"], 1),
        (&["\"a", "\\\"", "\""], 2),
    ] {
        let mut tap = ResponseTap::listening(Dialect::OPENAI_CHAT, Framing::Sse, Coding::Identity);
        for (at, piece) in pieces.iter().enumerate() {
            let mut calls = Vec::new();
            let id = if at == 0 { r#""id":"c","# } else { "" };
            tap.listen(&sse(&[&event(id, piece)]), &mut |event| {
                if let Event::Call(call) = event {
                    calls.push(call.arguments.clone());
                }
            });
            let expected = if at == whole { vec![pieces.concat()] } else { vec![] };
            assert_eq!((calls, tap.has_open_call()), (expected, at < whole), "{pieces:?} {at}");
        }
    }
}

#[test]
fn what_is_too_much_is_told_and_not_held() {
    let long = "x".repeat(ARGUMENTS_MAX / 2 + 1);
    let piece = |index: usize, name: &str, arguments: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":{index},"id":"{index}","function":{{"name":"{name}","arguments":"{arguments}"}}}}]}}}}]}}"#
        )
    };
    let mut events: Vec<String> = (0..CALLS_MAX + 2).map(|index| piece(index, "f", "{}")).collect();
    events.push(piece(0, "f", &long));
    events.push(piece(0, "f", &long));
    for index in 1..12 {
        events.push(piece(index, "f", &long));
    }
    events.push(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#.to_owned());
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let bytes = sse(&events);
    let told = listen(Dialect::OPENAI_CHAT, Framing::Sse, &[&bytes]);
    assert_eq!(told.tools, [("f".to_owned(), CALLS_MAX as u64 + 2)], "all are counted");
    let cut = told.calls.iter().filter(|call| call.truncated).count();
    assert!(cut > 2 && cut < 12, "{cut} are told as cut short");
    assert!(told.calls.iter().all(|call| call.arguments.len() <= ARGUMENTS_MAX));
    // What is told again has grown.
    let last: BTreeMap<&str, usize> =
        told.calls.iter().map(|call| (call.id.as_str(), call.arguments.len())).collect();
    let held: usize = last.values().sum();
    assert!(held <= 1 << 20, "{held} bytes");
}

#[test]
fn compressed_answers_are_read_and_never_cut_natively() {
    use std::io::Write;
    let (framing, bytes) = recording("anthropic_thinking_tool.sse");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(&bytes).unwrap();
    let packed = packer.finish().unwrap();
    let mut plain = ResponseTap::new(Dialect::ANTHROPIC, framing);
    plain.feed(&bytes);
    let mut tap = ResponseTap::of(Dialect::ANTHROPIC, framing, Coding::Gzip);
    assert!(!tap.at_boundary() && plain.at_boundary());
    packed.chunks(7).for_each(|chunk| tap.feed(chunk));
    assert!(!tap.at_boundary());
    assert_eq!((shown(&tap), tap.unread()), (shown(&plain), None));
    let mut wrong = ResponseTap::of(Dialect::ANTHROPIC, framing, Coding::Brotli);
    packed.chunks(7).for_each(|chunk| wrong.feed(chunk));
    assert_eq!(wrong.unread(), Some(Unread::Corrupt));
    let unknown = ResponseTap::of(Dialect::ANTHROPIC, framing, Coding::Unknown);
    assert_eq!(unknown.unread(), Some(Unread::Coding));
    let picture = ResponseTap::of(Dialect::ANTHROPIC, Framing::Opaque, Coding::Unknown);
    assert_eq!(picture.unread(), None, "nobody would have read it");
}

proptest! {
    #[test]
    fn chunking_does_not_matter_for_calls(
        which in 0usize..16,
        at in any::<prop::sample::Index>(),
        dirt in prop::collection::vec(any::<u8>(), 0..40),
        sizes in sizes(),
    ) {
        let (name, dialect, ..) = recorded().swap_remove(which);
        let (framing, mut bytes) = recording(name);
        bytes.truncate(at.index(bytes.len() + 1));
        bytes.extend(dirt);
        prop_assert_eq!(listen(dialect, framing, &cut(&bytes, &sizes)), listen(dialect, framing, &[&bytes]));
    }
}

#[test]
fn reasoning_is_heard_beside_the_text_where_it_is_sent() {
    let sse = |events: &[&str]| events.iter().map(|event| format!("data: {event}\n\n")).collect::<String>();
    for (dialect, framing, answer) in [
        (
            Dialect::OPENAI_CHAT,
            Framing::Sse,
            sse(&[
                r#"{"choices":[{"delta":{"reasoning_content":"hmm "}}]}"#,
                r#"{"choices":[{"delta":{"reasoning":"yes"}}]}"#,
                r#"{"choices":[{"delta":{"content":"ok"}}]}"#,
            ]),
        ),
        (
            Dialect::ANTHROPIC,
            Framing::Sse,
            sse(&[
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hmm yes"}}"#,
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"ok"}}"#,
            ]),
        ),
        (
            Dialect::OPENAI_RESPONSES,
            Framing::Sse,
            sse(&[
                r#"{"type":"response.reasoning_summary_text.delta","delta":"hmm "}"#,
                r#"{"delta":"yes","type":"response.reasoning_text.delta"}"#,
                r#"{"type":"response.output_text.delta","delta":"ok"}"#,
            ]),
        ),
        (
            Dialect::OLLAMA,
            Framing::Ndjson,
            concat!(r#"{"message":{"thinking":"hmm yes"}}"#, "\n", r#"{"message":{"content":"ok"}}"#, "\n")
                .to_owned(),
        ),
    ] {
        for size in [1, 7, answer.len()] {
            let chunks: Vec<&[u8]> = answer.as_bytes().chunks(size).collect();
            let heard = listen(dialect, framing, &chunks);
            let told = (String::from_utf8_lossy(&heard.thoughts), String::from_utf8_lossy(&heard.text));
            assert_eq!((&*told.0, &*told.1), ("hmm yes", "ok"), "{} {size}", dialect.name());
        }
    }
}

#[test]
fn what_responses_repeat_is_text_once() {
    let delta = |part: u32, text: &str| serde_json::json!({"type": "response.output_text.delta", "output_index": 1, "content_index": part, "delta": text});
    let done = |part: u32, text: &str| serde_json::json!({"type": "response.output_text.done", "output_index": 1, "content_index": part, "text": text});
    let content =
        serde_json::json!([{"type": "output_text", "text": "Hello"}, {"type": "output_text", "text": "you"}]);
    let item = serde_json::json!({"type": "message", "content": content});
    let thought =
        serde_json::json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]});
    let events = [
        serde_json::json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Hm"}),
        serde_json::json!({"type": "response.reasoning_summary_text.done", "output_index": 0, "summary_index": 0, "text": "Hm"}),
        delta(0, "Hel"),
        delta(1, "y"),
        delta(0, "lo"),
        delta(1, "ou"),
        done(0, "Hello"),
        done(1, "you"),
        serde_json::json!({"type": "response.content_part.done", "output_index": 1, "content_index": 1, "part": {"type": "output_text", "text": "you"}}),
        serde_json::json!({"type": "response.output_item.done", "output_index": 1, "item": item}),
        serde_json::json!({"type": "response.completed", "response": {"status": "completed", "output": [thought, item]}}),
    ];
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let heard = listen(Dialect::OPENAI_RESPONSES, Framing::Sse, &[body.as_bytes()]);
    assert_eq!(String::from_utf8_lossy(&heard.text), "Helyloou");
    assert_eq!(String::from_utf8_lossy(&heard.thoughts), "Hm");
    // The same without the deltas: each is told where it comes first.
    let body: String = events[9..].iter().map(|event| format!("data: {event}\n\n")).collect();
    let heard = listen(Dialect::OPENAI_RESPONSES, Framing::Sse, &[body.as_bytes()]);
    assert_eq!(String::from_utf8_lossy(&heard.text), "Helloyou");
    assert_eq!(String::from_utf8_lossy(&heard.thoughts), "Hm");
}
