//! One loaded version of a consumer, and the change from one to the next. A delivery holds the generation that it
//! started with; a generation goes when its last delivery has ended.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::canary::{Canary, Verdict};
use crate::config::Canary as CanaryLimits;
use crate::delivery::MessageId;
use crate::sandbox::{Module, ModuleHash};
use crate::status::{Board, CanaryStatus, ConsumerState};

/// One loaded version of a consumer.
#[derive(Debug)]
pub struct Generation<M = Module> {
    /// 1 for the first, and one more each time.
    pub number: u64,
    /// What runs.
    pub module: M,
    /// What it was made of.
    pub hash: ModuleHash,
    /// When it was taken into use.
    pub loaded_at: SystemTime,
}

/// What deliveries are handed to.
#[derive(Debug)]
pub struct Serving<M = Module> {
    /// The generation in force.
    pub in_force: Arc<Generation<M>>,
    /// The one that is on trial, if any is.
    pub canary: Option<Arc<Canary<M>>>,
}

impl<M> Clone for Serving<M> {
    fn clone(&self) -> Serving<M> {
        Serving { in_force: self.in_force.clone(), canary: self.canary.clone() }
    }
}

impl<M> Serving<M> {
    /// The generation that handles a message. `turn` is kept from message to message.
    pub(super) fn generation_for(&self, message: MessageId, turn: &mut u32) -> &Arc<Generation<M>> {
        match &self.canary {
            Some(canary) if canary.takes(message, turn) => &canary.generation,
            _ => &self.in_force,
        }
    }

    /// Whether a delivery on this generation is on trial, or was when it began: a delivery can outlast the trial.
    pub(super) fn is_on_trial(&self, generation: &Generation<M>) -> bool {
        // What was in force before has a smaller number.
        generation.number > self.in_force.number
    }

    /// The numbers of the generations that deliveries are handed to.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let canary = self.canary.as_ref().map(|canary| canary.generation.number);
        [self.in_force.number].into_iter().chain(canary)
    }
}

/// The generation in force, as those see it that hand deliveries to it: none before the first.
pub type InForce<M = Module> = watch::Receiver<Option<Serving<M>>>;

/// The generations of one consumer: takes a new one into use, and says on the board why one was not.
#[derive(Debug)]
pub(super) struct Generations<M>(Arc<Shared<M>>);

impl<M> Clone for Generations<M> {
    fn clone(&self) -> Generations<M> {
        Generations(self.0.clone())
    }
}

/// What a consumer that was changed begins with.
#[derive(Debug)]
pub(super) enum Seed<M> {
    /// What is in force stays.
    Same,
    /// The module in force, linked with what the consumer may do now: a generation of its own.
    Relinked(M, ModuleHash),
    /// Nothing: its queue waits for the first module.
    Nothing,
}

/// What is also reached by the trial of a generation, which ends on a worker's thread.
#[derive(Debug)]
pub(super) struct Shared<M> {
    consumer: String,
    queue: String,
    canary: Option<CanaryLimits>,
    board: Arc<Board>,
    serving: watch::Sender<Option<Serving<M>>>,
    /// The newest number that was given. One that was rolled back is not given again.
    newest: AtomicU64,
    /// Modules that failed on trial, and how: they are not tried again.
    // A mutex, since a trial ends on a worker's thread; it is taken when a module comes or goes.
    rolled_back: Mutex<HashMap<ModuleHash, String>>,
}

impl<M> Generations<M> {
    /// None so far. The consumer is on the board from now on, as one that is loading. With `canary`, every generation but
    /// the first is on trial first.
    pub(super) fn new(consumer: &str, queue: &str, board: Arc<Board>, canary: Option<CanaryLimits>) -> Generations<M> {
        board.update(consumer, queue, |status| status.state = ConsumerState::Loading);
        Generations(Arc::new(Shared {
            consumer: consumer.to_owned(),
            queue: queue.to_owned(),
            canary,
            board,
            serving: watch::Sender::new(None),
            newest: AtomicU64::new(0),
            rolled_back: Mutex::default(),
        }))
    }

