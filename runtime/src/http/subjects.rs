//! `POST /subjects/{subject}/messages` and `…/batch`: each message is put into every queue that subscribes to the subject,
//! all in one atomic step.
//!
//! The answers are those of sends to one queue, and say beside it what each queue calls its copy: `id` is that of the
//! first queue by name, `ids` has all of them. A batch has an object for each message in `copies`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::limits::FAN_OUT_MAX;
use super::path::SubjectPath;
use super::problem::Problem;
use super::send::Received;
use super::{Shared, batch, send};
use crate::broker::{BrokerError, Published};
use crate::config::nearest;
use crate::delivery::{NewMessage, QueueName};
use crate::subjects::{self, Subject, Subscriptions};

/// Sends one message. 202 once it is durable in all queues; 200 if it is a duplicate in each of them.
pub(super) async fn send(
    State(shared): State<Shared>,
    SubjectPath(subject): SubjectPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // Before anything is read, and again once it is: that can take its time.
    subscribers(&shared.subjects.current(), &subject)?;
    let message = match send::receive(&shared, &headers, body).await? {
        Received::One(message) => message,
        Received::Many(messages) => return answer_batch(&shared, &subject, messages).await,
    };
    let (duplicate, answer) = publish(&shared, &subject, message).await?;
    let status = if duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}

/// Puts one message into every queue that subscribes: whether it is a duplicate in each of them, and the answer.
pub(super) async fn publish(shared: &Shared, subject: &Subject, message: NewMessage) -> Result<(bool, Value), Problem> {
    let (queues, published) = fan_out(shared, subject, vec![message]).await?;
    let first = published.first().map(|one| one.id.to_string());
    let answer = json!({ "id": first, "ids": by_queue(&queues, &published) });
    Ok((published.iter().all(|one| one.duplicate), answer))
}

/// Sends many messages, all or none, to all queues or to none.
pub(super) async fn send_batch(
    State(shared): State<Shared>,
    SubjectPath(subject): SubjectPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    subscribers(&shared.subjects.current(), &subject)?;
    let messages = batch::receive(&shared, &headers, body).await?;
    answer_batch(&shared, &subject, messages).await
}

async fn answer_batch(shared: &Shared, subject: &Subject, messages: Vec<NewMessage>) -> Result<Response, Problem> {
    let (queues, published) = fan_out(shared, subject, messages).await?;
    let copies: Vec<_> = published.chunks(queues.len()).map(|copies| by_queue(&queues, copies)).collect();
    let ids: Vec<_> = published.iter().step_by(queues.len()).map(|first| first.id.to_string()).collect();
    // A message counts as one if it is in each of the queues.
    let duplicates = published.chunks(queues.len()).filter(|copies| copies.iter().all(|one| one.duplicate)).count();
    let answer = json!({ "ids": ids, "duplicates": duplicates, "copies": copies });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

fn subscribers(subscriptions: &Subscriptions, subject: &Subject) -> Result<Vec<QueueName>, Problem> {
    let queues = subscriptions.queues(subject);
    if queues.is_empty() {
        let detail = format!("no queue subscribes to {subject}");
        let problem = |hint: String| {
            let detail = format!("{detail}; {hint}");
            Problem::new(StatusCode::NOT_FOUND, "no-subscriber", "Nobody subscribes", detail)
                .with("subject", subject.as_str())
        };
        return Err(match nearest(subject.as_str(), subscriptions.patterns().iter().map(subjects::Pattern::as_str)) {
            Some(meant) => problem(format!("did you mean {meant}?")).with("did_you_mean", meant),
            None => problem(format!("let a queue subscribe to it in queue.toml: subscribe = [\"{subject}\"]")),
        });
    }
    Ok(queues)
}

/// Puts every message into every queue that subscribes. The answers stand message by message, and for each in the order
/// of the queues, which are told as well.
async fn fan_out(
    shared: &Shared,
    subject: &Subject,
    messages: Vec<NewMessage>,
) -> Result<(Vec<QueueName>, Vec<Published>), Problem> {
    loop {
        let subscriptions = shared.subjects.current();
        let queues = subscribers(&subscriptions, subject)?;
        let copies = messages.len() * queues.len();
        if copies > FAN_OUT_MAX {
            let detail = format!(
                "{} messages to {} queues are {copies} copies, and one step makes at most {FAN_OUT_MAX}; send smaller batches",
                messages.len(),
                queues.len()
            );
            return Err(Problem::too_large(detail));
        }
        match send::publish_all(shared, subjects::copies(subject, &queues, &messages)).await {
            Ok(published) => return Ok((queues, published)),
            // `queue.toml` has changed in between: what subscribes now is another queue.
            Err(BrokerError::NoSuchQueue(_)) if !Arc::ptr_eq(&subscriptions, &shared.subjects.current()) => {}
            Err(error) => return Err(Problem::of(error, &*shared.broker).await),
        }
    }
}

fn by_queue(queues: &[QueueName], published: &[Published]) -> Map<String, Value> {
    queues.iter().zip(published).map(|(queue, one)| (queue.to_string(), one.id.to_string().into())).collect()
}
