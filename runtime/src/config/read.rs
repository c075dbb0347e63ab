//! `queue.toml`, table by table: which keys there are, their defaults and their limits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use linecook_store::QueueName;

use super::errors::ConfigError;
use super::keys::Table;
use super::producers::ProducerKind;
use super::reader::{Errors, Located, TableReader, Value, excerpt, name};
use super::{Canary, Config, ConsumerConfig, Grants, Limits, QueueConfig, RateLimit, Reuse, RuntimeConfig, Source};
use crate::subjects::Pattern;

mod access;
mod grants;
mod limits;
pub(crate) mod producers;

use self::grants::GrantSpans;
use self::producers::Producer;

/// Where the API is if nothing is said.
const LISTEN_PORT: u16 = 7878;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

const DRAIN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const WORKERS: RangeInclusive<u64> = 1..=1024;
/// The log consists of several files that are worth having only from this size on.
const LOG_BYTES: RangeInclusive<u64> = 16 * MIB..=TIB;
const QUEUE_BYTES: RangeInclusive<u64> = KIB..=1024 * TIB;
const RETENTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3650 * DAY.as_secs());
/// What queues have that are no dead-letter queues.
const RETENTION_DEFAULT: Duration = Duration::from_secs(4 * DAY.as_secs());
/// Zero remembers no keys. What is remembered takes room on disk.
const DEDUP_WINDOW: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * DAY.as_secs());
/// Zero keeps nothing. What is kept takes room on disk.
const HISTORY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3650 * DAY.as_secs());
const CONCURRENCY: RangeInclusive<u64> = 1..=1000;
const BATCH_SIZE: RangeInclusive<u64> = 1..=1000;
const BATCH_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// In a second, a minute or an hour. More than any consumer does is no limit.
const RATE: RangeInclusive<u64> = 1..=1_000_000;
const DELIVERIES_PER_INSTANCE: RangeInclusive<u64> = 1..=1_000_000_000;
const CANARY_SHARE: RangeInclusive<u8> = 1..=99;
/// Fewer tell nothing.
const CANARY_DELIVERIES: RangeInclusive<u64> = 10..=1_000_000;
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(12 * 3600);
const RETRIES: RangeInclusive<u64> = 0..=1000;
const RETRY_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * DAY.as_secs());
/// Up to what a 32-bit guest can address.
const MEMORY_BYTES: RangeInclusive<u64> = MIB..=4 * GIB;

const NAME_BYTES_MAX: usize = 64;

/// The file as far as it could be read. What is missing in it was reported.
pub(super) struct Document {
    pub(super) runtime: RuntimeConfig,
    /// Where the name of `runtime.ca_file` stands.
    pub(super) ca_file_span: Option<Range<usize>>,
    pub(super) queues: BTreeMap<QueueName, QueueConfig>,
    pub(super) consumers: Vec<Consumer>,
    pub(super) producers: Vec<Producer>,
}

/// `[consumers.NAME]`, with the places that the cross-checks point at.
pub(super) struct Consumer {
    /// `None` if it is no valid name.
    pub(super) name: Option<String>,
    pub(super) queue: Option<Located<QueueName>>,
    pub(super) source: Option<Located<Source>>,
    pub(super) max_concurrency: usize,
    pub(super) max_batch_size: usize,
    pub(super) max_batch_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) max_retries: u32,
    pub(super) retry_delay: Duration,
    pub(super) retry_delay_max: Duration,
    /// By default it stands where the queue stands.
    pub(super) dead_letter_queue: Option<Located<QueueName>>,
    pub(super) memory_bytes_max: u64,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) reuse: Option<Reuse>,
    pub(super) canary: Option<Canary>,
    pub(super) limits: Limits,
    pub(super) config: BTreeMap<String, String>,
    pub(super) grants: Grants,
    pub(super) grant_spans: GrantSpans,
}