    /// The generations of the same consumer after it was changed. Numbers go on from here; nothing is on trial, and what was
    /// rolled back may be tried again unless everything about it is the same. These must not be used any more.
    pub(super) fn succeed(&self, queue: &str, canary: Option<CanaryLimits>, seed: Seed<M>) -> Generations<M> {
        let before = &self.0;
        let newest = before.newest.load(Ordering::Relaxed);
        let is_new = matches!(seed, Seed::Relinked(..));
        let (in_force, newest, rolled_back) = match seed {
            Seed::Same => {
                let rolled_back = before.rolled_back.lock().unwrap_or_else(PoisonError::into_inner).clone();
                (before.in_force(), newest, rolled_back)
            }
            Seed::Relinked(module, hash) => {
                let number = newest + 1;
                let generation = Generation { number, module, hash, loaded_at: SystemTime::now() };
                (Some(Arc::new(generation)), number, HashMap::new())
            }
            Seed::Nothing => (None, newest, HashMap::new()),
        };
        let after = Shared {
            consumer: before.consumer.clone(),
            queue: queue.to_owned(),
            canary,
            board: before.board.clone(),
            serving: watch::Sender::new(None),
            newest: AtomicU64::new(newest),
            rolled_back: Mutex::new(rolled_back),
        };
        after.board.update(&after.consumer, queue, |status| {
            status.queue = queue.to_owned();
            (status.canary, status.reload_error) = (None, None);
            if in_force.is_none() {
                (status.state, status.module_hash, status.loaded_at) = (ConsumerState::Loading, None, None);
            }
        });
        match in_force {
            Some(generation) if is_new => after.take(generation),
            Some(in_force) => _ = after.serving.send_replace(Some(Serving { in_force, canary: None })),
            None => {}
        }
        Generations(Arc::new(after))
    }

    /// The module in force.
    pub(super) fn module(&self) -> Option<(M, ModuleHash)>
    where
        M: Clone,
    {
        self.0.in_force().map(|generation| (generation.module.clone(), generation.hash))
    }

    /// For those that hand deliveries to it.
    pub(super) fn subscribe(&self) -> InForce<M> {
        self.0.serving.subscribe()
    }

    /// The consumer's name, for the log.
    pub(super) fn consumer(&self) -> &str {
        &self.0.consumer
    }

    /// What the module in force was made of.
    pub(super) fn hash(&self) -> Option<ModuleHash> {
        self.0.hash()
    }

    /// What the module on trial was made of.
    pub(super) fn hash_on_trial(&self) -> Option<ModuleHash> {
        self.0.serving.borrow().as_ref()?.canary.as_ref().map(|canary| canary.generation.hash)
    }

    /// Why a module was rolled back, if it was.
    pub(super) fn rolled_back(&self, hash: ModuleHash) -> Option<String> {
        self.0.rolled_back.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned()
    }

    /// Takes a module into use: deliveries that start from now on are its, or, if it has to go on trial, a share of them.
    pub(super) fn swap(&self, module: M, hash: ModuleHash) {
        let shared = &self.0;
        let number = shared.newest.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = Arc::new(Generation { number, module, hash, loaded_at: SystemTime::now() });
        let in_force = shared.serving.borrow().as_ref().map(|serving| serving.in_force.clone());
        let (Some(in_force), Some(limits)) = (in_force, shared.canary) else { return shared.take(generation) };
        let canary = Arc::new(Canary::new(generation, limits, Arc::downgrade(shared)));
        shared.serving.send_replace(Some(Serving { in_force, canary: Some(canary) }));
        shared.board.update(&shared.consumer, &shared.queue, |status| {
            status.canary = Some(CanaryStatus { generation: number, module_hash: hex(hash) });
            status.reload_error = None;
        });
        let (share, deliveries) = (limits.share_percent, limits.deliveries);
        tracing::info!(
            consumer = shared.consumer, generation = number, module = %hash,
            "on trial: takes {share}% of the deliveries until it has had {deliveries}"
        );
    }

    /// The newest version can't be used: what is in force stays, and the board says why.
    pub(super) fn refuse(&self, hash: Option<ModuleHash>, reason: &str) {
        self.0.refuse(hash, reason);
    }

    /// The newest version is the one in force (again). One that was on trial is not wanted any more.
    pub(super) fn accept_current(&self) {
        let shared = &self.0;
        shared
            .serving
            .send_if_modified(|serving| serving.as_mut().is_some_and(|serving| serving.canary.take().is_some()));
        shared.board.update(&shared.consumer, &shared.queue, |status| {
            status.canary = None;
            status.reload_error = None;
        });
    }
}

impl<M> Shared<M> {
    fn in_force(&self) -> Option<Arc<Generation<M>>> {
        self.serving.borrow().as_ref().map(|serving| serving.in_force.clone())
    }

    fn hash(&self) -> Option<ModuleHash> {
        self.serving.borrow().as_ref().map(|serving| serving.in_force.hash)
    }

    /// Deliveries that start from now on are its.
    fn take(&self, generation: Arc<Generation<M>>) {
        let (number, hash, loaded_at) = (generation.number, generation.hash, generation.loaded_at);
        self.serving.send_replace(Some(Serving { in_force: generation, canary: None }));
        self.board.update(&self.consumer, &self.queue, |status| {
            status.state = ConsumerState::Running;
            status.generation = number;
            status.module_hash = Some(hex(hash));
            status.loaded_at = Some(humantime::format_rfc3339_millis(loaded_at).to_string());
            status.canary = None;
            status.reload_error = None;
        });
        tracing::info!(consumer = self.consumer, generation = number, module = %hash, "takes messages");
    }

