//! Bearer tokens: who may do what with which queues.
//!
//! A token is 256 random bits, so its SHA-256 is kept and nothing stronger: a slow hash guards what people choose, and nobody
//! can try 2^256 tokens at any speed; a slow hash for each request would only help those who want to keep a server busy. All
//! tokens are compared, each in constant time, so that the time says nothing about how close a guess was.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::subjects::{InvalidSubject, Pattern};

/// What every token begins with, so that people and scanners of leaked secrets know one when they see it.
pub const PREFIX: &str = "linecook_";

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Send to queues and subjects.
    Send,
    /// Claim and settle messages, and look at them.
    Consume,
    /// Everything.
    Admin,
}

/// What may be done with what. Written as `send:orders.*`; `send` alone is `send:>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// What may be done.
    pub action: Action,
    /// With the queues and subjects whose names match this.
    pub pattern: Pattern,
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// There is no such action.
    #[error("{0:?} is no action: there are send, consume and admin")]
    Action(String),
    /// It is for no pattern of names.
    #[error("{0}")]
    Pattern(#[from] InvalidSubject),
}

/// One token. The token itself is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What `queue.toml` calls it.
    pub name: String,
    /// The SHA-256 of the token's text.
    pub hash: TokenHash,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// From then on it is refused, in milliseconds of the Unix epoch.
    pub expires_at_ms: Option<u64>,
}

/// The SHA-256 of a token's text. Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// The tokens that are accepted; none if everybody may do everything. Replaced as a whole when `queue.toml` changes.
#[derive(Debug, Default)]
pub struct Auth(RwLock<Option<Arc<[Arc<Token>]>>>);

/// What became of a token that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is this one.
    Good(Arc<Token>),
    /// It was good until it expired.
    Expired,
    /// It is none.
    Unknown,
}

impl Auth {
    /// With these tokens, or with none, and then everybody may do everything.
    pub fn new(tokens: Option<&[Token]>) -> Auth {
        Auth(RwLock::new(tokens.map(share)))
    }

    /// From now on it is these.
    pub fn replace(&self, tokens: Option<&[Token]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens.map(share);
    }

    /// Whether a token is needed.
    pub fn is_on(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Looks for the token with this text.
    pub fn check(&self, text: &str, now_ms: u64) -> Checked {
        let Some(tokens) = self.0.read().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Checked::Unknown;
        };
        let hash = TokenHash::of(text);
        let mut found = None;
        for token in tokens.iter() {
            if bool::from(token.hash.0.ct_eq(&hash.0)) {
                found = Some(token);
            }
        }
        match found {
            None => Checked::Unknown,
            Some(token) if token.expires_at_ms.is_some_and(|at| at <= now_ms) => Checked::Expired,
            Some(token) => Checked::Good(token.clone()),
        }
    }
}

fn share(tokens: &[Token]) -> Arc<[Arc<Token>]> {
    tokens.iter().cloned().map(Arc::new).collect()
}

impl Token {
    /// Whether it is good for this.
    pub fn may(&self, action: Action, name: &str) -> bool {
        self.scopes
            .iter()
            .any(|scope| (scope.action == action || scope.action == Action::Admin) && scope.pattern.matches(name))
    }

    /// Whether it is good for anything to do with this queue.
    pub fn may_see(&self, queue: &str) -> bool {
        self.scopes.iter().any(|scope| scope.pattern.matches(queue))
    }

    /// Whether it is good for everything.
    pub fn may_all(&self) -> bool {
        self.scopes.iter().any(|scope| scope.action == Action::Admin && scope.pattern == Pattern::all())
    }
}

impl TokenHash {
    /// Of a token.
    pub fn of(text: &str) -> TokenHash {
        TokenHash(Sha256::digest(text).into())
    }
}

/// A new token. It is to be shown once and kept nowhere.
pub fn new_token() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random)))
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenHash {
    type Err = ();

    fn from_str(text: &str) -> Result<TokenHash, ()> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(drop)?;
            *byte = u8::from_str_radix(digits, 16).map_err(drop)?;
        }
        Ok(TokenHash(hash))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Send => "send",
            Action::Consume => "consume",
            Action::Admin => "admin",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.action, self.pattern)
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Scope, InvalidScope> {
        let (action, pattern) = match text.split_once(':') {
            Some((action, pattern)) => (action, pattern.parse()?),
            None => (text, Pattern::all()),
        };
        let action = match action {
            "send" => Action::Send,
            "consume" => Action::Consume,
            "admin" => Action::Admin,
            other => return Err(InvalidScope::Action(other.chars().take(40).collect())),
        };
        Ok(Scope { action, pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, scopes: &[&str], expires_at_ms: Option<u64>) -> Token {
        let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        Token { name: "t".to_owned(), hash: TokenHash::of(text), scopes, expires_at_ms }
    }

    #[test]
    fn tokens_are_found_by_their_hash_until_they_expire() {
        let auth = Auth::new(Some(&[token("a", &["send"], None), token("b", &["send"], Some(1000))]));
        assert!(matches!(auth.check("a", u64::MAX), Checked::Good(_)));
        assert!(matches!(auth.check("b", 999), Checked::Good(_)));
        assert_eq!(auth.check("b", 1000), Checked::Expired);
        assert_eq!(auth.check("", 0), Checked::Unknown);
        auth.replace(Some(&[]));
        assert_eq!((auth.check("a", 0), auth.is_on()), (Checked::Unknown, true));
        auth.replace(None);
        assert!(!auth.is_on());
    }

    #[test]
    fn scopes_say_what_may_be_done_with_what() {
        let token = token("a", &["send:orders.*", "consume:audit", "admin:own.>"], None);
        for (action, name, may) in [
            (Action::Send, "orders.placed", true),
            (Action::Send, "orders", false),
            (Action::Send, "audit", false),
            (Action::Consume, "audit", true),
            (Action::Consume, "orders.placed", false),
            (Action::Admin, "audit", false),
            (Action::Send, "own.a", true),
            (Action::Consume, "own.a.b", true),
            (Action::Admin, "own.a", true),
        ] {
            assert_eq!(token.may(action, name), may, "{action} {name}");
        }
        assert!(!token.may_all() && token.may_see("audit") && !token.may_see("other"));
        for text in ["send:orders.*", "admin:>"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        assert_eq!("admin".parse::<Scope>().unwrap().to_string(), "admin:>");
        for wrong in ["", "read", "send:", "send:a..b", "SEND"] {
            assert!(wrong.parse::<Scope>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn new_tokens_differ_and_hashes_are_read_as_they_are_written() {
        let (one, two) = (new_token().unwrap(), new_token().unwrap());
        assert!(one != two && one.starts_with(PREFIX) && one.len() == PREFIX.len() + 43);
        let hash = TokenHash::of(&one);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("x".parse::<TokenHash>().is_err() && "é".repeat(32).parse::<TokenHash>().is_err());
    }
}
