//! From ready messages to settled ones: permits → claim → handle → settle.
//!
//! For each consumer, one task watches where its component comes from (`reload`, `build`) and takes new versions into
//! use (`generation`), on trial first if it has to (`canary`); and on each worker's thread one task claims messages, hands them to the component and settles
//! them (`puller`, `gather` for batches, `settler`), as the consumer's configuration says (`policy`, `share`, `pace`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::build::Builder;
use self::gather::BatchLimits;
use self::generation::Generations;
use self::hints::Hints;
use self::policy::Policy;
use self::puller::{Consumer, Puller};
use self::reload::{Intake, SandboxLoader, Timing};
use crate::broker::Broker;
use crate::config::{ConsumerConfig, Source};
use crate::sandbox::{InstanceSettings, Sandbox};
use crate::status::{Board, ConsumerState};

mod build;
mod canary;
mod fingerprint;
mod gather;
mod generation;
mod hints;
mod pace;
pub mod policy;
mod puller;
mod reload;
mod settler;
mod share;

pub use self::canary::Canary;
pub use self::generation::{Generation, InForce, Serving};
pub use self::share::Shares;

/// How long after the drain's end the pullers have to notice it, and the workers to end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What the pullers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Claim and handle.
    Running,
    /// Claim nothing more; let what runs end, and settle it.
    Draining,
    /// End now.
    Stopped,
}

/// All consumers at work.
#[derive(Debug)]
pub struct Dispatcher {
    sandbox: Arc<Sandbox>,
    board: Arc<Board>,
    phase: watch::Sender<Phase>,
    /// Closed once every puller has ended: each holds a sender and sends nothing.
    pullers: mpsc::Receiver<Infallible>,
    reloads: JoinSet<()>,
    consumers: Vec<ConsumerConfig>,
}

/// How a drain has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Deliveries that were still running when the time was up. They come back at the next start, their attempt counted.
    pub cut_off: u64,
}

impl Dispatcher {
    /// Starts the consumers on a sandbox that has `shares.slots()` for each worker. All of them are on the board as
    /// loading when this returns; each takes messages from the moment that its component is built and loaded. Their
    /// queues and dead-letter queues must have been declared. To be called within a tokio runtime, which is where
    /// components are watched and built.
    pub fn start(
        sandbox: Sandbox,
        shares: &Shares,
        broker: Arc<dyn Broker>,
        board: Arc<Board>,
        consumers: Vec<ConsumerConfig>,
    ) -> Dispatcher {
        let (ended, pullers) = mpsc::channel(1);
        let mut dispatcher = Dispatcher {
            sandbox: Arc::new(sandbox),
            board,
            phase: watch::Sender::new(Phase::Running),
            pullers,
            reloads: JoinSet::new(),
            consumers,
        };
        let builder = Arc::new(Builder::default());
        for (index, config) in dispatcher.consumers.iter().enumerate() {
            let settings = Arc::new(InstanceSettings {
                consumer: config.name.clone(),
                queue: config.queue.clone(),
                memory_bytes_max: config.memory_bytes_max,
                timeout: config.timeout,
                max_batch_size: config.max_batch_size,
                limits: config.limits.clone(),
                config: config.config.clone(),
                grants: config.grants.clone(),
            });
            let (name, queue) = (&config.name, config.queue.as_str());
            let generations = Generations::new(name, queue, dispatcher.board.clone(), config.canary);
            let consumer = Consumer {
                broker: broker.clone(),
                policy: Arc::new(Policy::new(config)),
                settings: settings.clone(),
                batches: (config.max_batch_size > 1)
                    .then_some(BatchLimits { size_max: config.max_batch_size, wait_max: config.max_batch_timeout }),
                suspects: Arc::default(),
                reuse: config.reuse,
                in_force: generations.subscribe(),
                phase: dispatcher.phase.subscribe(),
                pauses: dispatcher.board.pauses().subscribe(),
            };
            for worker in 0..dispatcher.sandbox.workers() {
                let permits = shares.permits(index, worker);
                if permits > 0 {
                    let counters = dispatcher.board.counters(&config.name, config.queue.as_str());
                    let (consumer, ended) = (consumer.clone(), ended.clone());
                    dispatcher.sandbox.spawn(worker, move |worker| async move {
                        Puller::new(consumer, worker, permits, counters).run().await;
                        drop(ended);
                    });
                }
            }
            let loader = SandboxLoader { sandbox: dispatcher.sandbox.clone(), settings };
            let intake = Intake::new(loader, generations);
            match &config.source {
                Source::Package(package) => dispatcher.reloads.spawn(reload::follow_source(
                    package.clone(),
                    builder.clone(),
                    intake,
                    Hints::new(),
                    Timing::default(),
                )),
                Source::Component(path) => {
                    dispatcher.reloads.spawn(reload::follow_file(path.clone(), intake, Hints::new(), Timing::default()))
                }
            };
        }
        dispatcher
    }

    /// Claims nothing more, lets what runs end within `timeout`, and puts it on record. What was claimed and had not begun
    /// is given back. Then the workers stop.
    pub async fn drain(mut self, timeout: Duration) -> Drained {
        self.reloads.shutdown().await;
        for config in &self.consumers {
            self.board.update(&config.name, config.queue.as_str(), |status| status.state = ConsumerState::Draining);
        }
        self.phase.send_replace(Phase::Draining);
        let in_time = tokio::time::timeout(timeout, self.pullers.recv()).await.is_ok();
        let cut_off = if in_time { 0 } else { self.board.all().iter().map(|status| status.running).sum() };
        self.phase.send_replace(Phase::Stopped);
        if !in_time {
            // A guest that does not yield keeps its worker's thread from noticing; then it is left behind.
            _ = tokio::time::timeout(STOP_PATIENCE, self.pullers.recv()).await;
        }
        // A load that is still at work on its blocking thread holds the sandbox, and ends with the process.
        if let Some(sandbox) = Arc::into_inner(self.sandbox) {
            _ = tokio::task::spawn_blocking(move || sandbox.stop(STOP_PATIENCE)).await;
        }
        Drained { cut_off }
    }
}
