//! History and replay, through the real binary: what was acknowledged can be read and sent again for as long as `queue.toml`
//! says, and is in nobody's way.

use std::fs;

use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

/// A queue whose messages are acknowledged one by one, and one that nobody works on.
fn site(history: &str) -> Site {
    Site::new(&format!(
        "[queues.orders]\nhistory = \"{history}\"\n[queues.audit]\n\n[consumers.noop]\nqueue = \"orders\"\n\
         component = {:?}\nmax_concurrency = 1\n",
        guests::component("noop")
    ))
}

/// Acknowledged messages of `orders`, page by page.
fn history(site: &Site, more: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = site.get(&format!("/queues/orders/messages?state=history&limit=7{after}{more}"));
        all.append(page["messages"].as_array_mut().unwrap());
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

fn of<'v>(messages: &'v [Value], name: &str) -> Vec<&'v str> {
    messages.iter().map(|message| message[name].as_str().unwrap()).collect()
}

#[test]
fn what_was_acknowledged_is_kept_and_replayed() {
    let site = site("1h");
    let runtime = site.start();
    let mut sent = Vec::new();
    for at in 0..20 {
        let headers = [("linecook-key", "one"), ("linecook-attribute-number", &*at.to_string())];
        let body = format!("order {at}");
        let answer = site.request("POST", "/queues/orders/messages", &headers, body.as_bytes()).unwrap();
        sent.push(answer.body["id"].as_str().unwrap().to_owned());
    }
    site.wait_empty("orders");
    let kept = history(&site, "");
    assert_eq!(of(&kept, "id"), sent);
    let first = &kept[0];
    assert_eq!((&first["state"], &first["body"], &first["key"]), (&json!("history"), &json!("order 0"), &json!("one")));
    assert_eq!(first["attributes"], json!({ "number": "0" }));
    assert!(of(&kept, "acked_at").is_sorted());
    let queue = site.get("/queues/orders");
    assert_eq!((&queue["history"], &queue["bytes"], &queue["ready"]), (&json!(20), &json!(0), &json!(0)));
    assert!(queue["history_bytes"].as_u64().unwrap() > 200, "{queue}");
    assert!(site.run_well(&["status"]).lines().any(|line| line.starts_with("orders ") && line.contains(" 20 ")));
    // A range of time.
    let middle = kept[10]["acked_at"].as_str().unwrap();
    let later = history(&site, &format!("&from={middle}"));
    let expected = kept.iter().filter(|one| one["acked_at"].as_str().unwrap() >= middle).count();
    assert_eq!(later.len(), expected);
    assert!(history(&site, "&to=1h").is_empty());

    // It outlives the process, whichever way that ends.
    runtime.kill();
    let runtime = site.start();
    assert_eq!(of(&history(&site, ""), "id"), sent);
    assert_eq!((site.count("orders"), &site.consumer("noop")["acked"]), (0, &json!(0)), "nothing is delivered again");

    // Only counted, then sent, then known by its name.
    let dry = site.run_well(&["replay", "orders", "--into", "audit", "--from", "1h", "--dry-run"]);
    assert_eq!((dry.as_str(), site.count("audit")), ("would replay 20 messages of orders into audit\n", 0));
    let replay = ["replay", "orders", "--into", "audit", "--from", "1h", "--id", "again", "--json"];
    let first: Value = serde_json::from_str(&site.run_well(&[&replay[..], &["--limit", "12"]].concat())).unwrap();
    assert_eq!((&first["replayed"], &first["duplicates"]), (&json!(12), &json!(0)), "{first}");
    let rest: Value = serde_json::from_str(&site.run_well(&replay)).unwrap();
    assert_eq!((&rest["replayed"], &rest["duplicates"]), (&json!(8), &json!(12)), "{rest}");
    let copies = site.messages("audit");
    assert_eq!(of(&copies, "body"), of(&kept, "body"), "in the same order");
    for (copy, original) in copies.iter().zip(&kept) {
        assert_ne!(copy["id"], original["id"]);
        assert_eq!((&copy["key"], &copy["state"]), (&original["key"], &json!("ready")));
        let attributes = json!({ "number": original["attributes"]["number"], "linecook-replay-of": original["id"] });
        assert_eq!(copy["attributes"], attributes);
    }

    // Into the queue itself: the copies are acknowledged and kept, and are not replayed once more.
    let told = site.run_well(&["replay", "orders", "--rate", "1000/s"]);
    assert_eq!(told, "replayed 20 messages of orders into orders\n");
    site.wait_empty("orders");
    let all = eventually("the copies in the history", || {
        let all = history(&site, "");
        when(all.len() == 40, all.len())?;
        Ok(all)
    });
    assert_eq!(all[20]["attributes"]["linecook-replay-of"], kept[0]["id"]);

    // A purge takes the history, too.
    site.run_well(&["purge", "orders"]);
    assert_eq!((history(&site, ""), &site.get("/queues/orders")["history"]), (Vec::new(), &json!(0)));
    runtime.stop();
}

