//! Messages whose handler panics, loops for ever, allocates without end or exits: they are retried, then dead letters
//! that say why; and the other messages of the same consumer take no notice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::SystemTime;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

/// More permits than there are messages that loop, so that these can't take all of them. A loop is ended by what it computes,
/// so that on a busy machine nothing else comes to its end with it.
const TABLES: &str = r#"
[queues.work]
[queues.report]
[queues.parked]

[consumers.behave]
queue = "work"
max_concurrency = 8
limits.cpu_time = "300ms"
max_retries = 2
retry_delay = "20ms"
retry_delay_max = "100ms"
memory_limit = "32MiB"
grants.send = ["report"]
"#;

fn site() -> Site {
    Site::new(&format!("{TABLES}component = {:?}", guests::component("behave")))
}

/// The dead letters of `work`, by id.
fn dead_letters(site: &Site, count: usize) -> BTreeMap<String, Value> {
    let messages = site.wait_messages("work.dead", count);
    messages.into_iter().map(|message| (message["id"].as_str().unwrap().to_owned(), message)).collect()
}

fn fact<'a>(message: &'a Value, name: &str) -> &'a str {
    message["attributes"][format!("linecook-{name}")].as_str().unwrap_or_else(|| panic!("no {name} in {message}"))
}

fn time(message: &Value, name: &str) -> SystemTime {
    humantime::parse_rfc3339(fact(message, name)).unwrap()
}

