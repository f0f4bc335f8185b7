//! The paths a scanner looks for, as a tree of keys.

/// The root in [`PathSet::nodes`].
pub(super) const ROOT: u32 = 0;

/// What the scanner reports of the value at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A scalar, whole; a long one is dropped.
    Scalar,
    /// A value of any length and kind, in parts as they come: a string unescaped, all else as written.
    Parts,
    /// That the object or array has ended.
    End,
}

/// A set of dotted paths (`usage.input_tokens`, `choices[].finish_reason`), each known by its position.
/// `[]` matches every element of an array.
#[derive(Debug)]
pub struct PathSet {
    nodes: Vec<Node>,
    /// Keys are compared without regard to ASCII case.
    fold: bool,
    /// Members that are there twice are told.
    tells_doubled: bool,
    /// How many paths there are.
    len: usize,
}

/// One key, or the elements of an array, on the way to a path.
#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<Child>,
    /// Its place among the children of the node around it.
    place: u32,
    /// The [`mark`]s of their keys.
    marks: u64,
    /// The node of the elements, when the value is an array.
    items: Option<u32>,
    /// Positions of the paths that want a scalar here.
    scalars: Vec<usize>,
    parts: Option<usize>,
    end: Option<usize>,
}

/// A key and the node it leads to.
#[derive(Clone, Debug)]
struct Child {
    /// [`tag`] of the key, without case where the set ignores it: keys that differ mostly differ in it.
    tag: u64,
    key: Box<[u8]>,
    node: u32,
}

/// The beginning of a key in one number, and the end of a shorter one than eight bytes: of two keys with the same length that
/// differ, few have the same.
#[inline]
fn tag(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk() {
        return u64::from_le_bytes(*first);
    }
    match (key.first_chunk(), key.last_chunk()) {
        (Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
        }
        _ => key.iter().fold(1, |tag, byte| tag << 8 | u64::from(*byte)),
    }
}

/// A [`tag`] that is the same for letters of either case, and for some other bytes.
#[inline]
fn folded(tag: u64) -> u64 {
    tag | u64::from_ne_bytes([0x20; 8])
}

/// A key with the two letters outside ASCII that are the same as one of ASCII when case is ignored, as Go's `encoding/json` does;
/// `None` if it has others.
#[cold]
fn plain_letters(key: &[u8]) -> Option<Vec<u8>> {
    let key = std::str::from_utf8(key).ok()?;
    let plain = key.replace('\u{17f}', "s").replace('\u{212a}', "k");
    plain.is_ascii().then(|| plain.into_bytes())
}

/// One bit for the length and the first letter of a key, in either case. Most keys that lead nowhere have another one than the
/// few that do.
#[inline]
fn mark(key: &[u8]) -> u64 {
    let first = key.first().map_or(0, |first| usize::from(first | 0x20));
    1 << ((5 * key.len() + first) % 64)
}

impl PathSet {
    /// The longest path, in keys and `[]`; a longer one is taken but never matches.
    pub const MAX_DEPTH: usize = 8;

