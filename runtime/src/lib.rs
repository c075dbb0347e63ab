//! Linecook: durable queues on disk whose consumers are sandboxed WebAssembly plugins.
//!
//! `ARCHITECTURE.md` beside this crate has the picture, the code map and the invariants.

mod allocator;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod config;
pub mod dead_letter;
pub mod delivery;
pub mod dispatch;
mod hints;
pub mod history;
pub mod http;
mod io_threads;
pub mod pause;
pub mod producers;
pub mod reconfigure;
pub mod retention;
pub mod sandbox;
pub mod status;
pub mod subjects;
mod time;
