//! SIGKILL at any moment while files grow and rotate, files appear, and a schedule comes every second: each line, each file
//! and each second becomes one message.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

/// Three of four hit a runtime that serves, the others one that starts.
const KILLS: u32 = 24;

const TABLES: &str = r#"
[queues.seconds]
[queues.lines]
[queues.files]
[queues.seen]

[producers.seconds]
kind = "cron"
queue = "seconds"
schedule = "* * * * * *"
catch_up = "all"

[producers.lines]
kind = "tail"
queue = "lines"
files = "logs/app.log*"

[producers.files]
kind = "watch"
queue = "files"
folder = "inbox"
settle = "20ms"
after = "move"
move_to = "done"
"#;

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

/// Writes numbered files until it is told to stop. Answers how many there are.
fn write_files(site: &Site, stop: &AtomicBool, mut random: fastrand::Rng) -> u64 {
    let mut files = 0;
    while !stop.load(Ordering::Relaxed) {
        let text = format!("{files} {}", "x".repeat(random.usize(..2000)));
        if random.bool() {
            fs::write(site.path(format!("inbox/{files}.txt")), text).unwrap();
        } else {
            // Under a name that is not seen first, as careful programs do.
            fs::write(site.path("inbox/.part"), text).unwrap();
            fs::rename(site.path("inbox/.part"), site.path(format!("inbox/{files}.txt"))).unwrap();
        }
        files += 1;
        thread::sleep(Duration::from_millis(random.u64(..80)));
    }
    files
}

/// How often each number is there.
fn numbers(messages: &[Value]) -> BTreeMap<u64, u32> {
    let mut numbers = BTreeMap::new();
    for message in messages {
        let body = message["body"].as_str().unwrap();
        *numbers.entry(body.split(' ').next().unwrap().parse().unwrap()).or_default() += 1;
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
    let site = Arc::new(Site::new(TABLES));
    for folder in ["logs", "inbox"] {
        fs::create_dir(site.path(folder)).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [write_lines, write_files].map(|write| {
        let (site, stop, random) = (site.clone(), stop.clone(), random.fork());
        thread::spawn(move || write(&site, &stop, random))
    });
    for kill in 1..=KILLS {
        let mut runtime = site.spawn();
        if kill % 4 == 0 {
            thread::sleep(Duration::from_millis(random.u64(..200)));
        } else {
            site.wait_ready(&mut runtime);
            thread::sleep(Duration::from_millis(random.u64(..900)));
        }
        runtime.kill();
    }
    let runtime = site.start();
    stop.store(true, Ordering::Relaxed);
    let [lines, files] = writers.map(|writer| writer.join().unwrap());

    eventually("all lines and files", || {
        let (seen_lines, seen_files) = (site.count("lines"), site.count("files"));
        when(seen_lines >= lines && seen_files >= files, format!("{seen_lines} of {lines}, {seen_files} of {files}"))
    });
    // Longer than a file that may be a copy is left alone: what comes twice comes now.
    thread::sleep(Duration::from_secs(5));
    assert_each_once("lines", &numbers(&site.take_all("lines", "seen")), lines);
    assert_each_once("files", &numbers(&site.take_all("files", "seen")), files);
    assert_eq!(fs::read_dir(site.path("done")).unwrap().count() as u64, files, "all were moved");
    runtime.stop();

    let runtime = site.start();
    eventually("a second that is on record", || when(site.count("seconds") > 0, "none"));
    let seconds: Vec<_> = site
        .take_all("seconds", "seen")
        .iter()
        .map(|message| message["attributes"]["scheduled-at"].as_str().unwrap().to_owned())
        .collect();
    let at = |text: &String| humantime::parse_rfc3339(text).unwrap();
    for pair in seconds.windows(2) {
        let step = at(&pair[1]).duration_since(at(&pair[0])).expect("in their order");
        assert_eq!(step, Duration::from_secs(1), "{} is followed by {}", pair[0], pair[1]);
    }
    println!("{KILLS} kills, {lines} lines, {files} files, {} seconds", seconds.len());
    assert!(lines > 200 && files > 50 && seconds.len() > 10, "too little to show anything");
    runtime.stop();
}
