use linecook_sdk::{Outcome, consumer};

#[consumer]
fn bad(_messages: Vec<String>) -> Outcome {
    Ok(())
}

fn main() {}
