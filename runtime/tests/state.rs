//! Durable state of consumers: exact over retries, traps, batches and kills; one's own and nobody else's; within limits.

use serde_json::{Value, json};

#[path = "support/edits.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod edits;
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use edits::edit;
use runtime::{Site, eventually, when};

/// A site with one consumer `keep` of the queue `work`, with more keys of it and of its tables.
fn site(keys: &str) -> Site {
    Site::new(&format!(
        "[queues.work]\n[queues.report]\n\n[consumers.keep]\nqueue = \"work\"\ncomponent = {:?}\nretry_delay = \"5ms\"\n\
         retry_delay_max = \"20ms\"\ngrants = {{ state = true, send = [\"report\"] }}\n{keys}",
        guests::component("state"),
    ))
}

/// Sends many messages at once.
fn send_all(site: &Site, queue: &str, bodies: impl Iterator<Item = Value>) {
    let all: Vec<Value> = bodies.map(|body| json!({ "body": body.to_string() })).collect();
    for some in all.chunks(500) {
        let answer = site.post(&format!("/queues/{queue}/messages/batch"), Value::from(some).to_string());
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
}

/// What a command reports.
fn ask(site: &Site, queue: &str, command: &Value) -> Value {
    assert_eq!(site.request("DELETE", "/queues/report/messages", &[], b"").unwrap().status, 200);
    site.send(queue, command);
    let report = site.wait_messages("report", 1);
    serde_json::from_str(report[0]["body"].as_str().unwrap()).unwrap()
}

fn value(site: &Site, key: &str) -> Value {
    ask(site, "work", &json!({ "do": "get", "key": key }))["value"].clone()
}

#[test]
fn a_counter_is_exact_over_retries_traps_and_kills() {
    const MESSAGES: u64 = 1500;
    const KILLS: u64 = 6;
    let site = site(&format!("max_concurrency = 8\nmax_retries = {}", KILLS + 10));
    let mut runtime = site.start();
    // They all change one key, some of them fail first, and the process is killed again and again.
    send_all(&site, "work", (0..MESSAGES).map(|n| {
        json!({ "do": "count", "key": "n", "panics": u64::from(n % 50 == 0) * 2, "retries": u64::from(n % 30 == 1) })
    }));
    for kill in 1..=KILLS {
        eventually("some progress", || {
            let left = site.count("work");
            when(left <= MESSAGES - kill * MESSAGES / (KILLS + 2), left)
        });
        runtime.kill();
        runtime = site.start();
    }
    site.wait_empty("work");
    assert_eq!(site.count("work.dead"), 0);
    assert_eq!(value(&site, "n"), MESSAGES.to_string());
    runtime.stop();
    let verified = site.run_well(&["store", "verify"]);
    assert!(verified.contains("ok"), "{verified}");
}

#[test]
fn in_a_batch_each_message_counts_once() {
    const MESSAGES: u64 = 2000;
    let site = site("max_batch_size = 50\nmax_batch_timeout = \"20ms\"\nmax_concurrency = 4\nmax_retries = 20");
    let mut runtime = site.start();
    send_all(
        &site,
        "work",
        (0..MESSAGES).map(|n| {
            let key = format!("n{}", n % 3);
            json!({ "do": "count", "key": key, "panics": u64::from(n % 400 == 7), "retries": u64::from(n % 90 == 1) })
        }),
    );
    eventually("some progress", || when(site.count("work") < MESSAGES / 2, site.count("work")));
    runtime.kill();
    runtime = site.start();
    site.wait_empty("work");
    assert_eq!(site.count("work.dead"), 0);
    let counts: u64 =
        ["n0", "n1", "n2"].map(|key| value(&site, key).as_str().unwrap().parse::<u64>().unwrap()).iter().sum();
    assert_eq!(counts, MESSAGES);
    runtime.stop();
}

/// A consumer of the queue of its name.
fn consumer(name: &str, guest: &str) -> String {
    format!(
        "[queues.{name}]\n[consumers.{name}]\nqueue = \"{name}\"\ncomponent = {:?}\n\
         grants = {{ state = true, send = [\"report\"] }}\n",
        guests::component(guest)
    )
}

#[test]
fn consumers_do_not_reach_each_others_state() {
    let site = Site::new(&format!("[queues.report]\n{}{}", consumer("ann", "state"), consumer("bob", "state")));
    let runtime = site.start();
    for (queue, by) in [("ann", 3), ("bob", 40), ("ann", 5)] {
        site.send(queue, json!({ "do": "increment", "key": "n", "by": by }));
        site.wait_empty(queue);
    }
    assert_eq!(ask(&site, "ann", &json!({ "do": "get", "key": "n" })), json!({ "value": "8" }));
    assert_eq!(ask(&site, "bob", &json!({ "do": "get", "key": "n" })), json!({ "value": "40" }));
    // There is no other bucket than one's own, whatever it is called.
    for name in ["consumer/bob", "bob", "../bob", "consumer/ann\0n", "DEFAULT"] {
        let opened = ask(&site, "ann", &json!({ "do": "open", "name": name }));
        assert_eq!(opened, json!({ "opened": "Error::NoSuchStore" }), "{name:?}");
    }
    for key in ["../bob/n", "bob\0n", "consumer/bob\0n", "\0"] {
        assert_eq!(ask(&site, "ann", &json!({ "do": "get", "key": key })), json!({ "value": null }), "{key:?}");
    }
    assert_eq!(ask(&site, "ann", &json!({ "do": "keys" })), json!({ "keys": ["n"] }));
    runtime.stop();
}

#[test]
fn the_state_of_a_consumer_that_is_gone_stays_until_it_is_dropped() {
    let [ann, bob] = ["ann", "bob"].map(|name| consumer(name, "state"));
    let all = format!("[queues.report]\n{ann}{bob}{}", consumer("cook", "behave"));
    let site = Site::new(&all);
    let mut runtime = site.start();
    let get = json!({ "do": "get", "key": "n" });
    for (queue, by) in [("ann", 3), ("bob", 40)] {
        site.send(queue, json!({ "do": "increment", "key": "n", "by": by }));
        site.wait_empty(queue);
    }
    let drop_state = |name: &str| site.request("DELETE", &format!("/consumers/{name}/state"), &[], b"").unwrap();
    let refused = |name: &str, status: u16, says: &str| {
        let answer = drop_state(name);
        assert!(answer.status == status && answer.body["detail"].as_str().unwrap().contains(says), "{answer:?}");
        let output = site.run(&["purge", "--state", name]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(says), "{stderr}");
    };
    let in_use = "in use: queue.toml names it, or its last deliveries have not ended";
    let none = "has left any state";
    refused("ann", 409, in_use);
    refused("nobody", 404, none);
    refused("..%2fbob", 404, none);

    // What was taken out and still runs may still write.
    site.send("cook", json!({ "do": "sleep", "ms": 3000 }));
    eventually("the cook at work", || when(site.consumer("cook")["running"] == 1, site.get("/consumers")));
    edit(&site, &format!("[queues.report]\n{bob}"));
    refused("cook", 409, in_use);
    refused("bob", 409, in_use);

    // It stays, over a restart too, until it is dropped.
    runtime.kill();
    runtime = site.start();
    edit(&site, &all);
    assert_eq!(ask(&site, "ann", &get), json!({ "value": "3" }));
    edit(&site, &format!("[queues.report]\n{bob}"));
    eventually("ann gone", || when(drop_state("ann").status == 200, site.get("/consumers")));
    refused("ann", 404, none);
    runtime.kill();
    runtime = site.start();
    edit(&site, &all);
    assert_eq!(ask(&site, "ann", &get), json!({ "value": null }));
    assert_eq!(ask(&site, "bob", &get), json!({ "value": "40" }));

    // By the command line.
    site.send("ann", json!({ "do": "set", "key": "k", "bytes": 2047 }));
    site.wait_empty("ann");
    edit(&site, &format!("[queues.report]\n{bob}"));
    eventually("ann gone", || when(site.get("/consumers")["consumers"].as_array().unwrap().len() == 1, ""));
    assert_eq!(site.run_well(&["purge", "--state", "ann"]), "dropped the state of ann: 2.0 KiB\n");
    runtime.stop();
    let verified = site.run_well(&["store", "verify"]);
    assert!(verified.contains("ok"), "{verified}");
}

#[test]
fn a_limit_that_is_reached_is_named_in_the_dead_letter() {
    let site = site("max_retries = 1\nlimits = { state_bytes = \"10KiB\" }");
    let runtime = site.start();
    for (key, bytes) in [("a", 6000), ("b", 4000)] {
        site.send("work", json!({ "do": "set", "key": key, "bytes": bytes }));
    }
    site.wait_empty("work");
    for (body, says) in [
        (json!({ "do": "set", "key": "c", "bytes": 500 }), "(limits.state_bytes)"),
        (json!({ "do": "set", "key": "a", "bytes": 6500 }), "10 KiB"),
        (json!({ "do": "set", "key": "k".repeat(513), "bytes": 1 }), "a key of the state has 1 to 512 bytes"),
        (json!({ "do": "set", "key": "", "bytes": 1 }), "a key of the state has 1 to 512 bytes"),
        (json!({ "do": "set", "key": "a", "bytes": (1 << 20) + 1 }), "a value may have 1 MiB"),
    ] {
        site.send("work", body);
        let dead = site.wait_messages("work.dead", 1).remove(0);
        let why = dead["attributes"]["linecook-reason"].as_str().unwrap();
        assert!(why.contains(says), "{why}");
        assert_eq!(site.request("DELETE", "/queues/work.dead/messages", &[], b"").unwrap().status, 200);
    }
    // What makes room is welcome, and then there is some.
    site.send("work", json!({ "do": "delete", "key": "b" }));
    site.wait_empty("work");
    site.send("work", json!({ "do": "set", "key": "c", "bytes": 500 }));
    site.wait_empty("work");
    assert_eq!(ask(&site, "work", &json!({ "do": "keys" })), json!({ "keys": ["a", "c"] }));
    assert_eq!(site.count("work.dead"), 0);
    runtime.stop();
}

#[test]
fn memory_stays_bounded_and_what_the_log_gave_up_is_there_after_a_kill() {
    const KEYS: usize = 250;
    const VALUE_BYTES: usize = 20_000;
    // 100 MB are written in all, to a log of 16 MiB.
    let tables = format!(
        "[queues.work]\n[queues.report]\n\n[consumers.keep]\nqueue = \"work\"\ncomponent = {:?}\nmax_batch_size = 100\n\
         grants = {{ state = true, send = [\"report\"] }}",
        guests::component("state"),
    );
    let site = Site::with_runtime("log_max_bytes = \"16MiB\"", &tables);
    let mut runtime = site.start();
    let before = runtime.resident_bytes();
    for round in 0..20 {
        send_all(
            &site,
            "work",
            (0..KEYS).map(|key| {
                let bytes = VALUE_BYTES + round;
                json!({ "do": "set", "key": format!("key-{key:04}"), "bytes": bytes })
            }),
        );
        site.wait_empty("work");
        let grown = runtime.resident_bytes().saturating_sub(before);
        assert!(grown < 160 << 20, "{} MiB more after round {round}", grown >> 20);
    }
    assert!(site.path("data/state.redb").exists(), "the log must have given some up");
    runtime.kill();
    runtime = site.start();
    for key in [0, KEYS / 2, KEYS - 1] {
        let value = value(&site, &format!("key-{key:04}"));
        assert_eq!(value.as_str().unwrap().len(), VALUE_BYTES + 19);
    }
    let keys = ask(&site, "work", &json!({ "do": "keys" }));
    assert_eq!(keys["keys"].as_array().unwrap().len(), KEYS);
    runtime.stop();
}

#[test]
fn two_deliveries_at_once_both_take_effect() {
    let site = site("max_concurrency = 32");
    let runtime = site.start();
    send_all(&site, "work", (0..300).map(|_| json!({ "do": "increment", "key": "n", "by": 2 })));
    site.wait_empty("work");
    assert_eq!(value(&site, "n"), "600");
    // None of it was a failure.
    assert_eq!(site.consumer("keep")["failed"], 0);
    runtime.stop();
}
