//! `linecook purge`: a queue is emptied, or deleted.

use super::client::Client;
use super::output::count;
use super::{CommandResult, Context, terminal};
use crate::delivery::QueueName;

/// The arguments of `linecook purge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue to empty
    queue: QueueName,
    /// Delete the queue too; it must not be in queue.toml any more
    #[arg(long)]
    delete: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let path = if args.delete { format!("/queues/{}", args.queue) } else { format!("/queues/{}/messages", args.queue) };
    let answer = Client::new(context)?.delete(&path)?;
    if args.json {
        return terminal::print(answer);
    }
    let purged = answer["purged"].as_u64().unwrap_or_default();
    if args.delete {
        return terminal::print(format!("deleted {} with {}", args.queue, count(purged, "message")));
    }
    terminal::print(format!("purged {} from {}", count(purged, "message"), args.queue))
}
