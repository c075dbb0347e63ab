//! Runs components. It knows nothing of queues on disk: what a guest sends is collected and returned with its outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio_rustls::rustls::ClientConfig;

use self::cache::CodeCache;
use self::code::{Code, CodeInUse};
use self::engine::Host;
use self::grants::Access;
use self::worker::{Ticker, WorkerThread};
use crate::config::{Grants, Limits};
use crate::delivery::{Delivery, Effects, Outcome, Outgoing, QueueName, StateUse};
use crate::subjects::Subjects;

mod bindings;
mod cache;
mod call;
mod code;
mod core_module;
mod cpu;
mod durable;
mod engine;
mod grants;
mod imports;
mod instance;
mod limits;
mod load;
mod output;
mod reuse;
mod state;
mod until;
mod worker;

pub use self::call::Target;
pub use self::durable::{DurableState, StateReader};
pub use self::engine::engine_config;
pub use self::load::LoadError;
pub use self::reuse::{InstanceCount, Instances};
pub use self::worker::{Slot, Worker, lower_priority};

/// How many threads run guests, and where compiled code is kept.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Threads that run guests.
    pub workers: usize,
    /// Instances that one worker holds at once.
    pub slots: usize,
    /// The folder for compiled code. Only the runtime may write it: what is in it is executed.
    pub cache_dir: PathBuf,
    /// Certificates (PEM) that guests' HTTPS trusts beside the public ones.
    pub ca_file: Option<PathBuf>,
}

/// The worker threads, each with its own engine, pool, linker and current-thread tokio runtime.
pub struct Sandbox {
    // The order is that of dropping: the threads hear of it first.
    workers: Vec<WorkerThread>,
    hosts: Arc<[Host]>,
    cache: Arc<CodeCache>,
    code: Arc<CodeInUse>,
    /// For loads: so many at a time keep all cores busy, and more would only take memory.
    loading: Arc<Semaphore>,
    /// What guests' HTTPS trusts.
    tls: Arc<ClientConfig>,
    /// Which queues get what guests send to a subject.
    subjects: Arc<Subjects>,
    /// Held while a component is tried out: each engine has one slot more than its worker gives away.
    trial: Arc<Mutex<()>>,
    _ticker: Ticker,
}

/// The SHA-256 of a component's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModuleHash(pub [u8; 32]);

/// A compiled component, linked and type-checked for every worker. Cheap to clone.
#[derive(Clone)]
pub struct Module(Arc<Loaded>);

struct Loaded {
    hash: ModuleHash,
    /// One for each worker.
    linked: Code,
    access: Arc<Access>,
}

/// What one consumer's instances may use.
#[derive(Debug, Clone)]
pub struct InstanceSettings {
    /// The consumer's name, for the log.
    pub consumer: String,
    /// The queue that it works off.
    pub queue: QueueName,
    /// Linear memory of one instance.
    pub memory_bytes_max: u64,
    /// Wall time of one delivery, or of one batch.
    pub timeout: Duration,
    /// Messages in one batch. More than 1, and the component must take batches.
    pub max_batch_size: usize,
    /// What else one delivery may use.
    pub limits: Limits,
    /// What it finds with `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// Its durable state, if that is granted.
    pub state: Option<DurableState>,
    /// Everything else that it may do.
    pub grants: Grants,
}

/// What became of one call.
#[derive(Debug)]
pub struct Report {
    /// The handler's answer; a trap, a timeout or an exceeded limit is a `Retry` with the reason.
    pub outcome: Outcome,
    /// What it sent. To be dropped unless the outcome is `Ack`.
    pub sends: Vec<Outgoing>,
    /// What it did with its durable state. Likewise.
    pub state: StateUse,
    /// The last 4 KiB that it wrote to stderr.
    pub stderr_tail: String,
    /// How long it ran.
    pub elapsed: Duration,
}

/// What became of one call, if mostly there is nothing to tell: it is handed on several times, so it is short.
#[derive(Debug)]
pub struct Called {
    /// How long it ran.
    pub elapsed: Duration,
    /// None: the message is acknowledged, and nothing goes with that.
    pub report: Option<Box<Report>>,
}

