//! What requests and answers look like.

use std::time::Duration;

use serde_json::{Value, json};

use super::patterns;
use crate::http::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, BATCH_MESSAGES_MAX, CLAIM_MESSAGES_MAX,
    CONTENT_TYPE_BYTES_MAX, DELAY_MAX, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, LEASE_MAX, LEASE_MIN,
    PEEK_MESSAGES_MAX, REASON_CHARS_MAX, REPLAY_ID_BYTES_MAX, SETTLEMENTS_MAX, WAIT_MAX,
};

const QUEUE_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_-]*(\\.[A-Za-z0-9_-]+)*$";
const SUBJECT: &str = "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$";
const LEASE: &str = "^[A-Za-z0-9_-]{21}[AQgw]$";
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
const MESSAGE_ID: &str = "^[0-9a-hjkmnp-tv-z]{26}$";
/// What a header may hold without any encoding.
const PRINTABLE: &str = "^[!-~]([ -~]*[!-~])?$";
/// Not empty, no control characters, and not Linecook's own.
const ATTRIBUTE_NAME: &str = "^(?![Ll][Ii][Nn][Ee][Cc][Oo][Oo][Kk]-)[^\\u0000-\\u001f\\u007f-\\u009f]+$";

/// A schema by its name.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// What a parameter may be.
pub(super) fn parameter(name: &str) -> Value {
    match name {
        "queue" => reference("QueueName"),
        "subject" => json!({ "type": "string", "pattern": SUBJECT, "maxLength": crate::subjects::BYTES_MAX }),
        "lease" => reference("Lease"),
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": PEEK_MESSAGES_MAX, "default": 10 }),
        "after" => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        "state" => json!({ "enum": ["history"] }),
        "from" | "to" => moment(),
        "Linecook-Delay" => duration(Duration::ZERO, DELAY_MAX),
        "Linecook-Key" => json!({ "type": "string", "pattern": PRINTABLE, "minLength": 1, "maxLength": KEY_BYTES_MAX }),
        "Idempotency-Key" => {
            json!({ "type": "string", "pattern": PRINTABLE, "minLength": 1, "maxLength": IDEMPOTENCY_KEY_BYTES_MAX })
        }
        _ => json!({ "type": "string" }),
    }
}

fn duration(min: Duration, max: Duration) -> Value {
    json!({ "type": "string", "pattern": patterns::duration(min, max) })
}

/// A time of this century, or how long ago it was.
fn moment() -> Value {
    const TIME: &str = "20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z";
    let ago = patterns::duration(Duration::ZERO, Duration::from_secs(3650 * 24 * 3600));
    json!({ "type": "string", "pattern": format!("^{TIME}$|{ago}") })
}

