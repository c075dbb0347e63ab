//! SIGKILL at any moment: what was confirmed is handled, what was handled took effect once, and nothing else is a
//! dead letter than what has used up its attempts.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;
#[path = "support/senders.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod senders;

use runtime::{Site, eventually, when};
use senders::Senders;

/// Three of four hit a runtime that serves, the others one that recovers.
const KILLS: u32 = 28;

#[test]
fn what_is_confirmed_is_handled_and_takes_effect_once_however_often_the_process_is_killed() {
    let seed = senders::seed();
    let mut random = fastrand::Rng::with_seed(seed);
    // An attempt that a kill interrupts counts: so many kills must not use up the attempts of any message.
    let site = Arc::new(Site::new(&format!(
        "[queues.inputs]\n[queues.audit]\n[queues.seen]\n\n[consumers.audit]\nqueue = \"inputs\"\ncomponent = {:?}\n\
         max_retries = {}\nretry_delay = \"10ms\"\nretry_delay_max = \"50ms\"\ngrants.send = [\"audit\"]",
        guests::component("audit"),
        KILLS + 1,
    )));
    let senders = Senders::start(
        &site,
        "inputs",
        4,
        Duration::from_millis(10),
        seed,
        |random| json!({ "number": random.u32(..), "more": "x".repeat(random.usize(..200)) }),
    );
    for kill in 1..=KILLS {
        let mut runtime = site.spawn();
        if kill % 4 == 0 {
            thread::sleep(Duration::from_millis(random.u64(..150)));
        } else {
            site.wait_ready(&mut runtime);
            thread::sleep(Duration::from_millis(random.u64(..300)));
        }
        runtime.kill();
    }
    let runtime = site.start();
    thread::sleep(Duration::from_millis(100));
    let sent = senders.finish();
    site.wait_empty("inputs");

    let confirmed: HashSet<_> = sent.confirmed.iter().cloned().collect();
    assert_eq!(confirmed.len(), sent.confirmed.len(), "an id was given twice");
    assert_eq!(site.messages("inputs.dead"), [json!(null); 0], "a dead letter that was not earned");
    let mut handled = HashSet::new();
    for message in site.take_all("audit", "seen") {
        let audit: serde_json::Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        let input = audit["input"].as_str().unwrap().to_owned();
        assert!(handled.insert(input), "{} took effect twice", audit["input"]);
    }
    let lost: Vec<_> = confirmed.difference(&handled).collect();
    assert!(lost.is_empty(), "{} of {} confirmed messages are lost: {lost:?}", lost.len(), confirmed.len());
    let unexpected = handled.len() - confirmed.len();
    assert!(unexpected <= sent.doubtful, "{unexpected} were handled beyond those that were confirmed");
    println!(
        "{KILLS} kills, {} messages confirmed, {} in doubt, {unexpected} of them handled",
        confirmed.len(),
        sent.doubtful
    );
    assert!(confirmed.len() > 100, "too few messages to show anything");
    runtime.stop();
}

#[test]
fn a_message_that_runs_at_every_kill_uses_up_its_attempts() {
    let site = Site::new(&format!(
        "[queues.work]\n\n[consumers.behave]\nqueue = \"work\"\ncomponent = {:?}\nmax_retries = 2",
        guests::component("behave"),
    ));
    let mut runtime = site.start();
    let id = site.send("work", json!({ "do": "sleep", "ms": 25_000 }));
    for attempt in 1..=3 {
        eventually("a handler that runs", || {
            let consumer = site.consumer("behave");
            when(consumer["running"] == 1, consumer)
        });
        assert_eq!(site.messages("work")[0]["attempt"], attempt);
        runtime.kill();
        runtime = site.start();
    }
    let dead = site.wait_messages("work.dead", 1);
    assert_eq!(dead[0]["id"], id.as_str());
    let facts = &dead[0]["attributes"];
    assert_eq!(facts["linecook-attempts"], "3", "{facts}");
    let reason = facts["linecook-reason"].as_str().unwrap();
    assert!(reason.contains("the process ended") && reason.contains("attempt 3"), "{reason}");
    assert!(facts["linecook-first-failed-at"].as_str() <= facts["linecook-last-failed-at"].as_str(), "{facts}");
    assert_eq!(site.count("work"), 0);
    runtime.stop();
}
