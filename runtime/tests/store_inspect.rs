//! `linecook store verify` and `linecook store dump`, through the real binary, on healthy and damaged data folders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

/// A folder in which a runtime has run, with these messages in queue `a` and one in `b`.
fn site(messages: &[&str]) -> (Site, Vec<String>) {
    let site = Site::new("[queues.a]\n[queues.b]");
    let runtime = site.start();
    let ids = messages.iter().map(|body| site.send("a", body)).collect();
    site.send("b", "another queue's");
    runtime.stop();
    (site, ids)
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Runs `linecook store …`, which must leave the data folder as it is.
#[track_caller]
fn look(site: &Site, arguments: &[&str]) -> (Option<i32>, String, String) {
    let before = files(&site.path("data"));
    let output = site.run(&[&["store"], arguments].concat());
    assert!(files(&site.path("data")) == before, "{arguments:?} has changed the data folder");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Flips a bit of a body, where it stands in the log.
fn damage(site: &Site, body: &str) -> u64 {
    let path = site.path("data/wal-0001.log");
    let log = fs::read(&path).unwrap();
    let at = log.windows(body.len()).position(|window| window == body.as_bytes()).expect("the body is in the log");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[log[at] ^ 1], at as u64).unwrap();
    at as u64
}

#[test]
fn a_healthy_folder_is_ok() {
    let (site, _) = site(&["one", "two"]);
    let (code, stdout, stderr) = look(&site, &["verify"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    for part in ["wal-0001.log", "log, epoch 1", "confirmed.map", "QUEUE", "data: ok — ", "3 messages"] {
        assert!(stdout.contains(part), "`{part}` is missing in:\n{stdout}");
    }
    let (code, stdout, _) = look(&site, &["verify", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"], &report["opens"]), (Some(0), &true.into(), &true.into()));
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(0), "{report}");
    assert_eq!((&report["queues"][0]["name"], &report["queues"][0]["messages"]), (&"a".into(), &2.into()));
}

#[test]
fn a_dump_shows_everything_or_what_was_asked_for() {
    let (site, ids) = site(&["one", "\u{fffd}two"]);
    let (code, stdout, stderr) = look(&site, &["dump"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let all = lines(&stdout);
    for kind in ["log", "frame", "queue", "put", "confirmed"] {
        assert!(all.iter().any(|line| line["type"] == kind), "nothing of type {kind} in:\n{stdout}");
    }
    let put = all.iter().find(|line| line["type"] == "put").unwrap();
    assert_eq!(
        (&put["file"], &put["id"], &put["body"]),
        (&"wal-0001.log".into(), &ids[0].as_str().into(), &"one".into())
    );

    let (_, stdout, _) = look(&site, &["dump", "--messages", "--queue", "a"]);
    let messages = lines(&stdout);
    let seen: Vec<_> = messages.iter().map(|line| (line["type"].as_str(), line["id"].as_str())).collect();
    assert_eq!(seen, [(Some("message"), Some(&*ids[0])), (Some("message"), Some(&*ids[1]))]);
    assert_eq!((&messages[1]["body"], &messages[1]["state"]), (&"\u{fffd}two".into(), &"ready".into()));
    let (_, stdout, _) = look(&site, &["dump", "--queue", "b"]);
    assert!(stdout.contains("another queue's") && !stdout.contains("\"one\""), "{stdout}");
}

#[test]
fn damage_is_told_as_the_runtime_tells_it_and_the_rest_is_rescued() {
    let (site, ids) = site(&["one", "two", "three"]);
    damage(&site, "two");
    let refused = site.spawn().wait();
    assert_eq!(refused.code, Some(1));

    let (code, stdout, stderr) = look(&site, &["verify"]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
    assert!(stdout.contains("damage: wal-0001.log at offset "), "{stdout}");
    assert!(stdout.contains("the store refuses to open"), "{stdout}");
    let (code, stdout, _) = look(&site, &["verify", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"], &report["opens"]), (Some(1), &false.into(), &false.into()));
    let refusal = report["refusal"].as_str().unwrap();
    assert!(refused.stderr.contains(refusal), "`{refusal}` is not what the runtime says:\n{}", refused.stderr);
    assert_eq!(report["findings"][0]["meaning"], "refuses_to_open", "{report}");

    let (code, stdout, stderr) = look(&site, &["dump", "--messages"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("damage: wal-0001.log at offset "), "{stderr}");
    let rescued: Vec<_> = lines(&stdout).iter().map(|line| line["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(rescued, ["one", "three", "another queue's"]);
    assert!(!stdout.contains(&ids[1]), "{stdout}");
}

/// Whether both checkpoints were written: what was in the first log file stands in segments then.
fn is_covered(site: &Site) -> bool {
    let begins = |name: &str| fs::read(site.path(name)).is_ok_and(|bytes| bytes.starts_with(b"LNCKCKP\n"));
    ["data/checkpoint-1", "data/checkpoint-2"].into_iter().all(begins)
}

#[test]
fn a_message_that_rots_in_its_segment_is_counted_by_peek_and_the_others_are_shown() {
    let site = Site::new("[queues.a]\n[queues.b]");
    let runtime = site.start();
    ["one", "this one will rot", "three"].into_iter().for_each(|body| drop(site.send("a", body)));
    let filler = "x".repeat(100_000);
    eventually("checkpoints", || {
        site.send("b", &filler);
        when(is_covered(&site), "there are none yet")
    });
    runtime.stop();
    let find = |bytes: &[u8]| bytes.windows(17).position(|window| window == b"this one will rot");
    let segments = files(&site.path("data")).into_iter().filter(|(name, _)| name.ends_with(".seg"));
    let rotten: Vec<_> = segments.filter_map(|(name, bytes)| Some((find(&bytes)? as u64, name))).collect();
    let [(at, name)] = &rotten[..] else { panic!("it stands in {rotten:?}") };
    let segment = fs::OpenOptions::new().write(true).open(site.path("data").join(name)).unwrap();
    segment.write_all_at(b"T", *at).unwrap();

    let runtime = site.start();
    let answer = site.get("/queues/a/messages");
    assert_eq!(answer["unreadable"], 1, "{answer}");
    let bodies: Vec<_> = answer["messages"].as_array().unwrap().iter().map(|message| &message["body"]).collect();
    assert_eq!((bodies, &answer["truncated"]), (vec![&Value::from("one"), &"three".into()], &Value::Null));
    let told = site.run_well(&["peek", "a"]);
    assert!(told.contains("three") && told.contains("\n1 message can't be read: `linecook store verify`"), "{told}");
    assert_eq!(site.get("/queues/b/messages?limit=1")["unreadable"], Value::Null);
    runtime.stop();
    let (code, stdout, _) = look(&site, &["verify"]);
    assert!(code == Some(1) && stdout.contains(&format!("damage: {name} at offset ")), "{stdout}");
}

#[test]
fn a_folder_that_somebody_works_on_is_not_looked_at() {
    let site = Site::new("[queues.a]");
    let runtime = site.start();
    for arguments in [&["store", "verify"][..], &["store", "dump"]] {
        let output = site.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{stderr}");
        assert!(stderr.contains("in use by another process") && stderr.contains("hint: "), "{stderr}");
    }
    runtime.stop();
    assert_eq!(look(&site, &["verify"]).0, Some(0));
}

#[test]
fn a_folder_can_be_named_where_there_is_no_configuration() {
    let (site, _) = site(&["one"]);
    fs::rename(site.path("data"), site.path("rescued")).unwrap();
    fs::remove_file(site.path("queue.toml")).unwrap();
    let told = site.run_well(&["store", "verify", "--data-dir", "rescued"]);
    assert!(told.contains("rescued: ok"), "{told}");
    let dumped = site.run_well(&["store", "dump", "--messages", "--data-dir", "rescued"]);
    assert_eq!(dumped.lines().count(), 2);

    let missing = site.run(&["store", "verify", "--data-dir", "nowhere"]);
    assert_eq!(missing.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&missing.stderr);
    assert!(stderr.contains("nowhere"), "{stderr}");
    assert!(!site.path("nowhere").exists(), "a folder was made");
}

#[test]
fn a_folder_with_segments_is_verified_and_dumped() {
    let site = Site::new("[queues.a]");
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("store/tests/format-1");
    fs::create_dir(site.path("data")).unwrap();
    for (name, bytes) in files(&stored) {
        fs::write(site.path("data").join(name), bytes).unwrap();
    }
    let (code, stdout, _) = look(&site, &["verify"]);
    assert_eq!(code, Some(0), "{stdout}");
    for part in
        ["segment of orders", "checkpoint, generation", "idempotency key", "state of consumers", "1 attempt running"]
    {
        assert!(stdout.contains(part), "`{part}` is missing in:\n{stdout}");
    }
    let (_, stdout, _) = look(&site, &["dump"]);
    let types = ["checkpoint", "checkpoint_queue", "checkpoint_segment", "checkpoint_state", "segment", "run"];
    let records = [
        "remembered",
        "purge",
        "update",
        "remove",
        "attempt",
        "state",
        "history",
        "checkpoint_history",
        "kept",
        "forget",
    ];
    for kind in types.into_iter().chain(records) {
        assert!(lines(&stdout).iter().any(|line| line["type"] == kind), "nothing of type {kind}");
    }
    let of_orders = |line: &Value| line["type"] == "segment" && line["queue"] == "orders";
    let segments: Vec<String> = lines(&stdout)
        .iter()
        .filter(|line| of_orders(line))
        .map(|line| line["file"].as_str().unwrap().into())
        .collect();
    let (_, stdout, _) = look(&site, &["dump", "--messages", "--queue", "orders"]);
    let live: Vec<String> = lines(&stdout).iter().map(|line| line["body"].as_str().unwrap().into()).collect();
    let (_, stdout, _) = look(&site, &["dump", "--messages", "--queue", "delayed"]);
    let delayed = lines(&stdout);
    assert!(delayed.iter().all(|one| one["state"] == "delayed" && one["attributes"]["kind"] == "reminder"), "{stdout}");
    assert_eq!(delayed.len(), 6);
    let (_, stdout, _) = look(&site, &["dump", "--messages", "--queue", "once"]);
    assert_eq!(lines(&stdout)[1]["body_base64"], "Af8AgA==");

    // One damaged checkpoint is made up for, and a damaged message is the only one that is lost.
    let flip = |name: &str, at: u64| {
        let file = fs::OpenOptions::new().read(true).write(true).open(site.path("data").join(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    flip("checkpoint-1", 520);
    let (code, stdout, _) = look(&site, &["verify"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("damage: checkpoint-1 at offset 512") && stdout.contains("recoverable"), "{stdout}");
    assert!(stdout.contains("the store opens all the same"), "{stdout}");
    let found = segments.iter().rev().find_map(|name| {
        let segment = fs::read(site.path("data").join(name)).unwrap();
        let place = |body: &String| segment.windows(body.len()).rposition(|window| window == body.as_bytes());
        Some((name, live.iter().find_map(place)?))
    });
    let (segment_name, at) = found.expect("a live message is in a segment");
    flip(segment_name, at as u64);
    let (code, stdout, _) = look(&site, &["verify"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("1 message can't be read"), "{stdout}");
    let (code, stdout, stderr) = look(&site, &["dump", "--messages", "--queue", "orders"]);
    assert_eq!((code, lines(&stdout).len()), (Some(1), 41), "{stderr}");
    assert!(stderr.contains(segment_name), "{stderr}");
}
