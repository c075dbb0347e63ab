//! What the store should contain, kept in the simplest way that could be right.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Action, AttributeEdit, Lease, QueueName, Transaction};

/// Tells messages apart: it is the start of each body.
pub(super) type Nonce = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) queue: QueueName,
    pub(super) body: Bytes,
    pub(super) key: Option<Arc<str>>,
    pub(super) attributes: Arc<Vec<(String, String)>>,
    pub(super) attempts: u32,
    /// The highest number of an attempt that began where the message stands now.
    pub(super) most_begun: u32,
    pub(super) sent_at_ms: u64,
    /// When the youngest was sent of those that stood before it when it came to its queue.
    pub(super) behind_sent_at_ms: u64,
    /// 0 for at once.
    pub(super) due_at_ms: u64,
    /// The same, as the log has it: that a message became due is not on record.
    pub(super) told_due_at_ms: u64,
    /// Or that, after a step of which nobody knows whether it happened.
    pub(super) or_told_due_at_ms: Option<u64>,
    /// When it was told to wait until then.
    pub(super) delayed_at_ms: u64,
    /// It is delayed after an attempt, so that others of its key wait.
    pub(super) held: bool,
    pub(super) lease: Option<Leased>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) lease: Lease,
    pub(super) begun: bool,
    pub(super) expires_at_ms: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) messages: BTreeMap<Nonce, Expected>,
    /// The order of each queue.
    pub(super) order: BTreeMap<QueueName, Vec<Nonce>>,
    /// What was acknowledged in each queue that keeps it, in order.
    pub(super) histories: BTreeMap<QueueName, Vec<Kept>>,
    /// How long each queue keeps it.
    pub(super) windows_ms: BTreeMap<QueueName, u64>,
    /// For how long idempotency keys are remembered.
    pub(super) dedup_window_ms: u64,
    /// The first message that was sent with each idempotency key, and when.
    pub(super) keys: BTreeMap<(QueueName, String), (Nonce, u64)>,
    /// Durable state, by space and key.
    pub(super) state: State,
}

/// An acknowledged message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) nonce: Nonce,
    pub(super) body: Bytes,
    pub(super) key: Option<Arc<str>>,
    pub(super) attributes: Arc<Vec<(String, String)>>,
    pub(super) acked_at_ms: u64,
    /// It was too old once: it may be gone, though a clock that went back or a longer window would show it.
    pub(super) may_be_gone: bool,
    /// It is gone, and must not come back.
    pub(super) is_gone: bool,
}

pub(super) type State = BTreeMap<(String, String), Vec<u8>>;

/// The limit of each space of durable state.
pub(super) const STATE_BYTES_MAX: u64 = 900;

pub(super) fn nonce(body: &[u8]) -> Nonce {
    u64::from_le_bytes(body[..8].try_into().expect("bodies start with their nonce"))
}

impl Expected {
    fn put_off(&mut self, due_at_ms: u64, now_ms: u64, has_failed: bool) {
        // Nothing has happened to it.
        if due_at_ms == self.due_at_ms && due_at_ms > now_ms && !has_failed {
            return;
        }
        self.due_at_ms = due_at_ms;
        self.told_due_at_ms = due_at_ms;
        self.or_told_due_at_ms = None;
        self.delayed_at_ms = now_ms;
        self.held = due_at_ms != 0;
    }
}

fn is_young(window_ms: u64, kept: &Kept, now_ms: u64) -> bool {
    kept.acked_at_ms.saturating_add(window_ms) > now_ms
}

impl Model {
    pub(super) fn nonce_of(&self, lease: Lease) -> Option<Nonce> {
        let held = |expected: &Expected| expected.lease.is_some_and(|leased| leased.lease == lease);
        self.messages.iter().find(|(_, expected)| held(expected)).map(|(nonce, _)| *nonce)
    }

