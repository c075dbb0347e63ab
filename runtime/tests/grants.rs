//! Grants and limits as users write them: in `queue.toml`, with the real binary.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

#[path = "support/by_hand.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod by_hand;
#[path = "support/edits.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod edits;
#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;
#[path = "support/web.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod web;

use by_hand::component_of;
use edits::{replace, wait_in_force};
use runtime::{Runtime, Site, eventually, when};
use web::{Authority, Web};

/// A consumer of `work` that gives up at once.
fn tables(guest: &str, more: &str) -> String {
    format!(
        "[queues.work]\n[queues.report]\n[queues.audit]\n\n[consumers.it]\nqueue = \"work\"\ncomponent = {:?}\nmax_retries = 0\n{more}\n",
        guests::component(guest)
    )
}

fn fact<'a>(message: &'a Value, name: &str) -> &'a str {
    message["attributes"][format!("linecook-{name}")].as_str().unwrap_or_else(|| panic!("no {name} in {message}"))
}

#[test]
fn a_missing_secret_is_told_with_its_place_by_check_and_at_the_start() {
    let site = Site::new(&tables("outside", "grants.secrets = [\"LINECOOK_TEST_SECRET\"]"));
    for command in [&["check"][..], &["run"]] {
        let output = site.run(command);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
        for part in
            ["the secret `LINECOOK_TEST_SECRET` is not set in the environment", "queue.toml:13:19", "^^^^", "hint: "]
        {
            assert!(stderr.contains(part), "{command:?} does not say {part}:\n{stderr}");
        }
    }
    // What only talks to a runtime needs no secrets.
    let output = site.run(&["status"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("LINECOOK_TEST_SECRET"));
}

#[test]
fn a_secret_reaches_the_guest_and_nothing_that_is_shown() {
    const VALUE: &str = "hunter2-correct-horse";
    let site = Site::new(&tables("outside", "grants.secrets = [\"LINECOOK_TEST_SECRET\"]\ngrants.send = [\"report\"]"));
    let mut runtime = site.spawn_with(&[("LINECOOK_TEST_SECRET", VALUE), ("LINECOOK_TEST_OTHER", "not granted")]);
    site.wait_ready(&mut runtime);
    site.send("work", json!({ "do": "fail-with", "variable": "LINECOOK_TEST_SECRET" }));
    let letter = site.wait_messages("work.dead", 1).remove(0);
    assert_eq!(fact(&letter, "reason"), "reason: [secret LINECOOK_TEST_SECRET]");
    assert_eq!(fact(&letter, "stderr"), "err: [secret LINECOOK_TEST_SECRET]\n");

    site.send("work", json!({ "do": "fail-with", "variable": "LINECOOK_TEST_OTHER" }));
    let letters = site.wait_messages("work.dead", 2);
    assert_eq!(fact(&letters[1], "reason"), "environment variable not found");

    let shown = [
        site.run_well(&["status", "--json"]),
        site.run_well(&["status"]),
        site.get("/consumers").to_string(),
        site.run_well(&["peek", "work.dead", "--json"]),
    ];
    let stderr = runtime.stop().stderr;
    for line in [
        "out: [secret LINECOOK_TEST_SECRET]",
        "err: [secret LINECOOK_TEST_SECRET]",
        "log: [secret LINECOOK_TEST_SECRET]",
    ] {
        assert!(stderr.contains(line), "the guest printed {line}:\n{stderr}");
    }
    assert!(!stderr.contains(VALUE) && shown.iter().all(|text| !text.contains(VALUE)));
    // What is on disk are queues and compiled code.
    for entry in std::fs::read_dir(site.path("data")).unwrap() {
        let path = entry.unwrap().path();
        let content = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        assert!(!content.windows(VALUE.len()).any(|part| part == VALUE.as_bytes()), "{}", path.display());
    }
}

/// What goes over one limit.
struct Over {
    /// The key and its value, as a line of the consumer's table.
    line: &'static str,
    guest: &'static str,
    body: Value,
    /// What the reason of the dead letter says.
    says: &'static str,
}

/// What each limit of a delivery stops.
fn over_limits() -> Vec<Over> {
    let over = |line, guest, body, says| Over { line, guest, body, says };
    let flood = json!({ "do": "print", "lines": ["x".repeat(2000)], "then": { "do": "retry" } });
    let send = |count: u32, bytes: u32| json!({ "do": "send", "to": "audit", "count": count, "bytes": bytes });
    vec![
        over("memory_limit = \"8MiB\"", "behave", json!({ "do": "allocate" }), "exceeded memory_limit (8 MiB)"),
        over("timeout = \"2s\"", "behave", json!({ "do": "sleep", "ms": 3_600_000 }), "timed out after 2s"),
        over("limits.cpu_time = \"50ms\"", "behave", json!({ "do": "loop" }), "exceeded limits.cpu_time (50ms)"),
        over("limits.table_elements = 5000", "grow", json!({}), "exceeded limits.table_elements (5000)"),
        over(
            "limits.host_call_bytes = \"64KiB\"",
            "behave",
            send(1, 100_000),
            "exceeded limits.host_call_bytes (64 KiB)",
        ),
        over(
            "limits.random_bytes = \"1KiB\"",
            "outside",
            json!({ "do": "random", "bytes": 1025 }),
            "exceeded limits.random_bytes (1 KiB)",
        ),
        over("limits.log_bytes = \"1KiB\"", "behave", flood, "exceeded limits.log_bytes (1 KiB)"),
        over("limits.sends = 3", "behave", send(4, 1), "a delivery may send 3 messages (limits.sends)"),
        over("limits.send_bytes = \"10KiB\"", "behave", send(1, 11_000), "10 KiB in all (limits.send_bytes)"),
        over(
            "limits.state_bytes = \"1KiB\"",
            "state",
            json!({ "do": "set", "key": "k", "bytes": 1025 }),
            "(limits.state_bytes)",
        ),
    ]
}

/// What no component may be made of: it is refused when it is loaded, so that there is no delivery that could fail. The line, the
/// guest, and the reason.
const NOT_LOADED: [(&str, &str, &str); 2] = [
    ("limits.core_instances = 1", "behave", "exceeded limits.core_instances (1)"),
    ("limits.tables = 2", "three-tables", "exceeded limits.tables (2)"),
];

/// The keys of `[consumers.NAME.limits]`, as the command line tells somebody who writes another one.
fn keys_of_limits() -> BTreeSet<String> {
    let site = Site::new(&tables("behave", "limits.zzzzzzzzzzzz = 1"));
    let stderr = String::from_utf8(site.run(&["check"]).stderr).unwrap();
    let (_, keys) = stderr.split_once("the keys here are ").unwrap_or_else(|| panic!("no keys in {stderr}"));
    keys.lines().next().unwrap().split(", ").map(|key| format!("limits.{}", key.trim().trim_matches('`'))).collect()
}

#[test]
fn every_limit_of_the_file_is_named_where_it_stops_something() {
    let over = over_limits();
    let named = over.iter().map(|over| over.line).chain(NOT_LOADED.map(|(line, ..)| line));
    let named: BTreeSet<_> = named.map(|line| line.split_once(" = ").unwrap().0.to_owned()).collect();
    let keys: BTreeSet<_> =
        keys_of_limits().into_iter().chain(["memory_limit", "timeout"].map(str::to_owned)).collect();
    assert_eq!(named, keys, "each limit that there is, is tried here");

    let mut text = "[queues.audit]\n[queues.report]\n".to_owned();
    let consumer = |name: &str, guest: &str, line: &str| {
        let component = match guest {
            "grow" | "three-tables" => format!("{guest}.wasm").into(),
            guest => guests::component(guest),
        };
        format!(
            "[queues.{name}]\n[consumers.{name}]\nqueue = \"{name}\"\ncomponent = {component:?}\nmax_retries = 0\n{line}\n\
             grants = {{ send = [\"audit\", \"report\"], state = true }}\n"
        )
    };
    for (number, Over { line, guest, .. }) in over.iter().enumerate() {
        text += &consumer(&format!("over-{number}"), guest, line);
    }
    for (number, (line, guest, _)) in NOT_LOADED.iter().enumerate() {
        text += &consumer(&format!("not-loaded-{number}"), guest, line);
    }
    let site = Site::new(&text);
    std::fs::write(
        site.path("three-tables.wasm"),
        component_of(&format!("{} (func $f)", "(table 1 funcref)".repeat(3))),
    )
    .unwrap();
    let grow = "(table $t 1 funcref) (func $f (if (i32.eq (table.grow $t (ref.null func) (i32.const 5000)) (i32.const -1)) \
                (then unreachable)))";
    std::fs::write(site.path("grow.wasm"), component_of(grow)).unwrap();
    let runtime = site.start();
    for (number, Over { body, .. }) in over.iter().enumerate() {
        site.send(&format!("over-{number}"), body);
    }
    for (number, Over { line, says, .. }) in over.iter().enumerate() {
        let letter = site.wait_messages(&format!("over-{number}.dead"), 1).remove(0);
        assert!(fact(&letter, "reason").contains(says), "{line}: {}", fact(&letter, "reason"));
    }
    assert_eq!(site.count("audit") + site.count("report"), 0, "nothing of a failed delivery was sent");

    for (number, (.., says)) in NOT_LOADED.iter().enumerate() {
        let name = format!("not-loaded-{number}");
        let shown = site.consumer(&name);
        assert_eq!((&shown["state"], &shown["generation"]), (&json!("failed"), &json!(0)), "{shown}");
        assert!(shown["reload_error"].as_str().unwrap().contains(says), "{shown}");
        // Its messages wait for a component that may be loaded.
        site.send(&name, "{}");
        assert_eq!(site.messages(&name)[0]["attempt"], 0);
    }
    let status = site.run_well(&["status"]);
    assert!(NOT_LOADED.iter().all(|(.., says)| status.contains(says)), "{status}");
    runtime.stop();
}

#[test]
fn servers_and_values_of_the_file_are_there_for_the_guest() {
    let authority = Authority::new();
    let (web, tls) = (Web::http(), Web::https(&authority));
    let more = format!(
        "grants.send = [\"report\"]\ngrants.http = [\"http://{}\", \"https://localhost:{}\"]\ngrants.tcp = [\"localhost:{}\"]\n\
         config = {{ greeting = \"Hello\" }}",
        web.address,
        tls.port(),
        web.port(),
    );
    let site = Site::with_runtime("log_max_bytes = \"64MiB\"\nca_file = \"ca.pem\"", &tables("outside", &more));
    authority.write(&site.path("ca.pem"));
    let runtime = site.start();
    let mut asked = 0;
    let mut ask = |command: Value| {
        site.send("work", command);
        asked += 1;
        let report = site.wait_messages("report", asked).pop().unwrap();
        serde_json::from_str::<Value>(report["body"].as_str().unwrap()).unwrap()
    };
    assert_eq!(ask(json!({ "do": "http", "url": format!("http://{}/echo", web.address) }))["status"], 200);
    assert_eq!(ask(json!({ "do": "http", "url": format!("https://localhost:{}/echo", tls.port()) }))["status"], 200);
    let denied = ask(json!({ "do": "http", "url": format!("http://localhost:{}/echo", web.port()) }));
    assert_eq!(denied["error"], "ErrorCode::HttpRequestDenied");
    let received = ask(
        json!({ "do": "connect", "to": format!("localhost:{}", web.port()), "send": "GET /none HTTP/1.1\r\n\r\n" }),
    );
    assert!(received["received"].as_str().unwrap().starts_with("HTTP/1.1 404"), "{received}");
    assert_eq!(ask(json!({ "do": "config", "key": "greeting" }))["value"], "Hello");
    let stderr = runtime.stop().stderr;
    let lines = format!(
        "http = [\"http://{}\", \"https://localhost:{}\", \"http://localhost:{}\"]",
        web.address,
        tls.port(),
        web.port()
    );
    assert!(stderr.contains(&lines), "{stderr}");
}

#[test]
fn a_messaging_guest_works_off_a_queue() {
    let site = Site::new(&tables("messaging", "grants.send = [\"audit\"]"));
    let runtime = site.start();
    for body in ["send audit", "error no such user", "ok"] {
        site.send("work", body);
    }
    assert_eq!(fact(&site.wait_messages("work.dead", 1)[0], "reason"), "no such user");
    let sent = site.wait_messages("audit", 1).remove(0);
    assert!(sent["body"].as_str().unwrap().starts_with("Some(\"work\")"), "{sent}");
    site.wait_empty("work");
    runtime.stop();
}

#[test]
fn a_reused_instance_may_connect_to_what_this_delivery_has_looked_up() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    thread::spawn(move || server.incoming().for_each(|stream| _ = stream.unwrap().write_all(b"soup")));
    let grants = format!("grants.send = [\"report\"]\ngrants.tcp = [\"localhost:{port}\"]");
    let site = Site::new(&tables("outside", &format!("max_concurrency = 1\ninstance = \"reused\"\n{grants}")));
    let runtime = site.start();
    // The address is granted only as what the name leads to.
    for host in ["localhost", "127.0.0.1", "localhost"] {
        site.send("work", json!({ "do": "connect", "to": format!("{host}:{port}"), "send": "" }));
    }
    let reports = site.wait_messages("report", 3);
    let report = |n: usize| serde_json::from_str::<Value>(reports[n]["body"].as_str().unwrap()).unwrap();
    assert_eq!([report(0)["received"].clone(), report(2)["received"].clone()], ["soup", "soup"]);
    assert!(report(1)["error"].is_string(), "{}", report(1));
    runtime.stop();
}

