//! One consumer on one worker: permits → claim → handle → settle. One task, on the worker's thread; in the common case a
//! message costs no word with another thread but its share of a batched claim and a batched settlement.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{self, Future};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Phase;
use super::canary::Side;
use super::gather::{Batch, BatchLimits, Gathered, Suspects};
use super::generation::{Generation, InForce, Serving};
use super::pace::Pace;
use super::policy::Policy;
use super::rate::{Allowance, Rate};
use super::room::Seat;
use super::settler::{Handled, Settler, Stopped};
use super::start::{Desk, Starter};
use crate::broker::{Broker, BrokerError};
use crate::config::Reuse;
use crate::delivery::{Delivery, Effects, MessageId, Outcome};
use crate::pause::Paused;
use crate::sandbox::{BatchReport, Called, InstanceSettings, Instances, Report, Slot, Worker};
use crate::status::Counters;

/// A lease lasts for the timeout and this, so that the result of a handler that used its time to the end still counts.
const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// A delivery that has waited this long on its worker gets its full lease again before it begins.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// How long to wait after the broker could not read, before it is asked again.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
/// After handlers were started for this long, what has become ready and others on the worker have their turn.
const ROUND_MAX: Duration = Duration::from_millis(1);

/// What the pullers of one consumer share.
#[derive(Clone)]
pub(super) struct Consumer {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) policy: Arc<Policy>,
    pub(super) settings: Arc<InstanceSettings>,
    /// None if each message is handed over by itself.
    pub(super) batches: Option<BatchLimits>,
    pub(super) suspects: Arc<Suspects>,
    /// None if there is no `rate_limit`.
    pub(super) rate: Option<Arc<Rate>>,
    /// None if each delivery has a fresh instance.
    pub(super) reuse: Option<Reuse>,
    pub(super) in_force: InForce,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) pauses: watch::Receiver<Paused>,
    /// How many workers there are.
    pub(super) workers: usize,
    /// Whether the consumer was changed or has gone from `queue.toml`: then nothing more is claimed, and what runs ends.
    pub(super) retired: Arc<AtomicBool>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// One consumer on one worker.
pub(super) struct Puller {
    shared: Rc<Shared>,
    /// How many deliveries may run at once.
    seat: Seat,
    /// Held for as long as it may claim or begin something.
    claims: Option<mpsc::Sender<Infallible>>,
    pace: Pace,
    settler: Settler,
    /// Permits that nobody uses; seen by the claim.
    free: Rc<Cell<usize>>,
    /// Claimed, and to be started next.
    waiting: VecDeque<Task>,
    /// Of a consumer of batches: filled by the claim, and by nobody else while one is under way.
    gathered: Option<Rc<RefCell<Gathered>>>,
    in_force: InForce,
    /// Whether a generation was on trial when `in_force` last changed.
    has_canary: bool,
    /// Whose turn it is while a generation is on trial.
    turn: u32,
}

/// What the handlers of one puller share.
struct Shared {
    consumer: Consumer,
    worker: Worker,
    counters: Arc<Counters>,
    /// Seen by deliveries that were claimed and have not begun.
    draining: Cell<bool>,
    /// Those that are kept, if any are.
    instances: Option<Instances>,
}

/// Instances, and what runs in them: no more than there are instances.
enum Claimed {
    Messages(Vec<Slot>, Vec<Delivery>),
    Batches(Vec<Slot>, Vec<Batch>),
}

/// What is handled by one call, and in the end what came of it.
enum Task {
    // In one place from the claim to the settlement: what is handed on so often is not to be copied each time.
    Message(Box<Claim<Delivery, Called>>),
    Batch(Box<Claim<Vec<Delivery>, BatchReport>>),
}

/// A generation as the deliveries of one claim hold it: the count of its holders is this worker's own. To count all of them in
/// one place has the cores wait for each other, twice for each message.
type Held = Rc<Arc<Generation>>;

