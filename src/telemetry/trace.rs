//! W3C Trace Context, level 2: reads and writes the header `traceparent`.
//!
//! No state is kept between requests. A session's trace id is its uid, and the lower half of the uid is the id of the
//! session's span, so that every request, on every instance, knows its parent span.

use crate::ids::Uid;

/// The name of the header.
pub const TRACEPARENT: &str = "traceparent";

/// The companion header, which is meaningless without `traceparent`.
pub const TRACESTATE: &str = "tracestate";

/// The length of a `traceparent` of version 0, in bytes.
const LENGTH: usize = 55;

/// A client's span that is the parent of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Parent {
    /// Parses the header's value; `None` if it is invalid.
    pub fn read(value: &str) -> Option<Self> {
        let bytes = value.as_bytes();
        let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_long = bytes.len() > LENGTH && bytes[LENGTH] == b'-' && !value.starts_with("00");
        if !value.is_ascii() || !(bytes.len() == LENGTH || is_long) || value.starts_with("ff") {
            return None;
        }
        let parts = [&value[..2], &value[3..35], &value[36..52], &value[53..55]];
        let divided = [2, 35, 52].into_iter().all(|at| bytes[at] == b'-');
        if !divided || !parts.iter().all(|part| is_hex(part.as_bytes())) {
            return None;
        }
        let trace = u128::from_str_radix(parts[1], 16).ok()?;
        let span = u64::from_str_radix(parts[2], 16).ok()?;
        let sampled = u8::from_str_radix(parts[3], 16).ok()? & 1 == 1;
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled })
    }
}

/// The identity of a span, and its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub(super) trace: u128,
    pub(super) span: u64,
    /// The id of the parent span; 0 if there is none.
    pub(super) parent: u64,
    /// The parent is the client's span.
    pub(super) is_remote: bool,
    /// The span is exported.
    pub(super) sampled: bool,
}

impl Context {
    /// The span of a request: a child of the client's span if it sent one, otherwise of the session's span, otherwise a
    /// root. `takes` decides which traces are sampled if the client has not decided.
    pub(super) fn of_request(
        parent: Option<Parent>,
        session: Option<Uid>,
        takes: impl Fn(u128) -> bool,
    ) -> Self {
        let fresh = Uid::fresh().as_u128();
        let span = half(fresh);
        match (parent, session.map(Uid::as_u128)) {
            (Some(Parent { trace, span: above, sampled }), _) => {
                Self { trace, span, parent: above, is_remote: true, sampled }
            }
            (None, Some(uid)) => {
                Self { trace: uid, span, parent: half(uid), is_remote: false, sampled: takes(uid) }
            }
            (None, None) => Self { trace: fresh, span, parent: 0, is_remote: false, sampled: takes(fresh) },
        }
    }

    /// The span of a session.
    pub(super) fn of_session(uid: Uid, takes: impl Fn(u128) -> bool) -> Self {
        let trace = uid.as_u128();
        Self { trace, span: half(trace), parent: 0, is_remote: false, sampled: takes(trace) }
    }

    /// The header's value for the backend.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The random half of a uid. It is never 0, because of its variant bits.
fn half(uid: u128) -> u64 {
    uid as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_as_the_standard_says() {
        let parent = Parent::read(ONE).unwrap();
        assert_eq!((parent.trace >> 120, parent.span, parent.sampled), (0x4b, 0x00f0_67aa_0ba9_02b7, true));
        assert!(!Parent::read(&ONE.replace("-01", "-00")).unwrap().sampled);
        let later = ONE.replacen("00", "cc", 1) + "-what-the-future-will-be-like";
        assert!(Parent::read(&later).is_some());
        for wrong in [
            "",
            &ONE[1..],
            &(ONE.to_owned() + "-x"),
            &ONE.to_uppercase(),
            &ONE.replacen("00", "ff", 1),
            &ONE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &ONE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &ONE.replace("4bf92f", "+bf92f"),
            &ONE.replace('-', "_"),
            &("é".repeat(27) + "x"),
            &(ONE.replacen("00", "cc", 1) + "x"),
        ] {
            assert_eq!(Parent::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_request_stands_below_its_client_or_its_session() {
        let (uid, all) = (Uid::fresh(), |_| true);
        let session = Context::of_session(uid, all);
        let below = Context::of_request(None, Some(uid), all);
        assert_eq!((below.trace, below.parent, below.is_remote), (session.trace, session.span, false));
        let none = |_| false;
        let of_client = Context::of_request(Parent::read(ONE), Some(uid), none);
        assert!(of_client.sampled && of_client.is_remote);
        assert_eq!(of_client.traceparent()[..36], ONE[..36]);
        assert_ne!(of_client.traceparent(), ONE);
        assert!(Context::of_request(None, None, none).traceparent().ends_with("-00"));
        let next = Parent::read(&below.traceparent()).unwrap();
        assert_eq!((next.trace, next.span, next.sampled), (below.trace, below.span, true));
    }
}
