//! `linecook send`: a message from the command line, a file or stdin, or one for each line, to a queue or to a subject.
//!
//! What is sent from a file carries idempotency keys that are made of the file's content and the line's number. So an
//! interrupted send is repeated as it was, and adds nothing twice, for as long as the queue's `dedup_window` remembers the
//! keys (`"0s"` remembers none). `--again` sends without them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::ErrorKind;
use linecook_store::InvalidQueueName;
use serde_json::value::RawValue;

use super::client::Client;
use super::{Cli, CommandResult, Context, Failed, terminal};
use crate::config::units::parse_duration;
use crate::delivery::QueueName;
use crate::http::headers;
use crate::http::limits::BODY_BYTES_MAX;
use crate::subjects::Subject;

mod content;
mod lines;
mod pace;

/// The arguments of `linecook send`.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("input").args(["file", "lines", "ndjson"]))]
pub struct Args {
    /// The queue to send to; with --subject, the body instead
    #[arg(value_name = "QUEUE", required_unless_present = "subject")]
    first: Option<String>,
    /// The body; - reads it from stdin
    text: Option<String>,
    /// Send to every queue that subscribes to this subject, instead of to one queue
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<Subject>,
    /// Send the content of this file as one message
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send each line of this file as a message; - reads stdin
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
    /// Send the messages of this file, a line each as the HTTP API takes them ({"body":…,"key":…}); - reads stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "delay", "attributes", "content_type"])]
    ndjson: Option<PathBuf>,
    /// Send at most so many messages a second, such as 100/s
    #[arg(long, value_name = "RATE", value_parser = pace::rate)]
    rate: Option<u32>,
    /// Send the file also if it was sent before. Otherwise what is in the queue's dedup_window already is not sent twice, so
    /// that an interrupted send can be repeated
    #[arg(long, requires = "input")]
    again: bool,
    /// Messages with the same key are handled one at a time, in order
    #[arg(long)]
    key: Option<String>,
    /// A message that is sent again with the same key within the queue's dedup_window is not taken again
    #[arg(long, value_name = "KEY", conflicts_with_all = ["lines", "ndjson"])]
    idempotency_key: Option<String>,
    /// How long the message waits before it is ready, such as 30s or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    delay: Option<String>,
    /// A name, in lower case, and a value that travel with the body; may be given several times
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// The media type of the body; by default application/json for text that is JSON, and text/plain for other text
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Where messages go.
#[derive(Debug, PartialEq)]
enum Destination {
    Queue(QueueName),
    Subject(Subject),
}

/// What is sent.
#[derive(Debug, PartialEq)]
enum Input<'a> {
    Text(&'a str),
    File(&'a Path),
    Lines(&'a Path, lines::Format),
}

impl Destination {
    /// Where one message is sent to.
    fn path(&self) -> String {
        match self {
            Destination::Queue(queue) => format!("/queues/{queue}/messages"),
            Destination::Subject(subject) => format!("/subjects/{subject}/messages"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Queue(queue) => queue.fmt(f),
            Destination::Subject(subject) => subject.fmt(f),
        }
    }
}

impl Args {
    /// Where to send what. With a subject there is no queue, so that a text moves up to its place.
    fn read(&self) -> Result<(Destination, Input<'_>), String> {
        let (destination, text) = match (&self.subject, &self.first) {
            (None, Some(queue)) => {
                (Destination::Queue(queue.parse().map_err(|error: InvalidQueueName| error.to_string())?), &self.text)
            }
            (Some(_), Some(queue)) if self.text.is_some() => {
                return Err(format!("send to the subject or to {queue}, not to both"));
            }
            (Some(subject), text) => (Destination::Subject(subject.clone()), text),
            (None, None) => return Err("name a queue, or a subject with --subject".to_owned()),
        };
        let input = match (text, &self.file, &self.lines, &self.ndjson) {
            (Some(text), None, None, None) => Input::Text(text),
            (None, Some(path), None, None) => Input::File(path),
            (None, None, Some(path), None) => Input::Lines(path, lines::Format::Text),
            (None, None, None, Some(path)) => Input::Lines(path, lines::Format::Messages),
            (None, ..) => return Err("give the message: a text, --file, --lines or --ndjson".to_owned()),
            (Some(_), ..) => return Err("give a text or a file, not both".to_owned()),
        };
        Ok((destination, input))
    }
}

/// Sends, and prints the id, or for lines how many were sent.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let (destination, input) = args.read().unwrap_or_else(|wrong| {
        // Clap knows no argument whose meaning depends on another one.
        Cli::command().error(ErrorKind::MissingRequiredArgument, wrong).exit()
    });
    let client = Client::new(context)?;
    let (body, idempotency_key) = match input {
        Input::Lines(path, format) => return lines::send(path, format, args, &destination, &client),
        Input::File(path) => {
            let body = read(File::open(path).map_err(|error| unreadable(path, error))?, path)?;
            let key = (!args.again).then(|| content::of_bytes(&body).key(None));
            (body, args.idempotency_key.clone().or(key))
        }
        Input::Text("-") => (read(io::stdin().lock(), Path::new("stdin"))?, args.idempotency_key.clone()),
        Input::Text(text) => (text.as_bytes().to_vec(), args.idempotency_key.clone()),
    };
    // What is in a file is its owner's to say, except that text is text.
    let content_type = args.content_type.clone().or_else(|| guess_content_type(&body).map(str::to_owned));
    let mut fields: Vec<(String, String)> = Vec::new();
    fields.extend(content_type.map(|value| ("content-type".to_owned(), value)));
    fields.extend(args.key.clone().map(|value| (headers::KEY.to_owned(), value)));
    fields.extend(idempotency_key.map(|value| (headers::IDEMPOTENCY_KEY.to_owned(), value)));
    fields.extend(args.delay.clone().map(|value| (headers::DELAY.to_owned(), value)));
    let attribute = |(name, value): &(String, String)| (format!("{}{name}", headers::ATTRIBUTE_PREFIX), value.clone());
    fields.extend(args.attributes.iter().map(attribute));
    let answer = client.post(&destination.path(), &fields, body)?;
    if args.json {
        return terminal::print(answer);
    }
    terminal::print(answer["id"].as_str().unwrap_or_default())
}

/// The media type of a text; none for bytes that are no text.
fn guess_content_type(body: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(body).ok()?;
    // Only whether it is JSON: nothing of it is kept.
    Some(if serde_json::from_str::<&RawValue>(text).is_ok() { "application/json" } else { "text/plain" })
}

fn read(input: impl Read, path: &Path) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    input.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body).map_err(|error| unreadable(path, error))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(Failed::new(format!(
            "{} is larger than a message may be ({BODY_BYTES_MAX} bytes)",
            path.display()
        ))
        .hint("`--lines` sends each line as a message of its own"));
    }
    Ok(body)
}

fn unreadable(path: &Path, error: io::Error) -> Failed {
    Failed::new(format!("can't read {}", path.display())).because(error)
}

fn duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned()).map_err(|error| format!("{error}; {}", error.hint()))
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        // Names of headers have no case, so that the single send and the batch agree only on this one.
        Some((name, value)) if !name.is_empty() => Ok((name.to_ascii_lowercase(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_of_text_is_guessed() {
        for (body, guess) in [
            (&b"{\"a\":1}"[..], Some("application/json")),
            (b" [1]\n", Some("application/json")),
            (b"7", Some("application/json")),
            (b"hello", Some("text/plain")),
            (b"{\"a\":1} and more", Some("text/plain")),
            (b"", Some("text/plain")),
            (b"\xff\xd8", None),
        ] {
            assert_eq!(guess_content_type(body), guess, "{body:?}");
        }
    }
}
