//! `linecook replay`: acknowledged messages go through a queue once more.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::Client;
use super::output::count;
use super::{CommandResult, Context, terminal};
use crate::delivery::QueueName;
use crate::time::{now_ms, parse_time, rfc3339};

/// Messages that are asked for at a time.
const PAGE_MESSAGES: u64 = 1000;

/// The arguments of `linecook replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue whose history is replayed; `history` in queue.toml says how long it keeps what was acknowledged
    queue: QueueName,
    /// Only messages acknowledged since then: 2026-01-31T12:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<u64>,
    /// Only messages acknowledged before: a time like that of --from; the default is now
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<u64>,
    /// Send the copies to this queue, instead of to the one that they were in
    #[arg(long, value_name = "QUEUE")]
    into: Option<QueueName>,
    /// Replay at most this many, those acknowledged first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Send at most so many a second, such as 50/s
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<u64>,
    /// Name the replay: under the same name no message is sent twice, so that one that was interrupted can be repeated
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Only count what would be replayed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<u64, String> {
    parse_time(text, now_ms())
}

fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| "write a whole number a second, such as 50/s".to_owned())
}

/// What has been done so far.
#[derive(Default)]
struct Done {
    replayed: u64,
    duplicates: u64,
    unreadable: u64,
}

/// Asks page by page, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let client = Client::new(context)?;
    // Fixed for all pages, and for whoever repeats it: "now" and "2h ago" would move.
    let (from, to) = (rfc3339(args.from.unwrap_or(0)), rfc3339(args.to.unwrap_or_else(|| now_ms() + 1)));
    let new_id = || format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let id = args.id.clone().unwrap_or_else(new_id);
    let mut parameters = json!({
        "from": from,
        "to": to,
        "into": args.into.as_ref().map(QueueName::as_str),
        "dry_run": args.dry_run,
        "replay_id": id,
    });
    let progress = bar();
    let mut done = Done::default();
    let result = replay(args, &client, &mut parameters, &mut done, &progress);
    progress.finish_and_clear();
    if args.json {
        terminal::print(json!({
            "replay_id": id, "replayed": done.replayed, "duplicates": done.duplicates,
            "unreadable": done.unreadable, "from": from, "to": to,
        }))?;
    } else if result.is_ok() || done.replayed > 0 {
        tell(args, &done)?;
    }
    result.map_err(|failed| {
        if done.replayed == 0 {
            return failed;
        }
        let again = format!("`--id {id} --from {from} --to {to}`");
        failed.hint(format!("what was sent stays sent; the same command with {again} goes on without sending it twice"))
    })
}

fn replay(
    args: &Args,
    client: &Client,
    parameters: &mut Value,
    done: &mut Done,
    progress: &ProgressBar,
) -> CommandResult {
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    let path = format!("/queues/{}/replay", args.queue);
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let started = Instant::now();
        let page = left.min(PAGE_MESSAGES).min(args.rate.unwrap_or(u64::MAX));
        parameters["limit"] = page.into();
        let answer = client.post(&path, &headers, parameters.to_string().into_bytes())?;
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        let (replayed, duplicates) = (number("replayed"), number("duplicates"));
        done.replayed += replayed;
        done.duplicates += duplicates;
        done.unreadable += number("unreadable");
        left -= (replayed + duplicates).min(left);
        parameters["after"] = answer["next"].clone();
        progress.set_message(count(done.replayed, "message"));
        if answer["next"].is_null() || left == 0 {
            return Ok(());
        }
        if let Some(rate) = args.rate.filter(|_| !args.dry_run) {
            let earned = Duration::from_secs_f64(replayed as f64 / rate as f64);
            std::thread::sleep(earned.saturating_sub(started.elapsed()));
        }
    }
}

fn tell(args: &Args, done: &Done) -> CommandResult {
    let verb = if args.dry_run { "would replay" } else { "replayed" };
    let into = args.into.as_ref().unwrap_or(&args.queue);
    terminal::print(format!("{verb} {} of {} into {into}", count(done.replayed, "message"), args.queue))?;
    if done.duplicates > 0 {
        terminal::print(format!("{} had been sent under this id before", count(done.duplicates, "message")))?;
    }
    if done.unreadable > 0 {
        terminal::print(format!(
            "{} can't be read: `linecook store verify` says why",
            count(done.unreadable, "message")
        ))?;
    }
    Ok(())
}

/// Only drawn on a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{spinner} {msg} replayed ({elapsed})") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_a_second() {
        assert_eq!(rate("50/s"), Ok(50));
        for text in ["50", "0/s", "/s", "-1/s", "1.5/s", "50/m", ""] {
            assert!(rate(text).unwrap_err().contains("50/s"), "{text}");
        }
    }
}
