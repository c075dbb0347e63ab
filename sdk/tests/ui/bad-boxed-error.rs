use linecook_sdk::{Message, consumer};

#[consumer]
fn handle(_message: Message) -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}

fn main() {}
