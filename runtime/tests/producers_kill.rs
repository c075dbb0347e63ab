//! SIGKILL at any moment while files grow and rotate, files appear, and a schedule comes every second: each line, each file
//! (whether it is kept, moved or deleted afterwards) and each second becomes one message.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

/// Each producer is killed so often while it is at work. Between these kills there are some that hit a runtime that starts.
const KILLS: u32 = 20;
/// If it takes more, the runtimes do not live long enough to do anything.
const KILLS_MAX: u32 = 10 * KILLS;

/// Folders that are watched; their producers and queues have the same names. It says what is done with the files afterwards,
/// but for the last one: of that, the paths are sent.
const WATCHES: [&str; 4] = ["keep", "move", "delete", "path"];

fn tables() -> String {
    let watch = |name: &&str| {
        let settings = match *name {
            "move" => "after = \"move\"\nmove_to = \"done\"\n",
            "path" => "after = \"keep\"\nbody = \"path\"\n",
            "delete" => "after = \"delete\"\n",
            _ => "after = \"keep\"\n",
        };
        format!(
            "[queues.{name}]\n[producers.{name}]\nkind = \"watch\"\nqueue = \"{name}\"\nfolder = \"{name}\"\n\
             settle = \"20ms\"\n{settings}"
        )
    };
    let watches: String = WATCHES.iter().map(watch).collect();
    format!(
        "[queues.seconds]\n[queues.lines]\n[queues.seen]\n{watches}\
         [producers.seconds]\nkind = \"cron\"\nqueue = \"seconds\"\nschedule = \"* * * * * *\"\ncatch_up = \"all\"\n\
         [producers.lines]\nkind = \"tail\"\nqueue = \"lines\"\nfiles = \"logs/app.log*\"\n"
    )
}

/// Writes numbered lines, and rotates in all ways, until it is told to stop. Answers how many lines there are.
fn write_lines(site: &Site, stop: &AtomicBool, mut random: fastrand::Rng) -> u64 {
    let (mut lines, mut rotations) = (0, 0);
    let log = site.path("logs/app.log");
    while !stop.load(Ordering::Relaxed) {
        let mut text = String::new();
        for _ in 0..random.usize(1..20) {
            text.push_str(&format!("{lines} {}\n", "x".repeat(random.usize(..200))));
            lines += 1;
        }
        OpenOptions::new().append(true).create(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
        let rotated = site.path(format!("logs/app.log.{rotations}"));
        match random.u32(..40) {
            0 => fs::rename(&log, &rotated).unwrap(),
            1 => {
                fs::copy(&log, &rotated).unwrap();
                File::options().write(true).truncate(true).open(&log).unwrap();
            }
            _ => {
                thread::sleep(Duration::from_millis(random.u64(..40)));
                continue;
            }
        }
        rotations += 1;
    }
    lines
}

/// Writes numbered files into a folder until it is told to stop. Answers how many there are.
fn write_files(site: &Site, folder: &str, stop: &AtomicBool, mut random: fastrand::Rng) -> u64 {
    let mut files = 0;
    let folder = site.path(folder);
    while !stop.load(Ordering::Relaxed) {
        let text = format!("{files} {}", "x".repeat(random.usize(..2000)));
        if random.bool() {
            fs::write(folder.join(format!("{files}.txt")), text).unwrap();
        } else {
            // Under a name that is not seen first, as careful programs do.
            fs::write(folder.join(".part"), text).unwrap();
            fs::rename(folder.join(".part"), folder.join(format!("{files}.txt"))).unwrap();
        }
        files += 1;
        thread::sleep(Duration::from_millis(random.u64(..80)));
    }
    files
}

/// Lives for a moment after it is ready, and is killed. Answers which producers had sent something by then: they were at work.
fn live_and_be_killed(site: &Site, random: &mut fastrand::Rng) -> Vec<String> {
    let mut runtime = site.spawn();
    site.wait_ready(&mut runtime);
    thread::sleep(Duration::from_millis(random.u64(..1500)));
    let producers = site.get("/producers");
    let sent = |one: &&Value| one["sent"].as_u64().unwrap() > 0;
    let producers = producers["producers"].as_array().unwrap();
    let at_work = producers.iter().filter(sent).map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    // The schedule does its work in the first moments of a second, so that is when it is hit half of the time.
    let into_the_second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_millis();
    let rest = if random.bool() { u64::from(1000 - into_the_second) } else { 0 };
    thread::sleep(Duration::from_millis(rest) + Duration::from_micros(random.u64(..20_000)));
    runtime.kill();
    at_work
}

/// How often each number is there.
fn numbers(messages: &[Value]) -> BTreeMap<u64, u32> {
    let mut numbers = BTreeMap::new();
    for message in messages {
        // It begins with the number, or is the path of a file whose name is the number.
        let begin = message["body"].as_str().unwrap().split(' ').next().unwrap();
        let number = Path::new(begin).file_stem().unwrap().to_str().unwrap();
        *numbers.entry(number.parse().unwrap()).or_default() += 1;
    }
    numbers
}

fn assert_each_once(what: &str, numbers: &BTreeMap<u64, u32>, count: u64) {
    let lost: Vec<_> = (0..count).filter(|number| !numbers.contains_key(number)).collect();
    assert!(lost.is_empty(), "{} of {count} {what} are lost: {lost:?}", lost.len());
    let twice: Vec<_> = numbers.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "of {count} {what}, these came more than once: {twice:?}");
    assert_eq!(numbers.len() as u64, count);
}

