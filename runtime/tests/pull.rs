//! Clients that work a queue off over HTTP: claimed under a lease, settled with it, once.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared with benchmarks")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{LONG, Site};

#[track_caller]
fn claim(site: &Site, queue: &str, wanted: Value) -> Vec<Value> {
    let mut answer = site.post(&format!("/queues/{queue}/claim"), wanted.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let Value::Array(messages) = answer.body["messages"].take() else { panic!("no messages in {}", answer.body) };
    messages
}

fn settle(site: &Site, message: &Value, how: &str, body: &str) -> (u16, Value) {
    let lease = message["lease"].as_str().unwrap();
    let answer = site.post(&format!("/deliveries/{lease}/{how}"), body);
    (answer.status, answer.body)
}

#[test]
fn a_message_is_claimed_and_settled_once() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    assert!(claim(&site, "jobs", json!({})).is_empty());
    let headers = [("linecook-key", "k"), ("linecook-attribute-tenant", "acme"), ("content-type", "a/b")];
    let sent = site.request("POST", "/queues/jobs/messages", &headers, b"\xff").unwrap().body["id"].clone();
    let message = claim(&site, "jobs", json!({ "max": 5, "lease": "60s" })).remove(0);
    assert_eq!((&message["id"], &message["attempt"], &message["key"]), (&sent, &json!(1), &json!("k")));
    assert_eq!((&message["content_type"], &message["body_base64"]), (&json!("a/b"), &json!("/w==")));
    assert_eq!(message["attributes"], json!({ "tenant": "acme" }));
    assert!(claim(&site, "jobs", json!({})).is_empty());

    // A retry is the next attempt, under another lease.
    assert_eq!(settle(&site, &message, "retry", "{\"delay\":\"0s\"}").0, 200);
    let second = claim(&site, "jobs", json!({ "wait": "20s" })).remove(0);
    assert_eq!((&second["attempt"], &second["id"]), (&json!(2), &sent));
    let stale = settle(&site, &message, "ack", "");
    assert_eq!((stale.0, &stale.1["type"]), (409, &json!("urn:linecook:problem:lease-lost")), "{}", stale.1);
    assert_eq!(settle(&site, &second, "extend", "{\"lease\":\"90s\"}").0, 200);
    assert_eq!(settle(&site, &second, "ack", "{}"), (200, json!({ "id": sent })));
    for how in ["ack", "retry", "extend", "dead-letter"] {
        assert_eq!(settle(&site, &second, how, "").0, 409, "{how}");
        assert_eq!(site.post(&format!("/deliveries/nothing/{how}"), "").status, 400, "{how}");
    }
    assert_eq!(site.count("jobs"), 0);
}

#[test]
fn an_expired_lease_is_lost() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    site.send("jobs", "x");
    let first = claim(&site, "jobs", json!({ "lease": "1s" })).remove(0);
    let second = claim(&site, "jobs", json!({ "wait": "60s", "lease": "60s" })).remove(0);
    assert_eq!((&first["id"], &second["attempt"]), (&second["id"], &json!(2)));
    for how in ["extend", "ack"] {
        assert_eq!(settle(&site, &first, how, "").0, 409, "{how}");
    }
    assert_eq!(settle(&site, &second, "ack", "").0, 200);
}

#[test]
fn what_a_client_gives_up_is_a_dead_letter_that_outlives_a_restart() {
    let site = Site::new("[queues.jobs]");
    let runtime = site.start();
    let id = site.send("jobs", "x");
    let message = claim(&site, "jobs", json!({})).remove(0);
    assert_eq!(settle(&site, &message, "dead-letter", "{\"reason\":\"no such customer\"}").0, 200);
    let dead = site.messages("jobs.dead").remove(0);
    let facts = &dead["attributes"];
    assert_eq!((&dead["id"], &facts["linecook-source-queue"]), (&json!(id), &json!("jobs")));
    assert_eq!((&facts["linecook-reason"], &facts["linecook-attempts"]), (&json!("no such customer"), &json!("1")));
    runtime.kill();
    let _runtime = site.start();
    assert_eq!(claim(&site, "jobs.dead", json!({}))[0]["id"], id);
    // It can go back from there once that lease is over; what is ready goes at once.
    site.send("jobs.dead", "no source");
    assert_eq!(site.post("/queues/jobs.dead/redrive", "{\"to\":\"jobs\"}").body["moved"], 1);
}

#[test]
fn many_are_settled_at_once_each_by_itself() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    for n in 0..50 {
        site.send("jobs", n);
    }
    let messages = claim(&site, "jobs", json!({ "max": 40 }));
    assert_eq!(messages.len(), 40);
    assert_eq!(settle(&site, &messages[0], "ack", "").0, 200);
    let mut answers: Vec<_> = messages.iter().map(|one| json!({ "lease": one["lease"], "outcome": "ack" })).collect();
    answers[1] = json!({ "lease": messages[1]["lease"], "outcome": "retry", "delay": "1h" });
    answers[2] = json!({ "lease": messages[2]["lease"], "outcome": "dead-letter", "reason": "bad" });
    let mut wrong = answers.clone();
    wrong[39]["delay"] = "1s".into();
    let refused = site.post("/deliveries", json!(wrong).to_string());
    assert_eq!((refused.status, &refused.body["index"]), (400, &json!(39)), "{}", refused.body);

    let settled = site.post("/deliveries", json!(answers).to_string());
    let statuses: Vec<_> = settled.body["results"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses[0], 409);
    assert!(statuses[1..].iter().all(|status| **status == 200), "{}", settled.body);
    let queue = site.get("/queues/jobs");
    assert_eq!((&queue["ready"], &queue["delayed"], &queue["leased"]), (&json!(10), &json!(1), &json!(0)));
    assert_eq!(site.count("jobs.dead"), 1);
    for wrong in ["", "[]", "{}", "[[]]", "[{\"lease\":\"x\",\"outcome\":\"ack\"}]", "[{\"outcome\":\"ack\"}]"] {
        assert_eq!(site.post("/deliveries", wrong).status, 400, "{wrong}");
    }
}

