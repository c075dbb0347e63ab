//! From ready messages to settled ones: permits → claim → handle → settle.
//!
//! For each consumer, one task watches where its component comes from (`reload`, `build`) and takes new versions into
//! use (`generation`), on trial first if it has to (`canary`); and on each worker's thread one task claims messages, hands them to the component and settles
//! them (`puller`, `gather` for batches, `settler`), as the consumer's configuration says (`policy`, `share`, `pace`, `rate`).
//!
//! Consumers are added, changed and removed while all others go on (`change`, `at_work`): the pullers of one that was
//! changed are *retired*, which means that they claim nothing more and end with what they run, under the settings that it
//! began with; new ones take their place. What both run together stays within the consumer's share (`room`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};

use self::at_work::AtWork;
use self::build::Builder;
use self::generation::Seed;
use self::reload::{Loader, SandboxLoader, Turns};
use self::room::Room;
use crate::broker::Broker;
use crate::config::{ConsumerConfig, Source};
use crate::sandbox::{Module, ModuleHash, Sandbox};
use crate::status::Board;

mod at_work;
mod build;
mod canary;
pub mod change;
pub(crate) mod fingerprint;
mod gather;
mod generation;
mod pace;
pub mod policy;
mod puller;
mod rate;
mod reload;
mod room;
mod settler;
mod share;
mod start;
mod state;

pub use self::canary::Canary;
pub use self::change::Change;
pub use self::generation::{Generation, InForce, Serving};
pub use self::share::{Shares, TooMany};

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
    kitchen: Kitchen,
    shares: Shares,
    consumers: BTreeMap<String, AtWork>,
    phase: watch::Sender<Phase>,
    /// Closed once every puller has ended: each holds a sender and sends nothing.
    pullers: mpsc::Receiver<Infallible>,
}

/// What all consumers share.
struct Kitchen {
    sandbox: Arc<Sandbox>,
    broker: Arc<dyn Broker>,
    board: Arc<Board>,
    builder: Arc<Builder>,
    turns: Turns,
    /// By worker.
    rooms: Vec<Arc<Room>>,
    phase: watch::Receiver<Phase>,
    ended: mpsc::Sender<Infallible>,
}

impl fmt::Debug for Kitchen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kitchen").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

/// What a new set of consumers needs: everything that can fail has been done.
#[derive(Debug)]
pub struct Prepared {
    shares: Shares,
    /// Names that the new set does not have.
    removed: Vec<String>,
    added: Vec<ConsumerConfig>,
    changed: Vec<Changed>,
}

/// One consumer that stays and is not as it was.
#[derive(Debug)]
struct Changed {
    config: ConsumerConfig,
    change: Change,
    seed: Seed<Module>,
    /// The component at its new place.
    loaded: Option<(Module, ModuleHash)>,
}

