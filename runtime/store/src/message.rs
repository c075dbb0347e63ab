//! The nouns that everything above the store shares: queue names, message ids, messages and deliveries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

/// Attributes whose names start with this are set by Linecook only (the facts of a dead letter).
pub const ATTRIBUTE_PREFIX_RESERVED: &str = "linecook-";

/// The one reserved attribute that is a part of the message and no fact about what became of it: the subject that it was
/// sent to. A redrive keeps it.
pub const ATTRIBUTE_SUBJECT: &str = "linecook-subject";

/// The name of a queue: 1 to 128 ASCII letters, digits, `-` and `_`, in parts separated by single dots. The first
/// character is a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Arc<str>);

/// Why a text is no queue name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a queue name: {1}")]
pub struct InvalidQueueName(String, &'static str);

impl QueueName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<QueueName, InvalidQueueName> {
        let refuse = |why| Err(InvalidQueueName(name.chars().take(160).collect(), why));
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > Self::BYTES_MAX {
            return refuse("it is longer than 128 bytes");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return refuse("only ASCII letters, digits, '.', '-' and '_' are allowed");
        }
        if !name.as_bytes()[0].is_ascii_alphanumeric() {
            return refuse("it must start with a letter or a digit");
        }
        if name.split('.').any(str::is_empty) {
            return refuse("a dot must stand between two parts");
        }
        Ok(QueueName(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for QueueName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = InvalidQueueName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        QueueName::new(s)
    }
}

/// Names a message for ever: 64 bits that belong to the store (random, drawn when its folder was made) and a 64-bit
/// sequence number. Ids are never reused, so an id is a good idempotency key for calls to the outside.
///
/// As text: 26 characters of Crockford's base 32, in the order of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

/// A text that is no message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: it has 26 characters of 0-9 and a-z without i, l, o and u")]
pub struct InvalidId;

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The number of each character, in both cases; [`NO_DIGIT`] for all others.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < CROCKFORD.len() {
        let character = CROCKFORD[digit];
        digits[character as usize] = digit as u8;
        digits[character.to_ascii_uppercase() as usize] = digit as u8;
        digit += 1;
    }
    digits
};
const NO_DIGIT: u8 = 0xff;

/// Characters of the text, and bits, that fit into a machine word: 12 of 5 bits each.
const WORD_CHARACTERS: usize = 12;
const WORD_BITS: u32 = 5 * WORD_CHARACTERS as u32;

impl MessageId {
    /// Length of an id as text.
    pub const TEXT_BYTES: usize = 26;

    /// Writes the id as text, without asking for memory.
    pub fn encode(self, text: &mut [u8; Self::TEXT_BYTES]) -> &str {
        let (mut words, mut rest) = (text.rchunks_exact_mut(WORD_CHARACTERS), self.0);
        for word in &mut words {
            let mut bits = rest as u64;
            for place in word.iter_mut().rev() {
                *place = CROCKFORD[(bits & 31) as usize];
                bits >>= 5;
            }
            rest >>= WORD_BITS;
        }
        for place in words.into_remainder().iter_mut().rev() {
            *place = CROCKFORD[(rest & 31) as usize];
            rest >>= 5;
        }
        std::str::from_utf8(text).expect("the alphabet is ASCII")
    }

    /// Puts an id together.
    pub const fn new(store: u64, sequence: u64) -> MessageId {
        MessageId((store as u128) << 64 | sequence as u128)
    }

    /// The store's part.
    pub const fn store(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The sequence number within the store.
    pub const fn sequence(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; MessageId::TEXT_BYTES]))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let text: &[u8; MessageId::TEXT_BYTES] = s.as_bytes().try_into().map_err(|_| InvalidId)?;
        let digits = text.map(|character| DIGITS[usize::from(character)]);
        // 26 digits are 130 bits.
        if digits.contains(&NO_DIGIT) || digits[0] >= 8 {
            return Err(InvalidId);
        }
        let word = |digits: &[u8]| digits.iter().fold(0u64, |word, digit| word << 5 | u64::from(*digit));
        let (top, low) = digits.split_at(MessageId::TEXT_BYTES - 2 * WORD_CHARACTERS);
        let (middle, low) = low.split_at(WORD_CHARACTERS);
        let value =
            u128::from(word(top)) << (2 * WORD_BITS) | u128::from(word(middle)) << WORD_BITS | u128::from(word(low));
        Ok(MessageId(value))
    }
}

/// A message on its way into a queue. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// The payload.
    pub body: Bytes,
    /// Its media type, if the sender named one.
    pub content_type: Option<Box<str>>,
    /// Messages of one queue with the same key are handled one at a time, in order.
    pub key: Option<Box<str>>,
    /// Names and values that travel with the body, in the sender's order.
    pub attributes: Vec<(Box<str>, Box<str>)>,
    /// A message that is sent to the same queue with the same key within its window is a duplicate, and not taken.
    pub idempotency_key: Option<Box<str>>,
    /// How long it waits before it is ready; 0 is at once.
    pub delay_ms: u64,
}

/// A message in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name, for ever.
    pub id: MessageId,
    /// The payload.
    pub body: Bytes,
    /// Its media type, if the sender named one.
    pub content_type: Option<Box<str>>,
    /// Its ordering key.
    pub key: Option<Box<str>>,
    /// Names and values that travel with the body; a dead letter's facts are among them.
    pub attributes: Vec<(Box<str>, Box<str>)>,
    /// When it was first sent, in milliseconds of the Unix epoch.
    pub enqueued_at_ms: u64,
}

/// The right to settle one delivery. A lease that has expired or was settled is worth nothing, also when the same
/// message has been claimed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The store's number of the queue.
    pub queue: u32,
    /// The message's position in the queue.
    pub position: u64,
    /// Differs for each delivery of a process's life.
    pub token: u64,
}

/// A message that was handed out, with its attempt and its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What to handle.
    pub message: Message,
    /// 1 for the first.
    pub attempt: u32,
    /// When an attempt of this message first failed, in milliseconds of the Unix epoch.
    pub first_failed_at_ms: Option<u64>,
    /// What settles it.
    pub lease: Lease,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written_and_sorts_by_number() {
        let ids =
            [MessageId::new(0, 0), MessageId::new(0, 31), MessageId::new(7, u64::MAX), MessageId::new(u64::MAX, 1)];
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_ascii_uppercase().parse(), Ok(id));
            assert_eq!(id.to_string().len(), 26);
        }
        assert!(ids.map(|id| id.to_string()).is_sorted());
        assert_eq!(MessageId(u128::MAX).to_string(), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(MessageId(0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978).to_string(), "014d2pf2dbsqqgy7hd7h5nmtbr");
        for bad in
            ["", "0", "z0000000000000000000000000", "0000000000000000000000000u", "00000000000000000000000000000"]
        {
            assert_eq!(bad.parse::<MessageId>(), Err(InvalidId), "{bad}");
        }
    }

    #[test]
    fn queue_names_are_checked() {
        for good in ["a", "signups", "signups.dead", "thumbnails-done", "A_1.b-2.c", "0"] {
            assert!(QueueName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "-a", "_a", "a b", "ä", "a/b", "a*", "a\0", &"x".repeat(129)] {
            assert!(QueueName::new(bad).is_err(), "{bad}");
        }
    }
}
