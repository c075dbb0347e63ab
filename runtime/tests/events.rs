//! CloudEvents 1.0, in and out, through the real binary.

use serde_json::{Value, json};

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::Site;

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

/// [`event`]`("1")` in binary mode, without its data: as it is sent, and as it comes out again.
const BINARY: [(&str, &str); 8] = [
    ("content-type", "application/json"),
    ("ce-specversion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "/shop"),
    ("ce-type", "order.placed"),
    ("ce-subject", "42"),
    ("ce-count", "7"),
    ("ce-traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "subject": "42",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "count": 7,
        "data": { "total": 9 },
    })
}

#[test]
fn an_event_is_the_same_message_in_every_mode() {
    let site = Site::new("[queues.jobs]\nsubscribe = [\"shop.*\"]");
    let _runtime = site.start();
    let path = "/queues/jobs/messages";
    let first = site.request("POST", path, &BINARY, b"{\"total\":9}").unwrap();
    assert_eq!(first.status, 202, "{}", first.body);
    // The id and the source name an event, so it is not taken twice, whichever way it comes.
    let again = site.request("POST", path, &[STRUCTURED], event("1").to_string().as_bytes()).unwrap();
    assert_eq!((again.status, &again.body), (200, &first.body));
    let batch = json!([event("1"), event("2")]).to_string();
    let many = site.request("POST", path, &[BATCH], batch.as_bytes()).unwrap();
    assert_eq!((many.status, &many.body["ids"][0], &many.body["duplicates"]), (202, &first.body["id"], &json!(1)));
    let many = site.request("POST", "/queues/jobs/messages/batch", &[BATCH], batch.as_bytes()).unwrap();
    assert_eq!((many.status, &many.body["duplicates"]), (202, &json!(2)));
    let mine = [STRUCTURED, ("idempotency-key", "mine"), ("linecook-key", "k"), ("linecook-delay", "1h")];
    let given = site.request("POST", "/subjects/shop.new/messages", &mine, event("1").to_string().as_bytes()).unwrap();
    assert_eq!(given.status, 202, "{}", given.body);

    let messages = site.messages("jobs");
    assert_eq!(messages.len(), 3);
    let (one, two) = (&messages[0], &messages[1]);
    assert_eq!((&one["body"], &one["content_type"]), (&two["body"], &two["content_type"]));
    let mut wanted = one["attributes"].clone();
    wanted["ce-id"] = "2".into();
    // Headers know no types.
    wanted["cloudevents-types"] = "count=integer".into();
    assert_eq!(two["attributes"], wanted);
    assert_eq!((&messages[2]["state"], &messages[2]["key"]), (&json!("delayed"), &json!("k")));
    assert_eq!(messages[2]["attributes"]["linecook-subject"], "shop.new");
}

#[test]
fn a_client_gets_events_if_it_wants_them() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    let sent = event("1");
    assert_eq!(
        site.request("POST", "/queues/jobs/messages", &[STRUCTURED], sent.to_string().as_bytes()).unwrap().status,
        202
    );
    let plain = site.send("jobs", "plain");
    let accept = [("accept", "application/json, application/cloudevents-batch+json;q=0.9")];
    let answer = site.request("POST", "/queues/jobs/claim", &accept, b"{\"max\":10}").unwrap();
    let events = answer.body.as_array().unwrap();
    for (name, value) in sent.as_object().unwrap() {
        assert_eq!(events[0][name], *value, "{name}");
    }
    assert_eq!((&events[1]["type"], &events[1]["id"]), (&json!("linecook.message"), &json!(plain)));
    assert_eq!((&events[1]["source"], &events[1]["linecookattempt"]), (&json!("/queues/jobs"), &json!(1)));
    for event in events {
        let lease = event["linecooklease"].as_str().unwrap();
        assert_eq!(site.post(&format!("/deliveries/{lease}/ack"), "").status, 200);
    }
    assert_eq!(site.count("jobs"), 0);
}

