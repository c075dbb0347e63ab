//! `linecook purge`: a queue is emptied.

use super::client::Client;
use super::output::count;
use super::{CommandResult, Context, terminal};
use crate::delivery::QueueName;

/// The arguments of `linecook purge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue to empty
    queue: QueueName,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let answer = Client::new(context)?.delete(&format!("/queues/{}/messages", args.queue))?;
    if args.json {
        return terminal::print(answer);
    }
    let purged = answer["purged"].as_u64().unwrap_or_default();
    terminal::print(format!("purged {} from {}", count(purged, "message"), args.queue))
}
