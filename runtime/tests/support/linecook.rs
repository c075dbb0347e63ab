//! The real binary in a folder of its own, used as its users do: `queue.toml`, HTTP, the command line, signals, stderr.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

/// Longer than anything here takes on the busiest machine.
pub const LONG: Duration = Duration::from_secs(60);

/// How often something is looked at that will change.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The room of the log where a test has no wish: a small one is made quickly.
const SMALL_LOG: &str = "log_max_bytes = \"64MiB\"";

/// Looks until there is an `Ok`. The last `Err` says what was there instead.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "after {LONG:?} there is still not {what}: {seen}"),
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// `Ok` if it holds.
pub fn when(holds: bool, otherwise: impl ToString) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_string()) }
}

/// A folder with a `queue.toml`, and the address that it says. At most one runtime runs there at a time.
pub struct Site {
    folder: TempDir,
    address: SocketAddr,
    agent: Agent,
}

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Null if it is no JSON.
    pub body: Value,
    headers: HeaderMap,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Site {
    /// With these tables beside `[runtime]`.
    pub fn new(tables: &str) -> Site {
        Site::with_runtime(SMALL_LOG, tables)
    }

    /// With these keys in `[runtime]` beside `listen`, and these tables.
    pub fn with_runtime(keys: &str, tables: &str) -> Site {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            // A connection to a runtime that was killed is of no use to the next one.
            .max_idle_connections(0)
            .timeout_global(Some(LONG))
            .build();
        let site = Site {
            folder: tempfile::tempdir().unwrap(),
            address: free_address(),
            agent: Agent::new_with_config(agent),
        };
        let text = format!("[runtime]\nlisten = \"{}\"\n{keys}\n\n{tables}\n", site.address);
        fs::write(site.path("queue.toml"), text).unwrap();
        site
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A path in its folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `linecook …`, to be run in its folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linecook"));
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Runs `linecook …` to its end, which it must come to by itself.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `linecook …`, which must succeed, and gives its stdout.
    #[track_caller]
    pub fn run_well(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "linecook {arguments:?} says: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the runtime, and does not wait for anything.
    pub fn spawn(&self) -> Runtime {
        self.spawn_with(&[])
    }

    /// Starts the runtime with more in its environment, and does not wait for anything.
    pub fn spawn_with(&self, environment: &[(&str, &str)]) -> Runtime {
        let mut command = self.command(&["run"]);
        command.envs(environment.iter().copied());
        self.spawn_command(command)
    }

    /// Starts the runtime in another way, and does not wait for anything.
    pub fn spawn_command(&self, mut command: Command) -> Runtime {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut pipe, stderr) = (child.stderr.take().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = stderr.clone();
        let reader = thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut part) {
                seen.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Runtime { child, stderr, reader: Some(reader) }
    }

    /// Starts the runtime, and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Runtime {
        let mut runtime = self.spawn();
        self.wait_ready(&mut runtime);
        runtime
    }

    #[track_caller]
    pub fn wait_ready(&self, runtime: &mut Runtime) {
        eventually("a runtime that is ready", || {
            let ended = runtime.child.try_wait().unwrap();
            assert!(ended.is_none(), "the runtime has ended ({ended:?}) instead of becoming ready");
            let answer = self.request("GET", "/readyz", &[], b"").map_err(|error| error.to_string())?;
            when(answer.status == 200, &answer.body)
        });
    }

    /// One request. The error is that there was no whole answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body).unwrap())?;
        let body = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), headers })
    }

    /// The answer of a `GET` that must be 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.request("GET", path, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    /// The answer of a `POST`.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", path, &[], body.as_ref()).unwrap()
    }

    /// Sends a message, which must be confirmed, and gives its id.
    #[track_caller]
    pub fn send(&self, queue: &str, body: impl ToString) -> String {
        let answer = self.post(&format!("/queues/{queue}/messages"), body.to_string());
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// The messages of a queue, up to 1000.
    #[track_caller]
    pub fn messages(&self, queue: &str) -> Vec<Value> {
        let mut answer = self.get(&format!("/queues/{queue}/messages?limit=1000"));
        let Value::Array(messages) = answer["messages"].take() else { panic!("no messages in {answer}") };
        messages
    }

    /// All messages of a queue that nobody sends to any more, however many there are. They end up in `seen`.
    #[track_caller]
    pub fn take_all(&self, queue: &str, seen: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let page = self.messages(queue);
            if page.is_empty() {
                return all;
            }
            let wanted = json!({ "to": seen, "limit": page.len() });
            let answer = self.post(&format!("/queues/{queue}/redrive"), wanted.to_string());
            assert_eq!((answer.status, &answer.body["moved"]), (200, &page.len().into()), "{}", answer.body);
            all.extend(page);
        }
    }

    /// How many messages are in a queue, in whichever state.
    #[track_caller]
    pub fn count(&self, queue: &str) -> u64 {
        let queue = self.get(&format!("/queues/{queue}"));
        ["ready", "delayed", "leased"].map(|state| queue[state].as_u64().unwrap()).iter().sum()
    }

    /// Waits until there is nothing left in a queue.
    #[track_caller]
    pub fn wait_empty(&self, queue: &str) {
        eventually("an empty queue", || when(self.count(queue) == 0, self.get(&format!("/queues/{queue}"))));
    }

    /// Waits until there are so many messages in a queue, and gives them.
    #[track_caller]
    pub fn wait_messages(&self, queue: &str, count: usize) -> Vec<Value> {
        eventually("that many messages", || {
            let messages = self.messages(queue);
            when(messages.len() == count, format!("{} of {count} are in {queue}", messages.len()))?;
            Ok(messages)
        })
    }

    /// What `GET /consumers` says about one.
    #[track_caller]
    pub fn consumer(&self, name: &str) -> Value {
        let mut answer = self.get("/consumers");
        let consumers = answer["consumers"].as_array_mut().unwrap();
        consumers.iter_mut().find(|consumer| consumer["name"] == name).expect("the consumer is shown").take()
    }
}

/// A process of the runtime. It is killed when this is dropped; if that is because a test fails, its stderr is shown.
pub struct Runtime {
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// None if by a signal that it does not handle.
    pub code: Option<i32>,
    pub stderr: String,
}

impl Runtime {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL. It must have been running until now.
    #[track_caller]
    pub fn kill(mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the runtime has ended before it was killed: {ended:?}");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    #[track_caller]
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// SIGHUP.
    #[track_caller]
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status =
            eventually("the end of the runtime", || self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()));
        // Nobody writes any more, so that this ends too.
        self.reader.take().unwrap().join().unwrap();
        Ended { code: status.code(), stderr: self.stderr() }
    }

    /// SIGTERM, after which it must end well.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.terminate();
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// Memory that it has now.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // If it has ended, neither has anything to do.
        _ = self.child.kill();
        _ = self.child.wait();
        if thread::panicking() {
            let stderr = self.stderr();
            let lines: Vec<_> = stderr.lines().collect();
            eprintln!("the end of the runtime's stderr:\n{}", lines[lines.len().saturating_sub(50)..].join("\n"));
        }
    }
}

/// A port that nobody listens on. It stays the same when the runtime is started again, so it is none of those that the
/// system gives to outgoing connections: one of the test's own could take it in between.
fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(10_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
