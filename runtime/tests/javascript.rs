//! A consumer in another language: the example in JavaScript, built by npm and run as its `queue.toml` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

#[path = "support/runtime.rs"]
mod runtime;

use runtime::Kitchen;

/// The built example.
fn example() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/javascript");
    if !folder.join("node_modules").is_dir() {
        npm(&folder, &["ci", "--no-audit", "--no-fund"]);
    }
    npm(&folder, &["run", "build"]);
    folder
}

fn npm(folder: &Path, args: &[&str]) {
    let output = Command::new("npm").args(args).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("can't run npm: {error}; scripts/test installs it"));
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "npm {args:?} failed:\n{told}");
}

#[test]
fn a_consumer_in_javascript_handles_messages_and_gives_up_on_some() {
    let example = example();
    let kitchen = Kitchen::new("", &fs::read_to_string(example.join("queue.toml")).unwrap());
    kitchen.write("greet.wasm", fs::read(example.join("greet.wasm")).unwrap());
    let runtime = kitchen.start_ready();
    let id = runtime.send("greetings", json!({ "name": "Ann" }).to_string());
    runtime.until("it is handled", |runtime| runtime.is_empty("greetings"));
    let body: Value = serde_json::from_str(runtime.peek("audit")[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({ "greeted": "Ann", "input": id }));
    let log = runtime.log();
    let line = log.lines().find(|line| line.contains("hello, Ann")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&id), "{line}");

    for (body, reason) in [("nonsense", "the body is not JSON: "), ("{}", "the body has no name")] {
        let id = runtime.send("greetings", body);
        runtime.until("it is given up", |runtime| runtime.is_empty("greetings"));
        let letters = runtime.peek("greetings.dead");
        let letter = letters.iter().find(|letter| letter["id"] == id).unwrap();
        assert!(letter["attributes"]["linecook-reason"].as_str().unwrap().starts_with(reason), "{letter}");
        assert_eq!(letter["attributes"]["linecook-attempts"], "1");
    }
    assert_eq!(runtime.consumer("greet")["instances"], json!([{ "generation": 1, "count": 1 }]));
}
