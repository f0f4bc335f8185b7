//! Fields in which proxies in front of the gateway name the client: its address, place, certificate or user. They are for
//! the gateway, not for a provider.

use http::HeaderName;

/// Fields with the client's address or connection, sorted. None is ever forwarded as it came. `X-Forwarded-For` and its
/// like (RFC 7239), and those of nginx, HAProxy, Envoy, Cloudflare, Akamai, Fastly, CloudFront, Azure, App Engine, Fly,
/// DigitalOcean, Netlify, Vercel, Imperva, Sucuri and Alibaba.
const ADDRESSES: [&str; 51] = [
    "akamai-client-ip",
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ipcountry",
    "cf-metro-code",
    "cf-postal-code",
    "cf-pseudo-ipv4",
    "cf-region",
    "cf-region-code",
    "cf-timezone",
    "client-ip",
    "cloudfront-forwarded-proto",
    "do-connecting-ip",
    "fastly-client-ip",
    "fastly-ff",
    "fly-client-ip",
    "fly-forwarded-port",
    "fly-forwarded-proto",
    "fly-forwarded-ssl",
    "forwarded",
    "forwarded-for",
    "forwarded-for-ip",
    "incap-client-ip",
    "remote-addr",
    "true-client-ip",
    "via-client-ip",
    "wl-proxy-client-ip",
    "x-akamai-edgescape",
    "x-arr-clientip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-coming-from",
    "x-envoy-downstream-service-node",
    "x-envoy-external-address",
    "x-forwarded",
    "x-nf-client-connection-ip",
    "x-nf-geo",
    "x-original-forwarded-for",
    "x-original-remote-addr",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-sucuri-clientip",
    "x-vercel-forwarded-for",
    "x-vercel-proxied-for",
];

/// Beginnings of such fields.
const ADDRESS_PREFIXES: [&str; 6] =
    ["cf-ip", "cloudfront-viewer-", "x-appengine-", "x-client-geo-", "x-envoy-downstream-", "x-vercel-ip-"];

/// `X-Forwarded-For`, `-Host`, `-Port`, `-Proto` and others; [`USERS`] has those that name a user.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Fields with the client's user or certificate, sorted: of oauth2-proxy, Envoy, RFC 9440, IAP, Azure and others.
/// Forwarded with `server.forwarded_headers` only.
const USERS: [&str; 17] = [
    "client-cert",
    "client-cert-chain",
    "remote-user",
    "x-authenticated-user",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-user",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "x-goog-iap-jwt-assertion",
    "x-remote-user",
    "x-webauth-user",
];

/// Beginnings of such fields.
const USER_PREFIXES: [&str; 9] = [
    "cf-access-",
    "ssl-client-",
    "tailscale-user-",
    "x-amzn-mtls-clientcert",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-client-cert",
    "x-ms-client-principal",
    "x-ssl-client-",
];

/// What a field says of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Where it is and how it is connected.
    Address,
    /// Who it is.
    User,
}

/// Returns what this field says of the client; `None` if it is no such field. `_` counts as `-`, since many servers do not
/// distinguish them.
pub fn names_client(field: &HeaderName) -> Option<Names> {
    let field = field.as_str();
    if !begins_like_one(field) {
        return None;
    }
    if field.contains('_') { classify(&field.replace('_', "-")) } else { classify(field) }
}

/// Whether the lists have a field that begins with these two letters. Most fields of a request do not get further.
fn begins_like_one(field: &str) -> bool {
    matches!(
        field.as_bytes(),
        [b'a', b'k' | b'l', ..]
            | [b'c', b'd' | b'f' | b'l', ..]
            | [b'd', b'o', ..]
            | [b'f', b'a' | b'l' | b'o', ..]
            | [b'i', b'n', ..]
            | [b'r', b'e', ..]
            | [b's', b's', ..]
            | [b't', b'a' | b'r', ..]
            | [b'v', b'i', ..]
            | [b'w', b'l', ..]
            | [b'x', b'-' | b'_', ..]
    )
}

fn classify(field: &str) -> Option<Names> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| field.starts_with(prefix));
    if USERS.binary_search(&field).is_ok() || begins(&USER_PREFIXES) {
        Some(Names::User)
    } else if ADDRESSES.binary_search(&field).is_ok()
        || field.starts_with(FORWARDED_PREFIX)
        || begins(&ADDRESS_PREFIXES)
    {
        Some(Names::Address)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_order() {
        assert!(ADDRESSES.is_sorted() && USERS.is_sorted());
        let prefixes = ADDRESS_PREFIXES.iter().chain(&USER_PREFIXES).chain([&FORWARDED_PREFIX]);
        for field in ADDRESSES.iter().chain(&USERS).chain(prefixes) {
            assert!(begins_like_one(field), "{field}");
        }
    }

    #[test]
    fn fields_that_name_the_client_are_known_in_every_spelling() {
        let of = |name: &str| names_client(&HeaderName::from_bytes(name.as_bytes()).unwrap());
        for name in [
            "X-Forwarded-For",
            "X_Forwarded_For",
            "CF-Connecting-IP",
            "cf_connecting_ip",
            "CloudFront-Viewer-Address",
            "X-Forwarded-Port",
            "X-Envoy-External-Address",
            "CF-Region-Code",
            "X-Akamai-Edgescape",
        ] {
            assert_eq!(of(name), Some(Names::Address), "{name}");
        }
        for name in [
            "X-Forwarded-User",
            "X-Forwarded-Client-Cert",
            "X-Amzn-Oidc-Data",
            "remote_user",
            "X-SSL-Client-S-DN",
            "SSL_CLIENT_VERIFY",
        ] {
            assert_eq!(of(name), Some(Names::User), "{name}");
        }
        for name in [
            "host",
            "user-agent",
            "authorization",
            "x-api-key",
            "anthropic-version",
            "x-stainless-os",
            "x-session-id",
            "x-goog-api-key",
            "x-goog-user-project",
            "traceparent",
            "cf-aig-authorization",
            "x-client-request-id",
            "x-ms-client-request-id",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