/// The generations that the deliveries of one claim hold.
#[derive(Default)]
struct Holding(Vec<Held>);

impl Holding {
    fn hold(&mut self, generation: &Arc<Generation>) -> Held {
        match self.0.iter().find(|held| Arc::ptr_eq(held, generation)) {
            Some(held) => held.clone(),
            None => {
                let held = Rc::new(generation.clone());
                self.0.push(held.clone());
                held
            }
        }
    }
}

/// What was claimed, and what it runs with.
struct Claim<D, R> {
    generation: Held,
    /// Until it has ended.
    slot: Option<Slot>,
    /// The message, or those of the batch.
    deliveries: D,
    /// See [`WAIT_MAX`].
    late_at: Instant,
    /// When the handler began, if it has.
    began: Instant,
    end: End<R>,
}

/// How far it has come.
enum End<R> {
    /// The puller is draining, unless it is still to be started.
    NotBegun,
    /// The lease was gone before it began.
    Gone,
    Handled(R),
}

impl Puller {
    /// Runs at most as many deliveries at once on `worker` as its seat has, and holds on to `claims` for as long as it may
    /// claim or begin something. The counters are written by this puller only.
    pub(super) fn new(
        consumer: Consumer,
        worker: Worker,
        seat: Seat,
        claims: mpsc::Sender<Infallible>,
        counters: Arc<Counters>,
    ) -> Puller {
        // A copy of its own, since each instance holds it: the workers would count all of them in one place.
        let settings = Arc::new(InstanceSettings::clone(&consumer.settings));
        let consumer = Consumer { settings, ..consumer };
        let settler = Settler::new(consumer.broker.clone(), consumer.policy.clone(), counters.clone())
            .of_workers(consumer.workers);
        let gathered = consumer.batches.map(|limits| Rc::new(RefCell::new(Gathered::new(limits))));
        let instances = consumer.reuse.map(|reuse| Instances::new(reuse, 0, counters.clone()));
        let mut in_force = consumer.in_force.clone();
        in_force.mark_changed();
        Puller {
            shared: Rc::new(Shared { consumer, worker, counters, draining: Cell::new(false), instances }),
            seat,
            claims: Some(claims),
            pace: Pace::new(),
            settler,
            free: Rc::default(),
            waiting: VecDeque::new(),
            gathered,
            in_force,
            has_canary: false,
            turn: 0,
        }
    }