/// What became of one call with a batch.
#[derive(Debug)]
pub struct BatchReport {
    /// What became of each message, in their order; or why there is no answer for any: a trap, a timeout, an exceeded
    /// limit. A missing answer is a `Retry`.
    pub outcomes: Result<Vec<Outcome>, String>,
    /// By their places, what some of them did.
    pub effects: BTreeMap<usize, Effects>,
    /// What was sent for the batch as a whole. To be dropped if no message is acknowledged.
    pub shared_sends: Vec<Outgoing>,
    /// The last 4 KiB that it wrote to stderr.
    pub stderr_tail: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl From<Called> for Report {
    fn from(called: Called) -> Report {
        let Called { elapsed, report } = called;
        let ack = || Report {
            outcome: Outcome::Ack,
            sends: Vec::new(),
            state: StateUse::default(),
            stderr_tail: String::new(),
            elapsed,
        };
        report.map_or_else(ack, |report| *report)
    }
}

impl Sandbox {
    /// Starts the workers. Fails if the cache folder can't be made, if the certificates can't be read, or if there is no
    /// room for the pools: a slot takes 4 GiB of address space, so that all workers together can have about 30,000.
    pub fn start(options: SandboxOptions) -> io::Result<Sandbox> {
        let SandboxOptions { workers, slots, cache_dir, ca_file } = options;
        let tls = imports::tls_config(ca_file.as_deref())?;
        let cache = CodeCache::open(cache_dir.clone()).map_err(|error| {
            let text = format!("the folder for compiled code, {}, can't be used: {error}", cache_dir.display());
            io::Error::new(error.kind(), text)
        })?;
        let hosts: Vec<_> =
            (0..workers)
                .map(|_| Host::new(slots.saturating_add(1)))
                .collect::<wasmtime::Result<_>>()
                .map_err(|error| io::Error::other(format!("{workers} workers with {slots} slots each: {error:#}")))?;
        let ticker = Ticker::start(hosts.iter().map(|host| host.engine.clone()).collect())?;
        let workers = (0..workers).map(|index| WorkerThread::start(index, slots)).collect::<io::Result<_>>()?;
        Ok(Sandbox {
            workers,
            hosts: hosts.into(),
            cache: cache.into(),
            code: Arc::default(),
            loading: Arc::new(Semaphore::new(thread::available_parallelism().map_or(1, usize::from))),
            tls: tls.into(),
            subjects: Arc::default(),
            trial: Arc::default(),
            _ticker: ticker,
        })
    }

    /// What guests send to subjects goes to the queues that subscribe to them here. Without this, nobody subscribes.
    pub fn with_subjects(mut self, subjects: Arc<Subjects>) -> Sandbox {
        self.subjects = subjects;
        self
    }

    /// How many there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Runs a task on a worker's thread. The future need not be `Send`. A task that panics is logged.
    ///
    /// # Panics
    ///
    /// If there is no such worker.
    pub fn spawn<F, T>(&self, worker: usize, task: F)
    where
        F: FnOnce(Worker) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        self.workers[worker].spawn(task);
    }

    /// Compiles a component (or takes it from the cache), links and type-checks it against the world and the grants,
    /// and instantiates it once. Works on a blocking thread of the caller's tokio runtime: the workers go on.
    pub async fn load(&self, component: Arc<[u8]>, settings: Arc<InstanceSettings>) -> Result<Module, LoadError> {
        let (hosts, cache, tls) = (self.hosts.clone(), self.cache.clone(), self.tls.clone());
        let (granted, subjects, code) = (settings.clone(), self.subjects.clone(), self.code.clone());
        let turn = self.loading.clone().acquire_owned().await.map_err(LoadError::internal)?;
        let loaded = tokio::task::spawn_blocking(move || {
            // Held by this thread, since the load may be given up while it works.
            let _turn = turn;
            let hash = load::hash(&component);
            let linked = code.get_or_make(hash, || load::link(&component, hash, &hosts, &cache))?;
            load::check_batches(&linked, granted.max_batch_size)?;
            let access = Arc::new(Access::open(&granted, tls, subjects)?);
            Ok(Loaded { hash, linked, access })
        });
        let module = Module(Arc::new(loaded.await.map_err(LoadError::internal)??));
        self.try_out(&module, settings.clone()).await?;
        load::tell_missing_grants(&module.0.linked, &settings);
        Ok(module)
    }

