//! Grants and limits as users write them: in `queue.toml`, with the real binary.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;
#[path = "support/web.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod web;

use runtime::Site;
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

#[test]
fn a_limit_of_the_file_is_the_reason_of_the_dead_letter() {
    let limits = "grants.send = [\"audit\"]\nmemory_limit = \"8MiB\"\ntimeout = \"20s\"\n[consumers.it.limits]\ncpu_time = \"50ms\"\n\
                  host_call_bytes = \"64KiB\"\nlog_bytes = \"1KiB\"\nsends = 3\nsend_bytes = \"10KiB\"";
    let site = Site::new(&tables("behave", limits));
    let runtime = site.start();
    let flood = json!({ "do": "print", "lines": ["x".repeat(2000)], "then": { "do": "retry" } });
    for (count, (body, reason)) in [
        (json!({ "do": "loop" }), "exceeded limits.cpu_time (50ms)"),
        (json!({ "do": "allocate" }), "exceeded memory_limit (8 MiB)"),
        (json!({ "do": "send", "to": "audit", "bytes": 100_000 }), "exceeded limits.host_call_bytes (64 KiB)"),
        (flood, "exceeded limits.log_bytes (1 KiB)"),
        (json!({ "do": "send", "to": "audit", "count": 4 }), "limits.sends"),
        (json!({ "do": "send", "to": "audit", "bytes": 11_000 }), "limits.send_bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        site.send("work", &body);
        let letter = site.wait_messages("work.dead", count + 1).pop().unwrap();
        assert!(fact(&letter, "reason").contains(reason), "{body}: {}", fact(&letter, "reason"));
    }
    assert_eq!(site.count("audit"), 0, "nothing of a failed delivery was sent");
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
