use linecook_sdk::{Failure, Message, Outcome, consumer};

#[consumer]
fn good(messages: Vec<Message>) -> Result<Vec<Outcome>, Failure> {
    Ok(messages.into_iter().map(|_| Ok(())).collect())
}

fn main() {}