    /// The trial of a generation has ended.
    pub(super) fn decide(&self, generation: &Arc<Generation<M>>, verdict: Verdict) {
        let on_trial = |serving: &Option<Serving<M>>| {
            let canary = serving.as_ref().and_then(|serving| serving.canary.as_ref());
            canary.is_some_and(|canary| Arc::ptr_eq(&canary.generation, generation))
        };
        // Another one may be on trial by now, or none: then nobody waits for this verdict.
        if !on_trial(&self.serving.borrow()) {
            return;
        }
        match verdict {
            Verdict::Promote => self.take(generation.clone()),
            Verdict::RollBack(why) => {
                let reason = format!("generation {} was rolled back: {why}", generation.number);
                let mut rolled_back = self.rolled_back.lock().unwrap_or_else(PoisonError::into_inner);
                rolled_back.insert(generation.hash, reason.clone());
                drop(rolled_back);
                self.serving.send_modify(|serving| {
                    serving.iter_mut().for_each(|serving| serving.canary = None);
                });
                self.board.update(&self.consumer, &self.queue, |status| status.canary = None);
                self.refuse(Some(generation.hash), &reason);
            }
        }
    }

    fn refuse(&self, hash: Option<ModuleHash>, reason: &str) {
        let in_force = self.hash();
        self.board.update(&self.consumer, &self.queue, |status| {
            if in_force.is_none() {
                status.state = ConsumerState::Failed;
            }
            status.reload_error = Some(reason.to_owned());
        });
        let module = hash.map(tracing::field::display);
        // In the text and not in a field, so that a compiler's errors keep their lines.
        match in_force {
            None => tracing::error!(
                consumer = self.consumer,
                module,
                "can't be loaded; its queue waits until there is a version that works: {reason}"
            ),
            Some(in_force) => tracing::error!(
                consumer = self.consumer,
                module,
                %in_force,
                "reload failed; the version before stays in force: {reason}"
            ),
        }
    }
}

