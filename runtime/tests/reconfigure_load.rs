//! A hundred edits of `queue.toml`, every third one wrong, while messages flow: nothing is lost, and nothing is handled by a
//! consumer that the file no longer names.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

#[path = "support/edits.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod edits;
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;
#[path = "support/senders.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod senders;

use edits::{config, replace, text, wait_in_force, wait_refused};
use runtime::{Site, eventually, when};

const EDITS: usize = 100;

/// The file after the edit of this number. Every edit gives the consumer of `work` another name; those of `side` come and
/// go, and so does their queue.
fn tables(edit: usize, random: &mut fastrand::Rng) -> String {
    let mut text = String::from("[queues.report]\nmax_bytes = \"1GiB\"\n[queues.work]\n");
    let consumer = |name: String, queue: &str, random: &mut fastrand::Rng| {
        let mut text = format!(
            "[consumers.{name}]\nqueue = \"{queue}\"\ncomponent = \"behave.wasm\"\ndead_letter_queue = \"dead\"\n\
             grants.send = [\"report\"]\ngrants.env = {{ WHO = \"{edit}\" }}\nmax_concurrency = {}\ntimeout = \"{}s\"\n",
            random.u8(1..20),
            random.u8(20..40),
        );
        if random.bool() {
            text.push_str("instance = \"reused\"\n");
        }
        text
    };
    // Now and then nobody works it off.
    if edit % 7 != 3 {
        text.push_str(&consumer(format!("work-{edit}"), "work", random));
    }
    if edit % 4 != 2 {
        text.push_str(&format!("[queues.side]\nretention = \"{}h\"\n", random.u8(1..20)));
        if edit % 3 != 1 || edit == EDITS {
            // The same name, other settings.
            text.push_str(&consumer("side".to_owned(), "side", random));
        }
    }
    text
}

/// A file that must not be taken into use, and what is said about it.
fn wrong(edit: usize, site: &Site, random: &mut fastrand::Rng) -> (String, &'static str) {
    let good = tables(1, random).replace("WHO = \"1\"", "WHO = \"wrong\"");
    let good = text(site, &good);
    match edit % 5 {
        0 => (good.replace("[queues.work]", "[queues.work"), "not valid TOML"),
        1 => (good.replace("timeout", "time_out"), "unknown key `time_out`"),
        2 => (good.replace("queue = \"work\"", "queue = \"wrok\""), "did you mean `work`?"),
        3 => (good.replacen("listen =", "workers = 9\nlisten =", 1), "`workers` can't change"),
        _ => (good.replace("[\"report\"]", "[\"reports\"]"), "did you mean `report`?"),
    }
}

/// A client that sends to both queues, and remembers which edit was in force before each message that was confirmed.
fn send(site: Arc<Site>, in_force: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> JoinHandle<HashMap<String, usize>> {
    thread::spawn(move || {
        let mut confirmed = HashMap::new();
        while !stop.load(Ordering::SeqCst) {
            for queue in ["work", "side"] {
                let before = in_force.load(Ordering::SeqCst);
                let answer = site.post(&format!("/queues/{queue}/messages"), r#"{"do":"env","name":"WHO"}"#);
                match answer.status {
                    202 => _ = confirmed.insert(answer.body["id"].as_str().unwrap().to_owned(), before),
                    // Only one of them ever goes.
                    status => assert_eq!((status, queue), (404, "side"), "{}", answer.body),
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        confirmed
    })
}

#[test]
fn a_hundred_edits_lose_nothing_and_nobody_works_who_is_not_named() {
    let mut random = fastrand::Rng::with_seed(senders::seed());
    let site = Arc::new(Site::new(&tables(0, &mut random)));
    fs::copy(guests::component("behave"), site.path("behave.wasm")).unwrap();
    let runtime = site.start();
    let (in_force, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..2).map(|_| send(site.clone(), in_force.clone(), stop.clone())).collect();

    let mut named: Vec<usize> = vec![0];
    let mut refused = 0;
    for edit in 1..EDITS {
        if edit % 3 == 0 {
            let before = config(&site);
            let (text, reason) = wrong(edit, &site, &mut random);
            replace(&site, &text);
            let now = wait_refused(&site, &[reason]);
            assert_eq!(now["hash"], before["hash"]);
            refused += 1;
            continue;
        }
        let text = text(&site, &tables(edit, &mut random)).replace("workers = 9\n", "");
        match random.bool() {
            true => replace(&site, &text),
            false => fs::write(site.path("queue.toml"), &text).unwrap(),
        }
        named.push(edit);
        // Some are overtaken by the next one.
        if (edit + 1) % 3 == 0 || random.u8(..10) < 6 {
            wait_in_force(&site, &text);
            in_force.store(edit, Ordering::SeqCst);
        }
    }
    let last = text(&site, &tables(EDITS, &mut random)).replace("workers = 9\n", "");
    replace(&site, &last);
    wait_in_force(&site, &last);
    named.push(EDITS);
    stop.store(true, Ordering::SeqCst);
    let confirmed: HashMap<String, usize> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();

    site.wait_empty("work");
    site.wait_empty("side");
    let mut handled: HashMap<String, usize> = HashMap::new();
    for message in site.take_all("report", "dead") {
        let report: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        let (input, who) = (report["input"].as_str().unwrap(), report["value"].as_str().unwrap());
        let who: usize = who.parse().expect("no edit that was refused has ever been in force");
        assert!(named.contains(&who));
        assert_eq!(handled.insert(input.to_owned(), who), None, "{input} took effect twice");
    }
    assert_eq!(handled.len(), confirmed.len(), "what was handled is what was confirmed");
    for (id, before) in &confirmed {
        let who = handled.get(id).unwrap_or_else(|| panic!("{id} was lost"));
        assert!(who >= before, "{id} was sent when edit {before} was in force, and handled under edit {who}");
    }
    eventually("only those of the last file", || {
        let now = site.get("/consumers");
        let names: Vec<_> = now["consumers"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        when(names == ["side", &format!("work-{EDITS}")], &now)
    });
    let consumers: std::collections::HashSet<_> = handled.values().collect();
    println!(
        "{} messages, {} edits, {refused} of them refused; {} files have handled some",
        handled.len(),
        EDITS,
        consumers.len()
    );
    let ended = runtime.stop();
    assert!(!ended.stderr.contains("the attempt failed"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}
