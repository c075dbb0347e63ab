//! The threads that run guests. Each has a current-thread tokio runtime for tasks that stay on it, an engine of its own,
//! and permits for that engine's instance slots.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
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
    slots: Rc<Semaphore>,
}

/// The right to one instance of a worker's pool.
#[derive(Debug)]
pub struct Slot(Rc<Semaphore>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Worker {
    /// 0 to `workers - 1`.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Waits for up to `max` free instance slots, at least one. They are given back when dropped.
    pub async fn slots(&self, max: usize) -> Vec<Slot> {
        let slots = &self.0.slots;
        let first = slots.acquire().await.expect("the semaphore is never closed");
        // Nobody else takes any meanwhile: all of them are on this thread.
        let more = slots.available_permits().min(max.saturating_sub(1));
        let rest = slots.try_acquire_many(more as u32).ok();
        let permits = first.num_permits() + rest.as_ref().map_or(0, SemaphorePermit::num_permits);
        let taken = (0..permits).map(|_| Slot(slots.clone())).collect();
        // The slots give them back one by one.
        first.forget();
        rest.into_iter().for_each(SemaphorePermit::forget);
        taken
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
            let slots = Rc::new(Semaphore::new(slots));
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
