//! What goes wrong around a runtime, through the real binary: each trouble is told with what to do, and takes no more
//! away than it must.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Ended, Runtime, Site, eventually, when};

/// The runtime must not start, and say this.
#[track_caller]
fn refuses_to_start(site: &Site, says: &[&str]) {
    let Ended { code, stderr } = site.spawn().wait();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: "), "{stderr}");
    for part in says {
        assert!(stderr.contains(part), "`{part}` is missing in:\n{stderr}");
    }
}

/// A consumer `behave` on the queue `work`.
fn behave(more: &str) -> String {
    format!(
        "[queues.work]\n[queues.report]\n\n[consumers.behave]\nqueue = \"work\"\ncomponent = {:?}\n\
         grants.send = [\"report\"]\n{more}",
        guests::component("behave")
    )
}

#[test]
fn a_data_folder_in_use_is_left_alone() {
    let site = Site::new("[queues.a]");
    let runtime = site.start();
    let id = site.send("a", "kept");
    let data = site.path("data");
    let second = Site::with_runtime(&format!("data_dir = {data:?}"), "[queues.a]");
    refuses_to_start(&second, &["in use by another process", "data_dir"]);
    assert_eq!(site.messages("a")[0]["id"], id.as_str());
    runtime.stop();
    // Now it is free.
    assert_eq!(second.start_and_look("a"), [id]);
}

impl Site {
    /// Starts the runtime, and gives the ids of a queue's messages.
    fn start_and_look(&self, queue: &str) -> Vec<String> {
        let runtime = self.start();
        let ids = self.messages(queue).iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect();
        runtime.stop();
        ids
    }
}

#[test]
fn a_data_folder_of_a_newer_format_is_refused() {
    let site = Site::new("[queues.a]");
    site.start().stop();
    let log = fs::OpenOptions::new().read(true).write(true).open(site.path("data/wal-0001.log")).unwrap();
    let mut header = [0; 512];
    log.read_exact_at(&mut header, 0).unwrap();
    assert_eq!(header[508..], crc32c(&header[..508]).to_le_bytes(), "the header's checksum is where this test thinks");
    header[8..12].copy_from_slice(&2u32.to_le_bytes());
    let checksum = crc32c(&header[..508]);
    header[508..].copy_from_slice(&checksum.to_le_bytes());
    log.write_all_at(&header, 0).unwrap();
    refuses_to_start(&site, &["wal-0001.log", "format 2", "run the version that wrote it"]);
}

/// Bit by bit: it is for one sector.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[test]
fn a_flipped_byte_is_told_with_file_and_offset() {
    let site = Site::new("[queues.a]");
    let runtime = site.start();
    let id = site.send("a", "a message that must not change");
    runtime.stop();
    let path = site.path("data/wal-0001.log");
    let at = {
        let log = fs::read(&path).unwrap();
        let body = b"a message that must not change";
        log.windows(body.len()).position(|window| window == body).expect("the body is in the log") as u64
    };
    let log = fs::OpenOptions::new().write(true).open(&path).unwrap();
    log.write_all_at(b"b", at).unwrap();
    refuses_to_start(&site, &["wal-0001.log is damaged at offset "]);
    // Refusing has changed nothing.
    log.write_all_at(b"a", at).unwrap();
    assert_eq!(site.start_and_look("a"), [id]);
}

#[test]
fn a_port_in_use_is_told_with_its_address() {
    let site = Site::new("[queues.a]");
    let _taken = TcpListener::bind(site.address()).unwrap();
    refuses_to_start(&site, &[&site.address().to_string(), "in use", "listen"]);
}