    /// The transaction happens. `keeps`: what it acknowledges comes into its queue's history. Answers of which message each
    /// of its sends is a duplicate.
    pub(super) fn apply(&mut self, transaction: &Transaction, now_ms: u64, keeps: bool) -> Vec<Option<Nonce>> {
        if let Some((lease, action)) = &transaction.settle {
            let nonce = self.nonce_of(*lease).expect("only leases that are out are settled");
            let message = self.messages.get_mut(&nonce).expect("just found");
            let begun = message.lease.take().expect("just found").begun;
            // What expired before it was due is not due sooner for that.
            let not_yet = if message.due_at_ms > now_ms { message.due_at_ms } else { 0 };
            let due = |delay_ms: u64| if delay_ms == 0 { not_yet } else { not_yet.max(now_ms + delay_ms) };
            match action {
                Action::Ack => {
                    let Expected { queue, body, key, attributes, .. } =
                        self.messages.remove(&nonce).expect("just found");
                    self.leave(&queue, nonce);
                    if keeps && self.windows_ms.get(&queue).is_some_and(|window_ms| *window_ms > 0) {
                        let (acked_at_ms, may_be_gone, is_gone) = (now_ms, false, false);
                        let kept = Kept { nonce, body, key, attributes, acked_at_ms, may_be_gone, is_gone };
                        self.histories.entry(queue).or_default().push(kept);
                    }
                }
                Action::Release => {}
                Action::Retry { delay_ms } => {
                    message.attempts += u32::from(begun);
                    message.put_off(due(*delay_ms), now_ms, begun);
                }
                Action::Snooze { delay_ms } => message.put_off(due(*delay_ms), now_ms, false),
                Action::Move { queue, attributes } => {
                    let from = std::mem::replace(&mut message.queue, queue.clone());
                    message.attempts = 0;
                    message.most_begun = 0;
                    message.due_at_ms = 0;
                    message.told_due_at_ms = 0;
                    message.or_told_due_at_ms = None;
                    message.held = false;
                    match attributes {
                        AttributeEdit::Set(new) => {
                            let attributes = Arc::make_mut(&mut message.attributes);
                            attributes.retain(|(name, _)| !new.iter().any(|(other, _)| **other == **name));
                            attributes.extend(new.iter().map(|(n, v)| (n.to_string(), v.to_string())));
                        }
                        AttributeEdit::StripReserved => {
                            message.sent_at_ms = now_ms;
                            Arc::make_mut(&mut message.attributes)
                                .retain(|(name, _)| !name.starts_with("linecook-") || name == "linecook-subject");
                        }
                    }
                    self.leave(&from, nonce);
                    self.join(queue, nonce);
                }
            }
        }
        self.write_state(transaction);
        let mut duplicates = Vec::new();
        for (queue, message) in &transaction.sends {
            let nonce = nonce(&message.body);
            if let Some(key) = &message.idempotency_key {
                let key = (queue.clone(), key.to_string());
                let first = self.keys.get(&key).filter(|(_, at_ms)| now_ms - at_ms < self.dedup_window_ms);
                if let Some((first, _)) = first {
                    duplicates.push(Some(*first));
                    continue;
                }
                self.keys.insert(key, (nonce, now_ms));
            }
            duplicates.push(None);
            let expected = Expected {
                queue: queue.clone(),
                body: message.body.clone(),
                key: message.key.as_deref().map(Into::into),
                attributes: Arc::new(message.attributes.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()),
                attempts: 0,
                most_begun: 0,
                sent_at_ms: now_ms,
                behind_sent_at_ms: 0,
                due_at_ms: if message.delay_ms == 0 { 0 } else { now_ms + message.delay_ms },
                told_due_at_ms: if message.delay_ms == 0 { 0 } else { now_ms + message.delay_ms },
                or_told_due_at_ms: None,
                delayed_at_ms: now_ms,
                held: false,
                lease: None,
            };
            assert!(self.messages.insert(nonce, expected).is_none(), "nonces are unique");
            self.join(queue, nonce);
        }
        duplicates
    }

    /// Whether the state that a transaction read and writes must keep it from happening.
    pub(super) fn refuses_state(&self, transaction: &Transaction) -> bool {
        let value = |space: &str, key: &str| self.state.get(&(space.to_owned(), key.to_owned())).map(Vec::as_slice);
        if transaction.state_reads.iter().any(|read| value(&read.space, &read.key) != read.seen.as_deref()) {
            return true;
        }
        if transaction.state.is_empty() {
            return false;
        }
        let mut after = Model { state: self.state.clone(), ..Model::default() };
        after.write_state(transaction);
        let fits = |space: &str| {
            let (before, after) = (self.state_bytes(space), after.state_bytes(space));
            after <= STATE_BYTES_MAX || after <= before
        };
        !transaction.state.iter().all(|write| fits(&write.space))
    }

    pub(super) fn state_bytes(&self, space: &str) -> u64 {
        let of_space = self.state.iter().filter(|((name, _), _)| name == space);
        of_space.map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }

    fn write_state(&mut self, transaction: &Transaction) {
        for write in &transaction.state {
            let at = (write.space.to_string(), write.key.to_string());
            match &write.value {
                Some(value) => drop(self.state.insert(at, value.to_vec())),
                None => drop(self.state.remove(&at)),
            }
        }
    }

