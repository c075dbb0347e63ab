//! Subjects, through the real binary: one message in every queue that subscribes, in one step; from HTTP, the command
//! line and a guest.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared with benchmarks")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::Site;

const QUEUES: &str = "[queues.billing]\nsubscribe = [\"orders.placed\", \"orders.*\"]\n\
                      [queues.audit]\nsubscribe = [\">\"]\n\
                      [queues.logs]\nsubscribe = [\"logs.>\"]\n[queues.jobs]\n";

fn bodies(site: &Site, queue: &str) -> Vec<Value> {
    site.messages(queue).iter().map(|message| message["body"].clone()).collect()
}

#[test]
fn a_message_is_put_once_into_every_queue_that_subscribes() {
    let site = Site::new(QUEUES);
    let _runtime = site.start();
    let headers = [("linecook-key", "k"), ("linecook-attribute-tenant", "acme"), ("idempotency-key", "once")];
    let answer = site.request("POST", "/subjects/orders.placed/messages", &headers, b"one").unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    for queue in ["billing", "audit"] {
        let messages = site.messages(queue);
        assert_eq!(messages.len(), 1, "{queue}");
        assert_eq!((&messages[0]["id"], &messages[0]["key"]), (&answer.body["ids"][queue], &json!("k")));
        assert_eq!(messages[0]["attributes"], json!({ "tenant": "acme", "linecook-subject": "orders.placed" }));
    }
    assert_eq!((site.count("logs"), &answer.body["id"]), (0, &answer.body["ids"]["audit"]));

    // A duplicate in every queue is one, with the first ids.
    let again = site.request("POST", "/subjects/orders.placed/messages", &headers, b"two").unwrap();
    assert_eq!((again.status, &again.body), (200, &answer.body));

    let batch = "{\"body\":\"a\"}\n{\"body\":\"b\"}\n";
    let answer = site.post("/subjects/logs.app.error/messages/batch", batch);
    assert_eq!((answer.status, answer.body["ids"].as_array().unwrap().len()), (202, 2), "{}", answer.body);
    assert_eq!(bodies(&site, "logs"), ["a", "b"]);
    assert_eq!(bodies(&site, "audit"), ["one", "a", "b"]);
    assert_eq!(answer.body["copies"][1]["logs"], site.messages("logs")[1]["id"]);

    site.run_well(&["send", "--subject", "orders.shipped", "from the command line"]);
    assert_eq!(bodies(&site, "billing"), ["one", "from the command line"]);
}

#[test]
fn what_nobody_would_get_is_refused() {
    let site = Site::new(
        "[queues.billing]\nsubscribe = [\"orders.placed\"]\nmax_bytes = \"1KiB\"\n\
                          [queues.audit]\nsubscribe = [\"orders.placed\"]",
    );
    let _runtime = site.start();
    let answer = site.post("/subjects/orders.place/messages", "x");
    assert_eq!((answer.status, &answer.body["did_you_mean"]), (404, &json!("orders.placed")), "{}", answer.body);
    for (subject, status) in [("shipments", 404), ("orders.*", 400), ("orders..placed", 400), ("a%20b", 400)] {
        assert_eq!(site.post(&format!("/subjects/{subject}/messages"), "x").status, status, "{subject}");
        assert_eq!(site.post(&format!("/subjects/{subject}/messages/batch"), "[]").status, status, "{subject}");
    }
    // A queue that is full refuses for all.
    assert_eq!(site.post("/subjects/orders.placed/messages", vec![b'x'; 2000]).status, 507);
    assert_eq!((site.count("billing"), site.count("audit")), (0, 0));
}

#[test]
fn a_guest_sends_to_subjects_that_it_is_granted() {
    let component = guests::component("behave");
    let site = Site::new(&format!(
        "{QUEUES}[consumers.worker]\nqueue = \"jobs\"\ncomponent = {component:?}\nmax_retries = 0\n\
         [consumers.worker.grants]\nsend = [\"orders.*\", \"logs.app\"]\n"
    ));
    let _runtime = site.start();
    let send = |to: &str| site.send("jobs", json!({ "do": "send", "to": to }));
    send("orders.placed");
    send("logs.app");
    let refused = [send("logs.other"), send("audit"), send("orders.a.b")];
    let dead = site.wait_messages("jobs.dead", refused.len());
    for letter in &dead {
        let reason = letter["attributes"]["linecook-reason"].as_str().unwrap();
        assert!(reason.contains("no grant to send to"), "{reason}");
    }
    site.wait_empty("jobs");
    assert_eq!((site.count("billing"), site.count("logs"), site.count("audit")), (1, 1, 2));
    assert_eq!(site.messages("billing")[0]["attributes"]["linecook-subject"], "orders.placed");
}

