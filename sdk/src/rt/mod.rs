//! What the code that `#[consumer]` writes refers to. Not for use by hand, and no part of the stable interface.

use crate::{Failure, Message, Outcome};

#[cfg(target_family = "wasm")]
pub mod bindings;
#[cfg(target_family = "wasm")]
pub(crate) mod config;
#[cfg(target_family = "wasm")]
pub(crate) mod http;

#[cfg(target_family = "wasm")]
pub mod state;

#[cfg(target_family = "wasm")]
pub use bindings::{BatchGuest, Guest, RawAnswer, RawFailure, RawMessage, call, call_batch, export, export_batch};

/// What a consumer can take.
#[diagnostic::on_unimplemented(
    message = "a consumer takes one `linecook_sdk::Message`, or many as `Vec<Message>`",
    label = "this must be `linecook_sdk::Message` or `Vec<linecook_sdk::Message>`"
)]
pub trait Input {}

impl Input for Message {}

/// What a consumer can return.
#[diagnostic::on_unimplemented(
    message = "a consumer returns `linecook_sdk::Outcome`",
    label = "this must be `linecook_sdk::Outcome`, which is `Result<(), linecook_sdk::Failure>`"
)]
pub trait Output {}

impl Output for Result<(), Failure> {}

/// What a consumer of batches can take.
#[diagnostic::on_unimplemented(
    message = "a consumer of batches takes `Vec<linecook_sdk::Message>`",
    label = "this must be `Vec<linecook_sdk::Message>`"
)]
pub trait BatchInput {}

impl BatchInput for Vec<Message> {}

/// What a consumer of batches can return.
#[diagnostic::on_unimplemented(
    message = "a consumer of batches returns an answer for each message (`Vec<Outcome>`) or one for all (`Outcome`)",
    label = "this must be `Vec<linecook_sdk::Outcome>`, `linecook_sdk::Outcome` or `Result<Vec<Outcome>, Failure>`"
)]
pub trait BatchOutput {
    /// The answers for the first messages of a batch of `count`, in order.
    fn outcomes(self, count: usize) -> Vec<Outcome>;
}

impl BatchOutput for Vec<Outcome> {
    fn outcomes(self, count: usize) -> Vec<Outcome> {
        // Which of them is for which message? To acknowledge the wrong one would lose the other.
        assert!(self.len() <= count, "the handler gave {} answers for {count} messages", self.len());
        self
    }
}

impl BatchOutput for Outcome {
    fn outcomes(self, count: usize) -> Vec<Outcome> {
        vec![self; count]
    }
}

impl BatchOutput for Result<Vec<Outcome>, Failure> {
    fn outcomes(self, count: usize) -> Vec<Outcome> {
        match self {
            Ok(outcomes) => outcomes.outcomes(count),
            Err(failure) => vec![Err(failure); count],
        }
    }
}

/// Fails to compile, at the place of `T`, if that is no [`Input`].
pub const fn assert_input<T: Input>() {}

/// Fails to compile, at the place of `T`, if that is no [`Output`].
pub const fn assert_output<T: Output>() {}

/// Fails to compile, at the place of `T`, if that is no [`BatchInput`].
pub const fn assert_batch_input<T: BatchInput>() {}

/// Fails to compile, at the place of `T`, if that is no [`BatchOutput`].
pub const fn assert_batch_output<T: BatchOutput>() {}