    /// All state of a space is taken away.
    pub(super) fn drop_state(&mut self, space: &str) {
        self.state.retain(|(name, _), _| name != space);
    }

    /// A queue is purged.
    pub(super) fn purge(&mut self, queue: &QueueName) {
        for nonce in self.order.remove(queue).unwrap_or_default() {
            self.messages.remove(&nonce);
        }
        self.histories.remove(queue);
    }

    /// Time passes, or a window changes.
    pub(super) fn age(&mut self, now_ms: u64) {
        for (queue, history) in &mut self.histories {
            for kept in history {
                kept.may_be_gone |= !is_young(self.windows_ms[queue], kept, now_ms);
            }
        }
    }

    /// What a history must show: what is young enough, and nothing else.
    pub(super) fn history(&self, queue: &QueueName, now_ms: u64) -> impl Iterator<Item = &Kept> {
        let window_ms = self.windows_ms.get(queue).copied().unwrap_or(0);
        let all = self.histories.get(queue).into_iter().flatten();
        all.filter(move |kept| is_young(window_ms, kept, now_ms))
    }

    fn join(&mut self, queue: &QueueName, nonce: Nonce) {
        let order = self.order.entry(queue.clone()).or_default();
        let youngest_ms = order.iter().map(|other| self.messages[other].sent_at_ms).max();
        order.push(nonce);
        let message = self.messages.get_mut(&nonce).expect("it has just come");
        message.behind_sent_at_ms = youngest_ms.unwrap_or(0);
    }

    fn leave(&mut self, queue: &QueueName, nonce: Nonce) {
        self.order.get_mut(queue).expect("it has an order").retain(|other| *other != nonce);
    }

    /// Messages of a queue, those that are leased, and the bytes that they count for.
    pub(super) fn counts(&self, queue: &QueueName) -> (u64, u64, u64) {
        let messages = self.order.get(queue).into_iter().flatten().map(|nonce| &self.messages[nonce]);
        messages.fold((0, 0, 0), |(all, leased, bytes), one| {
            let attributes = one.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            let more = one.body.len() + one.key.as_deref().map_or(0, str::len) + attributes;
            (all + 1, leased + u64::from(one.lease.is_some()), bytes + more as u64)
        })
    }

    /// What a claim must get.
    pub(super) fn claimable(&self, queue: &QueueName, max: usize, now_ms: u64) -> Vec<Nonce> {
        let order = self.order.get(queue).cloned().unwrap_or_default();
        let mut taken_keys: Vec<Arc<str>> = Vec::new();
        for nonce in &order {
            let message = &self.messages[nonce];
            if message.lease.is_some() || (message.held && message.due_at_ms > now_ms) {
                taken_keys.extend(message.key.clone());
            }
        }
        let mut claimable = Vec::new();
        for nonce in order {
            let message = &self.messages[&nonce];
            if claimable.len() == max {
                break;
            }
            if message.lease.is_some() || message.due_at_ms > now_ms {
                continue;
            }
            if let Some(key) = &message.key {
                if taken_keys.contains(key) {
                    continue;
                }
                taken_keys.push(key.clone());
            }
            claimable.push(nonce);
        }
        claimable
    }

    /// What a claim of expired messages must get.
    pub(super) fn expired(&self, queue: &QueueName, max: usize, sent_before_ms: u64) -> Vec<Nonce> {
        let order = self.order.get(queue).map_or(&[][..], Vec::as_slice);
        let waiting = order.iter().filter(|nonce| self.messages[nonce].lease.is_none());
        waiting.take_while(|nonce| self.messages[nonce].sent_at_ms < sent_before_ms).take(max).copied().collect()
    }

    /// Whether a message came to its queue behind one that was sent at that time or later: that one may be gone since.
    pub(super) fn came_behind_one_sent_from(&self, nonce: Nonce, at_ms: u64) -> bool {
        self.messages[&nonce].behind_sent_at_ms >= at_ms
    }

    /// The leases that are over by now: they are given back as the store must give them back. Answers how many.
    pub(super) fn expire(&mut self, now_ms: u64) -> u64 {
        let mut over = 0;
        for message in self.messages.values_mut() {
            if let Some(leased) = message.lease.filter(|leased| leased.expires_at_ms <= now_ms) {
                message.attempts += u32::from(leased.begun);
                message.lease = None;
                over += 1;
            }
        }
        over
    }

    /// The process ends: leases are forgotten, and attempts that had begun count.
    pub(super) fn end_process(&mut self) {
        self.expire(u64::MAX);
    }
}
