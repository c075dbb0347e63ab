//! `linecook store dump`: what is in the data folder, as far as it can be read.

use std::io::{self, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use linecook_store::inspect::{
    DumpOptions, Entry, Finding, QueueRef, Recorded, StateRecorded, StateRef, StoredMessage,
};
use serde_json::{Map, Value, json};

use super::Place;
use crate::cli::output::count;
use crate::cli::{CommandResult, Context, Failed};
use crate::delivery::QueueName;
use crate::time::rfc3339;

/// The arguments of `linecook store dump`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Only what concerns this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<QueueName>,
    /// Only the messages that live, queue by queue and in order; also from a folder that refuses to open
    #[arg(long)]
    messages: bool,
}

/// Prints all that can be read. Damage is told on stderr where it is met, and makes it a failure in the end.
pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    let (path, folder) = args.place.open(context)?;
    let options = DumpOptions { queue: args.queue.clone(), messages_only: args.messages };
    // A clock before 1970 makes nothing delayed.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_millis() as u64);
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut damages = 0;
    let dumped = folder.dump(&options, |entry| match entry {
        Entry::Finding(finding) => {
            damages += u64::from(finding.is_damage());
            tell(finding);
            Ok(())
        }
        entry => writeln!(stdout, "{}", json_of(&entry, now_ms)),
    });
    dumped
        .map_err(|error| Failed::new(format!("can't read the data folder {}", path.display())).because(error))?
        .and_then(|()| stdout.flush())
        .map_err(Failed::stdout)?;
    match damages {
        0 => Ok(()),
        _ => Err(Failed::new(format!("{} kept something from being read, or may have", count(damages, "damage")))),
    }
}

fn tell(finding: &Finding) {
    let label = if finding.is_damage() { "damage" } else { "note" };
    // A stderr that is closed is no reason to stop.
    _ = writeln!(io::stderr(), "{label}: {finding} ({})", finding.meaning);
}

fn json_of(entry: &Entry<'_>, now_ms: u64) -> Value {
    match entry {
        // They go to stderr.
        Entry::Finding(finding) => json!({ "type": "finding", "why": finding.to_string() }),
        Entry::Message(message) => typed("message", message_of(message, now_ms)),
        Entry::Checkpoint { file, generation, lsn, start_epoch, next_sequence, next_segment } => json!({
            "type": "checkpoint", "file": file, "generation": generation, "lsn": lsn, "start_epoch": start_epoch,
            "next_sequence": next_sequence, "next_segment": next_segment,
        }),
        Entry::CheckpointQueue { file, queue, next_position, bytes } => json!({
            "type": "checkpoint_queue", "file": file, "queue": name(queue), "queue_number": queue.number,
            "next_position": next_position, "bytes": bytes,
        }),
        Entry::CheckpointSegment { file, queue, segment, span, live } => json!({
            "type": "checkpoint_segment", "file": file, "queue": name(queue), "segment": segment, "span": span,
            "live": live,
        }),
        Entry::CheckpointState { file, queue, position, state, holds_key } => {
            let mut value = json!({
                "type": "checkpoint_state", "file": file, "queue": name(queue), "position": position,
                "holds_key": holds_key,
            });
            put_state(&mut value, state, now_ms);
            value
        }
        Entry::Log { file, epoch, first_lsn, given_up } => json!({
            "type": "log", "file": file, "epoch": epoch, "first_lsn": first_lsn, "given_up": given_up,
        }),
        Entry::Frame { file, offset, lsn, payload_bytes } => json!({
            "type": "frame", "file": file, "offset": offset, "lsn": lsn, "payload_bytes": payload_bytes,
        }),
        Entry::Record { file, offset, record } => {
            let mut value = record_of(record, now_ms);
            value["file"] = (*file).into();
            value["offset"] = (*offset).into();
            value
        }
        Entry::Segment { file, queue, needed } => json!({
            "type": "segment", "file": file, "queue": queue.as_ref().map(name), "needed": needed,
        }),
        Entry::Run { file, keys, needed } => json!({ "type": "run", "file": file, "keys": keys, "needed": needed }),
        Entry::Remembered { file, hash, id, at_ms } => json!({
            "type": "remembered", "file": file, "idempotency_hash": format!("{hash:032x}"), "id": id.to_string(),
            "at": rfc3339(*at_ms),
        }),
        Entry::State { file, state } => {
            let mut value = state_of(state);
            value["file"] = (*file).into();
            value
        }
        Entry::Confirmed { lsn } => json!({ "type": "confirmed", "lsn": lsn }),
        Entry::Attempt { queue, position, attempt } => json!({
            "type": "attempt", "queue": name(queue), "queue_number": queue.number, "position": position,
            "attempt": attempt,
        }),
    }
}

