use linecook_sdk::{Outcome, consumer};

#[consumer]
fn bad() -> Outcome {
    Ok(())
}

fn main() {}
