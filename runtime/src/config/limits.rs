//! How much one delivery may use.

use std::time::Duration;

/// `[consumers.NAME.limits]`. The memory and the wall time have keys of their own, `memory_limit` and `timeout`.
///
/// A delivery that goes over a limit is a failed attempt whose reason names the limit, unless it says otherwise here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time on the CPU, looked at in ticks of 5 ms: what has used less never fails, and what is over it ends within two ticks.
    /// `None`: no limit but the `timeout`, which bounds it.
    pub cpu_time: Option<Duration>,
    /// Core instances of one component. It is what a component is made of, so that one with more can't be loaded.
    pub core_instances: u32,
    /// Tables of one component; likewise.
    pub tables: u32,
    /// Elements of one table.
    pub table_elements: u32,
    /// Bytes that one call of a host function may carry out of the guest.
    pub host_call_bytes: u64,
    /// Random bytes, over all calls.
    pub random_bytes: u64,
    /// Bytes of output and log records. What is beyond is dropped, which fails no attempt; the reason of one that fails
    /// anyway says so.
    pub log_bytes: u64,
    /// Messages sent. The send that is beyond returns an error to the guest.
    pub sends: u32,
    /// Bytes of the bodies, keys, content types and attributes of all messages sent; likewise.
    pub send_bytes: u64,
    /// Bytes of all keys and values of the consumer's durable state, on record and written. A write that is beyond returns an
    /// error to the guest.
    pub state_bytes: u64,
}

impl Limits {
    /// The most core instances that a component may have, whatever `core_instances` says.
    pub const CORE_INSTANCES_MAX: u32 = 32;
    /// The most tables that a component may have.
    pub const TABLES_MAX: u32 = 8;
    /// The most elements that a table may have.
    pub const TABLE_ELEMENTS_MAX: u32 = 100_000;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            cpu_time: None,
            core_instances: 8,
            tables: 4,
            table_elements: 20_000,
            host_call_bytes: 16 << 20,
            random_bytes: 1 << 20,
            log_bytes: 256 << 10,
            sends: 1000,
            send_bytes: 8 << 20,
            state_bytes: 64 << 20,
        }
    }
}