#[test]
fn a_broken_component_stops_only_its_own_consumer() {
    let broken = [
        ("no-wasm", b"#!/bin/sh".to_vec(), "this is not WebAssembly"),
        ("core-module", wat::parse_str("(module)").unwrap(), "wasm32-wasip2"),
        ("no-export", wat::parse_str("(component)").unwrap(), "linecook:worker/handler@0.1`"),
        (
            "no-import",
            wat::parse_str("(component (import \"acme:things/stuff@1.0.0\" (instance)))").unwrap(),
            "acme:things/stuff@1.0.0",
        ),
    ];
    let mut tables = behave("");
    for (name, ..) in &broken {
        tables += &format!("\n[queues.{name}]\n[consumers.{name}]\nqueue = \"{name}\"\ncomponent = \"{name}.wasm\"\n");
    }
    tables += "\n[queues.missing]\n[consumers.missing]\nqueue = \"missing\"\ncomponent = \"missing.wasm\"\n";
    let site = Site::new(&tables);
    for (name, content, _) in &broken {
        fs::write(site.path(format!("{name}.wasm")), content).unwrap();
    }
    let runtime = site.start();
    let reasons = broken.iter().map(|(name, _, reason)| (*name, *reason)).chain([("missing", "missing.wasm")]);
    for (name, reason) in reasons.clone() {
        site.send(name, "waits");
        let consumer = site.consumer(name);
        assert_eq!((&consumer["state"], &consumer["generation"]), (&json!("failed"), &json!(0)), "{consumer}");
        assert!(consumer["reload_error"].as_str().unwrap().contains(reason), "{consumer}");
    }
    let status = site.run_well(&["status"]);
    for (_, reason) in reasons.clone() {
        assert!(status.contains(reason), "`{reason}` is missing in:\n{status}");
    }
    // The others go on.
    site.send("work", json!({ "do": "send", "to": "report" }));
    site.wait_messages("report", 1);
    // And what was sent to the broken ones waits, with all its attempts.
    for (name, _) in reasons {
        let messages = site.messages(name);
        assert_eq!((messages.len(), &messages[0]["state"], &messages[0]["attempt"]), (1, &json!("ready"), &json!(0)));
    }
    // A good one takes over without a restart.
    fs::copy(guests::component("noop"), site.path("no-wasm.wasm")).unwrap();
    site.wait_empty("no-wasm");
    assert_eq!(site.consumer("no-wasm")["state"], "running");
    runtime.stop();
}

#[test]
fn a_signal_lets_what_runs_come_to_its_end() {
    let site = Site::new(&behave("max_concurrency = 1"));
    let runtime = site.start();
    site.send("work", json!({ "do": "sleep", "ms": 1000, "then": { "do": "send", "to": "report" } }));
    let waiting = site.send("work", json!({ "do": "ok" }));
    eventually("a handler that runs", || when(site.consumer("behave")["running"] == 1, "it does not"));
    runtime.stop();

    let runtime = site.start();
    assert_eq!(site.count("report"), 1, "what it did is on record");
    site.wait_empty("work");
    assert_eq!(site.count("work.dead"), 0, "{waiting} was not begun");
    runtime.stop();
}

#[test]
fn a_second_signal_stops_at_once() {
    let site = Site::with_runtime("log_max_bytes = \"64MiB\"\ndrain_timeout = \"10m\"", &behave("timeout = \"10m\""));
    let runtime = site.start();
    let id = site.send("work", json!({ "do": "sleep", "ms": 500_000 }));
    eventually("a handler that runs", || when(site.consumer("behave")["running"] == 1, "it does not"));
    let quiet = runtime.stderr().len();
    runtime.terminate();
    // Two signals at once can be taken for one: the second comes when the first has had its effect.
    eventually("a word about the first signal", || when(runtime.stderr().len() > quiet, "it says nothing"));
    runtime.terminate();
    let ended = runtime.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);

    // The interrupted attempt is counted.
    let runtime = site.start();
    let message = eventually("its second attempt", || {
        let message = site.messages("work").remove(0);
        when(message["attempt"] == 2, &message)?;
        Ok(message)
    });
    assert_eq!(message["id"], id.as_str());
    runtime.kill();
}

