//! What operators see of a held call: written by whoever is to be approved, so that nothing in it may hide the rest.

use std::fmt::Write;

use crate::policy::scan::is_ignorable;

/// More blanks in a row are counted instead.
const BLANKS: usize = 8;

/// Returns a text in which every character can be seen: control characters and those that are not shown, or turn the direction
/// of the text, as `\u{202e}`, and long rows of blanks as their number. Blanks are those of JSON's escapes, too.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (blanks, bytes) = blanks(rest);
        if blanks > BLANKS {
            let _ = write!(shown, " […{blanks} blanks…] ");
            rest = &rest[bytes..];
            continue;
        }
        let pair = rest.get(..2).filter(|pair| pair.starts_with('\\'));
        let (part, after) = rest.split_at(pair.map_or(first.len_utf8(), str::len));
        match first {
            _ if pair.is_some() || matches!(first, '\n' | '\t') => shown.push_str(part),
            hidden if is_hidden(hidden) => shown.extend(hidden.escape_unicode()),
            _ => shown.push(first),
        }
        rest = after;
    }
    shown
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || is_ignorable(character)
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{2800}')
}

/// Returns how many blanks a text begins with, and in how many bytes.
fn blanks(text: &str) -> (usize, usize) {
    let (mut count, mut rest) = (0, text);
    loop {
        let escaped = ["\\n", "\\t", "\\r"].iter().find_map(|blank| rest.strip_prefix(blank));
        match escaped.or_else(|| rest.strip_prefix(|c: char| c.is_whitespace() || c == '\u{2800}')) {
            Some(after) => (count, rest) = (count + 1, after),
            None => return (count, text.len() - rest.len()),
        }
    }
}

/// Returns both ends of a text of which at most `most` bytes are shown; between them stands how long the `whole` is.
pub fn both_ends(text: &str, most: usize, whole: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let head = &text[..text.floor_char_boundary(most / 2)];
    let tail = &text[text.ceil_char_boundary(text.len() - most / 2)..];
    format!("{head} […{whole} bytes in all…] {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hides_the_rest() {
        for (text, expected) in [
            (r#"{"command":"ls"}"#, r#"{"command":"ls"}"#.to_owned()),
            ("{\n  \"a\": 1\n}", "{\n  \"a\": 1\n}".to_owned()),
            ("ls \u{202e}mr", "ls \\u{202e}mr".to_owned()),
            ("a\u{200b}\u{e0041}\u{0}\u{1b}[2Kb", "a\\u{200b}\\u{e0041}\\u{0}\\u{1b}[2Kb".to_owned()),
            ("ls\r", "ls\\u{d}".to_owned()),
            ("größe 𝒳", "größe 𝒳".to_owned()),
            (r"a\\nb\nc", r"a\\nb\nc".to_owned()),
        ] {
            assert_eq!(visible(text), expected, "{text:?}");
        }
        for blank in [" ", "\n", "\t", "\u{a0}", "\u{3000}", "\u{2800}", r"\n"] {
            let text = format!("ls{}; rm -rf /", blank.repeat(5000));
            assert_eq!(visible(&text), "ls […5000 blanks…] ; rm -rf /", "{blank:?}");
        }
        assert_eq!(visible(&format!("a{}", r"\\n".repeat(20))).matches("blanks").count(), 0, "backslashes");
    }

    #[test]
    fn both_ends_are_shown() {
        let text = format!("begin {} end", "x".repeat(10_000));
        let shown = both_ends(&text, 100, text.len());
        assert!(shown.starts_with("begin x") && shown.ends_with("x end") && shown.len() < 140, "{shown}");
        assert!(shown.contains("[…10010 bytes in all…]"), "{shown}");
        assert_eq!(both_ends("short", 100, 5), "short");
        assert!(both_ends(&"ü".repeat(1000), 101, 2000).contains("ü […2000 bytes in all…] ü"));
    }
}
