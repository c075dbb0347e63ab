//! What happens in a run: each step is done on the engine and on the model, and both must answer the same.

use bytes::Bytes;

use super::mix::Mix;
use super::{Fault, LAYOUT, QUEUES, Run, Step, name};
use crate::keeping::AGAIN_MS;
use crate::simulation::model::{Leased, Nonce, nonce};
use crate::transaction::Job;
use crate::{Action, AttributeEdit, Lease, NewMessage, QueueName, Refusal, Transaction};

impl Run {
    pub(super) fn step(&mut self) {
        if self.random.u8(..) < self.shape.keeping {
            let before = self.given_up();
            self.engine().maintain();
            self.note_given_up(&before);
            return;
        }
        if self.random.u8(..) < self.mix.purges {
            return self.purge();
        }
        if self.names.u8(..) < self.mix.retractions {
            self.retract();
        }
        if self.shape.state && self.random.u8(..) < self.mix.state_drops {
            return self.drop_state();
        }
        if self.random.u8(..) < self.mix.history_changes {
            return self.change_history();
        }
        let Mix { publishes, claims, settlements, pauses, .. } = self.mix;
        match self.random.u8(0..publishes + claims + settlements + pauses) {
            at if at < publishes => self.publish(),
            at if at < publishes + claims => self.claim(),
            at if at < publishes + claims + settlements => self.settle(),
            _ => self.pass_time(),
        }
    }

    pub(super) fn publish(&mut self) {
        let transactions: Vec<Transaction> = (0..self.random.usize(1..4))
            .map(|_| {
                let sends = (0..self.random.usize(1..3)).map(|_| (self.queue(), self.message())).collect();
                let (state, state_reads) = self.state_writes();
                Transaction { sends, state, state_reads, ..Transaction::default() }
            })
            .collect();
        self.commit(transactions, |refusal| {
            matches!(refusal, Refusal::DiskFull | Refusal::QueueFull { .. } | Refusal::TooLarge { .. })
        });
    }

    pub(super) fn queue(&mut self) -> QueueName {
        name(QUEUES[self.random.usize(..self.mix.queues)])
    }

    pub(super) fn message(&mut self) -> NewMessage {
        let mut body = self.next_nonce.to_le_bytes().to_vec();
        self.next_nonce += 1;
        let len = self.random.usize(..self.mix.body_bytes_max);
        body.extend(std::iter::repeat_with(|| self.random.u8(..)).take(len));
        let key = self.random.u8(..) < self.mix.keyed;
        let key = key.then(|| format!("k{}", self.random.usize(..self.mix.keys)).into());
        let attributes = if self.random.bool() { vec![("x".into(), "y".into())] } else { Vec::new() };
        let is_delayed = self.random.u8(..) < self.mix.delayed;
        let delay_ms = if is_delayed { self.random.u64(1..self.mix.delay_ms_max) } else { 0 };
        let idempotency_key = self.random.u8(..) < self.mix.deduplicated;
        let idempotency_key =
            idempotency_key.then(|| format!("p{}", self.random.usize(..self.mix.idempotency_keys)).into());
        NewMessage { body: Bytes::from(body), content_type: None, key, attributes, idempotency_key, delay_ms }
    }

