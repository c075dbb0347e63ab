//! What must fit together: consumers and queues, grants and queues.

use std::collections::{BTreeMap, BTreeSet};

use linecook_store::QueueName;

use super::errors::ConfigError;
use super::keys::nearest;
use super::producers::{ProducerKind, Target};
use super::read::Document;
use super::reader::{Errors, Located};
use crate::subjects::Pattern;

/// Checks the document as a whole.
pub(super) fn references(document: &Document, errors: &Errors) {
    producers(document, errors);
    let dead_letter_queues: BTreeSet<&QueueName> = document
        .consumers
        .iter()
        .filter_map(|consumer| consumer.dead_letter_queue.as_ref().map(|queue| &queue.value))
        .collect();
    let mut served: BTreeMap<&QueueName, &Located<QueueName>> = BTreeMap::new();
    for consumer in &document.consumers {
        if let Some(queue) = &consumer.queue {
            if !document.queues.contains_key(&queue.value) {
                let hint = missing_queue_hint(&queue.value, document.queues.keys());
                errors.push(
                    ConfigError::at(queue.span.clone(), format!("there is no queue `{}`", queue.value)).hint(hint),
                );
            }
            match served.get(&queue.value) {
                Some(first) => errors.push(
                    ConfigError::at(queue.span.clone(), format!("queue `{}` has two consumers", queue.value))
                        .related(first.span.clone(), "the first one")
                        .hint("a queue has at most one consumer; `max_concurrency` makes it wider"),
                ),
                None => _ = served.insert(&queue.value, queue),
            }
            if let Some(dead) = consumer.dead_letter_queue.as_ref().filter(|dead| dead.value == queue.value) {
                errors.push(
                    ConfigError::at(
                        dead.span.clone(),
                        "a consumer's dead-letter queue can't be the queue it works off",
                    )
                    .hint(format!("leave it out: the default is \"{}.dead\"", queue.value)),
                );
            }
        }
        for (queue, span) in consumer.grants.send.iter().zip(&consumer.grant_spans.send) {
            let subscribed = || subscriptions(document).any(|pattern| pattern.matches(queue.as_str()));
            if !document.queues.contains_key(queue) && !dead_letter_queues.contains(queue) && !subscribed() {
                let known = document.queues.keys().chain(dead_letter_queues.iter().copied());
                let message =
                    format!("the grant names `{queue}`, which is no queue, and no subject that a queue subscribes to");
                errors.push(ConfigError::at(span.clone(), message).hint(missing_queue_hint(queue, known)));
            }
        }
        for (pattern, span) in consumer.grants.send_subjects.iter().zip(&consumer.grant_spans.send_subjects) {
            if !subscriptions(document).any(|subscribed| subscribed.meets(pattern)) {
                let message = format!("the grant names subjects `{pattern}`, and no queue subscribes to any of them");
                let hint = format!("let a queue `subscribe = [\"{pattern}\"]`, or take the grant out");
                errors.push(ConfigError::at(span.clone(), message).hint(hint));
            }
        }
    }
}

fn subscriptions(document: &Document) -> impl Iterator<Item = &Pattern> + Clone {
    document.queues.values().flat_map(|queue| &queue.subscribe)
}

/// Producers name queues that exist or subjects that somebody wants, and no two webhooks share a path.
fn producers(document: &Document, errors: &Errors) {
    let mut paths: BTreeMap<&str, &std::ops::Range<usize>> = BTreeMap::new();
    for producer in &document.producers {
        match &producer.target {
            Some(Located { value: Target::Queue(queue), span }) if !document.queues.contains_key(queue) => {
                let hint = missing_queue_hint(queue, document.queues.keys());
                errors.push(ConfigError::at(span.clone(), format!("there is no queue `{queue}`")).hint(hint));
            }
            Some(Located { value: Target::Subject(subject), span })
                if !subscriptions(document).any(|pattern| pattern.matches(subject.as_str())) =>
            {
                let hint = match nearest(subject.as_str(), subscriptions(document).map(Pattern::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("let a queue `subscribe = [\"{subject}\"]`"),
                };
                let message = format!("no queue subscribes to `{subject}`");
                errors.push(ConfigError::at(span.clone(), message).hint(hint));
            }
            _ => {}
        }
        if let (Some(ProducerKind::Webhook(webhook)), Some(span)) = (&producer.kind, &producer.spans.path) {
            match paths.get(webhook.path.as_str()) {
                Some(first) => errors.push(
                    ConfigError::at(span.clone(), format!("two webhooks have the path {:?}", webhook.path))
                        .related((*first).clone(), "the first one")
                        .hint("give each webhook a path of its own"),
                ),
                None => _ = paths.insert(&webhook.path, span),
            }
        }
    }
}

fn missing_queue_hint<'q>(missing: &QueueName, known: impl Iterator<Item = &'q QueueName> + Clone) -> String {
    match nearest(missing.as_str(), known.map(QueueName::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if missing.as_str().contains('.') => format!("declare it with [queues.\"{missing}\"]"),
        None => format!("declare it with [queues.{missing}]"),
    }
}
