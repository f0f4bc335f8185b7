//! Where a request carries its caller's credentials, and which fields carry none whatever their value.
//!
//! One list for all users: `identity` derives the principal from what [`credentials`] finds, `proxy` removes
//! [`fields`], [`without_subprotocols`] and [`without_parameters`] before it injects a key, and lets a request
//! with [`is_present`] fail over inside its realm only; `capture` redacts the values of [`secret_fields`] and
//! [`secret_parameters`]. Across realms the list is the other way round: only what
//! [`is_harmless`], [`harmless_subprotocols`] and [`harmless_parameters`] name travels on, since a list of
//! secrets is never complete.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue};
use url::form_urlencoded;

mod harmless;
mod own;
#[cfg(test)]
mod tests;

pub use harmless::{harmless_parameters, harmless_subprotocols, is_harmless};
pub use own::{contains, is_present_beside, query_without, subprotocols_without, target_without};

use own::ELIDA_KEY;

/// What a place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// A scheme and a credential (RFC 9110, 11.6.2).
    Scheme,
    /// A credential.
    Credential,
    /// Cookies, which are credentials where nothing else is: servers set and change them at any time, and beside a
    /// key each change would make another principal (ADR 26).
    Cookies,
    /// The id of a key that signs the request; what follows the first `/` is the scope of the signature.
    KeyId,
    /// A signature, which may differ with every request. It counts where no parameter names its key.
    Signature,
    /// What accompanies a credential and identifies nobody by itself: a choice of what it pays for, the session token
    /// beside a signing key.
    Companion,
}

/// Fields that hold a credential or go with one.
static FIELDS: [(HeaderName, Holds); 22] = [
    (AUTHORIZATION, Holds::Scheme),
    (HeaderName::from_static("x-api-key"), Holds::Credential),
    (HeaderName::from_static("api-key"), Holds::Credential),
    (HeaderName::from_static("x-goog-api-key"), Holds::Credential),
    (PROXY_AUTHORIZATION, Holds::Scheme),
    (HeaderName::from_static("x-serverless-authorization"), Holds::Scheme),
    (HeaderName::from_static("x-auth-token"), Holds::Credential),
    (HeaderName::from_static("x-access-token"), Holds::Credential),
    (HeaderName::from_static("ocp-apim-subscription-key"), Holds::Credential),
    (HeaderName::from_static("x-functions-key"), Holds::Credential),
    (HeaderName::from_static("cf-access-client-secret"), Holds::Credential),
    (HeaderName::from_static("cf-access-client-id"), Holds::Companion),
    (HeaderName::from_static("helicone-auth"), Holds::Scheme),
    (HeaderName::from_static("x-portkey-api-key"), Holds::Credential),
    (HeaderName::from_static("x-litellm-api-key"), Holds::Scheme),
    (HeaderName::from_static("xi-api-key"), Holds::Credential),
    (HeaderName::from_static("apikey"), Holds::Credential),
    (ELIDA_KEY, Holds::Credential),
    (COOKIE, Holds::Cookies),
    (HeaderName::from_static("x-amz-security-token"), Holds::Companion),
    (HeaderName::from_static("openai-organization"), Holds::Companion),
    (HeaderName::from_static("openai-project"), Holds::Companion),
];

/// Query parameters that hold one, in lower case: Gemini takes `?key=`, Azure API Management `?subscription-key=`, Azure
/// Functions `?code=`, ElevenLabs `?authorization=`. Presigned URLs are those of AWS, Google, CloudFront, and Azure's shared
/// access signatures, which name no key (`?sig=`).
const PARAMETERS: [(&str, Holds); 24] = [
    ("key", Holds::Credential),
    ("access_token", Holds::Credential),
    ("api_key", Holds::Credential),
    ("api-key", Holds::Credential),
    ("x-api-key", Holds::Credential),
    ("xi-api-key", Holds::Credential),
    ("apikey", Holds::Credential),
    ("auth_token", Holds::Credential),
    ("authorization", Holds::Scheme),
    ("auth", Holds::Scheme),
    ("token", Holds::Credential),
    ("jwt", Holds::Credential),
    ("subscription-key", Holds::Credential),
    ("code", Holds::Credential),
    ("x-amz-credential", Holds::KeyId),
    ("x-goog-credential", Holds::KeyId),
    ("awsaccesskeyid", Holds::KeyId),
    ("googleaccessid", Holds::KeyId),
    ("key-pair-id", Holds::KeyId),
    ("sig", Holds::Signature),
    ("signature", Holds::Signature),
    ("x-amz-signature", Holds::Signature),
    ("x-goog-signature", Holds::Signature),
    ("x-amz-security-token", Holds::Companion),
];

