//! The threads that run guests. Each has a current-thread tokio runtime for tasks that stay on it, an engine of its own,
//! and permits for that engine's instance slots.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, LocalSet};
use wasmtime::Engine;

/// How often a guest that computes lets others on its worker go on.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(5);

/// Added to the niceness of the process: next to a thread that computes at nice 19, the committer on the same core loses
/// nothing; at nice 0 it loses more than half.
const NICENESS: i32 = 19;

/// A worker, as the tasks see it that run on its thread. Cheap to clone, and stays on its thread.
#[derive(Debug, Clone)]
pub struct Worker(Rc<Local>);

#[derive(Debug)]
struct Local {
    index: usize,
    slots: Rc<Slots>,
}

/// The free places of a worker's pool. All that takes and gives them back is on the worker's thread: so they are counted
/// without a lock, which a semaphore takes for each.
#[derive(Debug)]
struct Slots {
    free: Cell<usize>,
    /// Tasks that wait for one.
    waiting: Cell<usize>,
    freed: Notify,
}

/// The right to one instance of a worker's pool.
#[derive(Debug)]
pub struct Slot(Rc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.wake();
    }
}

/// A task that waits, for as long as it does.
struct Waiting<'a>(&'a Slots);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Slots {
    fn new(free: usize) -> Rc<Slots> {
        Rc::new(Slots { free: Cell::new(free), waiting: Cell::new(0), freed: Notify::new() })
    }

    /// Waits for up to `max`, at least one. Who waits longest has its turn first.
    async fn take(self: &Rc<Slots>, max: usize) -> Vec<Slot> {
        if self.free.get() == 0 || self.waiting.get() > 0 {
            self.waiting.set(self.waiting.get() + 1);
            let _waiting = Waiting(self);
            // Somebody who was woken before may have taken all of them.
            while {
                self.freed.notified().await;
                self.free.get() == 0
            } {}
        }
        let taken = max.max(1).min(self.free.get());
        self.free.set(self.free.get() - taken);
        if self.free.get() > 0 {
            self.wake();
        }
        (0..taken).map(|_| Slot(self.clone())).collect()
    }

    fn wake(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}

impl Worker {
    /// 0 to `workers - 1`.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Waits for up to `max` free instance slots, at least one. They are given back when dropped.
    pub async fn slots(&self, max: usize) -> Vec<Slot> {
        self.0.slots.take(max).await
    }
}

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;
type Start = Box<dyn FnOnce(Worker) -> LocalTask + Send>;

enum Order {
    Run(Start),
    Stop { patience: Duration },
}

/// The outside's handle of one worker.
#[derive(Debug)]
pub(super) struct WorkerThread {
    orders: mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    /// Starts the thread `worker-{index}` with `slots` permits.
    pub(super) fn start(index: usize, slots: usize) -> io::Result<WorkerThread> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, received) = mpsc::unbounded_channel();
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            lower_priority();
            let slots = Slots::new(slots);
            let local = LocalSet::new();
            local.block_on(&runtime, serve(Worker(Rc::new(Local { index, slots })), received));
            // A blocking call of a guest that was dropped (a read of a slow disk) isn't waited for.
            drop(local);
            runtime.shutdown_background();
        })?;
        Ok(WorkerThread { orders, thread })
    }

    /// Runs a task on the thread. After a stop, it is dropped.
    pub(super) fn spawn<F, T>(&self, task: F)
    where
        F: FnOnce(Worker) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        // The receiver is gone only after a stop, which takes the sandbox away from those who could spawn.
        let _ = self.orders.send(Order::Run(Box::new(move |worker| Box::pin(async move { task(worker).await }))));
    }

    /// Asks the thread to end: when its tasks have, or after `patience`.
    pub(super) fn stop(&self, patience: Duration) {
        let _ = self.orders.send(Order::Stop { patience });
    }

    /// Waits until the thread has ended.
    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a worker's thread panicked; this is a bug in linecook");
        }
    }
}

async fn serve(worker: Worker, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut tasks = JoinSet::new();
    let patience = loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Run(start)) => {
                    tasks.spawn_local(start(worker.clone()));
                }
                Some(Order::Stop { patience }) => break patience,
                // The sandbox was dropped without a stop.
                None => break Duration::ZERO,
            },
            Some(ended) = tasks.join_next() => note_panic(&worker, ended),
        }
    };
    let end = async {
        while let Some(ended) = tasks.join_next().await {
            note_panic(&worker, ended);
        }
    };
    if tokio::time::timeout(patience, end).await.is_err() {
        tracing::warn!(worker = worker.index(), tasks = tasks.len(), "tasks that did not end in time are dropped");
    }
}

fn note_panic(worker: &Worker, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(worker = worker.index(), %error, "a worker's task panicked; this is a bug in linecook");
    }
}

/// Gives the calling thread the priority of the workers. On Linux, niceness is a thread's own; elsewhere nothing changes.
/// Public so that a benchmark's busy threads compete as guests do.
pub fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        let lowered = getpriority_process(None).and_then(|now| setpriority_process(None, (now + NICENESS).min(19)));
        if let Err(error) = lowered {
            tracing::warn!(%error, "a worker's thread keeps its priority: busy guests may slow the log down");
        }
    }
}

/// The thread that lets all engines' guests yield every [`EPOCH_TICK`].
#[derive(Debug)]
pub(super) struct Ticker {
    stop: Option<std_mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(engines: Vec<Engine>) -> io::Result<Ticker> {
        let (stop, stopped) = std_mpsc::channel();
        let thread = thread::Builder::new().name("epochs".to_owned()).spawn(move || {
            let mut next = Instant::now();
            loop {
                next = (next + EPOCH_TICK).max(Instant::now());
                match stopped.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => engines.iter().for_each(Engine::increment_epoch),
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics; and a drop has nobody to tell.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_more_slots_are_out_than_there_are_and_all_of_them_come_back() {
        let slots = Slots::new(3);
        let two = slots.take(2).await;
        assert_eq!((two.len(), slots.take(9).await.len()), (2, 1), "the last one came back at once");
        let one = slots.take(9).await;
        assert!(slots.take(1).now_or_never().is_none());
        assert_eq!(slots.waiting.get(), 0, "who has given up waits no more");
        drop((one, two));
        assert_eq!((slots.take(0).await.len(), slots.take(9).await.len()), (1, 2));
    }

    #[tokio::test]
    async fn who_waits_longest_has_its_turn_first_and_nobody_waits_for_what_is_free() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let (slots, order) = (Slots::new(2), Rc::new(RefCell::new(Vec::new())));
                let all = slots.take(2).await;
                let mut waiting = Vec::new();
                for (number, max) in [(0, 1), (1, 1), (2, 2), (3, 1)] {
                    let (slots, order) = (slots.clone(), order.clone());
                    waiting.push(tokio::task::spawn_local(async move {
                        let taken = slots.take(max).await;
                        order.borrow_mut().push((number, taken.len()));
                        tokio::task::yield_now().await;
                    }));
                    tokio::task::yield_now().await;
                }
                // One that is woken and gone at once passes it on.
                waiting.remove(1).abort();
                drop(all);
                for waiting in waiting {
                    waiting.await.unwrap();
                }
                let order = order.borrow();
                assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 2, 3]);
                assert_eq!((slots.free.get(), slots.waiting.get()), (2, 0));
            })
            .await;
    }
}
