//! A row of the table of secrets and personal data.

/// A kind of secret or of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A vendor's key.
    ApiKey,
    /// A block of a private key.
    PrivateKey,
    /// A token that stands for a log-in.
    Token,
    /// A password or another value whose name says that it is secret.
    Secret,
    /// An e-mail address.
    Email,
    /// The number of a payment card.
    Card,
    /// The number of a bank account.
    Iban,
    /// A US social security number.
    Ssn,
    /// A telephone number.
    Phone,
}

/// How a secret or a piece of personal data is found.
#[derive(Debug)]
pub struct Detector {
    /// Its name in the configuration.
    pub id: &'static str,
    /// What it finds.
    pub kind: SecretKind,
    /// It begins with an anchor, from which on a stream is held until it is decided.
    pub is_secret: bool,
    /// It finds personal data.
    pub is_pii: bool,
    /// What it looks like.
    pub regex: &'static str,
    /// What tells it from look-alikes.
    pub validate: fn(&[u8]) -> bool,
    /// A text with one.
    pub example: &'static str,
    /// A text that only looks as if it had one.
    pub near_miss: &'static str,
}
