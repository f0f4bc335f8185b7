//! What a request to the forward proxy asks for: another host than this gateway.

use crate::forward::Target;

/// The port of `http://` URLs.
pub(super) const HTTP: u16 = 80;
/// The port of `https://` URLs.
pub(super) const HTTPS: u16 = 443;

/// Where a request to the forward proxy wants to go.
pub(crate) struct Forward {
    pub(crate) target: Target,
    /// It is a CONNECT.
    pub(crate) is_tunnel: bool,
    /// It came in a tunnel that was opened.
    pub(crate) is_intercepted: bool,
    /// The user name of its `Proxy-Authorization`.
    pub(super) user: Option<Box<[u8]>>,
}

impl Forward {
    /// Returns what records show in place of a path.
    pub(super) fn shown(&self, path: &str) -> String {
        match self.is_tunnel {
            true => self.target.to_string(),
            false if self.is_intercepted => format!("https://{}{path}", self.target.authority(HTTPS)),
            false => format!("http://{}{path}", self.target.authority(HTTP)),
        }
    }
}
