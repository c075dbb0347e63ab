//! Puts what became of deliveries on record. Settlements are sent as soon as nothing more can be claimed at once, and without a
//! timer; while there is more, or as many calls are under way as are useful, the next batch gathers, so that a busy puller
//! settles many at once: each call is a frame of the log and a sync of the disk, or a part of one.
//!
//! What the broker refuses has an answer too: an ack whose messages nobody can take becomes a failed attempt, and a dead
//! letter that finds no room stays where it is and is tried again later. What only puts a message off, and finds no room on
//! a full disk, is asked for again until there is some: meanwhile it counts as unsettled, so that no more is claimed than can
//! be put on record. Nothing is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{self, LocalBoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;

use super::generation::hex;
use super::policy::{Attempt, Policy};
use crate::broker::{Broker, BrokerError, LEASES_MAX};
use crate::delivery::limits::{ATTRIBUTE_BYTES, MESSAGE_BYTES};
use crate::delivery::{
    Delivery, Effects, Lease, MessageId, NewMessage, Outcome, Outgoing, Resolution, Settlement, StateUse,
};
use crate::sandbox::ModuleHash;
use crate::status::Counters;
use crate::time::now_ms;

/// One call is on its way to the disk, and the next one waits for its turn there: more would only make smaller batches.
const CALLS_MAX: usize = 2;
/// Settlements of one call. More than are gathered before one is sent, as batches bring many at once: what would be left over
/// would be a call of its own.
const BATCH_MAX: usize = 4096;
/// So many settlements don't wait for more.
const GATHERED_MAX: usize = 3072;
/// After handlers ran for so long, what came of them doesn't wait for more, either.
const GATHERING_MAX: Duration = Duration::from_millis(3);
/// Deliveries that were handled and are not on record yet, of one worker of few. Each has its lease until then.
const UNSETTLED_MAX: usize = 8192;
/// The same for the bytes of what their handlers sent.
const UNSETTLED_BYTES_MAX: usize = 32 << 20;
/// A full dead-letter queue is told so often, and not for each message; a full disk likewise.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// When a full disk is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a lease lasts that waits for room.
const WAITING_LEASE: Duration = Duration::from_secs(60);

/// What is kept of a delivery until it is on record: enough to judge it again if the broker refuses. Not its body.
#[derive(Debug)]
pub(super) struct Handled {
    pub(super) message: MessageId,
    pub(super) lease: Lease,
    /// Attempts that began, this one included.
    pub(super) attempt: u32,
    pub(super) first_failed_at_ms: Option<u64>,
    pub(super) module: ModuleHash,
    pub(super) stderr: String,
}

impl Handled {
    /// Of a delivery that `module` handled.
    pub(super) fn new(delivery: &Delivery, module: ModuleHash, stderr: String) -> Handled {
        Handled {
            message: delivery.message.id,
            lease: delivery.lease,
            attempt: delivery.attempt,
            first_failed_at_ms: delivery.first_failed_at_ms,
            module,
            stderr,
        }
    }
}

/// The same of a delivery that is acknowledged, where nothing goes with that: there are thousands of them between two calls,
/// so each is small.
struct Acked {
    message: MessageId,
    /// 0: never.
    first_failed_at_ms: u64,
    attempt: u32,
    /// The place of its module's hash.
    module: u32,
    stderr: Box<str>,
}

/// Acks, and their leases in the same order.
#[derive(Default)]
struct Acks {
    leases: Vec<Lease>,
    acked: Vec<Acked>,
}

/// The broker confirms nothing more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// The settlements of one puller.
pub(super) struct Settler {
    broker: Arc<dyn Broker>,
    policy: Arc<Policy>,
    counters: Arc<Counters>,
    random: fastrand::Rng,
    /// What the next call acknowledges, where nothing goes with it: that is most of them.
    acks: Acks,
    /// The modules whose acks there were.
    modules: Vec<ModuleHash>,
    /// What else is asked with the next call.
    settlements: Vec<Settlement>,
    /// What has to be known about each of them.
    asked: Vec<Asked>,
    /// How long handlers ran since the last call.
    gathering: Duration,
    calls: FuturesUnordered<LocalBoxFuture<'static, Answered>>,
    /// What found no room, and whether one of the calls is the pause before it is asked for again.
    put_off: Vec<Unsettled>,
    pausing: bool,
    again: Duration,
    /// Nothing waits for room any more.
    is_draining: bool,
    unsettled: usize,
    /// More than this, and nothing new is claimed.
    unsettled_max: usize,
    unsettled_bytes: usize,
    complained_at: Option<Instant>,
}

