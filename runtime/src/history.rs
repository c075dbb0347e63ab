//! Acknowledged messages that their queue keeps for a time: replaying them, and saying so when a full disk takes them.
//!
//! A replay sends copies. Each has a new id and names its original in [`REPLAY_OF`]; what else Linecook had written on the
//! original (the facts of a dead letter) stays behind. A copy's idempotency key is made of the replay's id and the
//! original's, so a replay that is repeated under its id goes on where it ended, within the `dedup_window` of the queue that
//! it sends to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use linecook_store::ATTRIBUTE_PREFIX_RESERVED;

use crate::broker::{Broker, BrokerError, HistoryMessage, HistoryPage, HistoryRange};
use crate::delivery::{NewMessage, QueueName};

/// The attribute of a copy that names the message that it is a copy of.
pub const REPLAY_OF: &str = "linecook-replay-of";

/// Messages that are sent in one step, and how many bytes of them.
const STEP_MESSAGES: usize = 256;
const STEP_BYTES: usize = 64 << 10;

/// How often it is looked for histories that had to make room.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is replayed, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Whose history it is.
    pub from: QueueName,
    /// Where the copies go.
    pub into: QueueName,
    /// Messages that were acknowledged then or later, in milliseconds of the Unix epoch.
    pub from_ms: u64,
    /// Messages that were acknowledged before.
    pub to_ms: u64,
    /// Only what stands after this position in the history.
    pub after: Option<u64>,
    /// At most so many messages.
    pub limit: usize,
    /// Only count.
    pub dry_run: bool,
    /// Names the replay: under the same name no message is sent twice.
    pub id: String,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Copies that were sent, or would have been.
    pub replayed: u64,
    /// Messages of which this replay had sent a copy before.
    pub duplicates: u64,
    /// Messages that are damaged.
    pub unreadable: u64,
    /// If there may be more: after which position they stand.
    pub next: Option<u64>,
}

/// Why a replay ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayFailed {
    /// What was sent until then: it stays sent.
    pub done: Replayed,
    /// Why.
    pub error: BrokerError,
}

/// Sends the copies, in the order in which their originals were acknowledged.
pub async fn replay(broker: &dyn Broker, request: &Replay) -> Result<Replayed, ReplayFailed> {
    let mut done = Replayed { next: request.after, ..Replayed::default() };
    let mut left = request.limit;
    loop {
        match step(broker, request, &mut done, left).await {
            Ok(count) => left -= count,
            Err(error) => return Err(ReplayFailed { done, error }),
        }
        if done.next.is_none() || left == 0 {
            return Ok(done);
        }
    }
}

/// Answers how many messages it has looked at.
async fn step(broker: &dyn Broker, request: &Replay, done: &mut Replayed, left: usize) -> Result<usize, BrokerError> {
    let Replay { from_ms, to_ms, .. } = *request;
    let (limit, bytes_max) = (left.min(STEP_MESSAGES), STEP_BYTES);
    let range = HistoryRange { from_ms, to_ms, after: done.next, limit, bytes_max };
    let HistoryPage { messages, next, unreadable } = broker.history(&request.from, &range).await?;
    let count = messages.len();
    if request.dry_run {
        done.replayed += count as u64;
    } else {
        send(broker, request, messages, done).await?;
    }
    done.unreadable += unreadable;
    done.next = next;
    Ok(count)
}

async fn send(
    broker: &dyn Broker,
    request: &Replay,
    messages: Vec<HistoryMessage>,
    done: &mut Replayed,
) -> Result<(), BrokerError> {
    let copies: Vec<NewMessage> = messages.iter().map(|one| copy(&request.id, one)).collect();
    if copies.is_empty() {
        return Ok(());
    }
    let steps = match broker.publish(&request.into, copies.clone()).await {
        Ok(published) => vec![published],
        // Together they are more than one step takes.
        Err(BrokerError::TooLarge { .. }) if copies.len() > 1 => {
            let mut steps = Vec::new();
            for one in copies {
                steps.push(broker.publish(&request.into, vec![one]).await?);
            }
            steps
        }
        Err(error) => return Err(error),
    };
    for published in steps.iter().flatten() {
        if published.duplicate {
            done.duplicates += 1;
        } else {
            done.replayed += 1;
        }
    }
    Ok(())
}

fn copy(replay_id: &str, original: &HistoryMessage) -> NewMessage {
    let message = &original.message;
    let own = message.attributes.iter().filter(|(name, _)| !name.starts_with(ATTRIBUTE_PREFIX_RESERVED)).cloned();
    let replay_of = (REPLAY_OF.into(), message.id.to_string().into());
    NewMessage {
        body: message.body.clone(),
        content_type: message.content_type.clone(),
        key: message.key.clone(),
        attributes: own.chain([replay_of]).collect(),
        idempotency_key: Some(format!("{ATTRIBUTE_PREFIX_RESERVED}replay/{replay_id}/{}", message.id).into()),
        delay_ms: 0,
    }
}

/// Says it when sends are refused because something is missing, when they are taken again, and when histories had to make
/// room on a full disk. At most once in [`LOOK_EVERY`].
pub async fn tell_what_is_given_up(broker: Arc<dyn Broker>) {
    let mut told: HashMap<QueueName, u64> = HashMap::new();
    let mut shortage = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let before = std::mem::replace(&mut shortage, broker.shortage());
        match (&before, &shortage) {
            (_, Some(why)) if before != shortage => tracing::error!("sends are refused: {why}"),
            (Some(_), None) => tracing::info!("there is room again: sends are taken"),
            _ => {}
        }
        // What is wrong with the queues is said by others.
        for queue in broker.queues().await.unwrap_or_default() {
            let before = told.insert(queue.name.clone(), queue.history_given_up);
            // What was given up in an earlier process was told there.
            let new = queue.history_given_up.saturating_sub(before.unwrap_or(queue.history_given_up));
            if new > 0 {
                tracing::error!(
                    queue = %queue.name,
                    "{new} acknowledged messages could not be kept in the history, because there was no room for them: \
                     free some space on the disk of data_dir, or set a shorter `history`"
                );
            }
        }
    }
}
