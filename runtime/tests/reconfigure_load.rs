//! A hundred edits of `queue.toml`, every third one wrong, while messages flow and builds are swapped, promoted and rolled
//! back: nothing is lost, nothing is handled by a consumer that the file no longer names, and what a bad build failed costs no
//! attempt.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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

/// So many edits in a row leave the consumer of `trial` as it is: each change of it begins its trial anew.
const SAME_TRIAL: usize = 20;

/// The file after the edit of this number. Every edit gives the consumer of `work` another name; those of `side` come and
/// go, and so does their queue; that of `trial`, whose new builds are on trial first, changes now and then.
fn tables(edit: usize, random: &mut fastrand::Rng) -> String {
    let mut text = String::from("[queues.report]\nmax_bytes = \"1GiB\"\n[queues.work]\n[queues.trial]\n");
    text.push_str(&format!(
        "[consumers.trial]\nqueue = \"trial\"\ncomponent = \"trial.wasm\"\ndead_letter_queue = \"dead\"\nmax_retries = 0\n\
         grants.send = [\"report\"]\ngrants.env = {{ WHO = \"{}\" }}\ncanary = {{ share = \"10%\", deliveries = 20 }}\n",
        edit - edit % SAME_TRIAL
    ));
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
    let good = tables(1, random).replace("WHO = \"1\"", "WHO = \"wrong\"").replace("WHO = \"0\"", "WHO = \"wrong\"");
    let good = text(site, &good);
    match edit % 5 {
        0 => (good.replace("[queues.work]", "[queues.work"), "not valid TOML"),
        1 => (good.replace("timeout", "time_out"), "unknown key `time_out`"),
        2 => (good.replace("queue = \"work\"", "queue = \"wrok\""), "did you mean `work`?"),
        3 => (good.replacen("listen =", "workers = 9\nlisten =", 1), "`workers` can't change"),
        _ => (good.replace("[\"report\"]", "[\"reports\"]"), "did you mean `report`?"),
    }
}

/// A client that sends to all queues, and remembers which edit was in force before each message that was confirmed.
fn send(site: Arc<Site>, in_force: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> JoinHandle<HashMap<String, usize>> {
    thread::spawn(move || {
        let mut confirmed = HashMap::new();
        while !stop.load(Ordering::SeqCst) {
            for queue in ["work", "side", "trial", "trial", "trial"] {
                let before = in_force.load(Ordering::SeqCst);
                let before = if queue == "trial" { before - before % SAME_TRIAL } else { before };
                // The reports of a message on trial also say which attempt it was.
                let then = json!({ "do": if queue == "trial" { "message" } else { "ok" } });
                let body = json!({ "do": "env", "name": "WHO", "then": then });
                let answer = site.post(&format!("/queues/{queue}/messages"), body.to_string());
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

/// What became of the builds.
#[derive(Debug, Default)]
struct Builds {
    promoted: usize,
    rolled_back: usize,
    swapped: usize,
}

/// Gives the consumer of `trial` good and bad builds, and the others good ones, round by round.
fn build(site: Arc<Site>, stop: Arc<AtomicBool>) -> JoinHandle<Builds> {
    let [good, bad] = ["behave", "logs"].map(|name| fs::read(guests::component(name)).unwrap());
    let swap = move |site: &Site, name: &str, round: usize| {
        let original = if name == "bad" { &bad } else { &good };
        let build = guests::with_custom_section(original, "build", &round.to_le_bytes());
        let target = if name == "side" { "behave.wasm" } else { "trial.wasm" };
        fs::write(site.path("build.new"), &build).unwrap();
        fs::rename(site.path("build.new"), site.path(target)).unwrap();
        Sha256::digest(&build).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let shown = |site: &Site, name: &str| {
        let now = site.get("/consumers");
        now["consumers"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap_or_default()
    };
    thread::spawn(move || {
        let mut builds = Builds::default();
        while builds.swapped == 0 || !stop.load(Ordering::SeqCst) {
            let round = builds.swapped;
            let promoted = swap(&site, "good", round);
            eventually("the promotion", || {
                let now = shown(&site, "trial");
                when(now["module_hash"] == promoted.as_str(), &now)
            });
            builds.promoted += 1;
            swap(&site, "bad", round);
            eventually("the way back", || {
                let now = shown(&site, "trial");
                assert_eq!(now["module_hash"], promoted.as_str(), "a bad build is in force");
                when(now["reload_error"].as_str().is_some_and(|error| error.contains("was rolled back")), &now)
            });
            builds.rolled_back += 1;
            let swapped = swap(&site, "side", round);
            // It comes and goes.
            eventually("the other build", || {
                let now = shown(&site, "side");
                when(now["module_hash"] == swapped.as_str(), &now)
            });
            builds.swapped += 1;
        }
        builds
    })
}

#[test]
fn a_hundred_edits_lose_nothing_and_nobody_works_who_is_not_named() {
    let mut random = fastrand::Rng::with_seed(senders::seed());
    let site = Arc::new(Site::new(&tables(0, &mut random)));
    for name in ["behave.wasm", "trial.wasm"] {
        fs::copy(guests::component("behave"), site.path(name)).unwrap();
    }
    let runtime = site.start();
    let (in_force, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let edited = Arc::new(AtomicBool::new(false));
    let builds = build(site.clone(), edited.clone());
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
    edited.store(true, Ordering::SeqCst);
    // The trials need messages.
    let builds = builds.join().unwrap();
    stop.store(true, Ordering::SeqCst);
    let confirmed: HashMap<String, usize> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();

    site.wait_empty("work");
    site.wait_empty("side");
    site.wait_empty("trial");
    let mut handled: HashMap<String, usize> = HashMap::new();
    for message in site.take_all("report", "dead") {
        let report: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        if !report["attempt"].is_null() {
            assert_eq!(report["attempt"], 1, "what a build fails on trial costs no attempt");
            continue;
        }
        let (input, who) = (report["input"].as_str().unwrap(), report["value"].as_str().unwrap());
        let who: usize = who.parse().expect("no edit that was refused has ever been in force");
        assert!(named.contains(&who) || who.is_multiple_of(SAME_TRIAL));
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
        when(names == ["side", "trial", &format!("work-{EDITS}")], &now)
    });
    let consumers: std::collections::HashSet<_> = handled.values().collect();
    println!(
        "{} messages, {} edits, {refused} of them refused; {} files have handled some; {builds:?}",
        handled.len(),
        EDITS,
        consumers.len()
    );
    let ended = runtime.stop();
    let lines = |part| ended.stderr.lines().filter(|line| line.contains(part)).count();
    assert!(lines("on trial: takes 10% of the deliveries until it has had 20") >= builds.promoted + builds.rolled_back);
    // Fewer failures are no reason to roll back.
    assert!(lines("failed on trial; the attempt does not count") >= 3 * builds.rolled_back);
    assert!(!ended.stderr.contains("the attempt failed"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}
