//! `linecook redrive`: dead letters go back to work.

use serde_json::json;

use super::client::Client;
use super::output::count;
use super::{CommandResult, Context, terminal};
use crate::delivery::QueueName;

/// The arguments of `linecook redrive`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The dead-letter queue, such as signups.dead
    queue: QueueName,
    /// Move them here, instead of to the queue that each one came from
    #[arg(long, value_name = "QUEUE")]
    to: Option<QueueName>,
    /// Move at most this many, oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only count what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let parameters = json!({
        "to": args.to.as_ref().map(QueueName::as_str),
        "limit": args.limit,
        "dry_run": args.dry_run,
    });
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    let path = format!("/queues/{}/redrive", args.queue);
    let answer = Client::new(context)?.post(&path, &headers, parameters.to_string().into_bytes())?;
    if args.json {
        return terminal::print(answer);
    }
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    let verb = if args.dry_run { "would move" } else { "moved" };
    terminal::print(format!("{verb} {}", count(number("moved"), "message")))?;
    if number("skipped") > 0 {
        terminal::print(format!(
            "{} stayed: no queue that is declared is named as their source; --to QUEUE moves them",
            count(number("skipped"), "message")
        ))?;
    }
    Ok(())
}
