use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
unsafe fn handle(_message: Message) -> Outcome {
    Ok(())
}

fn main() {}
