//! Parses tokens into a tree, by CEL's precedence.

use super::expression::{MAX_DEPTH, MAX_NODES, SourceFault};
use super::lexer::{Token, TokenKind};

/// A part of an expression and the position of its first byte; of an operator's, that of the operator.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

/// What a part is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Expr>),
    Name(String),
    /// `a.b`
    Member(Box<Expr>, String),
    /// `a["b"]`
    Index(Box<Expr>, Box<Expr>),
    /// `f(a)`, and `a.f(b)` as `f(a, b)`.
    Call {
        name: String,
        arguments: Vec<Expr>,
        is_method: bool,
    },
    Not(Box<Expr>),
    Negative(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Choice(Box<[Expr; 3]>),
    Binary(&'static str, Box<[Expr; 2]>),
}

/// Comparisons; they do not associate.
const RELATIONS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];

/// Parses a whole expression.
///
/// # Errors
/// It is empty, not complete, too large or nested too deeply.
pub(super) fn parse(tokens: Vec<Token>, end: usize) -> Result<Expr, SourceFault> {
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), end, depth: 0, nodes: 0 };
    let expr = parser.choice()?;
    match parser.tokens.next() {
        None => Ok(expr),
        Some(token) => {
            let message = format!("{} is not expected here", written(&token.kind));
            Err(SourceFault::new(token.at, message, "join two conditions with && or ||"))
        }
    }
}

