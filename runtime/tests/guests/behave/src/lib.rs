//! Does what the message says: all the ways that a consumer can go right and wrong, in one component.
//!
//! The body is a JSON object; `do` says what to do. What a command finds out, it sends to the queue `report`. Any command
//! can have `"then": {…}`, a command that is done after it.
//!
//! | body | what happens |
//! | --- | --- |
//! | `{"do":"ok"}` | The message is acknowledged. |
//! | `{"do":"panic"}` | A panic; its text is `on purpose`. |
//! | `{"do":"loop"}` | Computes for ever. |
//! | `{"do":"compute","ms":100}` | Computes for so many milliseconds. |
//! | `{"do":"allocate"}` | Allocates, and touches what it gets, for ever. |
//! | `{"do":"exit"}` | Ends the process with code 1. |
//! | `{"do":"exit-zero"}` | Ends the process with code 0, without an answer. |
//! | `{"do":"retry"}` | A failed attempt; the reason is `reason`, or `on purpose`. |
//! | `{"do":"retry-after","ms":100}` | The same, with a wish for the delay. |
//! | `{"do":"snooze","ms":100}` | Not now: come back after so many milliseconds. |
//! | `{"do":"dead-letter"}` | Dead-lettered; the reason is `reason`, or `on purpose`. |
//! | `{"do":"sleep","ms":100}` | Waits without computing, then acknowledges. |
//! | `{"do":"send","to":"audit","count":2}` | Sends `{"input": id, "index": n}` for n in 0..count (1 without it); with `"bytes":n`, so many bytes of `x` instead. |
//! | `{"do":"read-file","path":"/dir/a"}` | Reports `{"input": id, "text": "…"}`; if it can't be read: dead-lettered with the error's text. |
//! | `{"do":"write-file","path":"/dir/a","text":"…"}` | Writes the file; if it can't be written: dead-lettered with the error's text. |
//! | `{"do":"env","name":"FROM"}` | Reports `{"input": id, "value": "…"}`, or `null`. |
//! | `{"do":"environment"}` | Reports `{"input": id, "environment": {…}}`: all of it. |
//! | `{"do":"time"}` | Reports `{"input": id, "ms": n}`: the time of the wall clock. |
//! | `{"do":"count"}` | Reports `{"input": id, "count": n}`: how many times this instance has been asked. |
//! | `{"do":"message"}` | Reports everything about the message but its body. |
//! | `{"do":"print","lines":["a","b"]}` | Prints lines to stdout. |
//! | `{"do":"eprint","lines":["a","b"]}` | Prints lines to stderr. |

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use linecook_sdk::{Failure, Message, Outcome, consumer, queues};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Step {
    #[serde(flatten)]
    command: Command,
    then: Option<Box<Step>>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Command {
    Ok,
    Panic,
    Loop,
    Compute {
        ms: u64,
    },
    Allocate,
    Exit,
    ExitZero,
    Retry {
        #[serde(default = "on_purpose")]
        reason: String,
    },
    RetryAfter {
        #[serde(default = "on_purpose")]
        reason: String,
        ms: u64,
    },
    Snooze {
        ms: u64,
    },
    DeadLetter {
        #[serde(default = "on_purpose")]
        reason: String,
    },
    Sleep {
        ms: u64,
    },
    Send {
        to: String,
        #[serde(default = "one")]
        count: u32,
        bytes: Option<usize>,
    },
    ReadFile {
        path: String,
    },
    WriteFile {
        path: String,
        text: String,
    },
    Env {
        name: String,
    },
    Environment,
    Time,
    Count,
    Message,
    Print {
        lines: Vec<String>,
    },
    Eprint {
        lines: Vec<String>,
    },
}

fn on_purpose() -> String {
    "on purpose".into()
}

fn one() -> u32 {
    1
}

#[consumer]
fn behave(message: Message) -> Outcome {
    let mut next = Some(message.json::<Box<Step>>()?);
    while let Some(step) = next {
        perform(step.command, &message)?;
        next = step.then;
    }
    Ok(())
}

fn perform(command: Command, message: &Message) -> Outcome {
    match command {
        Command::Ok => {}
        Command::Panic => panic!("on purpose"),
        Command::Loop => compute_for_ever(),
        Command::Compute { ms } => {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(ms) {}
        }
        Command::Allocate => allocate_for_ever(),
        Command::Exit => std::process::exit(1),
        Command::ExitZero => std::process::exit(0),
        Command::Retry { reason } => return Err(Failure::retry(reason)),
        Command::RetryAfter { reason, ms } => return Err(Failure::retry(reason).after(Duration::from_millis(ms))),
        Command::Snooze { ms } => return Err(Failure::snooze(Duration::from_millis(ms))),
        Command::DeadLetter { reason } => return Err(Failure::dead_letter(reason)),
        Command::Sleep { ms } => std::thread::sleep(Duration::from_millis(ms)),
        Command::Send { to, count, bytes } => {
            for index in 0..count {
                match bytes {
                    Some(bytes) => queues::message(vec![b'x'; bytes]).send(&to)?,
                    None => queues::send(&to, &json!({ "input": message.id, "index": index }))?,
                }
            }
        }
        Command::ReadFile { path } => {
            let text = std::fs::read_to_string(path).map_err(Failure::dead_letter)?;
            report(&json!({ "input": message.id, "text": text }))?;
        }
        Command::WriteFile { path, text } => std::fs::write(path, text).map_err(Failure::dead_letter)?,
        Command::Env { name } => report(&json!({ "input": message.id, "value": std::env::var(name).ok() }))?,
        Command::Environment => {
            let environment: BTreeMap<String, String> = std::env::vars().collect();
            report(&json!({ "input": message.id, "environment": environment }))?;
        }
        Command::Time => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            report(&json!({ "input": message.id, "ms": u64::try_from(now.as_millis())? }))?;
        }
        Command::Count => {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
            report(&json!({ "input": message.id, "count": count }))?;
        }
        Command::Message => {
            let enqueued = message.enqueued_at.duration_since(UNIX_EPOCH)?;
            report(&json!({
                "input": message.id,
                "queue": message.queue,
                "content_type": message.content_type,
                "key": message.key,
                "attributes": message.attributes,
                "attempt": message.attempt,
                "enqueued_at_ms": u64::try_from(enqueued.as_millis())?,
            }))?;
        }
        Command::Print { lines } => lines.iter().for_each(|line| println!("{line}")),
        Command::Eprint { lines } => lines.iter().for_each(|line| eprintln!("{line}")),
    }
    Ok(())
}

fn report(value: &serde_json::Value) -> Outcome {
    Ok(queues::send("report", value)?)
}

fn compute_for_ever() -> ! {
    let mut number = 0u64;
    loop {
        number = std::hint::black_box(number.wrapping_add(1));
    }
}

fn allocate_for_ever() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&kept);
    }
}
