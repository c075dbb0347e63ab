//! A backlog that is much larger than memory should need: built, drained and reopened, with memory and disk watched.
//!
//! ```text
//! cargo bench --bench backlog                        # 10 million messages; exit code 1 if a requirement is missed
//! cargo bench --bench backlog -- --messages 1000000  # fewer, which shows that it works
//! ```
//!
//! First the same store with a queue that stays short: 100,000 messages are sent and taken, over and over, so that every
//! file of the log has been used. Then the backlog. Senders have 512 messages in flight; the drain claims 512 at a time,
//! begins each and acknowledges them, with 4 such batches in flight.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linecook_store::{Action, NewMessage, Options, QueueLimits, QueueName, Store, Transaction};

type Error = Box<dyn std::error::Error>;

const BODY_BYTES: usize = 200;
const IN_FLIGHT: usize = 512;
const CLAIM: usize = 512;
const BATCHES: usize = 4;
const SHORT: u64 = 100_000;
const SHORT_ROUNDS: usize = 12;
const LEASE_MS: u64 = 60_000;

fn main() -> ExitCode {
    let messages = match messages(std::env::args().skip(1)) {
        Ok(messages) => messages,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    match run(messages) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn messages(mut arguments: impl Iterator<Item = String>) -> Result<u64, String> {
    let mut messages = 10_000_000;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo passes it to every benchmark.
            "--bench" => {}
            "--messages" => {
                let number = arguments.next().unwrap_or_default();
                messages = number.parse().map_err(|_| format!("--messages takes a number, not {number:?}"))?;
            }
            other => return Err(format!("unknown argument {other:?}: only --messages is known")),
        }
    }
    Ok(messages)
}

