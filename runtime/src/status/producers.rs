//! What the producers are doing, for people and programs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::producers::Target;
use crate::time::{now_ms, rfc3339};

/// One producer, as `GET /producers` shows it. Counts are since the start of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerStatus {
    /// Its name.
    pub name: String,
    /// `cron`, `tail`, `watch` or `webhook`.
    pub kind: String,
    /// The queue that its messages go to; none if it is a subject.
    pub queue: Option<String>,
    /// The subject that its messages go to.
    pub subject: Option<String>,
    /// What it is doing.
    pub state: ProducerState,
    /// Messages that are on record.
    pub sent: u64,
    /// Messages that were there already, by their idempotency keys.
    pub duplicates: u64,
    /// What can't become a message: lines and files that are too long, requests that are not signed.
    pub refused: u64,
    /// Runs of a schedule that were left out.
    pub missed: u64,
    /// Files that it follows or has seen.
    pub files: Option<u64>,
    /// When its last message was put on record, RFC 3339.
    pub last_sent_at: Option<String>,
    /// When its schedule comes next, RFC 3339.
    pub next_run_at: Option<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that was, RFC 3339.
    pub last_error_at: Option<String>,
}

/// What a producer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProducerState {
    /// It sends what there is to send.
    Running,
    /// It can't send for now, and tries again: the queue is full, a folder is missing.
    Waiting,
    /// It has ended by itself.
    Failed,
}

/// The newest status of every producer.
#[derive(Debug, Default)]
pub struct ProducerBoard {
    // Short: held to find, add or remove an entry.
    entries: Mutex<BTreeMap<String, Arc<ProducerEntry>>>,
}

/// One producer's line on the board, which it writes itself.
#[derive(Debug)]
pub struct ProducerEntry {
    name: String,
    kind: &'static str,
    target: Target,
    sent: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    missed: AtomicU64,
    // Short: written when one of the facts changes.
    facts: Mutex<Facts>,
}

#[derive(Debug)]
struct Facts {
    state: ProducerState,
    files: Option<u64>,
    last_sent_at_ms: Option<u64>,
    next_run_at_ms: Option<u64>,
    last_error: Option<(String, u64)>,
}

impl ProducerBoard {
    /// A new line in the place of any other of this name.
    pub fn enter(&self, name: &str, kind: &'static str, target: Target) -> Arc<ProducerEntry> {
        let entry = Arc::new(ProducerEntry {
            name: name.to_owned(),
            kind,
            target,
            sent: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            facts: Mutex::new(Facts {
                state: ProducerState::Running,
                files: None,
                last_sent_at_ms: None,
                next_run_at_ms: None,
                last_error: None,
            }),
        });
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(name.to_owned(), entry.clone());
        entry
    }

    /// The producer is no more.
    pub fn remove(&self, name: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<ProducerStatus> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| entry.read()).collect()
    }
}

impl ProducerEntry {
    /// So many messages are on record, and so many were there before.
    pub fn sent(&self, messages: u64, duplicates: u64) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates, Ordering::Relaxed);
        let now_ms = now_ms();
        self.change(|facts| {
            facts.state = ProducerState::Running;
            if messages > 0 {
                facts.last_sent_at_ms = Some(now_ms);
            }
        });
    }

    /// So many could not become messages.
    pub fn refused(&self, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
    }

    /// So many runs were left out.
    pub fn missed(&self, count: u64) {
        self.missed.fetch_add(count, Ordering::Relaxed);
    }

    /// When the schedule comes next.
    pub fn next_run(&self, at_ms: Option<u64>) {
        self.change(|facts| facts.next_run_at_ms = at_ms);
    }

    /// How many files there are.
    pub fn files(&self, count: usize) {
        self.change(|facts| facts.files = Some(count as u64));
    }

    /// It goes on as it should. What went wrong before stays to be seen.
    pub fn running(&self) {
        self.change(|facts| facts.state = ProducerState::Running);
    }

    /// Something went wrong. True if that is news, and should be logged.
    pub fn error(&self, state: ProducerState, text: &str) -> bool {
        let now_ms = now_ms();
        let mut news = false;
        self.change(|facts| {
            let same = facts.last_error.as_ref().is_some_and(|(last, _)| last == text);
            news = !same || facts.state != state;
            facts.state = state;
            facts.last_error = Some((text.to_owned(), now_ms));
        });
        news
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> ProducerStatus {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, subject) = match &self.target {
            Target::Queue(queue) => (Some(queue.to_string()), None),
            Target::Subject(subject) => (None, Some(subject.to_string())),
        };
        ProducerStatus {
            name: self.name.clone(),
            kind: self.kind.to_owned(),
            queue,
            subject,
            state: facts.state,
            sent: self.sent.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            files: facts.files,
            last_sent_at: facts.last_sent_at_ms.map(rfc3339),
            next_run_at: facts.next_run_at_ms.map(rfc3339),
            last_error: facts.last_error.as_ref().map(|(text, _)| text.clone()),
            last_error_at: facts.last_error.as_ref().map(|(_, at_ms)| rfc3339(*at_ms)),
        }
    }
}
