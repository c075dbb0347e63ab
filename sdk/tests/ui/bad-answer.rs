use linecook_sdk::{Message, consumer};

#[consumer]
fn bad(_message: Message) -> Result<(), std::io::Error> {
    Ok(())
}

fn main() {}