/// Beginnings of WebSocket subprotocols that hold one: a browser has no other place for the key of OpenAI's
/// Realtime API.
const SUBPROTOCOLS: [(&str, Holds); 5] = [
    ("openai-insecure-api-key.", Holds::Credential),
    ("openai-organization.", Holds::Companion),
    ("openai-project.", Holds::Companion),
    ("base64url.bearer.authorization.k8s.io.", Holds::Credential),
    ("bearer.", Holds::Credential),
];

/// Subprotocols after which the next entry is a credential (Deepgram: `token, KEY`).
const SUBPROTOCOL_LABELS: [&str; 3] = ["token", "bearer", "authorization"];

/// Schemes whose value differs with every request, and the parameter that names the key: `AWS4-HMAC-SHA256
/// Credential=AKID/20261129/us-east-1/bedrock/aws4_request, SignedHeaders=…, Signature=…`.
const SIGNED_SCHEMES: [(&[u8], &[u8]); 6] = [
    (b"AWS4-HMAC-SHA256", b"credential"),
    (b"AWS4-ECDSA-P256-SHA256", b"credential"),
    (b"Digest", b"username"),
    (b"OAuth", b"oauth_token"),
    (b"Hawk", b"id"),
    (b"Signature", b"keyid"),
];

/// Cookies that balancers and bot filters set and change by themselves: they do not identify a caller.
const FLEETING_COOKIES: [&[u8]; 10] = [
    b"__cf_bm",
    b"_cfuvid",
    b"__cflb",
    b"cf_clearance",
    b"AWSALB",
    b"AWSALBCORS",
    b"AWSALBTG",
    b"AWSALBTGCORS",
    b"ARRAffinity",
    b"ARRAffinitySameSite",
];

/// Whether [`credentials`] reads this field.
pub fn is_read(field: &HeaderName) -> bool {
    // Most fields of a request do not begin like one of them.
    let may_be = matches!(
        field.as_str().as_bytes(),
        [b'a', b'p' | b'u', ..]
            | [b'c', b'f', ..]
            | [b'c', b'o', b'o', ..]
            | [b'h', b'e', ..]
            | [b'o', b'c' | b'p', ..]
            | [b'p', b'r', ..]
            | [b's', b'e', ..]
            | [b'x', b'i', ..]
            | [b'x', b'-', b'a' | b'e' | b'f' | b'g' | b'l' | b'p', ..]
            | [b'x', b'-', b's', b'e', b'r', ..]
    );
    may_be && (*field == SEC_WEBSOCKET_PROTOCOL || FIELDS.iter().any(|(known, _)| known == field))
}

/// Fields to remove from a request whose credentials are not to be sent on.
pub fn fields() -> impl Iterator<Item = &'static HeaderName> {
    FIELDS.iter().map(|(name, _)| name)
}

/// The fields whose values are secret wherever they are written down.
pub fn secret_fields() -> impl Iterator<Item = &'static str> {
    let is_secret = |holds: &Holds| !matches!(holds, Holds::Companion | Holds::KeyId);
    FIELDS.iter().filter(move |(_, holds)| is_secret(holds)).map(|(name, _)| name.as_str())
}

/// The query parameters whose values are secret wherever a URL is written down.
pub fn secret_parameters() -> impl Iterator<Item = &'static str> {
    PARAMETERS.iter().map(|(name, _)| *name)
}

/// How many credentials of a request are looked for: more than any program sends.
pub const MOST_FOUND: usize = 16;

