//! `linecook send`: a message from the command line, a file or stdin, or one for each line.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::client::Client;
use super::{CommandResult, Context, Failed, terminal};
use crate::config::units::parse_duration;
use crate::delivery::QueueName;
use crate::http::headers;
use crate::http::limits::BODY_BYTES_MAX;

mod lines;

/// The arguments of `linecook send`.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["text", "file", "lines"]))]
pub struct Args {
    /// The queue to send to
    queue: QueueName,
    /// The body; - reads it from stdin
    text: Option<String>,
    /// Send the content of this file as one message
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send each line of this file as a message; - reads stdin
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
    /// Messages with the same key are handled one at a time, in order
    #[arg(long)]
    key: Option<String>,
    /// A message that is sent again with the same key within the queue's dedup_window is not taken again
    #[arg(long, value_name = "KEY", conflicts_with = "lines")]
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

/// Sends, and prints the id, or with `--lines` how many were sent.
pub fn run(args: &Args, context: &Context) -> CommandResult {
    let client = Client::new(context)?;
    if let Some(path) = &args.lines {
        return lines::send(path, args, &client);
    }
    let body = match (&args.file, args.text.as_deref()) {
        (Some(path), _) => read(File::open(path).map_err(|error| unreadable(path, error))?, path)?,
        (None, Some("-")) => read(io::stdin().lock(), Path::new("stdin"))?,
        (None, text) => text.unwrap_or_default().as_bytes().to_vec(),
    };
    // What is in a file is its owner's to say, except that text is text.
    let content_type = args.content_type.clone().or_else(|| guess_content_type(&body).map(str::to_owned));
    let mut fields: Vec<(String, String)> = Vec::new();
    fields.extend(content_type.map(|value| ("content-type".to_owned(), value)));
    fields.extend(args.key.clone().map(|value| (headers::KEY.to_owned(), value)));
    fields.extend(args.idempotency_key.clone().map(|value| (headers::IDEMPOTENCY_KEY.to_owned(), value)));
    fields.extend(args.delay.clone().map(|value| (headers::DELAY.to_owned(), value)));
    let attribute = |(name, value): &(String, String)| (format!("{}{name}", headers::ATTRIBUTE_PREFIX), value.clone());
    fields.extend(args.attributes.iter().map(attribute));
    let answer = client.post(&format!("/queues/{}/messages", args.queue), &fields, body)?;
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
