//! Linecook's own API.

use std::io::{Read, Write};

use crate::Error;
use crate::client::Conversation;
use crate::server::Server;
use crate::settings::{QUEUE, body};

/// A message in a request, or many as NDJSON.
pub(crate) fn conversation(server: &Server, messages: usize) -> Result<Conversation, Error> {
    empty(server)?;
    let (path, content_type, body) = if messages == 1 {
        ("messages", "text/plain", body())
    } else {
        ("messages/batch", "application/x-ndjson", format!("{{\"body\":\"{}\"}}\n", body()).repeat(messages))
    };
    let head = format!(
        "POST /queues/{QUEUE}/{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        body.len()
    );
    Ok(Conversation { connect: Server::connect, request: (head + &body).into_bytes(), answers: 1, answer })
}

/// Takes everything out of the queue.
pub(crate) fn empty(server: &Server) -> Result<(), Error> {
    let mut stream = server.connect()?;
    write!(
        stream,
        "DELETE /queues/{QUEUE}/messages HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        server.address
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(text.into()) }
}

fn answer(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(head_bytes) = bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_bytes])?;
    if !head.starts_with("HTTP/1.1 202 ") {
        return Err(String::from_utf8_lossy(bytes).into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).ok_or("no content-length")?;
    let whole = head_bytes + length.parse::<usize>()?;
    Ok((bytes.len() >= whole).then_some(whole))
}
