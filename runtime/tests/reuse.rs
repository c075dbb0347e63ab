//! `instance = "reused"`: what is kept from one delivery to the next, and when an instance goes.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

#[path = "support/by_hand.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod by_hand;
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/runtime.rs"]
mod runtime;
#[path = "support/web.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod web;

use runtime::{Kitchen, Runtime};
use web::Web;

/// One consumer on `jobs` with one permit, so that messages come one after another, to the same instance if it is there.
fn kitchen(guest: &str, more: &str) -> Kitchen {
    let kitchen = Kitchen::new(
        "",
        &format!(
            "[queues.jobs]\n[queues.report]\n[consumers.worker]\nqueue = \"jobs\"\ncomponent = \"it.wasm\"\n\
             max_concurrency = 1\nmax_retries = 0\n{more}\n[consumers.worker.grants]\nsend = [\"report\"]\nstate = true\n"
        ),
    );
    kitchen.write("it.wasm", fs::read(guests::component(guest)).unwrap());
    kitchen
}

/// Sends commands one after another, and gives what was reported.
fn reports(runtime: &Runtime, commands: &[Value]) -> Vec<Value> {
    for command in commands {
        runtime.send("jobs", command.to_string());
    }
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    let body = |message: &Value| serde_json::from_str::<Value>(message["body"].as_str().unwrap()).unwrap();
    runtime.peek("report").iter().map(body).collect()
}

fn counts(runtime: &Runtime, commands: &[Value]) -> Vec<u64> {
    reports(runtime, commands).iter().filter_map(|report| report["count"].as_u64()).collect()
}

fn count() -> Value {
    json!({ "do": "count" })
}

#[test]
fn a_fresh_instance_remembers_nothing_and_a_reused_one_serves_many_deliveries() {
    for (more, expected) in [("", [1; 5]), ("instance = \"reused\"", [1, 2, 3, 4, 5])] {
        let kitchen = kitchen("behave", more);
        let runtime = kitchen.start_ready();
        assert_eq!(counts(&runtime, &vec![count(); 5]), expected, "{more}");
    }
}

#[test]
fn an_instance_goes_after_any_trap_timeout_or_limit_and_stays_after_an_answer() {
    let kitchen = kitchen("behave", "instance = \"reused\"\ntimeout = \"1s\"\nmemory_limit = \"16MiB\"");
    let runtime = kitchen.start_ready();
    let mut commands = vec![count()];
    let mut expected = vec![1];
    for (last, stays) in [
        (json!({ "do": "panic" }), false),
        (json!({ "do": "exit" }), false),
        (json!({ "do": "loop" }), false),
        (json!({ "do": "allocate" }), false),
        (json!({ "do": "send", "to": "report", "bytes": 2_000_000 }), false),
        (json!({ "do": "print", "lines": vec!["x".repeat(8000); 40] }), false),
        (json!({ "do": "retry" }), true),
        (json!({ "do": "dead-letter" }), true),
        (json!({ "do": "send", "to": "nowhere" }), true),
    ] {
        commands.extend([last, count()]);
        expected.push(if stays { expected.last().unwrap() + 1 } else { 1 });
    }
    assert_eq!(counts(&runtime, &commands), expected);
}

#[test]
fn an_instance_goes_after_each_limit_also_if_its_handler_coped() {
    let grow =
        by_hand::component_of("(table $t 1 funcref) (func $f (drop (table.grow $t (ref.null func) (i32.const 4000))))");
    let send = |count: u32, bytes: u32| json!({ "do": "send", "to": "report", "count": count, "bytes": bytes });
    let ok = json!({ "do": "ok" });
    for (guest, limits, well, over) in [
        ("behave", "cpu_time = \"200ms\"", ok.clone(), json!({ "do": "loop" })),
        ("behave", "host_call_bytes = \"64KiB\"", ok.clone(), send(1, 100_000)),
        ("behave", "sends = 3", send(3, 1), send(4, 1)),
        ("behave", "send_bytes = \"10KiB\"", send(1, 9000), send(1, 11_000)),
        (
            "outside",
            "random_bytes = \"1KiB\"",
            json!({ "do": "random", "bytes": 100 }),
            json!({ "do": "random", "bytes": 2000 }),
        ),
        ("state", "state_bytes = \"1KiB\"", json!({ "do": "keys" }), json!({ "do": "set", "key": "k", "bytes": 2000 })),
        // Twice is too much, and once is not. It acknowledges whatever happens.
        ("grow", "table_elements = 8000", json!({}), json!({})),
    ] {
        let kitchen =
            kitchen(if guest == "grow" { "behave" } else { guest }, &format!("instance = \"reused\"\nlimits.{limits}"));
        if guest == "grow" {
            kitchen.write("it.wasm", &grow);
        }
        let runtime = kitchen.start_ready();
        for (body, instances) in [(&well, json!([{ "generation": 1, "count": 1 }])), (&over, json!([]))] {
            runtime.send("jobs", body.to_string());
            runtime.until("it is handled", |runtime| runtime.is_empty("jobs"));
            assert_eq!(runtime.consumer("worker")["instances"], instances, "{guest}, {limits}: {body}");
        }
    }
}

