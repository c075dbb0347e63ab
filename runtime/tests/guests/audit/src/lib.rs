//! Sends `{"input": id}` to the queue `audit` with the acknowledgement of each message. So the messages of `audit` tell
//! which inputs were handled, and how many times that took effect.

use linecook_sdk::{Message, Outcome, consumer, queues};

#[consumer]
fn audit(message: Message) -> Outcome {
    queues::send("audit", &serde_json::json!({ "input": message.id }))?;
    Ok(())
}
