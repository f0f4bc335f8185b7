//! The rows of the table.

use std::sync::OnceLock;

use super::detector::{Detector, Follows, Lead, SecretKind};
use super::validate::{
    always, assigned, card, elida, github, has_digit, iban, openai, phone, ssn, url_password,
};

/// Returns the row with this id.
pub fn detector(id: &str) -> Option<&'static Detector> {
    ROWS.iter().find(|detector| detector.id == id)
}

/// All secrets and kinds of personal data that are known.
pub static DETECTORS: &[Detector] = &ROWS;

/// A secret: its name, anchors, what follows them, an example and a near miss.
const fn secret(
    id: &'static str,
    anchors: &'static [&'static str],
    rest: &'static str,
    example: &'static str,
    near_miss: &'static str,
) -> Detector {
    Detector {
        id,
        kind: SecretKind::ApiKey,
        is_secret: true,
        is_pii: false,
        anchors,
        rest,
        lead: Lead::Anchor,
        follows: Follows::NoWord,
        validate: has_digit,
        example,
        near_miss,
        automaton: OnceLock::new(),
    }
}

/// Personal data: its name, kind, lead, expression, an example and a near miss.
const fn pii(
    id: &'static str,
    kind: SecretKind,
    lead: Lead,
    rest: &'static str,
    example: &'static str,
    near_miss: &'static str,
) -> Detector {
    let follows = match lead {
        Lead::LocalPart => Follows::Anything,
        _ => Follows::NoNumber,
    };
    let anchors: &[&str] = match lead {
        Lead::LocalPart => &["@"],
        _ => &[],
    };
    let automaton = OnceLock::new();
    let (is_secret, is_pii, validate) = (false, true, always as fn(&[u8]) -> bool);
    Detector {
        id,
        kind,
        is_secret,
        is_pii,
        anchors,
        rest,
        lead,
        follows,
        validate,
        example,
        near_miss,
        automaton,
    }
}

impl Detector {
    const fn of(mut self, kind: SecretKind) -> Self {
        self.kind = kind;
        self
    }

    const fn valid(mut self, validate: fn(&[u8]) -> bool) -> Self {
        self.validate = validate;
        self
    }

    const fn after(mut self, follows: Follows) -> Self {
        self.follows = follows;
        self
    }
}

/// Names of values that are secret; text may stand before and behind them.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "password", "passwd", "passphrase", "secret", "token", "api_key", "api-key", "apikey", "access_key",
    "access-key", "private_key", "apiKey", "accessKey", "privateKey", "Password", "Secret", "Token",
    "ApiKey", "AccessKey", "APIKey", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "API_KEY",
    "API-KEY", "APIKEY", "ACCESS_KEY", "ACCESS-KEY", "PRIVATE_KEY",
];

