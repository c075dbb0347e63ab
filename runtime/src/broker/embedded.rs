//! The embedded engine: [`linecook_store::Store`] behind the [`Broker`] trait.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use linecook_store::disk::Shortage;
use linecook_store::{
    Action, AttributeEdit, OpenError, Options, PeekRange, Peeked, Receipt, Refusal, Sent, Store, Transaction,
};
use tokio::sync::{Notify, oneshot};

use super::{
    Broker, BrokerError, HistoryPage, HistoryRange, MessageState, PeekedMessage, PeekedPage, Pending, Published,
    QueueLimits, QueueStats, Redrive, Redriven,
};
use crate::dead_letter;
use crate::delivery::{Delivery, Lease, NewMessage, Outgoing, QueueName, Resolution, Settlement, StateWrite};

/// Messages that a redrive moves in one step: bounded, so that it never holds up other traffic.
const REDRIVE_BATCH: usize = 256;

/// Messages are looked at until they have so many bytes; the rest is for the next look.
const PEEK_BYTES_MAX: usize = 8 << 20;

/// How long a claim waits while there are messages, but no lease for them is left.
const LEASES_PAUSE: Duration = Duration::from_millis(5);

/// How long a redrive may hold a message before others may claim it again.
const REDRIVE_LEASE: Duration = Duration::from_secs(60);

/// The queues of one folder on disk.
pub struct Embedded {
    store: Store,
    // Written when a queue is declared or retracted, read by every claim.
    arrivals: RwLock<HashMap<QueueName, Arrival>>,
    folder: PathBuf,
}

/// What wakes those that wait for messages of a queue.
struct Arrival {
    notify: Arc<Notify>,
    /// The store goes on telling of one that is not.
    declared: bool,
}

impl Embedded {
    /// Opens the folder, or makes it. The folder is locked until the process ends or [`Embedded::close`].
    pub fn open(folder: &Path, log_bytes_max: u64) -> Result<Embedded, OpenError> {
        let options = Options { log_bytes_max, ..Options::default() };
        let store = Store::open(folder, &options)?;
        Ok(Embedded { store, arrivals: RwLock::default(), folder: folder.to_owned() })
    }

    /// The folder on disk.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for what is on its way to the disk, and stops. Later calls answer [`BrokerError::Stopped`].
    pub fn close(&self) {
        self.store.close();
    }

    fn arrival(&self, queue: &QueueName) -> Result<Arc<Notify>, BrokerError> {
        let arrivals = self.arrivals.read().unwrap_or_else(PoisonError::into_inner);
        let arrival = arrivals.get(queue).filter(|arrival| arrival.declared);
        arrival.map(|arrival| arrival.notify.clone()).ok_or_else(|| BrokerError::NoSuchQueue(queue.clone()))
    }

    /// Puts transactions on record and waits for it.
    async fn commit(&self, transactions: Vec<Transaction>) -> Vec<Result<Receipt, Refusal>> {
        let count = transactions.len();
        let (done, answered) = oneshot::channel();
        self.store.submit_all(transactions, move |answers| {
            // Nobody may be waiting any more: the transactions happened all the same.
            let _ = done.send(answers);
        });
        answered.await.unwrap_or_else(|_| vec![Err(Refusal::Stopped("it was closed".into())); count])
    }

