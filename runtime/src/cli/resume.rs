//! `linecook resume`: a paused consumer takes messages again.

use super::client::Client;
use super::{CommandResult, Context, terminal};

/// The arguments of `linecook resume`.
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
    let answer = Client::new(context)?.post(&format!("/consumers/{name}/resume"), &[], Vec::new())?;
    if args.json {
        return terminal::print(answer);
    }
    terminal::print(format!("resumed {}", args.consumer))
}
