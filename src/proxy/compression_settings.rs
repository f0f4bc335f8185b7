//! The `compression:` section: which answers of backends are compressed for clients.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::wire::encoder::Algorithm;
use crate::settings::fault::Faults;
use crate::settings::units::ByteSize;

/// The `compression:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Compression")]
pub struct CompressionConfig {
    /// Whether answers of backends of type `http` are compressed for clients that accept it.
    pub enabled: bool,
    /// The codings; of those that a client likes the same, the first one is used.
    pub algorithms: Vec<Algorithm>,
    /// From 1 (fast) to 9 (small).
    pub level: u8,
    /// The shortest body that is compressed, where its length is known.
    pub min_size: ByteSize,
    /// Media types of bodies that are compressed; `text/*` is all types of text.
    pub types: Vec<String>,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            algorithms: Algorithm::ALL.to_vec(),
            level: 4,
            min_size: ByteSize::kib(1),
            types: vec!["application/json".into(), "text/*".into()],
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) level: u8,
    pub(super) min_size: u64,
    types: Vec<MediaRange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum MediaRange {
    /// In lower case, with the slash: `text/`.
    Type(String),
    /// In lower case.
    Exact(String),
}

impl Compression {
    /// Returns whether bodies of this media type are compressed.
    pub(super) fn covers(&self, media: &str) -> bool {
        self.types.iter().any(|range| match range {
            MediaRange::Exact(exact) => media.eq_ignore_ascii_case(exact),
            MediaRange::Type(start) => {
                media.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start))
            }
        })
    }
}

impl CompressionConfig {
    /// Compiles the section; the inner `None` compresses nothing. Reports every fault; `None` after any.
    pub(super) fn compile(self, faults: &mut Faults) -> Option<Option<Arc<Compression>>> {
        let types = self.types.iter().enumerate();
        let types: Vec<Option<MediaRange>> = types.map(|(at, text)| media_range(at, text, faults)).collect();
        let types: Option<Vec<MediaRange>> = types.into_iter().collect();
        let mut good = true;
        if !(1..=9).contains(&self.level) {
            good = false;
            let message = format!("{} is not from 1 to 9", self.level);
            faults.add("compression.level", message, "1 is fast, 9 is small; 4 is a good middle");
        }
        if self.enabled && self.algorithms.is_empty() {
            good = false;
            let hint = "write some of zstd, br, gzip, or compression.enabled: false";
            faults.add("compression.algorithms", "there is none to compress with", hint);
        }
        let types = types.filter(|_| good)?;
        let min_size = self.min_size.as_len() as u64;
        let compression = Compression { algorithms: self.algorithms, level: self.level, min_size, types };
        Some(self.enabled.then(|| Arc::new(compression)))
    }
}

fn media_range(at: usize, text: &str, faults: &mut Faults) -> Option<MediaRange> {
    let is_token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let range = text.to_ascii_lowercase();
    match range.split_once('/') {
        Some((kind, "*")) if is_token(kind) => Some(MediaRange::Type(format!("{kind}/"))),
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => Some(MediaRange::Exact(range)),
        _ => {
            let message = format!("'{text}' is not a media type");
            faults.add(
                format!("compression.types[{at}]"),
                message,
                "write it like application/json or text/*",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_compared_without_case_and_as_a_whole() {
        let config = CompressionConfig { enabled: true, ..Default::default() };
        let compression = config.compile(&mut Faults::default()).unwrap().unwrap();
        for (media, is_covered) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("text/html", true),
            ("TEXT/plain", true),
            ("application/json-seq", false),
            ("textual/x", false),
            ("text", false),
            ("téxt/x", false),
            ("", false),
        ] {
            assert_eq!(compression.covers(media), is_covered, "{media}");
        }
        assert_eq!(CompressionConfig::default().compile(&mut Faults::default()), Some(None));
    }

    #[test]
    fn every_fault_is_told() {
        let config = CompressionConfig {
            enabled: true,
            algorithms: Vec::new(),
            level: 11,
            types: vec!["*/*".into(), "json".into(), "text/*".into()],
            ..Default::default()
        };
        let mut faults = Faults::default();
        assert_eq!(config.compile(&mut faults), None);
        assert_eq!(
            faults.to_string(),
            "compression.types[0]: '*/*' is not a media type (write it like application/json or text/*)\n\
             compression.types[1]: 'json' is not a media type (write it like application/json or text/*)\n\
             compression.level: 11 is not from 1 to 9 (1 is fast, 9 is small; 4 is a good middle)\n\
             compression.algorithms: there is none to compress with \
             (write some of zstd, br, gzip, or compression.enabled: false)"
        );
    }
}