struct Unsettled {
    handled: Handled,
    resolution: Resolution,
    effects: Effects,
    /// Acks of the same batch that must not be on record before this one: it carries what was sent for all of them.
    followers: Vec<Unsettled>,
}

/// What has to be known about a settlement when its answer comes.
struct Asked {
    handled: Handled,
    kind: Kind,
    bytes: usize,
    followers: Vec<Unsettled>,
}

#[derive(Debug)]
enum Kind {
    /// Whether something goes with it.
    Ack {
        with_effects: bool,
    },
    DeadLetter,
    /// The message is put off, or given back.
    PutOff(Resolution),
}

/// A call, and what came of it.
#[derive(Default)]
struct Answered {
    /// It was none, only the time that had to pass.
    is_pause: bool,
    acked: Vec<Acked>,
    /// By their places, with their leases.
    refused: Vec<(usize, Lease, BrokerError)>,
    asked: Vec<Asked>,
    answers: Vec<Result<(), BrokerError>>,
}

impl Acks {
    fn push(&mut self, lease: Lease, acked: Acked) {
        self.leases.push(lease);
        self.acked.push(acked);
    }
}

impl Settler {
    pub(super) fn new(broker: Arc<dyn Broker>, policy: Arc<Policy>, counters: Arc<Counters>) -> Settler {
        Settler {
            broker,
            policy,
            counters,
            random: fastrand::Rng::new(),
            acks: Acks::default(),
            modules: Vec::new(),
            settlements: Vec::new(),
            asked: Vec::new(),
            gathering: Duration::ZERO,
            calls: FuturesUnordered::new(),
            put_off: Vec::new(),
            pausing: false,
            again: AGAIN,
            is_draining: false,
            unsettled: 0,
            unsettled_max: UNSETTLED_MAX,
            unsettled_bytes: 0,
            complained_at: None,
        }
    }

    /// One of so many workers. All of them together must not have all leases that there are.
    pub(super) fn of_workers(mut self, workers: usize) -> Settler {
        self.unsettled_max = (LEASES_MAX / 2 / workers.max(1)).clamp(1, UNSETTLED_MAX);
        self
    }

    /// Takes what a handler answered. It is on its way with the next [`Settler::send`].
    pub(super) fn settle(&mut self, handled: Handled, outcome: Outcome, effects: impl Into<Effects>) {
        if outcome.is_failure() {
            self.counters.failed();
        }
        // What a failed attempt sent and wrote never was.
        let effects = if outcome == Outcome::Ack { effects.into() } else { Effects::default() };
        if outcome == Outcome::Ack && effects.is_empty() {
            return self.acknowledge(handled);
        }
        let resolution = self.judge(&handled, outcome);
        self.put(Unsettled::new(handled, resolution, effects));
    }

    /// Takes a message that is done, and nothing goes with that.
    #[inline]
    pub(super) fn acknowledge(&mut self, handled: Handled) {
        let Handled { message, lease, attempt, first_failed_at_ms, module, stderr } = handled;
        let (first_failed_at_ms, module, stderr) =
            (first_failed_at_ms.unwrap_or(0), self.module(module), stderr.into());
        self.unsettled += 1;
        self.acks.push(lease, Acked { message, first_failed_at_ms, attempt, module, stderr });
    }

    /// The place of a module's hash. There are as many as there were generations.
    fn module(&mut self, module: ModuleHash) -> u32 {
        let known = self.modules.iter().rposition(|known| *known == module);
        let place = known.unwrap_or_else(|| {
            self.modules.push(module);
            self.modules.len() - 1
        });
        place as u32
    }

