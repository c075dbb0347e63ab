//! `rate_limit`: no more messages begin than it says, and nobody waits for those that wait for it.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

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

/// Two consumers, of which the first is limited.
fn tables(limit: &str) -> String {
    let (behave, bulk) = (guests::component("behave"), guests::component("bulk"));
    format!(
        "[queues.limited]\n[queues.free]\n[queues.report]\n\
         [consumers.limited]\nqueue = \"limited\"\ncomponent = {behave:?}\ngrants.send = [\"report\"]\n{limit}\n\
         [consumers.free]\nqueue = \"free\"\ncomponent = {bulk:?}\nmax_batch_size = 5\nmax_batch_timeout = \"1s\"\n\
         rate_limit = \"5/h\"\ngrants.send = [\"report\"]\n"
    )
}

fn site(limit: &str) -> Site {
    Site::with_runtime("workers = 2\nlog_max_bytes = \"64MiB\"", &tables(limit))
}

fn report() -> Value {
    json!({ "do": "send", "to": "report" })
}

fn counts(site: &Site, queue: &str) -> [u64; 3] {
    let queue = site.get(&format!("/queues/{queue}"));
    ["ready", "delayed", "leased"].map(|count| queue[count].as_u64().unwrap())
}

#[test]
fn what_waits_for_its_turn_is_not_leased_and_holds_nothing_up() {
    let site = site("rate_limit = \"1/h\"");
    let runtime = site.start();
    (0..5).for_each(|_| _ = site.send("limited", report()));
    eventually("one that has begun", || when(counts(&site, "limited") == [4, 0, 0], "not yet"));
    assert_eq!(site.messages("report").len(), 1);
    assert_eq!(site.consumer("limited")["rate_limit"], "1/h");
    assert!(site.run_well(&["status"]).contains("RATE LIMIT"), "the limit is shown");

    // A pause has nothing to give back.
    site.run_well(&["pause", "limited"]);
    site.run_well(&["resume", "limited"]);
    assert_eq!(counts(&site, "limited"), [4, 0, 0]);

    // Another key of the consumer gives it no new tokens.
    edit(&site, &tables("rate_limit = \"1/h\"\nmax_retries = 1"));
    assert_eq!(counts(&site, "limited"), [4, 0, 0]);
    edit(&site, &tables("rate_limit = \"1000000/s\""));
    eventually("the rest", || when(site.messages("report").len() == 5, counts(&site, "limited")[0]));
    assert_eq!(site.consumer("limited")["rate_limit"], "1000000/s");

    edit(&site, &tables("rate_limit = \"1/h\""));
    (0..3).for_each(|_| _ = site.send("limited", report()));
    edit(&site, &tables(""));
    eventually("no limit", || when(site.messages("report").len() == 8, counts(&site, "limited")[0]));
    assert_eq!(site.consumer("limited")["rate_limit"], Value::Null);

    edit(&site, &tables("rate_limit = \"1/h\""));
    (0..3).for_each(|_| _ = site.send("limited", report()));
    eventually("one more", || when(counts(&site, "limited")[0] == 2, "not yet"));
    // A drain waits for what runs, and for nothing else.
    runtime.stop();
}

#[test]
fn messages_begin_no_faster_than_the_limit_on_all_workers_together() {
    let site = site("rate_limit = \"20/s\"");
    let runtime = site.start();
    (0..25).for_each(|_| _ = site.send("limited", report()));
    let reports = site.wait_messages("report", 25);
    let at = |message: &Value| humantime::parse_rfc3339(message["enqueued_at"].as_str().unwrap()).unwrap();
    let times: Vec<SystemTime> = reports.iter().map(at).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    // Two of them may come at once, at the beginning; and a report is a moment later than what it reports.
    let taken = last.duration_since(*first).unwrap();
    assert!(taken > Duration::from_millis(23 * 50 - 200), "{taken:?}");
    runtime.stop();
}

#[test]
fn each_message_of_a_batch_counts() {
    let site = site("");
    let runtime = site.start();
    // At 5 an hour not even one more comes in while a partial batch waits: so they come one by one.
    (0..8).for_each(|_| _ = site.send("free", json!({ "do": "ok" })));
    eventually("one that has begun", || when(counts(&site, "free") == [7, 0, 0], "not yet"));
    let whole = tables("").replace("rate_limit = \"5/h\"", "rate_limit = \"5/s\"");
    edit(&site, &whole);
    eventually("all of them", || when(counts(&site, "free") == [0, 0, 0], counts(&site, "free")[0]));
    // What came before, what comes in within a second, and what was left.
    let body = |message: &Value| serde_json::from_str::<Value>(message["body"].as_str().unwrap()).unwrap();
    let mut sizes: Vec<_> = site.messages("report").iter().map(|message| body(message)["size"].as_u64()).collect();
    sizes.sort();
    assert_eq!(sizes.into_iter().flatten().collect::<Vec<_>>(), [1, 2, 2, 5, 5, 5, 5, 5]);
    runtime.stop();
}
