//! A guest's stdout, stderr and log records, line by line to the log (target `guest`), and the end of stderr for dead
//! letters. None of it shows a granted secret.
//!
//! Writing never waits and never fails: what is beyond the limits is dropped, and one line says so.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::grants::{Access, Secrets};
use super::limits::{Exceeded, LOG_LINE_BYTES_MAX, STDERR_TAIL_BYTES, bytes_text};
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

/// How important a log record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Whose output it is: the fields of each line.
pub(super) struct Origin {
    pub(super) settings: Arc<InstanceSettings>,
    pub(super) access: Arc<Access>,
    pub(super) module: ModuleHash,
    pub(super) handling: Handling,
}

/// What an instance does when it writes: of one that is kept, all that changes from call to call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Handling {
    /// The message and its attempt; of a batch, its first message. None while a component is tried out.
    pub(super) delivery: Option<(MessageId, u32)>,
    /// How many messages there are, if it is a batch.
    pub(super) batch: Option<usize>,
    /// The generation, if the instance is one that is kept.
    pub(super) generation: Option<u64>,
}

/// The output of one delivery. Clones share it.
#[derive(Clone)]
pub(super) struct Output(Arc<Shared>);

struct Shared {
    // A mutex, since the streams have to be `Send`; all of them are used on the worker's thread.
    lines: Mutex<Lines>,
    /// Whether anything was written since the delivery began: most write nothing, and then there is nothing to lock for.
    touched: AtomicBool,
    /// What is written from now on belongs to this. The lines take it over with the first that is written.
    handling: AtomicHandling,
}

/// [`Handling`], to be changed with every delivery.
#[derive(Default)]
struct AtomicHandling {
    store: AtomicU64,
    sequence: AtomicU64,
    /// 0: none.
    attempt: AtomicU32,
    /// 0: it is none.
    batch: AtomicUsize,
    is_kept: AtomicBool,
    generation: AtomicU64,
}

impl AtomicHandling {
    fn set(&self, Handling { delivery, batch, generation }: Handling) {
        let (id, attempt) = delivery.unwrap_or((MessageId::new(0, 0), 0));
        self.store.store(id.store(), Ordering::Relaxed);
        self.sequence.store(id.sequence(), Ordering::Relaxed);
        self.attempt.store(attempt, Ordering::Relaxed);
        self.batch.store(batch.unwrap_or(0), Ordering::Relaxed);
        self.is_kept.store(generation.is_some(), Ordering::Relaxed);
        self.generation.store(generation.unwrap_or(0), Ordering::Relaxed);
    }

    fn get(&self) -> Handling {
        let id = MessageId::new(self.store.load(Ordering::Relaxed), self.sequence.load(Ordering::Relaxed));
        let attempt = self.attempt.load(Ordering::Relaxed);
        let generation = self.generation.load(Ordering::Relaxed);
        Handling {
            delivery: (attempt > 0).then_some((id, attempt)),
            batch: Some(self.batch.load(Ordering::Relaxed)).filter(|messages| *messages > 0),
            generation: self.is_kept.load(Ordering::Relaxed).then_some(generation),
        }
    }
}

struct Lines {
    origin: Origin,
    /// The unfinished line of each stream.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The last bytes of stderr, with room for a secret before them, and up to as many before these.
    tail: Vec<u8>,
    bytes: u64,
    dropping: bool,
}

impl Output {
    pub(super) fn new(origin: Origin) -> Output {
        let [stdout, stderr, tail] = [const { Vec::new() }; 3];
        let handling = AtomicHandling::default();
        handling.set(origin.handling);
        let lines = Lines { origin, stdout, stderr, tail, bytes: 0, dropping: false };
        Output(Arc::new(Shared { lines: Mutex::new(lines), touched: AtomicBool::new(false), handling }))
    }

    /// Starts anew: what is written from now on belongs to another delivery.
    pub(super) fn begin(&self, handling: Handling) {
        self.0.handling.set(handling);
        self.0.touched.store(false, Ordering::Relaxed);
    }

    /// What the guest writes one of the two to.
    pub(super) fn stream(&self, stream: Stream) -> Writer {
        Writer { output: self.clone(), stream }
    }

    /// Logs one record of `wasi:logging`, line by line, so that none can pass for somebody else's. Its context and its text
    /// count, and are cut where a line would be.
    pub(super) fn record(&self, severity: Severity, context: &str, text: &str) {
        self.lock().record(severity, context, text);
    }

