//! Methods of Pingora's session trait that are the same for each session that wraps another one.

/// Implements the methods of `custom::server::Session` for messages beside the body, which HTTP does not have.
macro_rules! without_messages {
    () => {
        // Written as `async_trait` expands it, since it does not see into a macro.
        fn finish_custom<'life0, 'async_trait>(
            &'life0 mut self,
        ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(std::future::ready(Ok(())))
        }

        fn take_custom_message_reader(
            &mut self,
        ) -> Option<$crate::proxy::downstream::session::forward::MessageReader> {
            None
        }

        fn restore_custom_message_reader(
            &mut self,
            _reader: $crate::proxy::downstream::session::forward::MessageReader,
        ) -> Result<()> {
            Ok(())
        }

        fn take_custom_message_writer(
            &mut self,
        ) -> Option<Box<dyn pingora_core::protocols::http::custom::CustomMessageWrite>> {
            None
        }

        fn restore_custom_message_writer(
            &mut self,
            _writer: Box<dyn pingora_core::protocols::http::custom::CustomMessageWrite>,
        ) -> Result<()> {
            Ok(())
        }
    };
}
pub(super) use without_messages;

/// Implements the methods of `custom::server::Session` for replay: `DownstreamSession` buffers bodies, not the session that it
/// wraps.
macro_rules! without_replay {
    () => {
        fn enable_retry_buffering(&mut self) {}

        fn retry_buffer_truncated(&self) -> bool {
            false
        }

        fn get_retry_buffer(&self) -> Option<Bytes> {
            None
        }
    };
}
pub(super) use without_replay;

/// Implements the methods of `custom::server::Session` that only forward to the wrapped session, by `self.inner()` and
/// `self.inner_mut()`.
macro_rules! forward_to_inner {
    () => {
        fn set_write_timeout(&mut self, limit: Option<Duration>) {
            self.inner_mut().set_write_timeout(limit);
        }

        fn get_write_timeout(&self) -> Option<Duration> {
            self.inner().get_write_timeout()
        }

        fn set_total_drain_timeout(&mut self, limit: Option<Duration>) {
            self.inner_mut().set_total_drain_timeout(limit);
        }

        fn get_total_drain_timeout(&self) -> Option<Duration> {
            self.inner().get_total_drain_timeout()
        }

        fn request_summary(&self) -> String {
            self.inner().request_summary()
        }

        fn body_bytes_sent(&self) -> usize {
            self.inner().body_bytes_sent()
        }

        fn body_bytes_read(&self) -> usize {
            self.inner().body_bytes_read()
        }

        fn digest(&self) -> Option<&Digest> {
            self.inner().digest()
        }

        fn digest_mut(&mut self) -> Option<&mut Digest> {
            self.inner_mut().digest_mut()
        }

        fn client_addr(&self) -> Option<&SocketAddr> {
            self.inner().client_addr()
        }

        fn server_addr(&self) -> Option<&SocketAddr> {
            self.inner().server_addr()
        }
    };
}
pub(super) use forward_to_inner;

/// Messages beside the body, as Pingora's session trait names them.
pub(super) type MessageReader =
    Box<dyn futures::Stream<Item = pingora_core::Result<bytes::Bytes>> + Unpin + Send + Sync + 'static>;
