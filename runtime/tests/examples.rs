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
