//! The tests of consumers once more, with guests that are core modules for `wasm32-wasip1`.

#![allow(clippy::duplicate_mod, reason = "each of these is a test program of its own, with its own support modules")]

#[path = "batches.rs"]
mod batches;
// For `support/kitchen.rs`.
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "hostile.rs"]
mod hostile;
#[path = "reuse.rs"]
mod reuse;
#[path = "sandbox.rs"]
mod sandbox;
#[path = "state.rs"]
mod state;
