//! `linecook send --lines` and `--ndjson`: one message for each line, in batches, so that a file of any size takes little
//! memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::content::{self, Content};
use super::pace::Pace;
use super::{Args, Destination, guess_content_type, unreadable};
use crate::cli::client::Client;
use crate::cli::output::count;
use crate::cli::{CommandResult, Failed, terminal};
use crate::http::limits::BODY_BYTES_MAX;

/// Messages in one batch. Each batch is one step: all of its messages are sent, or none.
const BATCH_MESSAGES: usize = 1000;
/// A batch that has this many bytes is sent, well below what the API takes.
const BATCH_BYTES: usize = 1 << 20;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The body of a message.
    Text,
    /// A message, as the HTTP API takes it in a batch.
    Messages,
}

/// Sends every line, as text also an empty one; line ends don't count.
pub(super) fn send(
    path: &Path,
    format: Format,
    args: &Args,
    destination: &Destination,
    client: &Client,
) -> CommandResult {
    let (input, bytes): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        (Box::new(file), bytes)
    };
    let live = bytes.is_none();
    let content = match bytes {
        Some(bytes) if !args.again => Some(content_of(path, bytes)?),
        _ => None,
    };
    let pace = args.rate.map(Pace::new);
    let mut sender = Sender {
        args,
        format,
        destination,
        client,
        content,
        batch_max: pace.as_ref().map_or(BATCH_MESSAGES, |pace| pace.batch_max().min(BATCH_MESSAGES)),
        pace,
        batch: Vec::new(),
        waiting: 0,
        line: 0,
        sent: 0,
        duplicates: 0,
        ids: Vec::new(),
    };
    let progress = bar(bytes);
    let result = sender.send_all(BufReader::with_capacity(BATCH_BYTES, input), live, path, &progress);
    progress.finish_and_clear();
    let told = if args.json {
        terminal::print(json!({ "sent": sender.sent, "duplicates": sender.duplicates, "ids": sender.ids }))
    } else if result.is_ok() {
        let already = match sender.duplicates {
            0 => String::new(),
            duplicates => format!(", of which {duplicates} had been sent before (--again sends them anew)"),
        };
        terminal::print(format!("sent {} to {destination}{already}", count(sender.sent, "message")))
    } else {
        Ok(())
    };
    result.and(told)
}

/// Reads the file once to know it again.
fn content_of(path: &Path, bytes: u64) -> Result<Content, Failed> {
    let progress = bar(Some(bytes)).with_message("reading");
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let content = content::of(file, |read| progress.inc(read)).map_err(|error| unreadable(path, error));
    progress.finish_and_clear();
    content
}

struct Sender<'a> {
    args: &'a Args,
    format: Format,
    destination: &'a Destination,
    client: &'a Client,
    /// What the idempotency keys are made of; none if there are to be none.
    content: Option<Content>,
    /// Messages in a batch.
    batch_max: usize,
    pace: Option<Pace>,
    /// NDJSON that is not sent yet.
    batch: Vec<u8>,
    /// Messages in it.
    waiting: usize,
    /// The number of the line that is being read.
    line: u64,
    /// Messages that are durable.
    sent: u64,
    /// Those of them that were there before.
    duplicates: u64,
    /// Their ids, if somebody wants to see them.
    ids: Vec<Value>,
}

