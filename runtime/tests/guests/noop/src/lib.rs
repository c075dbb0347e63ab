//! Acknowledges at once: the least that a consumer can do.

use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn noop(_message: Message) -> Outcome {
    Ok(())
}
