//! `queue.toml` is edited while the runtime runs: who subscribes to what, who may use the API, and under which names.

use std::io::Write;
use std::thread;

use linecook::auth::TokenHash;
use serde_json::json;

#[path = "support/edits.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod edits;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use edits::{edit, replace, text, wait_refused};
use runtime::{Site, eventually, when};

#[test]
fn subscriptions_come_and_go() {
    let site = Site::new("[queues.one]\n[queues.two]");
    let runtime = site.start();
    let send = || site.post("/subjects/orders.placed/messages", "x");
    assert_eq!(send().status, 404);

    edit(&site, "[queues.one]\nsubscribe = [\"orders.*\"]\n[queues.two]\n");
    assert_eq!((send().status, site.count("one"), site.count("two")), (202, 1, 0));

    // To another queue, and away from one that goes.
    edit(&site, "[queues.two]\nsubscribe = [\"orders.*\"]\n");
    assert_eq!((send().status, site.count("one"), site.count("two")), (202, 1, 1));
    edit(&site, "[queues.two]\n");
    assert_eq!((send().status, site.count("two")), (404, 1));
    runtime.stop();
}

/// A subject that always has a subscriber never lacks one, whichever queue that is.
#[test]
fn a_subscription_that_moves_is_never_missing() {
    let with = |name: &str| format!("[queues.{name}]\nsubscribe = [\"orders.*\"]\n");
    let site = Site::new(&with("one"));
    let runtime = site.start();
    let sent = thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let site = &site;
        let sender = scope.spawn(move || {
            let mut sent = 0_u64;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let answer = site.post("/subjects/orders.placed/messages", "x");
                assert_eq!(answer.status, 202, "{}", answer.body);
                sent += 1;
            }
            sent
        });
        for name in ["two", "one", "two", "one"] {
            edit(site, &with(name));
        }
        drop(stop);
        sender.join().unwrap()
    });
    assert_eq!(site.count("one") + site.count("two"), sent);
    runtime.stop();
}

/// A producer that sends to a subject puts each line into what subscribes at the time.
#[test]
fn a_producer_follows_what_subscribes_to_its_subject() {
    let producer = "[producers.lines]\nkind = \"tail\"\nsubject = \"lines.new\"\nfiles = \"lines.log\"\n";
    let subscribed = "subscribe = [\"lines.*\"]\n";
    let site = Site::new(&format!("[queues.one]\n{subscribed}[queues.two]\n{producer}"));
    let runtime = site.start();
    let append = |text: &str| {
        let mut file = std::fs::File::options().create(true).append(true).open(site.path("lines.log")).unwrap();
        writeln!(file, "{text}").unwrap();
    };
    append("first");
    assert_eq!(site.wait_messages("one", 1)[0]["attributes"]["linecook-subject"], "lines.new");
    edit(&site, &format!("[queues.one]\n{subscribed}[queues.two]\n{subscribed}{producer}"));
    append("second");
    site.wait_messages("one", 2);
    assert_eq!(site.messages("two")[0]["body"], "second");
    edit(&site, &format!("[queues.two]\n{subscribed}{producer}"));
    append("third");
    site.wait_messages("two", 2);
    assert_eq!(site.count("one"), 2);
    let producers = site.get("/producers");
    assert_eq!(producers["producers"][0]["sent"], 3, "{producers}");
    runtime.stop();
}

fn token(name: &str, scope: &str) -> String {
    format!("[runtime.auth.tokens.{name}]\nsha256 = \"{}\"\nscopes = [{scope:?}]\n", TokenHash::of(name))
}

#[test]
fn tokens_come_and_go() {
    let queues = "[queues.one]\n";
    let site = Site::new(queues);
    let runtime = site.start();
    let send = |token: Option<&str>| {
        let value = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = value.as_deref().map(|value| ("authorization", value)).into_iter().collect();
        site.request("POST", "/queues/one/messages", &headers, b"x").unwrap().status
    };
    let wait = |token: Option<&str>, status: u16| {
        eventually("the tokens in force", || {
            let found = send(token);
            when(found == status, format!("{token:?}: {found}"))
        });
    };
    assert_eq!(send(None), 202);

    // From nobody to one, to two, with another scope, and to the other one.
    replace(&site, &text(&site, &format!("{queues}{}", token("first", "send"))));
    wait(None, 401);
    assert_eq!((send(Some("first")), send(Some("second"))), (202, 401));
    replace(&site, &text(&site, &format!("{queues}{}{}", token("first", "send"), token("second", "send:one"))));
    wait(Some("second"), 202);
    assert_eq!(send(Some("first")), 202);
    replace(&site, &text(&site, &format!("{queues}{}{}", token("first", "send:two"), token("second", "send:one"))));
    wait(Some("first"), 403);
    replace(&site, &text(&site, &format!("{queues}{}", token("second", "send:one"))));
    wait(Some("first"), 401);
    assert_eq!((send(Some("second")), send(None)), (202, 401));

    // Why a file is not in force, only those may see who may see the file.
    replace(
        &site,
        &text(&site, &format!("{queues}nonsense = 1\n{}{}", token("second", "send"), token("all", "admin"))),
    );
    let errors = |token: &str| {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let answer = site.request("GET", "/consumers", &headers, b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["config"]["last_error"].as_str().map(str::to_owned)
    };
    let hidden = eventually("an error", || errors("second").ok_or_else(|| "none".to_owned()));
    assert!(hidden.contains("admin") && !hidden.contains("nonsense"), "{hidden}");

    // And back to everybody.
    replace(&site, &text(&site, queues));
    wait(None, 202);
    runtime.stop();
}

#[test]
fn host_names_follow_the_file_and_tls_does_not() {
    let site = Site::new("[queues.one]");
    let runtime = site.start();
    let as_host = |host: &str| site.request("GET", "/queues", &[("host", host)], b"").unwrap().status;
    let plain = text(&site, "[queues.one]");
    let keys = |line: &str| plain.replacen("[runtime]\n", &format!("[runtime]\n{line}\n"), 1);
    assert_eq!(as_host("queues.internal"), 403);
    replace(&site, &keys("host_names = [\"queues.internal\"]"));
    eventually("the name in force", || when(as_host("queues.internal") == 200, as_host("queues.internal")));
    replace(&site, &plain);
    eventually("the name gone", || when(as_host("queues.internal") == 403, as_host("queues.internal")));

    replace(&site, &keys("tls = { cert = \"cert.pem\", key = \"key.pem\" }"));
    wait_refused(&site, &["`tls` can't change while linecook runs", "restart", "^^^"]);
    assert_eq!(site.get("/queues")["queues"][0]["name"], json!("one"));
    runtime.stop();
}
