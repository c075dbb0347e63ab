//! `linecook pause`: a consumer takes no more messages until it is resumed; what runs ends.

use super::client::Client;
use super::{CommandResult, Context, terminal};

/// The arguments of `linecook pause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The consumer
    consumer: String,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let name = super::client::path_segment(&args.consumer);
    let answer = Client::new(context)?.post(&format!("/consumers/{name}/pause"), &[], Vec::new())?;
    if args.json {
        return terminal::print(answer);
    }
    terminal::print(format!("paused {}", args.consumer))
}
