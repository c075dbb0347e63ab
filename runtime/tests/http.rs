//! The HTTP API over a real listener, with a broker in memory behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use linecook::broker::BrokerError;
use linecook::delivery::QueueName;
use linecook::http::limits::{self, Timeouts};
use linecook::status::ConsumerState;
use serde_json::{Value, json};

#[path = "support/fake_broker.rs"]
mod fake_broker;
#[path = "support/server.rs"]
mod server;

use server::Server;

/// An answer, read whole.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends these bytes and reads until the server closes.
    fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        read_answer(&mut stream)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        self.raw(&[request.as_bytes(), body].concat())
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn send(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask("POST", "/queues/signups/messages", headers, body)
    }

    fn batch(&self, content_type: &str, body: &str) -> Answer {
        self.ask("POST", "/queues/signups/messages/batch", &[("content-type", content_type)], body.as_bytes())
    }
}

fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer with a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    Answer { status: head[9..12].parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}\n{:?}", self.head, self.body))
    }

    #[track_caller]
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        self.json()
    }

    /// It must be a problem with this status, and its detail must have these parts.
    #[track_caller]
    fn problem(&self, status: u16, parts: &[&str]) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["type"].as_str().unwrap().starts_with("urn:linecook:problem:"));
        assert!(!problem["title"].as_str().unwrap().is_empty());
        let detail = problem["detail"].as_str().unwrap();
        for part in parts {
            assert!(detail.contains(part), "{part:?} is missing in {detail:?}");
        }
        problem
    }
}

