//! The messages of a run: what the queues hold, and how it may differ from the model.

use std::sync::Arc;

use bytes::Bytes;

use super::{QUEUES, Run, Shape, name};
use crate::disk::SimulatedDisk;
use crate::simulation::model::{Model, Nonce, nonce};
use crate::{MessageId, QueueName, Refusal};

/// The ids and bodies of each queue, in order.
pub(in crate::simulation) type Contents = Vec<(QueueName, Vec<(MessageId, Vec<u8>)>)>;

/// A message as the store has it.
pub(super) struct Found {
    pub(super) id: MessageId,
    pub(super) nonce: Nonce,
    body: Bytes,
    key: Option<Arc<str>>,
    attributes: Vec<(String, String)>,
    sent_at_ms: u64,
    pub(super) attempts: u32,
    pub(super) due_at_ms: u64,
}

impl Run {
    /// Opens a store and reads everything. An error names what is wrong.
    pub(in crate::simulation) fn contents_of(disk: &SimulatedDisk, shape: Shape) -> Result<Contents, String> {
        let mut run = Run::new(0, shape);
        run.disk = disk.clone();
        // What is too old is not gone yet.
        run.model.windows_ms.values_mut().for_each(|window_ms| *window_ms = u64::MAX);
        run.open().map_err(|error| error.to_string())?;
        run.try_histories()?;
        Ok(run
            .try_contents()
            .map_err(|refusal| refusal.to_string())?
            .into_iter()
            .map(|(queue, found)| (queue, found.into_iter().map(|one| (one.id, one.body.to_vec())).collect()))
            .collect())
    }

    pub(super) fn try_contents(&self) -> Result<Vec<(QueueName, Vec<Found>)>, Refusal> {
        let all = QUEUES.into_iter().map(|queue| {
            let peeked = self.face().peek(&name(queue), usize::MAX)?;
            let found = peeked.into_iter().map(|one| Found {
                id: one.message.id,
                nonce: nonce(&one.message.body),
                body: one.message.body.clone(),
                key: one.message.key.as_deref().map(Into::into),
                attributes: one.message.attributes.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
                sent_at_ms: one.message.enqueued_at_ms,
                attempts: one.attempts,
                due_at_ms: one.due_at_ms.unwrap_or(0),
            });
            Ok((name(queue), found.collect()))
        });
        all.collect()
    }

    /// What is told of each queue without looking at its messages.
    pub(super) fn check_counts(&self) {
        for queue in QUEUES.into_iter().map(name) {
            let told = self
                .face()
                .queue(&queue)
                .map(|told| (told.ready + told.delayed + told.leased, told.leased, told.bytes));
            let expected = self.model.counts(&queue);
            assert_eq!(told.unwrap_or_default(), expected, "messages, those that are leased, and bytes of {queue}");
        }
    }
}

/// What is wrong, if anything. After a fault, the attempts are those that the log has, or some of those that began since.
///
/// `reached_ms`: the latest that the store's clock has shown.
pub(super) fn differences(
    model: &Model,
    actual: &[(QueueName, Vec<Found>)],
    reached_ms: u64,
    after_fault: bool,
) -> Option<String> {
    for (queue, found) in actual {
        let expected = model.order.get(queue).cloned().unwrap_or_default();
        let nonces: Vec<Nonce> = found.iter().map(|one| one.nonce).collect();
        if nonces != expected {
            return Some(format!("queue {queue} holds {nonces:?}, expected {expected:?}"));
        }
        for one in found {
            let message = &model.messages[&one.nonce];
            let attempts = message.attempts + u32::from(message.lease.is_some_and(|leased| leased.begun));
            let attempts_fit = match after_fault {
                true => one.attempts + 1 >= attempts && one.attempts <= attempts.max(message.most_begun),
                false => one.attempts == attempts,
            };
            // What was due once may or may not have been made ready.
            let due_at_ms = message.told_due_at_ms;
            let due_fits = one.due_at_ms == due_at_ms
                || message.or_told_due_at_ms == Some(one.due_at_ms)
                || (one.due_at_ms == 0 && due_at_ms <= reached_ms);
            if one.body != message.body
                || one.key != message.key
                || one.attributes != *message.attributes
                || one.sent_at_ms != message.sent_at_ms
                || !attempts_fit
                || !due_fits
            {
                return Some(format!(
                    "message {} in {queue}: attempts {} for {attempts}, due {} for {}, sent {} for {}, attributes {:?} for {:?}",
                    one.nonce,
                    one.attempts,
                    one.due_at_ms,
                    due_at_ms,
                    one.sent_at_ms,
                    message.sent_at_ms,
                    one.attributes,
                    message.attributes
                ));
            }
        }
    }
    None
}
