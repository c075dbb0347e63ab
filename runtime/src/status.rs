//! What the consumers are doing, for people and programs: dispatch writes it, HTTP and the command line read it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One consumer, as `GET /consumers` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// The queue that it works off.
    pub queue: String,
    /// What it is doing.
    pub state: ConsumerState,
    /// Counts up with each version of the module that was taken into use; 0 before the first.
    pub generation: u64,
    /// The SHA-256 of the module in force, in hexadecimal.
    pub module_hash: Option<String>,
    /// When it was taken into use, RFC 3339.
    pub loaded_at: Option<String>,
    /// Why the newest version was not taken into use. Gone once a good one was.
    pub reload_error: Option<String>,
    /// Deliveries that are running now.
    pub running: u64,
    /// Deliveries that ended in an ack since the start.
    pub acked: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// Dead letters since the start.
    pub dead_lettered: u64,
}

/// What a consumer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsumerState {
    /// Its first module is being built or loaded.
    Loading,
    /// It takes messages.
    Running,
    /// It has no module that works; its queue waits.
    Failed,
    /// The runtime is stopping.
    Draining,
}

/// The newest status of every consumer.
#[derive(Debug, Default)]
pub struct Board {
    // Short and rare: written when something changes, read by people.
    consumers: Mutex<BTreeMap<String, ConsumerStatus>>,
}

impl Board {
    /// Changes one consumer's entry, or makes it.
    pub fn update(&self, name: &str, queue: &str, change: impl FnOnce(&mut ConsumerStatus)) {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let status = consumers.entry(name.to_owned()).or_insert_with(|| ConsumerStatus {
            name: name.to_owned(),
            queue: queue.to_owned(),
            state: ConsumerState::Loading,
            generation: 0,
            module_hash: None,
            loaded_at: None,
            reload_error: None,
            running: 0,
            acked: 0,
            failed: 0,
            dead_lettered: 0,
        });
        change(status);
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<ConsumerStatus> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