    /// The same component under other settings of its consumer: its grants are opened anew and it is instantiated once, but
    /// nothing is compiled.
    pub async fn relink(&self, module: &Module, settings: Arc<InstanceSettings>) -> Result<Module, LoadError> {
        let (module, tls, subjects) = (module.clone(), self.tls.clone(), self.subjects.clone());
        let granted = settings.clone();
        let turn = self.loading.clone().acquire_owned().await.map_err(LoadError::internal)?;
        let relinked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let Loaded { hash, linked, .. } = &*module.0;
            load::check_batches(linked, granted.max_batch_size)?;
            Ok(Loaded { hash: *hash, linked: linked.clone(), access: Arc::new(Access::open(&granted, tls, subjects)?) })
        });
        let module = Module(Arc::new(relinked.await.map_err(LoadError::internal)??));
        self.try_out(&module, settings.clone()).await?;
        load::tell_missing_grants(&module.0.linked, &settings);
        Ok(module)
    }

    /// Instantiates a component once, on a worker that has a place for that.
    async fn try_out(&self, module: &Module, settings: Arc<InstanceSettings>) -> Result<(), LoadError> {
        let trial = self.trial.clone().lock_owned().await;
        let (answer, answered) = oneshot::channel();
        let tried = module.clone();
        self.spawn(0, move |_| async move {
            let works = call::try_out(&tried.0.linked[0], tried.0.hash, &tried.0.access, &settings).await;
            // Whoever hears of it finds nothing of it in use.
            drop(tried);
            // The instance is gone. Held by this task, since the load may be given up while it runs.
            drop(trial);
            // Then nobody listens any more.
            let _ = answer.send(works);
        });
        answered.await.map_err(|_| LoadError::internal("the worker has stopped, or panicked"))?
    }

    /// Stops the workers once their tasks have ended, or drops the tasks after `patience`. Blocks until then.
    pub fn stop(self, patience: Duration) {
        self.workers.iter().for_each(|worker| worker.stop(patience));
        self.workers.into_iter().for_each(WorkerThread::join);
    }
}

impl Module {
    /// What it was made of.
    pub fn hash(&self) -> ModuleHash {
        self.0.hash
    }

    /// This module on a worker, which must be of the sandbox that loaded it.
    pub fn on<'a>(&'a self, worker: &Worker, settings: &'a Arc<InstanceSettings>) -> Target<'a> {
        Target { module: &self.0, worker: worker.index(), settings, reuse: None, since: None }
    }

    /// Hands one delivery to a fresh instance on this worker's thread. Never fails: whatever happens is the outcome.
    ///
    /// The worker must be of the sandbox that loaded the module. The secrets and the `config` are those of the settings that
    /// it was loaded with.
    pub async fn call(
        &self,
        worker: &Worker,
        slot: Slot,
        settings: &Arc<InstanceSettings>,
        delivery: &Delivery,
    ) -> Report {
        self.on(worker, settings).call(slot, delivery).await.into()
    }
}

#[cfg(test)]
impl InstanceSettings {
    /// Nothing granted, the default limits.
    fn of_a_test() -> InstanceSettings {
        InstanceSettings {
            consumer: "c".to_owned(),
            queue: QueueName::new("q").unwrap(),
            memory_bytes_max: 1 << 20,
            timeout: Duration::from_secs(60),
            max_batch_size: 1,
            limits: Limits::default(),
            config: BTreeMap::new(),
            state: None,
            grants: Grants::default(),
        }
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Module").field(&self.0.hash).finish()
    }
}

impl fmt::Display for ModuleHash {
    /// The first 12 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
