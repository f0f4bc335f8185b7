//! Attacks, rotation and times.

use serde_json::json;

use super::super::testing::{ISSUER, Signer, claims, joined, now, unsigned, with_keys};
use super::*;

/// What a token is: its caller, or why it is refused.
fn seen(jwt: &Jwt, token: &str) -> Result<String, TokenFault> {
    match jwt.look(token.as_bytes()) {
        Seen::Ours(verified) => verified.map(|verified| verified.id.to_string()),
        other => panic!("{other:?}: {token}"),
    }
}

fn ada() -> Result<String, TokenFault> {
    Ok("user:ada@idp".to_owned())
}

#[test]
fn a_token_of_an_issuer_names_its_caller() {
    let signer = Signer::new("one");
    let (jwt, _file) = with_keys(&signer.jwks(), "claims: { tenant: org, groups: teams }");
    let claims = claims(&json!({"org": "acme", "teams": ["build", "nightly"]}));
    for head in [
        json!({"alg": "EdDSA", "kid": "one"}),
        json!({"alg": "ES256", "kid": "one-ec", "typ": "at+jwt", "x5t": "abc"}),
        json!({"alg": "EdDSA"}),
    ] {
        let token = signer.sign(&head, &claims);
        let Seen::Ours(Ok(verified)) = jwt.look(token.as_bytes()) else { panic!("{head}") };
        assert_eq!(verified.id.as_str(), "user:ada@idp");
        let membership = verified.membership.as_deref().unwrap();
        assert_eq!((membership.tenant.as_deref(), membership.groups.len()), (Some("acme"), 2));
        let again = jwt.look(token.as_bytes());
        assert!(matches!(again, Seen::Ours(Ok(again)) if Arc::ptr_eq(&again, &verified)), "remembered");
    }
}

#[test]
fn rsa_signatures_are_verified() {
    // Made with OpenSSL 3; the key was thrown away.
    const N: &str = "kTTb_wauI6uELbDn3MPIM9natLMbcS9DW1j5NliVbMV608GpdlGnfP-HEcilHvwTY3R-bR6UstsD0kcAAYOg3SFB0lmhcibRPS_ukvPaV89VSw6PpwcXqHsZBt3wVik2KYp3e0dF-Lz2PoLuREPqQPp9apXoK4s0vJnp81Im33ZFLTGjsjYPTRom0FrWnfMSGvNXYg4NTCUy8spSbiSFTZKr4Wp6wHEI6q2wwGnb_-NIZWEwvWcdz-d442a0bq9nN1yn08f1GQu_N1QRQVuGskSx87zBJ8ybOfjlhTRV2NTxm-27rsoXrpPqASgj2knKXDnBMaIk8ax2MBpMnISLJw";
    const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwiYXVkIjoiZWxpZGEiLCJzdWIiOiJhZGEiLCJleHAiOjQxMDI0NDQ4MDB9.h_kgQulyVOVQN3gIOoGo56w79mkxItU_JiK8lQwdZaxQ50e4gkhS330zlomu7P1hg981fyFkn67rnJSZFC2i-FLppUiwYkQYJD62YajslHlAom4sQQVCPCsXtma0zTKnCu45tamYWRdzAUIE2g96Hn7rZftusXT8ylsqim9b0o4vbuE_bLe2tuM_sR83TtswOoerfwfTOolw1kDcJ_MU5BdWL2AHoBgqYY9i0TLhN0G9z-M-Fu7fTngJhnVBq1h0KcVj4BZ3kBqKQIny5vLCjx9Sgyg7gBqDe7d61ooEMKJ9UhQVU5wXFVEimRlkgHa0rube4z1-oARbs4NCK7IYUw";
    const PS256: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwiYXVkIjoiZWxpZGEiLCJzdWIiOiJhZGEiLCJleHAiOjQxMDI0NDQ4MDB9.MxgKStxGz6vR8uydB06rrCOhDEAGWErsqRuxJXh46tViK8F6GxAlvsdCi4j6bMxIDo0Q-EvhZe-gMSwmq9l90y2EehQTEta-xcFx6d-5XigfXhAi1Jy-6scQdVEis3ELtPeZh9QCxSs6ttj0u7_3PoKu7oW_Q9pNlyX7Hcnkns-F7H4O5HFgHwXIYS1NjhbSgAzm-yoyz641mWIRzRfGDCy3t-3ci0zKqJ10O4BDaBm2OnuP4sjmEXMCc4SCmAjWBrd1SzQF_QrWPeGdvg-dbZjljSR7-KXcjG26FziU3Uw88ZMK-htNhoEozVA3Zyi2swhuW2K_2Vdf-D6ry3J-Yg";
    let key = json!({"kty": "RSA", "kid": "rsa", "n": N, "e": "AQAB"});
    let (jwt, _file) = with_keys(std::slice::from_ref(&key), "");
    assert_eq!((seen(&jwt, RS256), seen(&jwt, PS256)), (ada(), ada()));
    let (only, _file) = with_keys(std::slice::from_ref(&key), "algorithms: [RS256, ES256]");
    assert_eq!((seen(&only, RS256), seen(&only, PS256)), (ada(), Err(TokenFault::Algorithm)));
    let mut broken = RS256.to_owned();
    let end = broken.len() - 20;
    broken.replace_range(end..=end, if broken[end..].starts_with('A') { "B" } else { "A" });
    assert_eq!(seen(&jwt, &broken), Err(TokenFault::Signature));
    // The public key as the secret of an HMAC, in each form in which a program may have it.
    let n = BASE64URL_NOPAD.decode(N.as_bytes()).unwrap();
    for secret in [n.clone(), N.as_bytes().to_vec(), key.to_string().into_bytes()] {
        let unsigned = unsigned(&json!({"alg": "HS256", "kid": "rsa"}), &claims(&json!({})));
        let tag =
            ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret), unsigned.as_bytes());
        assert_eq!(seen(&jwt, &joined(&unsigned, tag.as_ref())), Err(TokenFault::Algorithm));
    }
}

