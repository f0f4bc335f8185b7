//! The known word nearest to a mistyped one.

use strsim::levenshtein;

/// A hint for a word that is not known: the nearest known one, else the list of all.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(word, &known) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => String::new(),
        None => format!("known are {}", known.join(", ")),
    }
}

/// The nearest known word: at most a third of its letters (and at least two) may be wrong.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distances = known.iter().map(|&name| (levenshtein(&word, &name.to_lowercase()), name));
    let (wrong, name) = distances.min_by_key(|&(wrong, _)| wrong)?;
    (wrong <= (name.len() / 3).max(2) && wrong < name.len()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_offered_and_a_far_one_is_not() {
        let known = ["listen", "backends", "session"];
        assert_eq!(did_you_mean("lisen", known), "did you mean listen?");
        assert_eq!(did_you_mean("Backend", known), "did you mean backends?");
        assert_eq!(did_you_mean("telemetry", known), "known are listen, backends, session");
        assert_eq!(did_you_mean("x", []), "");
    }
}
