//! `linecook purge`: a queue is emptied, or deleted; or the durable state of a consumer is dropped.

use super::client::{Client, path_segment};
use super::output::{count, size};
use super::{CommandResult, Context, terminal};
use crate::delivery::QueueName;

/// The arguments of `linecook purge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue to empty
    #[arg(required_unless_present = "state")]
    queue: Option<QueueName>,
    /// Delete the queue too; it must not be in queue.toml any more
    #[arg(long)]
    delete: bool,
    /// Drop the durable state of this consumer instead; it must not be in queue.toml any more
    #[arg(long, value_name = "CONSUMER", conflicts_with_all = ["queue", "delete"])]
    state: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    match (&args.queue, &args.state) {
        (Some(queue), _) => purge(queue, args, context),
        (None, Some(consumer)) => drop_state(consumer, args, context),
        (None, None) => unreachable!("one of them is required"),
    }
}

fn purge(queue: &QueueName, args: &Args, context: &Context) -> CommandResult {
    let path = if args.delete { format!("/queues/{queue}") } else { format!("/queues/{queue}/messages") };
    let answer = Client::new(context)?.delete(&path)?;
    if args.json {
        return terminal::print(answer);
    }
    let purged = answer["purged"].as_u64().unwrap_or_default();
    if args.delete {
        return terminal::print(format!("deleted {queue} with {}", count(purged, "message")));
    }
    terminal::print(format!("purged {} from {queue}", count(purged, "message")))
}

fn drop_state(consumer: &str, args: &Args, context: &Context) -> CommandResult {
    let answer = Client::new(context)?.delete(&format!("/consumers/{}/state", path_segment(consumer)))?;
    if args.json {
        return terminal::print(answer);
    }
    terminal::print(format!("dropped the state of {consumer}: {}", size(answer["dropped_bytes"].as_u64())))
}
