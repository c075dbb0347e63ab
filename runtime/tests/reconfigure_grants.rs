//! Each grant is taken away in `queue.toml` while messages flow: what is handed over after that has it no more, and nothing
//! is lost.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

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

use edits::edit;
use runtime::{Site, eventually, when};
use web::Web;

const SECRET: &str = "LINECOOK_TEST_SECRET";

/// A consumer with one grant beside that of its reports, and what each of its messages tries with it.
struct Tried {
    /// The key of the grant; the queue and the consumer are named after it.
    key: &'static str,
    guest: &'static str,
    grant: String,
    command: Value,
    /// Whether this is what comes of it with the grant: the body of what was sent, or the reason of the dead letter.
    granted: fn(Result<&Value, &str>) -> bool,
}

fn tries(web: &Web) -> [Tried; 7] {
    let address = web.address;
    let get = "GET /echo HTTP/1.1\r\n\r\n";
    let tried = |key, guest, grant: String, command, granted| Tried {
        key,
        guest,
        grant: format!("{key} = {grant}"),
        command,
        granted,
    };
    [
        tried(
            "dirs",
            "behave",
            "[{ host = \"letters\", guest = \"/letters\", access = \"read\" }]".into(),
            json!({ "do": "read-file", "path": "/letters/a" }),
            |found| found.is_ok_and(|report| report["text"] == "a letter"),
        ),
        tried(
            "secrets",
            "outside",
            format!("[{SECRET:?}]"),
            json!({ "do": "fail-with", "variable": SECRET }),
            |found| found == Err(&format!("reason: [secret {SECRET}]")),
        ),
        tried("env", "behave", "{ WHO = \"cook\" }".into(), json!({ "do": "env", "name": "WHO" }), |found| {
            found.is_ok_and(|report| report["value"] == "cook")
        }),
        tried(
            "http",
            "outside",
            format!("[\"http://{address}\"]"),
            json!({ "do": "http", "url": format!("http://{address}/echo") }),
            |found| found.is_ok_and(|report| report["status"] == 200),
        ),
        tried(
            "tcp",
            "outside",
            format!("[\"{address}\"]"),
            json!({ "do": "connect", "to": address.to_string(), "send": get }),
            |found| found.is_ok_and(|report| report["received"].is_string()),
        ),
        tried("send", "behave", "[\"report\"]".into(), json!({ "do": "send", "to": "report" }), |found| found.is_ok()),
        tried("state", "state", "true".into(), json!({ "do": "get", "key": "k" }), |found| found.is_ok()),
    ]
}

/// The tables where the first `gone` of them have their grant no more.
fn tables(tries: &[Tried], gone: usize, instance: &str) -> String {
    let mut text = "[queues.report]\n[queues.seen]\n".to_owned();
    for (number, Tried { key, guest, grant, .. }) in tries.iter().enumerate() {
        let reports = if *key == "send" { "" } else { "send = [\"report\"]\n" };
        let grant = if number < gone { "" } else { grant };
        text += &format!(
            "[queues.{key}]\n[consumers.{key}]\nqueue = \"{key}\"\ncomponent = {:?}\nmax_retries = 0\n\
             dead_letter_queue = \"dead\"\ninstance = \"{instance}\"\n[consumers.{key}.grants]\n{reports}{grant}\n",
            guests::component(guest)
        );
    }
    text
}

/// A message that was confirmed.
struct Sent {
    id: String,
    /// Which of them it is for.
    tried: usize,
    /// How many grants were gone before it was sent.
    gone: usize,
}

fn grants_are_taken_away(instance: &str) {
    let web = Web::http();
    let tries = tries(&web);
    let site = Site::new(&tables(&tries, 0, instance));
    fs::create_dir(site.path("letters")).unwrap();
    fs::write(site.path("letters/a"), "a letter").unwrap();
    let mut runtime = site.spawn_with(&[(SECRET, "hunter2")]);
    site.wait_ready(&mut runtime);

    let (gone, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let flow = || {
        let mut sent = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            for (tried, Tried { key, command, .. }) in tries.iter().enumerate() {
                let gone = gone.load(Ordering::SeqCst);
                sent.push(Sent { id: site.send(key, command), tried, gone });
            }
            thread::sleep(Duration::from_millis(5));
        }
        sent
    };
    let handled = |key: &str| {
        let now = site.consumer(key);
        ["acked", "dead_lettered"].map(|count| now[count].as_u64().unwrap()).iter().sum::<u64>()
    };
    let wait_handled = |more: u64| {
        let before: Vec<_> = tries.iter().map(|tried| handled(tried.key)).collect();
        eventually("messages that flow", || {
            let flows = tries.iter().zip(&before).all(|(tried, before)| handled(tried.key) >= before + more);
            when(flows, site.get("/consumers"))
        });
    };
    let sent: Vec<Sent> = thread::scope(|scope| {
        let flows = [scope.spawn(flow), scope.spawn(flow)];
        wait_handled(10);
        for number in 1..=tries.len() {
            edit(&site, &tables(&tries, number, instance));
            gone.store(number, Ordering::SeqCst);
            wait_handled(10);
        }
        stop.store(true, Ordering::SeqCst);
        flows.into_iter().flat_map(|flow| flow.join().unwrap()).collect()
    });

    tries.iter().for_each(|tried| site.wait_empty(tried.key));
    let tried_with: HashMap<&str, &Tried> = sent.iter().map(|sent| (&*sent.id, &tries[sent.tried])).collect();
    let mut granted: HashMap<String, bool> = HashMap::new();
    let mut note = |id: &str, found: Result<&Value, &str>| {
        let twice = granted.insert(id.to_owned(), (tried_with[id].granted)(found));
        assert_eq!(twice, None, "{id} took effect twice");
    };
    for message in site.take_all("report", "seen") {
        let report: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        note(message["key"].as_str().or(report["input"].as_str()).unwrap(), Ok(&report));
    }
    for letter in site.take_all("dead", "seen") {
        note(letter["id"].as_str().unwrap(), Err(letter["attributes"]["linecook-reason"].as_str().unwrap()));
    }
    assert_eq!(granted.len(), sent.len(), "what was handled is what was confirmed");
    let mut with = [0; 7];
    for Sent { id, tried, gone } in &sent {
        assert!(*tried >= *gone || !granted[id], "{id} had the grant of {} after it was taken away", tries[*tried].key);
        with[*tried] += usize::from(granted[id]);
    }
    println!("{} messages to {instance} instances; with the grant: {with:?}", sent.len());
    assert!(with.iter().all(|with| *with >= 10), "each had its grant at first: {with:?}");
    assert!(!runtime.stop().stderr.contains("panicked"));
}

#[test]
fn fresh_instances_lose_a_grant_that_is_taken_away() {
    grants_are_taken_away("fresh");
}

#[test]
fn reused_instances_lose_a_grant_that_is_taken_away() {
    grants_are_taken_away("reused");
}
