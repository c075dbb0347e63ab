//! `GET /openapi.json`: the API as an OpenAPI 3.1 document, made from the same table that the router is made from
//! (`super::routes`). What a request may carry has the limits of the code (`super::limits`).

use std::sync::LazyLock;

use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::auth::Needs;
use super::{Route, cloudevents, problem, routes};

mod patterns;
mod schemas;

/// What the document says of one route.
#[derive(Debug)]
pub(super) struct Doc {
    /// Unique, in lower camel case.
    id: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    headers: &'static [&'static str],
    body: Body,
    answers: &'static [Answer],
    /// Headers that an answer may have.
    answer_headers: &'static [&'static str],
    /// Statuses of problems beside those that every route may answer with.
    problems: &'static [u16],
}

#[derive(Debug)]
enum Body {
    None,
    /// JSON of this schema, which may be left out.
    Optional(&'static str),
    /// JSON of this schema.
    Required(&'static str),
    /// A message.
    Message,
    /// Many.
    Batch,
}

/// A status, a media type, and a schema. Without a media type there is nothing to read, without a schema anything.
type Answer = (u16, &'static str, &'static str);

const JSON: &str = "application/json";

const fn doc(id: &'static str, summary: &'static str, answers: &'static [Answer], problems: &'static [u16]) -> Doc {
    Doc { id, summary, query: &[], headers: &[], body: Body::None, answers, answer_headers: &[], problems }
}

const fn post(
    id: &'static str,
    summary: &'static str,
    body: Body,
    answers: &'static [Answer],
    problems: &'static [u16],
) -> Doc {
    Doc { body, ..doc(id, summary, answers, problems) }
}

const SEND_HEADERS: &[&str] = &["Idempotency-Key", "Linecook-Key", "Linecook-Delay", "traceparent"];
const SEND_PROBLEMS: &[u16] = &[404, 408, 413, 415, 507];
const CLAIM_ANSWERS: &[Answer] = &[
    (200, JSON, "Claimed"),
    (200, cloudevents::BATCH, "ClaimedEvents"),
    (200, cloudevents::STRUCTURED, "ClaimedEvent"),
    (204, "", ""),
];
const CLAIM_EVENT_ANSWERS: &[Answer] =
    // In binary mode it is what it is.
    &[(200, "*/*", ""), (200, cloudevents::STRUCTURED, "ClaimedEvent"), (204, "", "")];
/// Of a claim that is answered with one event.
const CLAIM_ANSWER_HEADERS: &[&str] = &[
    "Linecook-Lease",
    "Linecook-Lease-Expires-At",
    "Linecook-Id",
    "Linecook-Queue",
    "Linecook-Attempt",
    "Linecook-Key",
    "Linecook-Subject",
];
const SETTLE_PROBLEMS: &[u16] = &[408, 409, 413, 415, 507];

pub(super) const LIST_QUEUES: Doc =
    doc("listQueues", "All queues that the token may see", &[(200, JSON, "Queues")], &[]);
pub(super) const QUEUE: Doc = doc("getQueue", "One queue", &[(200, JSON, "Queue")], &[404]);
pub(super) const PEEK: Doc = Doc {
    query: &["limit", "after", "state", "from", "to"],
    ..doc(
        "peek",
        "The first messages of a queue, without claiming them; with state=history, those that were acknowledged",
        &[(200, JSON, "Messages")],
        &[404],
    )
};
pub(super) const SEND: Doc = Doc {
    headers: SEND_HEADERS,
    ..post(
        "send",
        "Send a message; its body is kept as it is",
        Body::Message,
        &[(202, JSON, "Sent"), (200, JSON, "Sent")],
        SEND_PROBLEMS,
    )
};
pub(super) const PURGE: Doc = doc("purge", "Take all messages out of a queue", &[(200, JSON, "Purged")], &[404]);
pub(super) const DELETE_QUEUE: Doc = doc(
    "deleteQueue",
    "Delete a queue that queue.toml does not name any more, with its messages",
    &[(200, JSON, "Deleted")],
    &[404, 409],
);
pub(super) const SEND_BATCH: Doc =
    post("sendBatch", "Send many messages, all or none", Body::Batch, &[(202, JSON, "SentBatch")], SEND_PROBLEMS);
pub(super) const SEND_TO_SUBJECT: Doc = Doc {
    headers: SEND_HEADERS,
    ..post(
        "sendToSubject",
        "Send a message to every queue that subscribes to the subject, in one step",
        Body::Message,
        &[(202, JSON, "SentToSubject"), (200, JSON, "SentToSubject")],
        SEND_PROBLEMS,
    )
};
pub(super) const SEND_BATCH_TO_SUBJECT: Doc = post(
    "sendBatchToSubject",
    "Send many messages to every queue that subscribes to the subject, in one step",
    Body::Batch,
    &[(202, JSON, "SentBatchToSubject")],
    SEND_PROBLEMS,
);
pub(super) const CLAIM: Doc = Doc {
    answer_headers: CLAIM_ANSWER_HEADERS,
    ..post(
        "claim",
        "Lease messages of a queue that has no consumer: as JSON, as a batch of events (`Accept: \
         application/cloudevents-batch+json`), or as one event (`Accept: application/cloudevents+json`; 204 if there is none)",
        Body::Optional("Claim"),
        CLAIM_ANSWERS,
        &[404, 408, 409, 413, 415],
    )
};
pub(super) const CLAIM_EVENT: Doc = Doc {
    answer_headers: CLAIM_ANSWER_HEADERS,
    ..post(
        "claimEvent",
        "Lease one message as an event: in binary mode, so that its data is the body, with `ce-NAME` for each attribute; in \
         JSON if `Accept` names that, or if headers can't hold it",
        Body::Optional("ClaimEvent"),
        CLAIM_EVENT_ANSWERS,
        &[404, 408, 409, 413, 415],
    )
};
pub(super) const SETTLE: Doc = post(
    "settle",
    "Say what became of many claimed messages; each is settled by itself",
    Body::Required("Settlements"),
    &[(200, JSON, "Settled")],
    &[408, 413, 415],
);
pub(super) const ACK: Doc =
    post("ack", "The message is done", Body::Optional("Ack"), &[(200, JSON, "Acked")], SETTLE_PROBLEMS);
pub(super) const RETRY: Doc = post(
    "retry",
    "The attempt failed; the message comes again",
    Body::Optional("Retry"),
    &[(200, JSON, "Acked")],
    SETTLE_PROBLEMS,
);
pub(super) const EXTEND: Doc = post(
    "extend",
    "The lease lasts for so long from now",
    Body::Optional("Extend"),
    &[(200, JSON, "Extended")],
    SETTLE_PROBLEMS,
);
pub(super) const DEAD_LETTER: Doc = post(
    "deadLetter",
    "The message is given up and goes to `<queue>.dead`",
    Body::Optional("DeadLetter"),
    &[(200, JSON, "Acked")],
    SETTLE_PROBLEMS,
);
pub(super) const REDRIVE: Doc = post(
    "redrive",
    "Move dead letters back to where they came from, or elsewhere",
    Body::Optional("Redrive"),
    &[(200, JSON, "Redriven")],
    &[404, 408, 413, 415, 507],
);
pub(super) const REPLAY: Doc = post(
    "replay",
    "Send copies of acknowledged messages that the queue keeps in its history",
    Body::Optional("Replay"),
    &[(200, JSON, "Replayed")],
    &[404, 408, 413, 415, 507],
);
pub(super) const CONSUMERS: Doc =
    doc("listConsumers", "All consumers whose queues the token may see", &[(200, JSON, "Consumers")], &[]);
pub(super) const PRODUCERS: Doc =
    doc("listProducers", "All producers whose queue or subject the token may see", &[(200, JSON, "Producers")], &[]);
pub(super) const PAUSE: Doc =
    doc("pause", "The consumer takes no more messages, also after a restart", &[(200, JSON, "Paused")], &[404]);
pub(super) const RESUME: Doc = doc("resume", "The consumer takes messages again", &[(200, JSON, "Paused")], &[404]);
pub(super) const DROP_STATE: Doc = doc(
    "dropState",
    "Drop the durable state of a consumer that queue.toml does not name any more",
    &[(200, JSON, "DroppedState")],
    &[404, 409],
);
pub(super) const HEALTH: Doc = doc("health", "Whether the process should live on", &[(200, JSON, "Status")], &[]);
pub(super) const READY: Doc = doc("ready", "Whether it does its work", &[(200, JSON, "Status")], &[]);
pub(super) const METRICS: Doc =
    doc("metrics", "Counts for Prometheus", &[(200, "text/plain; version=0.0.4; charset=utf-8", "Text")], &[]);
pub(super) const OPENAPI: Doc = doc("openapi", "This document", &[(200, JSON, "Any")], &[]);

/// The document. It is the same for the life of the process.
pub(super) async fn openapi() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document(&routes()).to_string());
    ([(header::CONTENT_TYPE, JSON)], TEXT.as_str()).into_response()
}