/// Attacks of row 38.
#[test]
fn a_token_does_not_choose_how_it_is_verified() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let (jwt, _file) = with_keys(&signer.jwks(), "");
    let claims = claims(&json!({}));
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = unsigned(&json!({"alg": none, "kid": "one"}), &claims);
        for signature in [&b""[..], b"x"] {
            assert_eq!(seen(&jwt, &joined(&unsigned, signature)), Err(TokenFault::Malformed), "{none}");
        }
    }
    let no_alg = joined(&unsigned(&json!({"kid": "one"}), &claims), b"");
    assert_eq!(seen(&jwt, &no_alg), Err(TokenFault::Malformed));
    let own_key = stranger.jwks()[0].clone();
    for (field, value) in [
        ("jku", json!("https://evil.example/keys")),
        ("jwk", own_key),
        ("x5u", json!("https://evil.example/cert")),
        ("crit", json!(["exp"])),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
    ] {
        for who in [&signer, &stranger] {
            let mut head = json!({"alg": "EdDSA", "kid": "one"});
            head[field] = value.clone();
            assert_eq!(seen(&jwt, &who.sign(&head, &claims)), Err(TokenFault::Field(field)));
        }
    }
    let b64 = json!({"alg": "EdDSA", "kid": "one", "b64": false});
    assert_eq!(seen(&jwt, &signer.sign(&b64, &claims)), Err(TokenFault::Malformed));
    assert_eq!(seen(&jwt, &stranger.token(&json!({}))), Err(TokenFault::Signature));
    for kid in ["../../etc/passwd", "one' OR '1'='1", "/dev/null", "https://evil.example", "ONE", "one\0", ""]
    {
        let token = signer.sign(&json!({"alg": "EdDSA", "kid": kid}), &claims);
        let fault = seen(&jwt, &token).unwrap_err();
        assert!(matches!(fault, TokenFault::KeysPending | TokenFault::UnknownKey), "{kid}: {fault:?}");
    }
    // The id of a key of another type.
    let token = signer.sign(&json!({"alg": "EdDSA", "kid": "one-ec"}), &claims);
    assert_eq!(seen(&jwt, &token), Err(TokenFault::Algorithm));
    let doubled = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(br#"{"alg":"EdDSA","alg":"none","kid":"one"}"#),
        signer.token(&json!({})).split_once('.').unwrap().1
    );
    assert_eq!(seen(&jwt, &doubled), Err(TokenFault::Malformed));
    let good = signer.token(&json!({}));
    let (front, signature) = good.rsplit_once('.').unwrap();
    assert_eq!(seen(&jwt, &format!("{front}.")), Err(TokenFault::Signature));
    let padded = format!("{front}.{signature}==");
    assert_eq!(seen(&jwt, &padded), Err(TokenFault::Malformed), "one token has one spelling");
    let other = signer.token(&json!({"sub": "root"}));
    let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
    assert_eq!(seen(&jwt, &swapped), Err(TokenFault::Signature));
    assert_eq!(seen(&jwt, &good), ada());
}

