//! Step 6, continued: which of the client's fields the backend gets. Each field is decided on here and nowhere else, in one
//! pass over the head; `upstream_request` then adds the gateway's own fields.

use http::header::{CONNECTION, SEC_WEBSOCKET_EXTENSIONS};
use http::{HeaderMap, HeaderName};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;

use super::dispatch::Route;
use super::receive::Received;
use super::runtime_settings::RuntimeSettings;
use crate::protocol::dialects::credentials;
use crate::upstream::credentials::Auth;

/// Most options of `Connection`.
const MAX_OPTIONS: usize = 9;

/// Removes from `head` what the backend must not get; `client` is the head as the client sent it, with the `Connection` that
/// Pingora removes from `head` for HTTP/2.
///
/// # Errors
/// `Connection` is invalid, has too many options, or names a field that it must not remove: the request's fault.
pub(super) fn remove(
    head: &mut RequestHeader,
    client: &RequestHeader,
    received: &Received,
    route: &Route,
) -> Result<()> {
    let rules = Rules {
        options: options(&client.headers)?,
        settings: &received.handle.settings,
        is_foreign: route.is_foreign,
        replaces_credentials: *route.backend.settings().auth() != Auth::Passthrough,
        is_read: route.dialect.is_read(),
    };
    let gone: Vec<HeaderName> = head.headers.keys().filter(|name| !rules.pass(name)).cloned().collect();
    for name in &gone {
        head.remove_header(name);
    }
    Ok(())
}

/// What decides on the fields of one request.
struct Rules<'a> {
    /// The options of the client's `Connection`.
    options: Vec<&'a [u8]>,
    settings: &'a RuntimeSettings,
    /// The backend is of another realm than the one for which the caller's credentials are meant.
    is_foreign: bool,
    /// The backend gets no credential of the client.
    replaces_credentials: bool,
    /// The response is read in passing.
    is_read: bool,
}

impl Rules<'_> {
    /// Returns whether the backend gets this field of the client.
    fn pass(&self, name: &HeaderName) -> bool {
        let Self { settings, .. } = self;
        let is_for_this_hop = is_hop_by_hop(name)
            || self.options.iter().any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()));
        let is_for_this_proxy = name == settings.routes.header() || is_ours(name);
        let is_of_caller = self.replaces_credentials && credentials::fields().any(|field| field == name)
            || self.is_foreign && !credentials::is_harmless(name) && name != settings.identity.header()
            || settings.forwarding.withholds(name);
        // Compressed WebSocket messages (RFC 7692) cannot be read.
        let is_unreadable = self.is_read && *name == SEC_WEBSOCKET_EXTENSIONS;
        !(is_for_this_hop || is_for_this_proxy || is_of_caller || is_unreadable)
    }
}

/// Returns whether this field belongs to the client's connection (RFC 9110, 7.6.1). The framing of the body does, too: it
/// is set again for the backend's connection.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Returns whether this is an `x-elida-*` field, with `-` or `_`: a backend that is a gateway itself must not mistake a
/// client's fields for those of this proxy.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    let name = name.strip_prefix("x-").or_else(|| name.strip_prefix("x_")).unwrap_or(name);
    name.strip_prefix("elida").is_some_and(|rest| rest.starts_with(['-', '_']))
}

/// Returns the options of `Connection`; those that are names of fields belong to the client's connection.
///
/// # Errors
/// There are too many, one is no token (RFC 9110, 7.6.1), or one names a field that says where the request comes from or
/// goes to.
fn options(headers: &HeaderMap) -> Result<Vec<&[u8]>> {
    let invalid = |why: &'static str| Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_down());
    let values = headers.get_all(CONNECTION).iter();
    let options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let options: Vec<&[u8]> = options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()).collect();
    if options.len() > MAX_OPTIONS {
        return invalid("Connection has too many options");
    }
    if !options.iter().copied().flatten().all(|byte| is_token(*byte)) {
        return invalid("an option of Connection is no token");
    }
    let is_protected = |option: &&[u8]| {
        let protected = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        protected.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()))
    };
    if options.iter().any(is_protected) {
        return invalid("Connection names a field that is not the connection's");
    }
    Ok(options)
}

/// Returns whether a token may contain this byte (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Result<Vec<String>> {
        let headers: HeaderMap = lines.iter().map(|line| (CONNECTION, line.parse().unwrap())).collect();
        let options = options(&headers)?;
        Ok(options.into_iter().map(|option| String::from_utf8(option.to_vec()).unwrap()).collect())
    }

    #[test]
    fn options_are_tokens_that_name_no_protected_field() {
        assert!(of(&[]).unwrap().is_empty() && of(&["", " , ,"]).unwrap().is_empty());
        assert_eq!(of(&["keep-alive, X-Own", "x_2"]).unwrap(), ["keep-alive", "X-Own", "x_2"]);
        assert_eq!(of(&["a,b,c,d,e", "f,g,h,i"]).unwrap().len(), MAX_OPTIONS);
        for bad in [
            "a,b,c,d,e,f,g,h,i,j",
            "Host",
            "close, X-Forwarded-For",
            "x-forwarded-proto",
            "\"close\"",
            ":authority",
            "a b",
            "caf\u{e9}",
        ] {
            let error = of(&[bad]).unwrap_err();
            assert_eq!(error.esource(), &pingora_core::ErrorSource::Downstream, "{bad}");
        }
    }

    #[test]
    fn the_gateways_own_fields_are_known_in_every_spelling() {
        let is = |name: &'static str| is_ours(&HeaderName::from_static(name));
        for name in ["x-elida-session", "x_elida_agent", "elida-x", "x-elida_y"] {
            assert!(is(name), "{name}");
        }
        for name in ["x-elida", "elida", "x-elidad-y", "y-elida-x"] {
            assert!(!is(name), "{name}");
        }
    }
}
