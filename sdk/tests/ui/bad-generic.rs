use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn bad<T>(_message: Message) -> Outcome {
    Ok(())
}

fn main() {}
