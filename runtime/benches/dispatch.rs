//! What the runtime adds to a call, in one run, with components built from Rust and a body of 200 bytes: a handler that does
//! nothing, and one that parses the JSON of its message.
//!
//! - *bare loop*: wasmtime alone, instantiate and call, with the sandbox's engine settings;
//! - *call*: the same with limits, grants and output, as a delivery is run ([`linecook::sandbox::Module::call`]);
//! - *dispatch*: claim → handle → settle on a filled queue, each ack durable.
//!
//! The first and the last also with instances that are reused, and with batches of 100 messages (a fresh instance each).
//!
//! Each on one core and on two: the whole process is kept to so many cores, with one worker for each core, against as many
//! bare loops. So the store's committer, which writes and syncs the acks, has no core of its own: what it takes, the
//! handlers don't have, and the figure for one core is all that a message costs.
//!
//! `--quick` is for a test that it runs at all: short, and nothing is required of the figures. `--only TEXT` measures only
//! the lines whose names contain the text, such as `JSON` or `reused`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linecook::broker::embedded::Embedded;
use linecook::broker::{Broker, QueueLimits};
use linecook::config::{ConsumerConfig, Grants, Limits, Reuse, Source};
use linecook::delivery::{Delivery, Lease, Message, MessageId, NewMessage, Outcome, QueueName};
use linecook::dispatch::{Dispatcher, Shares};
use linecook::sandbox::{InstanceSettings, Sandbox, SandboxOptions};
use linecook::status::Board;

#[path = "dispatch/bare.rs"]
mod bare;
#[path = "dispatch/cores.rs"]
mod cores;
#[path = "../tests/support/guests.rs"]
mod guests;

/// What each message carries, also to the handler that does not look at it.
const BODY: &[u8; 200] = br#"{"id":1001,"customer":"Ada Byron","items":[{"sku":"beans-500g","count":2,"cents":899},{"sku":"rice-1kg","count":1,"cents":349},{"sku":"oats-1kg","count":3,"cents":229}],"total_cents":2834,"paid":true}"#;

/// Handlers, and the components that take one message and a batch.
const HANDLERS: [(&str, &str, &str); 2] = [("no-op", "noop", "noop-batch"), ("JSON", "json", "json-batch")];

/// Messages of a batch.
const BATCH_SIZE: usize = 100;
/// Messages that each worker may handle at once; of batches, so many batches.
const PERMITS: usize = 128;
/// Two workers on two cores do at least this much more than one on one.
const SCALING_MIN: f64 = 1.8;