/// As a member of an object, where null says what leaving it out says.
fn nullable(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

fn closed(required: &[&str], properties: Value) -> Value {
    let mut object = object(required, properties);
    object["additionalProperties"] = false.into();
    object
}

fn list(of: &str) -> Value {
    json!({ "type": "array", "items": reference(of) })
}

/// All schemas.
pub(super) fn all() -> Value {
    let count = || json!({ "type": "integer", "minimum": 0 });
    let text = || json!({ "type": "string" });
    let texts = || json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let maybe_text = || json!({ "type": ["string", "null"] });
    let time = || json!({ "type": "string", "format": "date-time" });
    let delay = || nullable(duration(Duration::ZERO, DELAY_MAX));
    let id = || reference("MessageId");
    let ids_by_queue = || json!({ "type": "object", "additionalProperties": id() });
    let shown = || {
        json!({
            "id": id(), "attempt": count(), "content_type": maybe_text(), "key": maybe_text(), "attributes": texts(),
            "enqueued_at": time(), "body": text(), "body_base64": text(),
        })
    };
    let with = |mut properties: Value, more: Value| {
        if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
            properties.extend(more);
        }
        properties
    };
    let shown_always = ["id", "attempt", "content_type", "key", "attributes", "enqueued_at"];
    let schemas = json!({
        "QueueName": { "type": "string", "pattern": QUEUE_NAME, "maxLength": 128 },
        "MessageId": { "type": "string", "pattern": MESSAGE_ID },
        "Lease": { "type": "string", "pattern": LEASE },
        "Text": { "type": "string" },
        "Any": {},
        "Problem": object(
            &["type", "title", "status", "detail"],
            json!({ "type": text(), "title": text(), "status": { "type": "integer" }, "detail": text() }),
        ),
        "Status": object(&["status"], json!({ "status": text() })),
        "Queue": object(
            &["name", "declared", "ready", "delayed", "leased", "bytes", "oldest_age_ms", "history", "history_bytes", "history_given_up", "consumer"],
            json!({
                "declared": { "type": "boolean" },
                "name": reference("QueueName"), "ready": count(), "delayed": count(), "leased": count(), "bytes": count(),
                "history": count(), "history_bytes": count(), "history_given_up": count(),
                "oldest_age_ms": { "type": ["integer", "null"], "minimum": 0 }, "consumer": maybe_text(),
            }),
        ),
        "Queues": object(&["queues"], json!({ "queues": list("Queue") })),
        "Message": object(
            &[&shown_always[..], &["state"]].concat(),
            with(shown(), json!({
                "state": { "enum": ["ready", "delayed", "leased", "history"] }, "due_at": time(), "position": count(),
                "acked_at": time(),
            })),
        ),
        "Messages": object(&["messages"], json!({
            "messages": list("Message"), "truncated": { "type": "boolean" }, "next": count(), "unreadable": count(),
        })),
        "ClaimedMessage": object(
            &[&shown_always[..], &["lease", "lease_expires_at"]].concat(),
            with(shown(), json!({ "lease": reference("Lease"), "lease_expires_at": time() })),
        ),
        "Claimed": object(&["messages"], json!({ "messages": list("ClaimedMessage") })),
        "Sent": {
            "type": "object",
            "properties": { "id": id(), "ids": { "type": "array", "items": id() }, "duplicates": count() },
        },
        "SentBatch": object(
            &["ids", "duplicates"],
            json!({ "ids": { "type": "array", "items": id() }, "duplicates": count() }),
        ),
        "SentToSubject": {
            "type": "object",
            "required": ["ids"],
            "properties": {
                "id": id(), "ids": { "type": ["object", "array"] }, "duplicates": count(),
                "copies": { "type": "array", "items": ids_by_queue() },
            },
        },
        "SentBatchToSubject": object(
            &["ids", "duplicates", "copies"],
            json!({
                "ids": { "type": "array", "items": id() }, "duplicates": count(),
                "copies": { "type": "array", "items": ids_by_queue() },
            }),
        ),
        "Purged": object(&["purged"], json!({ "purged": count() })),
        "Deleted": object(&["purged", "deleted"], json!({ "purged": count(), "deleted": { "const": true } })),
        "Replayed": object(
            &["replay_id", "replayed", "duplicates", "unreadable", "from", "to", "next"],
            json!({
                "replay_id": text(), "replayed": count(), "duplicates": count(), "unreadable": count(), "from": time(),
                "to": time(), "next": { "type": ["integer", "null"], "minimum": 0 },
            }),
        ),
        "Redriven": object(&["moved", "skipped"], json!({ "moved": count(), "skipped": count() })),
        "Acked": object(&["id"], json!({ "id": id() })),
        "Extended": object(&["id", "lease_expires_at"], json!({ "id": id(), "lease_expires_at": time() })),
        "Consumer": object(
            &["name", "queue", "state", "paused", "generation", "running", "acked", "failed", "dead_lettered"],
            json!({
                "name": text(), "queue": reference("QueueName"), "paused": { "type": "boolean" },
                "state": { "enum": ["loading", "running", "failed", "draining", "removed"] },
                "generation": count(), "running": count(), "acked": count(), "failed": count(), "dead_lettered": count(),
                "module_hash": maybe_text(), "loaded_at": maybe_text(), "reload_error": maybe_text(), "rate_limit": maybe_text(),
            }),
        ),
        "Consumers": object(
            &["consumers", "config"],
            json!({
                "consumers": list("Consumer"),
                "config": object(
                    &["hash", "loaded_at", "last_error"],
                    json!({ "hash": text(), "loaded_at": text(), "last_error": maybe_text() }),
                ),
            }),
        ),
        "Producer": object(
            &["name", "kind", "queue", "subject", "state", "sent", "duplicates", "refused", "missed"],
            json!({
                "name": text(), "kind": { "enum": ["cron", "tail", "watch", "webhook"] },
                "queue": maybe_text(), "subject": maybe_text(),
                "state": { "enum": ["running", "waiting", "failed"] },
                "sent": count(), "duplicates": count(), "refused": count(), "missed": count(),
                "files": { "type": ["integer", "null"], "minimum": 0 }, "last_sent_at": maybe_text(),
                "next_run_at": maybe_text(), "last_error": maybe_text(), "last_error_at": maybe_text(),
            }),
        ),
        "Producers": object(&["producers"], json!({ "producers": list("Producer") })),
        "DroppedState": object(&["name", "dropped_bytes"], json!({ "name": text(), "dropped_bytes": count() })),
        "Paused": object(&["name", "paused"], json!({ "name": text(), "paused": { "type": "boolean" } })),
    });
    let requests = json!({
        "Claim": closed(&[], json!({
            "max": { "type": ["integer", "null"], "minimum": 1, "maximum": CLAIM_MESSAGES_MAX, "default": 1 },
            "lease": nullable(duration(LEASE_MIN, LEASE_MAX)),
            "wait": nullable(duration(Duration::ZERO, WAIT_MAX)),
        })),
        "ClaimEvent": closed(&[], json!({
            "lease": nullable(duration(LEASE_MIN, LEASE_MAX)),
            "wait": nullable(duration(Duration::ZERO, WAIT_MAX)),
        })),
        "Ack": closed(&[], json!({})),
        "Retry": closed(&[], json!({ "delay": delay() })),
        "Extend": closed(&[], json!({ "lease": nullable(duration(LEASE_MIN, LEASE_MAX)) })),
        "DeadLetter": closed(&[], json!({ "reason": { "type": ["string", "null"], "maxLength": REASON_CHARS_MAX } })),
        "Settlement": {
            "oneOf": [
                closed(&["lease", "outcome"], json!({
                    "lease": reference("Lease"), "outcome": { "const": "ack" },
                    "delay": { "type": "null" }, "reason": { "type": "null" },
                })),
                closed(&["lease", "outcome"], json!({
                    "lease": reference("Lease"), "outcome": { "const": "retry" },
                    "delay": delay(), "reason": { "type": "null" },
                })),
                closed(&["lease", "outcome"], json!({
                    "lease": reference("Lease"), "outcome": { "const": "dead-letter" }, "delay": { "type": "null" },
                    "reason": { "type": ["string", "null"], "maxLength": REASON_CHARS_MAX },
                })),
            ],
        },
        "Settlements": {
            "type": "array", "items": reference("Settlement"), "minItems": 1, "maxItems": SETTLEMENTS_MAX,
        },
        "Settled": object(&["results"], json!({
            "results": {
                "type": "array",
                "items": object(&["lease", "status"], json!({
                    "lease": reference("Lease"), "status": { "type": "integer" }, "id": id(), "detail": text(),
                })),
            },
        })),
        "Replay": closed(&[], json!({
            "from": nullable(moment()), "to": nullable(moment()),
            "into": { "type": ["string", "null"], "pattern": QUEUE_NAME, "maxLength": 128 },
            "limit": { "type": ["integer", "null"], "minimum": 1, "maximum": u64::MAX },
            "after": { "type": ["integer", "null"], "minimum": 0, "maximum": u64::MAX },
            "dry_run": { "type": "boolean" },
            "replay_id": {
                "type": ["string", "null"], "pattern": PRINTABLE, "minLength": 1, "maxLength": REPLAY_ID_BYTES_MAX,
            },
        })),
        "Redrive": closed(&[], json!({
            "to": { "type": ["string", "null"], "pattern": QUEUE_NAME, "maxLength": 128 },
            "limit": { "type": ["integer", "null"], "minimum": 1, "maximum": u64::MAX },
            "dry_run": { "type": "boolean" },
        })),
        "BatchMessage": batch_message(&delay()),
        "Batch": { "type": "array", "items": reference("BatchMessage"), "minItems": 1, "maxItems": BATCH_MESSAGES_MAX },
    });
    let events = json!({
        "CloudEvent": cloud_event(),
        "CloudEvents": {
            "type": "array", "items": reference("CloudEvent"), "maxItems": BATCH_MESSAGES_MAX,
        },
        "ClaimedEvent": object(
            &["specversion", "id", "source", "type", "linecooklease", "linecookattempt"],
            json!({
                "specversion": { "const": "1.0" }, "id": text(), "source": text(), "type": text(),
                "linecooklease": reference("Lease"), "linecookleaseexpiresat": time(), "linecookid": id(),
                "linecookqueue": reference("QueueName"), "linecookattempt": count(),
                "linecookkey": text(), "linecooksubject": text(),
            }),
        ),
        "ClaimedEvents": list("ClaimedEvent"),
    });
    with(with(schemas, requests), events)
}

