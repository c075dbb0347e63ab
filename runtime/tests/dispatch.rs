//! The way of a message through the real binary: claimed, handled by a real component, settled; retried, given up, drained
//! and reloaded.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared with benchmarks")]
mod guests;
#[path = "support/runtime.rs"]
mod runtime;

use runtime::{Kitchen, Runtime};

/// One consumer, `worker`, on `jobs`, that does what the message says (`tests/guests/behave`).
fn behave(more: &str) -> Kitchen {
    let component = guests::component("behave");
    Kitchen::new(
        "drain_timeout = \"60s\"",
        &format!(
            "[queues.jobs]\n[queues.audit]\n[queues.report]\n[consumers.worker]\nqueue = \"jobs\"\n\
             component = {component:?}\nretry_delay = \"10ms\"\n{more}\n[consumers.worker.grants]\n\
             send = [\"audit\", \"report\"]\n"
        ),
    )
}

fn fact<'a>(letter: &'a Value, name: &str) -> &'a str {
    letter["attributes"][name].as_str().unwrap_or_else(|| panic!("{name} is missing: {letter}"))
}

fn dead_letter(runtime: &Runtime, id: &str) -> Option<Value> {
    runtime.peek("jobs.dead").into_iter().find(|letter| letter["id"] == id)
}

#[test]
fn what_a_handler_sends_is_there_once_with_its_ack() {
    let kitchen = behave("");
    let runtime = kitchen.start_ready();
    let ids: Vec<_> = (0..20).map(|_| runtime.send("jobs", json!({"do": "send", "to": "audit"}).to_string())).collect();
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    let mut inputs: Vec<_> = runtime
        .peek("audit")
        .iter()
        .map(|message| match &message["body"] {
            Value::String(text) => serde_json::from_str::<Value>(text).unwrap(),
            body => body.clone(),
        })
        .map(|body| body["input"].as_str().unwrap().to_owned())
        .collect();
    inputs.sort();
    assert_eq!(inputs, ids);
    runtime.until("the counts", |runtime| runtime.consumer("worker")["acked"] == 20);
    assert_eq!(runtime.consumer("worker")["running"], 0);
}

#[test]
fn every_way_of_failing_ends_in_a_dead_letter_while_others_flow() {
    let kitchen =
        behave("max_retries = 1\nlimits.cpu_time = \"300ms\"\nmemory_limit = \"16MiB\"\nmax_concurrency = 16");
    let runtime = kitchen.start_ready();
    let failing = [
        ("panic", "unreachable"),
        ("loop", "exceeded limits.cpu_time"),
        ("allocate", "memory_limit"),
        ("exit", "exit"),
        ("exit-zero", "exit"),
        ("retry", "on purpose"),
    ];
    let ids = failing.map(|(what, _)| runtime.send("jobs", json!({"do": what}).to_string()));
    let good = runtime.send("jobs", json!({"do": "send", "to": "audit"}).to_string());
    runtime.until("the good one", |runtime| runtime.peek("audit").len() == 1);
    runtime.until("the bad ones", |runtime| runtime.is_empty("jobs"));
    for ((what, reason), id) in failing.iter().zip(&ids) {
        let letter = dead_letter(&runtime, id).unwrap_or_else(|| panic!("{what} is no dead letter"));
        assert!(fact(&letter, "linecook-reason").contains(reason), "{what}: {letter}");
        assert_eq!(fact(&letter, "linecook-attempts"), "2", "{what}");
        assert_eq!(fact(&letter, "linecook-source-queue"), "jobs");
        assert_eq!(fact(&letter, "linecook-consumer"), "worker");
        assert_eq!(fact(&letter, "linecook-module-hash"), runtime.consumer("worker")["module_hash"]);
        assert!(fact(&letter, "linecook-first-failed-at") <= fact(&letter, "linecook-last-failed-at"));
    }
    let panicked = dead_letter(&runtime, &ids[0]).unwrap();
    assert!(fact(&panicked, "linecook-stderr").contains("on purpose"), "{panicked}");
    assert!(dead_letter(&runtime, &good).is_none());
    // A count follows what it counts: the queue shows the last dead letter first.
    runtime.until("the counts", |runtime| runtime.consumer("worker")["dead_lettered"] == 6);
    let status = runtime.consumer("worker");
    assert_eq!((&status["acked"], &status["failed"], &status["dead_lettered"]), (&json!(1), &json!(12), &json!(6)));
    // Each of them is told with all that is needed to look into it.
    let hash = &status["module_hash"].as_str().unwrap()[..12];
    let log = runtime.log();
    let line = log.lines().find(|line| line.contains(&ids[0]) && line.contains("given up")).unwrap();
    assert!(line.contains("worker") && line.contains("attempt=2") && line.contains(hash), "{line}");
}

