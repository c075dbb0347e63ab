//! `queue.toml` as plain values. Nothing below this module sees TOML.
//!
//! The text is parsed into a tree with spans (`toml`), which is read key by key (`read`, `reader`, `keys`, `units`), then
//! checked as a whole (`check`). All errors of a file are collected and shown together (`errors`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linecook_store::QueueName;
use toml::de::DeTable;

use self::reader::{Errors, TableReader};
use crate::auth::Token;
use crate::broker::QueueLimits;
use crate::http::tls::TlsFiles;
use crate::subjects::{Pattern, Subscriptions};

mod check;
mod errors;
mod file;
mod grants;
mod host;
mod keys;
mod limits;
mod outside;
mod place;
pub mod producers;
mod read;
mod reader;
mod schedule;
mod syntax;
pub mod units;
pub(crate) mod writable;

pub use self::errors::{ConfigError, ConfigErrors, Position};
pub use self::file::read;
pub use self::grants::{DirGrant, Grants, Hosts, HttpGrant, Scheme, TcpGrant};
pub use self::host::Host;
pub(crate) use self::keys::nearest;
pub use self::limits::Limits;
pub use self::place::{Endpoint, endpoint, refuse};
pub use self::producers::ProducerConfig;
#[cfg(test)]
pub(crate) use self::read::producers::webhook::API_PATHS;

/// Reads and checks a file. What it names outside itself may be missing: see [`check`].
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    parse(&file::read(path)?, path)
}

/// As [`load`], and the secrets that the file names must be in the environment of this process, and guests must not be able
/// to write what the runtime goes by. What else is missing can come later: a component that is built, a folder that is made.
pub fn load_to_run(path: &Path) -> Result<Config, ConfigErrors> {
    parse_to_run(&file::read(path)?, path)
}

/// As [`load_to_run`], of a text that was read from `path`.
pub fn parse_to_run(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    examine(text, path, |document, file, errors| outside::check_to_run(document, file, &[], errors))
}

/// As [`parse_to_run`], while a file is in force that this one is to replace: what its guests may write counts, too.
pub fn parse_to_replace(text: &str, path: &Path, in_force: &Config) -> Result<Config, ConfigErrors> {
    let writable = in_force.writable_folders();
    examine(text, path, |document, file, errors| outside::check_to_run(document, file, &writable, errors))
}

/// As [`load_to_run`], and the packages, components, folders and files that the file names must be there, too.
pub fn check(path: &Path) -> Result<Config, ConfigErrors> {
    examine(&file::read(path)?, path, outside::check)
}

/// Checks a text as if it had been read from `path`, which relative paths are resolved against.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    examine(text, path, |_, _, _| ())
}

fn examine(
    text: &str,
    path: &Path,
    more: impl FnOnce(&read::Document, &Path, &Errors),
) -> Result<Config, ConfigErrors> {
    let refuse = |errors| ConfigErrors::new(path, text, errors);
    let (tree, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        // What was recovered of a text that is no TOML has errors that are none.
        return Err(refuse(syntax::errors(text, &syntax_errors)));
    }
    let errors = Errors::default();
    let folder = path.parent().unwrap_or(Path::new(""));
    let document = read::document(TableReader::document(tree.get_ref(), &errors), folder, &errors);
    check::references(&document, &errors);
    more(&document, path, &errors);
    let errors = errors.into_inner();
    if !errors.is_empty() {
        return Err(refuse(errors));
    }
    Ok(document.into_config(path))
}

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
    /// `[producers.*]`, by name.
    pub producers: BTreeMap<String, ProducerConfig>,
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
    /// Certificates (PEM) that consumers' HTTPS trusts beside the public ones.
    pub ca_file: Option<PathBuf>,
    /// Names in lower case that clients may know this machine by, beside `localhost`.
    pub host_names: Vec<String>,
    /// The tokens that are accepted; none if nobody needs one.
    pub auth: Option<Vec<Token>>,
    /// Where the listener's certificate is; none if it speaks in the clear.
    pub tls: Option<TlsConfig>,
}

/// `[runtime.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and its key.
    pub files: TlsFiles,
    /// The name that the certificate is for: what `linecook` asks for when it talks to this runtime.
    pub name: String,
}

/// `[queues.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// A send that would take the queue over this is refused (507).
    pub bytes_max: u64,
    /// For how long a message with the same idempotency key is a duplicate.
    pub dedup_window: Duration,
    /// How long a message may wait before it is dead-lettered. Dead-letter queues have none unless one is set.
    pub retention: Option<Duration>,
    /// How long acknowledged messages are kept for replay. Zero keeps none.
    pub history: Duration,
    /// What is sent to a subject that one of these matches is put into this queue too.
    pub subscribe: Vec<Pattern>,
}

