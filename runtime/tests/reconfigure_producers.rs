//! `queue.toml` is edited while the runtime runs: producers of each kind are added, changed and removed, and nothing is sent
//! twice for it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::Value;

#[path = "support/edits.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod edits;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use edits::{edit, replace, text, wait_refused};
use runtime::{Site, eventually, when};

const QUEUES: &str = "[queues.one]\n[queues.two]\n";

fn producer(kind: &str, queue: &str, keys: &str) -> String {
    format!("[producers.{kind}]\nkind = \"{kind}\"\nqueue = \"{queue}\"\n{keys}\n")
}

fn append(site: &Site, line: &str) {
    let mut file = File::options().create(true).append(true).open(site.path("lines.log")).unwrap();
    writeln!(file, "{line}").unwrap();
}

fn bodies(messages: &[Value]) -> BTreeSet<&str> {
    messages.iter().map(|message| message["body"].as_str().unwrap()).collect()
}

fn names(site: &Site) -> Vec<String> {
    let producers = site.get("/producers");
    producers["producers"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn producers_of_each_kind_come_change_and_go() {
    let site = Site::new(QUEUES);
    for folder in ["inbox", "outbox"] {
        fs::create_dir(site.path(folder)).unwrap();
    }
    append(&site, "line 1");
    let runtime = site.start();
    let hook = |path: &str, body: &str| site.post(path, body).status;
    assert_eq!((names(&site).len(), hook("/hooks/a", "x")), (0, 404));

    // They come.
    let tail = |queue: &str| producer("tail", queue, "files = \"*.log\"");
    let watch = |folder: &str| producer("watch", "one", &format!("folder = \"{folder}\"\nsettle = \"20ms\""));
    let webhook = |path: &str| producer("webhook", "one", &format!("path = \"{path}\"\nsignature = \"none\""));
    let cron = |body: &str| producer("cron", "two", &format!("schedule = \"* * * * * *\"\nbody = \"{body}\""));
    edit(&site, &format!("{QUEUES}{}{}{}", tail("one"), watch("inbox"), webhook("/hooks/a")));
    assert_eq!(names(&site), ["tail", "watch", "webhook"]);
    fs::write(site.path("inbox/1"), "file 1").unwrap();
    assert_eq!(hook("/hooks/a", "hook 1"), 202);
    assert_eq!(bodies(&site.wait_messages("one", 3)), ["file 1", "hook 1", "line 1"].into());

    // They change: another queue, another folder, another path. What was sent is not sent again.
    edit(&site, &format!("{QUEUES}{}{}{}", tail("two"), watch("outbox"), webhook("/hooks/b")));
    append(&site, "line 2");
    fs::write(site.path("inbox/2"), "not looked for").unwrap();
    fs::write(site.path("outbox/2"), "file 2").unwrap();
    assert_eq!((hook("/hooks/a", "not taken"), hook("/hooks/b", "hook 2")), (404, 202));
    assert_eq!(bodies(&site.wait_messages("two", 1)), ["line 2"].into());
    site.wait_messages("one", 5);

    // They go, and another comes.
    edit(&site, &format!("{QUEUES}{}", cron("first")));
    assert_eq!(names(&site), ["cron"]);
    append(&site, "line 3");
    fs::write(site.path("outbox/3"), "file 3").unwrap();
    assert_eq!(hook("/hooks/b", "not taken"), 404);
    eventually("two runs", || when(site.count("two") >= 3, site.count("two")));
    assert_eq!(bodies(&site.messages("two")), ["first", "line 2"].into());
    edit(&site, &format!("{QUEUES}{}", cron("second")));
    eventually("a run with the new body", || {
        let messages = site.messages("two");
        when(bodies(&messages).contains("second"), messages.len())
    });
    edit(&site, QUEUES);
    let runs = site.count("two");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(site.count("two"), runs, "the schedule was taken out");

    // They come back, and go on where they were.
    edit(&site, &format!("{QUEUES}{}{}", tail("one"), watch("outbox")));
    let messages = site.wait_messages("one", 7);
    let expected = ["file 1", "file 2", "file 3", "hook 1", "hook 2", "line 1", "line 3"];
    assert_eq!(bodies(&messages), expected.into());
    runtime.stop();
}

#[test]
fn an_edit_with_a_wrong_producer_changes_no_producer() {
    let tail = producer("tail", "one", "files = \"*.log\"");
    let site = Site::new(&format!("{QUEUES}{tail}"));
    let runtime = site.start();
    let more = producer("webhook", "three", "path = \"/hooks/a\"\nsignature = \"none\"");
    let wrong = producer("cron", "two", "schedule = \"every day\"");
    replace(&site, &text(&site, &format!("{QUEUES}[queues.three]\n{}{more}{wrong}", tail.replace("one", "two"))));
    wait_refused(&site, &["schedule", "^^^"]);
    append(&site, "line");
    assert_eq!(bodies(&site.wait_messages("one", 1)), ["line"].into());
    assert_eq!((names(&site), site.count("two")), (vec!["tail".to_owned()], 0));
    assert_eq!(site.post("/hooks/a", "x").status, 404);
    assert_eq!(site.request("GET", "/queues/three", &[], b"").unwrap().status, 404);
    runtime.stop();
}

/// A schedule that is written in another way, or in another time zone, has the same seconds.
#[test]
fn a_schedule_that_is_edited_and_restarted_sends_no_run_twice() {
    let cron = |schedule: &str, zone: &str| {
        producer("cron", "one", &format!("schedule = \"{schedule}\"\ntimezone = \"{zone}\"\ncatch_up = \"all\""))
    };
    let site = Site::new(&format!("{QUEUES}{}", cron("* * * * * *", "UTC")));
    let mut runtime = site.start();
    for (schedule, zone) in [("*/1 * * * * *", "UTC"), ("*/1 * * * * *", "Asia/Kathmandu"), ("* * * * * *", "UTC")] {
        let before = site.count("one");
        eventually("a run", || when(site.count("one") > before, before));
        edit(&site, &format!("{QUEUES}{}", cron(schedule, zone)));
        eventually("the next run", || when(site.count("one") > before + 1, before));
        runtime.kill();
        runtime = site.start();
    }
    edit(&site, QUEUES);
    let runs = site.messages("one");
    let times: Vec<_> = runs.iter().map(|run| run["attributes"]["scheduled-at"].as_str().unwrap()).collect();
    assert!(times.len() >= 6 && times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    // The key says which run it is, whatever the schedule was when it was sent.
    for (run, time) in runs.iter().zip(&times) {
        let key = [("idempotency-key", &*format!("cron/cron/{time}"))];
        let again = site.request("POST", "/queues/one/messages", &key, b"").unwrap();
        assert_eq!((again.status, &again.body["id"]), (200, &run["id"]), "{time}");
    }
    runtime.stop();
}