#[test]
fn the_commands_talk_to_the_runtime_or_say_that_there_is_none() {
    let site = Site::new("[queues.mail]\n[queues.other]");
    for command in [&["send", "mail", "hello"][..], &["peek", "mail"], &["status"], &["redrive", "mail"]] {
        let output = site.run(command);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{command:?}: {stderr}");
        let expected = format!("no runtime answers at {}", site.address());
        assert!(stderr.contains(&expected) && stderr.contains("linecook run"), "{command:?}: {stderr}");
    }

    let runtime = site.start();
    let id = site.run_well(&["send", "mail", "{\"to\":\"you\"}", "--key", "you", "--attribute", "lang=fr"]);
    fs::write(site.path("lines"), "one\ntwo\nthree\n").unwrap();
    site.run_well(&["send", "mail", "--lines", "lines"]);
    let peeked: Value = serde_json::from_str(&site.run_well(&["peek", "mail", "--json"])).unwrap();
    let messages = peeked["messages"].as_array().unwrap();
    let bodies: Vec<_> = messages.iter().map(|message| message["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["{\"to\":\"you\"}", "one", "two", "three"]);
    let first = &messages[0];
    assert_eq!((first["id"].as_str(), first["key"].as_str()), (Some(id.trim_end()), Some("you")));
    assert_eq!((&first["attributes"], &first["content_type"]), (&json!({ "lang": "fr" }), &json!("application/json")));
    assert!(site.run_well(&["peek", "mail"]).contains(id.trim_end()));
    assert!(site.run_well(&["peek", "other"]).contains("empty"));
    let status: Value = serde_json::from_str(&site.run_well(&["status", "--json"])).unwrap();
    let mail = status["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "mail").unwrap();
    assert_eq!((&mail["ready"], &mail["consumer"]), (&json!(4), &Value::Null));
    assert!(site.run_well(&["status"]).lines().any(|line| line.contains("mail") && line.contains('4')));

    let output = site.run(&["send", "mall", "hello"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("mall") && stderr.contains("did you mean mail"), "{stderr}");
    runtime.stop();
}

#[test]
fn a_request_that_is_wrong_is_told_what_is_right() {
    // The largest message needs a log whose files are large enough for it.
    let site = Site::with_runtime("log_max_bytes = \"128MiB\"", "[queues.signups]");
    let runtime = site.start();
    let large = "x".repeat((1 << 20) + 1);
    let too_long = format!("/queues/{}/messages", "q".repeat(200));
    for (path, body, status, says) in [
        ("/queues/signups/messages", &large[..], 413, "1048576"),
        ("/queues/signup/messages", "hello", 404, "did you mean signups"),
        ("/queues/signups/messages/batch", "[{\"body\":1}", 400, "message 1"),
        ("/queues/signups/messages/batch", "{\"body\":1}\n{\"bodi\":2}\n", 400, "line 2"),
        ("/queues/signups/messages/batch", "", 400, "at least one"),
        ("/queues/sign%20ups/messages", "hello", 400, "name"),
        (&too_long, "hello", 400, "name"),
        ("/queues/signups/message", "hello", 404, "/queues"),
    ] {
        let answer = site.post(path, body);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{path}: {}", answer.body);
    }
    assert_eq!(site.count("signups"), 0);
    // An empty body is a message, and so is one that is as large as may be.
    site.send("signups", "");
    site.send("signups", &large[1..]);
    let messages = site.messages("signups");
    let lengths: Vec<_> = messages.iter().map(|message| message["body"].as_str().unwrap().len()).collect();
    assert_eq!(lengths, [0, 1 << 20]);
    runtime.stop();
}

/// A small disk of its own, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> SmallDisk {
        fs::create_dir(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", size, "linecook-test"]).arg(&at).output().unwrap();
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "this test mounts a small tmpfs, and so it runs as root: {why}");
        SmallDisk(at)
    }
}

impl SmallDisk {
    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let mounted = Command::new("mount").args(["-o", &options]).arg(&self.0).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "it can be unmounted");
    }
}

#[test]
fn a_data_folder_that_is_read_only_is_refused_and_can_be_looked_at() {
    let site = Site::new("[queues.a]");
    let disk = SmallDisk::mount(site.path("data"), "size=200m");
    let runtime = site.start();
    let id = site.send("a", "written before");
    runtime.stop();
    disk.remount("ro");
    refuses_to_start(&site, &["can't open the data folder", "Read-only file system"]);
    // Looking writes nothing.
    let report = site.run_well(&["store", "verify"]);
    assert!(report.contains("data: ok"), "{report}");
    assert!(site.run_well(&["store", "dump", "--messages"]).contains(&id));
    disk.remount("rw");
    assert_eq!(site.start_and_look("a"), [id]);
}

/// A connection that stays open.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(site: &Site) -> Connection {
        Connection(BufReader::new(TcpStream::connect(site.address()).unwrap()))
    }

    fn request(&mut self, path: &str, body: &str) {
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
    }

    /// The status and the body.
    fn answer(&mut self) -> (u16, String) {
        let (mut status, mut bytes) = (0, 0);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection was closed");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(length) = line.strip_prefix("content-length: ") {
                bytes = length.parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; bytes];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    fn post(&mut self, path: &str, body: &str) -> (u16, String) {
        self.request(path, body);
        self.answer()
    }
}

