//! Buffers a request body for replay.

use bytes::{Bytes, BytesMut};

/// The most bytes that memory is reserved for before they have come.
const MAX_RESERVED: u64 = 1 << 20;

/// Body bytes kept for replay. A body of one chunk, the usual case, is never copied.
#[derive(Default)]
pub(super) struct ReplayBuffer {
    whole: Option<Bytes>,
    parts: BytesMut,
    released: bool,
}

impl ReplayBuffer {
    /// Appends a chunk. `left` bytes are still to come, as far as that is known.
    pub(super) fn push(&mut self, chunk: &Bytes, left: u64) {
        if self.released {
            return;
        }
        if self.parts.is_empty() && self.whole.is_none() {
            self.whole = Some(chunk.clone());
            return;
        }
        if let Some(first) = self.whole.take() {
            let left = usize::try_from(left.min(MAX_RESERVED)).unwrap_or(0);
            self.parts.reserve(first.len() + chunk.len() + left);
            self.parts.extend_from_slice(&first);
        }
        self.parts.extend_from_slice(chunk);
    }

    /// Marks the end of what is kept, which is then available from [`ReplayBuffer::whole`].
    pub(super) fn finish(&mut self) {
        if !self.parts.is_empty() {
            self.whole = Some(std::mem::take(&mut self.parts).freeze());
        }
    }

    /// Frees the memory; nothing can be replayed from here on.
    pub(super) fn release(&mut self) {
        *self = Self { released: true, ..Self::default() };
    }

    /// Whether the buffer was released.
    pub(super) fn is_released(&self) -> bool {
        self.released
    }

    /// Returns all that is kept; `None` before its end, unless it is one chunk so far.
    pub(super) fn whole(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunks_come_back_whole(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10)) {
            let mut buffer = ReplayBuffer::default();
            for chunk in &chunks {
                buffer.push(&Bytes::from(chunk.clone()), 20);
            }
            buffer.finish();
            let whole = buffer.whole().map(|bytes| bytes.to_vec()).unwrap_or_default();
            prop_assert_eq!(whole, chunks.concat());
        }
    }

    #[test]
    fn one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"the only one");
        let mut buffer = ReplayBuffer::default();
        buffer.push(&chunk, 0);
        buffer.finish();
        assert_eq!(buffer.whole().map(|bytes| bytes.as_ptr()), Some(chunk.as_ptr()));
    }

    #[test]
    fn what_is_released_stays_so() {
        let mut buffer = ReplayBuffer::default();
        buffer.push(&Bytes::from_static(b"a"), 0);
        buffer.release();
        buffer.push(&Bytes::from_static(b"b"), 0);
        buffer.finish();
        assert!(buffer.is_released() && buffer.whole().is_none());
    }
}
