//! The names under which a model may have a price: `publishers/x/models/gpt-5@20250807` is `gpt-5` with a prefix of the
//! service that sells it and a version.

/// What may precede a model's name, as the price file lists it.
#[derive(Debug, Default)]
pub(super) struct Prefixes(Vec<Prefix>);

/// `head` and, after any text, `tail`; without a `*` in the file, `tail` is `None`.
#[derive(Debug)]
struct Prefix {
    head: String,
    tail: Option<String>,
}

/// The largest number of prefixes that are removed from a name.
const DEPTH: usize = 4;

impl Prefixes {
    pub(super) fn new(texts: &[String]) -> Self {
        let prefix = |text: &String| match text.split_once('*') {
            Some((head, tail)) => Prefix { head: head.to_owned(), tail: Some(tail.to_owned()) },
            None => Prefix { head: text.clone(), tail: None },
        };
        Self(texts.iter().map(prefix).collect())
    }

    /// Returns the name as it is and each shorter name that it may mean, longer names first within one prefix.
    pub(super) fn names<'m>(&self, model: &'m str) -> impl Iterator<Item = &'m str> {
        let whole = std::iter::successors(Some(model), |name| self.strip(name)).take(DEPTH + 1);
        whole.flat_map(|name| std::iter::successors(Some(name), |name| without_version(name)).take(DEPTH + 1))
    }

    /// Removes the longest prefix; `None` if there is none, or nothing behind it.
    fn strip<'m>(&self, model: &'m str) -> Option<&'m str> {
        let rests = self.0.iter().filter_map(|prefix| prefix.strip(model));
        rests.filter(|rest| !rest.is_empty()).min_by_key(|rest| rest.len())
    }
}

impl Prefix {
    fn strip<'m>(&self, model: &'m str) -> Option<&'m str> {
        let (start, rest) = model.split_at_checked(self.head.len())?;
        if !start.eq_ignore_ascii_case(&self.head) {
            return None;
        }
        match &self.tail {
            None => Some(rest),
            Some(tail) => rest.split_once(tail.as_str()).map(|(_, rest)| rest),
        }
    }
}

/// Removes one version from the end of a name: `@20250929`, `@default`, `-v1:0`, `-v2`, `:0`, `-20250929` or
/// `-2025-08-07`. `None` if it ends in none.
fn without_version(name: &str) -> Option<&str> {
    if let Some((name, _)) = name.rsplit_once('@') {
        return (!name.is_empty()).then_some(name);
    }
    if let Some((name, revision)) = name.rsplit_once(':') {
        return is_number(revision).then_some(name);
    }
    let (start, end) = name.rsplit_once('-')?;
    if end.strip_prefix(['v', 'V']).is_some_and(is_number) || (end.len() == 8 && is_number(end)) {
        return Some(start);
    }
    let date = name.len().checked_sub("-2025-08-07".len())?;
    let (start, date) = name.split_at_checked(date)?;
    let is_date = date.bytes().enumerate().all(|(at, byte)| match at {
        0 | 5 | 8 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    (is_date && !start.is_empty()).then_some(start)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'m>(prefixes: &[&str], model: &'m str) -> Vec<&'m str> {
        let texts: Vec<String> = prefixes.iter().map(|text| (*text).to_owned()).collect();
        Prefixes::new(&texts).names(model).collect()
    }

    #[test]
    fn prefixes_and_versions_are_removed_one_by_one() {
        let prefixes = ["models/", "projects/*/models/", "seller/", "us.maker."];
        assert_eq!(names(&prefixes, "gpt-5"), ["gpt-5"]);
        assert_eq!(
            names(&prefixes, "us.maker.m-4-5-20250929-v1:0"),
            [
                "us.maker.m-4-5-20250929-v1:0",
                "us.maker.m-4-5-20250929-v1",
                "us.maker.m-4-5-20250929",
                "us.maker.m-4-5",
                "m-4-5-20250929-v1:0",
                "m-4-5-20250929-v1",
                "m-4-5-20250929",
                "m-4-5",
            ]
        );
        assert_eq!(
            names(&prefixes, "Seller/gpt-5-2025-08-07"),
            ["Seller/gpt-5-2025-08-07", "Seller/gpt-5", "gpt-5-2025-08-07", "gpt-5"]
        );
        let path = "projects/p/locations/eu/publishers/x/models/m@20250929";
        assert_eq!(names(&prefixes, path)[2..], ["m@20250929", "m"]);
        assert_eq!(names(&prefixes, path)[1], "projects/p/locations/eu/publishers/x/models/m");
    }

    #[test]
    fn what_is_no_version_stays() {
        for model in
            ["gpt-5.1-codex-mini", "large-2512", "o3-mini", "llama3:latest", "a:free", "-", "é-2025-08-0"]
        {
            assert_eq!(names(&["models/"], model), [model]);
        }
        assert_eq!(names(&["models/"], "models/"), ["models/"]);
        assert!(names(&["a/"], &"a/".repeat(1000)).len() <= DEPTH + 1);
    }
}
