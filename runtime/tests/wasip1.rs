//! The tests of consumers once more, with guests that are core modules for `wasm32-wasip1`.

#![allow(clippy::duplicate_mod, reason = "each of these is a test program of its own, with its own support modules")]

#[path = "batches.rs"]
mod batches;
#[path = "canary.rs"]
mod canary;
#[path = "escape.rs"]
mod escape;
#[path = "grants.rs"]
mod grants;
#[path = "hostile.rs"]
mod hostile;
#[path = "keyvalue.rs"]
mod keyvalue;
#[path = "limits.rs"]
mod limits;
#[path = "outgoing.rs"]
mod outgoing;
#[path = "reconfigure_grants.rs"]
mod reconfigure_grants;
#[path = "reload.rs"]
mod reload;
#[path = "reuse.rs"]
mod reuse;
#[path = "sandbox.rs"]
mod sandbox;
#[path = "sdk.rs"]
mod sdk;
#[path = "standard_interfaces.rs"]
mod standard_interfaces;
#[path = "state.rs"]
mod state;

// For the support modules.
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/kitchen.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod kitchen;
#[path = "support/log.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod log;
