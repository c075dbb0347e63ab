//! Takes batches, and panics: the worst that a build can do.

use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn panics(_messages: Vec<Message>) -> Outcome {
    panic!("on purpose")
}
