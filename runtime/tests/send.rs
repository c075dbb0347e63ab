//! `linecook send` with files, through the real binary: what was interrupted is repeated, and adds nothing twice.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};
use serde_json::json;

#[test]
fn an_interrupted_send_is_repeated_and_adds_nothing_twice() {
    const LINES: usize = 3000;
    let site = Site::new("[queues.imports]\n[queues.seen]\n[queues.copies]\nsubscribe = [\"imports.*\"]");
    let _runtime = site.start();
    let lines: Vec<_> = (0..LINES).map(|line| format!("line {line}")).collect();
    fs::write(site.path("lines"), lines.join("\n")).unwrap();
    // Slow enough to be caught in the middle.
    let send = ["send", "imports", "--lines", "lines", "--rate", "2000/s"];
    for round in 0..3 {
        let before = site.count("imports");
        let mut child = site.command(&send).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("some lines", || {
            let count = site.count("imports");
            when(count > before + 100 || count == LINES as u64, count)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(round > 0 || site.count("imports") < LINES as u64, "the send was not interrupted");
    }
    let told = site.run_well(&["send", "imports", "--lines", "lines"]);
    assert!(told.starts_with("sent 3000 messages to imports, of which "), "{told}");
    let seen: Vec<_> = site.take_all("imports", "seen").iter().map(|message| message["body"].to_string()).collect();
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (LINES, LINES));

    // Another destination has its own memory, and --again has none.
    let told = site.run_well(&["send", "--subject", "imports.new", "--lines", "lines"]);
    assert_eq!(told, "sent 3000 messages to imports.new\n");
    let told = site.run_well(&["send", "imports", "--lines", "lines", "--again"]);
    assert_eq!(told, "sent 3000 messages to imports\n");
    assert_eq!((site.count("copies"), site.count("imports")), (LINES as u64, LINES as u64));
}

#[test]
fn messages_are_sent_as_the_api_takes_them() {
    let site = Site::new("[queues.imports]");
    let _runtime = site.start();
    let lines = [
        json!({ "body": { "a": 1 }, "key": "k", "attributes": { "tenant": "acme" } }),
        json!({ "body_base64": "/9g=", "idempotency_key": "mine" }),
    ];
    fs::write(site.path("messages"), format!("{}\n\n{}\n", lines[0], lines[1])).unwrap();
    assert_eq!(site.run_well(&["send", "imports", "--ndjson", "messages"]), "sent 2 messages to imports\n");
    let again = site.run_well(&["send", "imports", "--ndjson", "messages", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&again).unwrap()["duplicates"], 2);
    let seen = site.messages("imports");
    assert_eq!(seen.len(), 2);
    assert_eq!((&seen[0]["body"], &seen[0]["key"]), (&json!("{\"a\":1}"), &json!("k")));
    assert_eq!(seen[1]["body_base64"], "/9g=");
    let twice = site.request("POST", "/queues/imports/messages", &[("idempotency-key", "mine")], b"x").unwrap();
    assert_eq!((twice.status, &twice.body["id"]), (200, &seen[1]["id"]));

    fs::write(site.path("wrong"), "{\"body\":1}\n{\"body\":2}\nno message\n{\"body\":4}\n").unwrap();
    let output = site.run(&["send", "imports", "--ndjson", "wrong"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("line 3 is no message"), "{told}");
    assert_eq!(site.count("imports"), 4);

    // One file, one message.
    fs::write(site.path("photo"), b"\xff\xd8").unwrap();
    let first = site.run_well(&["send", "imports", "--file", "photo"]);
    assert_eq!(site.run_well(&["send", "imports", "--file", "photo"]), first);
    assert_ne!(site.run_well(&["send", "imports", "--file", "photo", "--again"]), first);
    assert_eq!(site.count("imports"), 6);
}
