//! `linecook status`: what is in the queues, and what the consumers are doing.

use serde_json::{Value, json};

use super::client::Client;
use super::output::{age, cell, one_line, size, table};
use super::{CommandResult, Context, terminal};

/// The arguments of `linecook status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let client = Client::new(context)?;
    let queues = client.get("/queues")?["queues"].take();
    let consumers = client.get("/consumers")?["consumers"].take();
    if args.json {
        return terminal::print(json!({ "queues": queues, "consumers": consumers }));
    }
    terminal::print(queue_table(list(&queues)))?;
    if list(&consumers).is_empty() {
        return Ok(());
    }
    terminal::print(format!("\n{}", consumer_table(list(&consumers))))?;
    for consumer in list(&consumers) {
        if let Some(generation) = consumer["canary"]["generation"].as_u64() {
            terminal::print(format!("\n{}: generation {generation} is on trial", cell(consumer, "name")))?;
        }
        if let Some(error) = consumer["reload_error"].as_str() {
            terminal::print(format!("\n{}: reload failed: {}", cell(consumer, "name"), one_line(error, 2000)))?;
        }
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn queue_table(queues: &[Value]) -> String {
    let rows = queues.iter().map(|queue| {
        let mut row: Vec<_> = ["name", "ready", "delayed", "leased"].map(|name| cell(queue, name)).into();
        row.extend([size(queue["bytes"].as_u64()), age(queue["oldest_age_ms"].as_u64()), cell(queue, "consumer")]);
        row
    });
    table(&["QUEUE", "READY", "DELAYED", "LEASED", "SIZE", "OLDEST", "CONSUMER"], &[1, 2, 3, 4, 5], rows)
}

fn consumer_table(consumers: &[Value]) -> String {
    let rows = consumers.iter().map(|consumer| {
        let names = ["name", "queue", "state", "running", "acked", "failed", "dead_lettered", "generation"];
        let mut row: Vec<_> = names.map(|name| cell(consumer, name)).into();
        if consumer["paused"] == true {
            row[2] = "paused".to_owned();
        }
        // As much of the hash as tells two builds apart.
        row.push(cell(consumer, "module_hash").chars().take(12).collect());
        row
    });
    let header = ["CONSUMER", "QUEUE", "STATE", "RUNNING", "ACKED", "FAILED", "DEAD-LETTERED", "GENERATION", "MODULE"];
    table(&header, &[3, 4, 5, 6, 7], rows)
}
