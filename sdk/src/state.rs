//! Durable key-value state of the consumer's own.
//!
//! What a handler writes is put on record in one step with the acknowledgement of its message: both happen or neither
//! does. A handler that is tried again finds the state as if the failed attempt had never been. Its own writes, it sees at
//! once. The consumer needs the grant:
//!
//! ```toml
//! [consumers.counter.grants]
//! state = true
//! ```
//!
//! ```
//! use linecook_sdk::{Message, Outcome, consumer, state, testing};
//!
//! #[consumer]
//! fn count(message: Message) -> Outcome {
//!     let visitor = message.text()?;
//!     state::increment(&format!("visits/{visitor}"), 1)?;
//!     state::set_json("last", &visitor)?;
//!     Ok(())
//! }
//!
//! let state = testing::state();
//! state.set("visits/ann", "41");
//! testing::run(count, testing::message("ann")).outcome.unwrap();
//! assert_eq!(state.get("visits/ann").as_deref(), Some(&b"42"[..]));
//! assert_eq!(state.get_json::<String>("last").as_deref(), Some("ann"));
//! ```
//!
//! Keys have 1 to 512 bytes, values up to 1 MiB; all of a consumer's state takes up to `limits.state_bytes` (64 MiB unless
//! `queue.toml` says otherwise). Each consumer has a state of its own, which no other reaches. One delivery may read and
//! write up to 16 MiB.
//!
//! # Several at once
//!
//! With `max_concurrency` above 1, two deliveries may read the same key and then both write. Only one of them takes effect:
//! when the other is to be acknowledged, what it has read is out of date, and it is handled again, which costs it no attempt.
//! So a counter is exact, and needs no lock. Handling twice costs time, though: give messages that touch the same keys the
//! same ordering key, and they are handled one after the other. A key that is written without having been read in the same
//! delivery takes the last value. Lists of [`keys`] are not compared.
//!
//! # In a batch
//!
//! Within [`batch::each`] and [`batch::for_message`], what is written goes with the acknowledgement of that message.
//! Elsewhere in a batch state can only be read.

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(target_family = "wasm")]
use crate::__rt::state as backend;
use crate::batch;
#[cfg(not(target_family = "wasm"))]
use crate::testing::state as backend;

/// The value of a key, if there is one.
///
/// # Errors
///
/// See [`StateError`]. By `?`, each is a retry.
///
/// # Panics
///
/// Like everything here: in native tests, outside of [`testing::run`](crate::testing::run).
///
/// ```
/// use linecook_sdk::{Message, Outcome, state};
///
/// fn greet(message: Message) -> Outcome {
///     if state::get(&message.id)?.is_none() {
///         println!("welcome!");
///     }
///     Ok(())
/// }
/// # assert!(linecook_sdk::testing::run(greet, linecook_sdk::testing::message("")).outcome.is_ok());
/// ```
pub fn get(key: &str) -> Result<Option<Vec<u8>>, StateError> {
    backend::get(batch::current(), key)
}

/// The value of a key, read as JSON, if there is one.
///
/// # Errors
///
/// [`StateError::Unreadable`], if it is not such JSON; else as [`get`].
///
/// ```
/// use linecook_sdk::{Message, Outcome, state, testing};
///
/// fn reserve(_: Message) -> Outcome {
///     let stock = state::get_json::<u64>("stock")?.unwrap_or(0);
///     state::set_json("stock", &stock.checked_sub(1).ok_or(linecook_sdk::Failure::dead_letter("sold out"))?)?;
///     Ok(())
/// }
///
/// let state = testing::state();
/// state.set_json("stock", &1);
/// assert!(testing::run(reserve, testing::message("")).outcome.is_ok());
/// assert!(testing::run(reserve, testing::message("")).outcome.is_err());
/// assert_eq!(state.get_json::<u64>("stock"), Some(0));
/// ```
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, StateError> {
    let unreadable =
        |error: serde_json::Error| StateError::Unreadable { key: key.to_owned(), detail: error.to_string() };
    get(key)?.map(|value| serde_json::from_slice(&value).map_err(unreadable)).transpose()
}

