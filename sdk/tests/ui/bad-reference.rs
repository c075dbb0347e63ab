use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn bad(_message: &Message) -> Outcome {
    Ok(())
}

fn main() {}