    /// Takes what the handler of a batch answered, message by message. What was sent for the batch as a whole goes on
    /// record with the first ack, and the other acks follow it: so it can happen twice (should the process end in between,
    /// they come back), but is never lost.
    pub(super) fn settle_batch<E: Into<Effects>>(
        &mut self,
        batch: impl IntoIterator<Item = (Handled, Outcome, E)>,
        shared_sends: Vec<Outgoing>,
    ) {
        let mut shared_sends = Some(shared_sends).filter(|sends| !sends.is_empty());
        let mut leader: Option<Unsettled> = None;
        for (handled, outcome, effects) in batch {
            let mut effects = effects.into();
            match (&outcome, &mut leader) {
                (Outcome::Ack, None) if shared_sends.is_some() => {
                    effects.sends.extend(shared_sends.take().into_iter().flatten());
                    leader = Some(Unsettled::new(handled, Resolution::Ack, effects));
                }
                (Outcome::Ack, Some(leader)) => {
                    leader.followers.push(Unsettled::new(handled, Resolution::Ack, effects));
                }
                _ => self.settle(handled, outcome, effects),
            }
        }
        if let Some(leader) = leader {
            self.put(leader);
        }
    }

    /// Gives a message back that failed on a generation that is on trial: it comes again after the delay that a failed
    /// attempt has, and the attempt does not count.
    pub(super) fn put_back(&mut self, handled: Handled, outcome: Outcome) {
        self.counters.failed();
        let (Outcome::Retry { reason, .. } | Outcome::DeadLetter { reason }) = &outcome else {
            return self.settle(handled, outcome, Effects::default());
        };
        let (message, attempt, module) = (handled.message, handled.attempt, handled.module);
        let consumer = &*self.policy.consumer;
        tracing::warn!(%message, consumer, attempt, %module, reason, "failed on trial; the attempt does not count");
        let delay = match self.resolve(&handled, outcome, "") {
            Resolution::Retry { delay } => delay,
            _ => Duration::ZERO,
        };
        let resolution = Resolution::Snooze { delay };
        self.put(Unsettled::new(handled, resolution, Effects::default()));
    }

    /// Gives a message of a batch back that failed as a whole: it is handed out again at once, and the attempt does not
    /// count.
    pub(super) fn hand_back(&mut self, handled: Handled) {
        let resolution = Resolution::Snooze { delay: Duration::ZERO };
        self.put(Unsettled::new(handled, resolution, Effects::default()));
    }

    /// Gives a message up whose last attempt began and never ended.
    pub(super) fn exhausted(&mut self, delivery: &Delivery, module: ModuleHash, reason: String) {
        let mut handled = Handled::new(delivery, module, String::new());
        handled.attempt = delivery.attempt - 1;
        let resolution = self.judge(&handled, Outcome::DeadLetter { reason });
        self.put(Unsettled::new(handled, resolution, Effects::default()));
    }

    /// Gives a delivery back whose handler never started.
    pub(super) fn release(&mut self, delivery: &Delivery, module: ModuleHash) {
        let handled = Handled::new(delivery, module, String::new());
        self.put(Unsettled::new(handled, Resolution::Release, Effects::default()));
    }

    /// Whether everything is on record.
    pub(super) fn is_empty(&self) -> bool {
        self.unsettled == 0
    }

    /// Whether more may be claimed.
    pub(super) fn has_room(&self) -> bool {
        self.unsettled < self.unsettled_max && self.unsettled_bytes < UNSETTLED_BYTES_MAX
    }

    /// Whether [`Settler::send`] has something to send, and may.
    pub(super) fn can_send(&self) -> bool {
        self.gathered() > 0 && self.calls.len() - usize::from(self.pausing) < CALLS_MAX
    }

    /// How many wait for the next call.
    fn gathered(&self) -> usize {
        self.acks.leases.len() + self.settlements.len()
    }

    /// Whether what there is to send should not wait for more.
    pub(super) fn must_send(&self) -> bool {
        self.can_send()
            && (self.gathered() >= GATHERED_MAX.min(self.unsettled_max / 2) || self.gathering >= GATHERING_MAX)
    }