    fn claim(&mut self) {
        let (queue, max) = (self.queue(), self.random.usize(1..5));
        let now_ms = self.now_ms();
        let lease_ms = self.mix.lease_ms;
        let older_than_ms = (self.random.u8(..) < self.mix.expired).then(|| self.random.u64(1..3000));
        // Expired messages are taken away; nobody handles them.
        let begin: Vec<bool> =
            (0..max).map(|_| older_than_ms.is_none() && self.random.u8(..) < self.mix.begun).collect();
        let face = &self.store.as_ref().expect("the store is open").face;
        let leased = self.model.messages.values().filter(|message| message.lease.is_some()).count();
        let room = LAYOUT.attempt_slots - leased;
        let (mut expected, claimed) = match older_than_ms {
            None => (self.model.claimable(&queue, max.min(room), now_ms), face.claim(&queue, max, lease_ms)),
            Some(older_than_ms) => (
                self.model.expired(&queue, max.min(room), now_ms - older_than_ms),
                face.claim_expired(&queue, older_than_ms, max, lease_ms),
            ),
        };
        let deliveries = match claimed {
            Ok(deliveries) => deliveries,
            // Reading fails when the power is gone; the run notices at its next write.
            Err(Refusal::Read(why)) => {
                assert!(self.armed.is_some(), "a claim failed: {why:?}");
                self.engine().stop("a read failed");
                return;
            }
            Err(other) => panic!("a claim failed: {other}"),
        };
        if let (Some(next), Some(older_than_ms)) = (expected.get(deliveries.len()), older_than_ms)
            && self.model.came_behind_one_sent_from(*next, now_ms - older_than_ms)
        {
            // Of a chunk, the store knows only when its first message was sent, which may be gone.
            expected.truncate(deliveries.len());
        }
        let claimed: Vec<Nonce> = deliveries.iter().map(|delivery| nonce(&delivery.message.body)).collect();
        // What has expired behind a chunk that can't be read is claimed in its place.
        let passed_over = older_than_ms.filter(|_| self.armed.is_some() && claimed != expected);
        if let Some(older_than_ms) = passed_over {
            let all = self.model.expired(&queue, usize::MAX, now_ms - older_than_ms);
            let mut rest = all.iter();
            assert!(claimed.iter().all(|one| rest.any(|other| other == one)), "{claimed:?} are not among {all:?}");
        }
        if deliveries.len() < expected.len() || passed_over.is_some() {
            assert!(self.armed.is_some(), "only {claimed:?} of {expected:?} were claimed from {queue}");
            self.engine().stop("a read failed");
            return;
        }
        assert_eq!(claimed, expected, "the wrong messages were claimed from {queue}");
        let what = if older_than_ms.is_some() { "claims of what expired" } else { "claims" };
        self.happened.add(what, deliveries.len() as u64);
        for (delivery, begin) in deliveries.into_iter().zip(begin) {
            let message = self.model.messages.get_mut(&nonce(&delivery.message.body)).expect("compared");
            assert_eq!(delivery.message.body, message.body);
            assert_eq!(delivery.attempt, message.attempts + 1);
            assert_eq!(delivery.message.enqueued_at_ms, message.sent_at_ms);
            let begun = begin && face.begin(delivery.lease);
            assert_eq!(begun, begin, "a fresh lease can begin");
            if begun {
                message.most_begun = message.most_begun.max(delivery.attempt);
            }
            message.lease = Some(Leased { lease: delivery.lease, begun, expires_at_ms: now_ms + lease_ms });
        }
    }

    fn settle(&mut self) {
        let leases: Vec<Lease> =
            self.model.messages.values().filter_map(|message| message.lease).map(|leased| leased.lease).collect();
        if leases.is_empty() {
            return;
        }
        let lease = leases[self.random.usize(..leases.len())];
        let delay_ms = [0, 500, 3000][self.random.usize(..3)];
        let sends = (0..self.random.usize(0..3)).map(|_| (self.queue(), self.message())).collect();
        let Mix { acks, moves, .. } = self.mix;
        let transaction = match self.random.u8(0..10) {
            at if at < acks => {
                self.happened.count("acks");
                let (state, state_reads) = self.state_writes();
                Transaction { settle: Some((lease, Action::Ack)), sends, state, state_reads }
            }
            at if at < 10 - moves => {
                let (what, action) = match at % 3 {
                    0 => ("retries", Action::Retry { delay_ms }),
                    1 => ("snoozes", Action::Snooze { delay_ms }),
                    _ => ("releases", Action::Release),
                };
                self.happened.count(what);
                Transaction { settle: Some((lease, action)), ..Transaction::default() }
            }
            _ => {
                self.happened.count("moves");
                let facts = vec![
                    ("linecook-reason".into(), "it failed".into()),
                    ("linecook-subject".into(), "orders.placed".into()),
                ];
                let attributes =
                    if self.random.bool() { AttributeEdit::Set(facts) } else { AttributeEdit::StripReserved };
                let action = Action::Move { queue: self.queue(), attributes };
                let (state, state_reads) = self.state_writes();
                Transaction { settle: Some((lease, action)), sends, state, state_reads }
            }
        };
        // What only takes messages away must always work.
        let may_be_full = !transaction.sends.is_empty()
            || !matches!(transaction.settle, Some((_, Action::Ack | Action::Release)))
            || transaction.state.iter().any(|write| write.value.is_some());
        self.commit(vec![transaction], |refusal| {
            may_be_full && matches!(refusal, Refusal::DiskFull | Refusal::QueueFull { .. } | Refusal::TooLarge { .. })
        });
    }

