//! What an operator wants forgotten.

use globset::{Glob, GlobMatcher};

use super::store::host_of;

/// A pattern for the URLs of entries.
#[derive(Clone, Debug)]
pub struct PurgePattern {
    text: String,
    /// `None` for everything.
    glob: Option<GlobMatcher>,
}

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Entries.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PurgePattern {
    /// Everything.
    pub fn everything() -> Self {
        Self { text: String::new(), glob: None }
    }

    /// A glob for hosts, `host/path`, or whole URLs.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let glob = Glob::new(text).map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), glob: Some(glob.compile_matcher()) })
    }

    /// The pattern in the form in which instances tell it each other: as it was written; empty for everything.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads [`Self::text`] of another instance.
    pub fn told(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self::everything()) } else { Self::new(text).ok() }
    }

    /// Returns whether an entry of this URL is meant.
    pub fn matches(&self, url: &str) -> bool {
        let Some(glob) = &self.glob else { return true };
        let host = host_of(url);
        let below = url.split_once("://").map_or(url, |(_, rest)| rest);
        let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        [url, below, host].into_iter().chain(bare.map(|(name, _)| name)).any(|text| glob.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_hosts_paths_or_urls() {
        let url = "http://files.example.com:8080/a/b.json?x=1";
        for pattern in [
            "*.example.com",
            "files.example.com:8080",
            "files.example.com:8080/a/*",
            "*/a/b.json*",
            "http://*",
            "http://files.example.com:8080/a/b.json?x=1",
            "*",
        ] {
            assert!(PurgePattern::new(pattern).unwrap().matches(url), "{pattern}");
        }
        for pattern in
            ["example.com", "*.example.org", "files.example.com/a/*", "/a/b.json", "b.json", "https://*"]
        {
            assert!(!PurgePattern::new(pattern).unwrap().matches(url), "{pattern}");
        }
        assert!(PurgePattern::everything().matches(url));
        assert!(PurgePattern::new("[").is_err());
        assert!(PurgePattern::told("").unwrap().matches(url));
    }
}