    /// A handler ran for so long. A result of one that ran long is sent at once.
    pub(super) fn spent(&mut self, elapsed: Duration) {
        self.gathering += elapsed;
        if elapsed > GATHERING_MAX {
            self.send();
        }
    }

    /// Whether [`Settler::answered`] has something to wait for.
    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Starts a call with what waits. The broker hears of it when [`Settler::answered`] is polled next.
    pub(super) fn send(&mut self) {
        if !self.can_send() {
            return;
        }
        let (leases, acked) = (take_first(&mut self.acks.leases), take_first(&mut self.acks.acked));
        let (asked, settlements) = (take_first(&mut self.asked), take_first(&mut self.settlements));
        if self.gathered() == 0 {
            self.gathering = Duration::ZERO;
        }
        let broker = self.broker.clone();
        self.calls.push(Box::pin(async move {
            // Both are on their way before one of them is waited for.
            let refused = (!leases.is_empty()).then(|| broker.acknowledge(&leases));
            let answers = (!settlements.is_empty()).then(|| broker.settle(settlements));
            let (refused, answers) = future::join(OptionFuture::from(refused), OptionFuture::from(answers)).await;
            let refused = refused.into_iter().flatten().map(|(place, why)| (place, leases[place], why)).collect();
            Answered { is_pause: false, acked, refused, asked, answers: answers.unwrap_or_default() }
        }));
    }

