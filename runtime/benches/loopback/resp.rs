//! Redis' protocol, as far as `XADD` needs it (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::io::{Read, Write};

use crate::Error;
use crate::client::Conversation;
use crate::server::Server;
use crate::settings::{QUEUE, body};

/// So many commands at once.
pub(crate) fn conversation(server: &Server, pipeline: usize) -> Result<Conversation, Error> {
    // Not `FLUSHALL`, which would begin a new append-only file.
    call(server, &command(&["DEL", QUEUE]))?;
    let request = command(&["XADD", QUEUE, "*", "body", &body()]).repeat(pipeline);
    Ok(Conversation { connect: Server::connect, request, answers: pipeline, answer })
}

fn call(server: &Server, command: &[u8]) -> Result<(), Error> {
    let mut stream = server.connect()?;
    stream.write_all(command)?;
    let mut answer = [0; 256];
    let bytes = stream.read(&mut answer)?;
    if answer.starts_with(b":") { Ok(()) } else { Err(String::from_utf8_lossy(&answer[..bytes]).into()) }
}

fn command(arguments: &[&str]) -> Vec<u8> {
    let arguments = arguments.iter().map(|argument| format!("${}\r\n{argument}\r\n", argument.len()));
    let arguments: Vec<String> = arguments.collect();
    format!("*{}\r\n{}", arguments.len(), arguments.concat()).into_bytes()
}

/// The id of an entry: a length, and so many bytes.
fn answer(bytes: &[u8]) -> Result<Option<usize>, Error> {
    if bytes.first().is_some_and(|first| *first != b'$') {
        return Err(String::from_utf8_lossy(bytes).into());
    }
    let Some(line) = bytes.windows(2).position(|end| end == b"\r\n") else { return Ok(None) };
    let whole = line + 2 + std::str::from_utf8(&bytes[1..line])?.parse::<usize>()? + 2;
    Ok((bytes.len() >= whole).then_some(whole))
}