#[test]
fn issuer_audience_and_times_are_checked() {
    let signer = Signer::new("one");
    let (jwt, _file) = with_keys(&signer.jwks(), "skew: 30s");
    let of = |more: Value| seen(&jwt, &signer.token(&more));
    assert_eq!(of(json!({"aud": "elida"})), ada());
    for audience in [json!("else"), json!([]), json!(["elida2"]), json!("ELIDA")] {
        assert_eq!(of(json!({"aud": audience})), Err(TokenFault::Audience));
    }
    for (claim, value) in [
        ("aud", Value::Null),
        ("aud", json!(7)),
        ("exp", Value::Null),
        ("exp", json!("4102444800")),
        ("exp", json!(-1)),
        ("nbf", json!("soon")),
    ] {
        assert_eq!(of(json!({claim: value})), Err(TokenFault::Claim(claim.into())), "{claim} {value}");
    }
    let now = now();
    assert_eq!(of(json!({"exp": now - 25})), ada(), "within the skew");
    assert_eq!(of(json!({"exp": now - 35})), Err(TokenFault::Expired));
    assert_eq!(of(json!({"exp": 0})), Err(TokenFault::Expired));
    assert_eq!(of(json!({"nbf": now + 25})), ada());
    assert_eq!(of(json!({"nbf": now + 60})), Err(TokenFault::NotYet));
    assert_eq!(of(json!({"exp": 1e300})), Err(TokenFault::Claim("exp".into())));
    assert_eq!(of(json!({"exp": i64::MAX})), ada());
    let long = signer.token(&json!({"pad": "x".repeat(8 << 10)}));
    assert_eq!(seen(&jwt, &long), Err(TokenFault::TooLong));
}

#[test]
fn tokens_of_others_are_not_ours() {
    let signer = Signer::new("one");
    let (jwt, _file) = with_keys(&signer.jwks(), "");
    for issuer in
        [json!("https://auth.openai.com"), json!([ISSUER]), json!("https://idp.example/"), Value::Null]
    {
        let token = signer.token(&json!({ "iss": issuer }));
        assert!(matches!(jwt.look(token.as_bytes()), Seen::Foreign), "{issuer}");
    }
    let good = signer.token(&json!({}));
    for other in ["sk-ant-api03-abc", "a.b.c", "..", "", "elida_x", &format!("{good}.a.b")] {
        assert!(!matches!(jwt.look(other.as_bytes()), Seen::Ours(_)), "{other}");
    }
    // Another spelling of a token that is ours is refused, and not passed on.
    let (head, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    for spelling in [
        format!("{head}.{claims}=.{signature}"),
        format!("{head}.{claims}==.{signature}"),
        format!("x{good}"),
    ] {
        assert!(seen(&jwt, &spelling).is_err(), "{spelling}");
    }
}

#[test]
fn a_rotated_key_is_fetched_once_and_a_removed_one_counts_no_longer() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (jwt, file) = with_keys(&old.jwks(), "");
    let keys = Arc::clone(jwt.published().next().unwrap());
    let token = old.token(&json!({}));
    assert_eq!(seen(&jwt, &token), ada());
    assert_eq!(seen(&jwt, &new.token(&json!({}))), Err(TokenFault::KeysPending));
    std::fs::write(file.path(), json!({"keys": new.jwks()}).to_string()).unwrap();
    assert!(keys.begin_if_due() && keys.fetch());
    assert_eq!(seen(&jwt, &new.token(&json!({}))), ada());
    assert_eq!(seen(&jwt, &token), Err(TokenFault::UnknownKey), "what was verified is verified again");
    assert!(!keys.begin_if_due(), "one fetch in 30 s");
}

