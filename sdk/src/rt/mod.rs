//! What the code that `#[consumer]` writes refers to. Not for use by hand, and no part of the stable interface.

use crate::{Failure, Message};

#[cfg(target_family = "wasm")]
pub mod bindings;

#[cfg(target_family = "wasm")]
pub use bindings::{Guest, RawFailure, RawMessage, call, export};

/// What a consumer can take.
#[diagnostic::on_unimplemented(
    message = "a consumer takes one `linecook_sdk::Message`",
    label = "this must be `linecook_sdk::Message`"
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

/// Fails to compile, at the place of `T`, if that is no [`Input`].
pub const fn assert_input<T: Input>() {}

/// Fails to compile, at the place of `T`, if that is no [`Output`].
pub const fn assert_output<T: Output>() {}
