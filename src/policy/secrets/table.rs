//! The rows of the table.

use super::detector::{Detector, SecretKind};
use super::validate::{always, luhn};

/// Returns the row with this id.
pub fn detector(id: &str) -> Option<&'static Detector> {
    DETECTORS.iter().find(|detector| detector.id == id)
}

const fn secret(
    id: &'static str,
    kind: SecretKind,
    regex: &'static str,
    example: &'static str,
    near_miss: &'static str,
) -> Detector {
    Detector { id, kind, is_secret: true, is_pii: false, regex, validate: always, example, near_miss }
}

/// All secrets and kinds of personal data that are known.
pub static DETECTORS: &[Detector] = &[
    secret(
        "aws-access-key",
        SecretKind::ApiKey,
        r"A(?:KI|SI)A[A-Z0-9]{16}",
        "AKIAIOSFODNN7EXAMPLE",
        "AKIAIOSFODNN7",
    ),
    secret(
        "anthropic-key",
        SecretKind::ApiKey,
        "sk-ant-[A-Za-z0-9_-]{16,200}",
        "sk-ant-api03-abcDEF123456789_abcDEF",
        "sk-ant-api",
    ),
    secret(
        "github-token",
        SecretKind::Token,
        "gh[oprsu]_[A-Za-z0-9]{36,}",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "ghp_abc",
    ),
    secret(
        "private-key",
        SecretKind::PrivateKey,
        "-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----BEGIN CERTIFICATE-----",
    ),
    Detector {
        id: "email",
        kind: SecretKind::Email,
        is_secret: false,
        is_pii: true,
        regex: r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}",
        validate: always,
        example: "ada@example.com",
        near_miss: "ada@localhost",
    },
    Detector {
        id: "payment-card",
        kind: SecretKind::Card,
        is_secret: false,
        is_pii: true,
        regex: r"\b[2-6][0-9]{3}(?:[ -]?[0-9]){9,15}\b",
        validate: luhn,
        example: "4111 1111 1111 1111",
        near_miss: "4111 1111 1111 1112",
    },
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
            assert_eq!(found(&format!("x {} y", detector.example)), 1, "{}", detector.id);
            assert_eq!(found(&format!("x {} y", detector.near_miss)), 0, "{}", detector.id);
        }
    }
}
