//! Retention: a message that waited longer in its queue than it may becomes a dead letter. Nothing is dropped.
//!
//! A message's age counts from when it was sent, or redriven. Messages that are being handled are left alone; if they fail,
//! they are looked at again. The front of each queue is looked at once a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::broker::{Broker, BrokerError, QueueLimits};
use crate::config::{Config, units};
use crate::dead_letter::Facts;
use crate::delivery::{Delivery, QueueName, Resolution, Settlement};
use crate::time::now_ms;

/// What the dead letter says.
pub const REASON: &str = "expired";

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that move in one step.
const BATCH: usize = 256;
/// Longer than a step takes.
const LEASE: Duration = Duration::from_secs(60);

/// How long messages may wait in a queue, and where they go then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where they wait.
    pub queue: QueueName,
    /// How long.
    pub retention: Duration,
    /// Where they go: the consumer's dead-letter queue, or `<queue>.dead`.
    pub dead_letter_queue: QueueName,
    /// The queue's consumer, if it has one.
    pub consumer: Option<String>,
    /// The limits of the dead-letter queue, which is made when it is first needed.
    pub dead_letters: QueueLimits,
}

/// The rules of a `queue.toml`. `dead_letters`: the limits of dead-letter queues that it does not name.
pub fn rules(config: &Config, dead_letters: QueueLimits) -> Vec<Rule> {
    let rule = |(queue, queue_config): (&QueueName, &crate::config::QueueConfig)| {
        let consumer = config.consumers.values().find(|consumer| consumer.queue == *queue);
        let dead_letter_queue = match consumer {
            Some(consumer) => consumer.dead_letter_queue.clone(),
            // If the name is too long for that, there is nowhere to go: its messages stay.
            None => QueueName::new(&format!("{queue}.dead")).ok()?,
        };
        let limits = config.queues.get(&dead_letter_queue);
        Some(Rule {
            queue: queue.clone(),
            retention: queue_config.retention?,
            dead_letters: limits.map_or(dead_letters, crate::config::QueueConfig::limits),
            dead_letter_queue,
            consumer: consumer.map(|consumer| consumer.name.clone()),
        })
    };
    config.queues.iter().filter_map(rule).collect()
}

/// Keeps the rules, as they are at the time, for as long as it is polled.
pub async fn keep(broker: Arc<dyn Broker>, mut rules: watch::Receiver<Arc<[Rule]>>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = rules.borrow_and_update().clone();
        for rule in &*now {
            if rules.has_changed().unwrap_or(false) {
                break;
            }
            if let Err(error) = sweep(&*broker, rule).await {
                tracing::warn!(queue = %rule.queue, "expired messages stay where they are for now: {error}");
            }
        }
    }
}

/// Moves all that are expired by now.
async fn sweep(broker: &dyn Broker, rule: &Rule) -> Result<(), BrokerError> {
    let mut moved = 0;
    loop {
        let expired = broker.claim_expired(&rule.queue, rule.retention, BATCH, LEASE).await?;
        if expired.is_empty() {
            break;
        }
        broker.declare(&rule.dead_letter_queue, rule.dead_letters).await?;
        let count = expired.len();
        let leases: Vec<_> = expired.iter().map(|delivery| delivery.lease).collect();
        let now_ms = now_ms();
        let answers = broker.settle(expired.iter().map(|delivery| settlement(rule, delivery, now_ms)).collect()).await;
        let mut refused = None;
        let mut held = Vec::new();
        for (lease, answer) in leases.into_iter().zip(answers) {
            match answer {
                // Somebody purged the queue.
                Ok(()) | Err(BrokerError::LeaseLost) => moved += 1,
                Err(error) => {
                    held.push(Settlement {
                        lease,
                        resolution: Resolution::Release,
                        sends: Vec::new(),
                        state: Vec::new(),
                        state_reads: Vec::new(),
                    });
                    refused = Some(error);
                }
            }
        }
        if let Some(error) = refused {
            broker.settle(held).await;
            return Err(error);
        }
        if count < BATCH {
            break;
        }
    }
    if moved > 0 {
        let retention = units::format_duration(rule.retention);
        tracing::warn!(
            queue = %rule.queue,
            "{moved} messages waited longer than the retention of {retention} and are in {} now",
            rule.dead_letter_queue
        );
    }
    Ok(())
}

fn settlement(rule: &Rule, delivery: &Delivery, now_ms: u64) -> Settlement {
    let facts = Facts {
        source_queue: &rule.queue,
        consumer: rule.consumer.as_deref().unwrap_or_default(),
        module_hash: "",
        // The attempt that this lease is for never began.
        attempts: delivery.attempt.saturating_sub(1),
        reason: REASON,
        stderr: "",
        first_failed_at_ms: delivery.first_failed_at_ms.unwrap_or(now_ms),
        last_failed_at_ms: now_ms,
    };
    let resolution = Resolution::DeadLetter { queue: rule.dead_letter_queue.clone(), facts: facts.attributes() };
    Settlement { lease: delivery.lease, resolution, sends: Vec::new(), state: Vec::new(), state_reads: Vec::new() }
}