#[test]
fn without_open_files_the_store_goes_on_and_clients_wait() {
    let site = Site::with_runtime("log_max_bytes = \"16MiB\"", "[queues.parked]");
    let runtime = site.start();
    let mut open = Connection::open(&site);
    let body = "x".repeat(100 << 10);
    assert_eq!(open.post("/queues/parked/messages", &body).0, 202);

    // From here on nothing more can be opened.
    let before = getrlimit_of(pid(&runtime));
    limit_files(pid(&runtime), Rlimit { current: Some(8), maximum: before.maximum });
    let begun = Instant::now();
    let mut waiting = Connection::open(&site);
    waiting.request("/queues/parked/messages", "from a client that has to wait");
    let mut confirmed = 1;
    // What is there already goes on, as far as it gets without a new file.
    let refusal = loop {
        match open.post("/queues/parked/messages", &body) {
            (202, _) => confirmed += 1,
            other => break other,
        }
        assert!(confirmed < 1000, "more is taken than there can be room for");
    };
    assert_eq!(refusal.0, 507, "{}", refusal.1);
    assert!(refusal.1.contains("too many open files"), "{}", refusal.1);
    assert!(confirmed > 15, "{confirmed}: some files of the log were made ahead");
    eventually("a word about both", || {
        let stderr = runtime.stderr();
        when(stderr.contains("sends are refused: too many open files"), &stderr)?;
        when(stderr.contains("can't accept HTTP connections"), &stderr)
    });
    let attempts = runtime.stderr().matches("can't accept HTTP connections").count() as u64;
    assert!(attempts <= begun.elapsed().as_secs() + 1, "{attempts} attempts are more than one a second");

    limit_files(pid(&runtime), before);
    assert_eq!(waiting.answer().0, 202);
    eventually("room for more", || {
        let (status, answer) = open.post("/queues/parked/messages", &body);
        when(status == 202, answer)
    });
    assert_eq!(site.count("parked"), confirmed + 2);
    eventually("a word about the end of it", || {
        when(runtime.stderr().contains("there is room again"), runtime.stderr())
    });
    runtime.kill();
    let runtime = site.start();
    assert_eq!(site.count("parked"), confirmed + 2);
    runtime.stop();
}

fn getrlimit_of(process: Pid) -> Rlimit {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.as_raw_nonzero())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<Option<u64>> =
        line["Max open files".len()..].split_whitespace().take(2).map(|number| number.parse().ok()).collect();
    Rlimit { current: numbers[0], maximum: numbers[1] }
}

fn pid(runtime: &Runtime) -> Pid {
    Pid::from_raw(runtime.id().cast_signed()).expect("a process has a number")
}

fn limit_files(process: Pid, limit: Rlimit) {
    prlimit(Some(process), Resource::Nofile, limit).unwrap();
}

#[test]
fn few_open_files_are_shared_out_so_that_clients_leave_some() {
    let site = Site::new("[queues.a]");
    let mut command = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_linecook");
    command.args(["-c", &format!("ulimit -n 128; exec {binary} run")]).current_dir(site.path(""));
    let mut runtime = site.spawn_command(command);
    site.wait_ready(&mut runtime);
    // As many clients as the process may have files, and not one of them says a word.
    let mut idle: Vec<TcpStream> = (0..128).map(|_| TcpStream::connect(site.address()).unwrap()).collect();
    let id = eventually("an answer once the first ones have been sent away", || {
        // A client that finds a place.
        idle.truncate(idle.len().saturating_sub(1).max(8));
        let answer = site.request("POST", "/queues/a/messages", &[], b"through").map_err(|error| error.to_string())?;
        // As long as there is no place, it is told so.
        answer.body["id"].as_str().map(str::to_owned).ok_or(answer.body.to_string())
    });
    assert!(!runtime.stderr().contains("can't accept"), "{}", runtime.stderr());
    runtime.kill();
    assert_eq!(site.start_and_look("a"), [id]);
}

