//! A request body kept for replay.

use bytes::{Bytes, BytesMut};

/// The body bytes kept for replay. A body of one chunk, the usual case, is never copied.
#[derive(Default)]
pub(super) struct ReplayBuffer {
    whole: Option<Bytes>,
    parts: BytesMut,
    released: bool,
}

impl ReplayBuffer {
    /// Keeps one more chunk.
    pub(super) fn keep(&mut self, chunk: &Bytes) {
        if self.released {
            return;
        }
        if self.parts.is_empty() && self.whole.is_none() {
            self.whole = Some(chunk.clone());
            return;
        }
        if let Some(first) = self.whole.take() {
            self.parts.extend_from_slice(&first);
        }
        self.parts.extend_from_slice(chunk);
    }

    /// The body has ended: from here on it is handed out without copying.
    pub(super) fn seal(&mut self) {
        if !self.parts.is_empty() {
            self.whole = Some(std::mem::take(&mut self.parts).freeze());
        }
    }

    /// Nothing will be sent again: the memory is free.
    pub(super) fn release(&mut self) {
        *self = Self { released: true, ..Self::default() };
    }

    /// True once nothing can be sent again.
    pub(super) fn is_released(&self) -> bool {
        self.released
    }

    /// The whole body, once it is sealed (or of one chunk).
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
                buffer.keep(&Bytes::from(chunk.clone()));
            }
            buffer.seal();
            let whole = buffer.whole().map(|bytes| bytes.to_vec()).unwrap_or_default();
            prop_assert_eq!(whole, chunks.concat());
        }
    }

    #[test]
    fn one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"the only one");
        let mut buffer = ReplayBuffer::default();
        buffer.keep(&chunk);
        buffer.seal();
        assert_eq!(buffer.whole().map(|bytes| bytes.as_ptr()), Some(chunk.as_ptr()));
    }

    #[test]
    fn what_is_released_stays_so() {
        let mut buffer = ReplayBuffer::default();
        buffer.keep(&Bytes::from_static(b"a"));
        buffer.release();
        buffer.keep(&Bytes::from_static(b"b"));
        buffer.seal();
        assert!(buffer.is_released() && buffer.whole().is_none());
    }
}
