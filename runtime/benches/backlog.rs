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

mod measure;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use linecook_store::Options;
use measure::{Bench, Error, Verdict, Watch, folder_bytes, median, message, over, resident_kb};

const BODY_BYTES: usize = 200;
const SHORT: u64 = 100_000;
const SHORT_ROUNDS: usize = 12;

fn main() -> ExitCode {
    measure::exit_code(measure::number("--messages", 10_000_000), run)
}

fn run(messages: u64) -> Result<bool, Error> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let options = Options::default();
    println!("Backlog of {messages} messages of {BODY_BYTES} B in one queue");
    println!("{}\n", Bench::settings(&options));
    let mut store = Bench::open(folder.path(), &options)?;

    let (mut sending, mut draining) = (Vec::new(), Vec::new());
    for _ in 0..SHORT_ROUNDS {
        sending.push(rate(SHORT, || send(&store, SHORT))?);
        draining.push(rate(SHORT, || store.drain(SHORT))?);
    }
    let short = (median(&mut sending), median(&mut draining));
    println!(
        "short queue      send {:>9.0}/s   drain {:>9.0}/s   (median of {SHORT_ROUNDS} rounds of {SHORT})",
        short.0, short.1
    );
    let empty_kb = resident_kb()?;

    let watch = Watch::start()?;
    let built = rate(messages, || send(&store, messages))?;
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

    let mut verdict = Verdict::default();
    verdict.require(built >= short.0 / 2.0, "build: half of the short queue's rate");
    verdict.require(drained >= short.1 / 2.0, "drain: half of the short queue's rate");
    let most = over(build_kb, empty_kb).max(over(drain_kb, empty_kb));
    verdict.require(most < 200, "memory: below 200 MiB above empty");
    verdict.require(ratio <= 1.3, "disk: at most 1.3 times the bytes of the messages, beside the log");
    verdict.require(opened <= Duration::from_secs(2), "reopening: below 2 s");
    verdict.require(shrunk < 300_000_000, "folder: below 300 MB within a minute after the drain");
    Ok(verdict.print())
}

fn send(store: &Bench, messages: u64) -> Result<(), Error> {
    store.send((0..messages).map(|_| message(BODY_BYTES)))
}

/// Messages a second.
fn rate(messages: u64, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let started = Instant::now();
    work()?;
    Ok(messages as f64 / started.elapsed().as_secs_f64())
}
