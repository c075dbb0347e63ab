//! The commands that talk to a running runtime, against the HTTP API with a broker in memory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use linecook::broker::BrokerError;
use linecook::status::ConsumerState;
use serde_json::{Value, json};
use tempfile::TempDir;

#[expect(dead_code, reason = "the tests of the API use more of it")]
#[path = "support/fake_broker.rs"]
mod fake_broker;
#[path = "support/server.rs"]
mod server;

use server::Server;

/// A server, and a folder whose `queue.toml` names its address.
struct Kitchen {
    server: Server,
    folder: TempDir,
}

impl Kitchen {
    fn open() -> Kitchen {
        let server = Server::start();
        let folder = folder(&server.address.to_string());
        Kitchen { server, folder }
    }

    fn run(&self, args: &[&str]) -> Output {
        run(self.folder.path(), args, b"")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn bodies(&self, queue: &str) -> Vec<Vec<u8>> {
        self.server.broker.messages(queue).iter().map(|message| message.body.to_vec()).collect()
    }
}

fn folder(listen: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("queue.toml"), format!("[runtime]\nlisten = \"{listen}\"\n")).unwrap();
    folder
}

fn run(folder: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_linecook"))
        .args(args)
        .current_dir(folder)
        // A proxy of the environment must not be asked.
        .env("http_proxy", "http://127.0.0.1:1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Commands that don't read stdin may have ended already.
    _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn ok(output: &Output) -> &str {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    std::str::from_utf8(&output.stdout).unwrap()
}

#[track_caller]
fn failed<'o>(output: &'o Output, parts: &[&str]) -> &'o str {
    let stderr = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing in {stderr}");
    }
    stderr
}

