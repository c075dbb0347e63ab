//! `linecook status`: what is in the queues, and what the consumers and the producers are doing.

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
    let mut answer = client.get("/consumers")?;
    let (consumers, config) = (answer["consumers"].take(), answer["config"].take());
    let producers = client.get("/producers")?["producers"].take();
    if args.json {
        return terminal::print(
            json!({ "queues": queues, "consumers": consumers, "producers": producers, "config": config }),
        );
    }
    terminal::print(queue_table(list(&queues)))?;
    for queue in list(&queues).iter().filter(|queue| queue["declared"] == false) {
        let name = cell(queue, "name");
        terminal::print(format!(
            "\n{name}: not declared in queue.toml; it takes no messages and keeps what it has. Declare it again, or delete \
             it with `linecook purge {name} --delete`"
        ))?;
    }
    print_producers(list(&producers))?;
    consumers_and_config(list(&consumers), &config)
}

fn print_producers(producers: &[Value]) -> CommandResult {
    if !producers.is_empty() {
        terminal::print(format!("\n{}", producer_table(producers)))?;
    }
    for producer in producers {
        if let (Some(error), Some(at)) = (producer["last_error"].as_str(), producer["last_error_at"].as_str()) {
            terminal::print(format!("\n{}: {} (at {at})", cell(producer, "name"), one_line(error, 2000)))?;
        }
    }
    Ok(())
}

fn consumers_and_config(consumers: &[Value], config: &Value) -> CommandResult {
    if !consumers.is_empty() {
        print_consumers(consumers)?;
    }
    if config["hash"].as_str().is_none_or(str::is_empty) {
        return Ok(());
    }
    let since = format!("queue.toml {:.12} in force since {}", cell(config, "hash"), cell(config, "loaded_at"));
    terminal::print(format!("\n{since}"))?;
    if let Some(error) = config["last_error"].as_str() {
        terminal::print(format!("\nqueue.toml as it is now was not applied:\n{error}"))?;
    }
    Ok(())
}

fn print_consumers(consumers: &[Value]) -> CommandResult {
    terminal::print(format!("\n{}", consumer_table(consumers)))?;
    for consumer in consumers {
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
        row.extend([size(queue["bytes"].as_u64()), age(queue["oldest_age_ms"].as_u64())]);
        row.extend([cell(queue, "history"), cell(queue, "consumer")]);
        row
    });
    table(&["QUEUE", "READY", "DELAYED", "LEASED", "SIZE", "OLDEST", "HISTORY", "CONSUMER"], &[1, 2, 3, 4, 5, 6], rows)
}

fn producer_table(producers: &[Value]) -> String {
    let names = ["name", "kind", "target", "state", "sent", "refused", "missed", "last_sent_at", "next_run_at"];
    let rows = producers.iter().map(|producer| {
        let target = if producer["subject"].is_null() { "queue" } else { "subject" };
        names.map(|name| cell(producer, if name == "target" { target } else { name })).into()
    });
    let header = ["PRODUCER", "KIND", "SENDS TO", "STATE", "SENT", "REFUSED", "MISSED", "LAST SENT", "NEXT RUN"];
    table(&header, &[4, 5, 6], rows)
}

fn consumer_table(consumers: &[Value]) -> String {
    // Few have one.
    let is_limited = consumers.iter().any(|consumer| consumer["rate_limit"].is_string());
    let rows = consumers.iter().map(|consumer| {
        let names = ["name", "queue", "state", "running", "acked", "failed", "dead_lettered", "generation"];
        let mut row: Vec<_> = names.map(|name| cell(consumer, name)).into();
        if consumer["paused"] == true {
            row[2] = "paused".to_owned();
        }
        row.push(cell(consumer, "loaded_at"));
        // As much of the hash as tells two builds apart.
        row.push(cell(consumer, "module_hash").chars().take(12).collect());
        if is_limited {
            row.push(cell(consumer, "rate_limit"));
        }
        row
    });
    let header = [
        "CONSUMER",
        "QUEUE",
        "STATE",
        "RUNNING",
        "ACKED",
        "FAILED",
        "DEAD-LETTERED",
        "GENERATION",
        "LOADED AT",
        "MODULE",
        "RATE LIMIT",
    ];
    table(&header[..header.len() - usize::from(!is_limited)], &[3, 4, 5, 6, 7], rows)
}
