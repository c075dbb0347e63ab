//! A guest's stdout and stderr, line by line to the log (target `guest`), and the end of stderr for dead letters.
//!
//! Writing never waits and never fails: what is beyond the limits is dropped, and one line says so.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::limits::{LOG_BYTES_MAX, LOG_LINE_BYTES_MAX, STDERR_TAIL_BYTES, bytes_text};
use super::{InstanceSettings, ModuleHash};
use crate::delivery::MessageId;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whose output it is: the fields of each line.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) settings: Arc<InstanceSettings>,
    /// The message and its attempt; of a batch, its first message. None while a component is tried out.
    pub(super) delivery: Option<(MessageId, u32)>,
    /// How many messages there are, if it is a batch.
    pub(super) batch: Option<usize>,
    /// The generation, if the instance is one that is kept.
    pub(super) generation: Option<u64>,
    pub(super) module: ModuleHash,
}

/// The output of one delivery. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Output(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    origin: Origin,
    /// The unfinished line of each stream.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The last bytes of stderr, and up to as many before them.
    tail: Vec<u8>,
    bytes: usize,
    dropping: bool,
}

impl Output {
    pub(super) fn new(origin: Origin) -> Output {
        let [stdout, stderr, tail] = [const { Vec::new() }; 3];
        Output(Arc::new(Mutex::new(Lines { origin, stdout, stderr, tail, bytes: 0, dropping: false })))
    }

    /// Starts anew: what is written from now on belongs to another delivery.
    pub(super) fn begin(&self, origin: Origin) {
        let mut lines = self.lock();
        lines.origin = origin;
        lines.tail.clear();
        lines.bytes = 0;
        lines.dropping = false;
    }

    /// Whether there was more than may be logged.
    pub(super) fn limit_hit(&self) -> bool {
        self.lock().dropping
    }

    /// What the guest writes one of the two to.
    pub(super) fn stream(&self, stream: Stream) -> Writer {
        Writer { output: self.clone(), stream }
    }

    /// Logs lines that did not end, and gives the end of stderr.
    pub(super) fn finish(&self) -> String {
        let mut lines = self.lock();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(lines.pending(stream));
            if !rest.is_empty() {
                lines.log(stream, &rest);
            }
        }
        lines.stderr_tail()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A mutex, since the streams have to be `Send`; all of them are used on the worker's thread.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stderr {
            self.keep_tail(bytes);
        }
        if self.dropping {
            return;
        }
        let room = LOG_BYTES_MAX - self.bytes;
        let fits = &bytes[..bytes.len().min(room)];
        self.bytes += fits.len();
        let mut rest = fits;
        while !rest.is_empty() {
            let line_room = LOG_LINE_BYTES_MAX - self.pending(stream).len();
            let end = rest.iter().take(line_room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(rest.len().min(line_room));
            self.pending(stream).extend_from_slice(&rest[..taken]);
            rest = &rest[taken + usize::from(end.is_some())..];
            if end.is_some() || self.pending(stream).len() == LOG_LINE_BYTES_MAX {
                let line = std::mem::take(self.pending(stream));
                self.log(stream, &line);
            }
        }
        if fits.len() < bytes.len() {
            self.dropping = true;
            let max = bytes_text(LOG_BYTES_MAX as u64);
            self.log(stream, format!("(more than {max} of output: the rest of this delivery's is dropped)").as_bytes());
        }
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(STDERR_TAIL_BYTES)..]);
        if self.tail.len() > 2 * STDERR_TAIL_BYTES {
            self.tail.drain(..self.tail.len() - STDERR_TAIL_BYTES);
        }
    }

    fn stderr_tail(&self) -> String {
        let tail = &self.tail[self.tail.len().saturating_sub(STDERR_TAIL_BYTES)..];
        // The cut may have gone through a character: its other bytes are left out.
        let inside = tail.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        let cut = if self.tail.len() > tail.len() { inside } else { 0 };
        String::from_utf8_lossy(&tail[cut..]).into_owned()
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        let line: Cow<'_, str> = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        let Origin { settings, delivery, batch, generation, module } = &self.origin;
        let message = delivery.map(|(id, _)| tracing::field::display(id));
        let attempt = delivery.map(|(_, attempt)| attempt);
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        tracing::info!(target: "guest", consumer = settings.consumer, message_id = message, attempt, batch, generation, %module, stream, "{line}");
    }
}

/// One of the two streams, as the guest gets it.
pub(super) struct Writer {
    output: Output,
    stream: Stream,
}

impl Writer {
    fn copy(&self) -> Writer {
        Writer { output: self.output.clone(), stream: self.stream }
    }
}

impl IsTerminal for Writer {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Writer {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.copy())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.copy())
    }
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.lock().write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.lock().write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use linecook_store::QueueName;

    use super::*;
    use crate::config::Grants;

    fn output() -> Output {
        let settings = InstanceSettings {
            consumer: "c".into(),
            queue: QueueName::new("q").unwrap(),
            memory_bytes_max: 0,
            timeout: std::time::Duration::ZERO,
            max_batch_size: 1,
            grants: Grants::default(),
        };
        Output::new(Origin {
            settings: settings.into(),
            delivery: None,
            batch: None,
            generation: None,
            module: ModuleHash([0; 32]),
        })
    }

    #[test]
    fn the_tail_is_the_end_of_stderr_and_begins_with_a_whole_character() {
        let output = output();
        output.lock().write(Stream::Stdout, b"not this");
        output.lock().write(Stream::Stderr, "ä".repeat(STDERR_TAIL_BYTES).as_bytes());
        output.lock().write(Stream::Stderr, b"end");
        let tail = output.finish();
        assert!(tail.len() <= STDERR_TAIL_BYTES && tail.len() > STDERR_TAIL_BYTES - 4);
        assert!(tail.starts_with('ä') && tail.ends_with("äend"));
    }

    #[test]
    fn no_more_is_kept_than_the_limits_say() {
        let output = output();
        for _ in 0..1000 {
            output.lock().write(Stream::Stderr, &[b'x'; 3000]);
        }
        let lines = output.lock();
        assert_eq!(lines.bytes, LOG_BYTES_MAX);
        assert!(lines.dropping);
        assert!(lines.tail.len() <= 2 * STDERR_TAIL_BYTES);
        assert!(lines.stderr.len() < LOG_LINE_BYTES_MAX);
    }
}
