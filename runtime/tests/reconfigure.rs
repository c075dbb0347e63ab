//! `queue.toml` is edited while the runtime runs: every kind of edit, every way to save it, and every way to get it wrong.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
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

use edits::{config, edit, replace, text, wait_in_force, wait_refused};
use runtime::{Runtime, Site, eventually, when};

/// Longer than it takes until an edit is in force.
const LONG_MS: u64 = 8000;

/// A site with these tables, whose consumers have `behave.wasm`.
fn site(tables: &str) -> Site {
    let site = Site::new(tables);
    fs::copy(guests::component("behave"), site.path("behave.wasm")).unwrap();
    site
}

/// A consumer of the queue of its name, that knows who it is.
fn consumer(name: &str, more: &str) -> String {
    format!(
        "[consumers.{name}]\nqueue = \"{name}\"\ncomponent = \"behave.wasm\"\nmax_retries = 0\n\
         grants.send = [\"report\", \"audit\"]\ngrants.env = {{ WHO = \"{name}\" }}\n{more}\n"
    )
}

const QUEUES: &str = "[queues.report]\n[queues.audit]\n[queues.one]\n[queues.two]\n";

fn who() -> Value {
    json!({ "do": "env", "name": "WHO" })
}

/// What the consumers have reported so far, by message.
fn reports(site: &Site) -> Vec<(String, Value)> {
    let report = |message: Value| {
        let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        let found = ["value", "count"].map(|key| &body[key]).into_iter().find(|found| !found.is_null());
        (body["input"].as_str().unwrap().to_owned(), found.cloned().unwrap_or_default())
    };
    site.messages("report").into_iter().map(report).collect()
}

/// Sends a message, and waits for what its handler reports.
#[track_caller]
fn ask(site: &Site, queue: &str, body: &Value) -> Value {
    let id = site.send(queue, body);
    eventually("a report", || {
        let found = reports(site).into_iter().find(|(input, _)| *input == id);
        found.map(|(_, value)| value).ok_or_else(|| site.get("/queues").to_string())
    })
}

#[track_caller]
fn running(site: &Site, name: &str) {
    eventually("a consumer that runs", || {
        let now = site.get("/consumers");
        let found =
            now["consumers"].as_array().unwrap().iter().any(|one| one["name"] == name && one["state"] == "running");
        when(found, &now)
    });
}

