//! `GET /producers`: what the producers are doing. And the routes that webhooks have.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::auth::Principal;
use super::limits::BODY_BYTES_MAX;
use super::problem::Problem;
use super::{Shared, body, send, subjects};
use crate::config::producers::Target;
use crate::producers::webhook::{Refused, Route, Webhook};
use crate::status::producers::{ProducerState, ProducerStatus};

/// All producers, by name; of those whose queue or subject the token may see.
pub(super) async fn list(State(shared): State<Shared>, principal: Principal) -> Json<Value> {
    let mut producers = shared.board.producers().all();
    let target = |producer: &ProducerStatus| producer.queue.clone().or_else(|| producer.subject.clone());
    producers.retain(|producer| target(producer).is_some_and(|target| principal.may_see(&target)));
    Json(json!({ "producers": producers }))
}

/// What no route of the API is for: a webhook's request, or nothing.
pub(super) async fn webhook(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    request_body: Body,
) -> Response {
    let webhook = match shared.webhooks.at(uri.path()) {
        None => return Problem::no_such_route(uri.path()).into_response(),
        Some(_) if method != Method::POST => {
            let problem = Problem::method_not_allowed(method.as_str(), uri.path());
            return ([(header::ALLOW, "POST")], problem).into_response();
        }
        Some(Route::Closed) => {
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "Stopping",
                "the runtime is stopping; send it again later",
            );
            return ([(header::RETRY_AFTER, "5")], problem).into_response();
        }
        Some(Route::Webhook(webhook)) => webhook,
    };
    match receive(&shared, &webhook, &headers, request_body).await {
        Ok(answer) => answer,
        Err(problem) => problem.into_response(),
    }
}

/// Answers once the message is durable.
async fn receive(
    shared: &Shared,
    webhook: &Webhook,
    headers: &HeaderMap,
    request_body: Body,
) -> Result<Response, Problem> {
    let body = body::read(headers, request_body, BODY_BYTES_MAX, shared.timeouts.body).await.inspect_err(|_| {
        webhook.entry().refused(1);
    })?;
    let message = webhook.message(headers, body).map_err(|refused| {
        webhook.entry().refused(1);
        // The client's affair, so it is shown to whoever looks and logged for whoever looks closely.
        tracing::debug!(path = "webhook", "refused: {refused}");
        problem(&refused)
    })?;
    let published = match webhook.target() {
        Target::Queue(queue) => send::publish(shared, queue, vec![message]).await.map(|published| {
            let id = published.first().map(|one| one.id.to_string());
            (published.iter().all(|one| one.duplicate), json!({ "id": id }))
        }),
        Target::Subject(subject) => subjects::publish(shared, subject, message).await,
    };
    let (duplicate, answer) = published.inspect_err(|problem| {
        let (_, error) = problem.summary();
        if webhook.entry().error(ProducerState::Waiting, error) {
            tracing::warn!(target = webhook.target().name(), "a webhook's request was turned away: {error}");
        }
    })?;
    webhook.entry().sent(u64::from(!duplicate), u64::from(duplicate));
    let status = if duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}

fn problem(refused: &Refused) -> Problem {
    match refused {
        Refused::Signature(error) => {
            Problem::new(StatusCode::UNAUTHORIZED, "signature", "The signature is not right", error.to_string())
        }
        Refused::Header { .. } => Problem::malformed(refused.to_string()),
    }
}
