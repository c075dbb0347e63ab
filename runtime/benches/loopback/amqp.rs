//! AMQP 0-9-1, as far as publishing with confirms needs it (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>; confirms
//! are RabbitMQ's extension). A library would be ten times what the whole benchmark is.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::Error;
use crate::client::Conversation;
use crate::server::Server;
use crate::settings::{QUEUE, body};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;
/// Type, channel and size before the payload, and one byte after it.
const FRAME_OVERHEAD: usize = 8;
const CHANNEL: u16 = 1;

/// The class and the number of a method.
type Method = (u16, u16);

const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const QUEUE_DECLARE: Method = (50, 10);
const QUEUE_DECLARE_OK: Method = (50, 11);
const QUEUE_PURGE: Method = (50, 30);
const QUEUE_PURGE_OK: Method = (50, 31);
const PUBLISH: Method = (60, 40);
const ACK: Method = (60, 80);
const CONFIRM_SELECT: Method = (85, 10);
const CONFIRM_SELECT_OK: Method = (85, 11);

/// A persistent message to the quorum queue, which is declared and emptied first.
pub(crate) fn conversation(server: &Server) -> Result<Conversation, Error> {
    let mut stream = connect(server)?;
    const DURABLE: u8 = 2;
    let quorum = Payload::default().short("x-queue-type").bytes(b"S").long(b"quorum").0;
    let declare = Payload::method(QUEUE_DECLARE).u16(0).short(QUEUE).u8(DURABLE).long(&quorum);
    call(&mut stream, CHANNEL, declare, QUEUE_DECLARE_OK)?;
    call(&mut stream, CHANNEL, Payload::method(QUEUE_PURGE).u16(0).short(QUEUE).u8(0), QUEUE_PURGE_OK)?;
    Ok(Conversation { connect, request: publish(), answers: 1, answer })
}

fn publish() -> Vec<u8> {
    const HAS_DELIVERY_MODE: u16 = 0x1000;
    const PERSISTENT: u8 = 2;
    let body = body();
    let method = Payload::method(PUBLISH).u16(0).short("").short(QUEUE).u8(0);
    let header = Payload::default().u16(PUBLISH.0).u16(0).u64(body.len() as u64).u16(HAS_DELIVERY_MODE).u8(PERSISTENT);
    [frame(METHOD, CHANNEL, &method.0), frame(HEADER, CHANNEL, &header.0), frame(BODY, CHANNEL, body.as_bytes())]
        .concat()
}

/// A connection with one channel on which what is published is confirmed.
fn connect(server: &Server) -> Result<TcpStream, Error> {
    let mut stream = server.connect()?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    expect(&mut stream, START)?;
    let start_ok = Payload::method(START_OK).long(b"").short("PLAIN").long(b"\0guest\0guest").short("en_US");
    let tune = call(&mut stream, 0, start_ok, TUNE)?;
    // The server's own limits, and no heartbeats.
    let limits = tune.get(4..10).ok_or("a short tune")?;
    stream.write_all(&frame(METHOD, 0, &Payload::method(TUNE_OK).bytes(limits).u16(0).0))?;
    call(&mut stream, 0, Payload::method(OPEN).short("/").short("").u8(0), OPEN_OK)?;
    call(&mut stream, CHANNEL, Payload::method(CHANNEL_OPEN).short(""), CHANNEL_OPEN_OK)?;
    call(&mut stream, CHANNEL, Payload::method(CONFIRM_SELECT).u8(0), CONFIRM_SELECT_OK)?;
    Ok(stream)
}

/// Calls a method and waits for its answer.
fn call(stream: &mut TcpStream, channel: u16, method: Payload, answer: Method) -> Result<Vec<u8>, Error> {
    stream.write_all(&frame(METHOD, channel, &method.0))?;
    expect(stream, answer)
}

fn expect(stream: &mut TcpStream, method: Method) -> Result<Vec<u8>, Error> {
    let mut head = [0; FRAME_OVERHEAD - 1];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; payload_bytes(&head) + 1];
    stream.read_exact(&mut payload)?;
    if is_method(&payload, method) { Ok(payload) } else { Err(unexpected(&payload)) }
}

/// A confirmation.
fn answer(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(head) = bytes.first_chunk::<{ FRAME_OVERHEAD - 1 }>() else { return Ok(None) };
    let whole = payload_bytes(head) + FRAME_OVERHEAD;
    if bytes.len() < whole {
        return Ok(None);
    }
    if is_method(&bytes[head.len()..whole], ACK) { Ok(Some(whole)) } else { Err(unexpected(&bytes[..whole])) }
}

fn payload_bytes(head: &[u8; FRAME_OVERHEAD - 1]) -> usize {
    u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize
}

fn is_method(payload: &[u8], method: Method) -> bool {
    payload.starts_with(&Payload::method(method).0)
}

fn unexpected(bytes: &[u8]) -> Error {
    format!("RabbitMQ says something unexpected: {:?}", String::from_utf8_lossy(bytes)).into()
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    Payload::default().u8(kind).u16(channel).long(payload).u8(FRAME_END).0
}

/// The values of a method, one after the other.
#[derive(Default)]
struct Payload(Vec<u8>);

impl Payload {
    fn method((class, number): Method) -> Payload {
        Payload::default().u16(class).u16(number)
    }

    fn bytes(mut self, bytes: &[u8]) -> Payload {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(self, value: u8) -> Payload {
        self.bytes(&[value])
    }

    fn u16(self, value: u16) -> Payload {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Payload {
        self.bytes(&value.to_be_bytes())
    }

    /// A text of less than 256 bytes.
    fn short(self, text: &str) -> Payload {
        self.u8(text.len() as u8).bytes(text.as_bytes())
    }

    /// Bytes, or a table, after their length.
    fn long(self, bytes: &[u8]) -> Payload {
        self.bytes(&(bytes.len() as u32).to_be_bytes()).bytes(bytes)
    }
}
