//! Parses the JSON of each message of a batch and acknowledges: the least that most consumers of batches do.

use linecook_sdk::{Message, Outcome, consumer};

#[path = "../../json/src/order.rs"]
mod order;

use order::Order;

#[consumer]
fn json_batch(messages: Vec<Message>) -> Outcome {
    messages.iter().try_for_each(|message| message.json::<Order<'_>>()?.check())
}
