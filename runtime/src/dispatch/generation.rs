//! One loaded version of a consumer, and the change from one to the next. A delivery holds the generation that it
//! started with; a generation goes when its last delivery has ended.

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::sandbox::{Module, ModuleHash};
use crate::status::{Board, ConsumerState};

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

/// The generation in force, as those see it that hand deliveries to it: none before the first.
pub type InForce<M = Module> = watch::Receiver<Option<Arc<Generation<M>>>>;

/// The generations of one consumer: takes a new one into use, and says on the board why one was not.
#[derive(Debug)]
pub(super) struct Generations<M> {
    consumer: String,
    queue: String,
    board: Arc<Board>,
    in_force: watch::Sender<Option<Arc<Generation<M>>>>,
}

impl<M> Generations<M> {
    /// None so far. The consumer is on the board from now on, as one that is loading.
    pub(super) fn new(consumer: &str, queue: &str, board: Arc<Board>) -> Generations<M> {
        board.update(consumer, queue, |status| status.state = ConsumerState::Loading);
        let in_force = watch::Sender::new(None);
        Generations { consumer: consumer.to_owned(), queue: queue.to_owned(), board, in_force }
    }

    /// For those that hand deliveries to it.
    pub(super) fn subscribe(&self) -> InForce<M> {
        self.in_force.subscribe()
    }

    /// The consumer's name, for the log.
    pub(super) fn consumer(&self) -> &str {
        &self.consumer
    }

    /// What the module in force was made of.
    pub(super) fn hash(&self) -> Option<ModuleHash> {
        self.in_force.borrow().as_ref().map(|generation| generation.hash)
    }

    /// Takes a module into use: deliveries that start from now on are its.
    pub(super) fn swap(&self, module: M, hash: ModuleHash) {
        let number = self.in_force.borrow().as_ref().map_or(1, |generation| generation.number + 1);
        let loaded_at = SystemTime::now();
        self.in_force.send_replace(Some(Arc::new(Generation { number, module, hash, loaded_at })));
        self.board.update(&self.consumer, &self.queue, |status| {
            status.state = ConsumerState::Running;
            status.generation = number;
            status.module_hash = Some(hex(hash));
            status.loaded_at = Some(humantime::format_rfc3339_millis(loaded_at).to_string());
            status.reload_error = None;
        });
        tracing::info!(consumer = self.consumer, generation = number, module = %hash, "takes messages");
    }

    /// The newest version can't be used: what is in force stays, and the board says why.
    pub(super) fn refuse(&self, hash: Option<ModuleHash>, reason: &str) {
        let in_force = self.hash();
        self.board.update(&self.consumer, &self.queue, |status| {
            if in_force.is_none() {
                status.state = ConsumerState::Failed;
            }
            status.reload_error = Some(reason.to_owned());
        });
        let module = hash.map(tracing::field::display);
        match in_force {
            None => tracing::error!(
                consumer = self.consumer,
                module,
                reason,
                "can't be loaded; its queue waits, and it starts when a version comes that works"
            ),
            Some(in_force) => tracing::error!(
                consumer = self.consumer,
                module,
                %in_force,
                reason,
                "reload failed; the version before stays in force"
            ),
        }
    }

    /// The newest version is the one in force (again).
    pub(super) fn accept_current(&self) {
        self.board.update(&self.consumer, &self.queue, |status| status.reload_error = None);
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

    #[test]
    fn a_delivery_keeps_the_generation_that_it_started_with() {
        let board = Arc::new(Board::default());
        let generations = Generations::new("welcome", "signups", board.clone());
        let in_force = generations.subscribe();
        assert!(in_force.borrow().is_none());

        generations.swap(Arc::new("one"), ModuleHash([1; 32]));
        let held = in_force.borrow().clone().unwrap();
        let first = Arc::downgrade(&held.module);
        generations.swap(Arc::new("two"), ModuleHash([2; 32]));
        assert_eq!((held.number, *held.module), (1, "one"));
        assert_eq!(in_force.borrow().as_ref().map(|generation| generation.number), Some(2));
        drop(held);
        assert!(first.upgrade().is_none(), "a generation goes with its last delivery");

        let status = &board.all()[0];
        assert_eq!((status.state, status.generation), (ConsumerState::Running, 2));
        assert_eq!(status.module_hash.as_deref(), Some("02".repeat(32).as_str()));
    }

    #[test]
    fn a_refused_version_shows_until_a_good_one_is_in_force() {
        let board = Arc::new(Board::default());
        let generations = Generations::new("welcome", "signups", board.clone());
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
}