    /// The set of these paths to scalars. A path's index is its position; equal paths are each reported.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::build(paths.into_iter().map(|path| (path, Some(Want::Scalar))), false)
    }

    /// The same, but `Model` matches `model`: servers in Go read keys so.
    pub fn ignoring_case(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::build(paths.into_iter().map(|path| (path, Some(Want::Scalar))), true)
    }

    /// The same, with what is wanted of each path.
    pub fn ignoring_case_wanting(paths: impl IntoIterator<Item = (impl AsRef<str>, Want)>) -> Self {
        Self::build(paths.into_iter().map(|(path, want)| (path, Some(want))), true)
    }

    /// The set of these paths; one of which nothing is wanted only takes its position. Parts and ends are
    /// reported to the last of equal paths.
    pub fn wanting(paths: impl IntoIterator<Item = (impl AsRef<str>, Option<Want>)>) -> Self {
        Self::build(paths, false)
    }

    /// The same in any case; members that are there twice, in whatever case, are told ([`super::scan::Scanner::is_ambiguous`]).
    pub fn telling_doubled(paths: impl IntoIterator<Item = (impl AsRef<str>, Option<Want>)>) -> Self {
        Self { tells_doubled: true, ..Self::build(paths, true) }
    }

    fn build(paths: impl IntoIterator<Item = (impl AsRef<str>, Option<Want>)>, fold: bool) -> Self {
        let mut set = Self { nodes: vec![Node::default()], fold, tells_doubled: false, len: 0 };
        for (path, want) in paths {
            let path = path.as_ref();
            let depth = path.split('.').count() + path.matches("[]").count();
            if let Some(want) = want.filter(|_| depth <= Self::MAX_DEPTH) {
                set.insert(path, want);
            }
            set.len += 1;
        }
        set
    }

    /// The same with one more path to a scalar, for keys that have dots themselves.
    pub fn and_keys(mut self, keys: &[&str]) -> Self {
        if keys.len() <= Self::MAX_DEPTH {
            let at = keys.iter().fold(ROOT, |at, key| self.step(at, key.as_bytes()));
            self.nodes[at as usize].scalars.push(self.len);
        }
        self.len += 1;
        self
    }

    /// The same, which reports the end of an object or array in the place of the scalar at this path, too.
    pub fn and_end(mut self, key: &str, path: usize) -> Self {
        if let Some(node) = self.child(ROOT, key.as_bytes()) {
            self.nodes[node as usize].end.get_or_insert(path);
        }
        self
    }

    /// The same, but when the root is an array the paths begin in each object in it.
    pub fn in_elements(mut self) -> Self {
        // Arrays in that array are not followed: the depth would have no end.
        let element = Node { items: None, ..self.nodes[ROOT as usize].clone() };
        self.nodes[ROOT as usize].items = Some(self.nodes.len() as u32);
        self.nodes.push(element);
        self
    }

    fn insert(&mut self, path: &str, want: Want) {
        let mut at = ROOT;
        for step in path.split('.') {
            let key = step.trim_end_matches("[]");
            // `[].a` begins with the elements of the root.
            if !key.is_empty() || step.is_empty() {
                at = self.step(at, key.as_bytes());
            }
            for _ in 0..(step.len() - key.len()) / 2 {
                at = self.items(at).unwrap_or_else(|| {
                    let next = self.add();
                    self.nodes[at as usize].items = Some(next);
                    next
                });
            }
        }
        let node = &mut self.nodes[at as usize];
        match want {
            Want::Scalar => node.scalars.push(self.len),
            Want::Parts => node.parts = Some(self.len),
            Want::End => node.end = Some(self.len),
        }
    }

    /// The node that `key` leads to, made when there is none.
    fn step(&mut self, at: u32, key: &[u8]) -> u32 {
        self.child(at, key).unwrap_or_else(|| {
            let next = self.add();
            let parent = &mut self.nodes[at as usize];
            parent.marks |= mark(key);
            let tag = if self.fold { folded(tag(key)) } else { tag(key) };
            let place = parent.children.len() as u32;
            parent.children.push(Child { tag, key: key.into(), node: next });
            self.nodes[next as usize].place = place;
            next
        })
    }

    fn add(&mut self) -> u32 {
        self.nodes.push(Node::default());
        self.nodes.len() as u32 - 1
    }

    /// The node that `key` leads to.
    #[inline]
    pub(super) fn child(&self, node: u32, key: &[u8]) -> Option<u32> {
        let Node { children, marks, .. } = &self.nodes[node as usize];
        if self.fold && !key.is_ascii() && !children.is_empty() {
            return self.child(node, &plain_letters(key)?);
        }
        if marks & mark(key) == 0 {
            return None;
        }
        let tag = tag(key);
        let found = if self.fold {
            let tag = folded(tag);
            children.iter().find(|child| child.tag == tag && child.key.eq_ignore_ascii_case(key))
        } else {
            children.iter().find(|child| child.tag == tag && *child.key == *key)
        };
        found.map(|child| child.node)
    }

    /// Whether members that are there twice are told.
    pub(super) fn tells_doubled(&self) -> bool {
        self.tells_doubled
    }

    /// The bit of a member among those of its object; none for those behind the first 64.
    #[inline]
    pub(super) fn bit(&self, node: u32) -> u64 {
        1_u64.checked_shl(self.nodes[node as usize].place).unwrap_or(0)
    }

    /// The node of an array's elements.
    #[inline]
    pub(super) fn items(&self, node: u32) -> Option<u32> {
        self.nodes[node as usize].items
    }

    /// True when an object at `node` must be read.
    pub(super) fn follows_object(&self, node: u32) -> bool {
        let node = &self.nodes[node as usize];
        !node.children.is_empty() || node.end.is_some()
    }

    /// True when an array at `node` must be read.
    pub(super) fn follows_array(&self, node: u32) -> bool {
        let node = &self.nodes[node as usize];
        node.items.is_some() || node.end.is_some()
    }

    /// The path that wants to know the end of a list at `node`.
    pub(super) fn end_of_list(&self, node: u32) -> Option<usize> {
        let node = &self.nodes[node as usize];
        node.end.filter(|_| node.items.is_some())
    }

    /// Positions of the paths that want a scalar at `node`.
    pub(super) fn scalars(&self, node: u32) -> &[usize] {
        &self.nodes[node as usize].scalars
    }

    /// The path that wants the parts of the value at `node`.
    pub(super) fn parts(&self, node: u32) -> Option<usize> {
        self.nodes[node as usize].parts
    }

    /// The path that wants to know when the container at `node` ends.
    pub(super) fn end(&self, node: u32) -> Option<usize> {
        self.nodes[node as usize].end
    }
}