fn names(site: &Site) -> Vec<String> {
    let now = site.get("/consumers");
    now["consumers"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn lines(runtime: &Runtime, part: &str) -> usize {
    runtime.stderr().lines().filter(|line| line.contains(part)).count()
}

#[test]
fn queues_and_consumers_are_added_changed_and_removed() {
    let site = site(&format!("{QUEUES}{}", consumer("one", "")));
    let runtime = site.start();
    assert_eq!(ask(&site, "one", &who()), "one");

    // Added.
    edit(&site, &format!("{QUEUES}[queues.new]\n{}{}", consumer("one", ""), consumer("new", "")));
    assert_eq!(ask(&site, "new", &who()), "new");
    assert_eq!(site.consumer("new")["queue"], "new");
    assert!(site.get("/queues")["queues"].as_array().unwrap().iter().any(|queue| queue["name"] == "new.dead"));

    // Changed: a queue's limits, and a consumer's queue.
    let other = consumer("one", "").replace("queue = \"one\"", "queue = \"two\"");
    edit(&site, &format!("{QUEUES}max_bytes = \"1KiB\"\n[queues.new]\n{other}"));
    assert_eq!(site.post("/queues/two/messages", vec![b'x'; 2000]).status, 507);
    assert_eq!(ask(&site, "two", &who()), "one");
    assert_eq!((names(&site), site.consumer("one")["queue"].clone()), (vec!["one".to_owned()], json!("two")));
    site.send("one", who());
    site.send("new", who());

    // Removed, with messages in it.
    edit(&site, &format!("[queues.report]\n[queues.audit]\n[queues.one]\n[queues.two]\n{other}"));
    let gone = site.get("/queues/new");
    assert_eq!((&gone["declared"], &gone["ready"]), (&json!(false), &json!(1)));
    assert_eq!(site.get("/queues/one")["declared"], true);
    assert_eq!(site.get("/queues/one")["ready"], 1, "nobody works it off any more");
    let refused = site.post("/queues/new/messages", "x");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(
        refused.status == 404 && detail.contains("any more") && detail.contains("purge new --delete"),
        "{refused:?}"
    );
    let status = site.run_well(&["status"]);
    assert!(status.contains("new: not declared in queue.toml"), "{status}");

    // It comes back.
    let messages = site.messages("new");
    edit(&site, &format!("{QUEUES}[queues.new]\n{}{}", consumer("one", ""), consumer("new", "")));
    site.wait_empty("new");
    site.wait_empty("one");
    let id = messages[0]["id"].as_str().unwrap();
    assert!(reports(&site).contains(&(id.to_owned(), json!("new"))));
    runtime.stop();
}

#[test]
fn a_queue_that_is_not_in_the_file_keeps_its_messages_until_it_is_deleted() {
    let site = site(QUEUES);
    let runtime = site.start();
    let id = site.send("two", "kept");
    let without = QUEUES.replace("[queues.two]\n", "");
    edit(&site, &without);
    runtime.stop();
    let runtime = site.start();
    assert_eq!(site.get("/queues/two")["declared"], false);
    assert_eq!(site.post("/queues/two/messages", "x").status, 404);
    assert_eq!(site.messages("two")[0]["id"], id.as_str());

    let refused = site.run(&["purge", "one", "--delete"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && stderr.contains("queue one is in use"), "{stderr}");
    assert_eq!(site.run_well(&["purge", "two", "--delete"]), "deleted two with 1 message\n");
    assert_eq!(site.request("GET", "/queues/two", &[], b"").unwrap().status, 404);
    assert_eq!(site.run(&["purge", "two", "--delete"]).status.code(), Some(1));
    runtime.stop();
    let runtime = site.start();
    assert_eq!(site.request("GET", "/queues/two", &[], b"").unwrap().status, 404);
    edit(&site, QUEUES);
    assert_eq!(site.count("two"), 0);
    runtime.stop();
}

#[test]
fn a_wrong_file_changes_nothing_and_says_where() {
    let tables = format!("{QUEUES}{}", consumer("one", ""));
    let site = site(&tables);
    let runtime = site.start();
    let good = text(&site, &tables);
    let before = config(&site);

    let keys = |line: &str| good.replacen("[runtime]\n", &format!("[runtime]\n{line}\n"), 1);
    let listen = good.lines().find(|line| line.starts_with("listen")).unwrap();
    let wrong: &[(String, &[&str])] = &[
        (text(&site, &format!("{tables}[queues.two")), &["not valid TOML", "queue.toml:1", "^"]),
        (
            text(&site, &format!("{tables}[queues.new]\nmax_byte = 1")),
            &["unknown key `max_byte`", "did you mean `max_bytes`?"],
        ),
        (text(&site, &tables.replace("[queues.one]\n", "")), &["there is no queue `one`", "^^^"]),
        (
            text(&site, &tables.replace("grants.env", "grants.secrets = [\"NOT_SET\"]\ngrants.env")),
            &["the secret `NOT_SET`"],
        ),
        (
            text(&site, &tables.replace("max_retries = 0", "max_batch_size = 9")),
            &["consumer `one`", "handles one message a call"],
        ),
        (keys("data_dir = \"elsewhere\""), &["`data_dir` can't change while linecook runs", "restart", "^^^"]),
        (keys("workers = 7"), &["`workers` can't change", "restart"]),
        (good.replace("64MiB", "128MiB"), &["`log_max_bytes` can't change", "restart"]),
        (good.replace(listen, "listen = \"127.0.0.1:9\""), &["`listen` can't change", "restart"]),
        (String::new(), &["is empty"]),
    ];
    for (wrong, parts) in wrong {
        replace(&site, wrong);
        let now = wait_refused(&site, parts);
        assert_eq!((&now["hash"], &now["loaded_at"]), (&before["hash"], &before["loaded_at"]), "{now}");
        assert_eq!(ask(&site, "one", &who()), "one");
        // The command line still finds the runtime, but where the file names another address.
        if wrong.contains(listen) {
            let status = site.run_well(&["status"]);
            assert!(status.contains("was not applied") && parts.iter().all(|part| status.contains(part)), "{status}");
        }
        // As it was: nothing to do, and nothing wrong.
        replace(&site, &good);
        wait_in_force(&site, &good);
        assert_eq!(config(&site)["loaded_at"], before["loaded_at"]);
    }
    assert_eq!(lines(&runtime, "was taken into use"), 0, "{}", runtime.stderr());
    assert_eq!(lines(&runtime, "was not taken into use"), wrong.len());
    let shown = runtime.stderr();
    assert!(shown.contains("  |     ^") || shown.contains("| ^"), "the log shows the place: {shown}");

    // What is wrong is told once, also if the file is saved again, and put right by the next edit.
    replace(&site, &wrong[0].0);
    wait_refused(&site, wrong[0].1);
    for _ in 0..3 {
        replace(&site, &wrong[0].0);
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(lines(&runtime, "was not taken into use"), wrong.len() + 1);
    edit(&site, &format!("[queues.new]\n{tables}"));
    site.send("new", "x");
    runtime.stop();
}

#[test]
fn every_way_to_save_the_file_is_noticed() {
    let site = site("[queues.first]");
    let runtime = site.start();
    let with = |name: &str| text(&site, &format!("[queues.{name}]"));

    // In place.
    fs::write(site.path("queue.toml"), with("in-place")).unwrap();
    eventually("the queue", || when(site.post("/queues/in-place/messages", "x").status == 202, config(&site)));

    // By rename.
    edit(&site, "[queues.renamed]");

    // Slowly: what is there in between is no file, or not one that is taken for whole.
    let slow = with("slow");
    let mut file = File::create(site.path("queue.toml")).unwrap();
    for part in slow.as_bytes().chunks(slow.len() / 10) {
        file.write_all(part).unwrap();
        thread::sleep(Duration::from_millis(30));
    }
    wait_in_force(&site, &slow);

    // Deleted, and after a while made again.
    let again = with("again");
    fs::remove_file(site.path("queue.toml")).unwrap();
    wait_refused(&site, &["there is no"]);
    assert_eq!(site.post("/queues/slow/messages", "x").status, 202);
    fs::write(site.path("queue.toml"), &slow).unwrap();
    wait_in_force(&site, &slow);
    fs::write(site.path("queue.toml"), &again).unwrap();
    wait_in_force(&site, &again);

    // A link that leads elsewhere, and then the folder that it goes through, as in a mounted ConfigMap.
    for (version, name) in [("..1", "linked"), ("..2", "swapped")] {
        fs::create_dir(site.path(version)).unwrap();
        fs::write(site.path(version).join("queue.toml"), with(name)).unwrap();
        symlink(version, site.path("..new")).unwrap();
        fs::rename(site.path("..new"), site.path("..data")).unwrap();
        if version == "..1" {
            symlink("..data/queue.toml", site.path("queue.link")).unwrap();
            fs::rename(site.path("queue.link"), site.path("queue.toml")).unwrap();
        }
        eventually("the queue", || {
            when(site.post(&format!("/queues/{name}/messages"), "x").status == 202, config(&site))
        });
    }

    // The same again, and other remarks: no reason to do anything.
    let generation = config(&site);
    let same = fs::read_to_string(site.path("queue.toml")).unwrap();
    fs::write(site.path("queue.toml"), &same).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(config(&site), generation);
    runtime.stop();
}

#[test]
fn sighup_looks_again_at_what_was_refused() {
    let tables = format!("{QUEUES}{}", consumer("one", ""));
    let site = site(&tables);
    let runtime = site.start();
    let dirs = "dirs = [{ host = \"letters\", guest = \"/letters\", access = \"read\" }]";
    let wanted = text(&site, &tables.replace("grants.env", &format!("grants.{dirs}\ngrants.env")));
    replace(&site, &wanted);
    wait_refused(&site, &["consumer `one`", "letters", "send SIGHUP"]);
    fs::create_dir(site.path("letters")).unwrap();
    fs::write(site.path("letters/a"), "a letter").unwrap();
    runtime.hang_up();
    wait_in_force(&site, &wanted);
    site.send("one", json!({ "do": "read-file", "path": "/letters/a" }));
    site.wait_messages("report", 1);
    runtime.stop();
}

#[test]
fn an_edit_gives_guests_nothing_of_the_runtimes_own_to_write() {
    let tables = format!("{QUEUES}{}", consumer("one", ""));
    let site = site(&tables);
    let runtime = site.start();
    let granting =
        |dirs: &str| text(&site, &tables.replace("grants.env", &format!("grants.dirs = [{dirs}]\ngrants.env")));
    let out = "{ host = \"out\", guest = \"/out\", access = \"read-write\" }";
    for (dirs, reason) in [
        (out.replace("\"out\"", "\".\""), "which holds `data_dir` and holds this file"),
        (out.replace("\"out\"", "\"data/cache\""), "which lies in `data_dir`"),
        (format!("{out}, {{ host = \"out/in\", guest = \"/in\", access = \"read\" }}"), "this folder lies in one"),
    ] {
        replace(&site, &granting(&dirs));
        wait_refused(&site, &[reason, "hint: grant", "guests may write"]);
        assert_eq!(ask(&site, "one", &who()), "one");
    }
    let wanted = granting(out);
    replace(&site, &wanted);
    wait_in_force(&site, &wanted);
    // Deliveries may still write there when the edit is taken into use.
    replace(&site, &granting("{ host = \"out/in\", guest = \"/in\", access = \"read\" }"));
    wait_refused(&site, &["this folder lies in one that guests may write", "hint: the file in force grants"]);
    runtime.stop();

    // Nor does it start with it.
    fs::write(site.path("queue.toml"), granting(&out.replace("\"out\"", "\".\""))).unwrap();
    let ended = site.spawn().wait();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("which holds `data_dir` and holds this file"), "{}", ended.stderr);
}

#[test]
fn what_runs_ends_under_the_settings_that_it_began_with() {
    let site = site(&format!("{QUEUES}{}{}", consumer("one", ""), consumer("two", "")));
    let runtime = site.start();
    let slow = json!({ "do": "sleep", "ms": LONG_MS, "then": who() });
    let (changed, removed) = (site.send("one", &slow), site.send("two", &slow));
    let begun = |name: &str| when(site.consumer(name)["running"] == 1, site.get("/consumers"));
    eventually("both at work", || begun("one").and(begun("two")));

    let edited = consumer("one", "").replace("WHO = \"one\"", "WHO = \"edited\"").replace("\"audit\"", "\"one\"");
    edit(&site, &format!("{QUEUES}{edited}"));
    let waits = site.send("two", who());
    assert_eq!(ask(&site, "one", &who()), "edited");
    assert_eq!(reports(&site).len(), 1, "the others still run");
    let leaving = site.consumer("two");
    assert_eq!((&leaving["state"], &leaving["running"]), (&json!("removed"), &json!(1)));
    assert_eq!(site.request("GET", "/readyz", &[], b"").unwrap().status, 200);

    let reported = eventually("all ended", || {
        let now = reports(&site);
        if now.len() == 3 { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert!(reported.contains(&(changed, json!("one"))) && reported.contains(&(removed, json!("two"))), "{reported:?}");
    eventually("the removed consumer gone", || when(names(&site) == ["one"], site.get("/consumers")));
    assert_eq!(site.messages("two")[0]["id"], waits.as_str());
    assert_eq!(site.consumer("one")["acked"], 2, "the counts go on");
    runtime.stop();
}

#[test]
fn limits_are_added_changed_and_removed() {
    let tables = |limits: &str| {
        let reused = format!("instance = \"reused\"\n{limits}");
        format!("{QUEUES}{}{}", consumer("one", limits), consumer("two", &reused))
    };
    let site = site(&tables(""));
    let runtime = site.start();
    // Acknowledged, or given up for a reason that says this.
    let hand_over = |body: &Value, says: Option<&str>| {
        for name in ["one", "two"] {
            let acked = || site.consumer(name)["acked"].as_u64().unwrap();
            let before = acked();
            site.send(name, body);
            let Some(says) = says else {
                eventually("an ack", || when(acked() == before + 1, site.consumer(name)));
                continue;
            };
            let letter = site.wait_messages(&format!("{name}.dead"), 1).remove(0);
            let reason = letter["attributes"]["linecook-reason"].as_str().unwrap();
            assert!(reason.contains(says), "{name}: {reason} is not {says}");
            let purged = site.request("DELETE", &format!("/queues/{name}.dead/messages"), &[], b"").unwrap();
            assert_eq!(purged.status, 200);
        }
    };
    let sends = json!({ "do": "send", "to": "audit", "count": 4 });
    let (allocates, sleeps) = (json!({ "do": "allocate" }), json!({ "do": "sleep", "ms": 3000 }));
    hand_over(&sends, None);

    // Added.
    edit(&site, &tables("limits.sends = 3"));
    hand_over(&sends, Some("a delivery may send 3 messages (limits.sends)"));

    // Changed: to less, and to more.
    edit(&site, &tables("limits.sends = 2"));
    hand_over(&sends, Some("a delivery may send 2 messages (limits.sends)"));
    edit(&site, &tables("limits.sends = 4\nmemory_limit = \"8MiB\"\ntimeout = \"1s\""));
    hand_over(&sends, None);
    hand_over(&allocates, Some("exceeded memory_limit (8 MiB)"));
    hand_over(&sleeps, Some("timed out after 1s"));

    // Removed.
    edit(&site, &tables("limits.sends = 3"));
    hand_over(&sends, Some("(limits.sends)"));
    hand_over(&allocates, Some("exceeded memory_limit (128 MiB)"));
    hand_over(&sleeps, None);
    edit(&site, &tables(""));
    hand_over(&sends, None);
    runtime.stop();
}

#[test]
fn a_consumer_with_a_width_of_one_stays_so_while_it_is_edited() {
    let site = site(&format!("{QUEUES}{}", consumer("one", "max_concurrency = 1")));
    let runtime = site.start();
    let first = site.send("one", json!({ "do": "sleep", "ms": LONG_MS / 2, "then": who() }));
    eventually("the first at work", || when(site.consumer("one")["running"] == 1, site.consumer("one")));
    edit(&site, &format!("{QUEUES}{}", consumer("one", "max_concurrency = 1\ntimeout = \"29s\"")));
    let second = site.send("one", who());
    let reported = eventually("both", || {
        assert!(site.consumer("one")["running"].as_u64() <= Some(1));
        let now = reports(&site);
        if now.len() == 2 { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(reported.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [first, second]);
    runtime.stop();
}

#[test]
fn only_what_has_changed_is_disturbed_and_nothing_is_compiled() {
    let kept = "instance = \"reused\"\nmax_concurrency = 1";
    let site = site(&format!("{QUEUES}{}{}", consumer("one", kept), consumer("two", kept)));
    let runtime = site.start();
    let count = |queue| ask(&site, queue, &json!({ "do": "count" })).as_u64().unwrap();
    assert_eq!((count("one"), count("one"), count("two")), (1, 2, 1));
    let before = site.consumer("two");
    // What would be compiled from now on would be found here.
    let cached = || walk(&site.path("data/cache"));
    assert!(!cached().is_empty());
    cached().iter().for_each(|file| fs::remove_file(file).unwrap());

    // How failures are treated: its generation stays.
    edit(
        &site,
        &format!(
            "{QUEUES}{}{}",
            consumer("one", kept),
            consumer("two", kept).replace("max_retries = 0", "max_retries = 1")
        ),
    );
    assert_eq!((count("one"), site.consumer("one")["generation"].clone()), (3, json!(1)));
    let now = site.consumer("two");
    assert_eq!((&now["generation"], &now["loaded_at"]), (&before["generation"], &before["loaded_at"]));
    site.send("two", json!({ "do": "retry" }));
    let letter = site.wait_messages("two.dead", 1).remove(0);
    assert_eq!(letter["attributes"]["linecook-attempts"], "2");

    // How wide it is: not even its instance goes.
    let instance = count("two");
    edit(
        &site,
        &format!(
            "{QUEUES}{}{}",
            consumer("one", kept),
            consumer("two", kept)
                .replace("max_retries = 0", "max_retries = 1")
                .replace("max_concurrency = 1", "max_concurrency = 2")
        ),
    );
    assert_eq!(count("two"), instance + 1);

    // What it may do: linked again, from the next delivery on.
    assert_eq!(ask(&site, "two", &who()), "two");
    let edited = consumer("two", kept).replace("WHO = \"two\"", "WHO = \"others\"").replace(", \"audit\"", "");
    edit(&site, &format!("{QUEUES}{}{edited}", consumer("one", kept)));
    assert_eq!(ask(&site, "two", &who()), "others");
    let now = site.consumer("two");
    assert_eq!((&now["generation"], &now["module_hash"]), (&json!(2), &before["module_hash"]));
    site.send("two", json!({ "do": "send", "to": "audit" }));
    site.wait_messages("two.dead", 2);
    assert_eq!(site.count("audit"), 0, "the grant is gone");
    assert_eq!((count("one"), site.consumer("one")["generation"].clone()), (4, json!(1)));
    assert_eq!(cached(), Vec::<std::path::PathBuf>::new());
    runtime.stop();
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

#[test]
fn another_component_takes_over_at_once_and_one_that_is_missing_later() {
    let site = site(&format!("{QUEUES}{}", consumer("one", "")));
    let runtime = site.start();
    let original = fs::read(site.path("behave.wasm")).unwrap();
    let first = site.consumer("one");
    fs::write(site.path("other.wasm"), guests::with_custom_section(&original, "build", b"2")).unwrap();
    let from = |file: &str| format!("{QUEUES}{}", consumer("one", "").replace("behave.wasm", file));
    edit(&site, &from("other.wasm"));
    let second = site.consumer("one");
    assert_ne!(second["module_hash"], first["module_hash"]);
    assert_eq!((&second["state"], &second["reload_error"]), (&json!("running"), &Value::Null));

    // The same bytes at another place are no other component.
    fs::copy(site.path("other.wasm"), site.path("same.wasm")).unwrap();
    edit(&site, &from("same.wasm"));
    assert_eq!(ask(&site, "one", &who()), "one");
    assert_eq!(site.consumer("one")["generation"], second["generation"]);

    // What is not there yet, or not good, is an error of the consumer, which goes on as it was.
    edit(&site, &from("later.wasm"));
    eventually("the reason", || {
        let now = site.consumer("one");
        when(now["reload_error"].as_str().is_some_and(|error| error.contains("later.wasm")), &now)
    });
    let (now, status) = (site.consumer("one"), site.run_well(&["status"]));
    let row = status.lines().find(|line| line.split_whitespace().next() == Some("one") && line.contains("running"));
    let shown = [now["generation"].to_string(), now["loaded_at"].as_str().unwrap().to_owned()];
    let row: Vec<_> = row.unwrap_or_else(|| panic!("{status}")).split_whitespace().collect();
    assert!(shown.iter().all(|fact| row.contains(&fact.as_str())), "{shown:?} in {status}");
    assert!(row.contains(&&second["module_hash"].as_str().unwrap()[..12]), "{status}");
    let error = status.lines().find(|line| line.starts_with("one: reload failed: ")).unwrap();
    assert!(error.contains("later.wasm"), "{status}");
    assert_eq!(ask(&site, "one", &who()), "one");
    assert_eq!(site.consumer("one")["module_hash"], second["module_hash"]);
    fs::write(site.path("later.wasm"), "no component").unwrap();
    eventually("the reason", || {
        let now = site.consumer("one");
        when(now["reload_error"].as_str().is_some_and(|error| error.contains("not WebAssembly")), &now)
    });
    fs::write(site.path("later.wasm"), guests::with_custom_section(&original, "build", b"3")).unwrap();
    eventually("the third", || {
        let now = site.consumer("one");
        when(now["reload_error"].is_null() && now["module_hash"] != second["module_hash"], &now)
    });
    running(&site, "one");

    // One that comes with settings that only it can have.
    fs::copy(guests::component("bulk"), site.path("bulk.wasm")).unwrap();
    edit(&site, &from("bulk.wasm").replace("max_retries = 0", "max_batch_size = 5"));
    running(&site, "one");
    runtime.stop();
}

#[test]
fn more_than_the_workers_have_room_for_is_cut_and_too_many_consumers_are_refused() {
    let site = Site::with_runtime(
        "log_max_bytes = \"64MiB\"\nworkers = 1",
        &format!("{QUEUES}{}", consumer("one", "max_concurrency = 1")),
    );
    fs::copy(guests::component("behave"), site.path("behave.wasm")).unwrap();
    let runtime = site.start();
    edit(
        &site,
        &format!("{QUEUES}{}{}", consumer("one", "max_concurrency = 1"), consumer("two", "max_concurrency = 900")),
    );
    assert_eq!(lines(&runtime, "run fewer deliveries at once than max_concurrency"), 1, "{}", runtime.stderr());
    assert_eq!((ask(&site, "one", &who()), ask(&site, "two", &who())), (json!("one"), json!("two")));

    let many = |count: usize| -> String {
        let one = |number: usize| {
            format!("[queues.q{number}]\n[consumers.q{number}]\nqueue = \"q{number}\"\ncomponent = \"none.wasm\"\n")
        };
        format!("{QUEUES}{}", (0..count).map(one).collect::<String>())
    };
    replace(&site, &text(&site, &many(140)));
    wait_refused(&site, &["each worker can hold 129 instances", "restart"]);
    assert_eq!(ask(&site, "two", &who()), "two");
    edit(&site, &many(100));
    assert_eq!(names(&site).len(), 100);
    runtime.stop();
}

#[test]
fn retention_follows_the_file() {
    let site = site("[queues.work]\n[queues.other]");
    let runtime = site.start();
    // Made when it is first needed.
    let dead = |queue: &str| {
        eventually("a dead letter", || {
            let answer = site.request("GET", &format!("/queues/{queue}"), &[], b"").unwrap();
            when(answer.body["ready"] == 1, &answer.body)
        });
    };
    site.send("work", "old");
    edit(&site, "[queues.work]\nretention = \"1s\"\n[queues.other]");
    dead("work.dead");
    edit(&site, "[queues.work]\nretention = \"1d\"\n[queues.other]");
    site.send("work", "stays");
    edit(&site, "[queues.other]\nretention = \"1s\"");
    site.send("other", "expires");
    dead("other.dead");
    assert_eq!(site.count("work"), 1);
    // Dead letters of a queue that has gone are there until somebody deletes them.
    assert_eq!(site.get("/queues/work.dead")["declared"], false);
    runtime.stop();
}
