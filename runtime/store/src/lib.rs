//! Durable queues in one write-ahead log: the storage engine of Linecook.
//!
//! It knows queues, messages, leases and transactions, and nothing of WASM, HTTP, TOML or async runtimes. Time and
//! randomness come in as arguments, and all disk access goes through [`disk::Disk`], so that a simulated disk can
//! stand in for the real one.

mod message;

pub use message::{
    ATTRIBUTE_PREFIX_RESERVED, Delivery, InvalidId, InvalidQueueName, Lease, Message, MessageId, NewMessage, QueueName,
};