    /// Runs until the phase says that it must end, or the broker has stopped.
    pub(super) async fn run(mut self) {
        let mut permits = 0;
        let shared = self.shared.clone();
        let mut pauses = shared.consumer.pauses.clone();
        let mut paused = self.is_paused(&mut pauses);
        let mut in_force = shared.consumer.in_force.clone();
        let instances = shared.instances.as_ref();
        let has_idle = || instances.is_some_and(Instances::has_idle);
        let mut idle_check = Box::pin(tokio::time::sleep(Duration::ZERO));
        let handling = shared.clone();
        let mut starter = Starter::new(move |desk| work(handling.clone(), desk));
        let mut running = FuturesUnordered::new();
        let mut claim: Option<LocalBoxFuture<'static, Result<Claimed, Stopped>>> = None;
        // When it began to run without a pause.
        let mut turn = Instant::now();
        loop {
            let taken = running.len() + self.waiting.len();
            let permits_now = self.seat.permits(taken);
            if permits != permits_now {
                permits = permits_now;
                // It was for another number. Nothing is lost with it.
                claim = None;
                self.keep_instances(permits);
            }
            let has_room = taken < permits && self.settler.has_room();
            if claim.is_none() && has_room && !paused && !self.shared.draining.get() {
                claim = Some(match &self.gathered {
                    None => Box::pin(self.claim()),
                    Some(gathered) => Box::pin(self.claim_batches(gathered.clone())),
                });
            }
            self.free.set(permits.saturating_sub(taken));
            if self.shared.draining.get() && taken == 0 && self.settler.is_empty() {
                return;
            }
            // What makes room comes before what takes it.
            tokio::select! {
                biased;
                () = self.seat.changed() => {
                    let phase = *self.shared.consumer.phase.borrow();
                    if phase == Phase::Stopped {
                        return;
                    }
                    if phase == Phase::Draining || self.shared.consumer.retired.load(Ordering::Acquire) {
                        claim = None;
                        self.drain();
                    }
                }
                Ok(()) = pauses.changed() => {
                    paused = self.is_paused(&mut pauses);
                    if paused {
                        claim = None;
                        self.release_gathered();
                    }
                }
                answered = self.settler.answered(), if self.settler.has_calls() => {
                    if answered.is_err() {
                        return;
                    }
                }
                Some(ended) = running.next(), if !running.is_empty() => self.ended(ended),
                () = future::ready(()), if !self.waiting.is_empty() => {
                    let began = Instant::now();
                    future::poll_fn(|cx| {
                        // A handler begins when the one before it has ended: one reading of the clock does for both.
                        let (mut now, end) = (began, began + ROUND_MAX);
                        while now < end && let Some(task) = self.waiting.pop_front() {
                            match starter.start(task.at(now), cx) {
                                Ok(ended) => {
                                    now += ended.elapsed();
                                    self.ended(ended);
                                }
                                Err(handler) => {
                                    running.push(handler);
                                    now = Instant::now();
                                }
                            }
                        }
                        Poll::Ready(())
                    })
                    .await;
                    // The other consumers of this worker have a turn: not after each claim, as it costs a system call.
                    if turn.elapsed() > ROUND_MAX {
                        tokio::task::yield_now().await;
                        turn = Instant::now();
                    }
                }
                () = future::ready(()), if self.settler.must_send() => self.settler.send(),
                Ok(()) = in_force.changed(), if instances.is_some() => {
                    let serving = in_force.borrow_and_update().clone();
                    let numbers = serving.iter().flat_map(Serving::numbers).collect();
                    if let Some(instances) = instances {
                        instances.keep_only(numbers);
                    }
                }
                () = &mut idle_check, if has_idle() => {
                    let next = instances.map(|instances| instances.drop_idle(Instant::now()));
                    idle_check.as_mut().reset(next.unwrap_or_else(Instant::now));
                }
                claimed = next_claim(&mut claim) => {
                    claim = None;
                    match claimed {
                        Ok(Claimed::Messages(slots, deliveries)) => self.line_up(slots, deliveries),
                        Ok(Claimed::Batches(slots, batches)) => self.line_up_batches(slots, batches),
                        Err(Stopped) => return,
                    }
                }
                // There is nothing to claim at once, which more results could come of.
                () = future::ready(()), if self.settler.can_send() => self.settler.send(),
            }
        }
    }

    fn is_paused(&self, pauses: &mut watch::Receiver<Paused>) -> bool {
        pauses.borrow_and_update().contains(&self.shared.consumer.settings.consumer)
    }