fn run(messages: u64) -> Result<bool, Error> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let options = Options::default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("Backlog of {messages} messages of {BODY_BYTES} B in one queue; {cores} cores, {}", std::env::consts::OS);
    println!("log of at most {} MiB, cache {} MiB\n", options.log_bytes_max >> 20, options.cache_bytes_max >> 20);
    let mut store = Bench::open(folder.path(), &options)?;

    let (mut sending, mut draining) = (Vec::new(), Vec::new());
    for _ in 0..SHORT_ROUNDS {
        sending.push(rate(SHORT, || store.send(SHORT))?);
        draining.push(rate(SHORT, || store.drain(SHORT))?);
    }
    let short = (median(&mut sending), median(&mut draining));
    println!(
        "short queue      send {:>9.0}/s   drain {:>9.0}/s   (median of {SHORT_ROUNDS} rounds of {SHORT})",
        short.0, short.1
    );
    let empty_kb = resident_kb()?;

    let watch = Watch::start()?;
    let built = rate(messages, || store.send(messages))?;
    let build_kb = watch.stop()?;
    std::thread::sleep(Duration::from_secs(3));
    let (disk, log) = folder_bytes(folder.path())?;
    let ratio = (disk - log) as f64 / (messages * BODY_BYTES as u64) as f64;
    println!(
        "build            {built:>9.0}/s ({:.2} of short)   resident {} MiB over empty",
        built / short.0,
        over(build_kb, empty_kb)
    );
    println!("on disk          {:.2} times the bytes of the bodies, and {} MiB of log", ratio, log >> 20);

    drop(store);
    let opening = Instant::now();
    store = Bench::open(folder.path(), &options)?;
    let opened = opening.elapsed();
    let there = store.ready();
    println!("reopen           {:.2} s, {there} messages", opened.as_secs_f64());
    if there != messages {
        return Err(format!("{there} of {messages} messages are there").into());
    }

    let watch = Watch::start()?;
    let drained = rate(messages, || store.drain(messages))?;
    let drain_kb = watch.stop()?;
    println!(
        "drain            {drained:>9.0}/s ({:.2} of short)   resident {} MiB over empty",
        drained / short.1,
        over(drain_kb, empty_kb)
    );

    let drained_at = Instant::now();
    let shrunk = loop {
        let (disk, _) = folder_bytes(folder.path())?;
        if disk < 300_000_000 || drained_at.elapsed() > Duration::from_secs(60) {
            break disk;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    println!(
        "after the drain  {} MB in the folder after {:.1} s",
        shrunk / 1_000_000,
        drained_at.elapsed().as_secs_f64()
    );

    let misses = [
        (built < short.0 / 2.0, "build: half of the short queue's rate"),
        (drained < short.1 / 2.0, "drain: half of the short queue's rate"),
        (over(build_kb, empty_kb) >= 200 || over(drain_kb, empty_kb) >= 200, "memory: below 200 MiB above empty"),
        (ratio > 1.3, "disk: at most 1.3 times the bytes of the messages, beside the log"),
        (opened > Duration::from_secs(2), "reopening: below 2 s"),
        (shrunk >= 300_000_000, "folder: below 300 MB within a minute after the drain"),
    ];
    println!();
    let missed: Vec<&str> = misses.iter().filter(|(missed, _)| *missed).map(|(_, what)| *what).collect();
    missed.iter().for_each(|what| println!("MISSED  {what}"));
    if missed.is_empty() {
        println!("Every requirement is met.");
    }
    Ok(missed.is_empty())
}

/// Messages a second.
fn rate(messages: u64, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let started = Instant::now();
    work()?;
    Ok(messages as f64 / started.elapsed().as_secs_f64())
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

struct Bench {
    store: Store,
    queue: QueueName,
}

impl Bench {
    fn open(folder: &Path, options: &Options) -> Result<Bench, Error> {
        let store = Store::open(folder, options)?;
        let queue = QueueName::new("backlog")?;
        store.declare(&queue, QueueLimits::default());
        Ok(Bench { store, queue })
    }

    fn ready(&self) -> u64 {
        self.store.queue(&self.queue).map_or(0, |stats| stats.ready)
    }

    fn send(&self, messages: u64) -> Result<(), Error> {
        let body = [b'x'; BODY_BYTES];
        let (permits, done) = permits(IN_FLIGHT);
        for _ in 0..messages {
            done.recv()??;
            let message = NewMessage { body: Bytes::copy_from_slice(&body), ..NewMessage::default() };
            let transaction = Transaction { settle: None, sends: [(self.queue.clone(), message)].into() };
            let permits = permits.clone();
            self.store
                .submit(transaction, move |answer| drop(permits.send(answer.map(drop).map_err(|why| why.to_string()))));
        }
        wait_all(&done, IN_FLIGHT)
    }

    fn drain(&self, messages: u64) -> Result<(), Error> {
        let (permits, done) = permits(BATCHES);
        let mut left = messages;
        while left > 0 {
            done.recv()??;
            let deliveries = self.store.claim(&self.queue, CLAIM, LEASE_MS)?;
            if deliveries.is_empty() {
                return Err(format!("{left} messages are missing").into());
            }
            left -= deliveries.len() as u64;
            let acks = deliveries.iter().map(|delivery| {
                assert!(self.store.begin(delivery.lease), "a fresh lease can begin");
                Transaction { settle: Some((delivery.lease, Action::Ack)), ..Transaction::default() }
            });
            let permits = permits.clone();
            self.store.submit_all(acks.collect(), move |answers| {
                let refused = answers.into_iter().find_map(Result::err);
                drop(permits.send(refused.map_or(Ok(()), |why| Err(why.to_string()))));
            });
        }
        wait_all(&done, BATCHES)
    }
}

type Permits = (SyncSender<Result<(), String>>, Receiver<Result<(), String>>);

fn permits(count: usize) -> Permits {
    let (permits, done) = sync_channel(count);
    (0..count).for_each(|_| permits.send(Ok(())).expect("the receiver is here"));
    (permits, done)
}

fn wait_all(done: &Receiver<Result<(), String>>, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        done.recv()??;
    }
    Ok(())
}

/// The highest resident memory while something goes on.
struct Watch {
    stop: SyncSender<()>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start() -> Result<Watch, Error> {
        let (stop, stopped) = sync_channel::<()>(0);
        let thread = std::thread::Builder::new().spawn(move || {
            let mut most = 0;
            while stopped.recv_timeout(Duration::from_millis(50)).is_err() {
                most = resident_kb().unwrap_or(0).max(most);
            }
            most
        })?;
        Ok(Watch { stop, thread })
    }

    fn stop(self) -> Result<u64, Error> {
        self.stop.send(())?;
        self.thread.join().map_err(|_| "the watch panicked".into())
    }
}

fn resident_kb() -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
}

/// MiB above.
fn over(kb: u64, empty_kb: u64) -> u64 {
    kb.saturating_sub(empty_kb) >> 10
}

/// Bytes of the folder, and of the log's files in it.
fn folder_bytes(folder: &Path) -> Result<(u64, u64), Error> {
    let (mut all, mut log) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be gone by now.
        let Ok(meta) = entry.metadata() else { continue };
        all += meta.len();
        if entry.file_name().to_string_lossy().starts_with("wal-") {
            log += meta.len();
        }
    }
    Ok((all, log))
}
