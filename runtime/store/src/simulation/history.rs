//! Histories against the model: what was acknowledged within the window is there after whatever happened, what is gone does
//! not come back, and what one page does not hold the next one does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::model::{Model, Nonce, nonce};
use crate::{HistoryRange, MessageId, QueueName, Store};

/// An acknowledged message as the store has it.
pub(super) struct FoundKept {
    pub(super) id: MessageId,
    pub(super) nonce: Nonce,
    body: Bytes,
    key: Option<Arc<str>>,
    attributes: Vec<(String, String)>,
    acked_at_ms: u64,
}

impl FoundKept {
    /// All of a queue, page by page.
    pub(super) fn all(face: &Store, queue: &QueueName) -> Result<Vec<FoundKept>, String> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let range = HistoryRange { from_ms: 0, to_ms: u64::MAX, after, limit: 7, bytes_max: 2000 };
            let page = face.history(queue, &range).map_err(|refusal| refusal.to_string())?;
            if page.unreadable > 0 {
                return Err(format!("{} messages in the history of {queue} can't be read", page.unreadable));
            }
            found.extend(page.messages.into_iter().map(|one| FoundKept {
                id: one.message.id,
                nonce: nonce(&one.message.body),
                body: one.message.body.clone(),
                key: one.message.key.as_deref().map(Into::into),
                attributes: one.message.attributes.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
                acked_at_ms: one.acked_at_ms,
            }));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // A range in the middle is a part of the whole.
        if let [first, .., last] = &found[..] {
            let (from_ms, to_ms) = (first.acked_at_ms + 1, last.acked_at_ms);
            let range = HistoryRange { from_ms, to_ms, after: None, limit: usize::MAX, bytes_max: usize::MAX };
            let page = face.history(queue, &range).map_err(|refusal| refusal.to_string())?;
            let inside = found.iter().filter(|one| (from_ms..to_ms).contains(&one.acked_at_ms));
            let inside: Vec<MessageId> = inside.map(|one| one.id).collect();
            let ids: Vec<MessageId> = page.messages.iter().map(|one| one.message.id).collect();
            assert_eq!(ids, inside, "from {from_ms} to {to_ms} in {queue}");
        }
        Ok(found)
    }
}

/// What is wrong with the histories, if anything.
pub(super) fn history_difference(
    model: &Model,
    actual: &[(QueueName, Vec<FoundKept>)],
    now_ms: u64,
    gave_up: &BTreeSet<QueueName>,
) -> Option<String> {
    for (queue, found) in actual {
        let mut found = found.iter().peekable();
        for kept in model.history(queue, now_ms) {
            match found.next_if(|one| one.nonce == kept.nonce) {
                None if kept.may_be_gone || kept.is_gone || gave_up.contains(queue) => {}
                None => {
                    let next = found.peek().map(|one| one.nonce);
                    return Some(format!("history of {queue}: {} is missing before {next:?}", kept.nonce));
                }
                Some(_) if kept.is_gone => return Some(format!("history of {queue}: {} came back", kept.nonce)),
                Some(one) => {
                    let is_same = one.body == kept.body
                        && one.key == kept.key
                        && one.attributes == *kept.attributes
                        && one.acked_at_ms == kept.acked_at_ms;
                    if !is_same {
                        return Some(format!("history of {queue}: {} has changed", kept.nonce));
                    }
                }
            }
        }
        if let Some(one) = found.next() {
            return Some(format!("history of {queue}: {} is there and should not be", one.nonce));
        }
    }
    None
}

impl Model {
    /// What should be there by its age and is not is gone for ever.
    pub(super) fn note_gone(&mut self, actual: &[(QueueName, Vec<FoundKept>)], now_ms: u64) {
        for (queue, found) in actual {
            let there: BTreeSet<Nonce> = found.iter().map(|one| one.nonce).collect();
            let young: BTreeSet<Nonce> = self.history(queue, now_ms).map(|kept| kept.nonce).collect();
            for kept in self.histories.get_mut(queue).into_iter().flatten() {
                kept.is_gone |= young.contains(&kept.nonce) && !there.contains(&kept.nonce);
            }
        }
    }
}