    /// Waits for a module, then for the rate limit, for instances and for at least one message. How many it may take is read when it is
    /// first polled: that is after the handlers that can go on have ended, and so more than when the first of them did.
    fn claim(&self) -> impl Future<Output = Result<Claimed, Stopped>> + 'static {
        let shared = self.shared.clone();
        let (pace, free) = (self.pace.claim(), self.free.clone());
        async move {
            let Shared { consumer, worker, .. } = &*shared;
            consumer.loaded().await;
            let mut allowed = Allowance::wait(consumer.rate.as_ref(), pace.min(free.get())).await;
            let slots = worker.slots(allowed.of(pace.min(free.get()))).await;
            let deliveries = consumer.claim(allowed.cut(slots.len())).await?;
            allowed.spend(deliveries.len());
            Ok(Claimed::Messages(slots, deliveries))
        }
    }

    /// As [`Puller::claim`], until at least one batch need not wait any longer. What is claimed and waits is safe in
    /// `gathered` if this is dropped.
    fn claim_batches(
        &self,
        gathered: Rc<RefCell<Gathered>>,
    ) -> impl Future<Output = Result<Claimed, Stopped>> + 'static {
        let shared = self.shared.clone();
        let size_max = shared.consumer.batches.map_or(1, |limits| limits.size_max);
        let (pace, free) = (self.pace.claim().div_ceil(size_max), self.free.clone());
        async move {
            let Shared { consumer, worker, .. } = &*shared;
            consumer.loaded().await;
            let missing = gathered.borrow().missing(pace.min(free.get()));
            // What has been claimed does not wait for the rate limit any more.
            let is_waiting = !gathered.borrow().is_empty();
            let mut allowed = match is_waiting {
                true => Allowance::now(consumer.rate.as_ref(), missing),
                false => Allowance::wait(consumer.rate.as_ref(), missing).await,
            };
            let slots = worker.slots(pace.min(free.get())).await;
            loop {
                // Likewise: if no more may come, a partial batch waits for nothing.
                let wait_max = consumer.batches.filter(|_| allowed.is_used_up()).map(|limits| limits.wait_max);
                let now = Instant::now() + wait_max.unwrap_or_default();
                let batches = gathered.borrow_mut().take(slots.len(), now);
                if !batches.is_empty() {
                    return Ok(Claimed::Batches(slots, batches));
                }
                let (wanted, due_at) = (gathered.borrow().to_claim(slots.len()), gathered.borrow().due_at());
                let claim = consumer.claim(allowed.of(wanted));
                let claimed = match due_at {
                    None => claim.await?,
                    Some(due_at) => match tokio::time::timeout_at(due_at, claim).await {
                        Ok(claimed) => claimed?,
                        // The partial batch has waited long enough.
                        Err(_) => continue,
                    },
                };
                allowed.spend(claimed.len());
                gathered.borrow_mut().add(claimed, &consumer.suspects, Instant::now());
            }
        }
    }

    /// Claimed messages are started next, on the generation that is in force now; a share of them on the one on trial.
    fn line_up(&mut self, slots: Vec<Slot>, deliveries: Vec<Delivery>) {
        let late_at = Instant::now() + WAIT_MAX;
        let shared = self.shared.clone();
        let serving = shared.consumer.in_force.borrow().clone();
        let serving = serving.expect("nothing is claimed before there is a generation");
        let mut slots = slots.into_iter();
        let mut holding = Holding::default();
        let mut deliveries = deliveries.into_iter();
        while let Some(next) = deliveries.as_slice().first() {
            let generation = holding.hold(serving.generation_for(next.message.id, &mut self.turn));
            if let Some(reason) = shared.consumer.policy.exhausted(next.attempt) {
                self.settler.exhausted(next, generation.hash, reason);
                deliveries.next();
                continue;
            }
            let slot = slots.next().expect("no more was claimed than there are slots");
            let next = || deliveries.next().expect("it has just been seen");
            self.waiting.push_back(Task::Message(Claim::new(generation, slot, next, late_at)));
        }
    }

    /// The same for batches.
    fn line_up_batches(&mut self, slots: Vec<Slot>, batches: Vec<Batch>) {
        let shared = self.shared.clone();
        let serving = shared.consumer.in_force.borrow().clone();
        let serving = serving.expect("nothing is claimed before there is a generation");
        let mut holding = Holding::default();
        for (slot, Batch { mut deliveries, at }) in slots.into_iter().zip(batches) {
            let Some(first) = deliveries.first().map(|first| first.message.id) else { continue };
            let generation = holding.hold(serving.generation_for(first, &mut self.turn));
            deliveries.retain(|delivery| {
                let exhausted = shared.consumer.policy.exhausted(delivery.attempt);
                if let Some(reason) = &exhausted {
                    self.settler.exhausted(delivery, generation.hash, reason.clone());
                }
                exhausted.is_none()
            });
            if !deliveries.is_empty() {
                self.waiting.push_back(Task::Batch(Claim::new(generation, slot, || deliveries, at + WAIT_MAX)));
            }
        }
    }

    /// From now on nothing is claimed, and nothing that was claimed begins.
    fn drain(&mut self) {
        self.shared.draining.set(true);
        self.settler.drain();
        self.release_gathered();
        self.keep_instances(0);
        self.claims = None;
    }

    fn keep_instances(&self, permits: usize) {
        let capacity = if self.shared.draining.get() { 0 } else { permits };
        self.shared.instances.iter().for_each(|instances| instances.set_capacity(capacity));
    }

    /// What waits for its batch goes back.
    fn release_gathered(&mut self) {
        let Some(gathered) = &self.gathered else { return };
        let Some(serving) = self.shared.consumer.in_force.borrow().clone() else { return };
        for delivery in gathered.borrow_mut().take_all() {
            self.shared.consumer.rate.iter().for_each(|rate| rate.refund(1));
            self.settler.release(&delivery, serving.in_force.hash);
        }
    }

    fn ended(&mut self, task: Task) {
        match task {
            Task::Message(mut claim) => match std::mem::replace(&mut claim.end, End::Gone) {
                End::Handled(Called { elapsed, report }) => {
                    let Claim { generation, deliveries: delivery, .. } = &*claim;
                    self.pace.ran(elapsed);
                    match report {
                        None => {
                            self.on_trial(generation, delivery.message.id, &Outcome::Ack);
                            self.settler.acknowledge(Handled::new(delivery, generation.hash, String::new()));
                        }
                        Some(report) => self.handled(delivery, generation, *report),
                    }
                    self.settler.spent(elapsed);
                }
                End::NotBegun => self.not_begun(std::slice::from_ref(&claim.deliveries), &claim.generation),
                End::Gone => {}
            },
            Task::Batch(mut claim) => match std::mem::replace(&mut claim.end, End::Gone) {
                End::Handled(report) => self.batch_ended(&claim.deliveries, &claim.generation, report),
                End::NotBegun => self.not_begun(&claim.deliveries, &claim.generation),
                End::Gone => {}
            },
        }
    }

    fn not_begun(&mut self, deliveries: &[Delivery], generation: &Generation) {
        self.shared.consumer.rate.iter().for_each(|rate| rate.refund(deliveries.len()));
        deliveries.iter().for_each(|delivery| self.settler.release(delivery, generation.hash));
    }

    fn handled(&mut self, delivery: &Delivery, generation: &Generation, report: Report) {
        let Report { outcome, sends, state, stderr_tail, .. } = report;
        let handled = Handled::new(delivery, generation.hash, stderr_tail);
        match self.on_trial(generation, handled.message, &outcome) {
            true => self.settler.put_back(handled, outcome),
            false => self.settler.settle(handled, outcome, Effects { sends, state }),
        }
    }

    /// Tells the trial, if there is one, what came of a delivery. True if it failed on trial: then it does not count.
    fn on_trial(&mut self, generation: &Generation, message: MessageId, outcome: &Outcome) -> bool {
        let failed = outcome.is_failure();
        // All workers ask the same lock: so only if it matters.
        if !matches!(self.in_force.has_changed(), Ok(false)) {
            let serving = self.in_force.borrow_and_update();
            self.has_canary = serving.as_ref().is_some_and(|serving| serving.canary.is_some());
        }
        if !failed && !self.has_canary {
            return false;
        }
        let serving = self.in_force.borrow();
        let Some(serving_now) = &*serving else { return false };
        let failed_on_trial = failed && serving_now.is_on_trial(generation);
        let Some(canary) = serving_now.canary.clone() else { return failed_on_trial };
        let side = match generation.number {
            number if number == canary.generation.number => Some(Side::OnTrial),
            number if number == serving_now.in_force.number && !canary.has_failed(message) => Some(Side::InForce),
            _ => None,
        };
        // The verdict may change what is served: the lock on it must be free.
        drop(serving);
        if failed_on_trial {
            canary.remember(message);
        }
        if let Some(side) = side.filter(|_| !matches!(outcome, Outcome::Snooze { .. })) {
            canary.ended(side, failed);
        }
        failed_on_trial
    }

    fn batch_ended(&mut self, deliveries: &[Delivery], generation: &Generation, report: BatchReport) {
        let BatchReport { outcomes, mut effects, shared_sends, stderr_tail, elapsed } = report;
        self.pace.ran(elapsed / deliveries.len() as u32);
        let handled = |delivery| Handled::new(delivery, generation.hash, stderr_tail.clone());
        match (outcomes, deliveries) {
            // Mostly that is all.
            (Ok(outcomes), _) if effects.is_empty() && shared_sends.is_empty() => {
                for (delivery, outcome) in deliveries.iter().zip(outcomes) {
                    match outcome {
                        Outcome::Ack => self.settler.acknowledge(handled(delivery)),
                        outcome => self.settler.settle(handled(delivery), outcome, Effects::default()),
                    }
                }
            }
            (Ok(outcomes), _) => {
                let settled = deliveries.iter().zip(outcomes).enumerate().map(|(place, (delivery, outcome))| {
                    (handled(delivery), outcome, effects.remove(&place).unwrap_or_default())
                });
                self.settler.settle_batch(settled, shared_sends);
            }
            (Err(reason), [delivery]) => {
                let outcome = Outcome::Retry { reason, after: None };
                match self.on_trial(generation, delivery.message.id, &outcome) {
                    true => self.settler.put_back(handled(delivery), outcome),
                    false => self.settler.settle(handled(delivery), outcome, Vec::new()),
                }
            }
            (Err(reason), _) => {
                tracing::warn!(
                    consumer = &*self.shared.consumer.policy.consumer, messages = deliveries.len(), module = %generation.hash, reason,
                    "a batch failed as a whole: its messages are tried one by one"
                );
                // For the batch as a whole: which of its messages is to blame is not known yet.
                let outcome = Outcome::Retry { reason, after: None };
                deliveries.iter().take(1).for_each(|first| _ = self.on_trial(generation, first.message.id, &outcome));
                // Before they can be claimed again.
                self.shared.consumer.suspects.add(deliveries.iter().map(|delivery| delivery.message.id));
                deliveries.iter().for_each(|delivery| self.settler.hand_back(handled(delivery)));
            }
        }
        self.settler.spent(elapsed);
    }
}

