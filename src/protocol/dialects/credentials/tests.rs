//! Where credentials are found.

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn found(pairs: &[(&'static str, &str)], query: &str) -> Vec<String> {
    let headers = headers(pairs);
    let found = credentials(&headers, Some(query));
    found.iter().map(|credential| String::from_utf8(credential.to_vec()).unwrap()).collect()
}

#[test]
fn all_fields_with_credentials_are_known_as_read() {
    for field in FIELDS.iter().map(|(field, _)| field).chain([&SEC_WEBSOCKET_PROTOCOL]) {
        assert!(is_read(field), "{field}");
    }
    for field in ["accept", "x-session-id", "x-stainless-lang", "content-type", "anthropic-version"] {
        assert!(!is_read(&HeaderName::from_static(field)), "{field}");
    }
}

#[test]
fn every_place_gives_the_credential_alone() {
    for (name, value) in [
        ("authorization", "Bearer sk-1"),
        ("authorization", "sk-1"),
        ("proxy-authorization", "Bearer sk-1"),
        ("x-api-key", " sk-1 "),
        ("api-key", "sk-1"),
        ("x-goog-api-key", "sk-1"),
        ("x-auth-token", "sk-1"),
        ("ocp-apim-subscription-key", "sk-1"),
        ("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-1"),
        ("sec-websocket-protocol", "token, sk-1"),
    ] {
        assert_eq!(found(&[(name, value)], ""), ["sk-1"], "{name}: {value}");
    }
    for query in [
        "key=sk-1",
        "alt=sse&%6bey=sk%2D1",
        "access_token=sk-1",
        "api-key=sk-1",
        "token=sk-1",
        "code=sk-1",
        "auth=sk-1",
        "authorization=Bearer%20sk-1",
        "sv=2025-01-05&se=2026-12-01&sr=b&sp=r&sig=sk-1",
        "Signature=sk-1",
    ] {
        assert_eq!(found(&[], query), ["sk-1"], "{query}");
    }
    assert_eq!(found(&[("authorization", "Basic QTpi")], ""), ["QTpi"]);
    let none = [""; 0];
    assert_eq!(found(&[("authorization", "Bearer "), ("x-api-key", "")], "key=&monkey=1"), none);
    assert_eq!(found(&[("openai-organization", "org"), ("sec-websocket-protocol", "realtime")], ""), none);
    assert_eq!(found(&[("sec-websocket-protocol", "token")], ""), none, "a protocol of that name");
}

#[test]
fn one_value_counts_once_and_several_count_all() {
    assert_eq!(found(&[("authorization", "Bearer sk-1"), ("x-api-key", "sk-1")], "key=sk-1"), ["sk-1"]);
    assert_eq!(found(&[("x-api-key", "b"), ("authorization", "Bearer a")], "key=c"), ["a", "b", "c"]);
    assert_eq!(found(&[("x-api-key", "a"), ("x-api-key", "b")], ""), ["a", "b"]);
}

#[test]
fn of_what_changes_with_every_request_the_name_of_the_key_counts() {
    let aws = |signature: &str| {
        let value = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261129/us-east-1/bedrock/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        found(&[("authorization", &value), ("x-amz-security-token", signature)], "")
    };
    assert_eq!((aws("1"), aws("2")), (vec!["AKIDEXAMPLE".to_owned()], vec!["AKIDEXAMPLE".to_owned()]));
    for query in [
        "X-Amz-Credential=AKIDEXAMPLE%2F20261129%2Fus-east-1&X-Amz-Signature=1&X-Amz-Security-Token=2",
        "X-Amz-Signature=1&X-Amz-Credential=AKIDEXAMPLE%2F20261129%2Fus-east-1",
        "X-Goog-Credential=AKIDEXAMPLE%2F20261129%2Fauto&X-Goog-Signature=1&X-Goog-Expires=900",
        "AWSAccessKeyId=AKIDEXAMPLE&Expires=1&Signature=2",
        "GoogleAccessId=AKIDEXAMPLE&Expires=1&Signature=2",
        "Expires=1&Signature=2&Key-Pair-Id=AKIDEXAMPLE",
    ] {
        assert_eq!(found(&[], query), ["AKIDEXAMPLE"], "{query}");
    }
    assert_eq!(found(&[], "X-Goog-Credential=&X-Goog-Signature=1"), ["1"], "no key is named");
    let digest = r#"Digest username="Mufasa", realm="r", nonce="1", response="2""#;
    assert_eq!(found(&[("authorization", digest)], ""), ["Mufasa"]);
    assert_eq!(found(&[("authorization", "Hawk mac=1")], ""), ["mac=1"], "no key is named");
}

#[test]
fn cookies_count_where_nothing_else_does() {
    let jar = ("cookie", "b=2; a=1; __cf_bm=x");
    assert_eq!(found(&[jar], ""), ["a=1; b=2"]);
    assert_eq!(found(&[("cookie", "a=1"), ("cookie", "b=2; AWSALB=y")], ""), ["a=1; b=2"]);
    assert_eq!(found(&[jar, ("x-api-key", "k")], ""), ["k"]);
    assert_eq!(found(&[("cookie", "__cf_bm=x")], ""), [""; 0]);
}

#[test]
fn a_key_among_subprotocols_is_found_and_taken_out() {
    let left = |values: &[&str]| {
        let lines: Vec<_> = values.iter().map(|value| ("sec-websocket-protocol", *value)).collect();
        let headers = headers(&lines);
        let left = without_subprotocols(&headers);
        assert_eq!(is_present(&headers, None), left.is_some());
        left.map(|value| value.to_str().unwrap().to_owned())
    };
    let key = "realtime,openai-insecure-api-key.sk-1 , openai-beta.realtime-v1";
    assert_eq!(left(&[key]).as_deref(), Some("realtime, openai-beta.realtime-v1"));
    assert_eq!(left(&["realtime", "openai-insecure-api-key.sk-1"]).as_deref(), Some("realtime"));
    assert_eq!(left(&["openai-insecure-api-key.sk-1"]).as_deref(), Some(""));
    assert_eq!(left(&["token, sk-1, json"]).as_deref(), Some("json"));
    assert_eq!(left(&["realtime"]), None);
}

#[test]
fn parameters_with_credentials_are_found_and_taken_out() {
    for (target, left) in [
        ("/m:generate?key=AIza&alt=sse", "/m:generate?alt=sse"),
        ("/m?alt=sse&%6bey=AIza", "/m?alt=sse"),
        ("/m?key=a", "/m"),
        ("/m?key", "/m"),
        ("/m?X-Amz-Credential=a&X-Amz-Signature=b&x=1", "/m?x=1"),
        ("/m?X-Goog-Credential=a&X-Goog-Signature=b&x=1", "/m?x=1"),
        ("/m?sv=1&sig=b&code=c", "/m?sv=1"),
        ("/m?a=%20+&monkey=1&&x", "/m?a=%20+&monkey=1&&x"),
        ("/m?", "/m?"),
        ("/key=1", "/key=1"),
    ] {
        assert_eq!(without_parameters(target.as_bytes()), left.as_bytes(), "{target}");
        let query = target.split_once('?').map(|(_, query)| query);
        assert_eq!(is_present(&HeaderMap::new(), query), target != left, "{target}");
    }
    assert_eq!(only_parameters("alt=sse&key=a&%6bey=b"), "key=a&%6bey=b");
}
