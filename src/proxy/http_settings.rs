//! The sections `security.acl`, `compression:` and `server.security_headers`, compiled together.

use std::sync::Arc;

use super::compression_settings::{Compression, CompressionConfig};
use super::security_headers::{SecurityHeaders, SecurityHeadersConfig};
use crate::settings::acl::{Acl, AclConfig};
use crate::settings::fault::Faults;

/// The compiled sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Header fields that tell browsers what not to do with an answer.
    pub security_headers: Arc<SecurityHeaders>,
    /// Which answers are compressed; `None` for none.
    pub compression: Option<Arc<Compression>>,
    /// Clients whose requests are accepted.
    pub acl: Arc<Acl>,
}

/// Compiles the sections. Reports every fault; `None` after any.
pub(super) fn compile(
    headers: SecurityHeadersConfig,
    acl: AclConfig,
    compression: CompressionConfig,
    faults: &mut Faults,
) -> Option<HttpSettings> {
    let (security_headers, compression) = (headers.compile(faults), compression.compile(faults));
    let acl = acl.compile("security.acl", faults);
    Some(HttpSettings { security_headers: security_headers?, compression: compression?, acl: Arc::new(acl?) })
}