impl Consumer {
    /// How long a message may be away: until its handler has ended, and before that until its batch is full.
    fn lease(&self) -> Duration {
        let wait_max = self.batches.map_or(Duration::ZERO, |limits| limits.wait_max);
        self.settings.timeout + LEASE_MARGIN + wait_max
    }

    /// Waits until there is a module.
    async fn loaded(&self) {
        if self.in_force.clone().wait_for(Option::is_some).await.is_err() {
            // Nobody will ever load one: the runtime is stopping.
            future::pending::<()>().await;
        }
    }

    /// Waits for at least one message. Dropping it claims nothing.
    async fn claim(&self, max: usize) -> Result<Vec<Delivery>, Stopped> {
        loop {
            match self.broker.claim(&self.policy.queue, max, self.lease()).await {
                Ok(deliveries) => return Ok(deliveries),
                Err(BrokerError::Stopped(_)) => return Err(Stopped),
                Err(error) => {
                    let (name, queue) = (&*self.policy.consumer, &self.policy.queue);
                    tracing::error!(consumer = name, %queue, %error, "can't claim messages; trying again");
                    tokio::time::sleep(CLAIM_PAUSE).await;
                }
            }
        }
    }

    /// Writes down that the attempt begins. False if the lease is gone: then it must not.
    fn begin(&self, delivery: &Delivery, is_late: bool, generation: &Generation) -> bool {
        // Those before it on this worker took long: its lease must last for its own timeout.
        let is_gone = is_late && self.broker.extend(delivery.lease, self.lease()).is_err();
        let begun = !is_gone && self.broker.begin(delivery.lease);
        if !begun {
            tracing::debug!(
                message = %delivery.message.id,
                consumer = &*self.policy.consumer,
                attempt = delivery.attempt,
                module = %generation.hash,
                "the lease was gone before the handler began"
            );
        }
        begun
    }
}

