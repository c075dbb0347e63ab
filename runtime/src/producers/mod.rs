//! What feeds queues from outside: schedules ([`cron`]), files that grow ([`tail`]), files that appear ([`watch`]) and
//! requests of providers ([`webhook`]). Each module says what its keys mean.
//!
//! All kinds share `kind`, `queue` or `subject` (all queues that subscribe to it, in one step), `content_type`, `key` (the ordering key of all its messages) and `attributes`.
//!
//! A producer commits its messages and how far it has come in one atomic step (the state space `producer/NAME`), so that
//! whenever the process ends, nothing is lost and nothing sent twice. What it knows stays in the store when it is taken
//! out of `queue.toml`: if one of its name comes back, it goes on where it was.

pub mod clock;
pub mod cron;
mod file_id;
mod outlet;
pub mod tail;
pub mod watch;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Mutex, watch as flag};
use tokio::task::JoinHandle;

use self::clock::Clock;
use self::outlet::{Outlet, Unsent};
use self::webhook::{Webhook, Webhooks};
use crate::broker::Broker;
use crate::config::ProducerConfig;
use crate::config::producers::ProducerKind;
use crate::status::Board;
use crate::status::producers::ProducerState;
use crate::subjects::Subjects;

/// The producers that run.
pub struct Producers {
    broker: Arc<dyn Broker>,
    subjects: Arc<Subjects>,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
    webhooks: Arc<Webhooks>,
    // Held while a set is applied, so that one is applied after the other.
    running: Mutex<BTreeMap<String, Running>>,
}

/// One of them.
struct Running {
    config: ProducerConfig,
    work: Work,
}

enum Work {
    Task { stop: flag::Sender<bool>, task: JoinHandle<()> },
    Webhook(Option<(String, Arc<Webhook>)>),
}

impl Producers {
    /// None yet: see [`Producers::apply`].
    pub fn new(
        broker: Arc<dyn Broker>,
        subjects: Arc<Subjects>,
        board: Arc<Board>,
        clock: Arc<dyn Clock>,
    ) -> Producers {
        Producers { broker, subjects, board, clock, webhooks: Arc::default(), running: Mutex::default() }
    }

    /// The routes of those that are webhooks.
    pub fn webhooks(&self) -> Arc<Webhooks> {
        self.webhooks.clone()
    }

    /// Ends those that are not among these, or not as they are here. Webhooks that were changed go on until the new ones are
    /// there ([`Producers::apply`]).
    pub async fn withdraw(&self, configs: &BTreeMap<String, ProducerConfig>) {
        let mut running = self.running.lock().await;
        let stays = |name: &String, one: &Running| match (configs.get(name), &one.work) {
            (Some(config), Work::Webhook(_)) => matches!(config.kind, ProducerKind::Webhook(_)),
            (config, _) => config == Some(&one.config),
        };
        let (kept, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut *running).into_iter().partition(|(name, one)| stays(name, one));
        for name in ended.keys().filter(|name| !configs.contains_key(*name)) {
            self.board.producers().remove(name);
        }
        end(ended).await;
        *running = kept;
        self.replace_webhooks(&running);
    }

    fn replace_webhooks(&self, running: &BTreeMap<String, Running>) {
        self.webhooks.replace(running.values().filter_map(|one| match &one.work {
            Work::Webhook(route) => route.clone(),
            Work::Task { .. } => None,
        }));
    }

    /// From now on these run and no others. One whose configuration is the same is not disturbed; one that was changed
    /// ends first, and goes on where it was.
    pub async fn apply(&self, configs: &BTreeMap<String, ProducerConfig>) {
        self.withdraw(configs).await;
        let mut running = self.running.lock().await;
        for (name, config) in configs {
            if running.get(name).is_none_or(|one| one.config != *config) {
                running.insert(name.clone(), self.start(config));
            }
        }
        self.replace_webhooks(&running);
    }

    /// Ends all, and waits until what they have begun to send is on record.
    pub async fn stop(&self) {
        self.webhooks.close();
        let running = std::mem::take(&mut *self.running.lock().await);
        end(running).await;
    }

    fn start(&self, config: &ProducerConfig) -> Running {
        let entry = self.board.producers().enter(&config.name, config.kind.name(), config.target.clone());
        if let ProducerKind::Webhook(webhook) = &config.kind {
            let route = Webhook::new(config, webhook, entry, self.clock.clone());
            let route = route.map(|route| (webhook.path.clone(), Arc::new(route)));
            return Running { config: config.clone(), work: Work::Webhook(route) };
        }
        let (stop, stopped) = flag::channel(false);
        let outlet = Outlet::new((self.broker.clone(), self.subjects.clone()), config, entry, stopped);
        let (kind, clock) = (config.kind.clone(), self.clock.clone());
        let task = tokio::spawn(async move {
            let ended = match &kind {
                ProducerKind::Cron(cron) => cron::run(&outlet, cron, &clock).await,
                ProducerKind::Tail(tail) => tail::run(&outlet, tail).await,
                ProducerKind::Watch(watch) => watch::run(&outlet, watch).await,
                // It has no task.
                ProducerKind::Webhook(_) => Ok(()),
            };
            if let Err(Unsent::TooLarge) = ended {
                let error = "its state is larger than the log takes in one step: raise log_max_bytes";
                outlet.entry().error(ProducerState::Failed, error);
                tracing::error!(producer = outlet.name(), "the producer has ended: {error}");
            }
        });
        Running { config: config.clone(), work: Work::Task { stop, task } }
    }
}

/// Tells all to stop, then waits for each.
async fn end(running: BTreeMap<String, Running>) {
    for one in running.values() {
        if let Work::Task { stop, .. } = &one.work {
            stop.send_replace(true);
        }
    }
    for (name, one) in running {
        if let Work::Task { task, .. } = one.work
            && let Err(error) = task.await
        {
            tracing::error!(producer = name, %error, "the producer did not end well");
        }
    }
}

/// Does what blocks on the file system where that holds up nobody.
async fn blocking<S: Send + 'static, T: Send + 'static>(
    mut state: S,
    work: impl FnOnce(&mut S) -> T + Send + 'static,
) -> (S, T) {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut state);
        (state, result)
    });
    match done.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process is ending.
            Err(_) => std::future::pending().await,
        },
    }
}
