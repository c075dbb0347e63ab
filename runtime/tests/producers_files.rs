//! `tail` and `watch` in the real binary, with what happens to files in the meantime.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};

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
    fs::write(site.path("inbox/large.csv"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let runtime = site.start();
    let messages = site.wait_messages("files", 1);
    assert_eq!(messages[0]["body"], "1,2\n");
    let attributes = &messages[0]["attributes"];
    assert_eq!((&attributes["file-name"], &attributes["file-size"]), (&"a.csv".into(), &"4".into()));
    assert_eq!(attributes["file-path"], "deep/a.csv");
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
