//! What the runtime adds to a call, in one run, with a no-op component built from Rust and a 200-byte body:
//!
//! - *bare loop*: wasmtime alone, instantiate and call, with the sandbox's engine settings;
//! - *call*: the same with limits, grants and output, as a delivery is run ([`linecook::sandbox::Module::call`]);
//! - *dispatch*: claim → handle → settle on a filled queue, each ack durable.
//!
//! The first and the last also with instances that are reused, and with batches of 100 messages (a fresh instance each).
//!
//! `--quick` is for a test that it runs at all: short, and nothing is required of the figures.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use linecook::broker::embedded::Embedded;
use linecook::broker::{Broker, QueueLimits};
use linecook::config::{ConsumerConfig, Grants, Limits, Reuse, Source};
use linecook::delivery::{Delivery, Lease, Message, MessageId, NewMessage, Outcome, QueueName};
use linecook::dispatch::{Dispatcher, Shares};
use linecook::sandbox::{InstanceSettings, Sandbox, SandboxOptions};
use linecook::status::Board;

#[path = "dispatch/bare.rs"]
mod bare;
#[path = "../tests/support/guests.rs"]
mod guests;

const BODY_BYTES: usize = 200;

/// At least this share of the bare loop.
const SHARE_MIN: f64 = 0.6;
/// What is wanted of reused instances and of batches, in percent of their bare loops.
const OTHERS_SHARE_WANTED: f64 = 50.0;
/// Messages of a batch.
const BATCH_SIZE: usize = 100;
/// Two workers do at least this much more than one.
const SCALING_MIN: f64 = 1.7;

/// How long each figure is measured.
struct Effort {
    rounds: usize,
    time: Duration,
    messages: usize,
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick {
        Effort { rounds: 1, time: Duration::from_millis(200), messages: 5_000 }
    } else {
        Effort { rounds: 5, time: Duration::from_secs(2), messages: 250_000 }
    };
    let path = guests::component("noop");
    let component = std::fs::read(&path).expect("the guest was just built");
    let batch_path = guests::component("noop-batch");
    let batch_component = std::fs::read(&batch_path).expect("the guest was just built");
    println!(
        "{BODY_BYTES} B bodies; {} rounds of {:?} a loop and {} messages through dispatch; {} cores; median (min to max) \
         messages a second:",
        effort.rounds,
        effort.time,
        effort.messages,
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    let mut fresh = Vec::new();
    let mut others = Vec::new();
    for workers in [1, 2] {
        let mut figures = [const { Vec::new() }; 7];
        // In turn, so that a machine that changes its speed changes it for all of them.
        for _ in 0..effort.rounds {
            figures[0].push(bare::fresh(&component, workers, effort.time));
            figures[1].push(sandboxed(&component, workers, effort.time));
            figures[2].push(dispatched(&path, workers, effort.messages, Mode::Fresh));
            figures[3].push(bare::reused(&component, workers, effort.time));
            figures[4].push(dispatched(&path, workers, effort.messages, Mode::Reused));
            figures[5].push(bare::batched(&batch_component, workers, effort.time, BATCH_SIZE));
            figures[6].push(dispatched(&batch_path, workers, effort.messages, Mode::Batches));
        }
        let [bare, call, dispatch, bare_reused, reused, bare_batched, batched] = figures.map(spread);
        let share = |part: &Spread, whole: &Spread| part.median / whole.median * 100.0;
        println!(
            "{workers} worker(s), fresh:    bare loop {bare}   call {call} ({:.0}%)   dispatch {dispatch} ({:.0}%)",
            share(&call, &bare),
            share(&dispatch, &bare)
        );
        for (name, bare, dispatch) in [("reused:  ", &bare_reused, &reused), ("batches: ", &bare_batched, &batched)] {
            println!(
                "{workers} worker(s), {name} bare loop {bare}   dispatch {dispatch} ({:.0}%)",
                share(dispatch, bare)
            );
            others.push((name.trim_end_matches([' ', ':']), share(dispatch, bare)));
        }
        fresh.push((bare.median, dispatch.median));
    }
    let scaling = fresh[1].1 / fresh[0].1;
    println!("two workers dispatch {scaling:.2} times what one does, with fresh instances");
    let share = fresh.iter().map(|(bare, dispatch)| dispatch / bare).fold(f64::INFINITY, f64::min);
    for (name, share) in others.iter().filter(|(_, share)| *share < OTHERS_SHARE_WANTED) {
        println!("short of what is wanted: {name} {share:.0}% of the bare loop, not {OTHERS_SHARE_WANTED:.0}%");
    }
    if quick || (share >= SHARE_MIN && scaling >= SCALING_MIN) {
        return ExitCode::SUCCESS;
    }
    println!("short of what is required: {:.0}% of the bare loop, {SCALING_MIN} times", SHARE_MIN * 100.0);
    ExitCode::FAILURE
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
fn dispatched(component: &std::path::Path, workers: usize, messages: usize, mode: Mode) -> f64 {
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
        let message = NewMessage { body: vec![b'x'; BODY_BYTES].into(), ..NewMessage::default() };
        for chunk in vec![message; messages].chunks(5_000) {
            broker.publish(&queue, chunk.to_vec()).await.expect("published");
        }
        let consumer = ConsumerConfig {
            name: "noop".to_owned(),
            queue: queue.clone(),
            source: Source::Component(component.to_owned()),
            max_concurrency: 128 * workers,
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
        while left().await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
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
            body: vec![b'x'; BODY_BYTES].into(),
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
