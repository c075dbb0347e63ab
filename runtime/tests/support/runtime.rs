//! The real binary, run in a folder of its own on a port that is free.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Far more than anything here takes, also on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with a `queue.toml`, which outlives the processes that run in it.
pub(crate) struct Kitchen {
    folder: TempDir,
}

impl Kitchen {
    /// `runtime` are lines of `[runtime]`, `rest` is what follows it.
    pub(crate) fn new(runtime: &str, rest: &str) -> Kitchen {
        let kitchen = Kitchen { folder: tempfile::tempdir().unwrap() };
        let head = format!("[runtime]\nlisten = \"127.0.0.1:0\"\nworkers = 2\nlog_max_bytes = \"64MiB\"\n{runtime}\n");
        kitchen.write("queue.toml", format!("{head}\n{rest}"));
        kitchen
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file, and the folders that it lies in.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A command of `linecook` in this folder.
    pub(crate) fn linecook(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linecook"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Starts the runtime and waits until it listens.
    pub(crate) fn start(&self) -> Runtime {
        let mut child = self.linecook(&["run"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sink, started) = (log.clone(), Instant::now());
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut runtime = Runtime { child, address: String::new(), log };
        while runtime.address.is_empty() {
            let ended = runtime.child.try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "it does not listen:\n{}", runtime.log());
            let log = runtime.log();
            let address = log.split_once("http://").and_then(|(_, rest)| rest.split_once(','));
            runtime.address = address.map(|(address, _)| address.to_owned()).unwrap_or_default();
            thread::sleep(Duration::from_millis(2));
        }
        runtime
    }

    /// Starts the runtime and waits until all consumers take messages.
    pub(crate) fn start_ready(&self) -> Runtime {
        let runtime = self.start();
        runtime.until("readiness", |runtime| runtime.get("/readyz").0 == 200);
        runtime
    }
}

/// A running `linecook run`. Killed when it is dropped.
pub(crate) struct Runtime {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Runtime {
    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status and JSON (null if there is none) of an answer.
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let answer = agent().get(format!("http://{}{path}", self.address)).call();
        read(answer.unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log())))
    }

    /// As [`Runtime::get`].
    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> (u16, Value) {
        let answer = agent().post(format!("http://{}{path}", self.address)).send(body.as_ref());
        read(answer.unwrap_or_else(|error| panic!("POST {path}: {error}\n{}", self.log())))
    }

    /// As [`Runtime::get`].
    pub(crate) fn delete(&self, path: &str) -> (u16, Value) {
        let answer = agent().delete(format!("http://{}{path}", self.address)).call();
        read(answer.unwrap_or_else(|error| panic!("DELETE {path}: {error}\n{}", self.log())))
    }

    /// Sends a message and gives its id.
    pub(crate) fn send(&self, queue: &str, body: impl AsRef<[u8]>) -> String {
        let (status, answer) = self.post(&format!("/queues/{queue}/messages"), body);
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The first messages of a queue, as the API shows them.
    pub(crate) fn peek(&self, queue: &str) -> Vec<Value> {
        let (status, answer) = self.get(&format!("/queues/{queue}/messages?limit=1000"));
        assert_eq!(status, 200, "{answer}");
        answer["messages"].as_array().unwrap().clone()
    }

    /// One count of a queue: `ready`, `delayed` or `leased`.
    pub(crate) fn count(&self, queue: &str, state: &str) -> u64 {
        self.get(&format!("/queues/{queue}")).1[state].as_u64().unwrap()
    }

    /// Whether nothing is in a queue, in whatever state.
    pub(crate) fn is_empty(&self, queue: &str) -> bool {
        let answer = self.get(&format!("/queues/{queue}")).1;
        ["ready", "delayed", "leased"].iter().all(|state| answer[state] == 0)
    }

    /// The status of the consumer `name`.
    pub(crate) fn consumer(&self, name: &str) -> Value {
        let answer = self.get("/consumers").1;
        let mut consumers = answer["consumers"].as_array().unwrap().iter();
        consumers.find(|consumer| consumer["name"] == name).unwrap_or(&Value::Null).clone()
    }

    /// Waits until it is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Runtime) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < DEADLINE, "gave up waiting for {what}:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "it does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(DEADLINE)).build().into()
}

fn read(mut answer: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}