/// The document of these routes.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Linecook",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Durable queues on disk whose consumers are sandboxed WebAssembly plugins. Errors are \
                            application/problem+json (RFC 9457). Beside the headers that are named here, a message \
                            may carry `Linecook-Attribute-NAME` and CloudEvents' `ce-NAME`, which become its attributes.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `linecook token new`; needed if queue.toml has [runtime.auth]",
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let Doc { id, summary, query, headers, body, answers, answer_headers, problems } = route.doc;
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| parameter(name, "path", true));
    let in_query = query.iter().map(|name| parameter(name, "query", false));
    let in_headers = headers.iter().map(|name| parameter(name, "header", false));
    let parameters: Vec<_> = in_path.chain(in_query).chain(in_headers).collect();

    let mut responses: Map<String, Value> = Map::new();
    for (status, media_type, schema) in *answers {
        let response = responses.entry(status.to_string()).or_insert_with(|| json!({ "description": "Done" }));
        if media_type.is_empty() {
            continue;
        }
        response["content"][media_type] = match *schema {
            "" => json!({}),
            schema => json!({ "schema": schemas::reference(schema) }),
        };
        for name in *answer_headers {
            response["headers"][name] = json!({ "schema": { "type": "string" } });
        }
    }
    let mut statuses = vec![400, 403, 431, 503];
    if route.needs != Needs::Nothing {
        statuses.push(401);
    }
    if route.method != Method::GET {
        statuses.extend([429, 500]);
    }
    statuses.extend(*problems);
    for status in statuses {
        responses.insert(status.to_string(), problem_response("Refused, and why"));
    }
    responses.insert("default".to_owned(), problem_response("Anything else that may go wrong"));

    let mut operation = json!({ "operationId": id, "summary": summary, "responses": responses });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = request_body(body) {
        operation["requestBody"] = body;
    }
    operation["security"] = match route.needs {
        Needs::Nothing => json!([]),
        // Without [runtime.auth] there are no tokens.
        _ => json!([{}, { "token": [] }]),
    };
    operation
}