#[rustfmt::skip]
static ROWS: [Detector; 42] = [
    secret("anthropic-key", &["sk-ant-"], r"[A-Za-z0-9_-]{16,200}", "sk-ant-api03-aB3dE5gH7jK9mN1pQ2sT4vW6", "sk-ant-api03-s"),
    secret("openai-key", &["sk-"], r"[A-Za-z0-9_-]{20,200}", "sk-proj-aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7j", "sk-learn-is-a-library-of-python").valid(openai),
    secret("openrouter-key", &["sk-or-v1-"], r"[0-9a-f]{64}\b", "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", "sk-or-v1-0a1b2c3d4e5f67890a1b2c3d4e5f67890a1b2c3d"),
    secret("aws-access-key", &["AKIA", "ASIA", "ABIA", "ACCA"], r"[A-Z0-9]{16}\b", "AKIAQ2W3E4R5T6Y7U2I3", "AKIAQ2W3E4R5T6Y7U2I3OP"),
    secret("google-api-key", &["AIza"], r"[A-Za-z0-9_-]{35}", "AIzaaB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE", "AIzaaB3dE5gH7jK9mN1pQ2sT"),
    secret("google-oauth-secret", &["GOCSPX-"], r"[A-Za-z0-9_-]{28}", "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", "GOCSPX-aB3dE5gH7j"),
    secret("github-token", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], r"[A-Za-z0-9]{36,200}\b", "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", "ghp_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0000000").of(SecretKind::Token).valid(github),
    secret("github-fine-grained-token", &["github_pat_"], r"[A-Za-z0-9_]{22,255}", "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", "github_pat_aB3dE5gH7jK9mN1pQ2").of(SecretKind::Token),
    secret("gitlab-token", &["glpat-", "gldt-", "glrt-", "glptt-"], r"[A-Za-z0-9_-]{20,100}", "glpat-aB3dE5gH7jK9mN1pQ2sT", "glpat-aB3dE5gH7j").of(SecretKind::Token),
    secret("slack-token", &["xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxe.xoxp-", "xoxc-", "xoxd-", "xapp-"], r"[A-Za-z0-9%-]{10,200}", "xoxb-123456789012-aB3dE5gH7jK9mN1pQ2sT4vW6", "xoxb-some-words").of(SecretKind::Token),
    secret("slack-webhook", &["hooks.slack.com/services/"], r"T[A-Z0-9]{7,12}/B[A-Z0-9]{7,12}/[A-Za-z0-9]{16,32}", "hooks.slack.com/services/T01ABCDEF/B01ABCDEF/aB3dE5gH7jK9mN1pQ2sT4vW6", "hooks.slack.com/services/T000/B000/x").of(SecretKind::Secret).after(Follows::Anything),
    secret("stripe-key", &["sk_live_", "sk_test_", "rk_live_", "rk_test_"], r"[A-Za-z0-9]{16,200}", "sk_live_aB3dE5gH7jK9mN1pQ2sT4vW6", "sk_live_key"),
    secret("huggingface-token", &["hf_"], r"[A-Za-z0-9]{30,60}\b", "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH", "hf_hub_download_from_the_repository").of(SecretKind::Token).valid(always),
    secret("npm-token", &["npm_"], r"[A-Za-z0-9]{36}\b", "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", "npm_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0000000").of(SecretKind::Token).valid(github),
    secret("pypi-token", &["pypi-AgEIcHlwaS5vcmc"], r"[A-Za-z0-9_-]{50,450}", "pypi-AgEIcHlwaS5vcmcaB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0", "pypi-AgEIcHlwaS5vcmc").of(SecretKind::Token),
    secret("groq-key", &["gsk_"], r"[A-Za-z0-9]{32,80}\b", "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", "gsk_aB3dE5gH7jK9"),
    secret("xai-key", &["xai-"], r"[A-Za-z0-9]{32,120}\b", "xai-aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9mN1pQ2sT", "xai-aB3dE5gH7jK9"),
    secret("perplexity-key", &["pplx-"], r"[A-Za-z0-9]{40,64}\b", "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", "pplx-aB3dE5gH7jK9"),
    secret("replicate-token", &["r8_"], r"[A-Za-z0-9]{37}\b", "r8_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5g", "r8_aB3dE5gH7jK9").of(SecretKind::Token),
    secret("sendgrid-key", &["SG."], r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", "SG.aB3dE5gH7jK9mN1pQ2sT4v.aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9m", "SG.aB3dE5gH7jK9mN1pQ2sT4v"),
    secret("telegram-bot-token", &[":AA"], r"[A-Za-z0-9_-]{33}\b", "123456789:AAaB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3", "std::AAaB3dE5gH7jK9").of(SecretKind::Token).after(Follows::Anything),
    secret("azure-storage-key", &["AccountKey="], r"[A-Za-z0-9+/]{86}==", "AccountKey=aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9mN1pQ2sT4vW6xY==", "AccountKey=aB3dE5gH7jK9mN1pQ2sT").of(SecretKind::Secret),
    secret("digitalocean-token", &["dop_v1_", "doo_v1_", "dor_v1_"], r"[0-9a-f]{64}\b", "dop_v1_0a1b2c3d4e5f67890a1b2c3d4e5f67890a1b2c3d4e5f67890a1b2c3d4e5f6789", "dop_v1_0a1b2c3d4e5f67890a1b").of(SecretKind::Token),
    secret("databricks-token", &["dapi"], r"[0-9a-f]{32}(?:-[0-9])?\b", "dapi0a1b2c3d4e5f67890a1b2c3d4e5f6789", "dapi0a1b2c3d4e5f67890a1b").of(SecretKind::Token),
    secret("shopify-token", &["shpat_", "shpca_", "shppa_", "shpss_"], r"[0-9a-fA-F]{32}\b", "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", "shpat_0a1b2c3d4e5f67890a1b").of(SecretKind::Token),
    secret("vault-token", &["hvs.", "hvb.", "hvr."], r"[A-Za-z0-9_-]{24,200}", "hvs.aB3dE5gH7jK9mN1pQ2sT4vW6", "hvs.aB3dE5gH").of(SecretKind::Token),
    secret("linear-key", &["lin_api_", "lin_oauth_"], r"[A-Za-z0-9]{40,64}\b", "lin_api_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7j", "lin_api_aB3dE5gH"),
    secret("notion-token", &["ntn_"], r"[A-Za-z0-9]{40,50}\b", "ntn_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9mN1p", "ntn_aB3dE5gH").of(SecretKind::Token),
    secret("postman-key", &["PMAK-"], r"[0-9a-f]{24}-[0-9a-f]{34}\b", "PMAK-0a1b2c3d4e5f67890a1b2c3d-0a1b2c3d4e5f67890a1b2c3d4e5f67890a", "PMAK-0a1b2c3d4e5f67890a1b2c3d"),
    secret("docker-token", &["dckr_pat_", "dckr_oat_"], r"[A-Za-z0-9_-]{27,40}", "dckr_pat_aB3dE5gH7jK9mN1pQ2sT4vW6xY8", "dckr_pat_aB3dE5gH").of(SecretKind::Token),
    secret("grafana-token", &["glsa_"], r"[A-Za-z0-9]{32}_[0-9a-fA-F]{8}\b", "glsa_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB_0a1b2c3d", "glsa_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB").of(SecretKind::Token),
    secret("jwt", &["eyJ"], r"[A-Za-z0-9_-]{8,200}\.eyJ[A-Za-z0-9_-]{4,200}\.[A-Za-z0-9_-]{16,100}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB3dE5gH7jK9m", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0").of(SecretKind::Token).valid(always),
    secret("private-key", &["-----BEGIN "], r"[A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\{1,4}[nr]){1,8}[A-Za-z0-9+/=:,. -]{16}", "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAaB3dE5", "-----BEGIN RSA PRIVATE KEY-----\n...").of(SecretKind::PrivateKey).valid(always).after(Follows::Anything),
    secret("elida-key", &["elida_"], r"[A-Za-z0-9]{49}\b", "elida_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0bC1dF2gH3jK4m02Z7br", "elida_aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0bC1dF2gH3jK4m000000").valid(elida).after(Follows::Anything),
    secret("bearer-token", &["Bearer ", "bearer ", "BEARER "], r"[A-Za-z0-9._~+/-]{20,400}={0,2}", "Authorization: Bearer aB3dE5gH7jK9mN1pQ2sT4vW6xY8zA0aB", "Bearer of-all-the-good-news-there-is").of(SecretKind::Token),
    secret("url-password", &["://"], r"[A-Za-z0-9._%+-]{0,64}:[^\s\x22'`\\/@\[\]()<>{}]{1,128}@", "postgres://ada:aB3dE5gH7jK9@db/app", "postgres://user:password@localhost/app").of(SecretKind::Secret).valid(url_password).after(Follows::Anything),
    secret("generic-secret", NAMES, r"[A-Za-z0-9_]{0,20}\\{0,3}[\x22']?\s{0,4}(?::|=|:=|=>|%3D)\s{0,4}(?:\\{0,3}[\x22'][^\s\x22'\\]{12,200}\\{0,3}[\x22']|[A-Za-z0-9+/_.~=-]{16,200}(?:[^A-Za-z0-9+/_.~=(\[-]|\z))", "DB_PASSWORD=\"xK8vQ2pL9wRt\"", "password = \"correct horse\"").of(SecretKind::Secret).valid(assigned).after(Follows::Anything),
    pii("email", SecretKind::Email, Lead::LocalPart, r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", "ada@example.com", "ada@localhost"),
    pii("payment-card", SecretKind::Card, Lead::Digits, r"[2-6][0-9]{3}(?:[ -]?[0-9]){9,15}\b", "4111 1111 1111 1111", "4111 1111 1111 1112").valid(card),
    pii("iban", SecretKind::Iban, Lead::Account, r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b", "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00").valid(iban),
    pii("us-ssn", SecretKind::Ssn, Lead::Digits, r"[0-9]{3}(?:-[0-9]{2}-| [0-9]{2} )[0-9]{4}\b", "536-22-8714", "666-22-8714").valid(ssn),
    pii("phone", SecretKind::Phone, Lead::Digits, r"\+?(?:[0-9]{1,3}[ .-])?\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}\b|\+[1-9](?:[ .()-]{0,2}[0-9]){7,14}\b", "+1 212-736-5000", "112-136-5000").valid(phone),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::scan::{Pattern, PatternKind, Patterns, Work};

    #[test]
    fn each_row_finds_its_example_and_not_its_near_miss() {
        for detector in DETECTORS {
            let pattern = Pattern { kind: PatternKind::Detector(detector), slow: false };
            let patterns = Patterns::compile(&[pattern]).unwrap();
            let found = |text: &str| {
                let mut hits = 0;
                patterns.whole(text.as_bytes(), &mut Work::new(text.len()), &mut |_| hits += 1);
                hits
            };
            for around in [("", ""), ("x ", " y"), ("\"", "\"}"), ("(", ")."), ("a\\n", "\\n")] {
                let (before, behind) = around;
                assert_eq!(
                    found(&format!("{before}{}{behind}", detector.example)),
                    1,
                    "{} {around:?}",
                    detector.id
                );
                assert_eq!(
                    found(&format!("{before}{}{behind}", detector.near_miss)),
                    0,
                    "{} {around:?}",
                    detector.id
                );
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for (at, one) in DETECTORS.iter().enumerate() {
            assert!(DETECTORS[..at].iter().all(|other| other.id != one.id), "{}", one.id);
            assert!(std::ptr::eq(detector(one.id).unwrap(), one));
            assert_eq!(
                one.anchors.is_empty(),
                matches!(one.lead, Lead::Digits | Lead::Account),
                "{}",
                one.id
            );
        }
    }
}
