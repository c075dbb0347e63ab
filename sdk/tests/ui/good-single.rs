use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn good(_message: Message) -> Outcome {
    Ok(())
}

fn main() {}