fn problem_response(description: &str) -> Value {
    let content = json!({ problem::CONTENT_TYPE: { "schema": schemas::reference("Problem") } });
    json!({ "description": description, "content": content })
}

fn parameter(name: &str, place: &str, required: bool) -> Value {
    json!({ "name": name, "in": place, "required": required, "schema": schemas::parameter(name) })
}

fn request_body(body: &Body) -> Option<Value> {
    let schema = |name| json!({ "schema": schemas::reference(name) });
    let (required, content) = match body {
        Body::None => return None,
        Body::Optional(name) => (false, json!({ JSON: schema(name) })),
        Body::Required(name) => (true, json!({ JSON: schema(name) })),
        Body::Message => {
            let content = json!({
                "application/octet-stream": {},
                "text/plain": schema("Text"),
                JSON: schema("Any"),
                cloudevents::STRUCTURED: schema("CloudEvent"),
            });
            // Without a body it is a message without one.
            (false, content)
        }
        Body::Batch => {
            let content = json!({
                JSON: schema("Batch"),
                "application/x-ndjson": { "schema": { "type": "string", "description": "A message a line" } },
                cloudevents::BATCH: schema("CloudEvents"),
            });
            (true, content)
        }
    };
    Some(json!({ "required": required, "content": content }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_schema_that_is_named_is_there_and_every_id_is_unique() {
        let document = document(&routes());
        let text = document.to_string();
        let names = text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
        for name in names {
            assert!(document["components"]["schemas"].get(name).is_some(), "there is no schema {name}");
        }
        let ids: BTreeSet<_> = routes().iter().map(|route| route.doc.id).collect();
        assert_eq!(ids.len(), routes().len());
    }
}
