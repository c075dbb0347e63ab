//! What the benchmarks of the store share: a store in a folder of its own whose ring has been used, senders and consumers,
//! the process's memory, and the verdict.

#![allow(dead_code, unused_imports, reason = "each benchmark is a crate of its own and uses some of it")]

mod bench;
mod resources;
mod verdict;

// With it comes the allocator of the binary, also for a benchmark that uses the store alone.
use linecook as _;

pub(crate) use self::bench::{Bench, CLAIM, LEASE_MS, Settling, message};
pub(crate) use self::resources::{Usage, Watch, folder_bytes, over, resident_kb};
pub(crate) use self::verdict::{Verdict, exit_code, number};

pub(crate) type Error = Box<dyn std::error::Error>;

/// The middle one of some values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
