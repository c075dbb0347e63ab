//! The tuned engine: one for each worker, so that instances of two workers share neither a pool nor the kernel's lock of
//! one memory map. Every engine has the same settings; code that one compiled runs on all of them.

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, WasmBacktraceDetails,
};

use super::imports;
use super::state::State;
use crate::config::Limits;

/// Linear memories of one component.
pub(super) const MEMORIES_MAX: u32 = 1;
/// The largest linear memory that an instance can have, whatever its `memory_limit` says: all that 32 bits reach.
pub(super) const MEMORY_BYTES_MAX: u64 = 4 << 30;

/// What stays resident of a memory and of a table when an instance ends, where the kernel can tell which pages are dirty.
const MEMORY_RESIDENT_BYTES: usize = 256 << 10;
const TABLE_RESIDENT_BYTES: usize = 64 << 10;
/// How many freed instances share one system call, where it can't.
const DECOMMIT_BATCH: usize = 32;

/// The settings of the engines of a sandbox whose workers hold `slots` instances each; public so that a benchmark can
/// compare itself with a bare loop over the same engine.
///
/// An instance slot takes 4 GiB and a guard of 32 MiB of *address space* (not memory): so no access of a 32-bit guest
/// needs a bounds check. 47 bits of addresses are room for about 30,000 slots in all.
pub fn engine_config(slots: usize) -> Config {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(Limits::CORE_INSTANCES_MAX))
        .total_memories(slots.saturating_mul(MEMORIES_MAX))
        .total_tables(slots.saturating_mul(Limits::TABLES_MAX))
        .total_stacks(slots)
        .max_core_instances_per_component(Limits::CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(Limits::TABLES_MAX)
        .max_tables_per_module(Limits::TABLES_MAX)
        .table_elements(Limits::TABLE_ELEMENTS_MAX as usize)
        .max_memory_size(MEMORY_BYTES_MAX as usize)
        .max_unused_warm_slots(slots);
    // Keeping pages resident pays only if the kernel says which of them are dirty (`PAGEMAP_SCAN`, Linux 6.7); zeroing
    // them blindly is the slowest way of all. Without it, pages are given back in batches.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(MEMORY_RESIDENT_BYTES)
            .table_keep_resident(TABLE_RESIDENT_BYTES);
    } else {
        pool.linear_memory_keep_resident(0).table_keep_resident(0).decommit_batch_size(DECOMMIT_BATCH);
    }

    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(MEMORY_BYTES_MAX)
        .memory_init_cow(true)
        .wasm_component_model(true)
        // Bookkeeping of the component model's own async, which costs 10 µs an instance; guests are called one by one.
        .concurrency_support(false)
        .epoch_interruption(true)
        // Function names are enough for a trap; this also keeps an environment variable from changing the setting.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// An engine and what it offers to guests.
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
}

impl Host {
    /// Reserves the pool of `slots` instances and links the world.
    pub(super) fn new(slots: usize) -> Result<Host> {
        let engine = Engine::new(&engine_config(slots))?;
        let mut linker = Linker::new(&engine);
        imports::add_to_linker(&mut linker)?;
        Ok(Host { engine, linker })
    }
}