impl Document {
    /// The plain values. To be called only if no error was reported: then nothing is missing.
    pub(super) fn into_config(self, path: &Path) -> Config {
        let consumers = self.consumers.into_iter().map(Consumer::into_config);
        let consumers = consumers.map(|consumer| consumer.expect("what is missing in a consumer was reported"));
        let mut consumers: Vec<ConsumerConfig> = consumers.collect();
        let producers = self.producers.into_iter().map(Producer::into_config);
        let producers = producers.map(|producer| producer.expect("what is missing in a producer was reported"));
        let writable = writable_folders(&consumers);
        let producers = producers.map(|mut producer| {
            if let ProducerKind::Tail(tail) = &mut producer.kind {
                tail.writable.clone_from(&writable);
            }
            producer
        });
        let mut queues = self.queues;
        let dead: BTreeSet<QueueName> = consumers.iter().map(|consumer| consumer.dead_letter_queue.clone()).collect();
        for Grants { send, send_subjects, .. } in consumers.iter_mut().map(|consumer| &mut consumer.grants) {
            // A name that is both a queue and a subject is the queue.
            let (known, subjects) =
                std::mem::take(send).into_iter().partition(|name| queues.contains_key(name) || dead.contains(name));
            *send = known;
            let subjects: Vec<QueueName> = subjects;
            send_subjects.extend(subjects.iter().filter_map(|subject| Pattern::new(subject.as_str()).ok()));
        }
        for (name, queue) in &mut queues {
            let is_dead_letter_queue =
                name.as_str().ends_with(".dead") || consumers.iter().any(|one| one.dead_letter_queue == *name);
            if !is_dead_letter_queue {
                queue.retention.get_or_insert(RETENTION_DEFAULT);
            }
        }
        Config {
            path: path.to_owned(),
            runtime: self.runtime,
            queues,
            consumers: consumers.into_iter().map(|consumer| (consumer.name.clone(), consumer)).collect(),
            producers: producers.map(|producer| (producer.name.clone(), producer)).collect(),
        }
    }
}

/// The folders that guests may write.
pub(super) fn writable_folders<'c>(consumers: impl IntoIterator<Item = &'c ConsumerConfig>) -> Vec<PathBuf> {
    let dirs = consumers.into_iter().flat_map(|consumer| &consumer.grants.dirs);
    let folders: BTreeSet<_> = dirs.filter(|dir| dir.write).map(|dir| dir.host.clone()).collect();
    folders.into_iter().collect()
}

impl Consumer {
    fn into_config(self) -> Option<ConsumerConfig> {
        Some(ConsumerConfig {
            name: self.name?,
            queue: self.queue?.value,
            source: self.source?.value,
            max_concurrency: self.max_concurrency,
            max_batch_size: self.max_batch_size,
            max_batch_timeout: self.max_batch_timeout,
            timeout: self.timeout,
            max_retries: self.max_retries,
            retry_delay: self.retry_delay,
            retry_delay_max: self.retry_delay_max,
            dead_letter_queue: self.dead_letter_queue?.value,
            memory_bytes_max: self.memory_bytes_max,
            rate_limit: self.rate_limit,
            reuse: self.reuse,
            canary: self.canary,
            limits: self.limits,
            config: self.config,
            grants: self.grants,
        })
    }
}

/// Reads the document. `folder` is what relative paths are relative to.
pub(super) fn document(table: TableReader<'_>, folder: &Path, errors: &Errors) -> Document {
    let runtime = table.get("runtime").and_then(|value| value.table(Table::Runtime));
    let (runtime, ca_file_span) = match runtime {
        Some(table) => self::runtime(table, folder),
        None => (default_runtime(folder), None),
    };
    let mut queues = BTreeMap::new();
    for value in table.get("queues").iter().flat_map(|value| value.named("[queues.NAME]")) {
        let name = value.key_as_queue_name();
        let Some(table) = value.table(Table::Queue) else { continue };
        let config = queue(table);
        queues.extend(name.map(|name| (name, config)));
    }
    let consumers = table.get("consumers");
    let consumers = consumers.iter().flat_map(|value| value.named("[consumers.NAME]"));
    let consumers = consumers.filter_map(|value| {
        let name = component_name(&value, "consumer");
        Some(consumer(name, value.table(Table::Consumer)?, folder, errors))
    });
    let consumers = consumers.collect();
    let producers = table.get("producers");
    let producers = producers.iter().flat_map(|value| value.named("[producers.NAME]"));
    let producers = producers.filter_map(|value| producers::read(&value, folder)).collect();
    let document = Document { runtime, ca_file_span, queues, consumers, producers };
    table.finish();
    document
}

fn default_runtime(folder: &Path) -> RuntimeConfig {
    RuntimeConfig {
        data_dir: folder.join("data"),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, LISTEN_PORT)),
        drain_timeout: Duration::from_secs(25),
        workers: thread::available_parallelism().map_or(1, usize::from),
        log_bytes_max: 768 * MIB,
        ca_file: None,
        host_names: Vec::new(),
        auth: None,
        tls: None,
    }
}