    /// Puts what is sent on record.
    fn send(&self, transaction: Transaction) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        let (done, answered) = oneshot::channel();
        self.store.submit(transaction, move |answer| {
            // Nobody may be waiting any more: the messages are there all the same.
            let _ = done.send(answer);
        });
        Box::pin(async move {
            let answer = answered.await.unwrap_or_else(|_| Err(Refusal::Stopped("it was closed".into())));
            Ok(answer?.into_iter().map(|Sent { id, duplicate }| Published { id, duplicate }).collect())
        })
    }

    fn peek_page(&self, queue: &QueueName, after: Option<u64>, limit: usize) -> Result<PeekedPage, BrokerError> {
        let range = PeekRange { after, limit, bytes_max: PEEK_BYTES_MAX };
        let linecook_store::PeekPage { messages, next, unreadable } = self.store.peek_page(queue, &range)?;
        Ok(PeekedPage { messages: messages.into_iter().map(peeked).collect(), next, unreadable })
    }

    async fn redrive_batch(
        &self,
        request: &Redrive,
        max: usize,
        held: &mut Vec<Lease>,
    ) -> Result<Option<u64>, BrokerError> {
        let claimed = self.store.claim(&request.from, max, REDRIVE_LEASE.as_millis() as u64)?;
        if claimed.is_empty() {
            return Ok(None);
        }
        let mut moves = Vec::with_capacity(claimed.len());
        for delivery in claimed {
            let target = request.to.clone().or_else(|| dead_letter::source_queue(&delivery.message));
            match target.filter(|queue| self.arrival(queue).is_ok()) {
                Some(queue) => moves.push(Transaction {
                    settle: Some((delivery.lease, Action::Move { queue, attributes: AttributeEdit::StripReserved })),
                    ..Transaction::default()
                }),
                None => held.push(delivery.lease),
            }
        }
        let leases: Vec<Lease> = moves.iter().filter_map(|one| one.settle.as_ref()).map(|(lease, _)| *lease).collect();
        let mut moved = 0;
        let mut refused = None;
        for (lease, answer) in leases.into_iter().zip(self.commit(moves).await) {
            match answer {
                Ok(_) => moved += 1,
                // Somebody else had it first.
                Err(Refusal::LeaseLost) => {}
                Err(error) => {
                    held.push(lease);
                    refused = Some(error);
                }
            }
        }
        match refused {
            Some(error) if moved == 0 => Err(error.into()),
            _ => Ok(Some(moved)),
        }
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Broker for Embedded {
    fn declare(&self, queue: &QueueName, limits: QueueLimits) -> Pending<'_, Result<(), BrokerError>> {
        let queue = queue.clone();
        Box::pin(async move {
            let dedup_window_ms = limits.dedup_window.as_millis() as u64;
            let history_ms = limits.history.as_millis() as u64;
            let limits = linecook_store::QueueLimits { bytes_max: limits.bytes_max, dedup_window_ms, history_ms };
            self.store.declare(&queue, limits);
            let mut arrivals = self.arrivals.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(arrival) = arrivals.get_mut(&queue) {
                arrival.declared = true;
            } else {
                let notify = Arc::new(Notify::new());
                arrivals.insert(queue.clone(), Arrival { notify: notify.clone(), declared: true });
                self.store.watch(&queue, Arc::new(move || notify.notify_one()));
            }
            Ok(())
        })
    }

    fn retract(&self, queue: &QueueName) -> Pending<'_, Result<(), BrokerError>> {
        let mut arrivals = self.arrivals.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(arrival) = arrivals.get_mut(queue) {
            arrival.declared = false;
        }
        self.store.retract(queue);
        Box::pin(async { Ok(()) })
    }

    fn publish(
        &self,
        queue: &QueueName,
        messages: Vec<NewMessage>,
    ) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        let sends = messages.into_iter().map(|message| (queue.clone(), message)).collect();
        self.send(Transaction { sends, ..Transaction::default() })
    }

    fn publish_all(
        &self,
        sends: Vec<Outgoing>,
        state: Vec<StateWrite>,
    ) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        let sends = sends.into_iter().map(|send| (send.queue, send.message)).collect();
        self.send(Transaction { sends, state, ..Transaction::default() })
    }

    fn state(&self, space: &str, key: &str) -> Result<Option<Bytes>, BrokerError> {
        Ok(self.store.state_get(space, key)?)
    }

    fn state_keys(&self, space: &str, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, BrokerError> {
        Ok(self.store.state_keys(space, after, limit)?)
    }

    fn state_bytes(&self, space: &str) -> Result<u64, BrokerError> {
        Ok(self.store.state_bytes(space))
    }

    fn drop_state(&self, space: &str) -> Pending<'_, Result<(), BrokerError>> {
        let (done, dropped) = oneshot::channel();
        self.store.drop_state(space, move |answer| {
            // Nobody may be waiting any more: the state is gone all the same.
            let _ = done.send(answer);
        });
        Box::pin(async move { Ok(dropped.await.unwrap_or_else(|_| Err(Refusal::Stopped("it was closed".into())))?) })
    }

    fn limit_state(&self, space: &str, bytes_max: u64) {
        self.store.limit_state(space, bytes_max);
    }

    fn claim(&self, queue: &QueueName, max: usize, lease: Duration) -> Pending<'_, Result<Vec<Delivery>, BrokerError>> {
        let queue = queue.clone();
        Box::pin(async move {
            let arrival = self.arrival(&queue)?;
            loop {
                let arrived = arrival.notified();
                let claimed = self.store.claim(&queue, max, lease.as_millis() as u64)?;
                if !claimed.is_empty() {
                    // One arrival wakes one claimer; it wakes the next as long as something is left.
                    if self.store.has_claimable(&queue) {
                        arrival.notify_one();
                    }
                    return Ok(claimed);
                }
                let due_in = match self.store.has_claimable(&queue) {
                    // All leases are out: whoever gives one back may have nothing to do with this queue.
                    true => Some(LEASES_PAUSE),
                    false => self.store.next_due_in(&queue),
                };
                match due_in {
                    Some(due_in) => {
                        // A timer stands still while the machine sleeps: look again at least every few seconds.
                        let wait = due_in.min(Duration::from_secs(5));
                        let _ = tokio::time::timeout(wait, arrived).await;
                    }
                    None => arrived.await,
                }
            }
        })
    }

    fn claim_expired(
        &self,
        queue: &QueueName,
        older_than: Duration,
        max: usize,
        lease: Duration,
    ) -> Pending<'_, Result<Vec<Delivery>, BrokerError>> {
        let queue = queue.clone();
        Box::pin(async move {
            let (older_than_ms, lease_ms) = (older_than.as_millis() as u64, lease.as_millis() as u64);
            Ok(self.store.claim_expired(&queue, older_than_ms, max, lease_ms)?)
        })
    }

    fn begin(&self, lease: Lease) -> bool {
        self.store.begin(lease)
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Pending<'_, Vec<Result<(), BrokerError>>> {
        let transactions = settlements
            .into_iter()
            .map(|settlement| Transaction {
                settle: Some((settlement.lease, action(settlement.resolution))),
                sends: settlement.sends.into_iter().map(|send| (send.queue, send.message)).collect(),
                state: settlement.state,
                state_reads: settlement.state_reads,
            })
            .collect();
        let commit = self.commit(transactions);
        Box::pin(async move { commit.await.into_iter().map(|answer| answer.map(drop).map_err(Into::into)).collect() })
    }

    fn acknowledge(&self, leases: &[Lease]) -> Pending<'_, Vec<(usize, BrokerError)>> {
        let count = leases.len();
        let (done, answered) = oneshot::channel();
        self.store.acknowledge(leases, move |refused| {
            // Nobody may be waiting any more: the acks happened all the same.
            let _ = done.send(refused);
        });
        Box::pin(async move {
            let closed = |_| (0..count).map(|place| (place, Refusal::Stopped("it was closed".into()))).collect();
            let refused = answered.await.unwrap_or_else(closed);
            refused.into_iter().map(|(place, refusal)| (place, refusal.into())).collect()
        })
    }

    fn extend(&self, lease: Lease, by: Duration) -> Result<(), BrokerError> {
        if self.store.extend(lease, by.as_millis() as u64) { Ok(()) } else { Err(BrokerError::LeaseLost) }
    }

    fn queues(&self) -> Pending<'_, Result<Vec<QueueStats>, BrokerError>> {
        Box::pin(async move { Ok(self.store.queues().into_iter().map(stats).collect()) })
    }

    fn queue(&self, queue: &QueueName) -> Pending<'_, Result<QueueStats, BrokerError>> {
        let queue = queue.clone();
        Box::pin(async move { self.store.queue(&queue).map(stats).ok_or(BrokerError::NoSuchQueue(queue)) })
    }

    fn peek(&self, queue: &QueueName, limit: usize) -> Pending<'_, Result<Vec<PeekedMessage>, BrokerError>> {
        let queue = queue.clone();
        Box::pin(async move { Ok(self.peek_page(&queue, None, limit)?.messages) })
    }

    fn peek_after(
        &self,
        queue: &QueueName,
        after: Option<u64>,
        limit: usize,
    ) -> Pending<'_, Result<PeekedPage, BrokerError>> {
        let queue = queue.clone();
        Box::pin(async move { self.peek_page(&queue, after, limit) })
    }

    fn history(&self, queue: &QueueName, range: &HistoryRange) -> Pending<'_, Result<HistoryPage, BrokerError>> {
        let (queue, range) = (queue.clone(), *range);
        Box::pin(async move { Ok(self.store.history(&queue, &range)?) })
    }

    fn redrive(&self, request: Redrive) -> Pending<'_, Result<Redriven, BrokerError>> {
        Box::pin(async move {
            let limit = request.limit.unwrap_or(usize::MAX);
            if let Some(to) = &request.to {
                self.arrival(to)?;
            }
            if request.dry_run {
                let mut would = Redriven::default();
                let mut after = None;
                loop {
                    let left = limit - (would.moved + would.skipped) as usize;
                    let page = self.peek_page(&request.from, after, left.min(REDRIVE_BATCH))?;
                    would.skipped += page.unreadable;
                    for one in page.messages {
                        let target = request.to.clone().or_else(|| dead_letter::source_queue(&one.message));
                        match target.filter(|queue| self.arrival(queue).is_ok()) {
                            Some(_) => would.moved += 1,
                            None => would.skipped += 1,
                        }
                    }
                    match page.next {
                        Some(next) if left > 0 => after = Some(next),
                        _ => return Ok(would),
                    }
                }
            }
            // A message moves under a lease, so that a consumer of the dead-letter queue and a redrive never both get it.
            let mut done = Redriven::default();
            let mut held = Vec::new();
            let result = loop {
                let max = REDRIVE_BATCH.min(limit - done.moved as usize);
                if max == 0 {
                    break Ok(());
                }
                match self.redrive_batch(&request, max, &mut held).await {
                    Ok(Some(moved)) => done.moved += moved,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            // Held back until now, so that they were not claimed over and over.
            done.skipped = held.len() as u64;
            let release = |lease| Transaction { settle: Some((lease, Action::Release)), ..Transaction::default() };
            self.commit(held.into_iter().map(release).collect()).await;
            result.map(|()| done)
        })
    }

    fn purge(&self, queue: &QueueName) -> Pending<'_, Result<u64, BrokerError>> {
        let (done, purged) = oneshot::channel();
        self.store.purge(queue, move |answer| {
            // Nobody may be waiting any more: the messages are gone all the same.
            let _ = done.send(answer);
        });
        Box::pin(async move { Ok(purged.await.unwrap_or_else(|_| Err(Refusal::Stopped("it was closed".into())))?) })
    }

    fn shortage(&self) -> Option<String> {
        let refusal = match self.store.shortage()? {
            Shortage::Disk => Refusal::DiskFull,
            Shortage::OpenFiles => Refusal::OutOfFiles,
        };
        Some(refusal.to_string())
    }

    fn failure(&self) -> Option<String> {
        self.store.failure().map(|why| why.to_string())
    }
}

