//! Write a Linecook consumer as a small Rust function.
//!
//! ```
//! use linecook_sdk::{Message, Outcome, consumer, queues};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     number: u64,
//!     cents: Vec<u64>,
//! }
//!
//! #[derive(Serialize)]
//! struct Billed {
//!     number: u64,
//!     total_cents: u64,
//! }
//!
//! #[consumer]
//! fn bill(message: Message) -> Outcome {
//!     // A body that can't be parsed is dead-lettered: another attempt would not parse it either.
//!     let order: Order = message.json()?;
//!     // Committed together with the acknowledgement of `message`, or not at all.
//!     queues::send("billed", &Billed { number: order.number, total_cents: order.cents.iter().sum() })?;
//!     Ok(())
//! }
//! ```
//!
//! What the function returns is the answer for the message:
//!
//! | returned | what happens |
//! | --- | --- |
//! | `Ok(())` | The message is acknowledged, and what the handler sent is sent: one step, on record together. |
//! | [`Failure::retry`] | A failed attempt. The message comes back after the consumer's backoff, until its attempts are used up. |
//! | any error, by `?` | The same, with the error's text as the reason. |
//! | [`Failure::snooze`] | Not now. The message comes back later, and no attempt is used up. |
//! | [`Failure::dead_letter`] | It can never succeed: the message goes to the dead-letter queue with the reason. |
//! | a panic, an exit, a timeout, too much memory | A failed attempt. It costs this delivery only. |
//!
//! A message can come more than once (its handler ran, but the process ended before the acknowledgement was on record).
//! Inside Linecook that does no harm, because sends, [`state`] and acknowledgement are one step. For calls to the outside, pass
//! [`Message::id`] on as the idempotency key: it stays the same over all attempts.
//!
//! # Build
//!
//! A consumer is a library of its own, with crate type `cdylib`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [profile.release]
//! opt-level = "s"   # a small module is loaded and instantiated faster
//! lto = true
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` makes the component; `source = "path/to/the/package"` in
//! `queue.toml` lets the runtime do it. With `--target wasm32-wasip1` it makes a core module, which the runtime takes as
//! `component = "…"` just as well: it is turned into a component when it is loaded.
//!
//! Each delivery has a fresh instance of the component: nothing of one shows in the next. With `instance = "reused"` in
//! `queue.toml`, an instance serves one delivery after another, so that a `static` (a `OnceLock` with something costly to
//! make) stays, until the instance fails, has served `max_deliveries_per_instance`, or was idle for
//! `instance_idle_timeout`. Nothing that matters may depend on it: that belongs in [`state`].
//!
//! What a consumer may reach outside of it, its grants in `queue.toml` say: [`queues`] to send to, servers for [`http`], and
//! files, sockets and environment variables by the standard library. [`config`] reads the values that `queue.toml` has for it.
//!
//! `println!` and `eprintln!` reach the runtime's log, with the message's id, and so do the records of the `log` and
//! `tracing` crates (see [`logging`]). The tail of stderr is kept with a dead letter.
//!
//! # Test
//!
//! On any other target than WebAssembly the function is an ordinary function, and [`testing`] stands in for the
//! runtime, with its queues and its values, and for servers: `cargo test` needs no runtime and no WebAssembly.

pub mod batch;
pub mod config;
mod failure;
pub mod http;
pub mod logging;
mod message;
pub mod queues;
pub mod state;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[doc(hidden)]
#[path = "rt/mod.rs"]
pub mod __rt;

pub use failure::{Failure, Outcome};
/// Makes a function the consumer of this component.
///
/// The function takes one [`Message`] and returns an [`Outcome`]; or it takes `Vec<Message>` and answers for each of them
/// (see [`batch`]). It stays an ordinary function that tests can call. A component has exactly one consumer.
///
/// ```
/// use linecook_sdk::{Message, Outcome, consumer};
///
/// #[consumer]
/// fn greet(message: Message) -> Outcome {
///     println!("hello, {}", message.text()?);
///     Ok(())
/// }
/// ```
///
/// ```
/// use linecook_sdk::{Message, Outcome, batch, consumer};
///
/// #[consumer]
/// fn greet_many(messages: Vec<Message>) -> Vec<Outcome> {
///     println!("hello to all {} of you", messages.len());
///     batch::each(messages, |message| Ok(println!("and to you, {}", message.text()?)))
/// }
/// ```
///
/// Anything else is refused when it is compiled:
///
/// ```compile_fail,E0277
/// # use linecook_sdk::{Outcome, consumer};
/// #[consumer]
/// fn greet(message: String) -> Outcome {
///     Ok(())
/// }
/// ```
///
/// ```compile_fail,E0277
/// # use linecook_sdk::{Message, consumer};
/// #[consumer]
/// fn greet(message: Message) -> Result<(), std::io::Error> {
///     Ok(())
/// }
/// ```
pub use linecook_sdk_macros::consumer;
pub use message::Message;