    /// Logs lines that did not end, and gives the limit, if more was written than it allows, and the end of stderr.
    pub(super) fn finish(&self) -> (Option<Exceeded>, String) {
        if self.is_untouched() {
            return (None, String::new());
        }
        let mut lines = self.lines();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(lines.pending(stream));
            if !rest.is_empty() {
                lines.log(stream, &rest);
            }
        }
        let exceeded = lines.dropping.then(|| Exceeded::new("limits.log_bytes", bytes_text(lines.bytes_max())));
        (exceeded, lines.stderr_tail())
    }

    /// Whether nothing was written, so that [`Output::finish`] has nothing to give.
    pub(super) fn is_untouched(&self) -> bool {
        !self.0.touched.load(Ordering::Relaxed)
    }

    /// To write to.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        let mut lines = self.lines();
        if !self.0.touched.swap(true, Ordering::Relaxed) {
            lines.origin.handling = self.0.handling.get();
            lines.tail.clear();
            lines.bytes = 0;
            lines.dropping = false;
        }
        lines
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
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
        let fits = &bytes[..self.take(bytes.len())];
        // A line that is too long is cut beside a secret, of which up to so much may be behind.
        let held_max = LOG_LINE_BYTES_MAX + self.secrets().longest().saturating_sub(1);
        let mut rest = fits;
        while !rest.is_empty() {
            let line_room = held_max - self.pending(stream).len();
            let end = rest.iter().take(line_room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(rest.len().min(line_room));
            self.pending(stream).extend_from_slice(&rest[..taken]);
            rest = &rest[taken + usize::from(end.is_some())..];
            if end.is_some() || self.pending(stream).len() == held_max {
                let mut line = std::mem::take(self.pending(stream));
                if end.is_none() {
                    let rest = line.split_off(self.secrets().uncut(&line, LOG_LINE_BYTES_MAX));
                    *self.pending(stream) = rest;
                }
                self.log(stream, &line);
            }
        }
        if fits.len() < bytes.len() {
            self.drop_the_rest();
        }
    }

    fn record(&mut self, severity: Severity, context: &str, text: &str) {
        if self.dropping {
            return;
        }
        let fits = self.take(context.len() + text.len());
        let clip = |text: &'_ str, bytes: usize| {
            let end = text.floor_char_boundary(bytes.min(LOG_LINE_BYTES_MAX));
            // A secret that would be cut is let through, as it is masked whole.
            self.secrets().uncut(text.as_bytes(), end)
        };
        let context = &context[..clip(context, fits)];
        let clipped = &text[..clip(text, fits.saturating_sub(context.len()))];
        clipped.lines().for_each(|line| self.log_record(severity, context, line));
        if self.bytes == self.bytes_max() && clipped.len() < text.len() {
            self.drop_the_rest();
        }
    }

    /// Takes room for so many bytes, or for as many as are left.
    fn take(&mut self, bytes: usize) -> usize {
        let fits = (bytes as u64).min(self.bytes_max() - self.bytes);
        self.bytes += fits;
        fits as usize
    }

    fn secrets(&self) -> &Secrets {
        &self.origin.access.secrets
    }

    fn bytes_max(&self) -> u64 {
        self.origin.settings.limits.log_bytes
    }

    fn drop_the_rest(&mut self) {
        self.dropping = true;
        // What begins a secret can't be masked when its rest is dropped.
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut pending = std::mem::take(self.pending(stream));
            pending.truncate(self.secrets().end(&pending));
            *self.pending(stream) = pending;
        }
        let max = bytes_text(self.bytes_max());
        let text = format!("(more than {max} of output, limits.log_bytes: the rest of this delivery's is dropped)");
        self.log(Stream::Stderr, text.as_bytes());
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        // It begins where no secret is cut: what is left of one would not be known for it.
        let secrets = &self.origin.access.secrets;
        let kept = STDERR_TAIL_BYTES + secrets.longest();
        if bytes.len() > 2 * kept {
            let end = &bytes[bytes.len() - 2 * kept..];
            self.tail.clear();
            self.tail.extend_from_slice(&end[secrets.uncut(end, kept)..]);
            return;
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * kept {
            let cut = secrets.uncut(&self.tail, self.tail.len() - kept);
            self.tail.drain(..cut);
        }
    }

    fn stderr_tail(&self) -> String {
        if self.tail.is_empty() {
            return String::new();
        }
        // Masked before it is cut, so that the cut leaves no half of a secret.
        let kept = self.secrets().mask(String::from_utf8_lossy(&self.tail));
        let cut = kept.ceil_char_boundary(kept.len().saturating_sub(STDERR_TAIL_BYTES));
        kept[cut..].to_owned()
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        let line: Cow<'_, str> = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        let Origin { settings, access, module, handling: Handling { delivery, batch, generation } } = &self.origin;
        let line = access.secrets.mask(line);
        let message = delivery.map(|(id, _)| tracing::field::display(id));
        let attempt = delivery.map(|(_, attempt)| attempt);
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        tracing::info!(target: "guest", consumer = settings.consumer, message_id = message, attempt, batch, generation, %module, stream, "{line}");
    }

    fn log_record(&self, severity: Severity, context: &str, line: &str) {
        let Origin { settings, access, module, handling: Handling { delivery, batch, generation } } = &self.origin;
        let [context, line] = [context, line].map(|text| access.secrets.mask(Cow::Borrowed(text)));
        let (context, consumer) = (&*context, settings.consumer.as_str());
        let message = delivery.map(|(id, _)| tracing::field::display(id));
        let attempt = delivery.map(|(_, attempt)| attempt);
        macro_rules! log {
            ($log:ident) => {
                tracing::$log!(target: "guest", consumer, message_id = message, attempt, batch, generation, %module, context, "{line}")
            };
        }
        match severity {
            Severity::Trace => log!(trace),
            Severity::Debug => log!(debug),
            Severity::Info => log!(info),
            Severity::Warn => log!(warn),
            Severity::Error => log!(error),
        }
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
    use super::*;

    const LOG_BYTES_MAX: u64 = 256 << 10;

    fn output() -> Output {
        output_with(&[], LOG_BYTES_MAX)
    }

    /// That of a guest with secrets, which are named by their places.
    fn output_with(secrets: &[&str], log_bytes: u64) -> Output {
        let mut settings = InstanceSettings::of_a_test();
        settings.limits.log_bytes = log_bytes;
        let values = secrets.iter().enumerate().map(|(at, value)| (at.to_string(), (*value).to_owned()));
        let mut access = Access::of_a_test();
        access.secrets = Secrets::new(values.collect());
        let (settings, access) = (Arc::new(settings), Arc::new(access));
        Output::new(Origin { settings, access, module: ModuleHash([0; 32]), handling: Handling::default() })
    }

    #[test]
    fn the_tail_is_the_end_of_stderr_and_begins_with_a_whole_character() {
        let output = output();
        output.lock().write(Stream::Stdout, b"not this");
        output.lock().write(Stream::Stderr, "ä".repeat(STDERR_TAIL_BYTES).as_bytes());
        output.lock().write(Stream::Stderr, b"end");
        let (_, tail) = output.finish();
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

    #[test]
    fn records_share_the_limit_of_the_output() {
        let output = output();
        output.lock().write(Stream::Stdout, &[b'x'; 1000]);
        output.record(Severity::Info, "context", "text");
        assert_eq!(output.lock().bytes, 1011);
        assert!(!output.lock().dropping);
        for _ in 0..100 {
            output.record(Severity::Info, "", &"ä".repeat(2000));
        }
        assert_eq!(output.lock().bytes, LOG_BYTES_MAX);
        assert_eq!(output.finish().0.unwrap().to_string(), "exceeded limits.log_bytes (256 KiB)");
    }

    /// What stands in the log of what is done.
    fn logged(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, work);
        let log = log.0.lock().unwrap().clone();
        String::from_utf8(log).unwrap()
    }

    /// Whether four bytes of a secret that follow each other stand in a text.
    fn shows(text: &str, secret: &str) -> bool {
        secret.as_bytes().windows(4).any(|part| text.contains(std::str::from_utf8(part).unwrap()))
    }

    #[test]
    fn what_one_delivery_wrote_is_none_of_the_next_one_s() {
        let output = output_with(&[], 10);
        output.lock().write(Stream::Stderr, b"too much for it");
        let (exceeded, tail) = output.finish();
        assert!(exceeded.is_some() && tail == "too much for it");
        let next = Handling { delivery: Some((MessageId::new(1, 7), 3)), batch: Some(9), generation: Some(2) };
        output.begin(next);
        assert!(output.is_untouched() && output.finish() == (None, String::new()));
        let log = logged(|| output.lock().write(Stream::Stderr, b"short\n"));
        assert!(log.contains(&format!("{}", MessageId::new(1, 7))) && log.contains("short"), "{log}");
        let Handling { delivery, batch, generation } = output.lock().origin.handling;
        assert_eq!((delivery, batch, generation), (next.delivery, next.batch, next.generation));
        assert_eq!(output.finish(), (None, "short\n".to_owned()));
        output.begin(Handling::default());
        let Handling { delivery, batch, generation } = output.lock().origin.handling;
        assert_eq!((delivery, batch, generation), (None, None, None));
    }

    const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    #[test]
    fn a_secret_is_masked_wherever_a_line_is_cut() {
        for before in LOG_LINE_BYTES_MAX - SECRET.len() - 1..=LOG_LINE_BYTES_MAX + 1 {
            for chunk in [1, 7, 100_000] {
                let (output, line) = (output_with(&[SECRET], LOG_BYTES_MAX), format!("{}{SECRET}", ".".repeat(before)));
                let log = logged(|| {
                    line.as_bytes().chunks(chunk).for_each(|part| output.lock().write(Stream::Stdout, part));
                    output.finish();
                });
                assert!(log.contains("[secret 0]") && !shows(&log, SECRET), "{before}, {chunk}");
                assert_eq!(log.matches('.').count(), before, "nothing else is lost: {before}");
            }
        }
        // Longer than a line may be, and one after another.
        let long = SECRET.repeat(400);
        let output = output_with(&[&long], LOG_BYTES_MAX);
        let log = logged(|| {
            output.lock().write(Stream::Stderr, format!("{long}{long}, {long}").as_bytes());
            output.finish();
        });
        assert!(log.matches("[secret 0]").count() == 3 && !shows(&log, SECRET), "{log}");
    }

    #[test]
    fn a_secret_is_masked_wherever_a_record_is_cut() {
        for before in LOG_LINE_BYTES_MAX - SECRET.len() - 1..=LOG_LINE_BYTES_MAX + 1 {
            let (output, text) = (output_with(&[SECRET], LOG_BYTES_MAX), format!("{}{SECRET}!", ".".repeat(before)));
            let log = logged(|| {
                output.record(Severity::Warn, "", &text);
                output.record(Severity::Warn, &text, "text");
            });
            assert!(!shows(&log, SECRET), "{before}");
        }
    }

    #[test]
    fn a_secret_does_not_show_where_the_rest_is_dropped() {
        for log_bytes in 0..60 {
            for chunk in [1, 7, 100] {
                let (output, line) = (output_with(&[SECRET], log_bytes), format!("the secret {SECRET}\n"));
                let log = logged(|| {
                    line.as_bytes().chunks(chunk).for_each(|part| output.lock().write(Stream::Stdout, part));
                    output.finish();
                });
                assert!(!shows(&log, SECRET), "{log_bytes}, {chunk}: {log}");
                assert_eq!(log.contains("is dropped"), log_bytes < line.len() as u64, "{log}");
                let (output, context) = (output_with(&[SECRET], log_bytes), format!("context {SECRET}"));
                let log = logged(|| output.record(Severity::Info, &context, &line));
                assert!(!shows(&log, SECRET), "{log_bytes}: {log}");
            }
        }
    }

    #[test]
    fn the_tail_shows_no_end_of_a_secret() {
        for after in (STDERR_TAIL_BYTES - SECRET.len() - 1..=3 * STDERR_TAIL_BYTES).step_by(5) {
            for chunk in [SECRET.len() + after, 4096, 1000] {
                let output = output_with(&[SECRET], 0);
                let text = format!("{}{SECRET}{}", ".".repeat(after % 5000), "!".repeat(after));
                text.as_bytes().chunks(chunk).for_each(|part| output.lock().write(Stream::Stderr, part));
                let (_, tail) = output.finish();
                assert!(tail.len() <= STDERR_TAIL_BYTES && tail.ends_with('!') && !shows(&tail, SECRET), "{tail}");
            }
        }
    }
}
