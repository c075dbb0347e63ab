//! A broker in memory, for tests of what stands in front of one. It can be told to fail, and to wait.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use linecook::broker::{
    Broker, BrokerError, MessageState, PeekedMessage, Pending, Published, QueueLimits, QueueStats, Redrive, Redriven,
};
use linecook::dead_letter;
use linecook::delivery::{
    Delivery, Lease, Message, MessageId, NewMessage, Outgoing, QueueName, Settlement, StateWrite,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// When its messages were sent: 2026-01-02T03:04:05.678Z.
pub(crate) const ENQUEUED_AT_MS: u64 = 1_767_323_045_678;

/// See the module.
pub(crate) struct FakeBroker {
    inner: Mutex<Inner>,
    /// A publish takes one of these, so that none left makes it wait.
    pub(crate) permits: Semaphore,
    /// Publishes that have begun to wait.
    pub(crate) publishing: Semaphore,
}

#[derive(Default)]
struct Inner {
    queues: BTreeMap<QueueName, Vec<PeekedMessage>>,
    sequence: u64,
    refusal: Option<BrokerError>,
    failure: Option<String>,
    batches: usize,
    state: BTreeMap<(Box<str>, Box<str>), Bytes>,
}

impl FakeBroker {
    /// With these queues, empty.
    pub(crate) fn new(queues: &[&str]) -> FakeBroker {
        let queues = queues.iter().map(|name| (QueueName::new(name).unwrap(), Vec::new())).collect();
        FakeBroker {
            inner: Mutex::new(Inner { queues, ..Inner::default() }),
            permits: Semaphore::new(Semaphore::MAX_PERMITS),
            publishing: Semaphore::new(0),
        }
    }

    /// From now on every publish, peek and redrive is answered with this.
    pub(crate) fn refuse(&self, error: Option<BrokerError>) {
        self.inner.lock().unwrap().refusal = error;
    }

    /// From now on the engine has stopped.
    pub(crate) fn stop(&self, why: &str) {
        self.inner.lock().unwrap().failure = Some(why.to_owned());
    }

    /// What is in a queue.
    pub(crate) fn messages(&self, queue: &str) -> Vec<Message> {
        self.inner.lock().unwrap().queues[queue].iter().map(|peeked| peeked.message.clone()).collect()
    }

    /// How many publishes have stored something.
    pub(crate) fn batches(&self) -> usize {
        self.inner.lock().unwrap().batches
    }
}

impl Inner {
    fn queue(&mut self, name: &QueueName) -> Result<&mut Vec<PeekedMessage>, BrokerError> {
        if let Some(error) = &self.refusal {
            return Err(error.clone());
        }
        self.queues.get_mut(name).ok_or_else(|| BrokerError::NoSuchQueue(name.clone()))
    }
}

fn stats(name: &QueueName, messages: &[PeekedMessage]) -> QueueStats {
    let count = |state| messages.iter().filter(|peeked| peeked.state == state).count() as u64;
    QueueStats {
        name: name.clone(),
        declared: true,
        ready: count(MessageState::Ready),
        delayed: count(MessageState::Delayed),
        leased: count(MessageState::Leased),
        bytes: messages.iter().map(|peeked| peeked.message.body.len() as u64).sum(),
        oldest_enqueued_at_ms: messages.first().map(|peeked| peeked.message.enqueued_at_ms),
        history: 0,
        history_bytes: 0,
        history_given_up: 0,
    }
}

/// Messages with this idempotency key are duplicates.
pub(crate) const DUPLICATE: &str = "seen before";

impl Broker for FakeBroker {
    fn declare(&self, queue: &QueueName, _limits: QueueLimits) -> Pending<'_, Result<(), BrokerError>> {
        self.inner.lock().unwrap().queues.entry(queue.clone()).or_default();
        Box::pin(async { Ok(()) })
    }

    fn retract(&self, queue: &QueueName) -> Pending<'_, Result<(), BrokerError>> {
        self.inner.lock().unwrap().queues.retain(|name, messages| name != queue || !messages.is_empty());
        Box::pin(async { Ok(()) })
    }

    fn publish(
        &self,
        queue: &QueueName,
        messages: Vec<NewMessage>,
    ) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        let sends = messages.into_iter().map(|message| Outgoing { queue: queue.clone(), message }).collect();
        self.publish_all(sends, Vec::new())
    }

    fn publish_all(
        &self,
        sends: Vec<Outgoing>,
        state: Vec<StateWrite>,
    ) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        Box::pin(async move {
            self.publishing.add_permits(1);
            _ = self.permits.acquire().await.map(SemaphorePermit::forget);
            let mut inner = self.inner.lock().unwrap();
            for send in &sends {
                inner.queue(&send.queue)?;
            }
            inner.batches += 1;
            for StateWrite { space, key, value } in state {
                match value {
                    Some(value) => inner.state.insert((space, key), value),
                    None => inner.state.remove(&(space, key)),
                };
            }
            let mut ids = Vec::new();
            for Outgoing { queue, message: new } in sends {
                inner.sequence += 1;
                let id = MessageId::new(7, inner.sequence);
                ids.push(Published { id, duplicate: new.idempotency_key.as_deref() == Some(DUPLICATE) });
                let delayed = new.delay_ms > 0;
                inner.queue(&queue)?.push(PeekedMessage {
                    message: Message {
                        id,
                        body: new.body,
                        content_type: new.content_type,
                        key: new.key,
                        attributes: new.attributes,
                        enqueued_at_ms: ENQUEUED_AT_MS,
                    },
                    state: if delayed { MessageState::Delayed } else { MessageState::Ready },
                    attempts: 0,
                    due_at_ms: delayed.then_some(ENQUEUED_AT_MS + new.delay_ms),
                });
            }
            Ok(ids)
        })
    }

    fn state(&self, space: &str, key: &str) -> Result<Option<Bytes>, BrokerError> {
        Ok(self.inner.lock().unwrap().state.get(&(space.into(), key.into())).cloned())
    }

    fn state_keys(&self, space: &str, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, BrokerError> {
        let inner = self.inner.lock().unwrap();
        let keys = inner.state.keys().filter(|(of, key)| **of == *space && after.is_none_or(|after| **key > *after));
        Ok(keys.take(limit).map(|(_, key)| key.clone()).collect())
    }

    fn drop_state(&self, space: &str) -> Pending<'_, Result<(), BrokerError>> {
        self.inner.lock().unwrap().state.retain(|(of, _), _| **of != *space);
        Box::pin(async { Ok(()) })
    }

    fn claim(&self, _: &QueueName, _: usize, _: Duration) -> Pending<'_, Result<Vec<Delivery>, BrokerError>> {
        Box::pin(std::future::pending())
    }

    fn begin(&self, _: Lease) -> bool {
        false
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Pending<'_, Vec<Result<(), BrokerError>>> {
        Box::pin(async move { settlements.iter().map(|_| Err(BrokerError::LeaseLost)).collect() })
    }

    fn extend(&self, _: Lease, _: Duration) -> Result<(), BrokerError> {
        Err(BrokerError::LeaseLost)
    }

    fn queues(&self) -> Pending<'_, Result<Vec<QueueStats>, BrokerError>> {
        let inner = self.inner.lock().unwrap();
        let all = inner.queues.iter().map(|(name, messages)| stats(name, messages)).collect();
        Box::pin(async { Ok(all) })
    }

    fn queue(&self, queue: &QueueName) -> Pending<'_, Result<QueueStats, BrokerError>> {
        let one = self.inner.lock().unwrap().queue(queue).map(|messages| stats(queue, messages));
        Box::pin(async { one })
    }

    fn peek(&self, queue: &QueueName, limit: usize) -> Pending<'_, Result<Vec<PeekedMessage>, BrokerError>> {
        let first =
            self.inner.lock().unwrap().queue(queue).map(|messages| messages.iter().take(limit).cloned().collect());
        Box::pin(async { first })
    }

    fn redrive(&self, request: Redrive) -> Pending<'_, Result<Redriven, BrokerError>> {
        let mut inner = self.inner.lock().unwrap();
        let redriven = (|| {
            let count = inner.queue(&request.from)?.len().min(request.limit.unwrap_or(usize::MAX));
            let mut redriven = Redriven::default();
            for index in (0..count).rev() {
                let source = dead_letter::source_queue(&inner.queue(&request.from)?[index].message);
                let Some(to) = request.to.clone().or(source) else {
                    redriven.skipped += 1;
                    continue;
                };
                inner.queue(&to)?;
                redriven.moved += 1;
                if !request.dry_run {
                    let message = inner.queue(&request.from)?.remove(index);
                    inner.queue(&to)?.push(message);
                }
            }
            Ok(redriven)
        })();
        Box::pin(async { redriven })
    }

    fn claim_expired(
        &self,
        _: &QueueName,
        _: Duration,
        _: usize,
        _: Duration,
    ) -> Pending<'_, Result<Vec<Delivery>, BrokerError>> {
        unreachable!()
    }

    fn purge(&self, queue: &QueueName) -> Pending<'_, Result<u64, BrokerError>> {
        let purged = self.inner.lock().unwrap().queue(queue).map(|messages| messages.drain(..).count() as u64);
        Box::pin(async { purged })
    }

    fn failure(&self) -> Option<String> {
        self.inner.lock().unwrap().failure.clone()
    }
}
