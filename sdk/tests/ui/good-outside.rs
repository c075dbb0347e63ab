use linecook_sdk::{Message, Outcome, config, consumer, http};

#[consumer]
fn handle(message: Message) -> Outcome {
    let api = config::require("api")?;
    http::post(format!("{api}/inbox")).json(&message.id).send()?.error_for_status()?;
    Ok(())
}

fn main() {}
