use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn good(_messages: Vec<Message>) -> Outcome {
    Ok(())
}

fn main() {}
