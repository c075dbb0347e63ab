//! Runs components. It knows nothing of queues on disk: what a guest sends is collected and returned with its outcome.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Grants;
use crate::delivery::{Delivery, Outcome, Outgoing, QueueName};

/// How many threads run guests, and where compiled code is kept.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Threads that run guests.
    pub workers: usize,
    /// Instances that one worker holds at once.
    pub slots: usize,
    /// The folder for compiled code. Only the runtime may write it: what is in it is executed.
    pub cache_dir: PathBuf,
}

/// The worker threads, each with its own engine, pool, linker and current-thread tokio runtime.
#[derive(Debug)]
pub struct Sandbox {}

/// A worker, as the tasks see it that run on its thread. Cheap to clone, and stays on its thread.
#[derive(Debug, Clone)]
pub struct Worker {}

/// The SHA-256 of a component's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModuleHash(pub [u8; 32]);

/// A compiled component, linked and type-checked for every worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Module {}

/// What one consumer's instances may use.
#[derive(Debug, Clone)]
pub struct InstanceSettings {
    /// The consumer's name, for the log.
    pub consumer: String,
    /// The queue that it works off.
    pub queue: QueueName,
    /// Linear memory of one instance.
    pub memory_bytes_max: u64,
    /// Wall time of one delivery.
    pub timeout: Duration,
    /// Everything else that it may do.
    pub grants: Grants,
}

/// What became of one call.
#[derive(Debug)]
pub struct Report {
    /// The handler's answer; a trap, a timeout or an exceeded limit is a `Retry` with the reason.
    pub outcome: Outcome,
    /// What it sent. To be dropped unless the outcome is `Ack`.
    pub sends: Vec<Outgoing>,
    /// The last 4 KiB that it wrote to stderr.
    pub stderr_tail: String,
    /// How long it ran.
    pub elapsed: Duration,
}

/// Why a component can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The placeholder of the skeleton; the real variants name what is wrong and what to do.
    #[error("{0}")]
    Other(String),
}

impl Sandbox {
    /// Starts the workers.
    pub fn start(_options: SandboxOptions) -> std::io::Result<Sandbox> {
        todo!()
    }

    /// How many there are.
    pub fn workers(&self) -> usize {
        todo!()
    }

    /// Runs a task on a worker's thread. The future need not be `Send`.
    pub fn spawn<F, T>(&self, _worker: usize, _task: F)
    where
        F: FnOnce(Worker) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        todo!()
    }

    /// Compiles a component (or takes it from the cache), links and type-checks it against the world and the grants,
    /// and instantiates it once. Works on a blocking thread: the workers go on.
    pub async fn load(&self, _component: Arc<[u8]>, _settings: Arc<InstanceSettings>) -> Result<Module, LoadError> {
        todo!()
    }

    /// Stops the workers once their tasks have ended, or drops the tasks after `patience`.
    pub fn stop(self, _patience: Duration) {
        todo!()
    }
}

impl Worker {
    /// 0 to `workers - 1`.
    pub fn index(&self) -> usize {
        todo!()
    }

    /// Waits for up to `max` free instance slots, at least one. They are given back when dropped.
    pub async fn slots(&self, _max: usize) -> Vec<Slot> {
        todo!()
    }
}

/// The right to one instance of a worker's pool.
#[derive(Debug)]
pub struct Slot {}

impl Module {
    /// What it was made of.
    pub fn hash(&self) -> ModuleHash {
        todo!()
    }

    /// Hands one delivery to a fresh instance on this worker's thread. Never fails: whatever happens is the outcome.
    pub async fn call(
        &self,
        _worker: &Worker,
        _slot: Slot,
        _settings: &Arc<InstanceSettings>,
        _delivery: &Delivery,
    ) -> Report {
        todo!()
    }
}

impl fmt::Display for ModuleHash {
    /// The first 12 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
