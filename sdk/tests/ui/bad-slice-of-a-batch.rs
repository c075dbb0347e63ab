use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn handle(_messages: &[Message]) -> Vec<Outcome> {
    Vec::new()
}

fn main() {}
