//! Batches through the real binary: filled, partial, poisoned, cut off.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/runtime.rs"]
mod runtime;

use runtime::{Kitchen, Runtime};

/// One consumer of batches on `jobs`, whose component is not there yet, so that batches can fill up.
fn bulk(more: &str) -> Kitchen {
    Kitchen::new(
        "",
        &format!(
            "[queues.jobs]\n[queues.report]\n[consumers.bulk]\nqueue = \"jobs\"\ncomponent = \"it.wasm\"\n\
             retry_delay = \"10ms\"\n{more}\n[consumers.bulk.grants]\nsend = [\"report\"]\n"
        ),
    )
}

fn serve(kitchen: &Kitchen) {
    kitchen.write("it.wasm", fs::read(guests::component("bulk")).unwrap());
}

fn send(runtime: &Runtime, what: &str) -> String {
    runtime.send("jobs", json!({ "do": what }).to_string())
}

/// What was sent to `report`.
fn reports(runtime: &Runtime) -> Vec<Value> {
    let body = |message: &Value| serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
    runtime.peek("report").iter().map(body).collect()
}

fn report(runtime: &Runtime, id: &str) -> Option<Value> {
    let mut of_it = reports(runtime).into_iter().filter(|report| report["input"] == id);
    let first = of_it.next();
    assert!(of_it.next().is_none(), "{id} took effect twice");
    first
}

fn reason(runtime: &Runtime, id: &str) -> Option<String> {
    let letter = runtime.peek("jobs.dead").into_iter().find(|letter| letter["id"] == id)?;
    Some(letter["attributes"]["linecook-reason"].as_str().unwrap().to_owned())
}

