//! The frame of the command line: help, version, exit codes, `check`, and a stdout that goes away.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn linecook(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linecook"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    linecook(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for part in ["Usage: linecook", "check", "--config <FILE>", "[default: queue.toml]"] {
        assert!(stdout(&help).contains(part), "{part} is missing in:\n{}", stdout(&help));
    }
    let version = run(&["--version"]);
    assert_eq!(stdout(&version), concat!("linecook ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["chek"][..],
        &["--no-such-flag"],
        &["check", "surplus"],
        &["--config"],
        &["purge"],
        &["purge", "orders", "--state", "cook"],
        &["purge", "--delete", "--state", "cook"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).starts_with("error: ") && output.stdout.is_empty(), "{}", stderr(&output));
    }
    assert!(stderr(&run(&["chek"])).contains("check"), "a near miss is named");
}

/// Everybody on a machine can read the arguments of its processes.
#[test]
fn no_command_takes_a_token_as_an_argument() {
    let secret = "linecook_secret";
    for args in [
        &["--token", secret, "status"][..],
        &["status", "--token", secret],
        &["send", "--token", secret, "a", "x"],
        &["token", "new", "--token", secret],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("unexpected argument '--token'"), "{args:?}: {}", stderr(&output));
    }
    // An option of that name would be of a file.
    let help = stdout(&run(&["--help"])).to_owned();
    let options: Vec<_> = help.split_whitespace().filter(|word| word.starts_with("--token")).collect();
    assert_eq!(options, ["--token-file"], "{help}");
}

#[test]
fn check_says_that_a_file_is_right() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("queue.toml"), "[queues.a]\n[queues.b]\n").unwrap();
    let output = linecook(&["check"]).current_dir(&folder).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "queue.toml: ok — 2 queues, 0 consumers\n"));
    let output = linecook(&["check", "--json"]).current_dir(&folder).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["ok"], &answer["queues"]), (&true.into(), &2.into()));
}

#[test]
fn check_says_what_is_wrong_without_colours_if_nobody_looks() {
    let path = "tests/config/bad/unknown-queue-key.toml";
    // `--config` may stand before and after the command.
    for args in [["--config", path, "check"], ["check", "--config", path]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(stderr(&output).contains("did you mean `max_bytes`?") && !stderr(&output).contains('\x1b'));
    }
    let output = run(&["check", "--json", "--config", path]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), ""));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    assert_eq!(
        answer["errors"][0],
        serde_json::json!({
            "file": path, "line": 2, "column": 1,
            "message": "unknown key `max_bites`", "hint": "did you mean `max_bytes`?",
        })
    );
}

#[test]
fn a_missing_file_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = linecook(&["check"]).current_dir(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: there is no queue.toml\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        linecook(&["check", "--json", "--config", "tests/config/good/empty.toml"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}