#[test]
fn a_text_a_file_and_stdin_are_sent() {
    let kitchen = Kitchen::open();
    kitchen.write("photo.jpg", b"\xff\xd8");
    let id = ok(&kitchen.run(&["send", "signups", r#"{"email":"new@example.com"}"#])).trim_end().to_owned();
    let options =
        ["--key", "ké", "--delay", "30s", "--attribute", "Tenant=acme=1", "--attribute", "b=", "--content-type", "a/b"];
    ok(&kitchen.run(&[&["send", "signups", "plain"][..], &options].concat()));
    ok(&kitchen.run(&["send", "signups", "--file", "photo.jpg"]));
    ok(&run(kitchen.folder.path(), &["send", "signups", "-"], b"from stdin\n"));
    let answer: Value = serde_json::from_str(ok(&kitchen.run(&["send", "signups", "", "--json"]))).unwrap();

    let messages = kitchen.server.broker.messages("signups");
    assert_eq!(messages[0].id.to_string(), id);
    assert_eq!(answer, json!({ "id": messages[4].id.to_string() }));
    let seen: Vec<_> = messages.iter().map(|message| (&message.body[..], message.content_type.as_deref())).collect();
    assert_eq!(
        seen,
        [
            (&b"{\"email\":\"new@example.com\"}"[..], Some("application/json")),
            (b"plain", Some("a/b")),
            (b"\xff\xd8", None),
            (b"from stdin\n", Some("text/plain")),
            (b"", Some("text/plain")),
        ]
    );
    assert_eq!(messages[1].key.as_deref(), Some("ké"));
    let attributes: Vec<_> = messages[1].attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(attributes, [("tenant", "acme=1"), ("b", "")]);
}

#[test]
fn lines_are_sent_in_batches() {
    let kitchen = Kitchen::open();
    let lines: String = (0..2500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    kitchen.write("lines", &lines);
    assert_eq!(ok(&kitchen.run(&["send", "signups", "--lines", "lines"])), "sent 2500 messages to signups\n");
    let expected: Vec<_> = lines.lines().map(|line| line.as_bytes().to_vec()).collect();
    assert_eq!(kitchen.bodies("signups"), expected);
    assert_eq!(kitchen.server.broker.batches(), 3);

    let output = run(
        kitchen.folder.path(),
        &["send", "images", "--lines", "-", "--key", "k", "--attribute", "A=1", "--json"],
        b"one\r\n\n\xff\nlast",
    );
    let answer: Value = serde_json::from_str(ok(&output)).unwrap();
    assert_eq!((&answer["sent"], answer["ids"].as_array().unwrap().len()), (&4.into(), 4));
    assert_eq!(kitchen.bodies("images"), [&b"one"[..], b"", b"\xff", b"last"]);
    for message in kitchen.server.broker.messages("images") {
        assert_eq!((message.key.as_deref(), &*message.attributes[0].0), (Some("k"), "a"));
    }
}

#[test]
fn lines_that_fail_say_after_which_line() {
    let kitchen = Kitchen::open();
    let long = "x".repeat((1 << 20) + 1);
    kitchen.write("lines", format!("a\nb\n{long}\nc\n"));
    failed(
        &kitchen.run(&["send", "signups", "--lines", "lines"]),
        &["stopped after line 2: 2 messages sent and durable", "line 3 is larger than a message may be"],
    );
    assert_eq!(kitchen.bodies("signups"), [b"a", b"b"]);
    failed(
        &kitchen.run(&["send", "signup", "--lines", "lines"]),
        &["no message was sent", "did you mean signups? (404)"],
    );
    failed(&kitchen.run(&["send", "signups", "--lines", "absent"]), &["can't read absent"]);
}

#[test]
fn refusals_are_told_with_what_to_do() {
    let kitchen = Kitchen::open();
    failed(&kitchen.run(&["send", "signup", "x"]), &["there is no queue signup; did you mean signups? (404)"]);
    failed(&kitchen.run(&["peek", "nothing-like-it"]), &["there is no queue nothing-like-it", "queue.toml"]);
    failed(&kitchen.run(&["send", "signups", "--file", "absent"]), &["can't read absent", "No such file"]);
    kitchen.write("large", vec![b'x'; (1 << 20) + 1]);
    failed(&kitchen.run(&["send", "signups", "--file", "large"]), &["large is larger than a message", "--lines"]);
    failed(&kitchen.run(&["send", "signups", "x", "--attribute", "linecook-a=1"]), &["Linecook's own"]);
    failed(&kitchen.run(&["send", "signups", "x", "--attribute", "a b=1"]), &["can't make the request"]);
    kitchen.server.broker.refuse(Some(BrokerError::StoreFull("the log is full".into())));
    failed(&kitchen.run(&["send", "signups", "x"]), &["the log is full", "507"]);
}

#[test]
fn wrong_usage_is_told_before_anything_is_sent() {
    let kitchen = Kitchen::open();
    for args in [
        &["send", "signups"][..],
        &["send", "a b", "x"],
        &["send", "x"],
        &["send", "--subject", "orders.*", "x"],
        &["send", "--subject", "orders", "signups", "x"],
        &["send", "--subject", "orders", "x", "--lines", "y"],
        &["send", "signups", "--lines", "x", "--ndjson", "y"],
        &["send", "signups", "--lines", "x", "--rate", "0"],
        &["send", "signups", "x", "--again"],
        &["send", "signups", "x", "--file", "y"],
        &["send", "signups", "x", "--delay", "30"],
        &["send", "signups", "x", "--attribute", "novalue"],
        &["peek", "signups", "--limit", "0"],
        &["peek", "signups", "--limit", "1001"],
        &["redrive", "signups.dead", "--limit", "0"],
    ] {
        assert_eq!(kitchen.run(args).status.code(), Some(2), "{args:?}");
    }
    assert!(kitchen.bodies("signups").is_empty());
}

#[test]
fn without_a_runtime_it_is_told_where_one_was_looked_for() {
    // Bound and closed again: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let folder = folder(&address);
    let expected =
        format!("error: no runtime answers at {address} (listen in queue.toml): is `linecook run` running?\n");
    for args in [&["status"][..], &["send", "signups", "x"], &["peek", "signups"], &["redrive", "signups.dead"]] {
        assert_eq!(failed(&run(folder.path(), args, b""), &[]), expected, "{args:?}");
    }
}

#[test]
fn status_shows_queues_and_consumers() {
    let kitchen = Kitchen::open();
    kitchen.server.board.update("welcome", "signups", |status| {
        status.state = ConsumerState::Running;
        status.module_hash = Some("0123456789abcdef".into());
        status.reload_error = Some("it lacks the export".into());
    });
    ok(&kitchen.run(&["send", "signups", "four"]));
    let output = kitchen.run(&["status"]);
    let text = ok(&output);
    let words = |start: &str| -> Vec<&str> {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
        line.split_whitespace().collect()
    };
    assert_eq!(words("QUEUE"), ["QUEUE", "READY", "DELAYED", "LEASED", "SIZE", "OLDEST", "HISTORY", "CONSUMER"]);
    assert_eq!(words("images"), ["images", "0", "0", "0", "0", "B", "-", "0", "-"]);
    assert_eq!(words("signups ")[..6], ["signups", "1", "0", "0", "4", "B"]);
    assert_eq!(words("welcome ")[..4], ["welcome", "signups", "running", "0"]);
    assert!(text.contains("0123456789ab\n") && text.contains("welcome: reload failed: it lacks the export"), "{text}");
    assert!(!text.contains('\x1b'));
    let json: Value = serde_json::from_str(ok(&kitchen.run(&["status", "--json"]))).unwrap();
    assert_eq!((&json["queues"][1]["ready"], &json["consumers"][0]["name"]), (&1.into(), &"welcome".into()));
}

#[test]
fn peek_shows_the_first_messages() {
    let kitchen = Kitchen::open();
    assert_eq!(ok(&kitchen.run(&["peek", "signups"])), "signups is empty\n");
    kitchen.write("photo.jpg", b"\xff\xd8\xff\xe0");
    ok(&kitchen.run(&["send", "signups", "--file", "photo.jpg"]));
    ok(&kitchen.run(&["send", "signups", "two\n\x1b[2Jlines", "--key", "k"]));
    let output = kitchen.run(&["peek", "signups"]);
    let text = ok(&output);
    assert_eq!(text.lines().count(), 3);
    assert!(text.contains("(4 bytes, not text)") && text.contains("two  [2Jlines"), "{text}");
    let json: Value = serde_json::from_str(ok(&kitchen.run(&["peek", "signups", "--limit", "1", "--json"]))).unwrap();
    assert_eq!(
        (json["messages"].as_array().unwrap().len(), &json["messages"][0]["body_base64"]),
        (1, &"/9j/4A==".into())
    );
}

#[test]
fn purge_says_how_many_went() {
    let kitchen = Kitchen::open();
    assert!(kitchen.run(&["send", "signups", "x"]).status.success());
    let output = kitchen.run(&["purge", "signups"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "purged 1 message from signups\n");
    let output = kitchen.run(&["purge", "signups", "--json"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"purged\":0}\n");
    failed(&kitchen.run(&["purge", "signup"]), &["did you mean signups"]);
}

#[test]
fn redrive_says_what_moved() {
    let kitchen = Kitchen::open();
    ok(&kitchen.run(&["send", "signups.dead", "x"]));
    let stayed = kitchen.run(&["redrive", "signups.dead"]);
    assert!(ok(&stayed).starts_with("moved 0 messages\n1 message stayed: "), "{stayed:?}");
    let to = ["redrive", "signups.dead", "--to", "signups"];
    assert_eq!(ok(&kitchen.run(&[&to[..], &["--dry-run"]].concat())), "would move 1 message\n");
    assert_eq!(ok(&kitchen.run(&[&to[..], &["--limit", "5", "--json"]].concat())), "{\"moved\":1,\"skipped\":0}\n");
    assert_eq!(kitchen.bodies("signups"), [b"x"]);
}