    /// Nothing new comes. What finds no room now comes back when its lease expires.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.unsettled -= self.put_off.len();
        self.put_off.clear();
    }

    /// Asks again for what found no room, a second later.
    fn put_off(&mut self, handled: Handled, resolution: Resolution) {
        self.unsettled += 1;
        self.put_off.push(Unsettled::new(handled, resolution, Effects::default()));
        if !self.pausing {
            self.pausing = true;
            let pause = tokio::time::sleep(self.again);
            self.calls.push(Box::pin(async move {
                pause.await;
                Answered { is_pause: true, ..Answered::default() }
            }));
        }
    }

    fn ask_again(&mut self) {
        self.pausing = false;
        let put_off = std::mem::take(&mut self.put_off);
        self.unsettled -= put_off.len();
        for one in put_off {
            // Should it run out, the attempt would count whatever was to become of it. If it has, that is told with the answer.
            _ = self.broker.extend(one.handled.lease, WAITING_LEASE);
            self.put(one);
        }
    }

    /// Waits for the next answers and acts on them. Loses nothing if it is dropped while it waits.
    pub(super) async fn answered(&mut self) -> Result<(), Stopped> {
        let Some(answered) = self.calls.next().await else { return Ok(()) };
        let Answered { is_pause, mut acked, refused, asked, answers } = answered;
        if is_pause {
            self.ask_again();
            return Ok(());
        }
        debug_assert_eq!(asked.len(), answers.len(), "one answer for each settlement");
        self.unsettled -= acked.len() + asked.len();
        self.counters.acked((acked.len() - refused.len()) as u64);
        let mut result = Ok(());
        // From the last one on, so that the places of the others stay what they are.
        for (place, lease, refusal) in refused.into_iter().rev() {
            let handled = self.handled(lease, acked.swap_remove(place));
            match refusal {
                BrokerError::Stopped(_) => result = Err(Stopped),
                refusal => self.refused(handled, Kind::Ack { with_effects: false }, refusal),
            }
        }
        for (asked, answer) in asked.into_iter().zip(answers) {
            self.unsettled_bytes -= asked.bytes;
            self.follow(asked.followers, &answer);
            match (answer, asked.kind) {
                (Ok(()), Kind::Ack { .. }) => self.counters.acked(1),
                (Ok(()), Kind::DeadLetter) => self.counters.dead_lettered(),
                (Ok(()), Kind::PutOff(_)) => {}
                (Err(BrokerError::Stopped(_)), _) => result = Err(Stopped),
                (Err(refusal), kind) => self.refused(asked.handled, kind, refusal),
            }
        }
        result
    }

    /// An ack that is to be judged again.
    fn handled(&self, lease: Lease, acked: Acked) -> Handled {
        let Acked { message, first_failed_at_ms, attempt, module, stderr } = acked;
        let first_failed_at_ms = Some(first_failed_at_ms).filter(|at_ms| *at_ms != 0);
        let module = self.modules[module as usize];
        Handled { message, lease, attempt, first_failed_at_ms, module, stderr: stderr.into() }
    }

    /// The ack that others were waiting for has its answer.
    fn follow(&mut self, followers: Vec<Unsettled>, leader: &Result<(), BrokerError>) {
        for follower in followers {
            self.unsettled -= 1;
            self.unsettled_bytes -= follower.bytes();
            match leader {
                Ok(()) => self.put(follower),
                Err(BrokerError::Stopped(_)) => {}
                Err(BrokerError::StateChanged { .. }) => self.hand_back(follower.handled),
                Err(refusal) => {
                    let reason = format!("what its batch sent could not be put on record: {refusal}");
                    self.settle(follower.handled, Outcome::Retry { reason, after: None }, Effects::default());
                }
            }
        }
    }

    fn refused(&mut self, handled: Handled, kind: Kind, refusal: BrokerError) {
        let (message, attempt, module) = (handled.message, handled.attempt, handled.module);
        let policy = self.policy.clone();
        let consumer = &*policy.consumer;
        match kind {
            _ if refusal == BrokerError::LeaseLost => tracing::debug!(
                %message, consumer, attempt, %module,
                "the lease was gone when the result came: the message has gone its own way"
            ),
            // Another delivery wrote what this one had read before: it is handled again, with what is there now. Whoever was
            // first has gone on, so that this ends.
            _ if matches!(refusal, BrokerError::StateChanged { .. }) => {
                tracing::debug!(%message, consumer, attempt, %module, %refusal, "it is handled again; the attempt does not count");
                self.hand_back(handled);
            }
            // The queue that it sent to has no room, or there is none: perhaps there is later.
            Kind::Ack { with_effects: true } => {
                let what = match refusal {
                    BrokerError::StateFull { .. } | BrokerError::StateKey(_) => "wrote",
                    _ => "sent",
                };
                let reason = format!("what it {what} was refused: {refusal}");
                self.settle(handled, Outcome::Retry { reason, after: None }, Effects::default());
            }
            Kind::PutOff(resolution) if matches!(refusal, BrokerError::StoreFull(_)) && !self.is_draining => {
                if self.may_complain() {
                    tracing::warn!(%message, consumer, attempt, %module, %refusal, "a message can't be put off: trying again");
                }
                self.put_off(handled, resolution);
            }
            Kind::DeadLetter => {
                self.complain(&handled, &refusal);
                // Not a retry: that would count an attempt that there is none of.
                let resolution = Resolution::Snooze { delay: self.policy.retry_delay_max };
                self.put(Unsettled::new(handled, resolution, Effects::default()));
            }
            Kind::Ack { with_effects: false } | Kind::PutOff(_) => tracing::warn!(
                %message, consumer, attempt, %module, %refusal,
                "the result could not be put on record; the message comes back when its lease expires"
            ),
        }
    }

    /// Whether it is time to tell people again.
    fn may_complain(&mut self) -> bool {
        let may = self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL);
        if may {
            self.complained_at = Some(Instant::now());
        }
        may
    }

    fn complain(&mut self, handled: &Handled, refusal: &BrokerError) {
        if !self.may_complain() {
            return;
        }
        tracing::error!(
            message = %handled.message,
            consumer = &*self.policy.consumer,
            attempt = handled.attempt,
            module = %handled.module,
            dead_letter_queue = %self.policy.dead_letter_queue,
            %refusal,
            delay = %humantime::format_duration(self.policy.retry_delay_max),
            "A DEAD LETTER FINDS NO ROOM. The message stays where it was and is tried again after the delay. \
             Redrive or purge the dead-letter queue, or raise its max_bytes"
        );
    }

    /// Applies the policy, and tells people of a failure.
    fn judge(&mut self, handled: &Handled, outcome: Outcome) -> Resolution {
        let reason = match &outcome {
            // Most are: no clock is read for it.
            Outcome::Ack => return Resolution::Ack,
            Outcome::Snooze { .. } => return self.resolve(handled, outcome, ""),
            Outcome::Retry { reason, .. } | Outcome::DeadLetter { reason } => reason.clone(),
        };
        let resolution = self.resolve(handled, outcome, &hex(handled.module));
        let (message, attempt, module) = (handled.message, handled.attempt, handled.module);
        let consumer = &*self.policy.consumer;
        match &resolution {
            Resolution::DeadLetter { queue, .. } => tracing::warn!(
                %message, consumer, attempt, %module, reason, dead_letter_queue = %queue, "given up"
            ),
            Resolution::Retry { delay } => tracing::warn!(
                %message, consumer, attempt, %module, reason, delay_ms = delay.as_millis() as u64, "the attempt failed"
            ),
            Resolution::Ack | Resolution::Snooze { .. } | Resolution::Release => {}
        }
        resolution
    }

    fn resolve(&mut self, handled: &Handled, outcome: Outcome, module_hash: &str) -> Resolution {
        let attempt = Attempt {
            number: handled.attempt,
            first_failed_at_ms: handled.first_failed_at_ms,
            ended_at_ms: now_ms(),
            module_hash,
            stderr: &handled.stderr,
        };
        self.policy.resolve(outcome, attempt, self.random.u64(..))
    }

    fn put(&mut self, unsettled: Unsettled) {
        self.unsettled += 1 + unsettled.followers.len();
        self.unsettled_bytes += unsettled.bytes() + unsettled.followers.iter().map(Unsettled::bytes).sum::<usize>();
        let (asked, settlement) = unsettled.split();
        self.asked.push(asked);
        self.settlements.push(settlement);
    }
}

