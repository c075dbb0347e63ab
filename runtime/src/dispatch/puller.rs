//! One consumer on one worker: permits → claim → handle → settle. One task, on the worker's thread; in the common case a
//! message costs no word with another thread but its share of a batched claim and a batched settlement.

use std::cell::Cell;
use std::future::{self, Future};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::Phase;
use super::generation::{Generation, InForce};
use super::pace::Pace;
use super::policy::Policy;
use super::settler::{Handled, Settler, Stopped};
use crate::broker::{Broker, BrokerError};
use crate::delivery::Delivery;
use crate::sandbox::{InstanceSettings, Report, Slot, Worker};
use crate::status::Counters;

/// A lease lasts for the timeout and this, so that the result of a handler that used its time to the end still counts.
const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// A delivery that has waited this long on its worker gets its full lease again before it begins.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// How long to wait after the broker could not read, before it is asked again.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
/// After a handler that ran this long, its result is sent at once instead of together with those that are ready to run.
const SEND_AFTER: Duration = Duration::from_millis(1);

/// What the pullers of one consumer share.
#[derive(Clone)]
pub(super) struct Consumer {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) policy: Arc<Policy>,
    pub(super) settings: Arc<InstanceSettings>,
    pub(super) in_force: InForce,
    pub(super) phase: watch::Receiver<Phase>,
}

/// One consumer on one worker.
pub(super) struct Puller {
    consumer: Rc<Consumer>,
    worker: Worker,
    permits: usize,
    counters: Arc<Counters>,
    pace: Pace,
    settler: Settler,
    /// Permits that nobody uses; seen by the claim.
    free: Rc<Cell<usize>>,
    /// Seen by deliveries that were claimed and have not begun.
    draining: Rc<Cell<bool>>,
}

type Claimed = Result<(Vec<Slot>, Vec<Delivery>), Stopped>;

enum Ended {
    Handled(Delivery, Arc<Generation>, Report),
    /// The runtime is stopping, so it was not begun.
    NotBegun(Delivery, Arc<Generation>),
    /// The lease was gone before it began.
    Gone,
}

impl Puller {
    /// Runs at most `permits` deliveries at once on `worker`. The counters are written by this puller only.
    pub(super) fn new(consumer: Consumer, worker: Worker, permits: usize, counters: Arc<Counters>) -> Puller {
        let settler = Settler::new(consumer.broker.clone(), consumer.policy.clone(), counters.clone());
        Puller {
            consumer: Rc::new(consumer),
            worker,
            permits,
            counters,
            pace: Pace::new(),
            settler,
            free: Rc::new(Cell::new(permits)),
            draining: Rc::default(),
        }
    }

