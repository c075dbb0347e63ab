//! `linecook peek`: the first messages of a queue, without claiming them.

use serde_json::Value;

use super::client::Client;
use super::output::{cell, count, one_line, table};
use super::{CommandResult, Context, terminal};
use crate::delivery::QueueName;

/// The arguments of `linecook peek`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue to look into
    queue: QueueName,
    /// Show at most this many messages, the first ones
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print JSON for programs, with whole bodies and all attributes
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let path = format!("/queues/{}/messages?limit={}", args.queue, args.limit);
    let answer = Client::new(context)?.get(&path)?;
    if args.json {
        return terminal::print(answer);
    }
    let messages = answer["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let unreadable = answer["unreadable"].as_u64().unwrap_or(0);
    if messages.is_empty() && unreadable == 0 {
        return terminal::print(format!("{} is empty", args.queue));
    }
    terminal::print(table(&["ID", "STATE", "ATTEMPT", "ENQUEUED AT", "KEY", "BODY"], &[2], messages.iter().map(row)))?;
    if answer["truncated"] == true {
        terminal::print("(the bodies are large: there is more; take a smaller --limit to see fewer)")?;
    }
    if unreadable > 0 {
        terminal::print(format!("{} can't be read: `linecook store verify` says why", count(unreadable, "message")))?;
    }
    Ok(())
}

fn row(message: &Value) -> Vec<String> {
    let mut row: Vec<_> = ["id", "state", "attempt", "enqueued_at", "key"].map(|name| cell(message, name)).into();
    let body = match (message["body"].as_str(), message["body_base64"].as_str()) {
        (Some(text), _) => one_line(text, 60),
        // Four characters of base 64 are three bytes; padding stands for those that are missing.
        (None, Some(encoded)) => {
            let padding = encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
            format!("({} bytes, not text)", encoded.len() / 4 * 3 - padding.min(encoded.len() / 4 * 3))
        }
        (None, None) => "-".to_owned(),
    };
    // A dead letter says why it is one.
    let reason = message["attributes"][crate::dead_letter::REASON].as_str();
    row.push(match reason {
        Some(reason) => format!("{body}  [{}]", one_line(reason, 60)),
        None => body,
    });
    row
}