/// Writes a value, in place of the one that was there.
///
/// # Errors
///
/// See [`StateError`]. By `?`, each is a retry.
pub fn set(key: &str, value: impl Into<Vec<u8>>) -> Result<(), StateError> {
    backend::set(batch::current(), key, Some(value.into()))
}

/// Writes a value as JSON.
///
/// # Errors
///
/// [`StateError::Unserializable`], if the value can't be written as JSON; else as [`set`].
pub fn set_json<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<(), StateError> {
    let value = serde_json::to_vec(value)
        .map_err(|error| StateError::Unserializable { key: key.to_owned(), detail: error.to_string() })?;
    set(key, value)
}

/// Takes a key away, if it is there.
///
/// # Errors
///
/// See [`StateError`]. By `?`, each is a retry.
///
/// ```
/// use linecook_sdk::{Message, Outcome, state, testing};
///
/// fn forget(message: Message) -> Outcome {
///     Ok(state::delete(message.text()?)?)
/// }
///
/// let state = testing::state();
/// state.set("ann", "1");
/// testing::run(forget, testing::message("ann")).outcome.unwrap();
/// assert_eq!(state.get("ann"), None);
/// ```
pub fn delete(key: &str) -> Result<(), StateError> {
    backend::set(batch::current(), key, None)
}

/// Whether there is such a key.
///
/// # Errors
///
/// See [`StateError`]. By `?`, each is a retry.
pub fn exists(key: &str) -> Result<bool, StateError> {
    Ok(get(key)?.is_some())
}

/// Adds to a number and gives what it comes to. It stands there as decimal text, so that JSON reads it, too; a missing one
/// is 0.
///
/// # Errors
///
/// [`StateError::Refused`], if what stands there is no such number, or the sum is too large; else as [`get`].
pub fn increment(key: &str, delta: u64) -> Result<u64, StateError> {
    backend::increment(batch::current(), key, delta)
}

/// All keys, in the order of their bytes. State with very many keys is better kept so that nobody has to list it.
///
/// # Errors
///
/// See [`StateError`]. By `?`, each is a retry.
///
/// ```
/// use linecook_sdk::{Message, Outcome, state, testing};
///
/// fn tidy(_: Message) -> Outcome {
///     for key in state::keys()?.iter().filter(|key| key.starts_with("draft/")) {
///         state::delete(key)?;
///     }
///     Ok(())
/// }
///
/// let state = testing::state();
/// ["draft/1", "final/1", "draft/2"].iter().for_each(|key| state.set(*key, ""));
/// testing::run(tidy, testing::message("")).outcome.unwrap();
/// assert_eq!(state.keys(), ["final/1"]);
/// ```
pub fn keys() -> Result<Vec<String>, StateError> {
    backend::keys(batch::current())
}

/// Why state can't be read or written. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// The consumer has no grant for it.
    NotGranted,
    /// The runtime says no: a key that cannot be, a limit, a disk that can't be read.
    Refused {
        /// What the runtime says about it.
        detail: String,
    },
    /// The value can't be written as JSON.
    Unserializable {
        /// The key.
        key: String,
        /// What `serde_json` says about it.
        detail: String,
    },
    /// The value is not such JSON.
    Unreadable {
        /// The key.
        key: String,
        /// What `serde_json` says about it.
        detail: String,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::NotGranted => {
                f.write_str("state is not granted; add `state = true` to the consumer's grants in queue.toml")
            }
            StateError::Refused { detail } => f.write_str(detail),
            StateError::Unserializable { key, detail } => write!(f, "can't write {key:?} as JSON: {detail}"),
            StateError::Unreadable { key, detail } => write!(f, "the state {key:?} is not such JSON: {detail}"),
        }
    }
}

impl Error for StateError {}