#[test]
fn a_full_disk_refuses_sends_and_is_drained() {
    let site = Site::with_runtime(
        "log_max_bytes = \"16MiB\"",
        "[queues.parked]\n[queues.work]\n\n[consumers.late]\nqueue = \"work\"\ncomponent = \"late.wasm\"",
    );
    let _disk = SmallDisk::mount(site.path("data"), "size=40m");
    let runtime = site.start();
    // The consumer has no component yet, so that everything stays where it is.
    let body = "x".repeat(100 << 10);
    let mut confirmed = [0, 0];
    let mut fill = || loop {
        let turn = (confirmed[0] + confirmed[1]) % 2;
        let queue = ["parked", "work"][turn];
        let answer = site.post(&format!("/queues/{queue}/messages"), &body);
        if answer.status != 202 {
            break (answer, confirmed);
        }
        confirmed[turn] += 1;
        assert!(confirmed[0] < 300, "more is taken than there can be room for");
    };
    let (refusal, confirmed) = fill();
    assert_eq!(refusal.status, 507, "{}", refusal.body);
    assert_eq!(refusal.body["type"], "urn:linecook:problem:store-full");
    // Beside them there is the log, and the reserve for what goes on.
    assert!(confirmed[0] > 100, "{confirmed:?}: this is not much for 40 MiB");
    fs::write(site.path("body"), &body).unwrap();
    let output = site.run(&["send", "work", "--file", "body"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the disk is full") && stderr.contains("507"), "{stderr}");

    // A store on a full disk can be opened again. What was being copied when it was killed is begun anew, and may make room
    // for a few more.
    runtime.kill();
    let runtime = site.start();
    let (refusal, confirmed) = fill();
    assert_eq!(refusal.status, 507, "{}", refusal.body);

    // Clients read, retry, dead-letter and acknowledge what is there, in the log and in segments.
    let claimed = site.post("/queues/parked/claim", json!({ "max": 3, "lease": "60s" }).to_string());
    assert_eq!(claimed.status, 200, "{}", claimed.body);
    let settle = |at: usize, how: &str, more: Value| {
        let message = &claimed.body["messages"][at];
        assert_eq!(message["body"], body);
        let answer = site.post(&format!("/deliveries/{}/{how}", message["lease"].as_str().unwrap()), more.to_string());
        assert_eq!(answer.status, 200, "{how}: {}", answer.body);
        message["id"].clone()
    };
    let retried = settle(0, "retry", json!({ "delay": "0s" }));
    let dead = settle(1, "dead-letter", json!({ "reason": "it came on a full disk" }));
    settle(2, "ack", json!({}));
    assert_eq!(site.messages("parked.dead")[0]["id"], dead);
    let again = site.post("/queues/parked/claim", json!({ "max": 1, "lease": "1s" }).to_string());
    let again = &again.body["messages"][0];
    assert_eq!((&again["id"], &again["attempt"]), (&retried, &json!(2)));
    let confirmed = [confirmed[0] - 2, confirmed[1]];

    // Acks need no room, and make some: then sends are taken again, without a restart.
    fs::copy(guests::component("noop"), site.path("late.wasm")).unwrap();
    site.wait_empty("work");
    assert_eq!(site.count("parked"), confirmed[0] as u64);
    assert_eq!(site.count("parked.dead"), 1);
    assert_eq!(site.consumer("late")["failed"], 0);
    eventually("there is room again", || {
        let answer = site.post("/queues/parked/messages", &body);
        when(answer.status == 202, answer.body)
    });
    runtime.stop();
}

/// The operator's way: something else goes from the disk.
#[test]
fn space_that_somebody_frees_is_used_without_a_restart() {
    let site = Site::with_runtime("log_max_bytes = \"16MiB\"", "[queues.parked]");
    let _disk = SmallDisk::mount(site.path("data"), "size=40m");
    let ballast = site.path("data/somebody-elses");
    fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let runtime = site.start();
    let body = "x".repeat(100 << 10);
    let send = || site.post("/queues/parked/messages", &body);
    let mut confirmed = 0;
    let refusal = loop {
        let answer = send();
        if answer.status != 202 {
            break answer;
        }
        confirmed += 1;
        assert!(confirmed < 300, "more is taken than there can be room for");
    };
    assert_eq!(refusal.status, 507, "{}", refusal.body);
    fs::remove_file(&ballast).unwrap();
    eventually("there is room again", || {
        let answer = send();
        when(answer.status == 202, answer.body)
    });
    assert_eq!(site.count("parked"), confirmed + 1);
    runtime.stop();
}