fn action(resolution: Resolution) -> Action {
    match resolution {
        Resolution::Ack => Action::Ack,
        Resolution::Retry { delay } => Action::Retry { delay_ms: delay.as_millis() as u64 },
        Resolution::Snooze { delay } => Action::Snooze { delay_ms: delay.as_millis() as u64 },
        Resolution::DeadLetter { queue, facts } => Action::Move { queue, attributes: AttributeEdit::Set(facts) },
        Resolution::Release => Action::Release,
    }
}

fn stats(stats: linecook_store::QueueStats) -> QueueStats {
    let linecook_store::QueueStats {
        name,
        declared,
        ready,
        delayed,
        leased,
        bytes,
        oldest_enqueued_at_ms,
        history,
        history_bytes,
        history_given_up,
    } = stats;
    QueueStats {
        name,
        declared,
        ready,
        delayed,
        leased,
        bytes,
        oldest_enqueued_at_ms,
        history,
        history_bytes,
        history_given_up,
    }
}

fn peeked(peeked: Peeked) -> PeekedMessage {
    let state = match peeked.state {
        linecook_store::MessageState::Ready => MessageState::Ready,
        linecook_store::MessageState::Delayed => MessageState::Delayed,
        linecook_store::MessageState::Leased => MessageState::Leased,
    };
    PeekedMessage { message: peeked.message, state, attempts: peeked.attempts, due_at_ms: peeked.due_at_ms }
}

impl From<Refusal> for BrokerError {
    fn from(refusal: Refusal) -> BrokerError {
        match refusal {
            Refusal::NoSuchQueue(queue) => BrokerError::NoSuchQueue(queue),
            Refusal::QueueFull { queue, bytes_max } => BrokerError::QueueFull { queue, bytes_max },
            Refusal::TooLarge { bytes, bytes_max } => BrokerError::TooLarge { bytes, bytes_max },
            Refusal::LeaseLost => BrokerError::LeaseLost,
            Refusal::StateKey { .. } => BrokerError::StateKey(refusal.to_string()),
            Refusal::StateFull { space, bytes, bytes_max } => BrokerError::StateFull { space, bytes, bytes_max },
            Refusal::StateChanged { space, key } => BrokerError::StateChanged { space, key },
            Refusal::Read(why) => BrokerError::Read(why.to_string()),
            Refusal::Stopped(why) => BrokerError::Stopped(why.to_string()),
            Refusal::DiskFull | Refusal::OutOfFiles => BrokerError::StoreFull(refusal.to_string()),
        }
    }
}
