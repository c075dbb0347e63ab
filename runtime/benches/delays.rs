//! Delayed messages by the million: what memory they take, how late they come, and whether others wait for them.
//!
//! ```text
//! cargo bench --bench delays                        # 1 million messages; exit code 1 if a requirement is missed
//! cargo bench --bench delays -- --messages 100000   # fewer, which shows that it works
//! ```
//!
//! Three runs in one store whose ring has been used: a few messages on an idle store; all messages, due at random times
//! within 20 seconds; and a tenth of them, all due at the same instant. A message is late by the time from when it should
//! be due (its delay, from when it was handed to the store) to when the consumer has it. Meanwhile another queue gets a
//! message every millisecond, which is taken at once: its sends and claims must not wait.
//!
//! At last four times as many come and go, of which one in 64 fails and is due again in an hour: what is known of those must
//! not take more memory than they are worth.

mod measure;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linecook_store::{Action, NewMessage, Options, QueueLimits, QueueName, Store, Transaction};
use measure::{Bench, CLAIM, Error, LEASE_MS, Settling, Verdict, Watch, over, resident_kb};

const BODY_BYTES: usize = 100;
/// One in so many messages fails.
const FAILING: u64 = 64;
const FEW: u64 = 300;
const SPREAD: Duration = Duration::from_secs(20);
/// More than it takes to send them all.
const AHEAD: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    measure::exit_code(measure::number("--messages", 1_000_000), run)
}

fn run(messages: u64) -> Result<bool, Error> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let options = Options::default();
    println!("{messages} delayed messages of {BODY_BYTES} B in one queue");
    println!("{}\n", Bench::settings(&options));
    let bench = Bench::open(folder.path(), &options)?;
    bench.warm_up(BODY_BYTES)?;
    let empty_kb = resident_kb()?;

    println!("{HEADING}");
    let mut verdict = Verdict::default();
    let idle = Run::go(&bench, FEW, Duration::from_secs(1), Duration::from_secs(4))?;
    idle.print("idle", empty_kb);
    verdict.require(idle.latest() <= Duration::from_millis(100), "idle: no message more than 100 ms late");
    let many = Run::go(&bench, messages, AHEAD, SPREAD)?;
    many.print("spread over 20 s", empty_kb);
    verdict.require(over(many.most_kb, empty_kb) < 64, "memory: below 64 MiB above an empty store");
    let at_once = Run::go(&bench, messages / 10, AHEAD / 5, Duration::ZERO)?;
    at_once.print("at one instant", empty_kb);
    for (name, run) in [("spread", &many), ("at one instant", &at_once)] {
        verdict.require(run.latest() <= Duration::from_secs(1), format!("{name}: no message more than 1 s late"));
        let stalled = run.others.claim.max(run.others.publish);
        verdict.require(stalled <= Duration::from_millis(250), format!("{name}: no stall of more than 250 ms"));
    }
    let failed_kb = fail_some(&bench, 4 * messages)?;
    let failed = 4 * messages / FAILING;
    println!("\n{failed} failed messages among {} others: {} MiB over empty", 4 * messages, over(failed_kb, empty_kb));
    verdict.require(over(failed_kb, empty_kb) < 64, "memory of failed ones: below 64 MiB above an empty store");
    Ok(verdict.print())
}

/// Sends and takes messages, of which some fail. Answers the memory at the end.
fn fail_some(bench: &Bench, messages: u64) -> Result<u64, Error> {
    const ROUND: u64 = 100_000;
    let mut number = 0;
    while number < messages {
        let round = ROUND.min(messages - number);
        bench.send((0..round).map(|_| measure::message(BODY_BYTES)))?;
        let mut settling = Settling::new(&bench.store);
        let end = number + round;
        while number < end {
            let (mut failed, mut done) = (Vec::new(), Vec::new());
            for delivery in bench.store.claim(&bench.queue, CLAIM, LEASE_MS)? {
                number += 1;
                if number % FAILING == 0 { failed.push(delivery) } else { done.push(delivery) }
            }
            settling.settle(&done, &Action::Ack)?;
            settling.settle(&failed, &Action::Retry { delay_ms: 3_600_000 })?;
        }
        settling.finish()?;
    }
    resident_kb()
}

const HEADING: &str = "
                                               late, ms           the others' longest, ms   the consumer's longest
due               messages  MiB over empty     p50   p99   worst  publish  claim            claim, ms";

/// One run, and what it came to.
struct Run {
    /// By how many microseconds each message was late, smallest first.
    late: Vec<u32>,
    most_kb: u64,
    longest_claim: Duration,
    others: Others,
}

