//! Durable queues in one write-ahead log: the storage engine of Linecook.
//!
//! It knows queues, messages, leases and transactions, and nothing of WASM, HTTP, TOML or async runtimes. Time and
//! randomness come in as arguments, and all disk access goes through [`disk::Disk`], so that a simulated disk can
//! stand in for the real one.
//!
//! Follow a send: [`Store::submit`] → `committer` (the thread) → `engine` (admit, write, apply) → `wal` (frame, fdatasync)
//! → `queues` (now it can be claimed) → the caller's callback.

mod apart;
mod attempts;
mod cache;
mod clock;
mod cold;
mod commit;
mod committer;
mod courtesy;
mod dedup;
pub mod disk;
mod engine;
mod error;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod fuzz;
mod header;
mod history;
pub mod inspect;
mod keeping;
mod kv;
mod location;
mod message;
mod open;
mod queues;
mod reader;
mod record;
mod room;
mod shared;
mod short;
#[cfg(test)]
mod simulation;
mod store;
mod transaction;
mod wal;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::OpenError;
pub use history::{HistoryMessage, HistoryPage, HistoryRange};
pub use kv::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};
pub use message::{
    ATTRIBUTE_PREFIX_RESERVED, ATTRIBUTE_SUBJECT, Delivery, InvalidId, InvalidQueueName, Lease, Message, MessageId,
    NewMessage, QueueName,
};
pub use queues::QueueLimits;
pub use store::{LEASES_MAX, MessageState, Options, PeekPage, PeekRange, Peeked, QueueStats, Store};
pub use transaction::{Action, AttributeEdit, Receipt, Refusal, Sends, Sent, StateRead, StateWrite, Transaction};
