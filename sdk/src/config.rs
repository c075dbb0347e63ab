//! The values of `[consumers.NAME.config]` in `queue.toml`, over the standard interface `wasi:config/store`.
//!
//! ```toml
//! [consumers.welcome-email.config]
//! greeting = "Hello"
//! ```
//!
//! ```
//! use linecook_sdk::{Message, Outcome, config, testing};
//!
//! fn greet(message: Message) -> Outcome {
//!     let greeting = config::get("greeting").unwrap_or_else(|| "Good day".to_owned());
//!     println!("{greeting}, {}", message.text()?);
//!     Ok(())
//! }
//!
//! let run = testing::config([("greeting", "Hello")]).run(greet, testing::message("Ann"));
//! assert_eq!(run.outcome, Ok(()));
//! ```
//!
//! The values are texts and no secrets: who prints them all does nothing wrong. A password belongs in `grants.secrets`, from
//! where it comes as an environment variable.
//!
//! In native tests, [`testing::config`](crate::testing::config) says what the values are; without it there are none.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

#[cfg(target_family = "wasm")]
use crate::__rt::config as backend;
#[cfg(not(target_family = "wasm"))]
use crate::testing::config as backend;

/// The value of a key, if `queue.toml` has one. An empty text is a value.
///
/// # Panics
///
/// If the host can't read its values. Linecook always can: it has them before the consumer starts.
///
/// ```
/// use linecook_sdk::{config, testing};
///
/// let run = testing::config([("greeting", "Hello"), ("signature", "")]).run(
///     |_| {
///         assert_eq!(config::get("greeting").as_deref(), Some("Hello"));
///         assert_eq!(config::get("signature").as_deref(), Some(""));
///         assert_eq!(config::get("footer"), None);
///         Ok(())
///     },
///     testing::message(""),
/// );
/// assert_eq!(run.outcome, Ok(()));
/// ```
pub fn get(key: &str) -> Option<String> {
    backend::get(key)
}

/// All keys with their values.
///
/// # Panics
///
/// As [`get`].
///
/// ```
/// use linecook_sdk::{config, testing};
///
/// let run = testing::config([("b", "2"), ("a", "1")]).run(
///     |_| {
///         assert_eq!(config::get_all().into_iter().collect::<Vec<_>>(), [("a".into(), "1".into()), ("b".into(), "2".into())]);
///         Ok(())
///     },
///     testing::message(""),
/// );
/// assert_eq!(run.outcome, Ok(()));
/// ```
pub fn get_all() -> BTreeMap<String, String> {
    backend::get_all()
}

/// The value of a key that must be there.
///
/// # Errors
///
/// [`Missing`], which says what to add to `queue.toml`. By `?`, that is a retry: once the value is there, the message can be
/// handled.
///
/// ```
/// use linecook_sdk::{Failure, Message, Outcome, config, testing};
///
/// fn handle(_message: Message) -> Outcome {
///     println!("calling {}", config::require("api")?);
///     Ok(())
/// }
///
/// assert_eq!(testing::config([("api", "https://api.example")]).run(handle, testing::message("")).outcome, Ok(()));
/// let missing = "the consumer has no value for \"api\"; add it to [consumers.NAME.config] in queue.toml";
/// assert_eq!(testing::run(handle, testing::message("")).outcome, Err(Failure::retry(missing)));
/// ```
pub fn require(key: &str) -> Result<String, Missing> {
    get(key).ok_or_else(|| Missing { key: key.to_owned() })
}

/// There is no value for a key that must have one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The key.
    pub key: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the consumer has no value for {:?}; add it to [consumers.NAME.config] in queue.toml", self.key)
    }
}

impl Error for Missing {}
