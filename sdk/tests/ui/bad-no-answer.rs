use linecook_sdk::{Message, consumer};

#[consumer]
fn bad(_message: Message) {}

fn main() {}