/// The table, and where it names the `ca_file`.
fn runtime(table: TableReader<'_>, folder: &Path) -> (RuntimeConfig, Option<Range<usize>>) {
    let mut runtime = default_runtime(folder);
    if let Some(dir) = table.get("data_dir").and_then(|value| value.path("\"data\"")) {
        runtime.data_dir = folder.join(dir.value);
    }
    if let Some(value) = table.get("listen")
        && let Some(address) = value.socket_address("\"127.0.0.1:7878\"")
    {
        runtime.listen = address;
        if !address.ip().to_canonical().is_loopback() && table.get("auth").is_none() {
            let port = address.port();
            value.refuse(
                format!(
                    "listening on {} needs [runtime.auth]: everybody who reaches it could do everything",
                    address.ip()
                ),
                format!(
                    "make a token with `linecook token new`, or listen on a loopback address: \"127.0.0.1:{port}\""
                ),
            );
        }
    }
    if let Some(timeout) = table.get("drain_timeout").and_then(|value| value.duration(DRAIN_TIMEOUT)) {
        runtime.drain_timeout = timeout;
    }
    if let Some(workers) = table.get("workers").and_then(|value| value.integer(WORKERS)) {
        runtime.workers = workers as usize;
    }
    if let Some(bytes) = table.get("log_max_bytes").and_then(|value| value.size(LOG_BYTES)) {
        runtime.log_bytes_max = bytes;
    }
    runtime.host_names = access::host_names(&table);
    runtime.auth = table.get("auth").and_then(|value| value.table(Table::Auth)).map(access::tokens);
    runtime.tls =
        table.get("tls").and_then(|value| value.table(Table::Tls)).and_then(|table| access::tls(table, folder));
    let ca_file = table.get("ca_file").and_then(|value| value.path("\"internal-ca.pem\""));
    runtime.ca_file = ca_file.as_ref().map(|path| folder.join(path.value));
    table.finish();
    (runtime, ca_file.map(|path| path.span))
}

fn queue(table: TableReader<'_>) -> QueueConfig {
    let bytes_max = table.get("max_bytes").and_then(|value| value.size(QUEUE_BYTES)).unwrap_or(10 * GIB);
    let retention = table.get("retention").and_then(|value| value.duration(RETENTION));
    let dedup_window = table.get("dedup_window").and_then(|value| value.duration(DEDUP_WINDOW)).unwrap_or(DAY);
    let history = table.get("history").and_then(|value| value.duration(HISTORY)).unwrap_or_default();
    let mut subscribe = Vec::new();
    for item in table.get("subscribe").iter().flat_map(|value| value.items("[\"orders.*\"]")) {
        match item.pattern() {
            Some(pattern) if subscribe.contains(&pattern) => {
                item.refuse(format!("the queue subscribes to `{pattern}` twice"), "name it once");
            }
            pattern => subscribe.extend(pattern),
        }
    }
    table.finish();
    QueueConfig { bytes_max, dedup_window, retention, history, subscribe }
}

/// The name of a consumer or a producer, whichever `noun` says.
fn component_name(value: &Value<'_>, noun: &str) -> Option<String> {
    let text = value.key;
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && text.len() <= NAME_BYTES_MAX;
    if !good {
        let hint = format!(
            "it is made of letters, digits, `-` and `_`, starts with a letter or a digit, and has at most \
             {NAME_BYTES_MAX} characters"
        );
        value.refuse_key(format!("{} is not a {noun} name", name(text)), hint);
    }
    good.then(|| text.to_owned())
}

fn consumer(name: Option<String>, table: TableReader<'_>, folder: &Path, errors: &Errors) -> Consumer {
    let queue = table.require("queue", "\"signups\"").and_then(|value| value.queue_name());
    let dead_letter_queue = match table.get("dead_letter_queue") {
        Some(value) => value.queue_name(),
        None => queue.as_ref().and_then(|queue| default_dead_letter_queue(queue, errors)),
    };
    let (retry_delay, retry_delay_max) = retry_delays(&table);
    let grants = table.get("grants").and_then(|value| value.table(Table::Grants));
    let (grants, grant_spans) = grants.map(|table| grants::read(table, folder)).unwrap_or_default();
    let limits = table.get("limits").and_then(|value| value.table(Table::Limits));
    let consumer = Consumer {
        name,
        queue,
        source: source(&table, folder, errors),
        max_concurrency: table.get("max_concurrency").and_then(|value| value.integer(CONCURRENCY)).unwrap_or(8)
            as usize,
        max_batch_size: table.get("max_batch_size").and_then(|value| value.integer(BATCH_SIZE)).unwrap_or(1) as usize,
        max_batch_timeout: table
            .get("max_batch_timeout")
            .and_then(|value| value.duration(BATCH_TIMEOUT))
            .unwrap_or(Duration::from_secs(1)),
        timeout: table.get("timeout").and_then(|value| value.duration(TIMEOUT)).unwrap_or(Duration::from_secs(30)),
        max_retries: table.get("max_retries").and_then(|value| value.integer(RETRIES)).unwrap_or(4) as u32,
        retry_delay,
        retry_delay_max,
        dead_letter_queue,
        memory_bytes_max: table.get("memory_limit").and_then(|value| value.size(MEMORY_BYTES)).unwrap_or(128 * MIB),
        rate_limit: table.get("rate_limit").and_then(|value| value.rate(RATE)),
        reuse: reuse(&table),
        canary: table.get("canary").and_then(|value| value.table(Table::Canary)).map(canary),
        limits: limits.map(limits::read).unwrap_or_default(),
        config: config(&table),
        grants,
        grant_spans,
    };
    table.finish();
    consumer
}

