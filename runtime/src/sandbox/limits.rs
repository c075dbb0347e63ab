//! What one delivery may use, and the count of what it has used. What a consumer can be given more or less of is in its
//! configuration ([`Limits`]); the constants are here or, as far as the pool sets them, in `engine.rs`.

use std::time::Duration;

use wasmtime::{ResourceLimiter, Result};

use super::InstanceSettings;
use super::engine::MEMORIES_MAX;
use crate::config::Limits;

/// The body of one message that a guest sends.
pub(super) const SEND_BODY_BYTES_MAX: usize = 1 << 20;
/// Attributes of one message.
pub(super) const ATTRIBUTES_MAX: usize = 64;
/// The name of an attribute; it has at least one byte.
pub(super) const ATTRIBUTE_NAME_BYTES_MAX: usize = 256;
/// The value of an attribute.
pub(super) const ATTRIBUTE_VALUE_BYTES_MAX: usize = 8 << 10;
/// An ordering key; it has at least one byte.
pub(super) const KEY_BYTES_MAX: usize = 512;
/// A content type; it has at least one byte.
pub(super) const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// The longest delay that a guest can ask for: one year. A later wish of a retry or a snooze becomes this.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The reason that a handler gives for a failure; what is beyond is cut off.
pub(super) const REASON_BYTES_MAX: usize = 4 << 10;

/// One line of a guest's output in the log; a longer one becomes several.
pub(super) const LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// What is kept of the end of stderr.
pub(super) const STDERR_TAIL_BYTES: usize = 4 << 10;

/// Files, sockets, streams, requests and other handles that a guest holds at once.
pub(super) const HANDLES_MAX: usize = 256;
/// Metadata of all messages that a guest keeps and has not sent: with each handle a message, and of each as many as one may
/// be sent with.
pub(super) const METADATA_HELD_MAX: usize = HANDLES_MAX * ATTRIBUTES_MAX;
/// Memory of the messages that a delivery sends, beside their bytes: 256 for each, and 64 for each attribute.
pub(super) const SENT_OVERHEAD_BYTES_MAX: u64 = 64 << 20;
/// HTTP connections that a guest has open at once.
pub(super) const HTTP_CONNECTIONS_MAX: usize = 64;
/// Names that the guests of one module look up at once. The others wait.
pub(super) const LOOKUPS_MAX: usize = 16;
/// Memory of the headers of one request or response.
pub(super) const HTTP_FIELDS_BYTES_MAX: usize = 64 << 10;
/// Keys and values of durable state that the host keeps for one delivery, because it has read or written them.
pub(super) const STATE_HELD_BYTES_MAX: u64 = 16 << 20;
/// Keys that are listed at once.
pub(super) const STATE_KEYS_PAGE: usize = 1000;
/// How often one delivery can be told where a list of keys goes on.
pub(super) const STATE_CURSORS_MAX: usize = 1000;
/// What the host holds of the body that a guest writes to one request.
pub(super) const HTTP_BODY_CHUNK_BYTES: usize = 64 << 10;

/// A limit of the configuration that a guest has gone over, as the trap that ends its call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exceeded {key} ({limit})")]
pub(super) struct Exceeded {
    /// The key in `queue.toml`.
    pub(super) key: &'static str,
    /// Its value, for people.
    pub(super) limit: String,
}

impl Exceeded {
    pub(super) fn new(key: &'static str, limit: String) -> Exceeded {
        Exceeded { key, limit }
    }
}

/// Counts the memory and the tables of one instance.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_bytes_max: u64,
    memory_bytes: u64,
    core_instances_max: u32,
    tables_max: u32,
    table_elements_max: u32,
    denied: Option<Denied>,
}

/// What the guest asked for first that it may not have.
#[derive(Debug, Clone, Copy)]
enum Denied {
    Memory,
    TableElements,
}

impl Limiter {
    /// The linear memory counts over all memories, the elements for each table.
    pub(super) fn new(settings: &InstanceSettings) -> Limiter {
        let Limits { core_instances, tables, table_elements, .. } = settings.limits;
        Limiter {
            memory_bytes_max: settings.memory_bytes_max,
            memory_bytes: 0,
            core_instances_max: core_instances,
            tables_max: tables,
            table_elements_max: table_elements,
            denied: None,
        }
    }

    /// Whether the guest wanted to go over one.
    pub(super) fn limit_hit(&self) -> bool {
        self.denied.is_some()
    }

    /// The limit of memory or tables that the guest wanted to go over. It may have coped.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        Some(match self.denied? {
            Denied::Memory => Exceeded::new("memory_limit", bytes_text(self.memory_bytes_max)),
            Denied::TableElements => Exceeded::new("limits.table_elements", self.table_elements_max.to_string()),
        })
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let grown = self.memory_bytes + (desired.saturating_sub(current)) as u64;
        if grown > self.memory_bytes_max {
            self.denied.get_or_insert(Denied::Memory);
            return Ok(false);
        }
        self.memory_bytes = grown;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if desired > self.table_elements_max as usize {
            self.denied.get_or_insert(Denied::TableElements);
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.core_instances_max as usize
    }

    fn tables(&self) -> usize {
        self.tables_max as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

/// A number of bytes as `queue.toml` would say it: `128 MiB`, `1.5 GiB`, `100 B`.
pub(super) fn bytes_text(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x400 => return format!("{bytes} B"),
        0x400..0x10_0000 => (1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(memory_bytes_max: u64) -> Limiter {
        Limiter::new(&InstanceSettings {
            memory_bytes_max,
            limits: Limits { table_elements: 100, ..Limits::default() },
            ..InstanceSettings::of_a_test()
        })
    }

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert_eq!(limiter.exceeded(), None);
        assert!(!limiter.memory_growing(400, 401, None).unwrap());
        assert_eq!(limiter.exceeded().unwrap().to_string(), "exceeded memory_limit (1000 B)");
    }

    #[test]
    fn tables_have_as_many_elements_as_the_limit_says() {
        let mut limiter = limiter(1000);
        assert!(limiter.table_growing(0, 100, None).unwrap());
        assert!(!limiter.table_growing(0, 101, None).unwrap());
        assert_eq!(limiter.exceeded().unwrap().to_string(), "exceeded limits.table_elements (100)");
    }

    #[test]
    fn the_modules_own_maximum_is_no_denial() {
        let mut limiter = limiter(1000);
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(!limiter.table_growing(0, 600, Some(500)).unwrap());
        assert_eq!(limiter.exceeded(), None);
        assert!(limiter.memory_growing(0, 1000, Some(1000)).unwrap());
    }

    #[test]
    fn bytes_read_like_the_configuration() {
        let texts = [0, 100, 1 << 10, 128 << 20, 3 << 29, 4 << 30].map(bytes_text);
        assert_eq!(texts, ["0 B", "100 B", "1 KiB", "128 MiB", "1.5 GiB", "4 GiB"]);
    }
}
