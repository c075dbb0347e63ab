//! How a producer gets its messages on record: together with its own progress, in one atomic step, and only when there is
//! room. A queue that is full makes it wait; nothing is skipped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::broker::{Broker, BrokerError, Published};
use crate::config::ProducerConfig;
use crate::config::producers::Target;
use crate::delivery::{NewMessage, Outgoing, StateWrite};
use crate::status::producers::{ProducerEntry, ProducerState};
use crate::subjects::{self, Subjects};

/// How long to wait before the first new try; doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// One producer's way to its queue, or to those that subscribe to its subject, and to its state.
pub(super) struct Outlet {
    broker: Arc<dyn Broker>,
    name: String,
    space: Box<str>,
    target: Target,
    subjects: Arc<Subjects>,
    content_type: Option<Box<str>>,
    key: Option<Box<str>>,
    attributes: Vec<(Box<str>, Box<str>)>,
    entry: Arc<ProducerEntry>,
    stop: watch::Receiver<bool>,
}

/// Why messages are not on record.
#[derive(Debug)]
pub(super) enum Unsent {
    /// They are more than the engine takes in one step.
    TooLarge,
    /// The producer was told to stop, or the engine has stopped.
    Stopped,
}

impl Outlet {
    pub(super) fn new(
        (broker, subjects): (Arc<dyn Broker>, Arc<Subjects>),
        config: &ProducerConfig,
        entry: Arc<ProducerEntry>,
        stop: watch::Receiver<bool>,
    ) -> Outlet {
        let attribute = |(name, value): &(String, String)| (name.as_str().into(), value.as_str().into());
        Outlet {
            broker,
            name: config.name.clone(),
            space: format!("producer/{}", config.name).into(),
            target: config.target.clone(),
            subjects,
            content_type: config.content_type.as_deref().map(Into::into),
            key: config.key.as_deref().map(Into::into),
            attributes: config.attributes.iter().map(attribute).collect(),
            entry,
            stop,
        }
    }

    /// The producer's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The producer's line on the board.
    pub(super) fn entry(&self) -> &ProducerEntry {
        &self.entry
    }

    /// Whether the producer was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until the producer is told to stop.
    pub(super) async fn stopped(&self) {
        // A sender that is gone says the same.
        _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// A message with what is configured for all.
    pub(super) fn message(&self, body: Bytes) -> NewMessage {
        NewMessage {
            body,
            content_type: self.content_type.clone(),
            key: self.key.clone(),
            attributes: self.attributes.clone(),
            ..NewMessage::default()
        }
    }

    /// A key of the producer's state with its new value.
    pub(super) fn write(&self, key: &str, value: Option<Bytes>) -> StateWrite {
        StateWrite { space: self.space.clone(), key: key.into(), value }
    }

    /// Puts messages and progress on record in one step. Waits for as long as there is no room.
    pub(super) async fn commit(
        &self,
        messages: Vec<NewMessage>,
        state: Vec<StateWrite>,
    ) -> Result<Vec<Published>, Unsent> {
        let mut pause = RETRY_FIRST;
        loop {
            let (sends, copies) = self.address(&messages);
            if sends.is_empty() && !messages.is_empty() {
                let error = format!("no queue subscribes to {}", self.target.name());
                self.pause(&error, &mut pause).await?;
                continue;
            }
            // Never given up halfway: it would not be known whether it is on record.
            match self.broker.publish_all(sends, state.clone()).await {
                Ok(published) => {
                    // A message counts once, and as a duplicate if it is one in each of its queues.
                    let sent = published.chunks(copies);
                    let duplicates = sent.filter(|copies| copies.iter().all(|one| one.duplicate)).count() as u64;
                    self.entry.sent(messages.len() as u64 - duplicates, duplicates);
                    return Ok(published);
                }
                Err(BrokerError::TooLarge { .. }) => return Err(Unsent::TooLarge),
                Err(error) => self.wait(&error, &mut pause).await?,
            }
        }
    }

    /// What puts the messages where they belong now, and how many copies there are of each, or 1 if there are none.
    fn address(&self, messages: &[NewMessage]) -> (Vec<Outgoing>, usize) {
        match &self.target {
            Target::Queue(queue) => {
                let send = |message: &NewMessage| Outgoing { queue: queue.clone(), message: message.clone() };
                (messages.iter().map(send).collect(), 1)
            }
            Target::Subject(subject) => {
                let queues = self.subjects.current().queues(subject);
                (subjects::copies(subject, &queues, messages), queues.len().max(1))
            }
        }
    }

    /// The value of a key of the producer's state. Waits for as long as it can't be read.
    pub(super) async fn state(&self, key: &str) -> Result<Option<Bytes>, Unsent> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.broker.state(&self.space, key) {
                Ok(value) => return Ok(value),
                Err(error) => self.wait(&error, &mut pause).await?,
            }
        }
    }

    /// All keys of the producer's state with this prefix, and their values.
    pub(super) async fn states(&self, prefix: &str) -> Result<Vec<(Box<str>, Bytes)>, Unsent> {
        const PAGE: usize = 1000;
        let mut all = Vec::new();
        let mut after: Option<Box<str>> = None;
        let mut pause = RETRY_FIRST;
        loop {
            let keys = match self.broker.state_keys(&self.space, after.as_deref(), PAGE) {
                Ok(keys) => keys,
                Err(error) => {
                    self.wait(&error, &mut pause).await?;
                    continue;
                }
            };
            for key in keys.iter().filter(|key| key.starts_with(prefix)) {
                if let Some(value) = self.state(key).await? {
                    all.push((key.clone(), value));
                }
            }
            if keys.len() < PAGE {
                return Ok(all);
            }
            after = keys.last().cloned();
        }
    }

    async fn wait(&self, error: &BrokerError, pause: &mut Duration) -> Result<(), Unsent> {
        if matches!(error, BrokerError::Stopped(_)) {
            // The process says so itself, and ends.
            self.entry.error(ProducerState::Failed, &error.to_string());
            return Err(Unsent::Stopped);
        }
        self.pause(&error.to_string(), pause).await
    }

    async fn pause(&self, error: &str, pause: &mut Duration) -> Result<(), Unsent> {
        if self.entry.error(ProducerState::Waiting, error) {
            tracing::warn!(producer = self.name, "nothing is sent for now, and nothing skipped: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(*pause) => {}
            () = self.stopped() => return Err(Unsent::Stopped),
        }
        *pause = (*pause * 2).min(RETRY_MAX);
        Ok(())
    }
}