fn written(kind: &TokenKind) -> String {
    match kind {
        TokenKind::Word(word) => word.clone(),
        TokenKind::Text(text) => format!("{text:?}"),
        TokenKind::Int(number) => number.to_string(),
        TokenKind::Float(number) => number.to_string(),
        TokenKind::Sign(sign) => format!("'{sign}'"),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// Bytes of the source, where a fault at its end is.
    end: usize,
    depth: usize,
    nodes: usize,
}

type Parsed = Result<Expr, SourceFault>;

impl Parser {
    fn at(&mut self) -> usize {
        self.tokens.peek().map_or(self.end, |token| token.at)
    }

    fn node(&mut self, at: usize, kind: Kind) -> Parsed {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the expression has more than {MAX_NODES} parts");
            return Err(SourceFault::new(
                at,
                message,
                "write [\"a\", \"b\"] with `in` instead of many comparisons",
            ));
        }
        Ok(Expr { at, kind })
    }

    /// Takes the next token if it is this sign; returns where it is.
    fn sign(&mut self, sign: &str) -> Option<usize> {
        let is_it = |token: &Token| matches!(token.kind, TokenKind::Sign(found) if found == sign);
        self.tokens.next_if(is_it).map(|token| token.at)
    }

    fn one_of(&mut self, signs: &[&'static str]) -> Option<(usize, &'static str)> {
        signs.iter().find_map(|sign| self.sign(sign).map(|at| (at, *sign)))
    }

    fn expect(&mut self, sign: &str) -> Result<(), SourceFault> {
        if self.sign(sign).is_some() {
            return Ok(());
        }
        let at = self.at();
        let found = self.tokens.peek().map_or("the end".to_owned(), |token| written(&token.kind));
        Err(SourceFault::new(at, format!("'{sign}' is missing before {found}"), ""))
    }

    /// Runs `parse` one level deeper.
    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("the expression is nested more than {MAX_DEPTH} levels deep");
            return Err(SourceFault::new(self.at(), message, "split it into several rules"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn choice(&mut self) -> Parsed {
        self.deeper(|parser| {
            let condition = parser.or()?;
            let Some(at) = parser.sign("?") else { return Ok(condition) };
            let yes = parser.choice()?;
            parser.expect(":")?;
            let no = parser.choice()?;
            parser.node(at, Kind::Choice(Box::new([condition, yes, no])))
        })
    }

    fn or(&mut self) -> Parsed {
        self.joined("||", Self::and, Kind::Or)
    }

    fn and(&mut self) -> Parsed {
        self.joined("&&", Self::relation, Kind::And)
    }

    fn joined(&mut self, sign: &str, part: fn(&mut Self) -> Parsed, join: fn(Vec<Expr>) -> Kind) -> Parsed {
        let first = part(self)?;
        let at = self.at();
        let mut parts = vec![first];
        while self.sign(sign).is_some() {
            parts.push(part(self)?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => self.node(at, join(parts)),
        }
    }

    fn relation(&mut self) -> Parsed {
        let left = self.sum()?;
        let is_in = |token: &Token| matches!(&token.kind, TokenKind::Word(word) if word == "in");
        if let Some(token) = self.tokens.next_if(is_in) {
            let right = self.sum()?;
            return self.node(token.at, Kind::Binary("in", Box::new([left, right])));
        }
        let Some((at, relation)) = self.one_of(&RELATIONS) else { return Ok(left) };
        let right = self.sum()?;
        self.node(at, Kind::Binary(relation, Box::new([left, right])))
    }

    fn sum(&mut self) -> Parsed {
        self.chain(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.chain(&["*", "/", "%"], Self::unary)
    }

    fn chain(&mut self, signs: &[&'static str], part: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        while let Some((at, sign)) = self.one_of(signs) {
            let right = part(self)?;
            left = self.node(at, Kind::Binary(sign, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        if let Some(at) = self.sign("!") {
            let inner = self.deeper(Self::unary)?;
            return self.node(at, Kind::Not(Box::new(inner)));
        }
        if let Some(at) = self.sign("-") {
            let inner = self.deeper(Self::unary)?;
            return self.node(at, Kind::Negative(Box::new(inner)));
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            if let Some(at) = self.sign(".") {
                let (_, name) = self.word(at)?;
                expr = match self.sign("(") {
                    Some(_) => {
                        let arguments = self.list(")", vec![expr])?;
                        self.node(at, Kind::Call { name, arguments, is_method: true })?
                    }
                    None => {
                        let at = expr.at;
                        self.node(at, Kind::Member(Box::new(expr), name))?
                    }
                };
            } else if let Some(at) = self.sign("[") {
                let key = self.choice()?;
                self.expect("]")?;
                expr = self.node(at, Kind::Index(Box::new(expr), Box::new(key)))?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn word(&mut self, dot: usize) -> Result<(usize, String), SourceFault> {
        match self.tokens.next() {
            Some(Token { at, kind: TokenKind::Word(word) }) => Ok((at, word)),
            _ => Err(SourceFault::new(dot, "a name is missing after the dot", "")),
        }
    }

    /// Parses the rest of a list, behind its opening bracket.
    fn list(&mut self, close: &str, mut items: Vec<Expr>) -> Result<Vec<Expr>, SourceFault> {
        if self.sign(close).is_some() {
            return Ok(items);
        }
        loop {
            items.push(self.choice()?);
            if self.sign(",").is_none() {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let Some(Token { at, kind }) = self.tokens.next() else {
            return Err(SourceFault::new(self.end, "the expression ends too early", ""));
        };
        let kind = match kind {
            TokenKind::Int(number) => Kind::Int(number),
            TokenKind::Float(number) => Kind::Float(number),
            TokenKind::Text(text) => Kind::Text(text),
            TokenKind::Word(word) if word == "true" || word == "false" => Kind::Bool(word == "true"),
            TokenKind::Word(name) => match self.sign("(") {
                Some(_) => Kind::Call { name, arguments: self.list(")", Vec::new())?, is_method: false },
                None => Kind::Name(name),
            },
            TokenKind::Sign("[") => Kind::List(self.list("]", Vec::new())?),
            TokenKind::Sign("(") => {
                let inner = self.choice()?;
                self.expect(")")?;
                return Ok(inner);
            }
            TokenKind::Sign(_) => {
                let message = format!("{} is not expected here", written(&kind));
                return Err(SourceFault::new(at, message, ""));
            }
        };
        self.node(at, kind)
    }
}
