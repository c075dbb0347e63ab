//! `linecook check`: is `queue.toml` right?

use serde_json::json;

use super::{CommandResult, Context, Failed, terminal};
use crate::config::{self, Config, ConfigErrors};

/// The arguments of `linecook check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Checks the file. A file with errors is a failure.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let result = config::check(&context.config_path);
    if args.json {
        terminal::print(match &result {
            Ok(config) => json_of(config),
            Err(errors) => json_of_errors(errors),
        })?;
        return result.map(drop).map_err(|_| Failed::already_told());
    }
    let config = result?;
    terminal::print(format!(
        "{}: ok — {}, {}{}",
        config.path.display(),
        count(config.queues.len(), "queue"),
        count(config.consumers.len(), "consumer"),
        match config.producers.len() {
            0 => String::new(),
            producers => format!(", {}", count(producers, "producer")),
        }
    ))
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn json_of(config: &Config) -> serde_json::Value {
    json!({
        "ok": true,
        "file": config.path.to_string_lossy(),
        "queues": config.queues.len(),
        "consumers": config.consumers.len(),
        "producers": config.producers.len(),
        "errors": [],
    })
}

fn json_of_errors(errors: &ConfigErrors) -> serde_json::Value {
    let file = errors.path().to_string_lossy();
    let list: Vec<_> = errors
        .errors()
        .iter()
        .map(|error| {
            json!({
                "file": file,
                "line": error.position.map(|position| position.line),
                "column": error.position.map(|position| position.column),
                "message": error.message,
                "hint": error.hint,
            })
        })
        .collect();
    json!({ "ok": false, "file": file, "errors": list })
}
