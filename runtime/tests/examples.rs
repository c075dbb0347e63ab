//! The scenarios of `examples/`, with their own `queue.toml` and the plugins that it names, as their READMEs say.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// An example in a folder of its own, with other words in its `queue.toml` where this machine needs them. The plugins are built
/// already: a test waits for the runtime, not for the compiler.
fn example(name: &str, plugins: &[&str], words: &[(&str, String)]) -> Site {
    for plugin in plugins {
        build(&Path::new(ROOT).join("plugins").join(plugin));
    }
    let mut tables = fs::read_to_string(Path::new(ROOT).join("examples").join(name).join("queue.toml")).unwrap();
    let plugins = format!("{ROOT}/plugins");
    for (word, other) in [("../../plugins", plugins)].iter().chain(words) {
        assert!(tables.contains(word), "{name} does not say {word}");
        tables = tables.replace(word, other);
    }
    Site::new(&tables)
}

/// As `linecook run` does it.
fn build(package: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--target", "wasm32-wasip2"]).current_dir(package);
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|name| {
            (name.starts_with("CARGO_") && name != "CARGO_HOME") || name.starts_with("RUSTC") || name == "RUSTFLAGS"
        });
        if told {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.output().unwrap_or_else(|error| panic!("can't start cargo: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The body of a message, as JSON.
fn body(message: &Value) -> Value {
    serde_json::from_str(message["body"].as_str().unwrap()).unwrap()
}

/// A port that nobody listens on.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// aiosmtpd, which keeps the mails that it takes in a folder. It ends when this is dropped.
struct MailServer(Child);

impl MailServer {
    fn start(address: SocketAddr, mails: &Path) -> MailServer {
        let child = Command::new(aiosmtpd())
            .args(["-m", "aiosmtpd", "-n", "-l", &address.to_string(), "-c", "aiosmtpd.handlers.Mailbox"])
            .arg(mails)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = MailServer(child);
        eventually("a mail server", || {
            assert!(server.0.try_wait().unwrap().is_none(), "the mail server has ended");
            TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        server
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A Python that has it, in an environment of its own that is made when it is first asked for.
fn aiosmtpd() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aiosmtpd");
    let python = folder.join("bin/python");
    let run = |command: &mut Command| {
        let output = command.output();
        let output = output.unwrap_or_else(|error| panic!("can't run {command:?}: {error}; scripts/test installs it"));
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{command:?} failed:\n{told}");
    };
    // The last thing that is installed; before it, the folder may be half of one.
    if !folder.join("bin/aiosmtpd").is_file() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "aiosmtpd==1.4.6"]));
    }
    python
}

/// The mails of a maildir.
fn mails(maildir: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(maildir.join("new")) else { return Vec::new() };
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn welcome_mails_reach_an_smtp_server_also_when_it_was_away() {
    let address = free_address();
    let site = example("welcome-email", &["welcome-email"], &[("127.0.0.1:1025", address.to_string())]);
    let maildir = site.path("mails");
    let runtime = site.start();
    // Nobody is there yet.
    let id = site.send("signups", json!({ "email": "new@example.com", "name": "Zoë" }));
    eventually("a failed attempt", || {
        let stderr = runtime.stderr();
        when(stderr.contains(&format!("the mail server {address} did not take the mail")), stderr)
    });
    let server = MailServer::start(address, &maildir);
    let audit = site.wait_messages("audit", 1).remove(0);
    assert_eq!(body(&audit), json!({ "event": "welcome-email", "id": id, "email": "new@example.com" }));
    let mails = mails(&maildir);
    assert_eq!(mails.len(), 1, "{mails:#?}");
    for line in [
        "From: Linecook <hello@example.com>",
        "To: =?utf-8?b?Wm/Dqw==?= <new@example.com>",
        &format!("Message-ID: <{id}@example.com>"),
        "X-MailFrom: hello@example.com",
        "X-RcptTo: new@example.com",
        "Hello Zo=C3=AB,",
    ] {
        assert!(mails[0].lines().any(|each| each == line), "{line} is not in:\n{}", mails[0]);
    }

    let bad = site.send("signups", json!({ "email": "nobody" }));
    let letter = site.wait_messages("signups.dead", 1).remove(0);
    assert_eq!(letter["id"], bad);
    runtime.stop();
    drop(server);
}

#[test]
fn a_mail_server_that_is_not_granted_is_not_connected_to() {
    let address = free_address();
    let words = [("tcp = [\"127.0.0.1:1025\"]", String::new()), ("127.0.0.1:1025", address.to_string())];
    let site = example("welcome-email", &["welcome-email"], &words);
    let maildir = site.path("mails");
    let _server = MailServer::start(address, &maildir);
    let runtime = site.start();
    site.send("signups", json!({ "email": "new@example.com" }));
    eventually("a denial", || {
        let stderr = runtime.stderr();
        when(stderr.contains(&format!("tcp = [\"{address}\"]")) && stderr.contains("did not take the mail"), stderr)
    });
    assert!(mails(&maildir).is_empty());
    assert_eq!(site.messages("audit").len(), 0);
}

/// The example's own payment server. It ends when this is dropped.
struct PaymentServer(Child);

impl PaymentServer {
    fn start(address: SocketAddr) -> PaymentServer {
        let child = Command::new("python3")
            .arg(Path::new(ROOT).join("examples/orders/payments.py"))
            .arg(address.port().to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("can't run python3: {error}; scripts/test installs it"));
        let mut server = PaymentServer(child);
        eventually("a payment server", || {
            assert!(server.0.try_wait().unwrap().is_none(), "the payment server has ended");
            TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        server
    }
}

impl Drop for PaymentServer {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn order(number: &str, items: &[(&str, u64)], cents: u64) -> Value {
    let items: Vec<_> = items.iter().map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity })).collect();
    json!({ "order": number, "items": items, "cents": cents, "ship_to": "Ann, 1 Main St" })
}

/// What was told of an order so far.
fn events(site: &Site, number: &str) -> Vec<String> {
    let events = site.messages("order-events").into_iter().map(|message| body(&message));
    let mut events: Vec<_> = events
        .filter(|event| event["order"] == number)
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect();
    events.sort();
    events
}

#[test]
fn an_order_fans_out_to_inventory_payment_and_shipping() {
    let address = free_address();
    let site = example("orders", &["orders"], &[("127.0.0.1:8402", address.to_string())]);
    let runtime = site.start();
    for (sku, quantity) in [("soup", 10), ("bread", 1)] {
        site.send("inventory", json!({ "restock": { "sku": sku, "quantity": quantity } }));
    }
    site.wait_empty("inventory");
    // The payment server is not there yet: the others don't wait for it.
    site.send("orders", order("A-7", &[("soup", 2), ("bread", 1)], 1300));
    eventually("its label and its items", || {
        let events = events(&site, "A-7");
        when(events == ["label-written", "reserved"], format!("{events:?}"))
    });
    let label = fs::read_to_string(site.path("labels/A-7.txt")).unwrap();
    assert_eq!(label, "Order A-7\nAnn, 1 Main St\n\n2 x soup\n1 x bread\n");
    let _server = PaymentServer::start(address);
    eventually("its payment", || {
        let events = events(&site, "A-7");
        when(events == ["label-written", "paid", "reserved"], format!("{events:?}"))
    });

    // No bread is left, and this costs more than the server allows.
    site.send("orders", order("A-8", &[("bread", 1)], 100_001));
    eventually("the end of the second order", || {
        let events = events(&site, "A-8");
        when(events == ["declined", "label-written", "out-of-stock"], format!("{events:?}"))
    });

    // 8 portions of soup are left, and 12 want one each at once.
    for number in 0..12 {
        site.send("orders", order(&format!("B-{number}"), &[("soup", 1)], 650));
    }
    let all: Vec<_> = eventually("the end of all orders", || {
        let all: Vec<_> = (0..12).map(|number| events(&site, &format!("B-{number}"))).collect();
        when(all.iter().all(|events| events.len() == 3), format!("{all:?}"))?;
        Ok(all)
    });
    let reserved = all.iter().filter(|events| events.contains(&"reserved".to_owned())).count();
    assert_eq!(reserved, 8, "{all:?}");
    let mut charged = ureq::get(format!("http://{address}/charges")).call().unwrap();
    let charged: Value = serde_json::from_str(&charged.body_mut().read_to_string().unwrap()).unwrap();
    assert_eq!(charged.as_object().unwrap().len(), 13, "each order once, without the one that was declined: {charged}");

    site.send("orders", order("../../etc/passwd", &[("soup", 1)], 1));
    let letter = site.wait_messages("orders.dead", 1).remove(0);
    assert!(letter["attributes"]["linecook-reason"].as_str().unwrap().contains("has a number that is not"), "{letter}");
    for queue in ["inventory", "payment", "shipping"] {
        site.wait_empty(queue);
        assert_eq!(
            site.request("GET", &format!("/queues/{queue}.dead/messages"), &[], b"").unwrap().body["messages"],
            json!([])
        );
    }
    runtime.stop();
}

#[test]
fn access_log_lines_become_a_summary_for_each_minute_also_when_the_runtime_is_killed() {
    let site = example("log-summary", &["log-summary"], &[]);
    let log = fs::read_to_string(Path::new(ROOT).join("examples/log-summary/access.log")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    fs::write(site.path("first.log"), first.join("\n")).unwrap();
    fs::write(site.path("second.log"), second.join("\n")).unwrap();
    let runtime = site.start();
    site.run_well(&["send", "access-log", "--lines", "first.log"]);
    site.wait_empty("access-log");
    // What was counted so far is in the state, not in the process.
    runtime.kill();
    let runtime = site.start();
    site.run_well(&["send", "access-log", "--lines", "second.log"]);
    site.wait_empty("access-log");
    let expected = [
        json!({ "minute": "2026-11-25T18:20Z", "requests": 13, "bytes": 31585, "statuses": { "2xx": 10, "3xx": 2, "4xx": 1 } }),
        json!({ "minute": "2026-11-25T18:21Z", "requests": 13, "bytes": 20930, "statuses": { "2xx": 6, "3xx": 2, "4xx": 3, "5xx": 2 } }),
        json!({ "minute": "2026-11-25T18:22Z", "requests": 15, "bytes": 34570, "statuses": { "2xx": 12, "3xx": 2, "4xx": 1 } }),
    ];
    let summaries: Vec<_> = site.messages("summaries").iter().map(body).collect();
    assert_eq!(summaries, expected);

    site.send("access-log", "nonsense");
    let letter = site.wait_messages("access-log.dead", 1).remove(0);
    let reason = letter["attributes"]["linecook-reason"].as_str().unwrap();
    assert_eq!(reason, "line 1: there is no time in brackets: \"nonsense\"");
    runtime.stop();
}
