use linecook_sdk::{Message, consumer};

#[consumer]
fn handle(_message: Message) -> Result<(), linecook_sdk::http::HttpError> {
    linecook_sdk::http::get("https://api.example/").send()?;
    Ok(())
}

fn main() {}
