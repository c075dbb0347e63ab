use linecook_sdk::{Message, consumer};

#[consumer]
fn bad(_messages: Vec<Message>) {}

fn main() {}