    fn purge(&mut self) {
        let queue = self.queue();
        let number = {
            let state = self.engine().shared.state();
            state.queues.known(&queue).map(|number| (number, state.queues.next_position(number)))
        };
        let Some((number, below)) = number else { return };
        let before = self.given_up();
        let purged = self.engine().purge_step(number, below, usize::MAX);
        self.note_given_up(&before);
        match purged {
            Ok((removed, more)) => {
                let held = self.model.order.get(&queue).map_or(0, Vec::len);
                assert_eq!((removed, more), (held as u64, false), "the purge of {queue}");
                self.model.purge(&queue);
                self.happened.count("purges");
            }
            Err(_) => self.in_doubt.push(Step::Purge(queue)),
        }
    }

    /// One queue takes no more sends, in place of the one that did not so far.
    fn retract(&mut self) {
        let next = self.names.bool().then(|| name(QUEUES[self.names.usize(..self.mix.queues)]));
        let face = &self.store.as_ref().expect("the store is open").face;
        if let Some(before) = self.retracted.take() {
            face.declare(&before, self.limits(&before));
        }
        if let Some(next) = &next {
            face.retract(next);
            self.happened.count("retractions");
        }
        self.retracted = next;
    }

    fn pass_time(&mut self) {
        let pause_ms = self.random.u64(1..self.mix.pause_ms_max);
        self.pass(pause_ms);
    }

    pub(super) fn pass(&mut self, pause_ms: u64) {
        self.clock.advance(pause_ms);
        self.happened.add("simulated ms", pause_ms);
        let now_ms = self.now_ms();
        let before = self.given_up();
        self.engine().expire();
        self.note_given_up(&before);
        self.model.age(now_ms);
        if self.engine().stopped().is_none() {
            let shared = self.engine().shared.clone();
            let state = shared.state();
            let leases = self.model.messages.values_mut().filter_map(|message| message.lease.as_mut());
            for leased in leases.filter(|leased| leased.expires_at_ms <= now_ms) {
                if state.queues.leased_at(leased.lease).is_some() {
                    assert!(leased.begun && state.shortage.is_some(), "only what finds no room on a full disk waits");
                    leased.expires_at_ms = now_ms + AGAIN_MS;
                    self.happened.count("leases that waited for room");
                }
            }
            drop(state);
            let over = self.model.expire(now_ms);
            self.happened.add("leases that ran out", over);
        } else {
            // The attempts of leases that were over may be on record; all of them end with the process anyway.
            self.in_doubt.clear();
        }
    }

    /// The file that says how long messages are kept is edited.
    fn change_history(&mut self) {
        let (queue, window_ms) = (self.queue(), [0, 1000, 6000, u64::MAX][self.random.usize(..4)]);
        // It is declared again at the next change.
        if self.retracted.as_ref() == Some(&queue) {
            return;
        }
        self.happened.count("changes of a history's window");
        self.model.windows_ms.insert(queue.clone(), window_ms);
        self.face().declare(&queue, self.limits(&queue));
        let now_ms = self.now_ms();
        self.model.age(now_ms);
    }

