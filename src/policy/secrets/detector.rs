//! A row of the table of secrets and personal data.

use std::sync::OnceLock;

use regex_automata::dfa::Automaton;
use regex_automata::dfa::{StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

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

/// How the start of a match is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// It is that of the anchor.
    Anchor,
    /// It is that of the local part before the `@`.
    LocalPart,
    /// It is that of a group of digits, of which nine follow.
    Digits,
    /// It is that of two capitals, which two digits follow.
    Account,
}

/// What a match may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Anything.
    Anything,
    /// No letter, digit, `_` or `-`; but an escape such as `\n`.
    NoWord,
    /// No letter, digit, point or sign that makes it a part of another number.
    NoNumber,
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
    /// Texts one of which each match contains: at its start, unless `lead` says otherwise.
    pub anchors: &'static [&'static str],
    /// What follows an anchor; the whole expression if `lead` is not [`Lead::Anchor`].
    pub rest: &'static str,
    /// How the start of a match is found.
    pub lead: Lead,
    /// What a match may follow.
    pub follows: Follows,
    /// What tells it from look-alikes.
    pub validate: fn(&[u8]) -> bool,
    /// A text with one.
    pub example: &'static str,
    /// A text that only looks as if it had one.
    pub near_miss: &'static str,
    /// The automaton, made when it is first used.
    pub(super) automaton: OnceLock<(dense::DFA<Vec<u32>>, StateID)>,
}

impl Detector {
    /// The regular expression of a whole match.
    pub fn regex(&self) -> String {
        match self.lead {
            Lead::Anchor => {
                let anchors: Vec<String> =
                    self.anchors.iter().map(|anchor| regex_syntax::escape(anchor)).collect();
                format!("(?:{}){}", anchors.join("|"), self.rest)
            }
            _ => self.rest.to_owned(),
        }
    }

    /// The same for any text that is at least as long: what is stored loses too much rather than too little.
    pub fn open_ended(&self) -> String {
        let mut open = String::new();
        let mut parts =
            self.regex().replace(r"\b", "").split('{').map(str::to_owned).collect::<Vec<_>>().into_iter();
        open.extend(parts.next());
        for part in parts {
            let (count, rest) = part.split_once('}').unwrap_or((&part, ""));
            let least = count.split(',').next().unwrap_or(count);
            open.push_str(&format!("{{{least},}}{rest}"));
        }
        open
    }

    /// The automaton that reads a match from its start, and the state before the first byte.
    #[expect(clippy::expect_used, reason = "the expressions are constant; a test compiles them")]
    pub(in crate::policy) fn automaton(&self) -> &(dense::DFA<Vec<u32>>, StateID) {
        self.automaton.get_or_init(|| {
            let config = dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .accelerate(false);
            let automaton = dense::Builder::new()
                .configure(config)
                .syntax(syntax::Config::new().unicode(false).utf8(false))
                .thompson(thompson::Config::new().utf8(false))
                .build(&self.regex())
                .expect("the expression is well formed");
            let start = automaton
                .start_state(&start::Config::new().anchored(Anchored::Yes))
                .expect("the automaton has an anchored start");
            (automaton, start)
        })
    }

    /// Whether a match may stand behind these bytes.
    pub fn may_follow(&self, before: &[u8]) -> bool {
        let (Some(last), rest) = (before.last(), &before[..before.len().saturating_sub(1)]) else {
            return true;
        };
        let is_escape = || rest.last() == Some(&b'\\') && matches!(last, b'n' | b'r' | b't' | b'b' | b'f');
        match self.follows {
            Follows::Anything => true,
            Follows::NoWord => !(last.is_ascii_alphanumeric() || matches!(last, b'_' | b'-')) || is_escape(),
            Follows::NoNumber => {
                let is_joint = matches!(last, b'.' | b',' | b'-' | b'/' | b'+' | b'_' | b'#' | b'$' | b'=');
                !(last.is_ascii_alphanumeric()
                    || is_joint && rest.last().is_some_and(u8::is_ascii_alphanumeric))
                    || is_escape()
            }
        }
    }
}