#[test]
fn a_hostile_message_ends_as_a_dead_letter_while_the_others_flow() {
    let site = site();
    let runtime = site.start();
    let module_hash: String = Sha256::digest(fs::read(guests::component("behave")).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(site.consumer("behave")["module_hash"], module_hash.as_str());

    let hostile: BTreeMap<String, (&str, &str)> = [
        ("loop", "exceeded limits.cpu_time (300ms)"),
        ("loop", "exceeded limits.cpu_time (300ms)"),
        ("panic", "unreachable"),
        ("panic", "unreachable"),
        ("allocate", "memory_limit (32 MiB)"),
        ("exit", "exit with code 1"),
        ("exit-zero", "exit with code 0"),
        ("retry", "on purpose"),
    ]
    .map(|(what, reason)| (site.send("work", json!({ "do": what })), (what, reason)))
    .into();
    let good: BTreeSet<String> = (0..20).map(|_| site.send("work", json!({ "do": "send", "to": "report" }))).collect();

    let dead = dead_letters(&site, hostile.len());
    assert_eq!(dead.keys().collect::<Vec<_>>(), hostile.keys().collect::<Vec<_>>());
    for (id, (what, reason)) in &hostile {
        let letter = &dead[id];
        assert_eq!(letter["body"], json!({ "do": what }).to_string());
        assert_eq!(fact(letter, "attempts"), "3", "{what}");
        assert!(fact(letter, "reason").contains(reason), "{what}: {}", fact(letter, "reason"));
        assert_eq!(fact(letter, "source-queue"), "work");
        assert_eq!(fact(letter, "consumer"), "behave");
        assert_eq!(fact(letter, "module-hash"), module_hash);
        assert!(time(letter, "first-failed-at") <= time(letter, "last-failed-at"), "{what}");
        assert!(
            time(letter, "first-failed-at")
                >= humantime::parse_rfc3339(letter["enqueued_at"].as_str().unwrap()).unwrap()
        );
        if *what == "panic" {
            assert!(fact(letter, "stderr").contains("on purpose"), "{}", fact(letter, "stderr"));
        }
    }
    let reports = site.wait_messages("report", good.len());
    let inputs = reports.iter().map(|report| {
        let report: Value = serde_json::from_str(report["body"].as_str().unwrap()).unwrap();
        report["input"].as_str().unwrap().to_owned()
    });
    assert_eq!(inputs.collect::<BTreeSet<_>>(), good);

    site.wait_empty("work");
    // A worker hears of what it has settled a moment after everybody can see it.
    eventually("the right counts", || {
        let consumer = site.consumer("behave");
        let counts = ["acked", "failed", "dead_lettered", "running"].map(|count| consumer[count].as_u64().unwrap());
        when(counts == [good.len() as u64, 3 * hostile.len() as u64, hostile.len() as u64, 0], consumer)
    });
    // Two attempts of each failed and were to be repeated; each line names the message and the module.
    let stderr = runtime.stop().stderr;
    for id in hostile.keys() {
        let lines: Vec<_> =
            stderr.lines().filter(|line| line.contains("the attempt failed") && line.contains(id)).collect();
        assert_eq!(lines.len(), 2, "{id}");
        assert!(lines.iter().all(|line| line.contains(&module_hash[..12]) && line.contains("delay_ms")), "{lines:?}");
    }
}

#[test]
fn messages_flow_while_a_handler_loops_on_every_worker() {
    let tables = TABLES.replace("limits.cpu_time = \"300ms\"", "timeout = \"1h\"");
    let runtime_keys = "workers = 2\nlog_max_bytes = \"64MiB\"";
    let site = Site::with_runtime(runtime_keys, &format!("{tables}component = {:?}", guests::component("behave")));
    let runtime = site.start();
    let loops = 4;
    (0..loops).for_each(|_| _ = site.send("work", json!({ "do": "loop" })));
    eventually("loops that run", || when(site.consumer("behave")["running"] == loops, "too few"));
    (0..20).for_each(|_| _ = site.send("work", json!({ "do": "send", "to": "report" })));
    site.wait_messages("report", 20);
    eventually("only loops that run", || when(site.consumer("behave")["running"] == loops, "others"));
    assert_eq!(site.consumer("behave")["failed"], 0);
    runtime.kill();
}

#[test]
fn dead_letters_go_back_with_redrive() {
    let site = site();
    let runtime = site.start();
    let ids: BTreeSet<String> = (0..3).map(|_| site.send("work", json!({ "do": "retry" }))).collect();
    let before = dead_letters(&site, 3);

    assert_eq!(site.run_well(&["redrive", "work.dead", "--dry-run"]), "would move 3 messages\n");
    assert_eq!(site.count("work.dead"), 3);

    // One goes to a queue that nobody works off, where it can be looked at: it has no facts any more.
    assert_eq!(site.run_well(&["redrive", "work.dead", "--limit", "1", "--to", "parked"]), "moved 1 message\n");
    let parked = site.wait_messages("parked", 1).remove(0);
    assert!(ids.contains(parked["id"].as_str().unwrap()));
    assert_eq!((&parked["state"], &parked["attempt"], &parked["attributes"]), (&json!("ready"), &json!(0), &json!({})));

    // The others go back to where they came from, have all their attempts again, and use them up again.
    let answer: Value = serde_json::from_str(&site.run_well(&["redrive", "work.dead", "--json"])).unwrap();
    assert_eq!(answer, json!({ "moved": 2, "skipped": 0 }));
    let last = before.values().map(|letter| time(letter, "last-failed-at")).max().unwrap();
    eventually("dead letters that failed again", || {
        let again = site.messages("work.dead");
        let failed_again = again.iter().filter(|letter| time(letter, "first-failed-at") > last).count();
        when((again.len(), failed_again) == (2, 2), Value::from(again))
    });
    assert!(site.messages("work.dead").iter().all(|letter| fact(letter, "attempts") == "3"));
    runtime.stop();
}

#[test]
fn a_snooze_uses_no_attempt_and_a_handler_can_give_up_at_once() {
    let site = site();
    let runtime = site.start();
    let snoozed =
        site.send("work", json!({ "do": "print", "lines": ["not yet"], "then": { "do": "snooze", "ms": 20 } }));
    let given_up = site.send("work", json!({ "do": "dead-letter", "reason": "no such user" }));

    let dead = dead_letters(&site, 1);
    let letter = &dead[&given_up];
    assert_eq!((fact(letter, "attempts"), fact(letter, "reason")), ("1", "no such user"));
    assert_eq!(fact(letter, "first-failed-at"), fact(letter, "last-failed-at"));

    // Twice as often as it may fail. What the handler prints is in the log, with the message's id.
    eventually("a message that was snoozed many times", || {
        let snoozes =
            runtime.stderr().lines().filter(|line| line.contains("not yet") && line.contains(&snoozed)).count();
        when(snoozes >= 6, snoozes)
    });
    assert_eq!(site.count("work.dead"), 1);
    let message = site.messages("work").remove(0);
    assert_eq!(message["id"], snoozed.as_str());
    assert!(message["attempt"].as_u64() <= Some(1), "{message}");
    assert_eq!(site.consumer("behave")["failed"], 1);
    runtime.stop();
}

#[test]
fn the_largest_message_can_become_a_dead_letter() {
    // A small log takes small messages only, so that there are not many sizes to try.
    let site = Site::with_runtime(
        "log_max_bytes = \"16MiB\"",
        &format!("{TABLES}component = {:?}", guests::component("behave")),
    );
    let runtime = site.start();
    // As large as it takes them, to the last bytes: the facts that a dead letter gains must have their room.
    let padded = |bytes| json!({ "do": "panic", "padding": "x".repeat(bytes) }).to_string();
    let largest = (0..256 << 10).rev().step_by(256).find(|bytes| {
        let answer = site.post("/queues/work/messages", padded(*bytes));
        assert!([202, 413].contains(&answer.status), "{}", answer.body);
        answer.status == 202
    });
    let letter = site.wait_messages("work.dead", 1).remove(0);
    assert_eq!(letter["body"], padded(largest.unwrap()));
    assert_eq!(fact(&letter, "attempts"), "3");
    runtime.stop();
}