/// The caller's credentials, each value once, in the order of the list: without scheme, percent-decoded, and of
/// a signature only the name of its key. Cookies count where there is nothing else.
///
/// At most [`MOST_FOUND`]: a request with so many is refused, and comparing more would cost their square.
pub fn credentials<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Vec<Cow<'a, [u8]>> {
    let mut found: Vec<Cow<'a, [u8]>> = Vec::new();
    let mut add = |credential: Cow<'a, [u8]>| {
        if found.len() < MOST_FOUND && !credential.is_empty() && !found.contains(&credential) {
            found.push(credential);
        }
    };
    for (name, holds) in &FIELDS {
        for value in headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()) {
            match holds {
                Holds::Scheme => add(Cow::Borrowed(without_scheme(value))),
                Holds::Credential => add(Cow::Borrowed(value)),
                Holds::Cookies | Holds::Companion | Holds::KeyId | Holds::Signature => {}
            }
        }
    }
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        for (entry, start) in subprotocols(headers) {
            if let Some(start) = start {
                add(Cow::Borrowed(&entry.as_bytes()[start..]));
            }
        }
    }
    for credential in in_query(query.unwrap_or_default()) {
        add(Cow::Owned(credential));
    }
    if found.is_empty() {
        found.extend(cookies(headers).map(Cow::Owned));
    }
    found
}

/// The credentials in a query.
fn in_query(query: &str) -> Vec<Vec<u8>> {
    let mut names_key = false;
    let known = |(name, value): (Cow<'_, str>, Cow<'_, str>)| {
        let holds = parameter(&name)?;
        let value = value.trim().as_bytes();
        let value = match holds {
            Holds::Scheme => without_scheme(value),
            Holds::KeyId => value.split(|byte| *byte == b'/').next().unwrap_or_default(),
            Holds::Credential | Holds::Signature => value,
            Holds::Cookies | Holds::Companion => return None,
        };
        names_key |= holds == Holds::KeyId && !value.is_empty();
        Some((holds, value.to_vec()))
    };
    let found: Vec<(Holds, Vec<u8>)> = form_urlencoded::parse(query.as_bytes()).filter_map(known).collect();
    let counts = |holds: Holds| !(names_key && holds == Holds::Signature);
    found.into_iter().filter(|(holds, _)| counts(*holds)).map(|(_, value)| value).collect()
}

/// Whether a request carries a credential of its caller's, or what goes with one.
pub fn is_present(headers: &HeaderMap, query: Option<&str>) -> bool {
    FIELDS.iter().any(|(field, _)| headers.contains_key(field))
        || without_subprotocols(headers).is_some()
        || query.is_some_and(|query| query.split('&').any(|pair| is_parameter(pair.as_bytes())))
}

/// The value of `Sec-WebSocket-Protocol`, all its lines in one, without the entries that hold a credential;
/// `None` when no entry does.
pub fn without_subprotocols(headers: &HeaderMap) -> Option<HeaderValue> {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return None;
    }
    let all = classified(headers);
    all.iter().any(|(_, entry)| *entry != Entry::Plain).then(|| {
        let plain = all.iter().filter(|(_, entry)| *entry == Entry::Plain).map(|(text, _)| *text);
        joined(plain)
    })
}

/// A request target without the query parameters that hold a credential; all else byte for byte.
pub fn without_parameters(target: &[u8]) -> Cow<'_, [u8]> {
    keep_parameters(target, |pair| !is_parameter(pair))
}

/// The query parameters that hold a credential or go with one, as they came, with `&` between.
pub fn only_parameters(query: &str) -> String {
    let pairs: Vec<&str> = query.split('&').filter(|pair| is_parameter(pair.as_bytes())).collect();
    pairs.join("&")
}

/// A request target with those query parameters only for which `keep` holds.
fn keep_parameters(target: &[u8], keep: impl Fn(&[u8]) -> bool) -> Cow<'_, [u8]> {
    let Some(mark) = memchr::memchr(b'?', target) else { return Cow::Borrowed(target) };
    let query = &target[mark + 1..];
    if query.split(|byte| *byte == b'&').all(&keep) {
        return Cow::Borrowed(target);
    }
    let kept: Vec<&[u8]> = query.split(|byte| *byte == b'&').filter(|pair| keep(pair)).collect();
    let mut rest = target[..mark].to_vec();
    if !kept.is_empty() {
        rest.push(b'?');
        rest.extend(kept.join(&b'&'));
    }
    Cow::Owned(rest)
}

