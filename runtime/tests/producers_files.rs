//! `tail` and `watch` in the real binary, with what happens to files in the meantime.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

fn append(site: &Site, name: &str, bytes: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().append(true).create(true).open(site.path(name)).unwrap();
    file.write_all(bytes.as_ref()).unwrap();
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["body"].as_str().unwrap_or("(bytes)")).collect()
}

fn producer(site: &Site, name: &str) -> Value {
    let answer = site.get("/producers");
    answer["producers"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
}

#[test]
fn lines_are_followed_through_rotations_and_restarts() {
    let site = Site::new(
        "[queues.lines]\n[producers.logs]\nkind = \"tail\"\nqueue = \"lines\"\nfiles = \"*.log\"\nmax_line = \"1KiB\"",
    );
    append(&site, "app.log", b"one\ntwo \xff\nthr");
    let runtime = site.start();
    let messages = site.wait_messages("lines", 2);
    assert_eq!(bodies(&messages), ["one", "(bytes)"]);
    assert_eq!(messages[1]["body_base64"], "dHdvIP8=");
    assert_eq!(messages[1]["attributes"]["offset"], "4");
    assert!(messages[1]["attributes"]["file"].as_str().unwrap().ends_with("app.log"));
    append(&site, "app.log", "ee\n");
    fs::rename(site.path("app.log"), site.path("app.log.1")).unwrap();
    append(&site, "app.log.1", "after the renaming\n");
    append(&site, "app.log", "new file\n");
    let mut seen: Vec<_> = bodies(&site.wait_messages("lines", 5)).into_iter().map(str::to_owned).collect();
    seen.sort();
    assert_eq!(seen, ["(bytes)", "after the renaming", "new file", "one", "three"]);
    runtime.stop();

    // Everything while nothing runs: rotated, then truncated with a copy, and a line of 2500 bytes.
    append(&site, "app.log", "while down\n");
    fs::copy(site.path("app.log"), site.path("app.log.2")).unwrap();
    File::create(site.path("app.log")).unwrap();
    append(&site, "app.log", format!("{}\n", "x".repeat(2500)));
    let runtime = site.start();
    let messages = site.wait_messages("lines", 9);
    assert!(bodies(&messages[5..]).contains(&"while down"), "{messages:?}");
    let parts: Vec<_> = messages[5..].iter().filter_map(|one| one["attributes"]["line-part"].as_str()).collect();
    assert_eq!(parts, ["1", "2", "3/3"]);
    let logs = producer(&site, "logs");
    assert_eq!((&logs["state"], &logs["sent"], &logs["kind"]), (&"running".into(), &4.into(), &"tail".into()));
    runtime.stop();
}

#[test]
fn a_file_of_several_gigabytes_is_read_in_bounded_memory() {
    let site = Site::new(
        "[queues.lines]\n[producers.logs]\nkind = \"tail\"\nqueue = \"lines\"\nfiles = \"large.log\"\n\
         long_lines = \"refuse\"",
    );
    // A hole, which is a line of zeros that is longer than any offset of 32 bits.
    const HOLE: u64 = (4 << 30) + (64 << 20);
    let mut file = File::create(site.path("large.log")).unwrap();
    file.write_all(b"first\n").unwrap();
    file.seek(SeekFrom::Start(HOLE)).unwrap();
    file.write_all(b"\nlast\n").unwrap();
    let runtime = site.start();
    let messages = site.wait_messages("lines", 2);
    assert_eq!(bodies(&messages), ["first", "last"]);
    assert_eq!(messages[1]["attributes"]["offset"], (HOLE + 1).to_string());
    assert_eq!(producer(&site, "logs")["refused"], 1);
    let status = fs::read_to_string(format!("/proc/{}/status", runtime.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    let peak_mib = peak.parse::<u64>().unwrap() >> 10;
    assert!(peak_mib < 200, "{peak_mib} MiB for a file of 4 GiB");
    runtime.stop();
}

#[test]
fn thousands_of_files_are_followed_with_few_descriptors() {
    const FILES: usize = 3000;
    let site = Site::new(
        "[queues.lines]\n[queues.seen]\n[producers.logs]\nkind = \"tail\"\nqueue = \"lines\"\nfiles = \"logs/*/*.log\"",
    );
    let write = |text: &str| {
        for number in 0..FILES {
            append(&site, &format!("logs/{}/{number}.log", number % 10), format!("{number} {text}\n"));
        }
    };
    (0..10).for_each(|folder| fs::create_dir_all(site.path(format!("logs/{folder}"))).unwrap());
    write("before");
    let runtime = site.start();
    let wait = |count: usize| {
        eventually("all lines", || when(site.count("lines") >= count as u64, site.count("lines")));
    };
    wait(FILES);
    assert_eq!(producer(&site, "logs")["files"], FILES);
    write("while it runs");
    wait(2 * FILES);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", runtime.id())).unwrap().count();
    assert!(descriptors < 400, "{descriptors} descriptors for {FILES} files");
    runtime.kill();
    write("while it is down");
    let runtime = site.start();
    wait(3 * FILES);
    let seen: Vec<_> = site.take_all("lines", "seen").iter().map(|line| line["body"].to_string()).collect();
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (3 * FILES, 3 * FILES));
    runtime.stop();
}

#[test]
fn a_tail_may_start_at_the_end() {
    let tail = |name: &str, start: &str| {
        format!(
            "[queues.{name}]\n[producers.{name}]\nkind = \"tail\"\nqueue = \"{name}\"\nfiles = \"*.log\"\nstart = \"{start}\"\n"
        )
    };
    let site = Site::new(&format!("{}{}", tail("all", "beginning"), tail("new", "end")));
    append(&site, "app.log", "old\n");
    let runtime = site.start();
    site.wait_messages("all", 1);
    eventually("a file that is followed", || when(producer(&site, "new")["files"] == 1, producer(&site, "new")));
    append(&site, "app.log", "new\n");
    assert_eq!(bodies(&site.wait_messages("new", 1)), ["new"]);
    runtime.kill();
    // What comes while it is down is new, too.
    append(&site, "app.log", "while it was down\n");
    append(&site, "other.log", "another\n");
    let runtime = site.start();
    let messages = site.wait_messages("new", 3);
    let seen: BTreeSet<_> = bodies(&messages).into_iter().collect();
    assert_eq!(seen, ["another", "new", "while it was down"].into());
    assert_eq!(bodies(&site.wait_messages("all", 4))[..2], ["old", "new"]);
    runtime.stop();
}

#[test]
fn a_log_that_is_rotated_and_deleted_at_once_is_read_to_its_end() {
    let site = Site::new("[queues.lines]\n[producers.logs]\nkind = \"tail\"\nqueue = \"lines\"\nfiles = \"*.log\"");
    append(&site, "app.log", "0 first\n");
    let runtime = site.start();
    site.wait_messages("lines", 1);
    // As fast as a program can: written to, renamed, and gone but for what is compressed of it.
    for round in 1..=20 {
        append(&site, "app.log", format!("{round} last\n"));
        fs::rename(site.path("app.log"), site.path("app.log.1")).unwrap();
        append(&site, "app.log", format!("{round} first\n"));
        fs::write(site.path(format!("app.log.{round}.gz")), "compressed").unwrap();
        fs::remove_file(site.path("app.log.1")).unwrap();
        site.wait_messages("lines", 1 + 2 * round);
    }
    let messages = site.messages("lines");
    let seen: BTreeSet<_> = bodies(&messages).into_iter().collect();
    assert_eq!(seen.len(), 41, "{seen:?}");
    runtime.stop();
}

#[test]
fn files_that_appear_become_messages_and_are_touched_only_afterwards() {
    let site = Site::new(
        "[queues.files]\n[queues.paths]\n\
         [producers.keep]\nkind = \"watch\"\nqueue = \"paths\"\nfolder = \"kept\"\nfiles = \"*.bin\"\nbody = \"path\"\n\
         settle = \"50ms\"\n\
         [producers.inbox]\nkind = \"watch\"\nqueue = \"files\"\nfolder = \"inbox\"\nrecursive = true\nafter = \"delete\"\n\
         settle = \"50ms\"",
    );
    fs::create_dir_all(site.path("kept")).unwrap();
    fs::create_dir_all(site.path("inbox/deep")).unwrap();
    fs::write(site.path("kept/large.bin"), vec![0; 3 << 20]).unwrap();
    fs::write(site.path("inbox/deep/a.csv"), "1,2\n").unwrap();
    // 2026-01-02T03:04:05.678Z.
    let modified = UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
    File::options().write(true).open(site.path("inbox/deep/a.csv")).unwrap().set_modified(modified).unwrap();
    fs::write(site.path("inbox/large.csv"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let runtime = site.start();
    let messages = site.wait_messages("files", 1);
    assert_eq!(messages[0]["body"], "1,2\n");
    let attributes = &messages[0]["attributes"];
    assert_eq!((&attributes["file-name"], &attributes["file-size"]), (&"a.csv".into(), &"4".into()));
    assert_eq!(attributes["file-path"], "deep/a.csv");
    assert_eq!(attributes["file-modified-at"], "2026-01-02T03:04:05.678Z");
    let paths = site.wait_messages("paths", 1);
    assert_eq!(paths[0]["body"], fs::canonicalize(site.path("kept/large.bin")).unwrap().to_str().unwrap());
    eventually("a file that is gone", || when(!site.path("inbox/deep/a.csv").exists(), "it is there"));
    assert!(site.path("inbox/large.csv").exists() && site.path("kept/large.bin").exists());
    let inbox = producer(&site, "inbox");
    assert_eq!((&inbox["refused"], &inbox["sent"]), (&1.into(), &1.into()));
    assert!(inbox["last_error"].as_str().unwrap().contains("large.csv has 1048577 bytes"), "{inbox}");
    runtime.stop();

    // Nothing again after a restart.
    let runtime = site.start();
    fs::write(site.path("inbox/b.csv"), "3").unwrap();
    site.wait_messages("files", 2);
    assert_eq!(site.count("paths"), 1);
    runtime.stop();
}
