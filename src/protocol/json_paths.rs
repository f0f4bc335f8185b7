//! The paths a scanner looks for, as a tree of keys.

/// The root in [`PathSet::nodes`].
pub(super) const ROOT: u32 = 0;

/// A set of dotted paths (`usage.input_tokens`), each known by its position.
#[derive(Debug)]
pub struct PathSet {
    nodes: Vec<Node>,
    /// Keys are compared without regard to ASCII case.
    fold: bool,
    /// The paths are also looked for in each element of a root array.
    elements: bool,
    /// How many paths there are.
    len: usize,
}

/// One key on the way to a path.
#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<[u8]>, u32)>,
    /// Positions of the paths that end here.
    ids: Vec<usize>,
}

impl PathSet {
    /// The longest path, in keys; a longer one is taken but never matches.
    pub const MAX_DEPTH: usize = 4;

    /// The set of these paths. A path's index is its position; equal paths are each reported.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::build(paths, false)
    }

    /// The same, but `Model` matches `model`: servers in Go read keys so.
    pub fn ignoring_case(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::build(paths, true)
    }

    fn build(paths: impl IntoIterator<Item = impl AsRef<str>>, fold: bool) -> Self {
        let mut set = Self { nodes: vec![Node::default()], fold, elements: false, len: 0 };
        for path in paths {
            set.insert(path.as_ref().split('.'));
        }
        set
    }

    /// The same with one more path, for keys that have dots themselves.
    pub fn and_keys(mut self, keys: &[&str]) -> Self {
        self.insert(keys.iter().copied());
        self
    }

    /// The same, but when the root is an array the paths begin in each object in it.
    pub fn in_elements(self) -> Self {
        Self { elements: true, ..self }
    }

    /// Whether a root array's elements are looked into.
    pub(super) fn follows_elements(&self) -> bool {
        self.elements
    }

    fn insert<'k>(&mut self, keys: impl Iterator<Item = &'k str> + Clone) {
        let id = self.len;
        self.len += 1;
        if keys.clone().count() > Self::MAX_DEPTH {
            return;
        }
        let mut at = ROOT;
        for key in keys {
            at = match self.child(at, key.as_bytes()) {
                Some(next) => next,
                None => {
                    let next = self.nodes.len() as u32;
                    self.nodes.push(Node::default());
                    self.nodes[at as usize].children.push((key.as_bytes().into(), next));
                    next
                }
            };
        }
        self.nodes[at as usize].ids.push(id);
    }

    /// The node that `key` leads to.
    pub(super) fn child(&self, node: u32, key: &[u8]) -> Option<u32> {
        let same = |name: &[u8]| if self.fold { name.eq_ignore_ascii_case(key) } else { name == key };
        self.nodes[node as usize].children.iter().find(|(name, _)| same(name)).map(|(_, next)| *next)
    }

    /// True when longer paths go through `node`.
    pub(super) fn has_children(&self, node: u32) -> bool {
        !self.nodes[node as usize].children.is_empty()
    }

    /// Positions of the paths that end at `node`.
    pub(super) fn ids(&self, node: u32) -> &[usize] {
        &self.nodes[node as usize].ids
    }
}