#[test]
fn an_instance_goes_after_too_many_connections() {
    let web = Web::http();
    let kitchen = Kitchen::new(
        "",
        &format!(
            "[queues.jobs]\n[queues.report]\n[consumers.worker]\nqueue = \"jobs\"\ncomponent = {:?}\n\
             max_concurrency = 1\ninstance = \"reused\"\n\
             [consumers.worker.grants]\nsend = [\"report\"]\nhttp = [\"http://{}\"]\n",
            guests::component("outside"),
            web.address
        ),
    );
    let runtime = kitchen.start_ready();
    for (count, instances) in [(64, json!([{ "generation": 1, "count": 1 }])), (65, json!([]))] {
        let command = json!({ "do": "hold", "url": format!("http://{}/large", web.address), "count": count });
        let results = reports(&runtime, &[command]).pop().unwrap()["results"].clone();
        let refused = results.as_array().unwrap().iter().filter(|result| *result != "ok").count();
        assert_eq!(refused, count - 64, "{results}");
        assert_eq!(runtime.consumer("worker")["instances"], instances, "{count}");
    }
}

#[test]
fn an_instance_goes_when_it_has_done_enough() {
    let kitchen = kitchen("behave", "instance = \"reused\"\nmax_deliveries_per_instance = 3");
    let runtime = kitchen.start_ready();
    assert_eq!(counts(&runtime, &vec![count(); 7]), [1, 2, 3, 1, 2, 3, 1]);
}

#[test]
fn an_instance_goes_when_it_is_idle() {
    let kitchen = kitchen("behave", "instance = \"reused\"\ninstance_idle_timeout = \"700ms\"");
    let runtime = kitchen.start_ready();
    assert_eq!(counts(&runtime, &[count(), count()]), [1, 2]);
    assert_eq!(runtime.consumer("worker")["instances"], json!([{ "generation": 1, "count": 1 }]));
    runtime.until("it goes", |runtime| runtime.consumer("worker")["instances"] == json!([]));
    assert_eq!(counts(&runtime, &[count()]), [1, 2, 1]);
    // One that is used now and then stays.
    for n in 2..5 {
        thread::sleep(Duration::from_millis(300));
        assert_eq!(counts(&runtime, &[count()]).last(), Some(&n));
    }
}

#[test]
fn an_instance_belongs_to_its_generation_and_shows_it() {
    let kitchen = kitchen("behave", "instance = \"reused\"\ninstance_idle_timeout = \"1h\"");
    let runtime = kitchen.start_ready();
    let print = json!({ "do": "print", "lines": ["here I am"] });
    assert_eq!(counts(&runtime, &[count(), print.clone()]), [1]);
    let component = fs::read(guests::component("behave")).unwrap();
    kitchen.write("it.wasm", guests::with_custom_section(&component, "version", b"2"));
    runtime.until("the swap", |runtime| runtime.consumer("worker")["generation"] == 2);
    // It does not wait for the next message, nor for the end of its idle time.
    runtime.until("the old one goes", |runtime| runtime.consumer("worker")["instances"] == json!([]));
    assert_eq!(counts(&runtime, &[count(), count(), print]), [1, 1, 2]);
    assert_eq!(runtime.consumer("worker")["instances"], json!([{ "generation": 2, "count": 1 }]));
    let log = runtime.log();
    let shown: Vec<_> = log.lines().filter(|line| line.contains("here I am")).collect();
    assert!(shown[0].contains("generation=1") && shown[1].contains("generation=2"), "{shown:?}");
}

#[test]
fn nothing_of_one_delivery_shows_in_the_next() {
    let kitchen = kitchen("behave", "instance = \"reused\"");
    let runtime = kitchen.start_ready();
    let dropped = json!({ "do": "send", "to": "report", "then": { "do": "eprint", "lines": ["mine"], "then": { "do": "retry" } } });
    let reports = reports(&runtime, &[count(), dropped, json!({ "do": "dead-letter" }), count()]);
    assert_eq!(reports.iter().map(|report| &report["count"]).collect::<Vec<_>>(), [&json!(1), &json!(2)]);
    let letters = runtime.peek("jobs.dead");
    let stderr = |reason: usize| letters[reason]["attributes"]["linecook-stderr"].as_str().unwrap();
    assert_eq!([stderr(0), stderr(1)], ["mine\n", ""]);
}

