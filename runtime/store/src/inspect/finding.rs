//! One thing that is wrong in a folder.

use std::fmt;

use crate::OpenError;
use crate::disk::DiskError;

/// One thing that is not as it was written, or that an interrupted process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file's name in the data folder, if it is about one file.
    pub file: Option<String>,
    /// Where, in bytes from the file's start.
    pub offset: Option<u64>,
    /// What is wrong.
    pub why: String,
    /// What it means.
    pub meaning: Meaning,
}

/// What a finding means for the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// A power loss or a killed process leaves this; nothing that was confirmed is lost. It is no damage.
    Leftover,
    /// It is damage, but the folder opens all the same and nothing is lost by it.
    Recoverable,
    /// The folder opens, but so many messages can't be read.
    Unreadable {
        /// How many.
        messages: u64,
    },
    /// The folder opens and no message is lost, but a send whose idempotency key may stand there is refused.
    SendsRefused,
    /// The folder opens, but some durable key-value state can't be read, or can't be written.
    StateUnreadable,
    /// The folder is not opened as long as this is so.
    Refuses,
}

impl Finding {
    pub(super) fn at(file: &str, offset: u64, why: impl Into<String>, meaning: Meaning) -> Finding {
        Finding { file: Some(file.into()), offset: Some(offset), why: why.into(), meaning }
    }

    pub(super) fn of_file(file: &str, why: impl Into<String>, meaning: Meaning) -> Finding {
        Finding { file: Some(file.into()), offset: None, why: why.into(), meaning }
    }

    /// What keeps a file, or the folder, from being opened.
    pub(super) fn from_open(error: &OpenError, meaning: Meaning) -> Finding {
        match error {
            OpenError::Damaged { file, offset, why } => Finding::at(file, *offset, why, meaning),
            OpenError::OtherFormat { file, .. } | OpenError::UnknownFeatures { file, .. } => {
                Finding::of_file(file, error.to_string(), Meaning::Refuses)
            }
            other => Finding { file: None, offset: None, why: other.to_string(), meaning },
        }
    }

    pub(super) fn from_disk(file: &str, error: &DiskError, meaning: Meaning) -> Finding {
        Finding::of_file(file, error.to_string(), meaning)
    }

    /// Whether something is not as it was written.
    pub fn is_damage(&self) -> bool {
        self.meaning != Meaning::Leftover
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.offset) {
            (Some(file), Some(offset)) => write!(f, "{file} at offset {offset}: {}", self.why),
            (Some(file), None) => write!(f, "{file}: {}", self.why),
            (None, _) => f.write_str(&self.why),
        }
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Meaning::Leftover => f.write_str("no damage: an interrupted process leaves this, and nothing is lost"),
            Meaning::Recoverable => f.write_str("recoverable: nothing is lost by it"),
            Meaning::Unreadable { messages: 1 } => f.write_str("1 message can't be read"),
            Meaning::Unreadable { messages } => write!(f, "{messages} messages can't be read"),
            Meaning::SendsRefused => f.write_str("sends whose idempotency key may stand there are refused"),
            Meaning::StateUnreadable => f.write_str("some state of consumers can't be read"),
            Meaning::Refuses => f.write_str("the store refuses to open"),
        }
    }
}
