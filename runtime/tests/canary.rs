//! A new build on trial: promoted if it does well, rolled back if it does not, and nothing is lost or given up by it.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/runtime.rs"]
mod runtime;

use runtime::{Kitchen, Runtime};

/// Without a single retry: an attempt that is lost would be a dead letter.
fn kitchen(more: &str) -> Kitchen {
    let kitchen = Kitchen::new(
        "",
        &format!(
            "[queues.jobs]\n[queues.audit]\n[consumers.worker]\nqueue = \"jobs\"\ncomponent = \"it.wasm\"\n\
             max_retries = 0\n{more}\n[consumers.worker.canary]\nshare = \"20%\"\ndeliveries = 40\n\
             [consumers.worker.grants]\nsend = [\"audit\"]\n"
        ),
    );
    kitchen.write("it.wasm", behave(1));
    kitchen
}

/// A build that does what the message says.
fn behave(version: u8) -> Vec<u8> {
    guests::with_custom_section(&fs::read(guests::component("behave")).unwrap(), "version", &[version])
}

fn swap(kitchen: &Kitchen, component: &[u8]) {
    kitchen.write("beside.wasm", component);
    fs::rename(kitchen.path().join("beside.wasm"), kitchen.path().join("it.wasm")).unwrap();
}

fn good() -> String {
    json!({ "do": "send", "to": "audit" }).to_string()
}

/// The inputs that took effect.
fn audited(runtime: &Runtime) -> Vec<String> {
    let input = |message: &Value| {
        let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        body["input"].as_str().unwrap().to_owned()
    };
    let mut inputs: Vec<_> = runtime.peek("audit").iter().map(input).collect();
    inputs.sort();
    inputs
}

fn generation_on_trial(runtime: &Runtime) -> Option<u64> {
    runtime.consumer("worker")["canary"]["generation"].as_u64()
}

#[test]
fn a_good_build_takes_a_share_and_is_promoted() {
    let kitchen = kitchen("instance = \"reused\"");
    let runtime = kitchen.start_ready();
    assert_eq!(generation_on_trial(&runtime), None, "there is nothing to compare the first one with");
    swap(&kitchen, &behave(2));
    runtime.until("the trial", |runtime| generation_on_trial(runtime) == Some(2));
    assert_eq!(runtime.consumer("worker")["generation"], 1);
    // Half of what it takes to decide.
    let mut ids: Vec<_> = (0..100).map(|_| runtime.send("jobs", good())).collect();
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(generation_on_trial(&runtime), Some(2));
    ids.extend((0..150).map(|_| runtime.send("jobs", good())));
    runtime.until("the promotion", |runtime| runtime.consumer("worker")["generation"] == 2);
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(generation_on_trial(&runtime), None);
    assert_eq!(audited(&runtime), ids);
    assert!(runtime.log().contains("on trial: takes 20% of the deliveries until it has had 40"), "{}", runtime.log());
}

#[test]
fn failures_that_both_builds_have_are_no_reason_to_roll_back() {
    let kitchen = kitchen("");
    let runtime = kitchen.start_ready();
    swap(&kitchen, &behave(2));
    runtime.until("the trial", |runtime| generation_on_trial(runtime) == Some(2));
    let bad: BTreeSet<_> = (0..400)
        .filter_map(|number| {
            let fails = number % 3 == 0;
            let id = runtime.send("jobs", if fails { json!({ "do": "dead-letter" }).to_string() } else { good() });
            fails.then_some(id)
        })
        .collect();
    runtime.until("the promotion", |runtime| runtime.consumer("worker")["generation"] == 2);
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    let dead = runtime.peek("jobs.dead");
    assert_eq!(dead.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), bad);
    assert!(dead.iter().all(|letter| letter["attributes"]["linecook-attempts"] == "1"));
}

#[test]
fn a_bad_build_is_rolled_back_and_the_attempts_that_it_burned_do_not_count() {
    for (more, bad) in [("", "logs"), ("max_batch_size = 8\nmax_batch_timeout = \"0s\"", "panics")] {
        let batches = bad == "panics";
        let kitchen = kitchen(more);
        let (first, bad, message) = if batches {
            let bulk = fs::read(guests::component("bulk")).unwrap();
            (bulk, fs::read(guests::component("panics")).unwrap(), json!({ "do": "ok" }).to_string())
        } else {
            (behave(1), fs::read(guests::component(bad)).unwrap(), good())
        };
        kitchen.write("it.wasm", first);
        if batches {
            let config = fs::read_to_string(kitchen.path().join("queue.toml")).unwrap();
            kitchen.write("queue.toml", config.replace("audit", "report"));
        }
        let runtime = kitchen.start_ready();
        swap(&kitchen, &bad);
        runtime.until("the trial", |runtime| generation_on_trial(runtime) == Some(2));
        let mut ids = Vec::new();
        while generation_on_trial(&runtime).is_some() {
            ids.push(runtime.send("jobs", &message));
            assert!(ids.len() < 900, "it is not rolled back");
        }
        runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
        let consumer = runtime.consumer("worker");
        let error = consumer["reload_error"].as_str().unwrap();
        assert!(error.starts_with("generation 2 was rolled back: ") && error.contains("failed"), "{error}");
        assert_eq!((&consumer["generation"], &consumer["state"]), (&json!(1), &json!("running")));
        // Each message took effect once, and none was given up.
        let queue = if batches { "report" } else { "audit" };
        let input = |message: &Value| {
            let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
            body["input"].as_str().unwrap().to_owned()
        };
        let mut inputs: Vec<_> = runtime.peek(queue).iter().map(input).collect();
        inputs.sort();
        assert_eq!(inputs, ids);
        assert_eq!(runtime.peek("jobs.dead").len(), 0);

        // It is not tried again; going back to the one in force is fine; and another one gets its chance.
        swap(&kitchen, &guests::with_custom_section(&bad, "touched", b""));
        runtime.until("another trial", |runtime| generation_on_trial(runtime) == Some(3));
        swap(&kitchen, &bad);
        runtime.until("the old reason", |runtime| {
            runtime.consumer("worker")["reload_error"].as_str().is_some_and(|error| error.contains("generation 2"))
        });
    }
}
