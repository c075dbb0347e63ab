//! Tries to get out of the sandbox, or to use up what is outside. The body is a JSON object; `do` says what to do. A file
//! command that fails dead-letters the message with the error's text; if it succeeds, it is acknowledged, and what was
//! read goes to the queue `report`.
//!
//! | body | what it does |
//! | --- | --- |
//! | `{"do":"read"\|"list"\|"stat"\|"write"\|"remove"\|"remove-dir"\|"make-dir"\|"truncate","path":"…"}` | files |
//! | `{"do":"read-bytes"\|"write-bytes","path":[47,255]}` | files whose names are no text |
//! | `{"do":"set-size"\|"set-times"\|"set-times-at","path":"…"}` | the same, by the interface itself, of a file that is open for reading |
//! | `{"do":"symlink"\|"link"\|"rename","from":"…","to":"…"}` | names |
//! | `{"do":"open-many","path":"…"}` | holds open files without end |
//! | `{"do":"timers"}` | holds timers without end |
//! | `{"do":"clock"}` | calls the host without end |
//! | `{"do":"fields"}` | fills the header of a request without end |
//! | `{"do":"bodies"}` | writes into bodies of requests that are never sent, without end |
//! | `{"do":"recurse"}`, `{"do":"abort"}`, `{"do":"wait"}` | recursion without end; an abort; waiting in the host for ever |
//! | `{"do":"flood"}`, `{"do":"sends"}` | output without end; sends without end |
//! | `{"do":"sleep"}`, `{"do":"poll-nothing"}` | waiting for ever by the standard library; waiting for nothing at all |
//! | `{"do":"huge"}` | allocates more than there is |
//! | `{"do":"spawn"}`, `{"do":"thread"}`, `{"do":"stdin"}` | starts a program, a thread; reads a byte of input |
//! | `{"do":"environment"}` | reports all of its environment |

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Error, Read, Write};

use linecook_sdk::{Failure, Message, Outcome, consumer, queues};
use serde::Deserialize;
use serde_json::json;
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, NewTimestamp, OpenFlags, PathFlags};
use wasip2::http::types::{Fields, OutgoingRequest};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Command {
    Read { path: String },
    List { path: String },
    Stat { path: String },
    Write { path: String },
    RemoveDir { path: String },
    ReadBytes { path: Vec<u8> },
    WriteBytes { path: Vec<u8> },
    Remove { path: String },
    MakeDir { path: String },
    Truncate { path: String },
    SetSize { path: String },
    SetTimes { path: String },
    SetTimesAt { path: String },
    Symlink { from: String, to: String },
    Link { from: String, to: String },
    Rename { from: String, to: String },
    OpenMany { path: String },
    Timers,
    Clock,
    Fields,
    Bodies,
    Recurse,
    Abort,
    Wait,
    Flood,
    Sends,
    Sleep,
    PollNothing,
    Huge,
    Spawn,
    Thread,
    Stdin,
    Environment,
}

