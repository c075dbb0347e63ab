//! `POST /queues/{queue}/messages`: one message, its body as it is. 202 if it was taken, 200 if it is a duplicate.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::limits::BODY_BYTES_MAX;
use super::path::Queue;
use super::problem::Problem;
use super::{Shared, body, headers};
use crate::delivery::NewMessage;

/// Answers once the message is durable.
pub(super) async fn send(
    State(shared): State<Shared>,
    Queue(queue): Queue,
    request_headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Problem> {
    let message = receive(&shared, &request_headers, request_body).await?;
    let published = match shared.broker.publish(&queue, vec![message]).await {
        Ok(published) => published.into_iter().next().expect("one answer for one message"),
        Err(error) => return Err(Problem::of(error, &*shared.broker).await),
    };
    let status = if published.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(json!({ "id": published.id.to_string() }))).into_response())
}

/// The message that a request makes.
pub(super) async fn receive(shared: &Shared, headers: &HeaderMap, request_body: Body) -> Result<NewMessage, Problem> {
    // What the headers say is checked first: a bad header costs no megabyte.
    let mut message = headers::message(headers, bytes::Bytes::new())?;
    message.body = body::read(headers, request_body, BODY_BYTES_MAX, shared.timeouts.body).await?;
    Ok(message)
}
