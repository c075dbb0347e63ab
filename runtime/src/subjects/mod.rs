//! Subjects: what messages are sent to when the sender should not know who wants them.
//!
//! A subject is made of tokens with dots between them: `orders.placed`. A queue subscribes to patterns, by the rules of
//! NATS (<https://docs.nats.io/nats-concepts/subjects>): `*` stands for exactly one token, `>`, which may only come last,
//! for one or more. A message that is sent to a subject is put into every queue that subscribes to it, once, however many
//! of the queue's patterns match.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::delivery::{NewMessage, Outgoing, QueueName};

mod subscriptions;

pub use self::subscriptions::Subscriptions;

/// The attribute that says which subject a message was sent to.
pub const ATTRIBUTE: &str = linecook_store::ATTRIBUTE_SUBJECT;

/// The longest subject or pattern, in bytes.
pub const BYTES_MAX: usize = 256;

const ONE: &str = "*";
const REST: &str = ">";

/// A subject without wildcards, such as `orders.placed`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Box<str>);

/// A subject that may have wildcards: `orders.*`, `logs.>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

/// Why a text is no subject or no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a subject: {1}")]
pub struct InvalidSubject(String, &'static str);

/// Who subscribes to what, now. It is replaced as a whole when `queue.toml` changes.
#[derive(Debug, Default)]
pub struct Subjects(RwLock<Arc<Subscriptions>>);

impl Subjects {
    /// With these to begin with.
    pub fn new(subscriptions: Subscriptions) -> Subjects {
        Subjects(RwLock::new(Arc::new(subscriptions)))
    }

    /// What is in force. One look decides about a whole request.
    pub fn current(&self) -> Arc<Subscriptions> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it is these.
    pub fn replace(&self, subscriptions: Subscriptions) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(subscriptions);
    }
}

/// What puts messages that are sent to a subject into these queues: message by message, and each in the order of the
/// queues.
pub fn copies(subject: &Subject, queues: &[QueueName], messages: &[NewMessage]) -> Vec<Outgoing> {
    let mut copies = Vec::with_capacity(messages.len() * queues.len());
    for message in messages {
        let mut message = message.clone();
        message.attributes.push((ATTRIBUTE.into(), subject.as_str().into()));
        copies.extend(queues.iter().map(|queue| Outgoing { queue: queue.clone(), message: message.clone() }));
    }
    copies
}

impl Subject {
    /// Checks and takes a subject.
    pub fn new(text: &str) -> Result<Subject, InvalidSubject> {
        check(text, false)?;
        Ok(Subject(text.into()))
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// Checks and takes a pattern.
    pub fn new(text: &str) -> Result<Pattern, InvalidSubject> {
        check(text, true)?;
        Ok(Pattern(text.into()))
    }

    /// The pattern that every subject matches.
    pub fn all() -> Pattern {
        Pattern(REST.into())
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the subject, or the name of a queue, is one of those that the pattern stands for.
    pub fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in self.0.split('.') {
            match (wanted, tokens.next()) {
                (_, None) => return false,
                (REST, Some(_)) => return true,
                (ONE, Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether every subject of `other` is one of this pattern's.
    pub fn covers(&self, other: &Pattern) -> bool {
        let mut others = other.0.split('.');
        for wanted in self.0.split('.') {
            match (wanted, others.next()) {
                (_, None) => return false,
                (REST, Some(_)) => return true,
                (_, Some(REST)) => return false,
                (ONE, Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }

    /// Whether there can be a subject that both patterns match.
    pub fn meets(&self, other: &Pattern) -> bool {
        let mut others = other.0.split('.');
        for one in self.0.split('.') {
            match (one, others.next()) {
                (_, None) => return false,
                (REST, Some(_)) | (_, Some(REST)) => return true,
                (ONE, Some(_)) | (_, Some(ONE)) => {}
                (one, Some(another)) if one == another => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
}

fn check(text: &str, wildcards: bool) -> Result<(), InvalidSubject> {
    let refuse = |why| Err(InvalidSubject(text.chars().take(160).collect(), why));
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > BYTES_MAX {
        return refuse("it is longer than 256 bytes");
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return refuse("a dot must stand between two tokens"),
            ONE | REST if !wildcards => {
                return refuse("`*` and `>` stand for tokens in what a queue subscribes to; a message has one subject");
            }
            REST if tokens.peek().is_some() => return refuse("`>` stands for the rest, so it can only come last"),
            ONE | REST => {}
            _ if token.contains(['*', '>']) => return refuse("`*` and `>` stand for whole tokens"),
            _ if !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) => {
                return refuse("only ASCII letters, digits, '-' and '_' are allowed between the dots");
            }
            _ => {}
        }
    }
    Ok(())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Subject, InvalidSubject> {
        Subject::new(text)
    }
}

impl FromStr for Pattern {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Pattern, InvalidSubject> {
        Pattern::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_by_the_rules_of_nats() {
        for (pattern, matching, others) in [
            ("orders.placed", &["orders.placed"][..], &["orders", "orders.placed.eu", "orders.lost"][..]),
            ("orders.*", &["orders.placed", "orders.x"], &["orders", "orders.placed.eu", "order.placed"]),
            ("*.placed", &["orders.placed"], &["placed", "a.b.placed"]),
            ("logs.>", &["logs.a", "logs.a.b.c"], &["logs", "log.a"]),
            (">", &["a", "a.b.c"], &[]),
            ("*.*", &["a.b"], &["a", "a.b.c"]),
            ("*.b.>", &["a.b.c", "a.b.c.d"], &["a.b", "a.c.d"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert!(matching.iter().all(|subject| pattern.matches(subject)), "{pattern}");
            assert!(!others.iter().any(|subject| pattern.matches(subject)), "{pattern}");
        }
    }

    #[test]
    fn patterns_cover_and_meet() {
        let pattern = |text| Pattern::new(text).unwrap();
        for (one, other, covers, meets) in [
            (">", "a.*", true, true),
            ("a.*", ">", false, true),
            ("a.*", "a.b", true, true),
            ("a.*", "a.>", false, true),
            ("a.>", "a.>", true, true),
            ("a.>", "a", false, false),
            ("a.*", "b.*", false, false),
            ("*.b", "a.*", false, true),
            ("*", "a.b", false, false),
        ] {
            assert_eq!(pattern(one).covers(&pattern(other)), covers, "{one} covers {other}");
            assert_eq!(pattern(one).meets(&pattern(other)), meets, "{one} meets {other}");
            assert_eq!(pattern(other).meets(&pattern(one)), meets, "{other} meets {one}");
        }
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "ä", "a/b", "a*", &"a".repeat(257)] {
            assert!(Subject::new(text).is_err(), "{text}");
        }
        for text in ["", "a.>.b", "a*", "a.b>", "**", "*.>.*", "a. *"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        assert!(Subject::new(&"a".repeat(256)).is_ok());
    }
}
