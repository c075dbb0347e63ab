//! A sandbox to try components in, without queues: [`Kitchen`].

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use linecook::config::{Grants, Limits};
use linecook::delivery::{Delivery, Lease, Message, MessageId, Outcome, QueueName};
use linecook::sandbox::{InstanceSettings, LoadError, Module, Report, Sandbox, SandboxOptions, Worker};
use tempfile::TempDir;

use crate::guests;
use crate::log::LOG;

/// Longer than anything here takes on the busiest machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A sandbox, and a folder for what its guests may see.
pub(crate) struct Kitchen {
    pub(crate) sandbox: Sandbox,
    pub(crate) folder: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Kitchen {
    pub(crate) fn new(workers: usize) -> Kitchen {
        Kitchen::open(workers, tempfile::tempdir().unwrap(), &compiled_code(), None)
    }

    /// One whose guests' HTTPS also trusts the certificates of a file.
    pub(crate) fn trusting(workers: usize, ca_file: PathBuf) -> Kitchen {
        Kitchen::open(workers, tempfile::tempdir().unwrap(), &compiled_code(), Some(ca_file))
    }

    /// One whose compiled code is in a folder of its own, `cache`, which is empty.
    pub(crate) fn with_own_cache(workers: usize) -> Kitchen {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        Kitchen::open(workers, folder, &cache, None)
    }

    fn open(workers: usize, folder: TempDir, cache: &Path, ca_file: Option<PathBuf>) -> Kitchen {
        LazyLock::force(&LOG);
        let options = SandboxOptions { workers, slots: 4, cache_dir: cache.to_owned(), ca_file };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Kitchen { sandbox: Sandbox::start(options).unwrap(), folder, runtime }
    }

    pub(crate) fn load(&self, component: &[u8], settings: &Arc<InstanceSettings>) -> Result<Module, LoadError> {
        self.runtime.block_on(self.sandbox.load(component.into(), settings.clone()))
    }

    pub(crate) fn relink(&self, module: &Module, settings: &Arc<InstanceSettings>) -> Result<Module, LoadError> {
        self.runtime.block_on(self.sandbox.relink(module, settings.clone()))
    }

    /// Runs a task on a worker and waits for what it gives.
    pub(crate) fn on<F, T, R>(&self, worker: usize, task: F) -> R
    where
        F: FnOnce(Worker) -> T + Send + 'static,
        T: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        self.start(worker, task).recv_timeout(LONG).expect("the task ends")
    }

    /// Runs a task on a worker.
    pub(crate) fn start<F, T, R>(&self, worker: usize, task: F) -> mpsc::Receiver<R>
    where
        F: FnOnce(Worker) -> T + Send + 'static,
        T: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        let (answer, answered) = mpsc::channel();
        self.sandbox.spawn(worker, move |worker| async move {
            let _ = answer.send(task(worker).await);
        });
        answered
    }

    /// One delivery of `body`.
    pub(crate) fn call(&self, module: &Module, settings: &Arc<InstanceSettings>, body: &str) -> Report {
        self.calling(module, settings, body).recv_timeout(LONG).expect("the call ends")
    }

    pub(crate) fn calling(
        &self,
        module: &Module,
        settings: &Arc<InstanceSettings>,
        body: &str,
    ) -> mpsc::Receiver<Report> {
        let (module, settings, delivery) = (module.clone(), settings.clone(), delivery(body));
        self.start(0, async move |worker| {
            let slot = worker.slots(1).await.pop().unwrap();
            module.call(&worker, slot, &settings, &delivery).await
        })
    }

    /// The guest of all trades, and one delivery to it.
    pub(crate) fn behave(&self, settings: InstanceSettings, body: &str) -> Report {
        let settings = Arc::new(settings);
        let module = self.load(&component("behave"), &settings).unwrap();
        self.call(&module, &settings, body)
    }
}

/// The compiled code of all test programs: most of them load the same few components again and again.
fn compiled_code() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled-code")
}

pub(crate) fn component(name: &str) -> Vec<u8> {
    fs::read(guests::component(name)).unwrap()
}

pub(crate) fn settings() -> InstanceSettings {
    InstanceSettings {
        consumer: "cook".into(),
        queue: queue("orders"),
        memory_bytes_max: 32 << 20,
        timeout: LONG,
        max_batch_size: 1,
        limits: Limits::default(),
        config: BTreeMap::new(),
        state: None,
        grants: Grants { send: vec![queue("report"), queue("audit")], ..Grants::default() },
    }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(crate) fn delivery(body: &str) -> Delivery {
    Delivery {
        message: Message {
            id: MessageId::new(7, 42),
            body: body.as_bytes().to_vec().into(),
            content_type: Some("application/json".into()),
            key: Some("table-7".into()),
            attributes: vec![("waiter".into(), "Ann".into())],
            enqueued_at_ms: 1_700_000_000_123,
        },
        attempt: 3,
        first_failed_at_ms: None,
        lease: Lease { queue: 1, position: 42, token: 1 },
    }
}

pub(crate) fn retry(reason: &str) -> Outcome {
    Outcome::Retry { reason: reason.into(), after: None }
}

#[track_caller]
pub(crate) fn reason(report: &Report) -> &str {
    match &report.outcome {
        Outcome::Retry { reason, .. } | Outcome::DeadLetter { reason } => reason,
        other => panic!("{other:?} has no reason"),
    }
}

pub(crate) fn sent(report: &Report) -> Vec<(String, serde_json::Value)> {
    let value = |body: &[u8]| serde_json::from_slice(body).unwrap();
    report.sends.iter().map(|send| (send.queue.to_string(), value(&send.message.body))).collect()
}