/// What is tried without a grant at first, and then with the one that the log has told.
struct Asked {
    consumer: &'static str,
    guest: &'static str,
    command: Value,
    /// What the log says was refused.
    what: &'static str,
}

/// The lines that the log says would grant something, each time that it says so of this consumer.
fn lines_told(runtime: &Runtime, consumer: &str) -> Vec<String> {
    let stderr = runtime.stderr();
    let mut told = Vec::new();
    let head = format!("[consumers.{consumer}.grants]");
    let mut lines = stderr.lines();
    while let Some(line) = lines.next() {
        if line == head {
            told.push(format!("{line}\n{}\n", lines.next().unwrap()));
        }
    }
    told
}

#[test]
fn what_was_denied_is_told_once_and_the_lines_of_the_log_allow_it() {
    let web = Web::http();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp_port = tcp.local_addr().unwrap().port();
    thread::spawn(move || tcp.incoming().for_each(|stream| _ = stream.unwrap().write_all(b"soup")));
    let url = format!("http://localhost:{}/echo", web.port());
    let connect = json!({ "do": "connect", "to": format!("127.0.0.1:{tcp_port}"), "send": "" });
    let asked = |consumer, guest, command, what| Asked { consumer, guest, command, what };
    let all = [
        asked("queue", "behave", json!({ "do": "send", "to": "audit" }), "a send to audit"),
        asked("subject", "behave", json!({ "do": "send", "to": "orders.new" }), "a send to orders.new"),
        asked("http", "outside", json!({ "do": "http", "url": url }), "an HTTP request to http://localhost:"),
        asked("tcp", "outside", connect, "a connection to 127.0.0.1:"),
        asked("state", "state", json!({ "do": "set", "key": "a", "value": "b" }), "its state"),
        asked(
            "dirs",
            "behave",
            json!({ "do": "write-file", "path": "/letters/a", "text": "b" }),
            "a write below /letters",
        ),
    ];
    let tables = |grants: &dyn Fn(&Asked) -> String| {
        let mut text = "[queues.report]\n[queues.audit]\n[queues.orders]\nsubscribe = [\"orders.*\"]\n".to_owned();
        for asked in &all {
            let Asked { consumer, guest, .. } = asked;
            text += &format!(
                "[queues.{consumer}]\n[consumers.{consumer}]\nqueue = \"{consumer}\"\ncomponent = {:?}\nmax_retries = 0\n{}",
                guests::component(guest),
                grants(asked)
            );
        }
        text
    };
    let own = |asked: &Asked| {
        let dirs = match asked.consumer {
            "dirs" => "dirs = [{ host = \"letters\", guest = \"/letters\", access = \"read\" }]\n",
            _ => "",
        };
        format!("[consumers.{}.grants]\nsend = [\"report\"]\n{dirs}", asked.consumer)
    };
    let site = Site::new(&tables(&own));
    std::fs::create_dir(site.path("letters")).unwrap();
    let runtime = site.start();
    let done = |times: u64| {
        for Asked { consumer, .. } in &all {
            eventually("all handled", || {
                let now = site.consumer(consumer);
                when(now["acked"].as_u64().unwrap() + now["dead_lettered"].as_u64().unwrap() == times, &now)
            });
        }
    };
    // Three times each.
    for _ in 0..3 {
        all.iter().for_each(|asked| _ = site.send(asked.consumer, &asked.command));
    }
    done(3);
    let denied = |message: &Value| message["body"].as_str().is_some_and(|body| body.contains("error"));
    let reports = site.messages("report");
    assert!(reports.len() == 6 && reports.iter().all(denied), "HTTP and TCP were errors of the guest: {reports:#?}");
    for consumer in ["queue", "subject", "state", "dirs"] {
        assert_eq!(site.count(&format!("{consumer}.dead")), 3, "the error of the guest was its failure");
    }
    for Asked { consumer, what, .. } in &all {
        let told = lines_told(&runtime, consumer);
        assert_eq!(told.len(), 1, "{consumer}: {told:#?}");
        assert!(runtime.stderr().contains(what), "{consumer}");
    }

    // What the log says, pasted into the tables that were there: over a line of the same key, or below the others.
    let before = edits::text(&site, &tables(&own));
    let told = |asked: &Asked| {
        let told = lines_told(&runtime, asked.consumer).remove(0);
        let (_, line) = told.split_once('\n').unwrap();
        let (key, _) = line.split_once(" = ").unwrap();
        let own = own(asked);
        let others = own.lines().filter(|own| !own.starts_with(key)).map(|own| format!("{own}\n"));
        others.collect::<String>() + line
    };
    let text = edits::text(&site, &tables(&told));
    replace(&site, &text);
    wait_in_force(&site, &text);
    assert_eq!(site.request("DELETE", "/queues/report/messages", &[], b"").unwrap().status, 200);
    all.iter().for_each(|asked| _ = site.send(asked.consumer, &asked.command));
    done(4);
    assert_eq!((site.count("audit"), site.count("orders")), (1, 1));
    let reports = site.messages("report");
    assert!(reports.len() == 2 && !reports.iter().any(denied), "{reports:#?}");
    assert_eq!(site.consumer("state")["acked"], 1);
    assert_eq!(std::fs::read_to_string(site.path("letters/a")).unwrap(), "b");

    // A grant that is taken away is gone.
    replace(&site, &before);
    wait_in_force(&site, &before);
    all.iter().for_each(|asked| _ = site.send(asked.consumer, &asked.command));
    done(5);
    assert_eq!((site.count("audit"), site.count("orders")), (1, 1));
    assert_eq!(site.messages("report").iter().filter(|report| denied(report)).count(), 2);
    assert_eq!((&site.consumer("state")["acked"], &site.consumer("dirs")["acked"]), (&json!(1), &json!(1)));
    runtime.stop();
}
