//! What publishing costs while the store looks after its files: messages come at a fixed rate, and the latencies are
//! compared with those of the same rate when nothing is copied, rewritten or checkpointed.
//!
//! ```text
//! cargo bench --bench latency                    # 50,000 messages a second; exit code 1 if a requirement is missed
//! cargo bench --bench latency -- --rate 20000    # another rate
//! ```
//!
//! A message's latency counts from when the rate has it sent, not from when the store takes it, so that a pause counts
//! for every message that waited for it. One store, whose ring has been used, in three phases:
//!
//! - *without*: short bursts into a drained queue. A burst in which a checkpoint was written or a segment made is left out.
//! - *copying*: a backlog builds. Each full file of the log is copied to a segment and covered by two checkpoints.
//! - *rewriting*: the same, after nine of ten messages of the first backlog were acknowledged: the segments that hold the
//!   tenth are rewritten and removed meanwhile.

mod measure;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use linecook_store::{Action, Options, Transaction};
use measure::{Bench, CLAIM, Error, LEASE_MS, Settling, Verdict, message};

const BODY_BYTES: usize = 1024;
const BURST: Duration = Duration::from_millis(250);
const BURSTS_MIN: usize = 10;
const BURSTS_MAX: usize = 40;
const LONG: Duration = Duration::from_secs(12);
const TICK: Duration = Duration::from_micros(250);
const TIMES_MAX: f64 = 5.0;
/// Segments that must have come or gone, or the phase was not what it is for.
const SEGMENTS_MIN: usize = 4;

fn main() -> ExitCode {
    measure::exit_code(measure::number("--rate", 50_000), |rate| run(rate as f64))
}

fn run(rate: f64) -> Result<bool, Error> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let options = Options::default();
    println!("Publish latency at {rate:.0} messages of {BODY_BYTES} B a second");
    println!("{}\n", Bench::settings(&options));
    let bench = Bench::open(folder.path(), &options)?;
    bench.warm_up(BODY_BYTES)?;

    println!("{HEADING}");
    let without = without(&bench, folder.path(), rate)?;
    without.print("without", None);

    let before = segments(folder.path())?;
    let copying = Latencies::new(publish(&bench, rate, LONG)?);
    let made = segments(folder.path())?.difference(&before).count();
    copying.print(&format!("copying ({made} segments made)"), Some(&without));

    acknowledge_most(&bench)?;
    let before = segments(folder.path())?;
    let rewriting = Latencies::new(publish(&bench, rate, LONG)?);
    let gone = before.difference(&segments(folder.path())?).count();
    rewriting.print(&format!("rewriting ({gone} segments gone)"), Some(&without));

    if made < SEGMENTS_MIN || gone < SEGMENTS_MIN {
        return Err("too little was copied or rewritten to say anything: choose a higher rate".into());
    }
    let mut verdict = Verdict::default();
    for (name, during) in [("copying", &copying), ("rewriting", &rewriting)] {
        let times = during.times(&without);
        verdict.require(times <= TIMES_MAX, format!("{name}: p99 is {times:.1} times that without, not {TIMES_MAX}"));
    }
    Ok(verdict.print())
}

const HEADING: &str = "
                               messages  p50, ms  p99, ms  p99.9, ms  worst, ms  p99, times without";

/// Latencies in microseconds, smallest first.
struct Latencies(Vec<u32>);

impl Latencies {
    fn new(mut all: Vec<u32>) -> Latencies {
        all.sort_unstable();
        Latencies(all)
    }

    fn ms(&self, part: f64) -> f64 {
        let place = (self.0.len() as f64 * part) as usize;
        f64::from(self.0[place.min(self.0.len() - 1)]) / 1000.0
    }

    fn times(&self, without: &Latencies) -> f64 {
        self.ms(0.99) / without.ms(0.99)
    }

    fn print(&self, name: &str, without: Option<&Latencies>) {
        let times = without.map_or(String::new(), |without| format!("{:.2}", self.times(without)));
        println!(
            "{name:<29}  {:<8}  {:<7.2}  {:<7.2}  {:<9.2}  {:<9.2}  {times}",
            self.0.len(),
            self.ms(0.5),
            self.ms(0.99),
            self.ms(0.999),
            self.ms(1.0),
        );
    }
}

