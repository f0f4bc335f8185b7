//! The scanner of request bodies: any chunking of the same bytes gives the same call, and for a whole
//! JSON text the model is the one serde_json reads.
#![no_main]

use std::sync::Arc;

use elida::protocol::request::{ModelRequest, RequestPaths, RequestScan};
use elida::protocol::request::rewrite_model;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn scan<'a>(paths: &Arc<RequestPaths>, chunks: impl Iterator<Item = &'a [u8]>) -> ModelRequest {
    let mut scan = RequestScan::new(paths);
    chunks.for_each(|chunk| scan.feed(chunk));
    scan.finish()
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, body) = input;
    let paths = Arc::new(RequestPaths::new(&["metadata.user_id".to_owned(), "a.b.c".to_owned()]));
    let whole = scan(&paths, std::iter::once(body));
    assert_eq!(whole, scan(&paths, body.chunks(usize::from(size).max(1))));
    let Ok(Value::Object(parsed)) = serde_json::from_slice(body) else { return };
    assert!(!whole.malformed, "valid JSON is not malformed");
    // Keys match in any case, and the last of several wins: only the plain case is compared.
    let same = |key: &&String| key.eq_ignore_ascii_case("model");
    let plain = parsed.keys().filter(same).count() == 1 && !whole.model_doubled;
    if let (true, Some(Value::String(model))) = (plain, parsed.get("model")) {
        // A model that is longer than the scanner keeps is none.
        assert!(whole.model.as_ref() == Some(model) || body.len() > 4096);
        if whole.model.is_some() {
            let renamed = rewrite_model(body, "other").expect("there is a model");
            let mut expected = parsed.clone();
            expected.insert(parsed.keys().find(same).expect("a key").clone(), "other".into());
            assert_eq!(serde_json::from_slice::<Value>(&renamed).expect("still JSON"), Value::Object(expected));
        }
    }
});
