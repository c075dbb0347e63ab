//! Ordering keys: whether many of them, or one that is blocked, slow down the claims of other messages of their queue.
//!
//! ```text
//! cargo bench --bench keys                        # 1 million messages behind a key; exit code 1 if a requirement is missed
//! cargo bench --bench keys -- --messages 100000   # fewer, which shows that it works
//! ```
//!
//! A claim's rate is that of the claims alone: 512 messages at a time, without the acknowledgements. Rounds of 100,000
//! messages are sent and taken, without keys and with a key each, in three stores:
//!
//! - nothing else is in the queue;
//! - 100,000 keys are held by a message that waits for its retry, and each has a message behind it;
//! - one key is held by a message that waits for its retry, and has a million messages behind it.
//!
//! At last 100,000 keys with three messages each are taken, some of them after a retry, and their order is checked.

mod measure;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use linecook_store::{Action, Delivery, NewMessage, Options};
use measure::{Bench, CLAIM, Error, LEASE_MS, Settling, Verdict, median, message, over, resident_kb};

const BODY_BYTES: usize = 100;
const KEYS: u64 = 100_000;
const ROUND: u64 = 100_000;
const ROUNDS: usize = 7;
/// The least part of the rate in an empty queue that is not called slower: two runs differ by as much.
const SHARE_MIN: f64 = 0.8;

fn main() -> ExitCode {
    measure::exit_code(measure::number("--messages", 1_000_000), run)
}

fn run(behind: u64) -> Result<bool, Error> {
    println!("Claims beside {KEYS} keys, and beside one blocked key with {behind} messages behind it");
    println!(
        "{}; median of {ROUNDS} rounds of {ROUND} messages of {BODY_BYTES} B\n",
        Bench::settings(&Options::default())
    );
    println!("{HEADING}");
    let alone = Rates::measure("nothing", |_| Ok(()))?;
    let keys = Rates::measure("100,000 held keys", |bench| {
        hold(bench, KEYS)?;
        bench.send((0..KEYS).map(|key| numbered(key, 1)))
    })?;
    let blocked = Rates::measure("one blocked key", |bench| {
        hold(bench, 1)?;
        bench.send((1..=behind).map(|number| numbered(0, number)))
    })?;
    let ordered = check_order()?;
    println!("\n{ordered} messages of {KEYS} keys were taken in the order of their keys, retries among them");
    let mut verdict = Verdict::default();
    for (name, rates) in [("100,000 keys", &keys), ("one blocked key", &blocked)] {
        let plain = rates.plain / alone.plain;
        verdict.require(
            plain >= SHARE_MIN,
            format!("{name}: messages without a key are claimed at {plain:.2} of the rate"),
        );
        let keyed = rates.keyed / alone.keyed;
        verdict.require(
            keyed >= SHARE_MIN,
            format!("{name}: messages with other keys are claimed at {keyed:.2} of the rate"),
        );
    }
    Ok(verdict.print())
}

const HEADING: &str = "
                    MiB over   claimed, msg/s          longest claim, ms
beside              empty      no key      a key each  no key  a key each";

/// What one store came to, in messages a second.
struct Rates {
    plain: f64,
    keyed: f64,
}

impl Rates {
    /// `fill` puts what is beside the claimed messages into the queue.
    fn measure(beside: &str, fill: impl FnOnce(&Bench) -> Result<(), Error>) -> Result<Rates, Error> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let bench = Bench::open(folder.path(), &Options::default())?;
        bench.warm_up(BODY_BYTES)?;
        let empty_kb = resident_kb()?;
        fill(&bench)?;
        // What was sent is copied to segments meanwhile, as it would be in a queue that is blocked for long.
        std::thread::sleep(Duration::from_secs(2));
        let filled_kb = resident_kb()?;
        let before = bench.ready();
        let plain = Claims::rounds(&bench, |_| message(BODY_BYTES))?;
        let keyed = Claims::rounds(&bench, |number| NewMessage {
            key: Some(format!("other-{number}").into()),
            ..message(BODY_BYTES)
        })?;
        if bench.ready() != before {
            return Err("the claims took messages that had to wait".into());
        }
        println!(
            "{beside:<18}  {:<9}  {:<10.0}  {:<10.0}  {:<6.1}  {:<.1}",
            over(filled_kb, empty_kb),
            plain.rate,
            keyed.rate,
            plain.longest.as_secs_f64() * 1000.0,
            keyed.longest.as_secs_f64() * 1000.0,
        );
        Ok(Rates { plain: plain.rate, keyed: keyed.rate })
    }
}