/// All 64 digits. (`Display` of a hash gives the first 12, for the log.)
pub(super) fn hex(hash: ModuleHash) -> String {
    hash.0.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string can't fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::canary::Side;

    #[test]
    fn a_delivery_keeps_the_generation_that_it_started_with() {
        let board = Arc::new(Board::default());
        let generations = Generations::new("welcome", "signups", board.clone(), None);
        let in_force = generations.subscribe();
        assert!(in_force.borrow().is_none());

        generations.swap(Arc::new("one"), ModuleHash([1; 32]));
        let held = in_force.borrow().clone().unwrap().in_force;
        let first = Arc::downgrade(&held.module);
        generations.swap(Arc::new("two"), ModuleHash([2; 32]));
        assert_eq!((held.number, *held.module), (1, "one"));
        assert_eq!(in_force.borrow().as_ref().map(|serving| serving.in_force.number), Some(2));
        drop(held);
        assert!(first.upgrade().is_none(), "a generation goes with its last delivery");

        let status = &board.all()[0];
        assert_eq!((status.state, status.generation), (ConsumerState::Running, 2));
        assert_eq!(status.module_hash.as_deref(), Some("02".repeat(32).as_str()));
    }

    #[test]
    fn a_refused_version_shows_until_a_good_one_is_in_force() {
        let board = Arc::new(Board::default());
        let generations = Generations::new("welcome", "signups", board.clone(), None);
        generations.refuse(None, "no such file");
        assert_eq!(board.all()[0].state, ConsumerState::Failed);
        generations.swap((), ModuleHash([1; 32]));
        assert_eq!((board.all()[0].state, board.all()[0].reload_error.clone()), (ConsumerState::Running, None));
        generations.refuse(Some(ModuleHash([2; 32])), "not WASM");
        let status = &board.all()[0];
        assert_eq!((status.state, status.reload_error.as_deref()), (ConsumerState::Running, Some("not WASM")));
        generations.accept_current();
        assert_eq!(board.all()[0].reload_error, None);
    }

    #[test]
    fn a_changed_consumer_goes_on_with_its_module_and_its_numbers() {
        let board = Arc::new(Board::default());
        let first = Generations::new("welcome", "signups", board.clone(), None);
        first.swap("one", ModuleHash([1; 32]));
        let same = first.succeed("others", None, Seed::Same);
        let now = |generations: &Generations<&'static str>| {
            let serving = generations.subscribe().borrow().clone();
            serving.map(|serving| (serving.in_force.number, serving.in_force.module))
        };
        assert_eq!(now(&same), Some((1, "one")));
        assert_eq!((board.all()[0].queue.as_str(), board.all()[0].generation), ("others", 1));

        let relinked = same.succeed("others", None, Seed::Relinked("one, granted more", ModuleHash([1; 32])));
        assert_eq!(now(&relinked), Some((2, "one, granted more")));
        assert_eq!((board.all()[0].state, board.all()[0].generation), (ConsumerState::Running, 2));

        let nothing = relinked.succeed("others", None, Seed::Nothing);
        assert_eq!((now(&nothing), board.all()[0].state), (None, ConsumerState::Loading));
        nothing.swap("two", ModuleHash([2; 32]));
        assert_eq!((now(&nothing), now(&relinked)), (Some((3, "two")), Some((2, "one, granted more"))));
    }

    const LIMITS: CanaryLimits = CanaryLimits { share_percent: 10, deliveries: 20 };

    fn on_trial() -> (Arc<Board>, Generations<&'static str>, Arc<Canary<&'static str>>) {
        let board = Arc::new(Board::default());
        let generations = Generations::new("welcome", "signups", board.clone(), Some(LIMITS));
        generations.swap("one", ModuleHash([1; 32]));
        assert!(
            generations.subscribe().borrow().as_ref().unwrap().canary.is_none(),
            "there is nothing to compare it with"
        );
        generations.swap("two", ModuleHash([2; 32]));
        let canary = generations.subscribe().borrow().as_ref().unwrap().canary.clone().unwrap();
        (board, generations, canary)
    }

    fn in_force(generations: &Generations<&'static str>) -> (u64, Option<u64>) {
        let serving = generations.subscribe().borrow().clone().unwrap();
        (serving.in_force.number, serving.canary.map(|canary| canary.generation.number))
    }

    #[test]
    fn a_generation_on_trial_that_does_well_is_promoted() {
        let (board, generations, canary) = on_trial();
        assert_eq!(in_force(&generations), (1, Some(2)));
        assert_eq!(board.all()[0].canary.as_ref().map(|canary| canary.generation), Some(2));
        assert_eq!(board.all()[0].generation, 1);
        for _ in 0..20 {
            assert_eq!(in_force(&generations), (1, Some(2)));
            canary.ended(Side::OnTrial, false);
        }
        assert_eq!(in_force(&generations), (2, None));
        assert!(!generations.subscribe().borrow().as_ref().unwrap().is_on_trial(&canary.generation));
        assert_eq!((board.all()[0].generation, board.all()[0].canary.clone()), (2, None));
    }

    #[test]
    fn a_generation_on_trial_that_fails_is_rolled_back_and_not_tried_again() {
        let (board, generations, canary) = on_trial();
        for _ in 0..100 {
            canary.ended(Side::InForce, false);
        }
        for _ in 0..10 {
            canary.ended(Side::OnTrial, true);
        }
        assert_eq!(in_force(&generations), (1, None));
        let status = &board.all()[0];
        assert!(status.reload_error.as_ref().unwrap().starts_with("generation 2 was rolled back: "), "{status:?}");
        assert_eq!((status.state, status.generation), (ConsumerState::Running, 1));
        assert!(generations.rolled_back(ModuleHash([2; 32])).is_some());
        // A delivery that began before that ends afterwards.
        let serving = generations.subscribe().borrow().clone().unwrap();
        assert!(serving.is_on_trial(&canary.generation) && !serving.is_on_trial(&serving.in_force));
        // Its number is not given again.
        generations.swap("three", ModuleHash([3; 32]));
        assert_eq!(in_force(&generations), (1, Some(3)));
    }

    #[test]
    fn a_verdict_that_comes_too_late_changes_nothing() {
        let (_, generations, canary) = on_trial();
        generations.swap("three", ModuleHash([3; 32]));
        assert_eq!(in_force(&generations), (1, Some(3)));
        for _ in 0..20 {
            canary.ended(Side::OnTrial, false);
        }
        assert_eq!(in_force(&generations), (1, Some(3)));
        generations.accept_current();
        assert_eq!(in_force(&generations), (1, None));
    }

    #[test]
    fn a_share_of_the_deliveries_is_on_trial_and_what_failed_there_is_not_again() {
        let (_, _, canary) = on_trial();
        let id = |number| MessageId::new(1, number);
        let mut turn = 0;
        assert_eq!((0..1000).filter(|number| canary.takes(id(*number), &mut turn)).count(), 100);
        (0..1000).for_each(|number| canary.remember(id(number)));
        assert_eq!((0..1000).filter(|number| canary.takes(id(*number), &mut turn)).count(), 0);
    }
}