/// The query parameters that hold no credential, decoded.
pub fn other_parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| parameter(name).is_none())
}

fn is_parameter(pair: &[u8]) -> bool {
    form_urlencoded::parse(pair).next().is_some_and(|(name, _)| parameter(&name).is_some())
}

fn parameter(name: &str) -> Option<Holds> {
    PARAMETERS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, holds)| *holds)
}

/// An entry of `Sec-WebSocket-Protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// A protocol.
    Plain,
    /// A credential from this byte on.
    Credential(usize),
    /// What goes with one.
    Companion,
}

fn classified(headers: &HeaderMap) -> Vec<(&str, Entry)> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let entries = lines.flat_map(|line| line.to_str().unwrap_or_default().split(',')).map(str::trim);
    let entries: Vec<&str> = entries.filter(|entry| !entry.is_empty()).collect();
    let is_label = |entry: &&str| SUBPROTOCOL_LABELS.iter().any(|label| entry.eq_ignore_ascii_case(label));
    let mut after_label = false;
    let classify = |(at, entry): (usize, &&str)| {
        let was_label = std::mem::take(&mut after_label);
        let known = SUBPROTOCOLS.iter().find(|(start, _)| entry.starts_with(start));
        match known {
            Some((start, Holds::Credential)) => Entry::Credential(start.len()),
            Some(_) => Entry::Companion,
            None if was_label => Entry::Credential(0),
            None if is_label(entry) && at + 1 < entries.len() => {
                after_label = true;
                Entry::Companion
            }
            None => Entry::Plain,
        }
    };
    let classes: Vec<Entry> = entries.iter().enumerate().map(classify).collect();
    entries.into_iter().zip(classes).collect()
}

/// The entries of `Sec-WebSocket-Protocol`, and where in them a credential begins.
fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = (&str, Option<usize>)> {
    classified(headers).into_iter().map(|(text, entry)| match entry {
        Entry::Credential(start) => (text, Some(start)),
        Entry::Plain | Entry::Companion => (text, None),
    })
}

fn joined<'a>(entries: impl Iterator<Item = &'a str>) -> HeaderValue {
    let entries: Vec<&str> = entries.collect();
    HeaderValue::from_str(&entries.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

/// What follows `Bearer`, `Basic` or another scheme, of a signature the name of its key; the whole value when
/// there is no scheme.
fn without_scheme(value: &[u8]) -> &[u8] {
    let Some(space) = memchr::memchr(b' ', value) else {
        // The word alone is the same for all who forgot their key.
        let is_word = value.eq_ignore_ascii_case(b"bearer") || value.eq_ignore_ascii_case(b"basic");
        return if is_word { b"" } else { value };
    };
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii_start());
    match SIGNED_SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name)) {
        Some((_, name)) => auth_param(rest, name).unwrap_or(rest),
        None => rest,
    }
}

/// The value of a parameter of a scheme (RFC 9110, 11.2), without quotes; of a scope such as
/// `AKID/20261129/us-east-1` the first part.
fn auth_param<'a>(parameters: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    parameters.split(|byte| *byte == b',').find_map(|parameter| {
        let equals = memchr::memchr(b'=', parameter)?;
        let (found, value) = (parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii());
        if !found.eq_ignore_ascii_case(name) {
            return None;
        }
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let value = value.strip_suffix(b"\"").unwrap_or(value);
        let end = if name == b"credential" { memchr::memchr(b'/', value) } else { None };
        Some(&value[..end.unwrap_or(value.len())]).filter(|value| !value.is_empty())
    })
}

/// All cookies that may identify the caller, sorted; `None` when there are none.
fn cookies(headers: &HeaderMap) -> Option<Vec<u8>> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let name = |pair: &[u8]| memchr::memchr(b'=', pair).unwrap_or(pair.len());
    let mut pairs: Vec<&[u8]> =
        pairs.filter(|pair| !pair.is_empty() && !FLEETING_COOKIES.contains(&&pair[..name(pair)])).collect();
    pairs.sort_unstable();
    (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]))
}