impl<D, R> Claim<D, R> {
    /// `deliveries` is asked when there is a place for them, so that they are not moved twice.
    #[inline(always)]
    fn new(generation: Held, slot: Slot, deliveries: impl FnOnce() -> D, late_at: Instant) -> Box<Claim<D, R>> {
        let place = Box::new_uninit();
        let (slot, end) = (Some(slot), End::NotBegun);
        Box::write(place, Claim { generation, slot, deliveries: deliveries(), late_at, began: late_at, end })
    }
}

impl Task {
    /// To be started now.
    fn at(mut self, now: Instant) -> Task {
        match &mut self {
            Task::Message(claim) => claim.began = now,
            Task::Batch(claim) => claim.began = now,
        }
        self
    }

    /// How long the handler ran.
    fn elapsed(&self) -> Duration {
        match self {
            Task::Message(claim) => claim.end.handled().map_or(Duration::ZERO, |called| called.elapsed),
            Task::Batch(claim) => claim.end.handled().map_or(Duration::ZERO, |report| report.elapsed),
        }
    }
}

impl<R> End<R> {
    fn handled(&self) -> Option<&R> {
        match self {
            End::Handled(result) => Some(result),
            End::NotBegun | End::Gone => None,
        }
    }
}

/// Handles one task after another. No future is moved for it.
async fn work(shared: Rc<Shared>, desk: Rc<Desk<Task>>) -> Infallible {
    loop {
        let mut task = desk.next().await;
        if !shared.draining.get() {
            match &mut task {
                Task::Message(claim) => pin!(handle(&shared, claim)).await,
                Task::Batch(claim) => pin!(handle_batch(&shared, claim)).await,
            }
        }
        desk.leave(task);
    }
}

