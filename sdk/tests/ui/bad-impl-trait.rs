use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn handle(_message: impl Into<Message>) -> Outcome {
    Ok(())
}

fn main() {}