/// How long each figure is measured.
struct Effort {
    rounds: usize,
    time: Duration,
    messages: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().position(|argument| argument == "--only").and_then(|place| arguments.get(place + 1));
    let effort = if quick {
        Effort { rounds: 1, time: Duration::from_millis(200), messages: 5_000 }
    } else {
        Effort { rounds: 7, time: Duration::from_secs(1), messages: 200_000 }
    };
    println!(
        "{} B bodies; {} rounds of {:?} a loop and {} messages through dispatch, {PERMITS} at once on each worker; the \
         process, with its committer and all else, is kept to one core (one worker) and to two (two workers) of {}; median \
         (min to max) messages a second:",
        BODY.len(),
        effort.rounds,
        effort.time,
        effort.messages,
        cores::available(),
    );
    let mut short = Vec::new();
    for (handler, single, batch) in HANDLERS {
        for mode in [Mode::Fresh, Mode::Reused, Mode::Batches] {
            let name = format!("{handler}, {}", mode.name());
            if only.is_some_and(|only| !name.contains(only.as_str())) {
                continue;
            }
            let component = guests::component(if mode == Mode::Batches { batch } else { single });
            short.extend(compare(&name, &component, mode, &effort));
        }
    }
    short.iter().for_each(|line| println!("short of what is required: {line}"));
    if quick || short.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints dispatch beside the bare loop, on one core and on two. Answers what falls short.
fn compare(name: &str, path: &Path, mode: Mode, effort: &Effort) -> Vec<String> {
    let component = std::fs::read(path).expect("the guest was just built");
    let mut short = Vec::new();
    let mut rates = Vec::new();
    for workers in [1, 2] {
        // Every thread that is started from here on is kept to these, too.
        cores::keep_to(workers);
        let [mut bare, mut call, mut dispatch] = [const { Vec::new() }; 3];
        // In turn, so that a machine that changes its speed changes it for all of them.
        for _ in 0..effort.rounds {
            bare.push(match mode {
                Mode::Fresh => bare::fresh(&component, workers, effort.time),
                Mode::Reused => bare::reused(&component, workers, effort.time),
                Mode::Batches => bare::batched(&component, workers, effort.time, BATCH_SIZE),
            });
            if mode == Mode::Fresh {
                call.push(sandboxed(&component, workers, effort.time));
            }
            dispatch.push(dispatched(path, workers, effort.messages, mode));
        }
        let (bare, dispatch) = (spread(bare), spread(dispatch));
        let share = |part: &Spread| part.median / bare.median * 100.0;
        let call = Some(call).filter(|call| !call.is_empty()).map(spread);
        let call = call.map_or_else(String::new, |call| format!("   call {call} ({:.0}%)", share(&call)));
        let reached = share(&dispatch);
        println!("{name}, {workers} core(s): bare loop {bare}{call}   dispatch {dispatch} ({reached:.0}%)");
        if reached < mode.share_min() {
            short.push(format!("{name}, {workers} core(s): {reached:.0}% of the bare loop, not {}%", mode.share_min()));
        }
        rates.push(dispatch.median);
    }
    let scaling = rates[1] / rates[0];
    println!("{name}: two workers on two cores dispatch {scaling:.2} times what one on one does");
    if scaling < SCALING_MIN {
        short.push(format!("{name}: two workers dispatch {scaling:.2} times what one does, not {SCALING_MIN} times"));
    }
    short
}

/// How messages are handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Each to an instance of its own.
    Fresh,
    /// To instances that are kept.
    Reused,
    /// A hundred to an instance of its own.
    Batches,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Fresh => "fresh",
            Mode::Reused => "reused",
            Mode::Batches => "batches",
        }
    }

    /// At least this share of the bare loop, in percent.
    fn share_min(self) -> f64 {
        match self {
            Mode::Fresh => 75.0,
            Mode::Reused | Mode::Batches => 50.0,
        }
    }
}

/// Figures of several rounds.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

fn spread(mut figures: Vec<f64>) -> Spread {
    figures.sort_by(f64::total_cmp);
    Spread { min: figures[0], median: figures[figures.len() / 2], max: figures[figures.len() - 1] }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ({:.0} to {:.0})", self.median, self.min, self.max)
    }
}

