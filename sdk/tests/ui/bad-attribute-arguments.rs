use linecook_sdk::{Message, Outcome, consumer};

#[consumer(queue = "signups")]
fn bad(_message: Message) -> Outcome {
    Ok(())
}

fn main() {}