    /// Runs until the phase says that it must end, or the broker has stopped.
    pub(super) async fn run(mut self) {
        let mut phase = self.consumer.phase.clone();
        let mut running = FuturesUnordered::new();
        let mut claim: Option<LocalBoxFuture<'static, Claimed>> = None;
        loop {
            let has_room = running.len() < self.permits && self.settler.has_room();
            if claim.is_none() && has_room && !self.draining.get() {
                claim = Some(Box::pin(self.claim()));
            }
            self.free.set(self.permits - running.len());
            if self.draining.get() && running.is_empty() && self.settler.is_empty() {
                return;
            }
            // What makes room comes before what takes it.
            tokio::select! {
                biased;
                now = next_phase(&mut phase) => match now {
                    Phase::Running => {}
                    Phase::Draining => {
                        self.draining.set(true);
                        claim = None;
                    }
                    Phase::Stopped => return,
                },
                answered = self.settler.answered(), if self.settler.has_calls() => {
                    if answered.is_err() {
                        return;
                    }
                }
                Some(ended) = running.next(), if !running.is_empty() => self.ended(ended),
                () = future::ready(()), if self.settler.can_send() => self.settler.send(),
                claimed = next_claim(&mut claim) => {
                    claim = None;
                    let Ok((slots, deliveries)) = claimed else { return };
                    running.extend(self.begin(slots, deliveries));
                    // The other consumers of this worker have a turn after each batch.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Waits for a module, then for instances, then for at least one message. How many it may take is read when it is
    /// first polled: that is after the handlers that can go on have ended, and so more than when the first of them did.
    fn claim(&self) -> impl Future<Output = Claimed> + 'static {
        let (consumer, worker) = (self.consumer.clone(), self.worker.clone());
        let (pace, free) = (self.pace.claim(), self.free.clone());
        async move {
            if consumer.in_force.clone().wait_for(Option::is_some).await.is_err() {
                // Nobody will ever load one: the runtime is stopping.
                future::pending::<()>().await;
            }
            let slots = worker.slots(pace.min(free.get())).await;
            loop {
                match consumer.broker.claim(&consumer.policy.queue, slots.len(), consumer.lease()).await {
                    Ok(deliveries) => return Ok((slots, deliveries)),
                    Err(BrokerError::Stopped(_)) => return Err(Stopped),
                    Err(error) => {
                        let (name, queue) = (&*consumer.policy.consumer, &consumer.policy.queue);
                        tracing::error!(consumer = name, %queue, %error, "can't claim messages; trying again");
                        tokio::time::sleep(CLAIM_PAUSE).await;
                    }
                }
            }
        }
    }

    /// The handlers of a claimed batch, all on the generation that is in force now.
    fn begin(&mut self, slots: Vec<Slot>, deliveries: Vec<Delivery>) -> Vec<impl Future<Output = Ended> + 'static> {
        let claimed_at = Instant::now();
        let generation = self.consumer.in_force.borrow().clone();
        let generation = generation.expect("nothing is claimed before there is a generation");
        let mut handlers = Vec::with_capacity(deliveries.len());
        let mut slots = slots.into_iter();
        for delivery in deliveries {
            if let Some(reason) = self.consumer.policy.exhausted(delivery.attempt) {
                self.settler.exhausted(&delivery, generation.hash, reason);
                continue;
            }
            let slot = slots.next().expect("no more was claimed than there are slots");
            handlers.push(handle(
                self.consumer.clone(),
                self.worker.clone(),
                self.counters.clone(),
                self.draining.clone(),
                Claim { generation: generation.clone(), slot, delivery, at: claimed_at },
            ));
        }
        handlers
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Handled(delivery, generation, report) => {
                self.pace.ran(report.elapsed);
                let handled = Handled::new(&delivery, generation.hash, report.stderr_tail);
                self.settler.settle(handled, report.outcome, report.sends);
                if report.elapsed > SEND_AFTER {
                    self.settler.send();
                }
            }
            Ended::NotBegun(delivery, generation) => self.settler.release(&delivery, generation.hash),
            Ended::Gone => {}
        }
    }
}

impl Consumer {
    fn lease(&self) -> Duration {
        self.settings.timeout + LEASE_MARGIN
    }
}

/// One delivery that was claimed, and what it runs with.
struct Claim {
    generation: Arc<Generation>,
    slot: Slot,
    delivery: Delivery,
    at: Instant,
}

/// From the claim to the handler's answer.
async fn handle(
    consumer: Rc<Consumer>,
    worker: Worker,
    counters: Arc<Counters>,
    draining: Rc<Cell<bool>>,
    claim: Claim,
) -> Ended {
    let Claim { generation, slot, delivery, at } = claim;
    if draining.get() {
        return Ended::NotBegun(delivery, generation);
    }
    // The handlers before it on this worker took long: its lease must last for its own timeout.
    let late = at.elapsed() > WAIT_MAX && consumer.broker.extend(delivery.lease, consumer.lease()).is_err();
    if late || !consumer.broker.begin(delivery.lease) {
        tracing::debug!(
            message = %delivery.message.id,
            consumer = &*consumer.policy.consumer,
            attempt = delivery.attempt,
            module = %generation.hash,
            "the lease was gone before the handler began"
        );
        return Ended::Gone;
    }
    counters.begin();
    let report = generation.module.call(&worker, slot, &consumer.settings, &delivery).await;
    counters.end();
    Ended::Handled(delivery, generation, report)
}

/// The phase after the next change. If nobody can change it any more, everything has gone.
async fn next_phase(phase: &mut watch::Receiver<Phase>) -> Phase {
    match phase.changed().await {
        Ok(()) => *phase.borrow_and_update(),
        Err(_) => Phase::Stopped,
    }
}

/// The claim's end, or nothing for ever if there is no claim.
async fn next_claim(claim: &mut Option<LocalBoxFuture<'static, Claimed>>) -> Claimed {
    match claim {
        Some(claim) => claim.await,
        None => future::pending().await,
    }
}
