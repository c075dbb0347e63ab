//! Parses the JSON of its message and acknowledges: the least that most consumers do.

use linecook_sdk::{Message, Outcome, consumer};

mod order;

use order::Order;

#[consumer]
fn json(message: Message) -> Outcome {
    let order: Order<'_> = message.json()?;
    order.check()
}
