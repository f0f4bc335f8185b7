//! The files of the page, built into the program.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

/// What the page may load and where it may be shown: only its own files, and nowhere else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);
const HTML: &str = "text/html; charset=utf-8";
const MODULE: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A file: its path, its media type and its bytes.
struct File(&'static str, &'static str, &'static [u8]);

/// Names a file of `assets/` by its path below `/assets/`.
macro_rules! file {
    ($name:literal, $media:expr) => {
        File(concat!("/assets/", $name), $media, include_bytes!(concat!("assets/", $name)))
    };
}

/// Every file. `/` is the page itself.
const FILES: &[File] = &[
    File("/", HTML, include_bytes!("assets/index.html")),
    file!("style.css", STYLE),
    file!("icon.svg", PICTURE),
    file!("app.mjs", MODULE),
    file!("api.mjs", MODULE),
    file!("state.mjs", MODULE),
    file!("live.mjs", MODULE),
    file!("kill.mjs", MODULE),
    file!("session.mjs", MODULE),
    file!("login.mjs", MODULE),
    file!("history.mjs", MODULE),
    file!("usage.mjs", MODULE),
    file!("approvals.mjs", MODULE),
    file!("findings.mjs", MODULE),
    file!("backends.mjs", MODULE),
    file!("audit.mjs", MODULE),
    file!("settings.mjs", MODULE),
    file!("parts/html.mjs", MODULE),
    file!("parts/table.mjs", MODULE),
    file!("parts/chart.mjs", MODULE),
    file!("parts/timeline.mjs", MODULE),
    file!("parts/dialog.mjs", MODULE),
    file!("parts/format.mjs", MODULE),
    file!("vendor/preact.mjs", MODULE),
    file!("vendor/hooks.mjs", MODULE),
    file!("vendor/htm.mjs", MODULE),
    file!("vendor/uplot.mjs", MODULE),
    file!("vendor/uplot.css", STYLE),
];

/// A file with its `ETag`.
#[derive(Clone)]
struct Served {
    media: HeaderValue,
    bytes: Bytes,
    tag: HeaderValue,
}

impl Served {
    fn new(media: &'static str, bytes: Bytes) -> Self {
        let digest = HEXLOWER.encode(&Sha256::digest(&bytes));
        let tag = format!("\"{}\"", digest.get(..32).unwrap_or(&digest));
        let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""));
        Self { media: HeaderValue::from_static(media), bytes, tag }
    }
}

static SERVED: LazyLock<HashMap<&'static str, Served>> = LazyLock::new(|| {
    let served =
        FILES.iter().map(|File(path, media, bytes)| (*path, Served::new(media, Bytes::from_static(bytes))));
    served.collect()
});

/// Returns the file at this path. Debug builds read it from the source folder, if that is there, so that a change is seen at once.
fn find(path: &str) -> Option<Served> {
    #[cfg(debug_assertions)]
    {
        let name = if path == "/" { "index.html" } else { path.trim_start_matches("/assets/") };
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/dashboard/assets");
        if let Some(File(_, media, _)) = FILES.iter().find(|File(known, ..)| *known == path)
            && let Ok(bytes) = std::fs::read(std::path::Path::new(folder).join(name))
        {
            return Some(Served::new(media, bytes.into()));
        }
    }
    SERVED.get(path).cloned()
}

/// Returns the paths of all files.
pub(in crate::control) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|File(path, ..)| *path)
}

/// Returns whether this is the path of a file. They need no credential: they are the same for everyone.
pub(in crate::control) fn is_file(path: &str) -> bool {
    SERVED.contains_key(path)
}

/// Returns a file; `None` if there is none with this path. A browser that has it already gets 304.
pub(in crate::control) fn answer(path: &str, asked: &HeaderMap) -> Option<Response> {
    let file = find(path)?;
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known == file.tag);
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Body::from(file.bytes).into_response(),
    };
    let same_origin = HeaderValue::from_static("same-origin");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, file.media);
    headers.insert(header::ETAG, file.tag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
    Some(response)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every file below `assets/`, by its path there.
    fn files(folder: &Path, below: &str, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
            match path.is_dir() {
                true => files(&path, &format!("{name}/"), found),
                false => found.push((name, std::fs::read_to_string(&path).unwrap())),
            }
        }
    }

    fn all() -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/dashboard/assets");
        let mut found = Vec::new();
        files(&folder, "", &mut found);
        found
    }

    #[test]
    fn every_file_is_served_and_all_are_small() {
        for (name, _) in all() {
            let path = match name.as_str() {
                "index.html" => "/".to_owned(),
                name => format!("/assets/{name}"),
            };
            assert!(is_file(&path) || name.starts_with("vendor/VENDOR"), "{name} is not in FILES");
        }
        let bytes: usize = FILES.iter().map(|File(_, _, bytes)| bytes.len()).sum();
        assert!(bytes < 300 << 10, "{bytes} bytes");
    }

    #[test]
    fn what_agents_say_is_never_markup_and_nothing_comes_from_elsewhere() {
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
            "localStorage.setItem(\"token",
            "style=\"",
        ];
        for (name, text) in all().iter().filter(|(name, _)| !name.starts_with("vendor/")) {
            for word in forbidden {
                let is_namespace = name.ends_with(".svg") && word == "http://";
                assert!(!text.contains(word) || is_namespace, "{name} contains {word}");
            }
            assert!(text.lines().count() <= 300, "{name} has more than 300 lines");
        }
    }

    #[test]
    fn vendored_files_are_those_of_the_list() {
        let all = all();
        let (_, list) = all.iter().find(|(name, _)| name == "vendor/VENDOR.toml").unwrap();
        for (name, text) in
            all.iter().filter(|(name, _)| name.starts_with("vendor/") && !name.contains("VENDOR"))
        {
            let digest = HEXLOWER.encode(&Sha256::digest(text));
            let file = name.trim_start_matches("vendor/");
            let entry = list.split("[[file]]").find(|entry| entry.contains(&format!("file = \"{file}\"")));
            let entry = entry.unwrap_or_else(|| panic!("{file} is not in VENDOR.toml"));
            assert!(entry.contains(&digest), "{file} was changed: {digest}");
        }
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let first = answer("/", &HeaderMap::new()).unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        let asked = HeaderMap::from_iter([(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone())]);
        assert_eq!(answer("/", &asked).unwrap().status(), StatusCode::NOT_MODIFIED);
        assert!(answer("/assets/../Cargo.toml", &asked).is_none());
    }
}
