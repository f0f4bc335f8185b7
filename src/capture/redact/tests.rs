//! What is redacted, what stays, and that neither depends on how a stream splits it.

use proptest::prelude::*;

use super::*;

const ANT: &str = "sk-ant-api03-abcDEF123456789_abcDEF-xyz0";
const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/IBAAKCAQEA7\nabc=\n-----END RSA PRIVATE KEY-----";

fn plain(text: &str) -> String {
    redact_body(text, Framing::Opaque, false)
}

#[test]
fn each_kind_of_secret_is_taken_out_of_a_text() {
    for (secret, kind) in [
        (ANT, "api_key"),
        ("sk-proj-abcdefghij1234567890", "api_key"),
        ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "api_key"),
        ("AKIAIOSFODNN7EXAMPLE", "api_key"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "api_key"),
        ("github_pat_11ABCDEFG0123456789_abcdef", "api_key"),
        ("xoxb-1234567890-abcdef", "api_key"),
        ("hf_abcdefghijklmnopqrstuvwxyzABCDEF12", "api_key"),
        ("glpat-abcdefghij1234567890", "api_key"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "token"),
        (PEM, "private_key"),
        ("bob.o'neil@example.co.uk", "email"),
        ("4111 1111 1111 1111", "card"),
        ("5500-0000-0000-0004", "card"),
        ("378282246310005", "card"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
        ("536-22-8714", "ssn"),
        ("+1 212-736-5000", "phone"),
        ("dop_v1_0a1b2c3d4e5f67890a1b2c3d4e5f67890a1b2c3d4e5f67890a1b2c3d4e5f6789", "api_key"),
    ] {
        let redacted = plain(&format!("before {secret} after"));
        let left = if kind == "email" { "bob.o'" } else { "" };
        assert_eq!(redacted, format!("before {left}[redacted:{kind}] after"), "{secret}");
    }
}