/// From the claim to the handler's answer.
async fn handle(shared: &Shared, claim: &mut Claim<Delivery, Called>) {
    let Shared { consumer, worker, counters, instances, .. } = shared;
    let Claim { generation, slot, deliveries: delivery, late_at, began, end } = claim;
    if !consumer.begin(delivery, began > late_at, generation) {
        *end = End::Gone;
        return;
    }
    let slot = slot.take().expect("it is called once");
    counters.begin(1);
    let target = generation.module.on(worker, &consumer.settings).since(*began);
    *end = End::Handled(target.reusing(instances.as_ref(), generation.number).call(slot, delivery).await);
    counters.end(1);
}

/// From a batch to its handler's answers.
async fn handle_batch(shared: &Shared, claim: &mut Claim<Vec<Delivery>, BatchReport>) {
    let Shared { consumer, worker, counters, instances, .. } = shared;
    let Claim { generation, slot, deliveries, late_at, began, end } = claim;
    deliveries.retain(|delivery| consumer.begin(delivery, began > late_at, generation));
    if deliveries.is_empty() {
        *end = End::Gone;
        return;
    }
    let messages = deliveries.len() as u64;
    let slot = slot.take().expect("it is called once");
    counters.begin(messages);
    let target = generation.module.on(worker, &consumer.settings).since(*began);
    *end = End::Handled(target.reusing(instances.as_ref(), generation.number).call_batch(slot, deliveries).await);
    counters.end(messages);
}

/// The claim's end, or nothing for ever if there is no claim.
async fn next_claim(claim: &mut Option<LocalBoxFuture<'static, Result<Claimed, Stopped>>>) -> Result<Claimed, Stopped> {
    match claim {
        Some(claim) => claim.await,
        None => future::pending().await,
    }
}
