//! What the runtime adds to a call: the sandbox's `Module::call` beside the bare loop that only instantiates and calls,
//! in one run, with a no-op component built from Rust and a 200-byte body.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use linecook::config::Grants;
use linecook::delivery::{Delivery, Lease, Message, MessageId, Outcome, QueueName};
use linecook::sandbox::{InstanceSettings, Sandbox, SandboxOptions};

#[path = "dispatch/bare.rs"]
mod bare;
#[path = "../tests/support/guests.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use all of it")]
mod guests;

const TIME: Duration = Duration::from_secs(3);

fn main() {
    let component = std::fs::read(guests::component("noop")).expect("the guest was just built");
    println!("A fresh instance for each call of a no-op component, calls a second, {TIME:?} each:");
    for threads in [1, 2] {
        let bare = bare::calls_per_second(&component, threads, TIME);
        let call = sandboxed(&component, threads);
        println!(
            "{threads} worker(s): bare loop {bare:>9.0}   Module::call {call:>9.0}   {:>3.0}%",
            call / bare * 100.0
        );
    }
}

/// Calls a second through the sandbox, one after another on each worker.
fn sandboxed(component: &[u8], workers: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = SandboxOptions { workers, slots: 64, cache_dir: folder.path().to_owned() };
    let sandbox = Sandbox::start(options).expect("the sandbox starts");
    let settings = Arc::new(InstanceSettings {
        consumer: "noop".to_owned(),
        queue: QueueName::new("orders").expect("a queue name"),
        memory_bytes_max: 128 << 20,
        timeout: Duration::from_secs(30),
        grants: Grants::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
    let module = runtime.block_on(sandbox.load(component.into(), settings.clone())).expect("the guest loads");
    let (done, rates) = mpsc::channel();
    for worker in 0..workers {
        let (module, settings, done) = (module.clone(), settings.clone(), done.clone());
        sandbox.spawn(worker, move |worker| async move {
            let delivery = delivery();
            let one = async || {
                let slot = worker.slots(1).await.pop().expect("at least one");
                let report = module.call(&worker, slot, &settings, &delivery).await;
                assert_eq!(report.outcome, Outcome::Ack);
            };
            for _ in 0..1000 {
                one().await;
            }
            let (started, mut calls) = (Instant::now(), 0u32);
            while started.elapsed() < TIME {
                for _ in 0..100 {
                    one().await;
                }
                calls += 100;
            }
            done.send(f64::from(calls) / started.elapsed().as_secs_f64()).expect("main waits");
        });
    }
    drop(done);
    let rate = rates.iter().sum();
    sandbox.stop(Duration::from_secs(1));
    rate
}

fn delivery() -> Delivery {
    Delivery {
        message: Message {
            id: MessageId::new(0, 1),
            body: vec![b'x'; 200].into(),
            content_type: None,
            key: None,
            attributes: Vec::new(),
            enqueued_at_ms: 0,
        },
        attempt: 1,
        first_failed_at_ms: None,
        lease: Lease { message: 1, token: 1 },
    }
}
