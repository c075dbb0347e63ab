use linecook_sdk::{Message, consumer};

#[consumer]
fn bad(_messages: Vec<Message>) -> Vec<bool> {
    Vec::new()
}

fn main() {}