#[test]
fn a_client_gets_one_event_in_either_mode() {
    let site = Site::new("[queues.jobs]\nsubscribe = [\"shop.*\"]");
    let _runtime = site.start();
    let claim = |path: &str, accept: &str, wanted: &str| {
        site.request("POST", &format!("/queues/jobs/{path}"), &[("accept", accept)], wanted.as_bytes()).unwrap()
    };
    let structured = "application/cloudevents+json";
    for (path, accept) in [("claim", structured), ("claim/event", structured), ("claim/event", "*/*")] {
        let nothing = claim(path, accept, "");
        assert_eq!((nothing.status, &nothing.body), (204, &Value::Null));
    }
    for id in ["1", "2", "3"] {
        let sent = event(id).to_string();
        let path = "/subjects/shop.new/messages";
        assert_eq!(
            site.request("POST", path, &[STRUCTURED, ("linecook-key", id)], sent.as_bytes()).unwrap().status,
            202
        );
    }
    let first = claim("claim/event", "*/*", "{\"lease\":\"60s\"}");
    assert_eq!((first.status, &first.body), (200, &json!({ "total": 9 })));
    let ours = [
        ("linecook-attempt", "1"),
        ("linecook-queue", "jobs"),
        ("linecook-key", "1"),
        ("linecook-subject", "shop.new"),
    ];
    for (name, value) in BINARY.into_iter().chain(ours) {
        assert_eq!(first.header(name), Some(value), "{name}");
    }
    // One, whatever `max` says.
    let second = claim("claim", structured, "{\"max\":10}");
    assert_eq!(second.header("content-type"), Some("application/cloudevents+json"));
    assert_eq!((&second.body["id"], &second.body["count"]), (&json!("2"), &json!(7)));
    assert_eq!(second.body["linecooklease"].as_str(), second.header("linecook-lease"));
    assert_eq!(site.get("/queues/jobs")["leased"], 2);
    let third = claim("claim/event", structured, "{\"wait\":\"20s\"}");
    assert_eq!((third.header("content-type"), &third.body["id"]), (Some(structured), &json!("3")));
    for answer in [first, second, third] {
        let lease = answer.header("linecook-lease").unwrap();
        assert_eq!(site.post(&format!("/deliveries/{lease}/ack"), "").status, 200);
    }
    assert_eq!(claim("claim/event", "*/*", "{\"max\":1}").status, 400);
    assert_eq!(site.count("jobs"), 0);
}

#[test]
fn a_batch_of_events_may_be_empty() {
    let site = Site::new("[queues.jobs]\nsubscribe = [\"shop.*\"]");
    let _runtime = site.start();
    for path in ["/queues/jobs/messages", "/queues/jobs/messages/batch"] {
        let answer = site.request("POST", path, &[BATCH], b"[]").unwrap();
        assert_eq!((answer.status, answer.body), (202, json!({ "ids": [], "duplicates": 0 })), "{path}");
    }
    for path in ["/subjects/shop.new/messages", "/subjects/shop.new/messages/batch"] {
        let answer = site.request("POST", path, &[BATCH], b"[]").unwrap();
        assert_eq!((answer.status, answer.body), (202, json!({ "ids": [], "duplicates": 0, "copies": [] })), "{path}");
    }
    for path in ["/queues/none/messages", "/subjects/none/messages"] {
        assert_eq!(site.request("POST", path, &[BATCH], b"[]").unwrap().status, 404, "{path}");
    }
    assert_eq!(site.count("jobs"), 0);
}

#[test]
fn types_of_extensions_outlive_a_dead_letter_and_a_redrive() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    site.request("POST", "/queues/jobs/messages", &[STRUCTURED], event("1").to_string().as_bytes()).unwrap();
    let claim = || {
        let accept = [("accept", "application/cloudevents+json")];
        site.request("POST", "/queues/jobs/claim", &accept, b"{}").unwrap()
    };
    let lease = claim().header("linecook-lease").unwrap().to_owned();
    assert_eq!(site.post(&format!("/deliveries/{lease}/dead-letter"), "").status, 200);
    assert_eq!(site.post("/queues/jobs.dead/redrive", "").body["moved"], 1);
    assert_eq!(claim().body["count"], 7);
}

#[test]
fn what_is_no_event_is_refused() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    let refused = |headers: &[(&str, &str)], body: &str, says: &str| {
        let answer = site.request("POST", "/queues/jobs/messages", headers, body.as_bytes()).unwrap();
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        assert!(answer.status == 400 && detail.contains(says), "{} {}", answer.status, answer.body);
    };
    let mut without_id = event("1");
    without_id.as_object_mut().unwrap().remove("id");
    refused(&[STRUCTURED], &without_id.to_string(), "no \"id\"");
    refused(&[BATCH], &json!([event("1"), without_id]).to_string(), "event 1: the event has no \"id\"");
    refused(&[STRUCTURED], "not json", "no JSON object");
    let mut other = event("1");
    other["specversion"] = "0.3".into();
    refused(&[STRUCTURED], &other.to_string(), "\"1.0\"");
    refused(&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")], "x", "no \"type\"");
    let named = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-a-b", "x")];
    refused(&named, "x", "lower-case letters and digits");
    let encoded = |value| [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", value)];
    refused(&encoded("%C0%A0"), "x", "not of UTF-8");
    let twice = [&encoded("t")[..], &[("ce-datacontenttype", "text/plain")]].concat();
    refused(&twice, "x", "Content-Type says it");
    let xml = [("content-type", "application/cloudevents+xml")];
    assert_eq!(site.request("POST", "/queues/jobs/messages", &xml, b"<x/>").unwrap().status, 415);
    assert_eq!(site.count("jobs"), 0);
}
