//! Components in the sandbox: what each way of ending becomes, what is granted and what isn't, and what is refused at load.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linecook::config::DirGrant;
use linecook::delivery::{MessageId, Outcome};
use linecook::sandbox::{InstanceSettings, LoadError};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/kitchen.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod kitchen;
#[path = "support/log.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod log;

use crate::log::LOG;
use kitchen::{Kitchen, LONG, component, delivery, reason, retry, sent, settings};

#[test]
fn every_answer_of_a_handler_is_an_outcome() {
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(settings());
    let module = kitchen.load(&component("behave"), &settings).unwrap();
    let after = |ms| Some(Duration::from_millis(ms));
    for (body, outcome) in [
        (r#"{"do":"ok"}"#, Outcome::Ack),
        (r#"{"do":"sleep","ms":1}"#, Outcome::Ack),
        (r#"{"do":"retry"}"#, retry("on purpose")),
        (r#"{"do":"retry-after","ms":100}"#, Outcome::Retry { reason: "on purpose".into(), after: after(100) }),
        (r#"{"do":"snooze","ms":100}"#, Outcome::Snooze { after: Duration::from_millis(100) }),
        // 1000 years: cut to one.
        (r#"{"do":"snooze","ms":31536000000000}"#, Outcome::Snooze { after: Duration::from_secs(365 * 86_400) }),
        (r#"{"do":"dead-letter"}"#, Outcome::DeadLetter { reason: "on purpose".into() }),
        (r#"{"do":"exit"}"#, retry("the handler called exit with code 1")),
        (r#"{"do":"exit-zero"}"#, retry("the handler called exit with code 0")),
        (r#"{"do":"allocate"}"#, retry("exceeded memory_limit (32 MiB)")),
    ] {
        assert_eq!(kitchen.call(&module, &settings, body).outcome, outcome, "{body}");
    }
    let long = format!(r#"{{"do":"retry","reason":"{}"}}"#, "ä".repeat(10_000));
    assert_eq!(reason(&kitchen.call(&module, &settings, &long)).len(), 4096);
}

#[test]
fn a_panic_is_a_trap_with_its_text_on_stderr() {
    let report = Kitchen::new(1).behave(settings(), r#"{"do":"panic"}"#);
    let reason = reason(&report);
    assert!(reason.starts_with("trapped: wasm `unreachable` instruction executed"), "{reason}");
    assert!(report.stderr_tail.contains("on purpose"), "{}", report.stderr_tail);
}

#[test]
fn the_handler_sees_the_whole_message() {
    let report = Kitchen::new(1).behave(settings(), r#"{"do":"message"}"#);
    let id = MessageId::new(7, 42).to_string();
    let message = serde_json::json!({
        "input": id, "queue": "orders", "content_type": "application/json", "key": "table-7",
        "attributes": [["waiter", "Ann"]], "attempt": 3, "enqueued_at_ms": 1_700_000_000_123_u64,
    });
    assert_eq!(sent(&report), [("report".to_owned(), message)]);
}

#[test]
fn what_is_sent_comes_with_the_report_in_order() {
    let report = Kitchen::new(1).behave(settings(), r#"{"do":"send","to":"audit","count":3}"#);
    assert_eq!(report.outcome, Outcome::Ack);
    let sent = sent(&report);
    assert_eq!(
        sent.iter().map(|(to, value)| (&**to, value["index"].as_u64())).collect::<Vec<_>>(),
        [("audit", Some(0)), ("audit", Some(1)), ("audit", Some(2))]
    );
}

#[test]
fn sends_have_limits() {
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(settings());
    let module = kitchen.load(&component("behave"), &settings).unwrap();
    let call = |body: &str| kitchen.call(&module, &settings, body);
    assert_eq!(call(r#"{"do":"send","to":"audit","count":1000}"#).sends.len(), 1000);
    assert_eq!(call(r#"{"do":"send","to":"audit","count":8,"bytes":1048576}"#).sends.len(), 8);
    for (body, says) in [
        (r#"{"do":"send","to":"audit","count":1001}"#, "a delivery may send 1000 messages"),
        (r#"{"do":"send","to":"audit","bytes":1048577}"#, "a message may have 1 MiB"),
        (r#"{"do":"send","to":"audit","count":9,"bytes":1048576}"#, "a delivery may send 8 MiB in all"),
        (r#"{"do":"send","to":"no such name"}"#, "is not a queue name"),
    ] {
        let report = call(body);
        assert!(reason(&report).contains(says), "{body}: {}", reason(&report));
    }
}

#[test]
fn a_send_without_a_grant_fails_and_the_log_says_once_what_grants_it() {
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(InstanceSettings { consumer: "ungranted".into(), ..settings() });
    let module = kitchen.load(&component("behave"), &settings).unwrap();
    for _ in 0..3 {
        let report = kitchen.call(&module, &settings, r#"{"do":"send","to":"secret"}"#);
        assert!(reason(&report).contains("no grant to send to secret"), "{}", reason(&report));
        assert!(report.sends.is_empty());
    }
    let lines: Vec<_> = LOG.of("ungranted").iter().map(|line| line["fields"]["message"].to_string()).collect();
    let lines: Vec<_> = lines.iter().filter(|line| line.contains("not granted")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let toml = r#"[consumers.ungranted.grants]\nsend = [\"report\", \"audit\", \"secret\"]"#;
    assert!(lines[0].contains(toml), "{}", lines[0]);
}

#[test]
fn an_endless_loop_is_timed_out_while_others_on_its_worker_go_on() {
    let kitchen = Kitchen::new(1);
    let patient = Arc::new(settings());
    let strict = Arc::new(InstanceSettings { timeout: Duration::from_millis(300), ..settings() });
    let module = kitchen.load(&component("behave"), &patient).unwrap();
    let endless = kitchen.calling(&module, &patient, r#"{"do":"loop"}"#);
    for _ in 0..3 {
        assert_eq!(kitchen.call(&module, &patient, r#"{"do":"ok"}"#).outcome, Outcome::Ack);
    }
    for body in [r#"{"do":"loop"}"#, r#"{"do":"sleep","ms":60000}"#] {
        let report = kitchen.call(&module, &strict, body);
        assert_eq!(report.outcome, retry("timed out after 300ms"), "{body}");
        assert!(report.elapsed >= strict.timeout);
    }
    assert!(endless.try_recv().is_err(), "all this was beside a loop that goes on");
}

#[test]
fn output_goes_to_the_log_with_the_message_and_stops_at_its_limit() {
    let kitchen = Kitchen::new(1);
    let settings = InstanceSettings { consumer: "chatty".into(), ..settings() };
    let report = kitchen
        .behave(settings.clone(), r#"{"do":"print","lines":["one","two"],"then":{"do":"eprint","lines":["three"]}}"#);
    assert_eq!(report.stderr_tail, "three\n");
    let lines = LOG.of("chatty");
    let shown: Vec<_> = lines.iter().map(|line| (&line["fields"]["stream"], &line["fields"]["message"])).collect();
    assert_eq!(
        format!("{shown:?}"),
        r#"[(String("stdout"), String("one")), (String("stdout"), String("two")), (String("stderr"), String("three"))]"#
    );
    for line in &lines {
        assert_eq!(line["target"], "guest");
        assert_eq!(line["fields"]["message_id"], MessageId::new(7, 42).to_string());
        assert_eq!(line["fields"]["attempt"], 3);
        assert_eq!(line["fields"]["module"].as_str().unwrap().len(), 12);
    }

    let settings = InstanceSettings { consumer: "flood".into(), ..settings };
    let line = "x".repeat(20_000);
    let lines = vec![line.as_str(); 50];
    kitchen.behave(settings, &serde_json::json!({ "do": "print", "lines": lines }).to_string());
    let lines: Vec<_> =
        LOG.of("flood").iter().map(|line| line["fields"]["message"].as_str().unwrap().to_owned()).collect();
    assert!(lines.iter().all(|line| line.len() <= 8 << 10));
    assert!(lines.iter().map(String::len).sum::<usize>() <= (256 << 10) + 200);
    assert_eq!(lines.iter().filter(|line| line.contains("the rest of this delivery's is dropped")).count(), 1);
}

#[test]
fn records_of_log_and_tracing_reach_the_log_with_the_message() {
    let kitchen = Kitchen::new(1);
    for (level, expected) in [
        (
            None,
            &[
                " INFO logs: log is informed of 3 bytes",
                "ERROR kitchen::oven: log is alarmed",
                " WARN logs: tracing is worried table=7 dish=\"soup\"",
            ][..],
        ),
        (Some("error"), &["ERROR kitchen::oven: log is alarmed"]),
        (Some("off"), &[]),
    ] {
        let consumer = format!("logs at {level:?}");
        let mut settings = InstanceSettings { consumer: consumer.clone(), ..settings() };
        settings.grants.env.extend(level.map(|level| ("RUST_LOG".to_owned(), level.to_owned())));
        let settings = Arc::new(settings);
        let module = kitchen.load(&component("logs"), &settings).unwrap();
        let report = kitchen.call(&module, &settings, "abc");
        assert_eq!(reason(&report), "on purpose");
        let lines = LOG.of(&consumer);
        assert_eq!(lines.iter().map(|line| line["fields"]["message"].as_str().unwrap()).collect::<Vec<_>>(), expected);
        assert!(lines.iter().all(|line| line["fields"]["message_id"] == MessageId::new(7, 42).to_string()));
        assert_eq!(report.stderr_tail, expected.iter().map(|line| format!("{line}\n")).collect::<String>());
    }
}

#[test]
fn a_guest_has_the_granted_environment_and_no_other() {
    let kitchen = Kitchen::new(1);
    let mut settings = settings();
    assert_eq!(
        sent(&kitchen.behave(settings.clone(), r#"{"do":"environment"}"#))[0].1["environment"],
        serde_json::json!({})
    );
    settings.grants.env = BTreeMap::from([("FROM".to_owned(), "hello@example.com".to_owned())]);
    let report = kitchen.behave(settings, r#"{"do":"environment"}"#);
    assert_eq!(sent(&report)[0].1["environment"], serde_json::json!({ "FROM": "hello@example.com" }));
}

fn dir(host: &Path, guest: &str, write: bool) -> DirGrant {
    DirGrant { host: host.to_owned(), guest: guest.to_owned(), write }
}

#[test]
fn a_guest_sees_the_granted_folders_and_nothing_around_them() {
    let kitchen = Kitchen::new(1);
    let [read, write] = ["read", "made/write"].map(|name| kitchen.folder.path().join(name));
    fs::create_dir(&read).unwrap();
    fs::write(read.join("menu"), "soup").unwrap();
    fs::write(kitchen.folder.path().join("secret"), "recipe").unwrap();
    std::os::unix::fs::symlink("../secret", read.join("link")).unwrap();
    let mut settings = settings();
    settings.grants.dirs = vec![dir(&read, "/read", false), dir(&write, "/write", true)];
    let settings = Arc::new(settings);
    let module = kitchen.load(&component("behave"), &settings).unwrap();
    let call = |body: &str| kitchen.call(&module, &settings, body);

    assert_eq!(sent(&call(r#"{"do":"read-file","path":"/read/menu"}"#))[0].1["text"], "soup");
    assert_eq!(call(r#"{"do":"write-file","path":"/write/a","text":"b"}"#).outcome, Outcome::Ack);
    assert_eq!(fs::read_to_string(write.join("a")).unwrap(), "b");
    for denied in [
        r#"{"do":"write-file","path":"/read/menu","text":"poison"}"#,
        r#"{"do":"write-file","path":"/read/new","text":"poison"}"#,
        r#"{"do":"read-file","path":"/read/../secret"}"#,
        r#"{"do":"read-file","path":"/read/link"}"#,
        r#"{"do":"read-file","path":"/write/../../secret"}"#,
        r#"{"do":"write-file","path":"/write/../x","text":"poison"}"#,
        r#"{"do":"read-file","path":"/etc/passwd"}"#,
    ] {
        let report = call(denied);
        assert!(matches!(report.outcome, Outcome::DeadLetter { .. }), "{denied}: {report:?}");
    }
    assert_eq!(fs::read_to_string(read.join("menu")).unwrap(), "soup");
    assert!(!read.join("new").exists());

    // A folder that was made again is found; one that is gone is a failed attempt that names it.
    fs::remove_dir_all(&write).unwrap();
    let report = call(r#"{"do":"ok"}"#);
    assert!(reason(&report).contains(&format!("the granted folder {} can't be opened", write.display())));
    fs::create_dir(&write).unwrap();
    assert_eq!(call(r#"{"do":"write-file","path":"/write/a","text":"b"}"#).outcome, Outcome::Ack);
}

#[test]
fn a_granted_folder_that_is_missing_is_refused_at_load() {
    let kitchen = Kitchen::new(1);
    let mut settings = settings();
    let missing = kitchen.folder.path().join("missing");
    settings.grants.dirs = vec![dir(&missing, "/templates", false)];
    let error = kitchen.load(&component("noop"), &Arc::new(settings)).unwrap_err();
    assert!(matches!(error, LoadError::Folder { .. }));
    let text = error.to_string();
    assert!(text.contains(missing.to_str().unwrap()) && text.contains("Make the folder"), "{text}");
}

#[test]
fn compiled_code_is_kept_and_damage_is_repaired() {
    let kitchen = Kitchen::with_own_cache(2);
    let settings = Arc::new(settings());
    let noop = component("noop");
    // Each is dropped before the next is loaded: code that is in use is not loaded again.
    let first = kitchen.load(&noop, &settings).unwrap().hash();
    let files = || fs::read_dir(kitchen.folder.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
    let path = files().next().unwrap();
    let (whole, inode) = (fs::read(&path).unwrap(), inode(&path));

    assert_eq!(kitchen.load(&noop, &settings).unwrap().hash(), first);
    assert_eq!(self::inode(&path), inode, "it was taken from the cache");

    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let again = kitchen.load(&noop, &settings).unwrap();
    assert_eq!(kitchen.call(&again, &settings, "").outcome, Outcome::Ack);
    assert_eq!(fs::read(&path).unwrap(), whole, "it was compiled again");

    let other = kitchen.load(&guests::with_custom_section(&noop, "build", b"2"), &settings).unwrap();
    assert_ne!(other.hash(), first);
    assert_eq!(files().count(), 2);
}

#[test]
fn consumers_of_the_same_component_share_its_code() {
    let kitchen = Kitchen::with_own_cache(2);
    let (one, mut two) = (settings(), settings());
    two.consumer = "other".into();
    two.max_batch_size = 5;
    let behave = component("behave");
    let first = kitchen.load(&behave, &Arc::new(one)).unwrap();
    let cache = kitchen.folder.path().join("cache");
    let files = || fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    files().for_each(|path| fs::remove_file(path).unwrap());

    // What each is loaded with is checked all the same.
    let error = kitchen.load(&behave, &Arc::new(two.clone())).unwrap_err();
    assert!(error.to_string().contains("max_batch_size is 5"), "{error}");
    two.max_batch_size = 1;
    let two = Arc::new(two);
    let second = kitchen.load(&behave, &two).unwrap();
    assert_eq!(files().count(), 0, "nothing was compiled");
    drop(first);
    assert_eq!(kitchen.call(&second, &two, r#"{"do":"ok"}"#).outcome, Outcome::Ack);
    drop(second);
    kitchen.load(&behave, &two).unwrap();
    assert_eq!(files().count(), 1, "nobody had it any more");
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[test]
fn a_component_that_can_t_be_used_is_refused_with_what_to_do() {
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(settings());
    let refused = |component: &[u8]| kitchen.load(component, &settings).unwrap_err();
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let handler = |core: &str| {
        wat(&format!(
            r#"(component
                (core module $m {core} (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $h (export "handle" (func $f)))
                (export "linecook:worker/handler@0.1.0" (instance $h)))"#
        ))
    };

    let error = refused(b"PK\x03\x04 a zip file");
    assert!(matches!(error, LoadError::NotWasm { .. }) && error.to_string().contains(r#""PK\x03\x04 a z""#), "{error}");

    let error = refused(&wat("(module)"));
    assert!(matches!(error, LoadError::CoreModule { .. }) && error.to_string().contains("wasm32-wasip2"), "{error}");

    let mut half = component("noop");
    half.truncate(half.len() / 2);
    let error = refused(&half);
    assert!(matches!(error, LoadError::Compile { .. } | LoadError::CoreModule { .. }), "{error:?}");

    let error = refused(&wat(r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#));
    assert!(matches!(error, LoadError::MissingExport { .. }), "{error:?}");
    assert!(
        error.to_string().contains(
            "does not export `linecook:worker/handler@0.1` or `linecook:worker/batch-handler@0.1`; it exports \
             `wasi:cli/run@0.2.0`"
        ),
        "{error}"
    );

    let error = refused(&wat(r#"(component (import "acme:oven/heat@1.0.0" (instance (export "on" (func)))))"#));
    assert!(matches!(error, LoadError::MissingImport { .. }), "{error:?}");
    assert!(error.to_string().contains("`acme:oven/heat@1.0.0`"), "{error}");

    let error = refused(&wat(r#"(component
            (import "linecook:worker/queues@0.1.0" (instance (export "sing" (func))))
            (instance $i) (export "linecook:worker/handler@0.1.0" (instance $i)))"#));
    assert!(matches!(error, LoadError::WrongImport { .. }), "{error:?}");
    assert!(error.to_string().contains("sing"), "{error}");

    for wrong in
        [handler(""), wat(r#"(component (instance $i) (export "linecook:worker/handler@0.1.0" (instance $i)))"#)]
    {
        let error = refused(&wrong);
        assert!(matches!(error, LoadError::WrongExport { .. }), "{error:?}");
    }

    let error = refused(&handler("(func $start unreachable) (start $start)"));
    assert!(matches!(error, LoadError::Instantiate { .. }), "{error:?}");
    assert!(error.to_string().contains("trapped: wasm `unreachable` instruction executed"), "{error}");

    let error = refused(&handler("(memory 1024)"));
    assert!(error.to_string().contains("exceeded memory_limit (32 MiB)"), "{error}");
}

#[test]
fn a_component_of_an_older_minor_version_runs() {
    let kitchen = Kitchen::new(1);
    let settings = Arc::new(settings());
    // The names are all that differs: 0.1.1 only added to 0.1.0.
    let mut component = component("behave");
    let (new, old) = (b"@0.1.1", b"@0.1.0");
    let mut replaced = 0;
    for at in 0..component.len() - new.len() {
        if component[at..].starts_with(new) {
            component[at..at + new.len()].copy_from_slice(old);
            replaced += 1;
        }
    }
    assert!(replaced >= 2, "{replaced}");
    let module = kitchen.load(&component, &settings).unwrap();
    let report = kitchen.call(&module, &settings, r#"{"do":"send","to":"audit","count":3}"#);
    assert_eq!((report.outcome, report.sends.len()), (Outcome::Ack, 3));
}

#[test]
fn a_module_whose_interfaces_depend_on_each_other_in_a_circle_is_refused() {
    let kitchen = Kitchen::new(1);
    let mut component = component("behave");
    for at in 0..component.len() {
        let named = [&b"linecook:worker/handler"[..], b"linecook:worker/queues"];
        if named.iter().any(|name| component[..at].ends_with(name)) {
            component[at..at + 6].copy_from_slice(b"@0.1.0");
        }
    }
    match kitchen.load(&component, &Arc::new(settings())) {
        // In a component, these are names of an older version.
        Ok(_) => assert!(component.starts_with(b"\0asm\x0d")),
        Err(error) => assert!(error.to_string().contains("depend on each other in a circle"), "{error}"),
    }
}

#[test]
fn slots_are_given_out_up_to_the_pool_and_come_back() {
    let kitchen = Kitchen::new(1);
    kitchen.on(0, async |worker| {
        let mut held = worker.slots(3).await;
        assert_eq!(held.len(), 3);
        held.extend(worker.slots(3).await);
        assert_eq!(held.len(), 4);
        assert!(tokio::time::timeout(Duration::from_millis(20), worker.slots(1)).await.is_err());
        held.pop();
        assert_eq!(worker.slots(9).await.len(), 1);
        drop(held);
        assert_eq!(worker.slots(9).await.len(), 4);
    });
}

#[test]
fn a_task_that_panics_leaves_its_worker_alive() {
    let kitchen = Kitchen::new(1);
    let answer = kitchen.start(0, async |_| panic!("on purpose"));
    let answer: Result<(), _> = answer.recv_timeout(LONG);
    assert!(answer.is_err());
    assert_eq!(kitchen.on(0, async |worker| worker.index()), 0);
}

#[test]
fn stopping_waits_for_tasks_but_not_longer_than_asked() {
    let kitchen = Kitchen::new(2);
    let ended = kitchen.start(0, async |_| tokio::time::sleep(Duration::from_millis(50)).await);
    kitchen.sandbox.stop(LONG);
    assert!(ended.try_recv().is_ok());

    let kitchen = Kitchen::new(1);
    let settings = Arc::new(settings());
    let module = kitchen.load(&component("behave"), &settings).unwrap();
    let looping = kitchen.calling(&module, &settings, r#"{"do":"loop"}"#);
    let asked = Instant::now();
    kitchen.sandbox.stop(Duration::from_millis(50));
    assert!(asked.elapsed() < LONG / 2);
    assert!(looping.try_recv().is_err());
}

#[test]
fn thousands_of_calls_leak_neither_slots_nor_files() {
    let kitchen = Kitchen::new(2);
    let mut settings = settings();
    settings.grants.dirs = vec![dir(&kitchen.folder.path().join("out"), "/out", true)];
    let settings = Arc::new(settings);
    let module = kitchen.load(&component("noop"), &settings).unwrap();
    let behave = kitchen.load(&component("behave"), &settings).unwrap();
    let files = || fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = files();
    let calls: Vec<_> = (0..2)
        .map(|worker| {
            let (module, behave, settings) = (module.clone(), behave.clone(), settings.clone());
            kitchen.start(worker, async move |worker| {
                let (delivery, trap) = (delivery(""), delivery(r#"{"do":"exit"}"#));
                for number in 0..5000 {
                    let slot = worker.slots(1).await.pop().unwrap();
                    let report = module.call(&worker, slot, &settings, &delivery).await;
                    assert_eq!(report.outcome, Outcome::Ack);
                    if number % 10 == 0 {
                        let slot = worker.slots(1).await.pop().unwrap();
                        behave.call(&worker, slot, &settings, &trap).await;
                    }
                }
                worker.slots(9).await.len()
            })
        })
        .collect();
    for slots in calls {
        assert_eq!(slots.recv_timeout(LONG).unwrap(), 4);
    }
    // Other tests of this process open a few.
    assert!(files() < before + 500, "{before} files were open, now {}", files());
}