#[test]
fn a_shorter_history_takes_effect() {
    let site = site("1h");
    let runtime = site.start();
    for at in 0..5 {
        site.send("orders", at);
    }
    site.wait_empty("orders");
    assert_eq!(history(&site, "").len(), 5);
    runtime.stop();
    let file = fs::read_to_string(site.path("queue.toml")).unwrap();
    fs::write(site.path("queue.toml"), file.replace("\"1h\"", "\"0s\"")).unwrap();
    let runtime = site.start();
    assert!(history(&site, "").is_empty());
    // It is not only hidden.
    eventually("nothing is counted", || {
        let queue = site.get("/queues/orders");
        when(queue["history"] == 0 && queue["history_bytes"] == 0, queue)
    });
    site.send("orders", "is not kept");
    site.wait_empty("orders");
    runtime.stop();
    fs::write(site.path("queue.toml"), file).unwrap();
    let runtime = site.start();
    assert!(history(&site, "").is_empty(), "what is gone does not come back");
    runtime.stop();
}

#[test]
fn requests_that_make_no_sense_are_told_what_does() {
    let site = site("1h");
    let runtime = site.start();
    for (path, says) in [
        ("/queues/orders/messages?state=old", "state=history"),
        ("/queues/orders/messages?state=history&from=monday", "2026-01-31T12:00:00Z"),
    ] {
        let answer = site.request("GET", path, &[], b"").unwrap();
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(says), "{path}: {}", answer.body);
    }
    // Only what was acknowledged has a time to look for, and a span that ends before it begins holds nothing.
    site.send("orders", "hello");
    site.wait_empty("orders");
    for (query, found) in [("from=1h", 1), ("to=1h", 0), ("state=history&from=1h&to=2h", 0)] {
        let messages = site.get(&format!("/queues/orders/messages?{query}"));
        assert_eq!(messages["messages"].as_array().unwrap().len(), found, "{query}: {messages}");
    }
    for (path, body, status, says) in [
        ("/queues/orders/replay", "{\"form\":\"1h\"}", 400, "form"),
        ("/queues/orders/replay", "{\"limit\":0}", 400, "limit"),
        ("/queues/orders/replay", "{\"replay_id\":\"\"}", 400, "replay_id"),
        ("/queues/orders/replay", "{\"into\":\"audits\"}", 404, "did you mean audit"),
        ("/queues/order/replay", "", 404, "did you mean orders"),
    ] {
        let answer = site.post(path, body);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(says), "{path}: {}", answer.body);
    }
    for (option, says) in [(["--from", "monday"], "2h"), (["--rate", "fast"], "50/s")] {
        let output = site.run(&[&["replay", "orders"][..], &option].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
    // A queue without a history has nothing to replay.
    assert_eq!(site.run_well(&["replay", "audit"]), "replayed 0 messages of audit into audit\n");
    runtime.stop();
}

#[test]
fn a_look_into_a_queue_ends_in_time_and_goes_on_on_the_next_page() {
    let site = Site::with_runtime("log_max_bytes = \"128MiB\"", "[queues.large]");
    let runtime = site.start();
    let body = "x".repeat(1 << 20);
    let sent: Vec<String> = (0..12).map(|_| site.send("large", &body)).collect();
    let mut first = site.get("/queues/large/messages?limit=100");
    assert_eq!(
        (&first["truncated"], of(first["messages"].as_array().unwrap(), "id")),
        (&json!(true), of_ids(&sent[..8]))
    );
    let rest = site.get(&format!("/queues/large/messages?limit=100&after={}", first["next"].take()));
    assert_eq!((&rest["next"], of(rest["messages"].as_array().unwrap(), "id")), (&Value::Null, of_ids(&sent[8..])));
    runtime.stop();
}

fn of_ids(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}
