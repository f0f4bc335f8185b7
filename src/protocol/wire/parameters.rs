//! The parameters of header fields such as `Content-Disposition` and `Content-Type`, in every notation.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters of a field such as `Content-Disposition: form-data; name="user"` (RFC 7578), as pairs.
fn parameters(field: &str) -> Vec<(String, String)> {
    let mut pairs = vec![(String::new(), String::new())];
    let (mut is_quoted, mut is_value) = (false, false);
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        let Some((name, value)) = pairs.last_mut() else { break };
        let part = if is_value { value } else { name };
        match letter {
            '\\' if is_quoted => part.extend(letters.next()),
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => {
                pairs.push((String::new(), String::new()));
                is_value = false;
            }
            '=' if !is_value => is_value = true,
            letter => part.push(letter),
        }
    }
    pairs
}

/// Returns all values of a parameter, because programs differ in which one they prefer: `name=user`, the notation of RFC
/// 8187 (`name*=UTF-8''user`), and sections (RFC 2231: `name*0=us; name*1=er`), which are joined.
pub fn values(field: &str, wanted: &str) -> Vec<String> {
    let (mut found, mut sections) = (Vec::new(), String::new());
    for (name, value) in parameters(field) {
        // The first parameter may follow the field's own value without a semicolon.
        let name = name.trim_end().rsplit([' ', '\t', ':']).next().unwrap_or_default();
        let (base, section) = name.split_once('*').unwrap_or((name, ""));
        if !base.eq_ignore_ascii_case(wanted) {
            continue;
        }
        let mut value = value.trim().to_owned();
        if name.ends_with('*') {
            value = percent_decoded(value.splitn(3, '\'').nth(2).unwrap_or(&value)).into_owned();
        }
        if section.starts_with(|digit: char| digit.is_ascii_digit()) {
            sections.push_str(&value);
        } else {
            found.push(value);
        }
    }
    found.push(sections);
    found.retain(|value| !value.is_empty());
    found
}

/// Decodes percent-encoding. Invalid UTF-8 in the result is replaced.
pub fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