#[test]
fn a_long_poll_gets_what_comes_and_those_who_have_gone_get_nothing() {
    let site = Site::new("[queues.jobs]");
    let runtime = site.start();
    let gone = {
        let mut stream = TcpStream::connect(site.address()).unwrap();
        let body = "{\"wait\":\"60s\",\"lease\":\"1h\"}";
        let length = body.len();
        write!(stream, "POST /queues/jobs/claim HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        // The request is there before its sender goes: the runtime answers others meanwhile.
        thread::sleep(Duration::from_millis(300));
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    };
    thread::sleep(Duration::from_millis(300));
    let id = thread::scope(|scope| {
        let waiting = scope.spawn(|| claim(&site, "jobs", json!({ "wait": "60s" })));
        thread::sleep(Duration::from_millis(200));
        let id = site.send("jobs", "x");
        assert_eq!(waiting.join().unwrap()[0]["id"], id);
        id
    });
    drop(gone);
    assert!(!id.is_empty());
    // Those who wait don't hold up the end.
    let started = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| site.post("/queues/jobs/claim", "{\"wait\":\"60s\"}"));
        thread::sleep(Duration::from_millis(300));
        runtime.stop();
        assert_eq!(waiting.join().unwrap().body, json!({ "messages": [] }));
    });
    assert!(started.elapsed() < LONG);
}

#[test]
fn wrong_claims_are_refused() {
    let component = guests::component("behave");
    let site = Site::new(&format!(
        "[queues.jobs]\n[queues.pull]\n[consumers.cook]\nqueue = \"jobs\"\ncomponent = {component:?}"
    ));
    let _runtime = site.start();
    let taken = site.post("/queues/jobs/claim", "");
    assert_eq!((taken.status, &taken.body["consumer"]), (409, &json!("cook")), "{}", taken.body);
    assert_eq!(site.post("/queues/pul/claim", "").status, 404);
    for wrong in [
        "{\"max\":0}",
        "{\"max\":101}",
        "{\"max\":\"1\"}",
        "{\"lease\":\"1ms\"}",
        "{\"lease\":\"13h\"}",
        "{\"lease\":30}",
        "{\"wait\":\"2m\"}",
        "{\"count\":1}",
        "[1]",
        "1",
        "{",
    ] {
        assert_eq!(site.post("/queues/pull/claim", wrong).status, 400, "{wrong}");
    }
}

#[test]
fn large_messages_end_a_claim_early() {
    let site = Site::new("[queues.jobs]");
    let _runtime = site.start();
    let body = vec![b'x'; 300 << 10];
    for _ in 0..60 {
        assert_eq!(site.post("/queues/jobs/messages", &body).status, 202);
    }
    let claimed = claim(&site, "jobs", json!({ "max": 100 })).len();
    assert!((14..60).contains(&claimed), "{claimed} messages of 300 KiB in one answer");
}

#[test]
fn the_leases_of_clients_have_a_bound_and_leave_consumers_theirs() {
    const LEASES_MAX: usize = 16 << 10;
    let component = guests::component("behave");
    let site = Site::new(&format!(
        "[queues.jobs]\n[queues.work]\n[queues.report]\n[consumers.cook]\nqueue = \"work\"\ncomponent = {component:?}\n\
         grants.send = [\"report\"]"
    ));
    let _runtime = site.start();
    let batch = "{\"body\":1}\n".repeat(2500);
    // Twice as many as can be leased at all.
    for _ in 0..4 * LEASES_MAX / 2500 + 1 {
        assert_eq!(site.post("/queues/jobs/messages/batch", &batch).status, 202);
    }
    // A claim may get less than it asks for, but not nothing.
    let wanted = json!({ "max": 100, "lease": "1h", "wait": "30s" });
    let claim_all = || {
        let mut claimed: Vec<Value> = Vec::new();
        loop {
            let mut answer = site.post("/queues/jobs/claim", wanted.to_string());
            if answer.status != 200 {
                let kind = &answer.body["type"];
                assert_eq!((answer.status, kind), (429, &json!("urn:linecook:problem:throttled")), "{}", answer.body);
                assert_eq!(answer.header("retry-after"), Some("1"));
                return claimed;
            }
            let Value::Array(messages) = answer.body["messages"].take() else { panic!("{}", answer.body) };
            assert!(!messages.is_empty(), "nothing after {} messages", claimed.len());
            claimed.extend(messages);
        }
    };
    let claimed: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(claim_all)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(claimed.len(), LEASES_MAX);
    assert_eq!(site.get("/queues/jobs")["leased"], LEASES_MAX);
    // Consumers work, and dead letters go back, as if nobody had claimed anything.
    site.send("work", json!({ "do": "send", "to": "report" }));
    site.wait_messages("report", 1);
    assert_eq!(site.post("/queues/report/redrive", "{\"to\":\"work\"}").body["moved"], 1);
    // There is room for as many as are settled.
    assert_eq!(settle(&site, &claimed[0], "ack", "").0, 200);
    assert_eq!(claim(&site, "jobs", wanted.clone()).len(), 1);
    assert_eq!(site.post("/queues/jobs/claim", wanted.to_string()).status, 429);
}