    pub(super) fn commit(&mut self, transactions: Vec<Transaction>, may_refuse: impl Fn(&Refusal) -> bool) {
        let now_ms = self.now_ms();
        let mut answers = Vec::new();
        let before = self.given_up();
        self.engine().commit(&mut transactions.iter().cloned().map(Job::from).collect(), &mut answers);
        assert_eq!(answers.len(), transactions.len());
        let mut any_in_doubt = false;
        // What is acknowledged is not kept if a frame can't hold it together with what its handler sends.
        let keeps = self.disk_is_small || self.given_up() == before;
        // Nor is what can't be read.
        let has_failed_to_read = matches!(self.armed, Some(Fault::FailedRead { .. }));
        if !keeps && !has_failed_to_read {
            let [one] = &transactions[..] else { panic!("only a single transaction is too large") };
            let bytes: usize = one.sends.iter().map(|(_, message)| message.body.len()).sum();
            let written = one
                .state
                .iter()
                .map(|one| one.space.len() + one.key.len() + 40 + one.value.as_ref().map_or(0, Bytes::len));
            let bytes = bytes + written.sum::<usize>();
            let most = self.shape.body_bytes_max + 200 + bytes + one.sends.len() * 300;
            assert!(most as u64 > self.shape.file_bytes / 4 - 128, "{bytes} bytes are no reason to keep nothing");
        }
        self.note_given_up(&before);
        for (transaction, answer) in transactions.into_iter().zip(answers) {
            let refused = |(queue, _): &(QueueName, NewMessage)| self.retracted.as_ref() == Some(queue);
            let foreign = transaction.settle.is_none() && transaction.sends.iter().any(refused);
            match &answer {
                // Nor is it in doubt: it is refused before anything is written.
                Err(Refusal::NoSuchQueue(_) | Refusal::Stopped(_)) if foreign => continue,
                Ok(_) if foreign => panic!("a queue that was retracted has taken a message"),
                _ => {}
            }
            let refuses_state = self.model.refuses_state(&transaction);
            if answer.is_ok() {
                assert!(!refuses_state, "{:?} and {:?} must not happen", transaction.state_reads, transaction.state);
            }
            match answer {
                // What is in doubt counts for those after it.
                Err(Refusal::StateChanged { .. } | Refusal::StateFull { .. }) => {
                    self.happened.count("refused writes of state");
                    assert!(refuses_state || any_in_doubt, "refused without need: {:?}", transaction.state_reads);
                }
                Ok(receipt) => {
                    let duplicates = self.model.apply(&transaction, now_ms, keeps);
                    for (queue, _) in &transaction.sends {
                        let bytes = self.face().queue(queue).map_or(0, |told| told.bytes);
                        assert!(bytes <= self.mix.queue_bytes_max, "{queue} holds {bytes} bytes");
                    }
                    for ((sent, (_, message)), first) in receipt.into_iter().zip(&transaction.sends).zip(duplicates) {
                        let (id, nonce) = (sent.id, nonce(&message.body));
                        assert_eq!(
                            sent.duplicate,
                            first.is_some(),
                            "message {nonce} with {:?}",
                            message.idempotency_key
                        );
                        self.happened.count(if first.is_some() { "duplicates" } else { "messages" });
                        match first {
                            None => assert_eq!(self.ids.insert(id, nonce), None, "id {id} was given out twice"),
                            // A message whose send was in doubt has an id that nobody was told.
                            Some(first) => {
                                assert_eq!(*self.ids.entry(id).or_insert(first), first, "of message {nonce}");
                            }
                        }
                    }
                }
                Err(Refusal::Stopped(_)) => {
                    any_in_doubt = true;
                    self.in_doubt.push(Step::Commit(transaction.into(), now_ms, keeps));
                }
                // Reading fails when the power is gone.
                Err(Refusal::Read(_)) => {
                    self.engine().stop("a read failed");
                }
                Err(refusal) => {
                    assert!(may_refuse(&refusal), "refused without need: {refusal}");
                    match refusal {
                        Refusal::DiskFull => self.happened.count("sends refused by the disk"),
                        Refusal::QueueFull { .. } => self.happened.count("sends refused by a queue"),
                        _ => {}
                    }
                }
            }
        }
    }
}