#[test]
fn what_a_name_calls_secret_is_taken_out() {
    for (text, expected) in [
        ("Authorization: Bearer abc.def-1234", "Authorization: Bearer [redacted:token]"),
        ("-H 'x-api-key: hunter22'", "-H 'x-api-key: [redacted:secret]'"),
        ("export DB_PASSWORD=hunter22\n", "export DB_PASSWORD=[redacted:secret]\n"),
        ("https://x/y?api_key=abcdef12&z=1", "https://x/y?api_key=[redacted:secret]&z=1"),
        ("postgres://me:pass@host/db", "postgres://me:[redacted:secret]@host/db"),
        (r#"{'client_secret': 'it''s'}"#, r#"{'client_secret': '[redacted:secret]''s'}"#),
    ] {
        assert_eq!(plain(text), expected);
    }
}

#[test]
fn all_that_a_secret_name_holds_is_taken_out() {
    let json = |text: &str| redact_body(text, Framing::Json, false);
    for (document, expected) in [
        (r#"{"password":12345,"n":1}"#, r#"{"password":"[redacted:secret]","n":1}"#),
        (r#"{"password":-1.5e3}"#, r#"{"password":"[redacted:secret]"}"#),
        (
            r#"{"secret":{"a":{"b":"x"},"c":[1,"y",null,true]},"n":"z"}"#,
            r#"{"secret":{"a":{"b":"[redacted:secret]"},"c":["[redacted:secret]","[redacted:secret]",null,true]},"n":"z"}"#,
        ),
        (
            r#"{"pass\u0077ord":"x","tok\u0065n":7}"#,
            r#"{"pass\u0077ord":"[redacted:secret]","tok\u0065n":"[redacted:secret]"}"#,
        ),
        (
            r#"{"user[password]":"x","password2":"y"}"#,
            r#"{"user[password]":"[redacted:secret]","password2":"[redacted:secret]"}"#,
        ),
        (
            r#"{"Cookie":"a=1; b=2","set-cookie":["a=1; Path=/","b=2"],"authorization":"plain","xFunctionsKey":"k"}"#,
            r#"{"Cookie":"[redacted:secret]","set-cookie":["[redacted:secret]","[redacted:secret]"],"authorization":"[redacted:secret]","xFunctionsKey":"[redacted:secret]"}"#,
        ),
        (
            r#"{"headers":{"helicone-auth":"a b","ocp-apim-subscription-key":1},"cookies":{"a":"1"}}"#,
            r#"{"headers":{"helicone-auth":"[redacted:secret]","ocp-apim-subscription-key":"[redacted:secret]"},"cookies":{"a":"[redacted:secret]"}}"#,
        ),
        // Lists of fields and variables, as in HAR, Postman and Kubernetes.
        (
            r#"[{"name":"Cookie","value":"a=1"},{"name":"n","value":"b"},{"key":"DB_PASSWORD","value":{"c":7}}]"#,
            r#"[{"name":"Cookie","value":"[redacted:secret]"},{"name":"n","value":"b"},{"key":"DB_PASSWORD","value":{"c":"[redacted:secret]"}}]"#,
        ),
        // A tool's schema describes a secret.
        (
            r#"{"properties":{"password":{"type":"string","default":"x"}}}"#,
            r#"{"properties":{"password":{"type":"string","default":"[redacted:secret]"}}}"#,
        ),
        (r#"{"password":{},"token":[],"secret":null}"#, r#"{"password":{},"token":[],"secret":null}"#),
    ] {
        assert_eq!(json(document), expected);
        assert_eq!(json(&json(document)), expected);
        // The same as arguments of a tool call, that is, a string in a document, and one level deeper.
        let arguments = serde_json::json!({"arguments": document}).to_string();
        assert_eq!(json(&arguments), serde_json::json!({"arguments": expected}).to_string());
        let deeper = serde_json::json!({"a": arguments}).to_string();
        let expected_there = serde_json::json!({"arguments": expected}).to_string();
        assert_eq!(json(&deeper), serde_json::json!({"a": expected_there}).to_string());
        // And in lines and events of a stream.
        assert_eq!(redact_body(&format!("{document}\n"), Framing::Ndjson, false), format!("{expected}\n"));
        assert_eq!(
            redact_body(&format!("data: {document}\n\n"), Framing::Sse, false),
            format!("data: {expected}\n\n")
        );
    }
}

#[test]
fn json_in_a_text_that_is_none_loses_its_secrets() {
    for (text, secret) in [
        (r#"curl -d '{"pin_token": 98765, "n": 1}' x"#, "98765"),
        (r#"try {"password": {"value": "hunter2", "n": [1, "}"]}} and go on"#, "hunter2"),
        (r#"send "{\"password\": {\"value\": \"hunter2\"}, \"n\": 1}" there"#, "hunter2"),
        (r#"send "{\"password\": 98765}" there"#, "98765"),
        (r#"say {"pass\u0077ord": "hunter2"} there"#, "hunter2"),
        (r#"say "{\"pass\\u0077ord\": \"hunter2\"}" there"#, "hunter2"),
    ] {
        let document = serde_json::json!({"content": text}).to_string();
        let redacted = redact_body(&document, Framing::Json, false);
        assert!(serde_json::from_str::<serde_json::Value>(&redacted).is_ok(), "{redacted}");
        for redacted in [redacted, plain(text)] {
            assert!(!redacted.contains(secret) && redacted.contains("[redacted:secret]"), "{redacted}");
            let rest = text.rsplit(' ').next().unwrap();
            assert!(redacted.contains(rest), "{rest} in {redacted}");
        }
    }
}

#[test]
fn short_and_spaced_secrets_are_taken_out_whole() {
    for (text, expected) in [
        ("PASSWORD=x\n", "PASSWORD=[redacted:secret]\n"),
        ("export PASSWORD=\"two words\"; ls", "export PASSWORD=\"[redacted:secret]\"; ls"),
        ("password = 'a b'\nn = 1", "password = '[redacted:secret]'\nn = 1"),
        ("db:\n  password: pw\n  port: 5432\n", "db:\n  password: [redacted:secret]\n  port: 5432\n"),
        ("-H 'x-api-key: k1'", "-H 'x-api-key: [redacted:secret]'"),
        ("-H 'x-goog-api-key: k1'", "-H 'x-goog-api-key: [redacted:secret]'"),
        ("-H 'CF-Access-Client-Secret: k1'", "-H 'CF-Access-Client-Secret: [redacted:secret]'"),
        ("Cookie: a=1; session=abc\r\nX: y", "Cookie: [redacted:secret]\r\nX: y"),
        ("Set-Cookie: a=1; Path=/\r\nX: y", "Set-Cookie: [redacted:secret]\r\nX: y"),
        (
            "-H 'x-functions-key: k1' -H 'apikey: k2'",
            "-H 'x-functions-key: [redacted:secret]' -H 'apikey: [redacted:secret]'",
        ),
        ("Helicone-Auth: Bearer k1", "Helicone-Auth: Bearer [redacted:token]"),
        ("https://x/api?code=k1&n=2", "https://x/api?code=[redacted:secret]&n=2"),
        ("https://x/b?sv=1&sig=k1%3D&se=2", "https://x/b?sv=1&sig=[redacted:secret]&se=2"),
        (
            "https://x/b?X-Goog-Credential=k1&X-Goog-Date=2&X-Goog-Signature=k3",
            "https://x/b?X-Goog-Credential=[redacted:secret]&X-Goog-Date=2&X-Goog-Signature=[redacted:secret]",
        ),
        (
            "Authorization: Digest username=\"me\", response=\"66\"\nX: y",
            "Authorization: Digest [redacted:secret]\nX: y",
        ),
        ("Authorization: Basic bTpw", "Authorization: Basic [redacted:secret]"),
        ("Authorization: Bearer abc1", "Authorization: Bearer [redacted:token]"),
        ("https://x/v1beta/models?key=k1&alt=sse", "https://x/v1beta/models?key=[redacted:secret]&alt=sse"),
        ("https://x/y?user%5Bpassword%5D=k1&a=b", "https://x/y?user%5Bpassword%5D=[redacted:secret]&a=b"),
        ("https://abcdef0123456789@localhost/x", "https://[redacted:token]@localhost/x"),
        ("redis://:p@localhost", "redis://:[redacted:secret]@localhost"),
    ] {
        assert_eq!(plain(text), expected);
        let document = serde_json::json!({"content": text}).to_string();
        assert_eq!(
            redact_body(&document, Framing::Json, false),
            serde_json::json!({"content": expected}).to_string()
        );
    }
}

#[test]
fn a_named_secret_that_a_stream_divides_is_found() {
    let call = |pieces: &[&str]| -> String {
        let event = |piece: &&str| {
            let delta = serde_json::json!({"type": "input_json_delta", "partial_json": piece});
            format!(
                "data: {}\n\n",
                serde_json::json!({"type": "content_block_delta", "index": 0, "delta": delta})
            )
        };
        pieces.iter().map(event).collect()
    };
    let arguments = |stream: &str| -> String {
        let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap());
        events.map(|event| event["delta"]["partial_json"].as_str().unwrap().to_owned()).collect()
    };
    let pieces = ["{\"pass", "word\": 12", "345, \"secret\": {\"a\": [\"x", "yz\", 7]}, \"n\": 1", "}"];
    let redacted = arguments(&redact_body(&call(&pieces), Framing::Sse, false));
    let redacted: serde_json::Value = serde_json::from_str(&redacted).unwrap();
    let mark = "[redacted:secret]";
    assert_eq!(redacted, serde_json::json!({"password": mark, "secret": {"a": [mark, mark]}, "n": 1}));
    // Wherever it is divided.
    let of = |cookie: &str, set: &str, value: &str| {
        let fields = [serde_json::json!({"name": "Authorization", "value": value})];
        serde_json::json!({"cookie": cookie, "set-cookie": [set, set], "headers": fields, "n": 1})
    };
    let (whole, expected) = (of("sid=abc; b=c", "d=e", "hunter2").to_string(), of(mark, mark, mark));
    for at in 1..whole.len() {
        let redacted = arguments(&redact_body(&call(&[&whole[..at], &whole[at..]]), Framing::Sse, false));
        let redacted: serde_json::Value = serde_json::from_str(&redacted).unwrap_or_default();
        assert_eq!(redacted, expected, "{at}");
    }
    // An event may split its document into lines.
    let lines =
        "event: x\ndata: {\ndata: \"password\":\nid: 1\ndata: 12345,\r\ndata:\"n\":1}\n\ndata: {\"a\":1}\n\n";
    assert_eq!(redact_body(lines, Framing::Sse, false), lines.replace("12345", "\"[redacted:secret]\""));
}

#[test]
fn words_and_numbers_that_only_look_so_stay() {
    for text in [
        "the task-management-system-for-everyone and sk-learn-something-very-long-like-this",
        "lodash@4.17.21 and git@ home",
        "1763640000123456 0.4111111111111111 2026-11-20 10:00:00",
        "max_tokens=1024 token= x, bearer of good news",
        "4111 1111 1111 1112",
        r#"{"max_tokens": 1024, "password": null, "tokens": ["a"]}"#,
    ] {
        assert_eq!(plain(text), text);
        assert_eq!(redact_body(text, Framing::Json, false), text);
    }
}

#[test]
fn json_is_read_as_a_program_reads_it() {
    let json = |text: &str| redact_body(text, Framing::Json, false);
    let inner = serde_json::json!({"Password": "a\"b\\", "note": format!("x\n{ANT}\n")}).to_string();
    let document = serde_json::json!({
        "messages": [{"role": "user", "content": format!("line\n{ANT}")}],
        "arguments": inner,
        "api_key": "plain words",
        "card": 4111111111111111_u64,
        "n": 1,
    });
    let redacted: serde_json::Value = serde_json::from_str(&json(&document.to_string())).unwrap();
    assert_eq!(redacted["messages"][0]["content"], "line\n[redacted:api_key]");
    assert_eq!(
        (&redacted["api_key"], &redacted["card"]),
        (&"[redacted:secret]".into(), &"[redacted:card]".into())
    );
    let inner: serde_json::Value = serde_json::from_str(redacted["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(inner["Password"], "[redacted:secret]");
    assert_eq!(inner["note"], "x\n[redacted:api_key]\n");
    // An escaped character does not hide a key.
    assert_eq!(
        json(&format!("{{\"a\":\"{}\"}}", ANT.replace('k', "\\u006b"))),
        r#"{"a":"[redacted:api_key]"}"#
    );
    // What contains no secret is unchanged.
    for text in [r#"{ "b" : "\u00e9\/" , "a":1e5 }"#, "{\"a\": \"\\ud800\"}", "not json", "[1,", ""] {
        assert_eq!(json(text), text);
    }
}

fn anthropic(pieces: &[&str]) -> String {
    pieces.iter().fold("event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned(), |stream, piece| {
        let data = serde_json::json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": piece}});
        stream + &format!("event: content_block_delta\ndata: {data}\n\n")
    })
}

/// Joins the texts of a stream's deltas.
fn said(stream: &str) -> String {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let texts = data.map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap());
    texts.map(|event| event["delta"]["text"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_secret_that_a_stream_divides_is_found() {
    let pieces: Vec<String> = format!("write to bob@example.com with {ANT} now")
        .as_bytes()
        .chunks(3)
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let redacted = redact_body(&anthropic(&pieces), Framing::Sse, false);
    assert_eq!(said(&redacted), "write to [redacted:email] with [redacted:api_key] now");
    assert_eq!(redacted.lines().count(), anthropic(&pieces).lines().count());
    let lines = "{\"response\":\"AKIAIOSF\",\"done\":false}\n{\"response\":\"ODNN7EXAMPLE\",\"done\":true}\n";
    assert_eq!(
        redact_body(lines, Framing::Ndjson, false),
        "{\"response\":\"[redacted:api_key]\",\"done\":false}\n{\"response\":\"\",\"done\":true}\n"
    );
}

#[test]
fn what_is_named_secret_in_a_stream_ends_where_it_ends() {
    let redacted =
        redact_body(&anthropic(&["{'password': '", "hunt", "er22', 'b': ", "1}"]), Framing::Sse, false);
    assert_eq!(said(&redacted), "{'password': '[redacted:secret]', 'b': 1}");
    let alone = anthropic(&["write 'token': '", " and more"]);
    assert!(redact_body(&alone, Framing::Json, false) == alone, "nothing reaches out of its text");
}

#[test]
fn two_answers_in_one_stream_are_not_mixed() {
    let event = |index: u8, text: &str| {
        format!("data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let stream =
        [event(0, "AKIAIOSF"), event(1, "hello "), event(0, "ODNN7EXAMPLE"), event(1, "world")].concat();
    let redacted = redact_body(&stream, Framing::Sse, false);
    assert!(redacted.contains("[redacted:api_key]") && !redacted.contains("EXAMPLE"), "{redacted}");
    assert!(redacted.contains("hello ") && redacted.contains("world"), "{redacted}");
}

#[test]
fn a_cut_leaves_no_half_of_a_secret() {
    let texts = [
        format!("key {ANT}"),
        "mail bob@example.com".to_owned(),
        "card 4111 1111 1111 1111".to_owned(),
        format!("pem {PEM}"),
        "Authorization: Bearer abcdefghijklmnop1".to_owned(),
        "PASSWORD=hunter22hunter22".to_owned(),
    ];
    for text in texts {
        let begin = text.find([' ', '=']).unwrap() + 1;
        for end in begin + 8..text.len() {
            for framing in [Framing::Opaque, Framing::Json] {
                let (open, cut) = if framing == Framing::Json {
                    ("{\"a\":\"", text[..end].replace('\n', "\\n"))
                } else {
                    ("", text[..end].to_owned())
                };
                let redacted = redact_body(&format!("{open}{cut}"), framing, true);
                let left = redacted.strip_prefix(open).unwrap();
                assert!(
                    left.contains("[redacted:") || !left[begin..].contains(|c: char| c.is_ascii_digit()),
                    "{redacted}"
                );
                for part in ["api03", "bob@", "4111 1", "MII", "abcdefg", "hunter"] {
                    assert!(!left.contains(part), "{part} in {redacted}");
                }
            }
        }
    }
    let cut = redact_body(&anthropic(&["see sk-ant", "-api03-ab"]), Framing::Sse, true);
    assert_eq!(said(&cut), "see [redacted:api_key]");
}

/// Building blocks of secrets, documents and streams.
fn pieces() -> impl Strategy<Value = String> {
    let known = prop::sample::select(
        &[
            ANT,
            PEM,
            "AKIAIOSFODNN7EXAMPLE",
            "bob@example.com",
            "4111111111111111",
            "4111 1111",
            " ",
            "\n",
            "\\n",
            "\"",
            "\\\"",
            "\\",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "data: ",
            "\"password\":\"",
            "token=",
            "Bearer ",
            "eyJhbGciOiJI.eyJzdWIiOiIx",
            "-----BEGIN PRIVATE KEY-----",
            "[redacted:email]",
            "é",
            "\\u00e9",
            "1",
            "\"index\":",
            "://a:b@",
            "cookie: ",
        ][..],
    );
    prop::collection::vec(prop_oneof![4 => known.prop_map(str::to_owned), 1 => "\\PC{0,6}"], 0..16)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_text_is_taken_and_nothing_is_left_for_a_second_time(
        text in pieces(),
        framing in prop::sample::select(&[Framing::Sse, Framing::Ndjson, Framing::Json, Framing::Opaque][..]),
        is_cut: bool,
    ) {
        let once = redact_body(&text, framing, is_cut);
        prop_assert_eq!(redact_body(&once, framing, is_cut), once);
    }

    #[test]
    fn a_number_stays_json_wherever_it_is(
        number in "-?(0|[1-9][0-9]{0,20}|4111111111111111|5500000000000004)([.][0-9]{1,17})?(e[+-]?[0-9]{1,17})?",
        place in prop::sample::select(&["N", " N\r\n", "[N,N]", "{\"a\":N}", "{\"token\":[N]}", "[[[N]]]"][..]),
        framing in prop::sample::select(&[Framing::Json, Framing::Ndjson][..]),
    ) {
        let document = place.replace('N', &number);
        let redacted = redact_body(&document, framing, false);
        let is_json = |text: &str| serde_json::from_str::<Box<serde_json::value::RawValue>>(text).is_ok();
        prop_assert!(is_json(&document), "{}", document);
        prop_assert!(is_json(&redacted), "{}", redacted);
    }

    #[test]
    fn what_was_json_stays_json(text in pieces(), is_cut: bool) {
        let document = serde_json::json!({"a": text, "token": [text], text.as_str(): 4111111111111111_u64}).to_string();
        let redacted = redact_body(&document, Framing::Json, is_cut);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&redacted).is_ok(), "{}", redacted);
    }

    #[test]
    fn a_secret_is_found_wherever_a_stream_divides_it(at in prop::collection::vec(0usize..ANT.len(), 0..6)) {
        let mut at = at;
        at.extend([0, ANT.len()]);
        at.sort_unstable();
        let mut pieces: Vec<&str> = at.windows(2).map(|pair| &ANT[pair[0]..pair[1]]).collect();
        pieces.insert(0, "key: ");
        pieces.push(" end");
        let redacted = redact_body(&anthropic(&pieces), Framing::Sse, false);
        prop_assert_eq!(said(&redacted), "key: [redacted:api_key] end");
    }
}

#[test]
fn a_card_number_alone_is_replaced_by_a_string() {
    let mark = "\"[redacted:card]\"";
    assert_eq!(redact_body("4111111111111111", Framing::Json, false), mark);
    assert_eq!(redact_body(" 4111111111111111\n", Framing::Json, false), format!(" {mark}\n"));
    assert_eq!(
        redact_body("1\n4111111111111111\r\n{}\n", Framing::Ndjson, false),
        format!("1\n{mark}\r\n{{}}\n")
    );
    assert!(
        !redact_body("card 4111111111111111", Framing::Json, false).contains('"'),
        "no JSON before, none behind"
    );
}

#[test]
fn a_text_that_only_begins_like_a_document_loses_its_secrets() {
    let cases = [
        (
            Framing::Json,
            r#"{"messages":[{"content":"[info] config: \"password\": [\"hunter2f\", \"x1\"]"}]}"#,
        ),
        (Framing::Json, r#"{"a":"{x} say \"password\": [\"hunter2f\"] ok"}"#),
        (Framing::Json, r#"{"a":"{\"password\":[\"hunter2f\"]} \\q"}"#),
        (Framing::Opaque, r#"[note] "password": ["hunter2f"] and "api_key": {"value": "hunter2f"}"#),
    ];
    for (framing, text) in cases {
        let redacted = redact_body(text, framing, false);
        assert!(!redacted.contains("hunter2f"), "{redacted}");
    }
}

#[test]
fn nesting_without_end_is_taken_out_in_one_go() {
    let text = format!("{{\"a\":\"{}\"}}", r#"{\"token\":"#.repeat(20_000));
    let begun = std::time::Instant::now();
    redact_body(&text, Framing::Json, false);
    // Measuring each level would take minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}
