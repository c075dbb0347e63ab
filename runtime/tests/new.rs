//! `linecook new`: what it makes is tested, built and run as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

#[path = "support/runtime.rs"]
mod runtime;

use runtime::Kitchen;

const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk");

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_new_consumer_passes_its_test_is_built_and_handles_messages() {
    let kitchen = Kitchen::new("", "");
    let (code, declaration, told) = run(&mut kitchen.linecook(&["new", "plugins/greet", "--sdk", SDK]));
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("made plugins/greet") && told.contains("cargo test"), "{told}");

    let package = kitchen.path().join("plugins/greet");
    // The versions of dependencies that are on this machine anyway.
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    let (code, tested, told) = run(cargo.arg("test").current_dir(&package).env_remove("CARGO_TARGET_DIR"));
    assert_eq!(code, Some(0), "{tested}{told}");
    assert!(tested.contains("2 passed"), "{tested}");
    let (code, formatted, told) = run(Command::new(env!("CARGO")).args(["fmt", "--check"]).current_dir(&package));
    assert_eq!(code, Some(0), "{formatted}{told}");

    let config = fs::read_to_string(kitchen.path().join("queue.toml")).unwrap();
    kitchen.write("queue.toml", format!("{config}\n{declaration}"));
    let (code, _, told) = run(&mut kitchen.linecook(&["check"]));
    assert_eq!(code, Some(0), "{told}");
    let runtime = kitchen.start_ready();
    let id = runtime.send("greet", json!({ "name": "Ann" }).to_string());
    runtime.until("it is handled", |runtime| runtime.is_empty("greet"));
    let log = runtime.log();
    let line = log.lines().find(|line| line.contains("hello, Ann")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&id), "{line}");
    runtime.send("greet", json!({ "name": "" }).to_string());
    runtime.until("a dead letter", |runtime| runtime.count("greet.dead", "ready") == 1);
}

#[test]
fn what_is_there_already_and_what_is_no_name_is_refused_and_nothing_is_made() {
    let kitchen = Kitchen::new("", "");
    kitchen.write("taken/file", "mine");
    std::os::unix::fs::symlink("nowhere", kitchen.path().join("link")).unwrap();
    for (path, says) in [
        ("taken", "there is already something at taken"),
        ("link", "there is already something at link"),
        ("Greet", "\"Greet\" can't name a consumer: it is made of small letters"),
        ("plugins/match", "\"match\" can't name a consumer: to Rust, it means something else"),
        ("..", "can't name a consumer"),
    ] {
        let (code, stdout, told) = run(&mut kitchen.linecook(&["new", path]));
        assert_eq!((code, &*stdout), (Some(1), ""), "{told}");
        assert!(told.contains(says) && told.contains("hint: "), "{path}: {told}");
    }
    let (code, _, told) = run(&mut kitchen.linecook(&["new", "greet", "--sdk", "taken"]));
    assert!(code == Some(1) && told.contains("there is no linecook-sdk in taken"), "{told}");
    assert_eq!(run(&mut kitchen.linecook(&["new"])).0, Some(2));
    let mut names: Vec<_> = fs::read_dir(kitchen.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["link", "queue.toml", "taken"]);
    assert_eq!(fs::read_to_string(Path::new(kitchen.path()).join("taken/file")).unwrap(), "mine");
}
