use linecook_sdk::{Outcome, consumer};

#[consumer]
fn bad(_message: String) -> Outcome {
    Ok(())
}

fn main() {}
