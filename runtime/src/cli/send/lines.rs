//! `linecook send --lines`: one message for each line, in batches, so that a file of any size takes little memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Args, guess_content_type, unreadable};
use crate::cli::client::Client;
use crate::cli::output::count;
use crate::cli::{CommandResult, Failed, terminal};
use crate::http::limits::BODY_BYTES_MAX;

/// Messages in one batch. Each batch is one step: all of its messages are sent, or none.
const BATCH_MESSAGES: usize = 1000;
/// A batch that has this many bytes is sent, well below what the API takes.
const BATCH_BYTES: usize = 1 << 20;

/// Sends every line, also an empty one; line ends don't count.
pub(super) fn send(path: &Path, args: &Args, client: &Client) -> CommandResult {
    let (input, bytes): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        (Box::new(file), bytes)
    };
    let live = bytes.is_none();
    let mut sender = Sender { args, client, batch: Vec::new(), waiting: 0, sent: 0, ids: Vec::new() };
    let progress = bar(bytes);
    let result = sender.send_all(BufReader::with_capacity(BATCH_BYTES, input), live, path, &progress);
    progress.finish_and_clear();
    let told = if args.json {
        terminal::print(json!({ "sent": sender.sent, "ids": sender.ids }))
    } else if result.is_ok() {
        terminal::print(format!("sent {} to {}", count(sender.sent, "message"), args.queue))
    } else {
        Ok(())
    };
    result.and(told)
}

struct Sender<'a> {
    args: &'a Args,
    client: &'a Client,
    /// NDJSON that is not sent yet.
    batch: Vec<u8>,
    /// Messages in it.
    waiting: usize,
    /// Messages that are durable. As every line is a message, also the last line that is.
    sent: u64,
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
        let mut line = Vec::new();
        loop {
            line.clear();
            // Room for the line end, `\r\n` at most.
            let read = (&mut input).take(BODY_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line);
            let read =
                read.map_err(|error| self.stopped().because(error).hint(format!("{} can't be read", path.display())))?;
            if read == 0 {
                return self.flush();
            }
            let body = line.strip_suffix(b"\n").map_or(&line[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
            if body.len() > BODY_BYTES_MAX {
                // What is before the line is sent, so that going on after it loses nothing.
                self.flush()?;
                let number = self.sent + 1;
                return Err(self
                    .stopped()
                    .because(format!("line {number} is larger than a message may be ({BODY_BYTES_MAX} bytes)")));
            }
            self.add(body);
            let paused = live && input.buffer().is_empty();
            if paused || self.waiting == BATCH_MESSAGES || self.batch.len() >= BATCH_BYTES {
                self.flush()?;
                progress.set_message(count(self.sent, "message"));
            }
            progress.inc(read as u64);
        }
    }

    fn add(&mut self, body: &[u8]) {
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
        self.batch.extend_from_slice(message.to_string().as_bytes());
        self.batch.push(b'\n');
        self.waiting += 1;
    }

    fn flush(&mut self) -> CommandResult {
        if self.waiting == 0 {
            return Ok(());
        }
        let headers = [("content-type".to_owned(), "application/x-ndjson".to_owned())];
        let path = format!("/queues/{}/messages/batch", self.args.queue);
        let batch = std::mem::take(&mut self.batch);
        let mut answer =
            self.client.post(&path, &headers, batch).map_err(|failed| failed.context(self.progress_made()))?;
        self.sent += self.waiting as u64;
        self.waiting = 0;
        if let (true, Value::Array(ids)) = (self.args.json, answer["ids"].take()) {
            self.ids.extend(ids);
        }
        Ok(())
    }

    fn stopped(&self) -> Failed {
        Failed::new(self.progress_made())
    }

    fn progress_made(&self) -> String {
        match self.sent {
            0 => "no message was sent".to_owned(),
            sent => format!("stopped after line {sent}: {} sent and durable", count(sent, "message")),
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