#[test]
fn a_snooze_is_no_attempt() {
    let kitchen = behave("max_retries = 0");
    let runtime = kitchen.start_ready();
    runtime.send("jobs", json!({"do": "snooze", "ms": 20}).to_string());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(runtime.peek("jobs.dead").len(), 0);
    assert!(!runtime.is_empty("jobs"));
    assert_eq!(runtime.consumer("worker")["failed"], 0);
}

#[test]
fn a_signal_lets_running_deliveries_end_and_leaves_the_rest() {
    let kitchen = behave("max_concurrency = 2");
    let mut runtime = kitchen.start_ready();
    let slow = json!({"do": "sleep", "ms": 700, "then": {"do": "send", "to": "audit"}}).to_string();
    (0..6).for_each(|_| drop(runtime.send("jobs", &slow)));
    runtime.until("two that run", |runtime| runtime.consumer("worker")["running"] == 2);
    runtime.signal(Signal::TERM);
    runtime.until("draining", |runtime| runtime.log().contains("SIGTERM"));
    assert_eq!(runtime.wait().code(), Some(0), "{}", runtime.log());

    let runtime = kitchen.start();
    let done = runtime.peek("audit").len();
    assert!((2..6).contains(&done), "{done} were done before the end");
    runtime.until("the rest", |runtime| runtime.is_empty("jobs"));
    assert_eq!(runtime.peek("audit").len(), 6);
    assert_eq!(runtime.peek("jobs.dead").len(), 0);
}

#[test]
fn a_second_signal_stops_at_once_and_a_cut_off_attempt_counts() {
    let kitchen = behave("max_retries = 0");
    let mut runtime = kitchen.start_ready();
    let id = runtime.send("jobs", json!({"do": "sleep", "ms": 25_000}).to_string());
    runtime.until("it runs", |runtime| runtime.consumer("worker")["running"] == 1);
    runtime.signal(Signal::INT);
    runtime.until("draining", |runtime| runtime.log().contains("SIGINT"));
    runtime.signal(Signal::INT);
    assert_eq!(runtime.wait().code(), Some(1), "{}", runtime.log());

    let runtime = kitchen.start_ready();
    runtime.until("the dead letter", |runtime| dead_letter(runtime, &id).is_some());
    let letter = dead_letter(&runtime, &id).unwrap();
    assert!(fact(&letter, "linecook-reason").contains("during attempt 1"), "{letter}");
    assert_eq!(fact(&letter, "linecook-attempts"), "1");
}

#[test]
fn modules_are_swapped_while_messages_flow() {
    let component = fs::read(guests::component("audit")).unwrap();
    let kitchen = Kitchen::new(
        "",
        "[queues.jobs]\n[queues.audit]\n[consumers.worker]\nqueue = \"jobs\"\ncomponent = \"it.wasm\"\n\
         [consumers.worker.grants]\nsend = [\"audit\"]\n",
    );
    kitchen.write("it.wasm", &component);
    let runtime = kitchen.start_ready();
    let mut sent = 0;
    let mut flow = || {
        for _ in 0..20 {
            runtime.send("jobs", "x");
            sent += 1;
        }
    };
    for version in 1..=4u64 {
        flow();
        // Bad, half-written and good ones take turns; only a good one takes over.
        let good = guests::with_custom_section(&component, "version", &[version as u8]);
        let bad = match version % 2 {
            0 => b"not WASM at all".to_vec(),
            _ => good[..good.len() / 2].to_vec(),
        };
        kitchen.write("it.wasm", &bad);
        runtime.until("the error", |runtime| runtime.consumer("worker")["reload_error"].is_string());
        assert_eq!(runtime.consumer("worker")["generation"], version);
        flow();
        kitchen.write("beside.wasm", &good);
        fs::rename(kitchen.path().join("beside.wasm"), kitchen.path().join("it.wasm")).unwrap();
        runtime.until("the swap", |runtime| runtime.consumer("worker")["generation"] == version + 1);
        assert!(runtime.consumer("worker")["reload_error"].is_null());
        flow();
    }
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(runtime.count("audit", "ready"), sent);
    assert_eq!(runtime.peek("jobs.dead").len(), 0);
}