#[test]
fn a_send_keeps_its_body_and_what_its_headers_say() {
    let server = Server::start();
    let headers = [
        ("Content-Type", "image/jpeg"),
        ("Linecook-Key", "user-é"),
        ("Linecook-Delay", "30s"),
        ("Linecook-Attribute-Tenant", "acme"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("CE-Type", "signup"),
        ("X-Other", "is not kept"),
    ];
    let id = server.send(&headers, b"\xff\x00picture").ok(202)["id"].as_str().unwrap().to_owned();
    let message = &server.broker.messages("signups")[0];
    assert_eq!(message.id.to_string(), id);
    assert_eq!(&message.body[..], b"\xff\x00picture");
    assert_eq!((message.content_type.as_deref(), message.key.as_deref()), (Some("image/jpeg"), Some("user-é")));
    let attributes: Vec<_> = message.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        attributes,
        [
            ("tenant", "acme"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("ce-type", "signup")
        ]
    );
    let peeked = server.get("/queues/signups/messages").ok(200);
    assert_eq!(
        peeked,
        json!({"messages": [{
            "id": id, "state": "delayed", "attempt": 0, "content_type": "image/jpeg", "key": "user-é",
            "attributes": {
                "tenant": "acme", "ce-type": "signup",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
            "enqueued_at": "2026-01-02T03:04:05.678Z", "due_at": "2026-01-02T03:04:35.678Z",
            "body_base64": "/wBwaWN0dXJl",
        }]})
    );
}

#[test]
fn a_duplicate_is_answered_with_the_id_of_the_first() {
    let server = Server::start();
    for (key, status) in [("order-1", 202), (fake_broker::DUPLICATE, 200)] {
        let answer = server.send(&[("Idempotency-Key", key)], b"{}");
        assert!(answer.ok(status)["id"].as_str().is_some_and(|id| id.len() == 26));
    }
    let lines = r#"{"body":1,"idempotency_key":"seen before"}"#;
    assert_eq!(server.batch("application/x-ndjson", lines).ok(202)["ids"].as_array().unwrap().len(), 1);
    let headers = [("content-type", "application/x-ndjson"), ("Idempotency-Key", "1")];
    let refused = server.ask("POST", "/queues/signups/messages/batch", &headers, lines.as_bytes());
    refused.problem(400, &["idempotency-key", "in each message"]);
}

#[test]
fn bodies_may_be_empty_or_of_1_mib_and_no_larger() {
    let server = Server::start();
    server.send(&[], b"").ok(202);
    server.send(&[], &vec![b'x'; limits::BODY_BYTES_MAX]).ok(202);
    let lengths: Vec<_> = server.broker.messages("signups").iter().map(|message| message.body.len()).collect();
    assert_eq!(lengths, [0, 1 << 20]);

    let large = vec![b'x'; limits::BODY_BYTES_MAX + 1];
    server.send(&[], &large).problem(413, &["1MiB", "send less"]);
    let mut chunked = b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        transfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in large.chunks(60_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    server.raw(&chunked).problem(413, &["1MiB"]);
    // Who asks first is answered before anything is sent.
    server
        .raw(
            b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
              expect: 100-continue\r\ncontent-length: 1048577\r\n\r\n",
        )
        .problem(413, &["1MiB"]);
    assert_eq!(server.broker.messages("signups").len(), 2);
}

#[test]
fn bad_headers_are_refused_with_what_to_do() {
    let server = Server::start();
    let long = |bytes: usize| "x".repeat(bytes);
    let many: Vec<_> = (0..65).map(|n| format!("linecook-attribute-a{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
    let long_name = format!("linecook-attribute-{}", long(257));
    for (headers, parts) in [
        (&[("linecook-delay", "30")][..], &["Linecook-Delay", "no unit", "30s"][..]),
        (&[("linecook-delay", "366d")], &["365d"]),
        (&[("linecook-key", &long(513))], &["Linecook-Key", "513", "512"]),
        (&[("linecook-key", "")], &["Linecook-Key is empty"]),
        (&[("linecook-key", "a"), ("linecook-key", "b")], &["linecook-key", "twice"]),
        (&[("linecook-dealy", "30s")], &["linecook-dealy", "did you mean linecook-delay?"]),
        (&[("linecook-attribute-", "v")], &["attribute name", "empty"]),
        (&[("linecook-attribute-linecook-reason", "v")], &["linecook-reason", "Linecook's own"]),
        (&[("linecook-attribute-a", &long(8193))], &["8193", "8192"]),
        (&[(&long_name, "v")], &["257", "256"]),
        (&[("traceparent", "a"), ("linecook-attribute-traceparent", "b")], &["traceparent", "twice"]),
        (&[("content-type", &long(257))], &["Content-Type", "256"]),
        (&many, &["more than 64 attributes"]),
    ] {
        server.send(headers, b"{}").problem(400, parts);
    }
    let not_text = b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        linecook-key: \xff\r\ncontent-length: 0\r\n\r\n";
    server.raw(not_text).problem(400, &["linecook-key is not UTF-8"]);
    server.send(&[("Idempotency-Key", "")], b"").problem(400, &["Idempotency-Key is empty"]);
    server.send(&[("Idempotency-Key", &long(513))], b"").problem(400, &["Idempotency-Key", "513", "512"]);
    assert!(server.broker.messages("signups").is_empty());
}

#[test]
fn requests_with_too_many_or_too_large_headers_are_refused() {
    let server = Server::start();
    let names: Vec<_> = (0..101).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    // Each has three more.
    server.send(&many[..93], b"").ok(202);
    server.send(&many[..94], b"").problem(431, &["97 headers", "96 headers"]);
    server.send(&many[..97], b"").problem(431, &["100 headers", "96 headers"]);
    assert_eq!(server.send(&many, b"").status, 431);
    server.send(&[("x-large", &"x".repeat(33 << 10))], b"").problem(431, &["32768 bytes"]);
    assert_eq!(server.send(&[("x-huge", &"x".repeat(60 << 10))], b"").status, 431);
    // Far beyond, the connection does not read on; so this one only gets as far as the bare answer.
    let mut stream = server.connect();
    _ = stream.write_all(format!("GET /queues HTTP/1.1\r\nhost: x\r\nx-huge: {}", "x".repeat(200 << 10)).as_bytes());
    let mut first = [0; 12];
    if stream.read_exact(&mut first).is_ok() {
        assert_eq!(&first, b"HTTP/1.1 431");
    }
}

#[test]
fn unknown_and_invalid_queues_are_told_apart() {
    let server = Server::start();
    let problem = server.ask("POST", "/queues/signup/messages", &[], b"x").problem(404, &["did you mean signups?"]);
    assert_eq!(problem["did_you_mean"], "signups");
    server.get("/queues/nothing-like-it").problem(404, &["nothing-like-it", "queue.toml"]);
    server.get("/queues/imagse/messages").problem(404, &["images"]);
    server.ask("POST", "/queues/x.dead/redrive", &[], b"").problem(404, &["x.dead"]);
    for bad in ["a%20b", "-a", "a..b", "%2e", &"x".repeat(129)] {
        server.get(&format!("/queues/{bad}")).problem(400, &["is not a queue name"]);
        server.ask("POST", &format!("/queues/{bad}/messages"), &[], b"").problem(400, &["is not a queue name"]);
    }
    server.get("/queues/%ff%fe").problem(400, &["not UTF-8"]);
}

#[test]
fn routes_and_methods_that_do_not_exist_are_problems_too() {
    let server = Server::start();
    server.get("/nowhere").problem(404, &["/nowhere", "/queues"]);
    for (method, path, allowed) in [
        ("PUT", "/queues/signups/messages", &["get", "post"][..]),
        ("GET", "/queues/signups/messages/batch", &["post"]),
        ("DELETE", "/queues", &["get"]),
        ("GET", "/queues/signups/redrive", &["post"]),
    ] {
        let answer = server.ask(method, path, &[], b"");
        answer.problem(405, &[method, path]);
        let allow = answer.head.lines().find_map(|line| line.strip_prefix("allow: ")).expect("an Allow header");
        assert!(allowed.iter().all(|method| allow.contains(method)), "{allow}");
    }
}

#[test]
fn a_batch_is_lines_or_an_array() {
    let server = Server::start();
    let lines = "{\"body\":\"text \\u00e9\",\"key\":\"k\",\"delay\":\"1m\",\"attributes\":{\"b\":\"1\",\"a\":\"2\"}}\n\n\
        {\"body\":{\"n\": 1}}\r\n{\"body_base64\":\"/wA=\",\"content_type\":\"image/png\"}\n{\"body\":null}";
    let ids = server.batch("application/x-ndjson; charset=utf-8", lines).ok(202)["ids"].as_array().unwrap().clone();
    let messages = server.broker.messages("signups");
    assert_eq!(ids, messages.iter().map(|message| message.id.to_string()).collect::<Vec<_>>());
    let seen: Vec<_> = messages.iter().map(|message| (&message.body[..], message.content_type.as_deref())).collect();
    assert_eq!(
        seen,
        [
            ("text é".as_bytes(), None),
            (b"{\"n\": 1}", Some("application/json")),
            (b"\xff\x00", Some("image/png")),
            (b"null", Some("application/json")),
        ]
    );
    assert_eq!(messages[0].key.as_deref(), Some("k"));
    let attributes: Vec<_> = messages[0].attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(attributes, [("b", "1"), ("a", "2")]);

    let array = r#"[{"body":"a"},{"body":[1,2],"content_type":"text/x-list"}]"#;
    for content_type in ["application/json", "application/x-www-form-urlencoded"] {
        assert_eq!(server.batch(content_type, array).ok(202)["ids"].as_array().unwrap().len(), 2);
    }
    let last = server.broker.messages("signups").pop().unwrap();
    assert_eq!((&last.body[..], last.content_type.as_deref()), (&b"[1,2]"[..], Some("text/x-list")));
    assert_eq!(server.broker.batches(), 3, "a batch is one publish");
}

#[test]
fn a_bad_batch_names_the_message_and_stores_nothing() {
    let server = Server::start();
    let good = r#"{"body":"x"}"#;
    let large = format!(r#"{{"body":"{}"}}"#, "x".repeat((1 << 20) + 1));
    for (bad, status, parts) in [
        (r#"{"body":}"#, 400, &["expected value"][..]),
        ("{}", 400, &["no body"]),
        ("7", 400, &["a message is"]),
        (r#"{"body":"x","body_base64":"eA=="}"#, 400, &["both"]),
        (r#"{"body_base64":"?"}"#, 400, &["not base64"]),
        (r#"{"body":"x","dealy":"1s"}"#, 400, &["dealy"]),
        (r#"{"body":"x","delay":"1"}"#, 400, &["no unit"]),
        (r#"{"body":"x","delay":1}"#, 400, &["expected a string (column 21)"]),
        (r#"{"body":"x","key":""}"#, 400, &["key is empty"]),
        (r#"{"body":"x","attributes":{"a":"1","a":"2"}}"#, 400, &["twice"]),
        (r#"{"body":"x","attributes":{"LineCook-x":"1"}}"#, 400, &["Linecook's own"]),
        (r#"{"body":"x","attributes":{"a":1}}"#, 400, &["expected a string"]),
        (r#"{"body":"x","content_type":"\n"}"#, 400, &["content_type"]),
        (r#"{"body":"x","idempotency_key":""}"#, 400, &["idempotency_key is empty"]),
        (&large, 413, &["1048577", "1048576"]),
    ] {
        let array = format!("[{good},{bad},{good}]");
        let problem = server.batch("application/json", &array).problem(status, &[&["message 1: "], parts].concat());
        assert_eq!(problem["index"], 1);
        let lines = format!("{good}\n\n{bad}\n{good}\n");
        let problem =
            server.batch("application/x-ndjson", &lines).problem(status, &[&["line 3 (message 1): "], parts].concat());
        assert_eq!((&problem["index"], &problem["line"]), (&json!(1), &json!(3)));
    }
    for (content_type, body, parts) in [
        ("application/json", "", &["not a JSON array"][..]),
        ("application/json", "{\"body\":\"x\"}", &["not a JSON array"]),
        ("application/json", "[]", &["empty"]),
        ("application/x-ndjson", "\n\n", &["empty"]),
        ("application/json", "[{\"body\":1}", &["EOF"]),
        ("application/json", "[{\"body\":1}] x", &["trailing"]),
    ] {
        server.batch(content_type, body).problem(400, parts);
    }
    assert!(server.broker.messages("signups").is_empty());
}

#[test]
fn a_batch_has_limits() {
    let server = Server::start();
    let full = format!("[{}]", vec![r#"{"body":1}"#; limits::BATCH_MESSAGES_MAX].join(","));
    server.batch("application/json", &full).ok(202);
    let over = format!("[{}]", vec![r#"{"body":1}"#; limits::BATCH_MESSAGES_MAX + 1].join(","));
    server.batch("application/json", &over).problem(413, &["10000"]);
    let over = "{\"body\":1}\n".repeat(limits::BATCH_MESSAGES_MAX + 1);
    server.batch("application/x-ndjson", &over).problem(413, &["10000"]);
    server.batch("application/json", &" ".repeat((8 << 20) + 1)).problem(413, &["8MiB"]);
    assert_eq!(server.broker.messages("signups").len(), limits::BATCH_MESSAGES_MAX);
}

#[test]
fn queues_and_consumers_are_shown() {
    let server = Server::start();
    server.board.update("welcome", "signups", |status| status.state = ConsumerState::Running);
    server.send(&[], b"four").ok(202);
    server.send(&[("linecook-delay", "1h")], b"five5").ok(202);
    let one = server.get("/queues/signups").ok(200);
    assert!(one["oldest_age_ms"].is_u64());
    let mut fixed = one.clone();
    fixed["oldest_age_ms"] = 0.into();
    assert_eq!(
        fixed,
        json!({"name": "signups", "declared": true, "ready": 1, "delayed": 1, "leased": 0, "bytes": 9, "oldest_age_ms": 0,
            "history": 0, "history_bytes": 0, "history_given_up": 0, "consumer": "welcome"})
    );
    let all = server.get("/queues").ok(200);
    let names: Vec<_> = all["queues"].as_array().unwrap().iter().map(|queue| &queue["name"]).collect();
    assert_eq!(names, ["images", "signups", "signups.dead"]);
    assert_eq!((&all["queues"][0]["oldest_age_ms"], &all["queues"][0]["consumer"]), (&Value::Null, &Value::Null));
    let consumers = server.get("/consumers").ok(200);
    assert_eq!(
        (&consumers["consumers"][0]["name"], &consumers["consumers"][0]["state"]),
        (&"welcome".into(), &"running".into())
    );
}

#[test]
fn a_peek_is_bounded() {
    let server = Server::start();
    for n in 0..12 {
        server.send(&[], format!("m{n}").as_bytes()).ok(202);
    }
    let count = |path: &str| server.get(path).ok(200)["messages"].as_array().unwrap().len();
    assert_eq!(count("/queues/signups/messages"), 10);
    assert_eq!(count("/queues/signups/messages?limit=1000"), 12);
    let first = server.get("/queues/signups/messages?limit=1").ok(200);
    assert_eq!((&first["messages"][0]["body"], first.get("truncated")), (&"m0".into(), None));
    for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limt=5"] {
        server.get(&format!("/queues/signups/messages?{bad}")).problem(400, &["?limit=N"]);
    }
    for _ in 0..18 {
        server.ask("POST", "/queues/images/messages", &[], &vec![b'x'; 1 << 20]).ok(202);
    }
    let large = server.get("/queues/images/messages?limit=100").ok(200);
    assert_eq!((large["messages"].as_array().unwrap().len(), &large["truncated"]), (16, &true.into()));
}

#[test]
fn a_redrive_counts_what_it_moves() {
    let server = Server::start();
    let redrive = |body: &str| server.ask("POST", "/queues/signups.dead/redrive", &[], body.as_bytes());
    for n in 0..3 {
        server.ask("POST", "/queues/signups.dead/messages", &[], format!("{n}").as_bytes()).ok(202);
    }
    assert_eq!(redrive("").ok(200), json!({"moved": 0, "skipped": 3}));
    assert_eq!(redrive(r#"{"to":"signups","dry_run":true}"#).ok(200), json!({"moved": 3, "skipped": 0}));
    assert_eq!(redrive(r#"{"to":"signups","limit":2}"#).ok(200), json!({"moved": 2, "skipped": 0}));
    assert_eq!(server.broker.messages("signups").len(), 2);
    redrive(r#"{"to":"signpus"}"#).problem(404, &["did you mean signups?"]);
    redrive(r#"{"to":"a b"}"#).problem(400, &["\"to\"", "is not a queue name"]);
    redrive(r#"{"to":"signups.dead"}"#).problem(400, &["already"]);
    redrive(r#"{"limit":0}"#).problem(400, &["\"limit\" is 0"]);
    redrive(r#"{"limti":1}"#).problem(400, &["limti"]);
    redrive("[").problem(400, &["dry_run"]);
    redrive(&" ".repeat(17 << 10)).problem(413, &["16KiB"]);
}

#[test]
fn a_purge_counts_what_it_takes_away() {
    let server = Server::start();
    server.send(&[], b"1");
    server.send(&[], b"2");
    let purge = |queue: &str| server.ask("DELETE", &format!("/queues/{queue}/messages"), &[], b"");
    assert_eq!(purge("signups").ok(200), json!({ "purged": 2 }));
    assert_eq!(purge("signups").ok(200), json!({ "purged": 0 }));
    purge("signup").problem(404, &["did you mean signups"]);
}

#[test]
fn what_the_engine_refuses_has_its_status() {
    let server = Server::start();
    let queue = || QueueName::new("signups").unwrap();
    for (error, status, parts) in [
        (BrokerError::QueueFull { queue: queue(), bytes_max: 99 }, 507, &["signups is full", "99", "max_bytes"][..]),
        (BrokerError::StoreFull("the log is full".into()), 507, &["the log is full", "later"]),
        (BrokerError::TooLarge { bytes: 9, bytes_max: 8 }, 413, &["9", "8"]),
        (BrokerError::LeaseLost, 409, &["lease"]),
        (BrokerError::Stopped("no disk".into()), 503, &["stopped", "no disk"]),
        (BrokerError::Read("bad sector".into()), 500, &["bad sector"]),
    ] {
        server.broker.refuse(Some(error));
        server.send(&[], b"x").problem(status, parts);
        server.batch("application/json", r#"[{"body":1}]"#).problem(status, parts);
    }
}

#[test]
fn health_is_of_the_engine_and_readiness_of_the_consumers() {
    let server = Server::start();
    assert_eq!(server.get("/healthz").ok(200), json!({"status": "ok"}));
    server.board.update("welcome", "signups", |_| ());
    server.board.update("broken", "images", |status| status.state = ConsumerState::Failed);
    server.get("/healthz").ok(200);
    let problem = server.get("/readyz").problem(503, &["still loading: welcome;"]);
    assert_eq!(problem["consumers"], json!(["welcome"]));
    server.board.update("welcome", "signups", |status| status.state = ConsumerState::Running);
    assert_eq!(server.get("/readyz").ok(200), json!({"status": "ready"}));
    server.board.update("added", "images", |_| ());
    assert_eq!(server.get("/readyz").ok(200), json!({"status": "ready"}), "it was ready before");
    server.board.update("welcome", "signups", |status| status.state = ConsumerState::Draining);
    server.get("/readyz").problem(503, &["stopping"]);
    server.broker.stop("fsync failed");
    server.get("/healthz").problem(503, &["fsync failed"]);
    server.get("/readyz").problem(503, &["fsync failed"]);
}

#[test]
fn slow_clients_are_not_waited_for() {
    let timeouts =
        Timeouts { headers: Duration::from_millis(200), body: Duration::from_millis(200), ..Timeouts::default() };
    let server = Server::with(timeouts);
    // Neither one that never ends its headers, nor one that never starts.
    for start in [&b"GET /queues HTTP/1.1\r\nx-slow"[..], b""] {
        let mut stream = server.connect();
        stream.write_all(start).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    let half =
        b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhalf";
    server.raw(half).problem(408, &["did not arrive"]);
    assert!(server.broker.messages("signups").is_empty());
}

#[test]
fn a_body_that_breaks_off_is_not_a_message() {
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    _ = stream.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 2"));
    assert!(server.broker.messages("signups").is_empty());
}

/// Takes away what a publish needs, starts a send, and returns once the broker has it.
fn pending_send(server: &Server) -> TcpStream {
    let permits = server.broker.permits.available_permits();
    assert_eq!(server.broker.permits.forget_permits(permits), permits);
    let mut stream = server.connect();
    stream.write_all(b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.broker.publishing.available_permits() == 0 {
        assert!(Instant::now() < deadline, "the send did not reach the broker");
        std::thread::sleep(Duration::from_millis(5));
    }
    stream
}

#[test]
fn a_send_is_answered_only_when_it_is_durable_and_a_stop_waits_for_it() {
    let mut server = Server::start();
    // A connection that is open and idle does not hold the stop up.
    let mut idle = server.connect();
    let mut stream = pending_send(&server);
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "answered before it was durable");
    server.stop();
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(server.address).is_ok() {
        assert!(Instant::now() < deadline, "it accepts connections still");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.broker.permits.add_permits(1);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let answer = read_answer(&mut stream);
    answer.ok(202);
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
    server.wait();
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut server = Server::with(Timeouts { shutdown: Duration::from_millis(100), ..Timeouts::default() });
    let mut stream = pending_send(&server);
    server.stop();
    server.wait();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    assert!(server.broker.messages("signups").is_empty());
}

#[test]
fn a_client_that_has_shut_its_sending_side_still_gets_its_answer() {
    let server = Server::start();
    // Many, because the answer often wins the race against the end of the stream.
    for _ in 0..50 {
        let mut stream = server.connect();
        stream.write_all(b"POST /queues/signups/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        read_answer(&mut stream).ok(202);
    }
    assert_eq!(server.broker.messages("signups").len(), 50);
}

#[test]
fn what_would_silently_be_lost_is_refused() {
    let server = Server::start();
    server.send(&[("Content-Encoding", "gzip")], b"x").problem(415, &["Content-Encoding", "without it"]);
    let batch = |header| server.ask("POST", "/queues/signups/messages/batch", &[header], b"[{\"body\":1}]");
    for name in ["linecook-key", "linecook-delay", "linecook-attribute-tenant"] {
        batch((name, "1s")).problem(400, &[name, "in each message"]);
    }
    assert!(server.broker.messages("signups").is_empty());
    server.send(&[("Content-Encoding", "identity")], b"x").ok(202);
}
