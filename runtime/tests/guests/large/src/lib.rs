//! Sends which version it is, and what it found in the message, to `out`. It is as large as a consumer with a large
//! dependency: all of the crate regex, with its tables for Unicode. A version is made of it by writing other digits over
//! those of [`VERSION`] in the built file.

use linecook_sdk::{Message, Outcome, consumer, queues};
use regex::{Regex, bytes};
use serde_json::json;

/// Its last eight digits say which version this is.
static VERSION: &str = "the version is 00000000";

#[consumer]
fn large(message: Message) -> Outcome {
    let words = Regex::new(r"(?i)\b\p{Greek}+\b|\w+@\w+(\.\w+)+")?;
    let numbers = bytes::Regex::new(r"\d+")?;
    let text = String::from_utf8_lossy(&message.body);
    let found = words.find_iter(&text).count() + numbers.find_iter(&message.body).count();
    // As it is in the file, whatever the compiler knows of it.
    let version = std::hint::black_box(VERSION).trim_start_matches(|c: char| !c.is_ascii_digit());
    queues::send("out", &json!({ "version": version, "found": found })).map_err(Into::into)
}