#[test]
fn keys_that_were_never_fetched_verify_nothing() {
    let signer = Signer::new("one");
    let yaml = format!(
        "issuers: [{{ issuer: '{ISSUER}', audience: [elida], jwks: {{ url: 'http://127.0.0.1:9/' }} }}]"
    );
    let written: super::super::JwtConfig = serde_yaml::from_str(&yaml).unwrap();
    let jwt = written.compile(&[], &mut crate::settings::fault::Faults::default()).unwrap().unwrap();
    let keys = jwt.published().next().unwrap();
    assert_eq!(seen(&jwt, &signer.token(&json!({}))), Err(TokenFault::KeysPending));
    assert!(keys.begin_if_due() && !keys.fetch());
    assert_eq!(seen(&jwt, &signer.token(&json!({}))), Err(TokenFault::KeysPending), "asked once");
    assert!(keys.begin_if_due() && !keys.fetch());
    assert_eq!(seen(&jwt, &signer.token(&json!({}))), Err(TokenFault::KeysUnavailable));
}

#[test]
fn own_tokens_are_signed_with_the_shared_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(file.path(), format!("{secret}\n")).unwrap();
    let yaml = format!("local: {{ secret_file: {:?}, ttl: 10m }}", file.path());
    let written: super::super::JwtConfig = serde_yaml::from_str(&yaml).unwrap();
    let jwt = written.compile(&[], &mut crate::settings::fault::Faults::default()).unwrap().unwrap();
    let token = |algorithm: Algorithm, secret: &str, more: Value| {
        let mut claims = claims(&json!({"iss": "elida", "aud": "elida", "exp": now() + 300}));
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let unsigned = unsigned(&json!({ "alg": algorithm }), &claims);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        joined(&unsigned, ring::hmac::sign(&key, unsigned.as_bytes()).as_ref())
    };
    let of = |token: &str| seen(&jwt, token);
    assert_eq!(of(&token(Algorithm::HS256, secret, json!({}))), Ok("user:ada@local".to_owned()));
    assert_eq!(of(&token(Algorithm::HS256, &secret[1..], json!({}))), Err(TokenFault::Signature));
    assert_eq!(of(&token(Algorithm::HS512, secret, json!({}))), Err(TokenFault::Algorithm));
    assert_eq!(of(&token(Algorithm::RS256, secret, json!({}))), Err(TokenFault::Algorithm));
    let day = json!({"exp": now() + 86_400});
    assert_eq!(of(&token(Algorithm::HS256, secret, day)), Err(TokenFault::ValidTooLong));
}

#[test]
fn no_fault_contains_the_token() {
    let signer = Signer::new("secretkid");
    let (jwt, _file) = with_keys(&[signer.jwks()[1].clone()], "");
    let token = signer.token(&json!({"sub": "secretsub"}));
    let printed = format!("{:?} {jwt:?}", jwt.look(token.as_bytes()));
    assert!(!printed.contains("secret") && !printed.contains(&token[10..20]), "{printed}");
}