fn record_of(record: &Recorded<'_>, now_ms: u64) -> Value {
    match record {
        Recorded::Queue { queue, next_position } => json!({
            "type": "queue", "queue": name(queue), "queue_number": queue.number, "next_position": next_position,
        }),
        Recorded::Next { sequence } => json!({ "type": "next", "sequence": sequence }),
        Recorded::Put(message) => typed("put", message_of(message, now_ms)),
        Recorded::Update { queue, position, state } => {
            let mut value = json!({
                "type": "update", "queue": name(queue), "queue_number": queue.number, "position": position,
            });
            put_state(&mut value, state, now_ms);
            value
        }
        Recorded::State(state) => state_of(state),
        Recorded::Time { now_ms } => json!({ "type": "time", "at": rfc3339(*now_ms) }),
        Recorded::Purge { queue, below } => json!({
            "type": "purge", "queue": name(queue), "queue_number": queue.number, "below": below,
        }),
        Recorded::Remove { queue, position, bytes } => json!({
            "type": "remove", "queue": name(queue), "queue_number": queue.number, "position": position, "bytes": bytes,
        }),
    }
}

fn state_of(StateRecorded { space, key, value }: &StateRecorded<'_>) -> Value {
    let mut json = json!({ "type": "state", "space": space, "key": key, "removed": value.is_none() });
    match value.map(|value| (std::str::from_utf8(value), value)) {
        Some((Ok(text), _)) => json["value"] = text.into(),
        Some((Err(_), bytes)) => json["value_base64"] = BASE64_STANDARD.encode(bytes).into(),
        None => {}
    }
    json
}

fn typed(kind: &str, mut value: Value) -> Value {
    value["type"] = kind.into();
    value
}

/// In the words of `linecook peek --json`.
fn message_of(message: &StoredMessage<'_>, now_ms: u64) -> Value {
    let attributes: Map<_, _> =
        message.attributes.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    let mut value = json!({
        "id": message.id.to_string(),
        "queue": name(&message.queue),
        "queue_number": message.queue.number,
        "position": message.position,
        "content_type": message.content_type,
        "key": message.key,
        "attributes": attributes,
        "enqueued_at": rfc3339(message.enqueued_at_ms),
    });
    if let Some(hash) = message.idempotency_hash {
        value["idempotency_hash"] = format!("{hash:032x}").into();
    }
    put_state(&mut value, &message.state, now_ms);
    match std::str::from_utf8(message.body) {
        Ok(text) => value["body"] = text.into(),
        Err(_) => value["body_base64"] = BASE64_STANDARD.encode(message.body).into(),
    }
    value
}

fn put_state(value: &mut Value, state: &StateRef, now_ms: u64) {
    value["state"] = if state.due_at_ms > now_ms { "delayed" } else { "ready" }.into();
    value["attempt"] = state.attempts.into();
    for (name, at_ms) in [("due_at", state.due_at_ms), ("first_failed_at", state.first_failed_at_ms)] {
        if at_ms != 0 {
            value[name] = rfc3339(at_ms).into();
        }
    }
}

fn name<'a>(queue: &QueueRef<'a>) -> Option<&'a str> {
    queue.name.map(QueueName::as_str)
}
