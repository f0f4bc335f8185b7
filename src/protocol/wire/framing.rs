//! How the body of an answer is divided into pieces, determined by its head.

/// The framing of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, `text/event-stream`.
    Sse,
    /// One JSON value per line.
    Ndjson,
    /// Binary messages, `application/vnd.amazon.eventstream`.
    BinaryEvents,
    /// One JSON value.
    Json,
    /// One JSON value per message of a WebSocket. Set after an upgrade, never by a head.
    Messages,
    /// Cannot be read here: another type, or a compressed body.
    Opaque,
}

impl Framing {
    /// True for a body of many events, each complete in itself.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Sse | Self::Ndjson | Self::BinaryEvents)
    }

    /// Returns the framing for an answer's `Content-Type` and `Content-Encoding`.
    pub fn of(content_type: Option<&str>, content_encoding: Option<&str>) -> Self {
        let encoding = content_encoding.map_or("", str::trim);
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            return Self::Opaque;
        }
        let media = content_type.unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| media.eq_ignore_ascii_case(name);
        if is("text/event-stream") {
            Self::Sse
        } else if [
            "application/x-ndjson",
            "application/ndjson",
            "application/jsonl",
            "application/x-jsonlines",
            "application/jsonlines",
        ]
        .into_iter()
        .any(is)
        {
            Self::Ndjson
        } else if is("application/vnd.amazon.eventstream") {
            Self::BinaryEvents
        } else if is("application/json") || has_json_suffix(media) {
            Self::Json
        } else {
            Self::Opaque
        }
    }
}

/// RFC 6839: `application/problem+json` is JSON.
fn has_json_suffix(media: &str) -> bool {
    let start = media.len().saturating_sub("+json".len());
    media.get(start..).is_some_and(|end| end.eq_ignore_ascii_case("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_tells_the_framing() {
        let cases = [
            (Some("text/event-stream"), None, Framing::Sse),
            (Some("Text/Event-Stream; charset=utf-8"), Some("identity"), Framing::Sse),
            (Some("text/event-stream"), Some("gzip"), Framing::Opaque),
            (Some("application/x-ndjson"), None, Framing::Ndjson),
            (Some("application/vnd.amazon.eventstream"), None, Framing::BinaryEvents),
            (Some("application/json; charset=utf-8"), Some(""), Framing::Json),
            (Some("application/problem+JSON"), None, Framing::Json),
            (Some("application/json"), Some("br"), Framing::Opaque),
            (Some("text/html"), None, Framing::Opaque),
            (Some("é"), None, Framing::Opaque),
            (None, None, Framing::Opaque),
        ];
        for (media, encoding, framing) in cases {
            assert_eq!(Framing::of(media, encoding), framing, "{media:?} {encoding:?}");
        }
    }
}
