//! What the consumers are doing, for people and programs: dispatch writes it, HTTP and the command line read it.

pub mod producers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use self::producers::ProducerBoard;
use crate::pause::Pauses;
use crate::sandbox::InstanceCount;

/// One consumer, as `GET /consumers` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// The queue that it works off.
    pub queue: String,
    /// What it is doing.
    pub state: ConsumerState,
    /// It claims nothing until it is resumed.
    pub paused: bool,
    /// Messages that its handlers begin with at most, such as `100/s`; none if there is no limit.
    pub rate_limit: Option<String>,
    /// Counts up with each version of the module that was taken into use; 0 before the first.
    pub generation: u64,
    /// The SHA-256 of the module in force, in hexadecimal.
    pub module_hash: Option<String>,
    /// When it was taken into use, RFC 3339.
    pub loaded_at: Option<String>,
    /// Why the newest version was not taken into use. Gone once a good one was.
    pub reload_error: Option<String>,
    /// The generation that is on trial, if one is.
    pub canary: Option<CanaryStatus>,
    /// Instances that are kept for the next delivery (`instance = "reused"`), by generation.
    pub instances: Vec<InstanceStatus>,
    /// Deliveries that are running now.
    pub running: u64,
    /// Deliveries that ended in an ack since the start.
    pub acked: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// Dead letters since the start.
    pub dead_lettered: u64,
}

/// A generation on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Its number.
    pub generation: u64,
    /// The SHA-256 of its module, in hexadecimal.
    pub module_hash: String,
}

/// The kept instances of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The generation.
    pub generation: u64,
    /// How many there are, on all workers; those that run included.
    pub count: u64,
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
    /// `queue.toml` does not name it any more; what it was handling ends.
    Removed,
}

/// The `queue.toml` in force, as `GET /consumers` and `linecook status` show it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The SHA-256 of the file that is in force, in hexadecimal.
    pub hash: String,
    /// When it was taken into use, RFC 3339.
    pub loaded_at: String,
    /// Why the file as it is now is not in force: every error with its place and a hint. Gone once it is.
    pub last_error: Option<String>,
}

/// What one worker has done for one consumer. Each worker has its own, so that counting a message costs no more than a
/// write to memory that nobody else writes; the alignment keeps two of them out of one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    running: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
    dead_lettered: AtomicU64,
    // Touched when a kept instance starts or ends, which is rare.
    instances: Mutex<BTreeMap<u64, u64>>,
}

/// The newest status of every consumer.
#[derive(Debug, Default)]
pub struct Board {
    // Short and rare: written when something other than a count changes, read by people.
    consumers: Mutex<BTreeMap<String, Entry>>,
    pauses: Pauses,
    // Likewise.
    config: Mutex<ConfigStatus>,
    /// Whether every consumer of the start has loaded its first module, or failed to.
    started: AtomicBool,
    producers: ProducerBoard,
}

#[derive(Debug)]
struct Entry {
    /// Its counts stay 0: they are added up when somebody looks.
    status: ConsumerStatus,
    counters: Vec<Arc<Counters>>,
}

impl Counters {
    /// So many deliveries start: one, or those of a batch.
    pub fn begin(&self, deliveries: u64) {
        add(&self.running, deliveries);
    }

    /// So many deliveries have ended.
    pub fn end(&self, deliveries: u64) {
        add(&self.running, deliveries.wrapping_neg());
    }

    /// So many acks are on record.
    pub fn acked(&self, deliveries: u64) {
        add(&self.acked, deliveries);
    }

    /// An attempt has failed.
    pub fn failed(&self) {
        add(&self.failed, 1);
    }

    /// A dead letter is on record.
    pub fn dead_lettered(&self) {
        add(&self.dead_lettered, 1);
    }
}

impl InstanceCount for Counters {
    fn started(&self, generation: u64) {
        *self.instances.lock().unwrap_or_else(PoisonError::into_inner).entry(generation).or_default() += 1;
    }

    fn ended(&self, generation: u64) {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = instances.get_mut(&generation) {
            *count -= 1;
            if *count == 0 {
                instances.remove(&generation);
            }
        }
    }
}

