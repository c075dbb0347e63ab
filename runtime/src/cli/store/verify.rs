//! `linecook store verify`: is everything in the data folder as it was written?

use std::path::Path;

use linecook_store::inspect::{FileKind, FileReport, Finding, Meaning, QueueReport, Report};
use serde_json::{Value, json};

use super::Place;
use crate::cli::output::{count, size, table};
use crate::cli::{CommandResult, Context, Failed, terminal};
use crate::delivery::QueueName;

/// The arguments of `linecook store verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Checks, and prints. Damage is a failure.
pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    let (path, folder) = args.place.open(context)?;
    let report = folder
        .verify()
        .map_err(|error| Failed::new(format!("can't read the data folder {}", path.display())).because(error))?;
    terminal::print(match args.json {
        true => json_of(&report, &path).to_string(),
        false => text_of(&report, &path),
    })?;
    if report.is_healthy() { Ok(()) } else { Err(Failed::already_told()) }
}

fn text_of(report: &Report, path: &Path) -> String {
    let mut parts = Vec::new();
    if !report.files.is_empty() {
        let rows = report.files.iter().map(|file| vec![file.name.clone(), size(Some(file.bytes)), what(file)]);
        parts.push(table(&["FILE", "SIZE", "WHAT"], &[1], rows));
    }
    if !report.queues.is_empty() {
        let rows = report.queues.iter().map(|queue| {
            vec![name(queue), queue.messages.to_string(), queue.unreadable.to_string(), size(Some(queue.bytes))]
        });
        parts.push(table(&["QUEUE", "MESSAGES", "UNREADABLE", "SIZE"], &[1, 2, 3], rows));
    }
    parts.extend(report.findings.iter().map(|finding| {
        let label = if finding.is_damage() { "damage" } else { "note" };
        format!("{label}: {finding}\n  {}", finding.meaning)
    }));
    parts.push(verdict(report, path));
    parts.join("\n\n")
}

fn verdict(report: &Report, path: &Path) -> String {
    let damages = report.findings.iter().filter(|finding| finding.is_damage()).count() as u64;
    let path = path.display();
    match &report.opens {
        _ if report.is_healthy() => {
            let messages = report.queues.iter().map(|queue| queue.messages).sum();
            format!("{path}: ok — {}, {}", count(report.files.len() as u64, "file"), count(messages, "message"))
        }
        Ok(()) => format!("{path}: {}; the store opens all the same", count(damages, "damage")),
        Err(_) => format!(
            "{path}: {}; the store refuses to open (`linecook store dump --messages` shows what can be rescued)",
            count(damages, "damage")
        ),
    }
}

fn what(file: &FileReport) -> String {
    match &file.kind {
        FileKind::Log { epoch, frames, records } => {
            format!("log, epoch {epoch}: {}, {}", count(*frames, "frame"), count(*records, "record"))
        }
        FileKind::Spare => "log, free".to_owned(),
        FileKind::Checkpoint { generation: 0 } => "checkpoint, not written yet".to_owned(),
        FileKind::Checkpoint { generation } => format!("checkpoint, generation {generation}"),
        FileKind::Segment { queue, messages, live } => {
            let queue = queue.as_ref().map_or("an unknown queue", |queue| queue.as_str());
            format!("segment of {queue}: {}, {live} live", count(*messages, "message"))
        }
        FileKind::Run { keys } => count(*keys, "idempotency key"),
        FileKind::State { keys: Some(keys) } => format!("state of consumers: {}", count(*keys, "key")),
        FileKind::State { keys: None } => "state of consumers, damaged".to_owned(),
        FileKind::Confirmed { lsn: Some(lsn) } => format!("frames up to {lsn} were confirmed"),
        FileKind::Confirmed { lsn: None } => "no frame was confirmed".to_owned(),
        FileKind::Attempts { running } => format!("{} running", count(*running, "attempt")),
        FileKind::Damaged => "damaged".to_owned(),
    }
}

fn name(queue: &QueueReport) -> String {
    queue.name.as_ref().map_or_else(|| format!("(number {})", queue.number), ToString::to_string)
}

fn json_of(report: &Report, path: &Path) -> Value {
    json!({
        "ok": report.is_healthy(),
        "data_dir": path.to_string_lossy(),
        "opens": report.opens.is_ok(),
        "refusal": report.opens.as_ref().err(),
        "files": report.files.iter().map(json_of_file).collect::<Vec<_>>(),
        "queues": report.queues.iter().map(json_of_queue).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(json_of_finding).collect::<Vec<_>>(),
    })
}

fn json_of_file(file: &FileReport) -> Value {
    let mut value = match &file.kind {
        FileKind::Log { epoch, frames, records } => {
            json!({ "kind": "log", "epoch": epoch, "frames": frames, "records": records })
        }
        FileKind::Spare => json!({ "kind": "spare" }),
        FileKind::Checkpoint { generation } => json!({ "kind": "checkpoint", "generation": generation }),
        FileKind::Segment { queue, messages, live } => {
            let queue = queue.as_ref().map(QueueName::as_str);
            json!({ "kind": "segment", "queue": queue, "messages": messages, "live": live })
        }
        FileKind::Run { keys } => json!({ "kind": "run", "keys": keys }),
        FileKind::State { keys } => json!({ "kind": "state", "keys": keys }),
        FileKind::Confirmed { lsn } => json!({ "kind": "confirmed", "lsn": lsn }),
        FileKind::Attempts { running } => json!({ "kind": "attempts", "running": running }),
        FileKind::Damaged => json!({ "kind": "damaged" }),
    };
    value["name"] = file.name.as_str().into();
    value["bytes"] = file.bytes.into();
    value
}

fn json_of_queue(queue: &QueueReport) -> Value {
    json!({
        "name": queue.name.as_ref().map(QueueName::as_str),
        "number": queue.number,
        "messages": queue.messages,
        "unreadable": queue.unreadable,
        "bytes": queue.bytes,
    })
}

fn json_of_finding(finding: &Finding) -> Value {
    let (meaning, messages) = match finding.meaning {
        Meaning::Leftover => ("leftover", None),
        Meaning::Recoverable => ("recoverable", None),
        Meaning::Unreadable { messages } => ("unreadable", Some(messages)),
        Meaning::SendsRefused => ("sends_refused", None),
        Meaning::StateUnreadable => ("state_unreadable", None),
        Meaning::Refuses => ("refuses_to_open", None),
    };
    let mut value = json!({ "file": finding.file, "offset": finding.offset, "why": finding.why, "meaning": meaning });
    if let Some(messages) = messages {
        value["messages"] = messages.into();
    }
    value
}
