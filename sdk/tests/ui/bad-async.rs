use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
async fn bad(_message: Message) -> Outcome {
    Ok(())
}

fn main() {}