/// `[consumers.NAME.config]`: texts under names that the guest looks up.
fn config(table: &TableReader<'_>) -> BTreeMap<String, String> {
    let values = table.get("config");
    let values = values.iter().flat_map(|value| value.named("`config = { name = \"value\" }`"));
    values.filter_map(|value| Some((value.key.to_owned(), value.text("\"value\"")?.value.to_owned()))).collect()
}

fn default_dead_letter_queue(queue: &Located<QueueName>, errors: &Errors) -> Option<Located<QueueName>> {
    match QueueName::new(&format!("{}.dead", queue.value)) {
        Ok(value) => Some(Located { value, span: queue.span.clone() }),
        Err(_) => {
            let message = "the queue's name is too long to make the name of its dead-letter queue, \"<queue>.dead\"";
            let hint = "name one: `dead_letter_queue = \"dead\"`";
            errors.push(ConfigError::at(queue.span.clone(), message).hint(hint));
            None
        }
    }
}

fn source(table: &TableReader<'_>, folder: &Path, errors: &Errors) -> Option<Located<Source>> {
    let (package, component) = (table.get("source"), table.get("component"));
    match (package, component) {
        (Some(package), None) => {
            let path = package.path("\"plugins/welcome-email\"")?;
            Some(Located { value: Source::Package(folder.join(path.value)), span: path.span })
        }
        (None, Some(component)) => {
            let path = component.path("\"welcome_email.wasm\"")?;
            Some(Located { value: Source::Component(folder.join(path.value)), span: path.span })
        }
        (Some(package), Some(component)) => {
            let error = ConfigError::at(component.key_span, "`source` and `component` exclude each other")
                .related(package.key_span, "the other one")
                .hint("keep `source` to build a Cargo package, or `component` to load a .wasm file");
            errors.push(error);
            None
        }
        (None, None) => {
            let error = ConfigError::at(table.span(), "neither `source` nor `component` says where the code is")
                .hint("add `source = \"path/to/cargo-package\"` or `component = \"path/to/file.wasm\"`");
            errors.push(error);
            None
        }
    }
}

fn retry_delays(table: &TableReader<'_>) -> (Duration, Duration) {
    let (delay_value, max_value) = (table.get("retry_delay"), table.get("retry_delay_max"));
    let delay = delay_value.as_ref().and_then(|value| value.duration(RETRY_DELAY));
    let max = max_value.as_ref().and_then(|value| value.duration(RETRY_DELAY));
    // One of them alone may well be beyond the other's default: the smaller one counts.
    if let (Some(value), Some(delay), Some(max)) = (delay_value, delay, max)
        && delay > max
    {
        value.refuse("`retry_delay` is longer than `retry_delay_max`", "make `retry_delay_max` at least as long");
    }
    (delay.unwrap_or(Duration::from_secs(1)), max.unwrap_or(Duration::from_secs(600)))
}

fn canary(table: TableReader<'_>) -> Canary {
    let share = table.get("share").and_then(|value| value.percent(CANARY_SHARE));
    let deliveries = table.get("deliveries").and_then(|value| value.integer(CANARY_DELIVERIES));
    table.finish();
    Canary { share_percent: share.unwrap_or(10), deliveries: deliveries.unwrap_or(200) }
}

/// What `instance` says. The keys that are about kept instances are refused without it: they would say nothing.
fn reuse(table: &TableReader<'_>) -> Option<Reuse> {
    let (deliveries, idle) = (table.get("max_deliveries_per_instance"), table.get("instance_idle_timeout"));
    let max_deliveries = deliveries.as_ref().and_then(|value| value.integer(DELIVERIES_PER_INSTANCE)).unwrap_or(1000);
    let idle_timeout = idle.as_ref().and_then(|value| value.duration(IDLE_TIMEOUT)).unwrap_or(Duration::from_secs(60));
    let instance = table.get("instance");
    let reused = instance.as_ref().map_or(Some(false), |value| {
        let text = value.text("\"reused\"")?;
        match text.value {
            "fresh" => Some(false),
            "reused" => Some(true),
            other => {
                let message = format!("{:?} is no way to use instances", excerpt(other));
                value.refuse(message, "write \"fresh\" (a new sandbox for each delivery) or \"reused\"");
                None
            }
        }
    });
    if reused == Some(false) {
        for value in [deliveries, idle].into_iter().flatten() {
            let message = format!("`{}` has no effect on fresh instances", value.key);
            value.refuse_key(message, "add `instance = \"reused\"`, or remove it");
        }
    }
    (reused == Some(true)).then_some(Reuse { max_deliveries, idle_timeout })
}
