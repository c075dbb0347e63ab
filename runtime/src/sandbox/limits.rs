//! What one delivery may use, and the count of what it has used. All constants of the sandbox's limits are here or, as
//! far as the pool sets them, in `engine.rs`.

use std::time::Duration;

use wasmtime::{ResourceLimiter, Result};

use super::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};

/// The body of one message that a guest sends.
pub(super) const SEND_BODY_BYTES_MAX: usize = 1 << 20;
/// Messages that one delivery may send; a batch, so many for each of its messages.
pub(super) const SENDS_MAX: usize = 1000;
/// Bytes of bodies, keys, content types and attributes that one delivery may send in all.
pub(super) const SENDS_BYTES_MAX: usize = 8 << 20;
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
/// Output that one delivery may write to the log.
pub(super) const LOG_BYTES_MAX: usize = 256 << 10;
/// What is kept of the end of stderr.
pub(super) const STDERR_TAIL_BYTES: usize = 4 << 10;

/// Bytes that one call of a host function may carry. More than any limit above, so that those can say what is wrong.
pub(super) const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// Random bytes that a guest gets in one call.
pub(super) const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Files, streams and other handles that a guest holds at once.
pub(super) const HANDLES_MAX: usize = 1000;

/// Counts the memory and the tables of one instance.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_bytes_max: u64,
    memory_bytes: u64,
    memory_denied: bool,
}

impl Limiter {
    /// Allows `memory_bytes_max` bytes of linear memory, over all memories.
    pub(super) fn new(memory_bytes_max: u64) -> Limiter {
        Limiter { memory_bytes_max, memory_bytes: 0, memory_denied: false }
    }

    /// Whether the guest asked for more memory than it may have. It may have coped.
    pub(super) fn memory_denied(&self) -> bool {
        self.memory_denied
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let grown = self.memory_bytes + (desired.saturating_sub(current)) as u64;
        if grown > self.memory_bytes_max {
            self.memory_denied = true;
            return Ok(false);
        }
        self.memory_bytes = grown;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        Ok(desired <= maximum.unwrap_or(usize::MAX).min(TABLE_ELEMENTS_MAX))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
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

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut limiter = Limiter::new(1000);
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(!limiter.memory_denied());
        assert!(!limiter.memory_growing(400, 401, None).unwrap());
        assert!(limiter.memory_denied());
    }

    #[test]
    fn the_modules_own_maximum_is_no_denial() {
        let mut limiter = Limiter::new(1000);
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(!limiter.memory_denied());
        assert!(limiter.memory_growing(0, 1000, Some(1000)).unwrap());
    }

    #[test]
    fn bytes_read_like_the_configuration() {
        let texts = [0, 100, 1 << 10, 128 << 20, 3 << 29, 4 << 30].map(bytes_text);
        assert_eq!(texts, ["0 B", "100 B", "1 KiB", "128 MiB", "1.5 GiB", "4 GiB"]);
    }
}
