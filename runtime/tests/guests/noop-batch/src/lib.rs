//! Acknowledges batches at once: the least that a consumer of batches can do.

use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn noop_batch(_messages: Vec<Message>) -> Outcome {
    Ok(())
}