/// Messages a second from a filled queue through a consumer, until the last ack is durable.
fn dispatched(component: &Path, workers: usize, messages: usize, mode: Mode) -> f64 {
    // On the disk of the build, not on one in memory: the acks are synced.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    runtime.block_on(async {
        let broker = Arc::new(Embedded::open(folder.path(), 1 << 30).expect("the store opens"));
        let queue = QueueName::new("orders").expect("a queue name");
        broker
            .declare(&queue, QueueLimits { bytes_max: u64::MAX, dedup_window: Duration::ZERO, history: Duration::ZERO })
            .await
            .expect("declared");
        let message = NewMessage { body: Bytes::from_static(BODY), ..NewMessage::default() };
        for chunk in vec![message; messages].chunks(5_000) {
            broker.publish(&queue, chunk.to_vec()).await.expect("published");
        }
        let consumer = ConsumerConfig {
            name: "noop".to_owned(),
            queue: queue.clone(),
            source: Source::Component(component.to_owned()),
            max_concurrency: PERMITS * workers,
            max_batch_size: if mode == Mode::Batches { BATCH_SIZE } else { 1 },
            max_batch_timeout: Duration::ZERO,
            timeout: Duration::from_secs(30),
            max_retries: 4,
            retry_delay: Duration::from_secs(1),
            retry_delay_max: Duration::from_secs(600),
            dead_letter_queue: QueueName::new("orders.dead").expect("a queue name"),
            memory_bytes_max: 128 << 20,
            reuse: (mode == Mode::Reused)
                .then_some(Reuse { max_deliveries: 1000, idle_timeout: Duration::from_secs(60) }),
            rate_limit: None,
            canary: None,
            limits: Limits::default(),
            config: BTreeMap::new(),
            grants: Grants::default(),
        };
        let consumers = vec![consumer];
        let shares = Shares::new(&consumers, workers);
        let cache_dir = folder.path().join("cache");
        let options = SandboxOptions { workers, slots: shares.slots(), cache_dir, ca_file: None };
        let sandbox = Sandbox::start(options).expect("the sandbox starts");
        let dispatcher = Dispatcher::start(sandbox, &shares, broker.clone(), Arc::new(Board::default()), consumers);

        let left = async || {
            let stats = broker.queue(&queue).await.expect("it is declared");
            stats.ready + stats.delayed + stats.leased
        };
        // The first hundredth warms up.
        let rest = loop {
            let rest = left().await;
            if rest <= messages as u64 * 99 / 100 {
                break rest;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let started = Instant::now();
        loop {
            let now = left().await;
            if now == 0 {
                break;
            }
            // Each look takes something of what is measured: so it comes when half of the rest should be done.
            let done = (rest - now).max(1);
            let half = started.elapsed().mul_f64(now as f64 / done as f64 / 2.0);
            tokio::time::sleep(half.clamp(Duration::from_millis(1), Duration::from_millis(50))).await;
        }
        let rate = rest as f64 / started.elapsed().as_secs_f64();
        dispatcher.drain(Duration::from_secs(5)).await;
        broker.close();
        rate
    })
}

/// Calls a second through the sandbox, one after another on each worker.
fn sandboxed(component: &[u8], workers: usize, time: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = SandboxOptions { workers, slots: 64, cache_dir: folder.path().to_owned(), ca_file: None };
    let sandbox = Sandbox::start(options).expect("the sandbox starts");
    let settings = Arc::new(InstanceSettings {
        consumer: "noop".to_owned(),
        queue: QueueName::new("orders").expect("a queue name"),
        memory_bytes_max: 128 << 20,
        timeout: Duration::from_secs(30),
        max_batch_size: 1,
        limits: Limits::default(),
        config: BTreeMap::new(),
        state: None,
        grants: Grants::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    let module = runtime.block_on(sandbox.load(component.into(), settings.clone())).expect("the guest loads");
    let (done, rates) = mpsc::channel();
    for worker in 0..workers {
        let (module, settings, done) = (module.clone(), settings.clone(), done.clone());
        sandbox.spawn(worker, move |worker| async move {
            let delivery = delivery();
            let one = async || {
                let slot = worker.slots(1).await.pop().expect("at least one");
                let report = module.call(&worker, slot, &settings, &delivery).await;
                assert_eq!(report.outcome, Outcome::Ack);
            };
            for _ in 0..1000 {
                one().await;
            }
            let (started, mut calls) = (Instant::now(), 0u32);
            while started.elapsed() < time {
                for _ in 0..100 {
                    one().await;
                }
                calls += 100;
            }
            done.send(f64::from(calls) / started.elapsed().as_secs_f64()).expect("main waits");
        });
    }
    drop(done);
    let rate = rates.iter().sum();
    sandbox.stop(Duration::from_secs(1));
    rate
}

fn delivery() -> Delivery {
    Delivery {
        message: Message {
            id: MessageId::new(0, 1),
            body: Bytes::from_static(BODY),
            content_type: None,
            key: None,
            attributes: Vec::new(),
            enqueued_at_ms: 0,
        },
        attempt: 1,
        first_failed_at_ms: None,
        lease: Lease { queue: 1, position: 1, token: 1 },
    }
}