#[test]
fn what_counts_by_delivery_starts_anew_with_each() {
    let limits =
        "limits.sends = 2\nlimits.send_bytes = \"1000B\"\nlimits.log_bytes = \"1000B\"\nlimits.cpu_time = \"1s\"";
    let kitchen = kitchen("behave", &format!("instance = \"reused\"\n{limits}"));
    let runtime = kitchen.start_ready();
    let print = json!({ "do": "print", "lines": ["x".repeat(900)], "then": count() });
    let send = json!({ "do": "send", "to": "report", "bytes": 600, "then": print });
    let send = json!({ "do": "compute", "ms": 500, "then": send });
    for _ in 0..4 {
        runtime.send("jobs", send.to_string());
    }
    runtime.until("all handled", |runtime| runtime.is_empty("jobs"));
    let reported = runtime.peek("report");
    let counts = reported.iter().filter_map(|report| serde_json::from_str::<Value>(report["body"].as_str()?).ok());
    let counts: Vec<_> = counts.map(|report| report["count"].as_u64()).collect();
    assert_eq!(counts, [1, 2, 3, 4].map(Some), "{}", runtime.log());
    assert_eq!(reported.len(), 8);
}

#[test]
fn cpu_time_does_not_pass_while_an_instance_is_idle() {
    let kitchen = kitchen("behave", "instance = \"reused\"\nlimits.cpu_time = \"1ms\"\ninstance_idle_timeout = \"1h\"");
    let runtime = kitchen.start_ready();
    for handled in 1..=20 {
        assert_eq!(counts(&runtime, &[count()]).last(), Some(&handled), "{}", runtime.log());
        // Some ends of epochs. That they don't begin the measuring of the next delivery saves time and does not show: this
        // fails if the time in between, or that of the deliveries before, is counted.
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn random_bytes_are_counted_for_each_delivery() {
    let kitchen = kitchen("outside", "instance = \"reused\"\nlimits.random_bytes = \"10000B\"");
    let runtime = kitchen.start_ready();
    let reports = reports(&runtime, &vec![json!({ "do": "random", "bytes": 9000 }); 3]);
    let bytes: Vec<_> = reports.iter().map(|report| &report["bytes"]).collect();
    assert_eq!(bytes, [9000; 3], "{}", runtime.log());
    assert_eq!(runtime.consumer("worker")["instances"], json!([{ "generation": 1, "count": 1 }]));
}

#[test]
fn an_instance_that_keeps_messages_goes() {
    let kitchen = kitchen("messaging", "instance = \"reused\"");
    let runtime = kitchen.start_ready();
    for (body, instances) in [
        ("ok", json!([{ "generation": 1, "count": 1 }])),
        ("hoard", json!([])),
        ("keep 2000000", json!([{ "generation": 1, "count": 1 }])),
    ] {
        runtime.send("jobs", body);
        runtime.until("it is handled", |runtime| runtime.is_empty("jobs"));
        assert_eq!(runtime.consumer("worker")["instances"], instances, "{body}");
    }
    assert!(runtime.is_empty("jobs.dead"), "{}", runtime.log());
}

#[test]
fn many_at_once_have_an_instance_each_and_no_more_than_there_is_room_for() {
    let kitchen = Kitchen::new(
        "",
        &format!(
            "[queues.jobs]\n[queues.report]\n[consumers.worker]\nqueue = \"jobs\"\ncomponent = {:?}\n\
             max_concurrency = 6\ninstance = \"reused\"\n[consumers.worker.grants]\nsend = [\"report\"]\n",
            guests::component("behave")
        ),
    );
    let runtime = kitchen.start_ready();
    let slow = json!({ "do": "sleep", "ms": 50, "then": { "do": "count" } });
    let counts = counts(&runtime, &vec![slow; 60]);
    assert_eq!(counts.len(), 60);
    let instances = counts.iter().filter(|count| **count == 1).count() as u64;
    assert!((2..=6).contains(&instances), "{instances}");
    assert_eq!(runtime.consumer("worker")["instances"], json!([{ "generation": 1, "count": instances }]));
}

#[test]
fn batches_can_have_reused_instances() {
    let kitchen = kitchen("bulk", "instance = \"reused\"\nmax_batch_size = 5\nmax_batch_timeout = \"100ms\"");
    let runtime = kitchen.start_ready();
    let mut commands = vec![json!({ "do": "ok" }); 12];
    commands.insert(6, json!({ "do": "panic" }));
    assert_eq!(reports(&runtime, &commands).len(), 12);
    assert_eq!(runtime.peek("jobs.dead").len(), 1);
    assert_eq!(runtime.consumer("worker")["instances"], json!([{ "generation": 1, "count": 1 }]));
}
