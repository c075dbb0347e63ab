//! `[consumers.NAME.limits]`.

use std::ops::RangeInclusive;

use super::{GIB, KIB, MIB, TIMEOUT};
use crate::config::Limits;
use crate::config::reader::TableReader;

/// Up to what the pools of the engines are laid out for.
const CORE_INSTANCES: RangeInclusive<u64> = 1..=Limits::CORE_INSTANCES_MAX as u64;
const TABLES: RangeInclusive<u64> = 1..=Limits::TABLES_MAX as u64;
const TABLE_ELEMENTS: RangeInclusive<u64> = 1..=Limits::TABLE_ELEMENTS_MAX as u64;
/// Less, and a handler can't even say what went wrong.
const HOST_CALL_BYTES: RangeInclusive<u64> = 64 * KIB..=GIB;
const RANDOM_BYTES: RangeInclusive<u64> = 0..=GIB;
const LOG_BYTES: RangeInclusive<u64> = 0..=GIB;
const SENDS: RangeInclusive<u64> = 0..=100_000;
const SEND_BYTES: RangeInclusive<u64> = 0..=64 * MIB;
const STATE_BYTES: RangeInclusive<u64> = 0..=64 * GIB;

/// Reads the table.
pub(super) fn read(table: TableReader<'_>) -> Limits {
    let default = Limits::default();
    let integer = |key, limits, default: u32| {
        table.get(key).and_then(|value| value.integer(limits)).map_or(default, |number| number as u32)
    };
    let size = |key, limits, default| table.get(key).and_then(|value| value.size(limits)).unwrap_or(default);
    let limits = Limits {
        cpu_time: table.get("cpu_time").and_then(|value| value.duration(TIMEOUT)),
        core_instances: integer("core_instances", CORE_INSTANCES, default.core_instances),
        tables: integer("tables", TABLES, default.tables),
        table_elements: integer("table_elements", TABLE_ELEMENTS, default.table_elements),
        host_call_bytes: size("host_call_bytes", HOST_CALL_BYTES, default.host_call_bytes),
        random_bytes: size("random_bytes", RANDOM_BYTES, default.random_bytes),
        log_bytes: size("log_bytes", LOG_BYTES, default.log_bytes),
        sends: integer("sends", SENDS, default.sends),
        send_bytes: size("send_bytes", SEND_BYTES, default.send_bytes),
        state_bytes: size("state_bytes", STATE_BYTES, default.state_bytes),
    };
    table.finish();
    limits
}