#[test]
fn a_consumer_without_a_good_module_waits_for_one() {
    let kitchen = Kitchen::new("", "[queues.jobs]\n[consumers.worker]\nqueue = \"jobs\"\ncomponent = \"it.wasm\"\n");
    kitchen.write("it.wasm", "not WASM");
    let runtime = kitchen.start();
    runtime.until("the failure", |runtime| runtime.consumer("worker")["state"] == "failed");
    assert!(runtime.consumer("worker")["reload_error"].is_string());
    runtime.send("jobs", "x");
    kitchen.write("it.wasm", fs::read(guests::component("noop")).unwrap());
    runtime.until("handled", |runtime| runtime.is_empty("jobs"));
    assert_eq!(runtime.consumer("worker")["state"], "running");
}

const MANIFEST: &str = "[package]\nname = \"it\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\
                        \n[dependencies]\nlinecook-sdk = { path = SDK }\n\n[workspace]\n";

#[test]
fn a_source_folder_is_built_and_built_again_when_it_changes() {
    let kitchen =
        Kitchen::new("", "[queues.jobs]\n[consumers.worker]\nqueue = \"jobs\"\nsource = \"it\"\nmax_retries = 0\n");
    let code = |reason: &str| {
        format!(
            "use linecook_sdk::{{Failure, Message, Outcome, consumer}};\n#[consumer]\n\
             fn it(_: Message) -> Outcome {{ Err(Failure::dead_letter(\"{reason}\")) }}\n"
        )
    };
    let sdk = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk")).unwrap();
    kitchen.write("it/Cargo.toml", MANIFEST.replace("SDK", &format!("{sdk:?}")));
    // The versions of dependencies that are on this machine anyway.
    let lock = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/Cargo.lock")).unwrap();
    kitchen.write("it/Cargo.lock", lock);
    kitchen.write("it/src/lib.rs", code("version one"));
    let runtime = kitchen.start_ready();
    let reason = |id: &str| {
        runtime.until("the dead letter", |runtime| dead_letter(runtime, id).is_some());
        fact(&dead_letter(&runtime, id).unwrap(), "linecook-reason").to_owned()
    };
    assert_eq!(reason(&runtime.send("jobs", "x")), "version one");

    kitchen.write("it/src/lib.rs", "this is no Rust");
    runtime.until("the error", |runtime| runtime.consumer("worker")["reload_error"].is_string());
    let error = runtime.consumer("worker")["reload_error"].as_str().unwrap().to_owned();
    assert!(error.contains("src/lib.rs:1"), "{error}");
    assert_eq!(reason(&runtime.send("jobs", "x")), "version one");

    kitchen.write("it/src/lib.rs", code("version two"));
    runtime.until("the swap", |runtime| runtime.consumer("worker")["generation"] == 2);
    assert_eq!(reason(&runtime.send("jobs", "x")), "version two");
}

#[test]
fn a_port_in_use_and_a_data_folder_in_use_are_told_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let kitchen = Kitchen::new("", "[queues.jobs]\n");
    let config = fs::read_to_string(kitchen.path().join("queue.toml")).unwrap();
    kitchen.write("taken.toml", config.replace("127.0.0.1:0", &address));
    let output = kitchen.linecook(&["--config", "taken.toml"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains(&format!("can't listen on {address}")) && told.contains("hint: "), "{told}");

    let _running = kitchen.start();
    let output = kitchen.linecook(&["run"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("in use by another process"), "{told}");
}