impl Config {
    /// The folders that guests may write.
    fn writable_folders(&self) -> Vec<PathBuf> {
        read::writable_folders(self.consumers.values())
    }

    /// Who subscribes to what.
    pub fn subscriptions(&self) -> Subscriptions {
        let each = |(name, queue): (&'_ QueueName, &'_ QueueConfig)| -> Vec<(Pattern, QueueName)> {
            queue.subscribe.iter().map(|pattern| (pattern.clone(), name.clone())).collect()
        };
        let all: Vec<_> = self.queues.iter().flat_map(each).collect();
        Subscriptions::new(all.iter().map(|(pattern, queue)| (pattern, queue)))
    }
}

impl QueueConfig {
    /// What the queue engine must know of it.
    pub fn limits(&self) -> QueueLimits {
        QueueLimits { bytes_max: self.bytes_max, dedup_window: self.dedup_window, history: self.history }
    }
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
    /// Deliveries that run at once; batches, if `max_batch_size` is more than 1.
    pub max_concurrency: usize,
    /// Messages that are handed over in one call.
    pub max_batch_size: usize,
    /// How long a partial batch waits for more messages.
    pub max_batch_timeout: Duration,
    /// The limit of one delivery or batch, and its lease.
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
    /// How many messages its handlers begin with at most; none if there is no limit.
    pub rate_limit: Option<RateLimit>,
    /// How long an instance is kept for more deliveries; none if each has a fresh one.
    pub reuse: Option<Reuse>,
    /// How a new generation is tried; none if it is taken into use at once.
    pub canary: Option<Canary>,
    /// What else one delivery may use.
    pub limits: Limits,
    /// Values for the guest to look up with `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// What it may do.
    pub grants: Grants,
}

/// `[consumers.NAME.canary]`: how a new generation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// How many of 100 deliveries go to it; 1 to 99.
    pub share_percent: u8,
    /// Deliveries after which it is promoted, if it does well.
    pub deliveries: u64,
}

/// `rate_limit`: messages that handlers begin with, on all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// So many, at least 1,
    pub messages: u64,
    /// in so long: a second, a minute or an hour.
    pub per: Duration,
}

/// `instance = "reused"`: how long an instance is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// Messages that it handles at most.
    pub max_deliveries: u64,
    /// How long it waits for the next one.
    pub idle_timeout: Duration,
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Cargo package that `linecook run` builds.
    Package(PathBuf),
    /// A file that somebody else builds.
    Component(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::keys::Table;
    use super::*;

    #[test]
    fn every_key_that_is_announced_is_read() {
        for table in Table::ALL {
            let before = match table {
                Table::File => "",
                Table::Runtime => "[runtime]\n",
                Table::Auth => "[runtime.auth]\n",
                Table::Token => "[runtime.auth.tokens.a]\n",
                Table::Tls => "[runtime.tls]\n",
                Table::Queue => "[queues.a]\n",
                Table::Consumer => "[consumers.a]\n",
                Table::Grants => "[consumers.a.grants]\n",
                Table::Canary => "[consumers.a.canary]\n",
                Table::Dir => "[[consumers.a.grants.dirs]]\n",
                Table::Limits => "[consumers.a.limits]\n",
                Table::Producer => "[producers.a]\n",
                Table::Cron => "[producers.a]\nkind = \"cron\"\n",
                Table::Tail => "[producers.a]\nkind = \"tail\"\n",
                Table::Watch => "[producers.a]\nkind = \"watch\"\n",
                Table::Webhook => "[producers.a]\nkind = \"webhook\"\n",
            };
            for key in table.keys() {
                // What has to be there for other keys to be looked at, or for this one to matter.
                let before = match *key {
                    "kind" if table != Table::Producer => continue,
                    "move_to" => format!("{before}after = \"move\"\n"),
                    "secret_env" | "tolerance" => format!("{before}signature = \"stripe\"\n"),
                    _ => before.to_owned(),
                };
                // No key takes a time, so that one that is read is refused.
                let errors = parse(&format!("{before}{key} = 00:00:00\n"), Path::new("queue.toml")).unwrap_err();
                let refused = format!("`{key}` must be ");
                let found = errors.errors().iter().any(|error| error.message.starts_with(&refused));
                assert!(found, "{key} of {table:?} is not read:\n{errors}");
            }
        }
    }
}
