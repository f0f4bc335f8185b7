//! Recorded streams, and ways to cut them into pieces.

use std::path::Path;

/// One file of `tests/recordings/`.
#[derive(Clone, Debug)]
pub struct Recording {
    pub name: String,
    pub content_type: &'static str,
    /// The path on which a client asks for it.
    pub path: &'static str,
    pub bytes: Vec<u8>,
}

impl Recording {
    /// All of them, by name.
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let files = std::fs::read_dir(&folder).expect("the recordings");
        let mut all: Vec<Self> = files.map(|file| Self::read(&file.expect("a recording").path())).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        assert!(all.len() >= 12, "recordings of all dialects");
        all
    }

    fn read(file: &Path) -> Self {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let content_type = match name.rsplit('.').next() {
            Some("sse") => "text/event-stream",
            Some("ndjson") => "application/x-ndjson",
            _ => "application/json",
        };
        let path = match name.split('_').next() {
            Some("anthropic") => "/v1/messages",
            Some("responses") => "/v1/responses",
            Some("ollama") => "/api/chat",
            _ => "/v1/chat/completions",
        };
        Self { content_type, path, bytes: std::fs::read(file).expect("the recording"), name }
    }
}

/// A small generator of reproducible pseudo-random numbers (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 1 to `limit`.
    pub fn roll(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).expect("a small number") + 1
    }

    /// `bytes` in pieces of random sizes up to `largest`.
    pub fn cut<'a>(&mut self, bytes: &'a [u8], largest: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut left = bytes;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(self.roll(largest).min(left.len()));
            pieces.push(piece);
            left = rest;
        }
        pieces
    }

    /// Random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.roll(256) - 1).expect("a byte")).collect()
    }
}
