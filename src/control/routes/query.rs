//! The query of a request, key by key.

use crate::control::problem::Problem;
use crate::session::NamedBy;

/// Gives `take` each key with its text; all faults are told at once, keys that are given twice among them.
pub(super) fn read(
    query: &str,
    mut take: impl FnMut(&str, String) -> Result<(), String>,
) -> Result<(), Problem> {
    let (mut faults, mut seen) = (Vec::new(), Vec::new());
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        faults.extend(take(&key, value.into_owned()).err());
        match seen.contains(&key) {
            true => faults.push(format!("'{}' is given twice", key.escape_debug())),
            false => seen.push(key),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Problem::bad_request(faults.join("; "))) }
}

/// The query of a request about one session: `by` says whether its name is a uid or an id. Without it both
/// readings count.
pub(super) fn named_by(query: Option<&str>) -> Result<Option<NamedBy>, Problem> {
    let mut by = None;
    read(query.unwrap_or_default(), |key, text| match (key, text.as_str()) {
        ("by", "uid") => {
            by = Some(NamedBy::Uid);
            Ok(())
        }
        ("by", "id") => {
            by = Some(NamedBy::Id);
            Ok(())
        }
        ("by", _) => Err("by must be uid or id".to_owned()),
        (other, _) => Err(unknown(other)),
    })?;
    Ok(by)
}

/// A number of things on one page, from 1 to `max`.
pub(super) fn limit(text: &str, max: usize) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
    limit.ok_or_else(|| format!("limit must be a number from 1 to {max}"))
}

/// Where the page before ended.
pub(super) fn cursor(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "cursor must be the next_cursor of another page".to_owned())
}

/// What is said of a key that an endpoint does not have.
pub(super) fn unknown(key: &str) -> String {
    format!("'{}' is not a parameter", key.escape_debug())
}