#[test]
fn a_backlog_comes_in_full_batches_and_each_message_once() {
    let kitchen = bulk("max_batch_size = 40\nmax_batch_timeout = \"100ms\"");
    let runtime = kitchen.start();
    let ids: Vec<_> = (0..100).map(|_| send(&runtime, "ok")).collect();
    serve(&kitchen);
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    let reports = reports(&runtime);
    let mut inputs: Vec<_> = reports.iter().map(|report| report["input"].as_str().unwrap().to_owned()).collect();
    inputs.sort();
    assert_eq!(inputs, ids);
    let mut sizes: Vec<_> = reports.iter().map(|report| report["size"].as_u64().unwrap()).collect();
    sizes.sort_unstable();
    assert!(sizes[..].iter().filter(|size| **size == 40).count() >= 40, "no full batch: {sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 40), "{sizes:?}");
    runtime.until("the counts", |runtime| runtime.consumer("bulk")["acked"] == 100);
    assert_eq!(runtime.consumer("bulk")["running"], 0);
    assert_eq!(runtime.consumer("bulk")["failed"], 0);
}

#[test]
fn a_partial_batch_waits_for_more_as_long_as_it_may() {
    let kitchen = bulk("max_batch_size = 10\nmax_batch_timeout = \"1500ms\"\nmax_concurrency = 1");
    serve(&kitchen);
    let runtime = kitchen.start_ready();
    let start = Instant::now();
    let first = send(&runtime, "ok");
    let second = send(&runtime, "ok");
    runtime.until("both", |runtime| reports(runtime).len() == 2);
    assert!(start.elapsed() >= Duration::from_millis(1500), "it came after {:?}", start.elapsed());
    assert_eq!([first, second].map(|id| report(&runtime, &id).unwrap()["size"].clone()), [json!(2), json!(2)]);
}

#[test]
fn poison_is_found_and_given_up_alone_and_the_innocent_lose_no_attempt() {
    // With no retry at all, one lost attempt would be a dead letter.
    let kitchen = bulk("max_batch_size = 20\nmax_retries = 0\ntimeout = \"1s\"\nmax_concurrency = 2");
    let runtime = kitchen.start();
    let mut innocent = Vec::new();
    let mut poison = Vec::new();
    for round in 0..3 {
        innocent.extend((0..9).map(|_| send(&runtime, "ok")));
        poison.push(send(&runtime, if round == 1 { "loop" } else { "panic" }));
    }
    serve(&kitchen);
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    for id in &innocent {
        let report = report(&runtime, id).unwrap_or_else(|| panic!("{id} has no effect"));
        assert_eq!(report["attempt"], 1);
    }
    let reasons: Vec<_> = poison.iter().map(|id| reason(&runtime, id).unwrap()).collect();
    assert!(reasons[0].contains("unreachable") && reasons[2].contains("unreachable"), "{reasons:?}");
    assert!(reasons[1].contains("timed out after 1s"), "{reasons:?}");
    assert_eq!(runtime.peek("jobs.dead").len(), 3);
    runtime.until("the counts", |runtime| runtime.consumer("bulk")["acked"] == 27);
    assert_eq!(runtime.consumer("bulk")["failed"], 3);
    assert!(runtime.log().contains("a batch failed as a whole"), "{}", runtime.log());
}

#[test]
fn each_message_has_its_own_answer_and_a_missing_one_is_a_failure() {
    let kitchen = bulk("max_batch_size = 10\nmax_retries = 1\nmax_batch_timeout = \"200ms\"\nmax_concurrency = 1");
    let runtime = kitchen.start();
    let ids = ["ok", "dead-letter", "retry", "silence", "ok"].map(|what| send(&runtime, what));
    serve(&kitchen);
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(report(&runtime, &ids[0]).unwrap()["size"], 5);
    assert_eq!(reason(&runtime, &ids[1]).as_deref(), Some("on purpose"));
    assert_eq!(reason(&runtime, &ids[2]).as_deref(), Some("on purpose"));
    assert_eq!(reason(&runtime, &ids[3]).as_deref(), Some("the handler gave no answer for this message"));
    // It failed because there was no answer for it, and came again by itself.
    let last = report(&runtime, &ids[4]).unwrap();
    assert_eq!((&last["size"], &last["attempt"]), (&json!(1), &json!(2)));
    // What was sent with a message that failed never was.
    assert_eq!(reports(&runtime).len(), 2);
}

#[test]
fn what_is_sent_for_the_whole_batch_is_sent_once_if_any_of_it_is_acknowledged() {
    let kitchen = bulk("max_batch_size = 10\nmax_batch_timeout = \"200ms\"\nmax_concurrency = 1\nmax_retries = 0");
    let runtime = kitchen.start();
    for what in ["dead-letter", "sum", "ok"] {
        send(&runtime, what);
    }
    serve(&kitchen);
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(reports(&runtime).iter().filter(|report| report["sum"] == 3).count(), 1);
    assert_eq!(reports(&runtime).len(), 3);
    runtime.until("the counts", |runtime| runtime.consumer("bulk")["acked"] == 2);
}

#[test]
fn a_batch_that_waits_is_given_back_at_the_end_as_if_it_had_not_been_claimed() {
    let kitchen = bulk("max_batch_size = 10\nmax_batch_timeout = \"60s\"\nmax_concurrency = 1");
    serve(&kitchen);
    let mut runtime = kitchen.start_ready();
    send(&runtime, "ok");
    runtime.until("it is claimed", |runtime| runtime.count("jobs", "leased") == 1);
    runtime.signal(Signal::TERM);
    let asked = Instant::now();
    assert_eq!(runtime.wait().code(), Some(0), "{}", runtime.log());
    assert!(asked.elapsed() < Duration::from_secs(20));
    fs::remove_file(kitchen.path().join("it.wasm")).unwrap();
    let runtime = kitchen.start();
    assert_eq!(runtime.peek("jobs")[0]["attempt"], 0);
}

#[test]
fn a_batch_that_went_down_with_the_process_comes_back_one_by_one() {
    let kitchen = bulk("max_batch_size = 3\nmax_concurrency = 1");
    let mut runtime = kitchen.start();
    let ids: Vec<_> = (0..3).map(|_| runtime.send("jobs", json!({ "do": "sleep", "ms": 1000 }).to_string())).collect();
    serve(&kitchen);
    runtime.until("it runs", |runtime| runtime.consumer("bulk")["running"] == 3);
    runtime.signal(Signal::KILL);
    runtime.wait();
    let runtime = kitchen.start();
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    for id in ids {
        let report = report(&runtime, &id).unwrap();
        assert_eq!((&report["size"], &report["attempt"]), (&json!(1), &json!(2)));
    }
}

#[test]
fn a_component_that_takes_no_batches_is_refused_with_what_to_do() {
    let kitchen = bulk("max_batch_size = 10");
    kitchen.write("it.wasm", fs::read(guests::component("noop")).unwrap());
    let runtime = kitchen.start();
    runtime.until("the refusal", |runtime| runtime.consumer("bulk")["state"] == "failed");
    let error = runtime.consumer("bulk")["reload_error"].as_str().unwrap().to_owned();
    assert!(error.contains("max_batch_size is 10") && error.contains("`Vec<Message>`"), "{error}");
    // The other way round it works: batches of one.
    let kitchen = bulk("");
    serve(&kitchen);
    let runtime = kitchen.start_ready();
    let id = send(&runtime, "ok");
    runtime.until("handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(report(&runtime, &id).unwrap()["size"], 1);
}
