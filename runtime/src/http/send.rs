//! `POST /queues/{queue}/messages`: one message, its body as it is; 202 if it was taken, 200 if it is a duplicate. An event
//! in JSON (CloudEvents) is a message too, and a batch of events is many.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::limits::{BATCH_BYTES_MAX, BODY_BYTES_MAX};
use super::path::Queue;
use super::problem::Problem;
use super::{Shared, batch, body, cloudevents, headers};
use crate::broker::{BrokerError, Published};
use crate::delivery::{NewMessage, Outgoing, QueueName};

/// What a request brings.
pub(super) enum Received {
    One(NewMessage),
    Many(Vec<NewMessage>),
}

/// Answers once the message is durable.
pub(super) async fn send(
    State(shared): State<Shared>,
    Queue(queue): Queue,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, request_body) = request.into_parts();
    match receive(&shared, &parts.headers, request_body).await? {
        Received::One(message) => {
            let published = publish(&shared, &queue, vec![message]).await?;
            let one = published.first().expect("one answer for one message");
            let status = if one.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
            // An id needs no escaping.
            Ok(json(status, format!("{{\"id\":\"{}\"}}", one.id)))
        }
        Received::Many(messages) => batch::send_all(&shared, &queue, messages).await,
    }
}

/// An answer whose text is JSON already.
pub(super) fn json(status: StatusCode, text: String) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, JSON)], text).into_response()
}

/// What a request brings, by its content type.
pub(super) async fn receive(shared: &Shared, headers: &HeaderMap, request_body: Body) -> Result<Received, Problem> {
    // What the headers say is checked first: a bad header costs no megabyte.
    match cloudevents::Mode::of(headers)? {
        cloudevents::Mode::Binary => {
            let mut message = headers::message(headers, bytes::Bytes::new())?;
            cloudevents::check_binary(&mut message)?;
            message.body = body::read(headers, request_body, BODY_BYTES_MAX, shared.timeouts.body).await?;
            Ok(Received::One(message))
        }
        cloudevents::Mode::Structured => {
            let given = headers::message(headers, bytes::Bytes::new())?;
            // The names and values around the data, and base64, take room too.
            let bytes = body::read(headers, request_body, 2 * BODY_BYTES_MAX, shared.timeouts.body).await?;
            let mut message = cloudevents::of_structured(&bytes)?;
            for (name, value) in given.attributes {
                super::fields::add_attribute(&mut message.attributes, &name, &value)?;
            }
            message.idempotency_key = given.idempotency_key.or(message.idempotency_key);
            (message.key, message.delay_ms) = (given.key, given.delay_ms);
            Ok(Received::One(message))
        }
        cloudevents::Mode::Batch => {
            headers::check_batch(headers)?;
            let bytes = body::read(headers, request_body, BATCH_BYTES_MAX, shared.timeouts.body).await?;
            Ok(Received::Many(cloudevents::of_batch(&bytes)?))
        }
    }
}

/// Puts messages into one queue, and counts them.
pub(super) async fn publish(
    shared: &Shared,
    queue: &QueueName,
    messages: Vec<NewMessage>,
) -> Result<Vec<Published>, Problem> {
    let published = match messages.is_empty() {
        // A batch of events may be. Its queue must be there all the same.
        true => shared.broker.queue(queue).await.map(|_| Vec::new()),
        false => count(shared, shared.broker.publish(queue, messages)).await,
    };
    match published {
        Ok(published) => Ok(published),
        Err(error) => Err(Problem::of(error, &*shared.broker).await),
    }
}

/// Puts messages into several queues, and counts them.
pub(super) async fn publish_all(shared: &Shared, sends: Vec<Outgoing>) -> Result<Vec<Published>, BrokerError> {
    if sends.is_empty() {
        return Ok(Vec::new());
    }
    count(shared, shared.broker.publish_all(sends, Vec::new())).await
}

async fn count(
    shared: &Shared,
    publish: impl Future<Output = Result<Vec<Published>, BrokerError>>,
) -> Result<Vec<Published>, BrokerError> {
    let started = Instant::now();
    let published = publish.await;
    match &published {
        Ok(published) => {
            let duplicates = published.iter().filter(|one| one.duplicate).count();
            shared.meters.sent(published.len() as u64, duplicates as u64, started.elapsed());
        }
        Err(_) => shared.meters.refused(),
    }
    published
}