impl Run {
    /// Sends messages that are due `ahead` from now and within `spread` after that, and takes them.
    fn go(bench: &Bench, messages: u64, ahead: Duration, spread: Duration) -> Result<Run, Error> {
        let started = Instant::now();
        let watch = Watch::start()?;
        let mut random = fastrand::Rng::with_seed(messages);
        bench.send((0..messages).map(|_| {
            let due = ahead + spread.mul_f64(random.f64());
            delayed(due.saturating_sub(started.elapsed()), due)
        }))?;
        if started.elapsed() > ahead {
            return Err("sending took so long that messages were due before the last one was there".into());
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let others = scope.spawn(|| Others::go(&bench.store, &stop));
            let taken = Run::take(bench, messages, started);
            stop.store(true, Ordering::Relaxed);
            let others = others.join().map_err(|_| "the others panicked")??;
            let (mut late, longest_claim) = taken?;
            late.sort_unstable();
            Ok(Run { late, most_kb: watch.stop()?, longest_claim, others })
        })
    }

    fn take(bench: &Bench, messages: u64, started: Instant) -> Result<(Vec<u32>, Duration), Error> {
        let mut late = Vec::with_capacity(messages as usize);
        let mut longest_claim = Duration::ZERO;
        let mut settling = Settling::new(&bench.store);
        while (late.len() as u64) < messages {
            let claim_started = Instant::now();
            let deliveries = bench.store.claim(&bench.queue, CLAIM, LEASE_MS)?;
            longest_claim = longest_claim.max(claim_started.elapsed());
            let now = started.elapsed();
            for delivery in &deliveries {
                let due = Duration::from_micros(u64::from_le_bytes(delivery.message.body[..8].try_into()?));
                // The store counts whole milliseconds.
                let early = due.saturating_sub(now + Duration::from_millis(1));
                if early > Duration::ZERO {
                    return Err(format!("a message came {early:?} before it was due").into());
                }
                late.push(u32::try_from(now.saturating_sub(due).as_micros()).unwrap_or(u32::MAX));
            }
            if !deliveries.is_empty() {
                settling.settle(&deliveries, &Action::Ack)?;
            } else if let Some(due_in) = bench.store.next_due_in(&bench.queue) {
                std::thread::sleep(due_in);
            } else {
                return Err(format!("{} of {messages} messages were delivered", late.len()).into());
            }
        }
        settling.finish()?;
        Ok((late, longest_claim))
    }

    /// By how much this part of all messages was late at most.
    fn late(&self, part: f64) -> Duration {
        let place = (self.late.len() as f64 * part) as usize;
        Duration::from_micros(u64::from(self.late[place.min(self.late.len() - 1)]))
    }

    fn latest(&self) -> Duration {
        self.late(1.0)
    }

    fn print(&self, due: &str, empty_kb: u64) {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        println!(
            "{due:<16}  {:<8}  {:<17}  {:<4.1}  {:<4.1}  {:<5.1}  {:<7.1}  {:<15.1}  {:<.1}",
            self.late.len(),
            over(self.most_kb, empty_kb),
            ms(self.late(0.5)),
            ms(self.late(0.99)),
            ms(self.latest()),
            ms(self.others.publish),
            ms(self.others.claim),
            ms(self.longest_claim),
        );
    }
}

/// A message that says when it should be due.
fn delayed(delay: Duration, due: Duration) -> NewMessage {
    let mut body = vec![b'x'; BODY_BYTES];
    body[..8].copy_from_slice(&(due.as_micros() as u64).to_le_bytes());
    NewMessage { body: Bytes::from(body), delay_ms: delay.as_micros().div_ceil(1000) as u64, ..NewMessage::default() }
}

/// Somebody else's queue: the longest that a send and a claim took.
#[derive(Default)]
struct Others {
    publish: Duration,
    claim: Duration,
}

impl Others {
    fn go(store: &Store, stop: &AtomicBool) -> Result<Others, String> {
        let queue = QueueName::new("others").map_err(|error| error.to_string())?;
        store.declare(&queue, QueueLimits::default());
        let mut longest = Others::default();
        let (confirm, confirmed) = std::sync::mpsc::channel();
        let commit = |transaction: Transaction| {
            let confirm = confirm.clone();
            let started = Instant::now();
            store.submit(transaction, move |answer| drop(confirm.send(answer)));
            let answer = confirmed.recv().map_err(|_| "the committer is gone")?;
            answer.map_err(|refusal| refusal.to_string())?;
            Ok::<Duration, String>(started.elapsed())
        };
        while !stop.load(Ordering::Relaxed) {
            let sends = [(queue.clone(), measure::message(BODY_BYTES))].into();
            longest.publish = longest.publish.max(commit(Transaction { sends, ..Transaction::default() })?);
            let started = Instant::now();
            let deliveries = store.claim(&queue, 1, LEASE_MS).map_err(|refusal| refusal.to_string())?;
            longest.claim = longest.claim.max(started.elapsed());
            let [delivery] = &deliveries[..] else { return Err("a message of the others is missing".into()) };
            commit(Transaction { settle: Some((delivery.lease, Action::Ack)), ..Transaction::default() })?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(longest)
    }
}
