//! The loop that drives every server.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Error;
use crate::server::Server;
use crate::settings::{Settings, Work};

/// Looks for one whole answer at the start of these bytes: how long it is, or an error if it is a refusal.
pub(crate) type Answer = fn(&[u8]) -> Result<Option<usize>, Error>;

/// What is said on a connection, over and over.
pub(crate) struct Conversation {
    /// Opens one.
    pub(crate) connect: fn(&Server) -> Result<std::net::TcpStream, Error>,
    pub(crate) request: Vec<u8>,
    /// To one request.
    pub(crate) answers: usize,
    pub(crate) answer: Answer,
}

/// What came of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Messages a second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) cpu_seconds_per_million: f64,
}

struct Connection {
    stream: TcpStream,
    /// Of the request that is being sent.
    sent: usize,
    received: Vec<u8>,
    answers: usize,
    asked_at: Instant,
}

/// Sends for as long as the settings say. A refusal is an error: there is nothing to compare then.
pub(crate) fn measure(
    server: &Server,
    conversation: &Conversation,
    work: &Work,
    settings: &Settings,
    cpu_seconds: impl Fn() -> Result<f64, Error>,
) -> Result<Measured, Error> {
    let mut poll = Poll::new()?;
    let mut connections = Vec::with_capacity(work.connections);
    for index in 0..work.connections {
        let stream = (conversation.connect)(server)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        connections.push(Connection { stream, sent: 0, received: Vec::new(), answers: 0, asked_at: Instant::now() });
    }
    for connection in &mut connections {
        connection.ask(conversation)?;
    }
    let mut events = Events::with_capacity(work.connections);
    let mut buffer = vec![0; 64 << 10];
    let mut latencies_us: Vec<u32> = Vec::new();
    let start = Instant::now() + settings.warm_up;
    let end = start + settings.round;
    let mut cpu_before = None;
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        let now = Instant::now();
        if cpu_before.is_none() && now >= start {
            cpu_before = Some((now, cpu_seconds()?));
            latencies_us.clear();
        }
        if now >= end {
            break;
        }
        for event in &events {
            let connection = &mut connections[event.token().0];
            if connection.sent < conversation.request.len() {
                connection.write(conversation)?;
            }
            if event.is_readable() && connection.read(conversation, &mut buffer)? {
                latencies_us.push(connection.asked_at.elapsed().as_micros() as u32);
                connection.ask(conversation)?;
            }
        }
    }
    let (started, cpu_before) = cpu_before.ok_or("the server did not answer in time")?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    let messages = (latencies_us.len() * work.messages) as f64;
    if latencies_us.is_empty() {
        return Err("nothing was answered in time".into());
    }
    latencies_us.sort_unstable();
    let latency = |share: f64| latencies_us[((latencies_us.len() - 1) as f64 * share) as usize];
    Ok(Measured {
        rate: messages / seconds,
        p50: Duration::from_micros(latency(0.5).into()),
        p99: Duration::from_micros(latency(0.99).into()),
        cpu_seconds_per_million: cpu / messages * 1e6,
    })
}

impl Connection {
    fn ask(&mut self, conversation: &Conversation) -> Result<(), Error> {
        (self.sent, self.answers, self.asked_at) = (0, 0, Instant::now());
        self.write(conversation)
    }

    fn write(&mut self, conversation: &Conversation) -> Result<(), Error> {
        while self.sent < conversation.request.len() {
            match self.stream.write(&conversation.request[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Answers whether all answers to the request are there.
    fn read(&mut self, conversation: &Conversation, buffer: &mut [u8]) -> Result<bool, Error> {
        loop {
            let bytes = match self.stream.read(buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            self.received.extend_from_slice(&buffer[..bytes]);
            // What comes after a short read is an event of its own.
            if bytes < buffer.len() {
                break;
            }
        }
        let mut taken = 0;
        while let Some(bytes) = (conversation.answer)(&self.received[taken..])? {
            taken += bytes;
            self.answers += 1;
        }
        self.received.drain(..taken);
        Ok(self.answers == conversation.answers)
    }
}