/// The latencies of bursts beside which nothing else was done.
fn without(bench: &Bench, folder: &Path, rate: f64) -> Result<Latencies, Error> {
    let (mut all, mut good) = (Vec::new(), 0);
    for _ in 0..BURSTS_MAX {
        settle_down(folder)?;
        let before = last_kept(folder)?;
        let burst = publish(bench, rate, BURST)?;
        // What a file that was full at the end has caused is seen then.
        std::thread::sleep(Duration::from_millis(300));
        let is_good = last_kept(folder)? == before;
        bench.drain(burst.len() as u64)?;
        if is_good {
            all.extend(burst);
            good += 1;
        }
        if good == BURSTS_MIN {
            return Ok(Latencies::new(all));
        }
    }
    Err(format!("something was kept during all but {good} of {BURSTS_MAX} bursts").into())
}

/// Waits until nothing is copied or tidied up any more.
fn settle_down(folder: &Path) -> Result<(), Error> {
    loop {
        let before = last_kept(folder)?;
        std::thread::sleep(Duration::from_millis(1200));
        if last_kept(folder)? == before {
            return Ok(());
        }
    }
}

/// When a checkpoint was written last, and the segments that there are.
fn last_kept(folder: &Path) -> Result<(Vec<Option<SystemTime>>, BTreeSet<String>), Error> {
    let written = |name| folder.join(name).metadata().and_then(|meta| meta.modified()).ok();
    Ok((["checkpoint-1", "checkpoint-2"].map(written).into(), segments(folder)?))
}

fn segments(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(Some(name).filter(|name| name.starts_with("segment-")));
    }
    Ok(names)
}

/// Sends at a rate for so long, and answers how long each message took, in microseconds.
fn publish(bench: &Bench, rate: f64, duration: Duration) -> Result<Vec<u32>, Error> {
    let confirmations = Arc::new(Confirmations::default());
    let started = Instant::now();
    let messages = (rate * duration.as_secs_f64()) as u64;
    let mut sent = 0;
    while sent < messages {
        let now_due = ((started.elapsed().as_secs_f64() * rate) as u64).min(messages);
        for number in sent..now_due {
            let intended = started + Duration::from_secs_f64(number as f64 / rate);
            let transaction =
                Transaction { sends: [(bench.queue.clone(), message(BODY_BYTES))].into(), ..Transaction::default() };
            let confirmations = confirmations.clone();
            bench.store.submit(transaction, move |answer| {
                confirmations.add(answer.map(|_| intended.elapsed()).map_err(|why| why.to_string()), messages);
            });
        }
        sent = now_due;
        std::thread::sleep(TICK);
    }
    confirmations.wait(messages)
}

#[derive(Default)]
struct Confirmations {
    // Only the committer's thread locks it while messages are sent.
    all: Mutex<Vec<Result<u32, String>>>,
    complete: Condvar,
}

impl Confirmations {
    fn all(&self) -> MutexGuard<'_, Vec<Result<u32, String>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, confirmed: Result<Duration, String>, messages: u64) {
        let mut all = self.all();
        all.push(confirmed.map(|took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)));
        if all.len() as u64 == messages {
            self.complete.notify_one();
        }
    }

    fn wait(&self, messages: u64) -> Result<Vec<u32>, Error> {
        let mut all = self.all();
        while (all.len() as u64) < messages {
            all = self.complete.wait(all).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(std::mem::take(&mut *all).into_iter().collect::<Result<_, String>>()?)
    }
}

/// Of the messages that are there, nine of ten are acknowledged; the tenth waits for a retry.
fn acknowledge_most(bench: &Bench) -> Result<(), Error> {
    const HOUR_MS: u64 = 3_600_000;
    let mut settling = Settling::new(&bench.store);
    loop {
        let mut deliveries = bench.store.claim(&bench.queue, CLAIM, LEASE_MS)?;
        if deliveries.is_empty() {
            return settling.finish();
        }
        let tenth = deliveries.split_off(deliveries.len() - deliveries.len() / 10);
        settling.settle(&deliveries, &Action::Ack)?;
        settling.settle(&tenth, &Action::Retry { delay_ms: HOUR_MS })?;
    }
}