#[test]
fn a_redriven_message_still_knows_its_subject() {
    let component = guests::component("behave");
    let site = Site::new(&format!(
        "[queues.jobs]\nsubscribe = [\"work.*\"]\n[queues.seen]\n[consumers.worker]\nqueue = \"jobs\"\n\
         component = {component:?}\nmax_retries = 0\n"
    ));
    let _runtime = site.start();
    assert_eq!(site.post("/subjects/work.hard/messages", "{\"do\":\"retry\"}").status, 202);
    let dead = site.wait_messages("jobs.dead", 1).remove(0);
    assert_eq!(dead["attributes"]["linecook-subject"], "work.hard");
    assert_eq!(site.post("/queues/jobs.dead/redrive", "{\"to\":\"seen\"}").body["moved"], 1);
    assert_eq!(site.messages("seen")[0]["attributes"], json!({ "linecook-subject": "work.hard" }));
}

/// Sends numbers to a subject, alone and in batches, until it is told to stop. Answers those that were confirmed.
fn send_numbers(site: &Site, sender: u64, stop: &AtomicBool) -> Vec<String> {
    let mut confirmed = Vec::new();
    let mut next = sender * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let numbers: Vec<_> = (next..next + fastrand::u64(1..=4)).map(|number| number.to_string()).collect();
        next += numbers.len() as u64;
        let (path, body) = match &numbers[..] {
            [number] => ("/subjects/orders.placed/messages", number.clone()),
            _ => {
                let batch: Vec<_> = numbers.iter().map(|number| json!({ "body": number })).collect();
                ("/subjects/orders.placed/messages/batch", Value::from(batch).to_string())
            }
        };
        // Without an answer, they are there or not.
        if let Ok(answer) = site.request("POST", path, &[], body.as_bytes()) {
            assert_eq!(answer.status, 202, "{}", answer.body);
            confirmed.extend(numbers);
        }
        thread::sleep(Duration::from_micros(fastrand::u64(..10_000)));
    }
    confirmed
}

#[test]
fn a_kill_leaves_a_message_in_every_queue_or_in_none() {
    let site = Site::new("[queues.one]\nsubscribe = [\"orders.*\"]\n[queues.two]\nsubscribe = [\">\"]\n[queues.seen]");
    let stop = AtomicBool::new(false);
    let (confirmed, _runtime) = thread::scope(|scope| {
        let (site, stop) = (&site, &stop);
        let senders: Vec<_> = (0..4).map(|sender| scope.spawn(move || send_numbers(site, sender, stop))).collect();
        for _ in 0..20 {
            let runtime = site.start();
            thread::sleep(Duration::from_millis(fastrand::u64(50..300)));
            runtime.kill();
        }
        let runtime = site.start();
        stop.store(true, Ordering::Relaxed);
        (senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>(), runtime)
    });
    let [one, two] = ["one", "two"].map(|queue| {
        let all: Vec<_> = site.take_all(queue, "seen").iter().map(|message| message["body"].to_string()).collect();
        let different: BTreeSet<_> = all.iter().cloned().collect();
        assert_eq!(different.len(), all.len(), "some came twice");
        different
    });
    let apart: Vec<_> = one.symmetric_difference(&two).collect();
    assert!(apart.is_empty(), "in one queue only: {apart:?}");
    let lost: Vec<_> = confirmed.iter().filter(|number| !one.contains(&format!("\"{number}\""))).collect();
    assert!(lost.is_empty() && confirmed.len() > 100, "of {} confirmed, these are lost: {lost:?}", confirmed.len());
    println!("{} messages, {} of them confirmed", one.len(), confirmed.len());
}