/// Why a set of consumers can't be taken into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The consumer, if it is one of them.
    pub consumer: Option<String>,
    /// For people.
    pub reason: String,
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
        let phase = watch::Sender::new(Phase::Running);
        let kitchen = Kitchen {
            rooms: (0..sandbox.workers()).map(|_| Room::new(shares.slots())).collect(),
            sandbox: Arc::new(sandbox),
            broker,
            board,
            builder: Arc::default(),
            turns: Turns::default(),
            phase: phase.subscribe(),
            ended,
        };
        let mut dispatcher = Dispatcher { kitchen, shares: shares.clone(), consumers: BTreeMap::new(), phase, pullers };
        for config in consumers {
            let at_work = AtWork::begin(config, &dispatcher.kitchen, &dispatcher.shares);
            dispatcher.consumers.insert(at_work.config.name.clone(), at_work);
        }
        dispatcher
    }

    /// Does what can fail of a change to other consumers, and nothing that anybody sees: components are linked with what
    /// they may do then, and those at another place are loaded.
    pub async fn prepare(&self, consumers: &BTreeMap<String, ConsumerConfig>) -> Result<Prepared, Refused> {
        let all: Vec<ConsumerConfig> = consumers.values().cloned().collect();
        let shares = self.shares.again(&all);
        let shares = shares.map_err(|error| Refused { consumer: None, reason: error.to_string() })?;
        let removed = self.consumers.keys().filter(|name| !consumers.contains_key(*name)).cloned().collect();
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for config in all {
            let Some(at_work) = self.consumers.get(&config.name) else {
                added.push(config);
                continue;
            };
            let change = Change::between(&at_work.config, &config);
            if change.is_any() {
                let name = config.name.clone();
                let prepared = self.prepare_one(at_work, config, change).await;
                changed.push(prepared.map_err(|reason| Refused { consumer: Some(name), reason })?);
            }
        }
        Ok(Prepared { shares, removed, added, changed })
    }

    async fn prepare_one(&self, at_work: &AtWork, config: ConsumerConfig, change: Change) -> Result<Changed, String> {
        let sandbox = &self.kitchen.sandbox;
        let settings = Arc::new(at_work::settings(&config, &self.kitchen.broker));
        let in_force = at_work.generations.module();
        let relinked = match &in_force {
            Some((module, hash)) if change.relink => {
                let relinked = sandbox.relink(module, settings.clone()).await;
                relinked.map(|module| Seed::Relinked(module, *hash)).map_err(|error| error.to_string())
            }
            _ => Ok(Seed::Same),
        };
        // A component that is there already takes over at once. A package has to be built first: until then, and if there
        // is something wrong with the component, what is in force goes on.
        let mut loaded = Ok(None);
        if let (true, Source::Component(path)) = (change.source, &config.source) {
            loaded = match tokio::fs::read(path).await {
                Ok(component) => {
                    let component: Arc<[u8]> = component.into();
                    let hash = reload::hash(&component);
                    let loader = SandboxLoader { sandbox: sandbox.clone(), settings };
                    loader.load(component).await.map(|module| Some((module, hash)))
                }
                Err(error) => Err(format!("can't read {}: {error}", path.display())),
            };
        }
        let seed = match (relinked, &loaded) {
            (Ok(seed), _) => seed,
            // The code that it has can't be used any more, but the new one can; or it has to be built first.
            (Err(_), Ok(Some(_))) => Seed::Nothing,
            (Err(_), Ok(None)) if change.source => Seed::Nothing,
            (Err(reason), Err(error)) => {
                return Err(format!("{error}; and what is in force can't go on: {reason}"));
            }
            (Err(reason), Ok(None)) => return Err(reason),
        };
        // Why there is none comes up again where the component is watched, and is shown from then on.
        Ok(Changed { config, change, seed, loaded: loaded.ok().flatten() })
    }

    /// Stops those that are changed or removed from claiming, and waits until they do. What they handle goes on.
    pub async fn retire(&mut self, prepared: &Prepared) {
        let changed = prepared.changed.iter().filter(|changed| changed.change.pullers).map(|one| &one.config.name);
        let leaving: Vec<&String> = prepared.removed.iter().chain(changed).collect();
        for name in &leaving {
            if let Some(at_work) = self.consumers.get(*name) {
                at_work.retire(&self.kitchen);
            }
        }
        let stopping = self.consumers.iter_mut().filter(|(name, _)| leaving.contains(name));
        join_all(stopping.map(|(_, at_work)| at_work.stopped_claiming())).await;
    }

    /// Takes the new set into use. What is removed or replaced must have been retired.
    pub async fn apply(&mut self, prepared: Prepared) {
        let Prepared { shares, removed, added, changed } = prepared;
        self.shares = shares;
        for name in removed {
            if let Some(at_work) = self.consumers.remove(&name) {
                at_work.leave(&self.kitchen).await;
            }
        }
        for Changed { config, change, seed, loaded } in changed {
            let Some(before) = self.consumers.remove(&config.name) else { continue };
            let name = config.name.clone();
            let after = before.become_as(config, change, (seed, loaded), &self.kitchen, &self.shares).await;
            self.consumers.insert(name, after);
        }
        for config in added {
            let at_work = AtWork::begin(config, &self.kitchen, &self.shares);
            self.consumers.insert(at_work.config.name.clone(), at_work);
        }
        // For all: those that were not touched may have another share.
        for at_work in self.consumers.values_mut() {
            at_work.take_share(&self.kitchen, &self.shares);
        }
        self.tell_cut();
    }

    /// Says which consumers run fewer deliveries at once than they are meant to.
    pub fn tell_cut(&self) {
        if !self.shares.cut.is_empty() {
            let consumers = self.shares.cut.join(", ");
            tracing::warn!(
                consumers,
                "run fewer deliveries at once than max_concurrency: the workers have no more room"
            );
        }
    }

    /// Claims nothing more, lets what runs end within `timeout`, and puts it on record. What was claimed and had not begun
    /// is given back. Then the workers stop.
    pub async fn drain(self, timeout: Duration) -> Drained {
        let Dispatcher { kitchen, consumers, phase, mut pullers, .. } = self;
        let Kitchen { sandbox, board, rooms, ended, .. } = kitchen;
        // What is left are those of the pullers.
        drop(ended);
        join_all(consumers.into_values().map(|at_work| at_work.drain(&board))).await;
        let tell = |now| {
            phase.send_replace(now);
            rooms.iter().for_each(|room| room.wake());
        };
        tell(Phase::Draining);
        let in_time = tokio::time::timeout(timeout, pullers.recv()).await.is_ok();
        let cut_off = if in_time { 0 } else { board.all().iter().map(|status| status.running).sum() };
        tell(Phase::Stopped);
        if !in_time {
            // A guest that does not yield keeps its worker's thread from noticing; then it is left behind.
            _ = tokio::time::timeout(STOP_PATIENCE, pullers.recv()).await;
        }
        // A load that is still at work on its blocking thread holds the sandbox, and ends with the process.
        if let Some(sandbox) = Arc::into_inner(sandbox) {
            _ = tokio::task::spawn_blocking(move || sandbox.stop(STOP_PATIENCE)).await;
        }
        Drained { cut_off }
    }
}
