//! `linecook pause`: a consumer takes no more messages until it is resumed; what runs ends. `linecook resume`: it takes them
//! again.

use super::client::{Client, path_segment};
use super::{CommandResult, Context, terminal};

/// The arguments of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The consumer
    consumer: String,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// `linecook pause`.
pub fn pause(args: &Args, context: &Context) -> CommandResult {
    ask(args, context, "pause", "paused")
}

/// `linecook resume`.
pub fn resume(args: &Args, context: &Context) -> CommandResult {
    ask(args, context, "resume", "resumed")
}

fn ask(args: &Args, context: &Context, what: &str, done: &str) -> CommandResult {
    let name = path_segment(&args.consumer);
    let answer = Client::new(context)?.post(&format!("/consumers/{name}/{what}"), &[], Vec::new())?;
    if args.json {
        return terminal::print(answer);
    }
    terminal::print(format!("{done} {}", args.consumer))
}
