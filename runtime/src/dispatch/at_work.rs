//! One consumer at work: its pullers, its generations, and the task that watches where its component comes from.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::change::Change;
use super::gather::{BatchLimits, Suspects};
use super::generation::{Generations, Seed};
use super::policy::Policy;
use super::puller::{Consumer, Puller};
use super::rate::Rate;
use super::reload::{self, Intake, SandboxLoader, Timing};
use super::state;
use super::{Kitchen, Shares};
use crate::broker::Broker;
use crate::config::{ConsumerConfig, Source};
use crate::hints::Hints;
use crate::sandbox::{InstanceSettings, Module, ModuleHash};
use crate::status::{Board, ConsumerState};

/// Tells one set of pullers from the next.
static LINES: AtomicU64 = AtomicU64::new(0);

/// One consumer at work.
#[derive(Debug)]
pub(super) struct AtWork {
    pub(super) config: ConsumerConfig,
    pub(super) generations: Generations<Module>,
    shared: Shared,
    follower: Follower,
    line: Line,
}

/// What the pullers of a consumer share, also those that come after an edit with those before it.
#[derive(Debug, Clone, Default)]
struct Shared {
    suspects: Arc<Suspects>,
    rate: Option<Arc<Rate>>,
}

/// The pullers of a consumer that are not retired.
#[derive(Debug)]
struct Line {
    number: u64,
    name: Arc<str>,
    consumer: Consumer,
    /// Whether there is one, by worker.
    on: Vec<bool>,
    /// Held here for the pullers that are still to come.
    claims: mpsc::Sender<Infallible>,
    /// Closed once none of them claims or begins anything.
    claiming: mpsc::Receiver<Infallible>,
    ended: mpsc::Sender<Infallible>,
    /// Closed once all of them have ended.
    running: mpsc::Receiver<Infallible>,
}

/// Watches where a component comes from, for as long as this is kept.
#[derive(Debug)]
struct Follower(JoinHandle<()>);

impl Follower {
    fn start(config: &ConsumerConfig, generations: Generations<Module>, kitchen: &Kitchen) -> Follower {
        let loader =
            SandboxLoader { sandbox: kitchen.sandbox.clone(), settings: Arc::new(settings(config, &kitchen.broker)) };
        let intake = Intake::new(loader, generations, kitchen.turns.clone());
        let (hints, timing) = (Hints::new(), Timing::default());
        Follower(match &config.source {
            Source::Package(package) => {
                let (package, builder) = (package.clone(), kitchen.builder.clone());
                tokio::spawn(reload::follow_source(package, builder, intake, hints, timing))
            }
            Source::Component(path) => tokio::spawn(reload::follow_file(path.clone(), intake, hints, timing)),
        })
    }

