//! `linecook send` with files, through the real binary: what was interrupted is repeated, and adds nothing twice; no faster than
//! asked for; and people see how far it is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};
use serde_json::json;

const LINES: usize = 3000;

/// Each body of a queue, once. There are so many messages in it.
fn bodies(site: &Site, queue: &str) -> (usize, BTreeSet<String>) {
    let seen: Vec<_> = site.take_all(queue, "seen").iter().map(|message| message["body"].to_string()).collect();
    (seen.len(), seen.into_iter().collect())
}

/// Begins to send, and is killed when some of it is there.
fn send_and_be_killed(site: &Site, send: &[&str]) {
    let before = site.count("imports");
    let mut child = site.command(send).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("some messages", || {
        let count = site.count("imports");
        when(count > before + 100 || count == LINES as u64, count)
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_interrupted_send_is_repeated_and_adds_nothing_twice() {
    let site = Site::new("[queues.imports]\n[queues.seen]\n[queues.copies]\nsubscribe = [\"imports.*\"]");
    let _runtime = site.start();
    let lines: Vec<_> = (0..LINES).map(|line| format!("line {line}")).collect();
    fs::write(site.path("lines"), lines.join("\n")).unwrap();
    // Every third one has a key of its own.
    let message = |line: usize| match line % 3 {
        0 => json!({ "body": format!("message {line}"), "idempotency_key": format!("mine {line}") }),
        _ => json!({ "body": format!("message {line}") }),
    };
    let messages: Vec<_> = (0..LINES).map(|line| message(line).to_string()).collect();
    fs::write(site.path("messages"), messages.join("\n")).unwrap();
    for (format, file) in [("--lines", "lines"), ("--ndjson", "messages")] {
        for round in 0..3 {
            // Slow enough to be caught in the middle.
            send_and_be_killed(&site, &["send", "imports", format, file, "--rate", "2000/s"]);
            assert!(round > 0 || site.count("imports") < LINES as u64, "the send was not interrupted");
        }
        let told = site.run_well(&["send", "imports", format, file]);
        assert!(told.starts_with("sent 3000 messages to imports, of which "), "{told}");
        let (count, different) = bodies(&site, "imports");
        assert_eq!((count, different.len()), (LINES, LINES), "{format}");
    }

    // Another destination has its own memory, and --again has none.
    let told = site.run_well(&["send", "--subject", "imports.new", "--lines", "lines"]);
    assert_eq!(told, "sent 3000 messages to imports.new\n");
    let told = site.run_well(&["send", "imports", "--lines", "lines", "--again"]);
    assert_eq!(told, "sent 3000 messages to imports\n");
    assert_eq!((site.count("copies"), site.count("imports")), (LINES as u64, LINES as u64));
}

#[test]
fn a_file_whose_send_is_killed_at_any_moment_is_one_message() {
    let site = Site::new("[queues.imports]");
    let _runtime = site.start();
    let write = |number: u32| {
        fs::write(site.path("photo"), [&[0xff; 800_000][..], &number.to_le_bytes()].concat()).unwrap();
    };
    let send = ["send", "imports", "--file", "photo"];
    // Another file for each kill; some have sent nothing, and some have only their answer to print.
    let mut whole = Duration::from_secs(1);
    let mut killed = 0;
    for number in 1.. {
        assert!(number <= 500, "of 500 sends only {killed} were killed");
        write(number);
        let mut child = site.command(&send).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(whole.mul_f64(fastrand::f64()));
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal().is_some());
        let started = Instant::now();
        site.run_well(&send);
        whole = started.elapsed().min(whole);
        assert_eq!(site.count("imports"), u64::from(number));
        if killed >= 20 {
            break;
        }
    }
}

#[test]
fn a_send_outlives_the_end_of_the_runtime() {
    let site = Site::new("[queues.imports]\n[queues.seen]");
    let lines: Vec<_> = (0..LINES).map(|line| format!("line {line}")).collect();
    fs::write(site.path("lines"), lines.join("\n")).unwrap();
    let mut confirmed = 0;
    for round in 1..=3 {
        let runtime = site.start();
        assert!(site.count("imports") >= confirmed, "something confirmed is lost");
        let mut send = site.command(&["send", "imports", "--lines", "lines", "--rate", "2000/s"]);
        let child = send.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("some messages", || when(site.count("imports") > round * 500, site.count("imports")));
        runtime.kill();
        let output = child.wait_with_output().unwrap();
        // It says what is durable.
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        let line = told.strip_prefix("error: stopped after line ").and_then(|rest| rest.split_once(':'));
        confirmed = line.unwrap_or_else(|| panic!("{told}")).0.parse().unwrap();
        assert!(confirmed > 0 && confirmed < LINES as u64, "{told}");
    }
    let _runtime = site.start();
    site.run_well(&["send", "imports", "--lines", "lines"]);
    let (count, different) = bodies(&site, "imports");
    assert_eq!((count, different.len()), (LINES, LINES));
}

#[test]
fn a_rate_is_kept_to_and_nobody_is_shown_a_bar() {
    let site = Site::new("[queues.imports]");
    let _runtime = site.start();
    fs::write(site.path("lines"), "x\n".repeat(200)).unwrap();
    let started = Instant::now();
    let output = site.run(&["send", "imports", "--lines", "lines", "--rate", "100/s"]);
    assert!(started.elapsed() >= Duration::from_secs(2), "200 messages at 100/s took {:?}", started.elapsed());
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(told, ["sent 200 messages to imports\n", ""]);
}

/// What a person sees of a command, byte by byte: it runs on a terminal of its own.
fn on_a_terminal(site: &Site, arguments: &str) -> String {
    let linecook = env!("CARGO_BIN_EXE_linecook");
    let mut command = Command::new("script");
    // Where nobody looks, a terminal has no size.
    command.args(["--quiet", "--return", "--command", &format!("stty cols 100 rows 30; exec {linecook} {arguments}")]);
    command.arg("/dev/null").current_dir(site.path(".")).env("TERM", "xterm").stdin(Stdio::null());
    let output =
        command.output().unwrap_or_else(|error| panic!("script (apt-get install bsdutils) is missing: {error}"));
    let seen = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {seen}", output.status);
    seen
}

#[test]
fn a_large_input_has_a_bar_that_fills_and_goes_away() {
    let site = Site::new("[queues.imports]");
    let _runtime = site.start();
    fs::write(site.path("lines"), format!("{}\n", "x".repeat(499)).repeat(6000)).unwrap();
    let seen = on_a_terminal(&site, "send imports --lines lines --rate 3000/s");
    // Each time the bar is drawn: how full it is, and how many messages are durable.
    let drawn: Vec<(u32, u32)> = seen
        .split('\r')
        .filter_map(|line| {
            let (percent, rest) = line.split_once("% ")?;
            let percent = percent.rsplit([' ', '\u{2591}', '\u{2588}']).next()?.parse().ok()?;
            Some((percent, rest.split_once(" messages ")?.0.parse().ok()?))
        })
        .collect();
    assert!(drawn.is_sorted() && drawn.iter().collect::<BTreeSet<_>>().len() >= 5, "{drawn:?} in {seen:?}");
    let halfway = drawn.iter().find(|(percent, _)| (25..75).contains(percent));
    let (percent, messages) = halfway.unwrap_or_else(|| panic!("{drawn:?}"));
    assert!((60 * percent).abs_diff(*messages) <= 600, "{percent}% are {messages} of 6000 messages");
    // What stays on the screen is what was sent.
    let last = seen.rsplit(['\r', '\u{1b}']).find(|line| !line.trim().is_empty()).unwrap();
    assert!(last.ends_with("sent 6000 messages to imports"), "{seen:?}");
    assert_eq!(site.count("imports"), 6000);
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