#[consumer]
fn escape(message: Message) -> Outcome {
    let done = match message.json()? {
        Command::Read { path } => fs::read(path).and_then(|read| report(String::from_utf8_lossy(&read).into_owned())),
        Command::List { path } => list(&path).and_then(|names| report(names.join("\n"))),
        Command::Stat { path } => fs::metadata(path).and_then(|found| report(found.len().to_string())),
        Command::Write { path } => fs::write(path, "mine"),
        Command::RemoveDir { path } => fs::remove_dir(path),
        Command::ReadBytes { path } => fs::read(name_of(&path)).map(drop),
        Command::WriteBytes { path } => fs::write(name_of(&path), "mine"),
        Command::Remove { path } => fs::remove_file(path),
        Command::MakeDir { path } => fs::create_dir(path),
        Command::Truncate { path } => fs::File::options().write(true).open(path).and_then(|file| file.set_len(0)),
        Command::SetSize { path } => below(&path).and_then(|(_, file, _)| file.set_size(0).map_err(Error::other)),
        Command::SetTimes { path } => below(&path)
            .and_then(|(_, file, _)| file.set_times(NewTimestamp::NoChange, NewTimestamp::Now).map_err(Error::other)),
        Command::SetTimesAt { path } => below(&path).and_then(|(folder, _, name)| {
            let times = (NewTimestamp::NoChange, NewTimestamp::Now);
            folder.set_times_at(PathFlags::empty(), name, times.0, times.1).map_err(Error::other)
        }),
        #[allow(deprecated, reason = "the one of the target is not stable")]
        Command::Symlink { from, to } => fs::soft_link(from, to),
        Command::Link { from, to } => fs::hard_link(from, to),
        Command::Rename { from, to } => fs::rename(from, to),
        Command::OpenMany { path } => {
            let mut held = Vec::new();
            loop {
                held.push(fs::File::open(&path).map_err(Failure::dead_letter)?);
            }
        }
        Command::Timers => {
            let mut held = Vec::new();
            loop {
                held.push(monotonic_clock::subscribe_duration(u64::MAX));
            }
        }
        Command::Clock => loop {
            std::hint::black_box(monotonic_clock::now());
        },
        Command::Fields => {
            let fields = Fields::new();
            let value = vec![b'x'; 1000];
            loop {
                fields.append("x", &value).map_err(|error| Failure::dead_letter(format!("{error:?}")))?;
            }
        }
        Command::Bodies => {
            let mut held = Vec::new();
            loop {
                let request = OutgoingRequest::new(Fields::new());
                let body = request.body().map_err(|()| Failure::dead_letter("no body"))?;
                let stream = body.write().map_err(|()| Failure::dead_letter("no stream"))?;
                let room = stream.check_write().map_err(|error| Failure::dead_letter(format!("{error:?}")))?;
                stream.write(&vec![0; room as usize]).map_err(|error| Failure::dead_letter(format!("{error:?}")))?;
                held.push((stream, body, request));
            }
        }
        Command::Recurse => {
            recurse(1);
            Ok(())
        }
        Command::Abort => std::process::abort(),
        Command::Wait => {
            monotonic_clock::subscribe_duration(u64::MAX).block();
            Ok(())
        }
        Command::Flood => loop {
            println!("{}", "x".repeat(10_000));
            std::io::stderr().write_all(&[0xff; 10_000]).map_err(Failure::dead_letter)?;
        },
        Command::Sends => loop {
            queues::message(vec![0; 1000]).send("report")?;
        },
        Command::Sleep => {
            std::thread::sleep(std::time::Duration::MAX);
            Ok(())
        }
        Command::PollNothing => {
            wasip2::io::poll::poll(&[]);
            Ok(())
        }
        Command::Huge => {
            std::hint::black_box(vec![1_u8; 1 << 30]);
            Ok(())
        }
        Command::Spawn => std::process::Command::new("/bin/sh").arg("-c").arg("true").spawn().map(drop),
        Command::Thread => std::thread::Builder::new().spawn(|| ()).map(drop),
        Command::Stdin => std::io::stdin().read_exact(&mut [0]),
        Command::Environment => {
            let environment: BTreeMap<String, String> = std::env::vars().collect();
            report(serde_json::to_string(&environment)?)
        }
    };
    done.map_err(Failure::dead_letter)
}

#[allow(unsafe_code, reason = "on WASI every bytes are an OsStr, but the safe way to say so is not stable")]
fn name_of(bytes: &[u8]) -> &OsStr {
    // SAFETY: nothing of the standard library looks into it; that the host does is what this is for.
    unsafe { OsStr::from_encoded_bytes_unchecked(bytes) }
}

/// A granted folder, a file in it that is open for reading, and its name.
fn below(path: &str) -> std::io::Result<(Descriptor, Descriptor, &str)> {
    let none = || Error::other("no such folder");
    let (folder, name) = path.rsplit_once('/').ok_or_else(none)?;
    let (folder, _) = preopens::get_directories().into_iter().find(|(_, guest)| guest == folder).ok_or_else(none)?;
    let file = folder.open_at(PathFlags::empty(), name, OpenFlags::empty(), DescriptorFlags::READ);
    Ok((folder, file.map_err(Error::other)?, name))
}

fn list(path: &str) -> std::io::Result<Vec<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn report(read: String) -> std::io::Result<()> {
    queues::send("report", &json!({ "read": read })).map_err(std::io::Error::other)
}

#[allow(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(depth) + recurse(depth + 1) + 1
}
