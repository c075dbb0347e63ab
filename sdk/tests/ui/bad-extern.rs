use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
extern "C" fn handle(_message: Message) -> Outcome {
    Ok(())
}

fn main() {}