/// One writer for each count, so a load and a store are enough; a locked addition costs twenty times as much.
fn add(count: &AtomicU64, amount: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Board {
    /// What the producers are doing.
    pub fn producers(&self) -> &ProducerBoard {
        &self.producers
    }

    /// Changes one consumer's entry, or makes it. The counts are not to be changed here: see [`Board::counters`].
    pub fn update(&self, name: &str, queue: &str, change: impl FnOnce(&mut ConsumerStatus)) {
        self.with_entry(name, queue, |entry| change(&mut entry.status));
    }

    /// A set of counts of a consumer, to be written by one thread only. It may be one that nobody else has any more, so that
    /// a consumer that is changed again and again does not gather them.
    pub fn counters(&self, name: &str, queue: &str) -> Arc<Counters> {
        let mut given = Arc::default();
        self.with_entry(name, queue, |entry| {
            match entry.counters.iter_mut().find_map(|counters| Arc::get_mut(counters).is_some().then_some(counters)) {
                Some(unused) => given = unused.clone(),
                None => entry.counters.push(Arc::clone(&given)),
            }
        });
        given
    }

    /// The consumers that still load. Once there were none, this stays empty: a consumer that is added while the runtime
    /// runs does not make it less ready than it was.
    pub fn starting(&self) -> Vec<String> {
        if self.started.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let loading = self.all().into_iter().filter(|consumer| consumer.state == ConsumerState::Loading);
        let loading: Vec<String> = loading.map(|consumer| consumer.name).collect();
        self.started.store(loading.is_empty(), Ordering::Relaxed);
        loading
    }

    /// Takes a consumer off the board, if it has been removed and nobody has added it again.
    pub fn forget_removed(&self, name: &str) {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        if consumers.get(name).is_some_and(|entry| entry.status.state == ConsumerState::Removed) {
            consumers.remove(name);
        }
    }

    /// Changes what is told of `queue.toml`.
    pub fn update_config(&self, change: impl FnOnce(&mut ConfigStatus)) {
        change(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The `queue.toml` in force.
    pub fn config(&self) -> ConfigStatus {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<ConsumerStatus> {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let read =
            |(name, entry): (&String, &Entry)| ConsumerStatus { paused: self.pauses.contains(name), ..entry.read() };
        consumers.iter().map(read).collect()
    }

    /// A board on which these are paused.
    pub fn with_pauses(pauses: Pauses) -> Board {
        Board { pauses, ..Board::default() }
    }

    /// Which consumers are paused.
    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// The consumer of a queue, if it has one. What ends and is not in `queue.toml` any more is none.
    pub fn consumer_of(&self, queue: &str) -> Option<String> {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let works_off = |entry: &&Entry| entry.status.queue == queue && entry.status.state != ConsumerState::Removed;
        consumers.values().find(works_off).map(|entry| entry.status.name.clone())
    }

    fn with_entry(&self, name: &str, queue: &str, change: impl FnOnce(&mut Entry)) {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = consumers.entry(name.to_owned()).or_insert_with(|| Entry {
            status: ConsumerStatus {
                name: name.to_owned(),
                queue: queue.to_owned(),
                state: ConsumerState::Loading,
                paused: false,
                rate_limit: None,
                generation: 0,
                module_hash: None,
                loaded_at: None,
                reload_error: None,
                canary: None,
                instances: Vec::new(),
                running: 0,
                acked: 0,
                failed: 0,
                dead_lettered: 0,
            },
            counters: Vec::new(),
        });
        change(entry);
    }
}

impl Entry {
    fn read(&self) -> ConsumerStatus {
        let sum = |count: fn(&Counters) -> &AtomicU64| -> u64 {
            let counts = self.counters.iter().map(|counters| count(counters).load(Ordering::Relaxed));
            counts.fold(0, u64::wrapping_add)
        };
        let mut instances: BTreeMap<u64, u64> = BTreeMap::new();
        for counters in &self.counters {
            for (generation, count) in &*counters.instances.lock().unwrap_or_else(PoisonError::into_inner) {
                *instances.entry(*generation).or_default() += count;
            }
        }
        let instances = instances.into_iter().map(|(generation, count)| InstanceStatus { generation, count });
        ConsumerStatus {
            instances: instances.collect(),
            running: sum(|counters| &counters.running),
            acked: sum(|counters| &counters.acked),
            failed: sum(|counters| &counters.failed),
            dead_lettered: sum(|counters| &counters.dead_lettered),
            ..self.status.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_all_workers_are_added_up() {
        let board = Board::default();
        let (one, two) = (board.counters("welcome", "signups"), board.counters("welcome", "signups"));
        one.begin(1);
        one.end(1);
        two.begin(1);
        one.acked(1);
        two.acked(1);
        two.failed();
        one.dead_lettered();
        board.update("welcome", "signups", |status| status.generation = 3);
        for counters in [&one, &two] {
            [1, 2, 2].into_iter().for_each(|generation| counters.started(generation));
            counters.ended(1);
        }

        let all = board.all();
        assert_eq!(all[0].instances, [InstanceStatus { generation: 2, count: 4 }]);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].running, all[0].acked, all[0].failed, all[0].dead_lettered), (1, 2, 1, 1));
        assert_eq!((all[0].generation, all[0].state), (3, ConsumerState::Loading));
    }

    #[test]
    fn a_consumer_is_known_before_it_has_done_anything() {
        let board = Board::default();
        board.update("thumbnail", "images", |_| {});
        let all = board.all();
        assert_eq!((all[0].name.as_str(), all[0].queue.as_str(), all[0].running), ("thumbnail", "images", 0));
    }
}