struct Claims {
    rate: f64,
    longest: Duration,
}

impl Claims {
    /// Sends and takes messages, round by round.
    fn rounds(bench: &Bench, message: impl Fn(u64) -> NewMessage) -> Result<Claims, Error> {
        let mut rates = Vec::new();
        let mut longest = Duration::ZERO;
        for _ in 0..ROUNDS {
            bench.send((0..ROUND).map(&message))?;
            let mut claiming = Duration::ZERO;
            let mut left = ROUND;
            let mut settling = Settling::new(&bench.store);
            while left > 0 {
                let started = Instant::now();
                let deliveries = bench.store.claim(&bench.queue, CLAIM.min(left as usize), LEASE_MS)?;
                let took = started.elapsed();
                if deliveries.is_empty() {
                    return Err(format!("{left} messages can't be claimed").into());
                }
                claiming += took;
                longest = longest.max(took);
                left -= deliveries.len() as u64;
                settling.settle(&deliveries, &Action::Ack)?;
            }
            settling.finish()?;
            rates.push(ROUND as f64 / claiming.as_secs_f64());
        }
        Ok(Claims { rate: median(&mut rates), longest })
    }
}

/// The message with this number of a key. Its body says both.
fn numbered(key: u64, number: u64) -> NewMessage {
    let mut body = [key.to_le_bytes(), number.to_le_bytes()].concat();
    body.resize(BODY_BYTES, b'x');
    NewMessage { body: Bytes::from(body), key: Some(format!("key-{key}").into()), ..NewMessage::default() }
}

/// Which key and number a message has.
fn numbers(delivery: &Delivery) -> Result<(u64, u64), Error> {
    let body = &delivery.message.body;
    Ok((u64::from_le_bytes(body[..8].try_into()?), u64::from_le_bytes(body[8..16].try_into()?)))
}

/// The first message of each key fails and waits for an hour.
fn hold(bench: &Bench, keys: u64) -> Result<(), Error> {
    const HOUR_MS: u64 = 3_600_000;
    bench.send((0..keys).map(|key| numbered(key, 0)))?;
    let mut settling = Settling::new(&bench.store);
    let mut left = keys;
    while left > 0 {
        let deliveries = bench.store.claim(&bench.queue, CLAIM, LEASE_MS)?;
        left -= deliveries.len() as u64;
        settling.settle(&deliveries, &Action::Retry { delay_ms: HOUR_MS })?;
    }
    settling.finish()
}

/// Takes all messages of many keys, some of them at the second attempt, and answers how many there were.
fn check_order() -> Result<u64, Error> {
    const MESSAGES_A_KEY: u64 = 3;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bench = Bench::open(folder.path(), &Options::default())?;
    bench.send((0..MESSAGES_A_KEY).flat_map(|number| (0..KEYS).map(move |key| numbered(key, number))))?;
    let mut next = vec![0; KEYS as usize];
    let mut settling = Settling::new(&bench.store);
    let mut taken = 0;
    while taken < KEYS * MESSAGES_A_KEY {
        let deliveries = bench.store.claim(&bench.queue, CLAIM, LEASE_MS)?;
        let (mut acked, mut retried) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            let (key, number) = numbers(&delivery)?;
            let next = &mut next[key as usize];
            if number != *next {
                return Err(format!("message {number} of key {key} came, and {next} was next").into());
            }
            if delivery.attempt == 1 && key % 7 == 0 {
                retried.push(delivery);
            } else {
                *next += 1;
                acked.push(delivery);
            }
        }
        taken += acked.len() as u64;
        settling.settle(&acked, &Action::Ack)?;
        settling.settle(&retried, &Action::Retry { delay_ms: 0 })?;
    }
    settling.finish()?;
    Ok(taken)
}