    /// Ends it. Nothing is taken into use by it any more when this returns.
    async fn stop(mut self) {
        self.0.abort();
        // It was told to end: that is how it ends.
        _ = (&mut self.0).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl AtWork {
    /// A consumer that is new. It is on the board as loading.
    pub(super) fn begin(config: ConsumerConfig, kitchen: &Kitchen, shares: &Shares) -> AtWork {
        let (name, queue) = (&config.name, config.queue.as_str());
        let generations = Generations::new(name, queue, kitchen.board.clone(), config.canary);
        let follower = Follower::start(&config, generations.clone(), kitchen);
        let shared = Shared::default().under(&config);
        let line = Line::begin(&config, &generations, &shared, kitchen, shares);
        AtWork { config, generations, shared, follower, line }
    }

    /// Makes its pullers claim nothing more.
    pub(super) fn retire(&self, kitchen: &Kitchen) {
        self.line.consumer.retired.store(true, Ordering::Release);
        kitchen.rooms.iter().for_each(|room| room.close(&self.line.name));
    }

    /// Waits until its pullers, which were retired, claim and begin nothing more.
    pub(super) async fn stopped_claiming(&mut self) {
        let (unused, _) = mpsc::channel(1);
        self.line.claims = unused;
        self.line.claiming.recv().await;
    }

    /// The same consumer with another configuration. If its pullers are replaced, they must have been retired.
    pub(super) async fn become_as(
        self,
        config: ConsumerConfig,
        change: Change,
        (seed, loaded): (Seed<Module>, Option<(Module, ModuleHash)>),
        kitchen: &Kitchen,
        shares: &Shares,
    ) -> AtWork {
        let AtWork { generations, shared, follower, line, .. } = self;
        let shared = shared.under(&config);
        let (generations, follower) = if change.follower {
            follower.stop().await;
            let generations = generations.succeed(config.queue.as_str(), config.canary, seed);
            // The same bytes at another place are nothing new.
            if let Some((module, hash)) = loaded.filter(|(_, hash)| generations.hash() != Some(*hash)) {
                generations.swap(module, hash);
            }
            let follower = Follower::start(&config, generations.clone(), kitchen);
            (generations, follower)
        } else {
            (generations, follower)
        };
        let line = match change.pullers {
            true => Line::begin(&config, &generations, &shared, kitchen, shares),
            false => line,
        };
        AtWork { config, generations, shared, follower, line }
    }

    /// Gives it what it may run now.
    pub(super) fn take_share(&mut self, kitchen: &Kitchen, shares: &Shares) {
        self.line.take_share(kitchen, shares);
    }

    /// It has gone from `queue.toml`, and was retired. It stays on the board until what it handles has ended.
    pub(super) async fn leave(self, kitchen: &Kitchen) {
        let AtWork { config, follower, line, .. } = self;
        follower.stop().await;
        let Line { ended, mut running, .. } = line;
        drop(ended);
        let board = kitchen.board.clone();
        board.update(&config.name, config.queue.as_str(), |status| {
            (status.state, status.canary, status.reload_error) = (ConsumerState::Removed, None, None);
        });
        tokio::spawn(async move {
            running.recv().await;
            board.forget_removed(&config.name);
        });
    }

    /// The runtime is stopping.
    pub(super) async fn drain(self, board: &Board) {
        self.follower.stop().await;
        let queue = self.config.queue.as_str();
        board.update(&self.config.name, queue, |status| status.state = ConsumerState::Draining);
    }
}

impl Shared {
    /// The same for the consumer as it is configured now.
    fn under(self, config: &ConsumerConfig) -> Shared {
        let batches = batches(config);
        let rate = config.rate_limit.map(|limit| match self.rate {
            Some(rate) => {
                rate.change(limit, batches);
                rate
            }
            None => Arc::new(Rate::new(limit, batches)),
        });
        Shared { rate, ..self }
    }
}

fn batches(config: &ConsumerConfig) -> Option<BatchLimits> {
    let limits = BatchLimits { size_max: config.max_batch_size, wait_max: config.max_batch_timeout };
    (config.max_batch_size > 1).then_some(limits)
}

impl Line {
    fn begin(
        config: &ConsumerConfig,
        generations: &Generations<Module>,
        shared: &Shared,
        kitchen: &Kitchen,
        shares: &Shares,
    ) -> Line {
        state::limit(config, &*kitchen.broker);
        let rate_limit = config.rate_limit.map(|limit| limit.to_string());
        kitchen.board.update(&config.name, config.queue.as_str(), |status| status.rate_limit = rate_limit);
        let (claims, claiming) = mpsc::channel(1);
        let (ended, running) = mpsc::channel(1);
        let consumer = Consumer {
            broker: kitchen.broker.clone(),
            policy: Arc::new(Policy::new(config)),
            settings: Arc::new(settings(config, &kitchen.broker)),
            batches: batches(config),
            suspects: shared.suspects.clone(),
            rate: shared.rate.clone(),
            reuse: config.reuse,
            in_force: generations.subscribe(),
            phase: kitchen.phase.clone(),
            pauses: kitchen.board.pauses().subscribe(),
            workers: kitchen.rooms.len(),
            retired: Arc::default(),
        };
        let number = LINES.fetch_add(1, Ordering::Relaxed);
        let on = vec![false; kitchen.rooms.len()];
        let mut line =
            Line { number, name: config.name.as_str().into(), consumer, on, claims, claiming, ended, running };
        line.take_share(kitchen, shares);
        line
    }

    fn take_share(&mut self, kitchen: &Kitchen, shares: &Shares) {
        for (worker, room) in kitchen.rooms.iter().enumerate() {
            let share = shares.permits(&self.name, worker);
            if share > 0 && !self.on[worker] {
                self.on[worker] = true;
                self.spawn(worker, kitchen);
            }
            if self.on[worker] {
                room.set_share(&self.name, share);
            }
        }
    }

    fn spawn(&self, worker: usize, kitchen: &Kitchen) {
        let counters = kitchen.board.counters(&self.name, self.consumer.policy.queue.as_str());
        let seat = kitchen.rooms[worker].seat(&self.name, self.number);
        let (consumer, claims) = (self.consumer.clone(), self.claims.clone());
        let (ended, all_ended) = (self.ended.clone(), kitchen.ended.clone());
        kitchen.sandbox.spawn(worker, move |worker| async move {
            Puller::new(consumer, worker, seat, claims, counters).run().await;
            drop((ended, all_ended));
        });
    }
}

/// What a consumer's instances may use.
pub(super) fn settings(config: &ConsumerConfig, broker: &Arc<dyn Broker>) -> InstanceSettings {
    InstanceSettings {
        consumer: config.name.clone(),
        queue: config.queue.clone(),
        memory_bytes_max: config.memory_bytes_max,
        timeout: config.timeout,
        max_batch_size: config.max_batch_size,
        limits: config.limits.clone(),
        config: config.config.clone(),
        state: state::of(config, broker),
        grants: config.grants.clone(),
    }
}
