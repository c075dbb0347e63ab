//! `queue.toml` as plain values. Nothing below this module sees TOML.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use linecook_store::QueueName;

/// A checked `queue.toml`. All paths are absolute or relative to the working folder, ready to be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file that it came from.
    pub path: PathBuf,
    /// `[runtime]`.
    pub runtime: RuntimeConfig,
    /// `[queues.*]`.
    pub queues: BTreeMap<QueueName, QueueConfig>,
    /// `[consumers.*]`, by name.
    pub consumers: BTreeMap<String, ConsumerConfig>,
}

/// `[runtime]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The folder of the store.
    pub data_dir: PathBuf,
    /// The address of the HTTP listener.
    pub listen: SocketAddr,
    /// How long running deliveries may take to end after SIGTERM.
    pub drain_timeout: Duration,
    /// Threads that run guests; one for each core by default.
    pub workers: usize,
    /// The room of the write-ahead log on disk.
    pub log_bytes_max: u64,
}

/// `[queues.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// A send that would take the queue over this is refused (507).
    pub bytes_max: u64,
}

/// `[consumers.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// Its name.
    pub name: String,
    /// The queue that it works off.
    pub queue: QueueName,
    /// Where its component comes from.
    pub source: Source,
    /// Deliveries that run at once.
    pub max_concurrency: usize,
    /// The limit of one delivery, and its lease.
    pub timeout: Duration,
    /// Attempts after the first.
    pub max_retries: u32,
    /// The base of the backoff.
    pub retry_delay: Duration,
    /// The backoff's ceiling.
    pub retry_delay_max: Duration,
    /// Where its dead letters go.
    pub dead_letter_queue: QueueName,
    /// Linear memory that one instance may have.
    pub memory_bytes_max: u64,
    /// What it may do.
    pub grants: Grants,
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Cargo package that `linecook run` builds.
    Package(PathBuf),
    /// A file that somebody else builds.
    Component(PathBuf),
}

/// `[consumers.NAME.grants]`: nothing is granted that is not here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Queues that it may send to.
    pub send: Vec<QueueName>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Folders that it sees.
    pub dirs: Vec<DirGrant>,
}

/// One granted folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirGrant {
    /// The folder outside.
    pub host: PathBuf,
    /// Its name inside.
    pub guest: String,
    /// Whether the guest may change it (`access = "read-write"`).
    pub write: bool,
}
