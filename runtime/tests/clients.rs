//! Clients that others wrote: curl, the CloudEvents SDK for Python, and schemathesis, which tries out what the OpenAPI
//! document says. The Python packages are installed once, into the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::{Value, json};

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::Site;

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/requirements.txt");

/// The folder of the programs of a Python environment with the packages.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-clients");
    let (stamp, wanted) = (folder.join("installed"), fs::read_to_string(REQUIREMENTS).unwrap());
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        done("python3 (apt-get install python3-venv)", Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let mut install = Command::new(folder.join("bin/pip"));
        done("pip", install.args(["install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]));
        fs::write(stamp, wanted).unwrap();
    }
    folder.join("bin")
});

/// Runs a program, which must be there and succeed.
#[track_caller]
fn done(what: &str, command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{what} is missing: {error}"));
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    // Requests may be long; the beginning of each line is enough to find what is wrong.
    let short = |text: &str| {
        text.lines().map(|line| line.chars().take(300).chain(['\n']).collect::<String>()).collect::<String>()
    };
    assert!(status.success(), "{what}: {status}\n{}\n{}", short(&stdout), short(&stderr));
    stdout.into_owned()
}

#[test]
fn curl_sends_claims_and_settles() {
    let site = Site::new("[queues.orders]\nsubscribe = [\"shop.*\"]");
    let _runtime = site.start();
    let base = format!("http://localhost:{}", site.address().port());
    let curl = |arguments: &[&str], path: &str| -> Value {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60"]);
        let text = done("curl (apt-get install curl)", command.args(arguments).arg(format!("{base}{path}")));
        serde_json::from_str(&text).unwrap()
    };
    fs::write(site.path("body"), vec![b'x'; 500_000]).unwrap();
    let file = format!("@{}", site.path("body").display());
    // curl asks first whether so large a body is welcome.
    let sent = curl(
        &["--data-binary", &file, "-H", "Linecook-Key: k", "-H", "Expect: 100-continue"],
        "/queues/orders/messages",
    );
    curl(&["-d", "hello", "-H", "Linecook-Attribute-Tenant: acme"], "/subjects/shop.placed/messages");
    let claimed = curl(&["-d", "{\"max\":2}"], "/queues/orders/claim");
    let messages = claimed["messages"].as_array().unwrap();
    assert_eq!((&messages[0]["id"], &messages[0]["key"]), (&sent["id"], &json!("k")));
    assert_eq!(messages[0]["body"].as_str().unwrap().len(), 500_000);
    assert_eq!(messages[1]["attributes"], json!({ "linecook-subject": "shop.placed", "tenant": "acme" }));
    for message in messages {
        curl(&["-X", "POST"], &format!("/deliveries/{}/ack", message["lease"].as_str().unwrap()));
    }
    assert_eq!(curl(&[], "/queues/orders")["ready"], 0);
}

#[test]
fn the_sdk_for_python_sends_and_receives_events() {
    let site = Site::new("[queues.events]");
    let _runtime = site.start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/events.py");
    let told =
        done("events.py", Command::new(PYTHON.join("python")).arg(script).arg(format!("http://{}", site.address())));
    assert_eq!(told.trim(), "ok");
    assert_eq!(site.count("events"), 0);
}

#[test]
fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    // A batch must fit into one step, which a log of this size has room for.
    let site = Site::with_runtime(
        "log_max_bytes = \"256MiB\"",
        "[queues.orders]\nsubscribe = [\"shop.*\"]\n[queues.jobs]\n\
         [consumers.cook]\nqueue = \"jobs\"\ncomponent = \"absent.wasm\"\n",
    );
    let _runtime = site.start();
    // First with names that nobody knows, then with those that there are.
    for config in ["schemathesis.toml", "schemathesis-known.toml"] {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(config);
        let mut command = Command::new(PYTHON.join("schemathesis"));
        command.current_dir(site.path(".")).arg("--config-file").arg(config);
        command.args(["run", &format!("http://{}/openapi.json", site.address()), "--checks", "all", "--no-color"]);
        done("schemathesis", command.args(["--max-examples", "10", "--seed", "1"]));
    }
}