impl Sender<'_> {
    /// `live` input (a pipe) may pause: what has come is sent then, and does not wait for a full batch.
    fn send_all(
        &mut self,
        mut input: BufReader<Box<dyn Read>>,
        live: bool,
        path: &Path,
        progress: &ProgressBar,
    ) -> CommandResult {
        // Base64 and the names of fields make a line of a message longer than its body.
        let bytes_max = match self.format {
            Format::Text => BODY_BYTES_MAX,
            Format::Messages => 2 * BODY_BYTES_MAX,
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            // Room for the line end, `\r\n` at most.
            let read = (&mut input).take(bytes_max as u64 + 2).read_until(b'\n', &mut line);
            let read =
                read.map_err(|error| self.stopped().because(error).hint(format!("{} can't be read", path.display())))?;
            if read == 0 {
                return self.flush();
            }
            self.line += 1;
            let body = line.strip_suffix(b"\n").map_or(&line[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
            let added = if body.len() > bytes_max {
                Err(format!("line {} is larger than a message may be ({BODY_BYTES_MAX} bytes)", self.line))
            } else {
                self.add(body)
            };
            if let Err(why) = added {
                // What is before the line is sent, so that going on after it loses nothing.
                self.flush()?;
                return Err(self.stopped().because(why));
            }
            let paused = live && input.buffer().is_empty();
            if paused || self.waiting >= self.batch_max || self.batch.len() >= BATCH_BYTES {
                self.flush()?;
                progress.set_message(count(self.sent, "message"));
            }
            progress.inc(read as u64);
        }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let key = self.content.map(|content| content.key(Some(self.line)));
        match self.format {
            Format::Text => {
                let mut message = self.message(line);
                if let Some(key) = key {
                    message["idempotency_key"] = key.into();
                }
                self.batch.extend_from_slice(message.to_string().as_bytes());
            }
            Format::Messages if line.trim_ascii().is_empty() => return Ok(()),
            Format::Messages => {
                let wrong = |error| format!("line {} is no message: {error}", self.line);
                let mut message: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).map_err(wrong)?;
                let key = key.map(|key| serde_json::value::to_raw_value(&key)).transpose().map_err(wrong)?;
                if let Some(key) = &key {
                    // One that the sender gave is better.
                    message.entry("idempotency_key").or_insert(key);
                }
                let text = serde_json::to_vec(&message).map_err(wrong)?;
                self.batch.extend_from_slice(&text);
            }
        }
        self.batch.push(b'\n');
        self.waiting += 1;
        Ok(())
    }

    fn message(&self, body: &[u8]) -> Value {
        let mut message = match std::str::from_utf8(body) {
            Ok(text) => json!({ "body": text }),
            Err(_) => json!({ "body_base64": BASE64_STANDARD.encode(body) }),
        };
        if let Some(content_type) = self.args.content_type.as_deref().or_else(|| guess_content_type(body)) {
            message["content_type"] = content_type.into();
        }
        if let Some(key) = &self.args.key {
            message["key"] = key.as_str().into();
        }
        if let Some(delay) = &self.args.delay {
            message["delay"] = delay.as_str().into();
        }
        for (name, value) in &self.args.attributes {
            message["attributes"][name] = value.as_str().into();
        }
        message
    }

    fn flush(&mut self) -> CommandResult {
        if self.waiting == 0 {
            return Ok(());
        }
        let headers = [("content-type".to_owned(), "application/x-ndjson".to_owned())];
        let path = format!("{}/batch", self.destination.path());
        let batch = std::mem::take(&mut self.batch);
        let mut answer =
            self.client.post(&path, &headers, batch).map_err(|failed| failed.context(self.progress_made()))?;
        self.sent += self.waiting as u64;
        self.waiting = 0;
        self.duplicates += answer["duplicates"].as_u64().unwrap_or(0);
        if let (true, Value::Array(ids)) = (self.args.json, answer["ids"].take()) {
            self.ids.extend(ids);
        }
        if let Some(pace) = &self.pace {
            pace.wait(self.sent);
        }
        Ok(())
    }

    fn stopped(&self) -> Failed {
        Failed::new(self.progress_made())
    }

    fn progress_made(&self) -> String {
        match (self.sent, self.format) {
            (0, _) => "no message was sent".to_owned(),
            // Every line is a message, so that it is also the last line that was sent.
            (sent, Format::Text) => format!("stopped after line {sent}: {} sent and durable", count(sent, "message")),
            (sent, Format::Messages) => format!("stopped: {} sent and durable", count(sent, "message")),
        }
    }
}

/// Bytes of the file, or a count where its size is not known. Hidden if stderr is no terminal.
fn bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{wide_bar} {percent:>3}% {msg} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
