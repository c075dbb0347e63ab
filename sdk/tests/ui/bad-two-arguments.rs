use linecook_sdk::{Message, Outcome, consumer};

#[consumer]
fn bad(_message: Message, _more: u32) -> Outcome {
    Ok(())
}

fn main() {}