fn batch_message(delay: &Value) -> Value {
    let common = |mut properties: Value| {
        let more = json!({
            "content_type": {
                "type": ["string", "null"], "pattern": "^[ -~]+$", "maxLength": CONTENT_TYPE_BYTES_MAX,
            },
            "key": { "type": ["string", "null"], "minLength": 1, "maxLength": KEY_BYTES_MAX },
            "idempotency_key": { "type": ["string", "null"], "minLength": 1, "maxLength": IDEMPOTENCY_KEY_BYTES_MAX },
            "delay": delay,
            "attributes": {
                "type": ["object", "null"],
                "maxProperties": ATTRIBUTES_MAX,
                "propertyNames": { "pattern": ATTRIBUTE_NAME, "maxLength": ATTRIBUTE_NAME_BYTES_MAX },
                "additionalProperties": { "type": "string", "maxLength": ATTRIBUTE_VALUE_BYTES_MAX },
            },
        });
        if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
            properties.extend(more);
        }
        properties
    };
    json!({
        "oneOf": [
            closed(&["body"], common(json!({ "body": {}, "body_base64": { "type": "null" } }))),
            closed(&["body_base64"], common(json!({ "body_base64": { "type": "string", "pattern": BASE64 } }))),
        ],
    })
}

fn cloud_event() -> Value {
    // With what stands before it in the message.
    let name_max = ATTRIBUTE_NAME_BYTES_MAX - crate::http::cloudevents::PREFIX.len();
    let known = |data: &[&str], mut properties: Value| {
        let required = [&["specversion", "id", "source", "type"], data].concat();
        let more = json!({
            "specversion": { "const": "1.0" },
            "id": { "type": "string", "minLength": 1, "maxLength": ATTRIBUTE_VALUE_BYTES_MAX },
            "source": { "type": "string", "minLength": 1, "maxLength": ATTRIBUTE_VALUE_BYTES_MAX },
            "type": { "type": "string", "minLength": 1, "maxLength": ATTRIBUTE_VALUE_BYTES_MAX },
            "subject": { "type": ["string", "null"], "minLength": 1, "maxLength": ATTRIBUTE_VALUE_BYTES_MAX },
            "time": { "type": ["string", "null"], "format": "date-time" },
            "dataschema": { "type": ["string", "null"], "minLength": 1, "maxLength": ATTRIBUTE_VALUE_BYTES_MAX },
            "datacontenttype": {
                "type": ["string", "null"], "pattern": "^[ -~]+$", "maxLength": CONTENT_TYPE_BYTES_MAX,
            },
        });
        if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
            properties.extend(more);
        }
        json!({
            "type": "object",
            "required": required,
            "properties": properties,
            "propertyNames": { "pattern": "^([a-z0-9]+|data_base64)$", "maxLength": name_max },
            "maxProperties": ATTRIBUTES_MAX,
            "additionalProperties": {
                "type": ["string", "integer", "boolean", "null"],
                "minimum": i32::MIN, "maximum": i32::MAX, "maxLength": ATTRIBUTE_VALUE_BYTES_MAX,
            },
        })
    };
    json!({
        "oneOf": [
            known(&[], json!({ "data": {}, "data_base64": { "type": "null" } })),
            known(
                &["data_base64"],
                json!({ "data": { "type": "null" }, "data_base64": { "type": "string", "pattern": BASE64 } }),
            ),
        ],
    })
}