/// Takes what goes with one call, and leaves room for as much again.
fn take_first<T>(list: &mut Vec<T>) -> Vec<T> {
    let count = list.len().min(BATCH_MAX);
    let mut rest = Vec::with_capacity(list.len());
    rest.extend(list.drain(count..));
    std::mem::replace(list, rest)
}

/// What a message that was sent takes, more or less: an empty one takes some, too.
fn sent_bytes(message: &NewMessage) -> usize {
    let one = |(name, value): &(Box<str>, Box<str>)| name.len() + value.len() + ATTRIBUTE_BYTES as usize;
    message.body.len() + MESSAGE_BYTES as usize + message.attributes.iter().map(one).sum::<usize>()
}

impl Unsettled {
    /// Without followers.
    fn new(handled: Handled, resolution: Resolution, effects: Effects) -> Unsettled {
        Unsettled { handled, resolution, effects, followers: Vec::new() }
    }

    fn bytes(&self) -> usize {
        let Effects { sends, state: StateUse { reads, writes } } = &self.effects;
        let sent: usize = sends.iter().map(|send| sent_bytes(&send.message)).sum();
        let read: usize = reads.iter().filter_map(|read| read.seen.as_ref()).map(Bytes::len).sum();
        let written: usize = writes.iter().filter_map(|write| write.value.as_ref()).map(Bytes::len).sum();
        sent + read + written
    }

    fn split(self) -> (Asked, Settlement) {
        let bytes = self.bytes();
        let kind = match &self.resolution {
            Resolution::Ack => {
                let Effects { sends, state } = &self.effects;
                Kind::Ack { with_effects: !sends.is_empty() || !state.writes.is_empty() }
            }
            Resolution::DeadLetter { .. } => Kind::DeadLetter,
            how @ (Resolution::Retry { .. } | Resolution::Snooze { .. } | Resolution::Release) => {
                Kind::PutOff(how.clone())
            }
        };
        let Effects { sends, state: StateUse { reads, writes } } = self.effects;
        let settlement = Settlement {
            lease: self.handled.lease,
            resolution: self.resolution,
            sends,
            state: writes,
            state_reads: reads,
        };
        (Asked { handled: self.handled, kind, bytes, followers: self.followers }, settlement)
    }
}

#[cfg(test)]
#[path = "settler_tests.rs"]
mod tests;
