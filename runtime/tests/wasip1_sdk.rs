//! The tests of the SDK once more, with guests that are core modules for `wasm32-wasip1`. Not in `wasip1.rs`: both have the log
//! of their process.

#[path = "sdk.rs"]
mod sdk;
// For `support/kitchen.rs`.
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
#[allow(clippy::duplicate_mod, reason = "`sdk` is a test program of its own, with its own support modules")]
mod guests;