#[test]
fn nothing_is_lost_or_sent_twice_however_often_the_process_is_killed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed} repeats the choices of this run");
    let mut random = fastrand::Rng::with_seed(seed);
    let site = Arc::new(Site::new(&tables()));
    for folder in WATCHES.iter().chain(&["logs"]) {
        fs::create_dir(site.path(folder)).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let lines = {
        let (site, stop, random) = (site.clone(), stop.clone(), random.fork());
        thread::spawn(move || write_lines(&site, &stop, random))
    };
    let files = WATCHES.map(|folder| {
        let (site, stop, random) = (site.clone(), stop.clone(), random.fork());
        thread::spawn(move || write_files(&site, folder, &stop, random))
    });

    let mut kills = 0;
    let mut hits: BTreeMap<String, u32> =
        ["seconds", "lines"].iter().chain(&WATCHES).map(|name| ((*name).to_owned(), 0)).collect();
    while hits.values().any(|hits| *hits < KILLS) {
        assert!(kills < KILLS_MAX, "after {kills} kills these were hit at work: {hits:?}");
        kills += 1;
        if kills % 4 == 0 {
            let runtime = site.spawn();
            thread::sleep(Duration::from_millis(random.u64(..200)));
            runtime.kill();
        } else {
            for name in live_and_be_killed(&site, &mut random) {
                *hits.get_mut(&name).unwrap() += 1;
            }
        }
    }
    let runtime = site.start();
    stop.store(true, Ordering::Relaxed);
    let (lines, files) = (lines.join().unwrap(), files.map(|writer| writer.join().unwrap()));

    let expected: Vec<_> = WATCHES.into_iter().zip(files).chain([("lines", lines)]).collect();
    eventually("all lines and files", || {
        let seen: Vec<_> = expected.iter().map(|(queue, count)| (*queue, site.count(queue), *count)).collect();
        when(seen.iter().all(|(_, seen, count)| seen >= count), format!("{seen:?}"))
    });
    // Longer than a file that may be a copy is left alone: what comes twice comes now.
    thread::sleep(Duration::from_secs(5));
    for (queue, count) in &expected {
        assert_each_once(queue, &numbers(&site.take_all(queue, "seen")), *count);
    }
    let [kept, moved, deleted, named] = files;
    let left = |folder: &str| fs::read_dir(site.path(folder)).unwrap().count() as u64;
    assert_eq!((left("keep"), left("move"), left("done"), left("delete")), (kept, 0, moved, 0), "{files:?}");
    assert_eq!(left("path"), named);
    assert!(deleted > 0);
    runtime.stop();

    let runtime = site.start();
    eventually("a second that is on record", || when(site.count("seconds") > 0, "none"));
    let runs = site.take_all("seconds", "seen");
    let at = |run: &Value| run["attributes"]["scheduled-at"].as_str().unwrap().to_owned();
    let seconds: Vec<_> = runs.iter().map(at).collect();
    let at = |text: &String| humantime::parse_rfc3339(text).unwrap();
    for pair in seconds.windows(2) {
        let step = at(&pair[1]).duration_since(at(&pair[0])).expect("in their order");
        assert_eq!(step, Duration::from_secs(1), "{} is followed by {}", pair[0], pair[1]);
    }
    // Whoever sends a run again under its own key, as a runtime would that had forgotten its position, adds nothing.
    for (run, second) in runs.iter().zip(&seconds) {
        let key = format!("cron/seconds/{second}");
        let again = site.request("POST", "/queues/seconds/messages", &[("idempotency-key", &key)], b"").unwrap();
        assert_eq!((again.status, &again.body["id"]), (200, &run["id"]), "{key}");
    }
    println!("{kills} kills, at work: {hits:?}; {lines} lines, {files:?} files, {} seconds", seconds.len());
    assert!(lines > 200 && files.iter().all(|files| *files > 50) && seconds.len() > 10, "too little to show anything");
    runtime.stop();
}
