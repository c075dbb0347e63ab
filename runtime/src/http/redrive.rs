//! `POST /queues/{queue}/redrive`: dead letters go back to where they came from, or elsewhere.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Principal;
use super::fields::whole_number;
use super::limits::PARAMETERS_BYTES_MAX;
use super::path::Queue;
use super::problem::Problem;
use super::{Shared, body};
use crate::auth::Action;
use crate::broker::Redrive;
use crate::delivery::QueueName;

/// The body; an empty one is all defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    to: Option<String>,
    #[serde(default, deserialize_with = "whole_number")]
    limit: Option<usize>,
    #[serde(default)]
    dry_run: bool,
}

/// Moves the messages, oldest first, and counts them.
pub(super) async fn redrive(
    State(shared): State<Shared>,
    Queue(from): Queue,
    principal: Principal,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Json<Value>, Problem> {
    let says = "{\"to\":QUEUE,\"limit\":N,\"dry_run\":BOOL}, all optional";
    let parameters: Parameters = body::parameters(&shared, &headers, request_body, PARAMETERS_BYTES_MAX, says).await?;
    let to = parameters
        .to
        .map(|to| QueueName::new(&to))
        .transpose()
        .map_err(|error| Problem::malformed(format!("\"to\": {error}")))?;
    if let Some(to) = &to {
        principal.require(Action::Send, to.as_str())?;
    }
    if parameters.limit == Some(0) {
        return Err(Problem::malformed("\"limit\" is 0; send 1 or more, or leave it out to move all"));
    }
    if to.as_ref() == Some(&from) {
        if let Err(error) = shared.broker.queue(&from).await {
            return Err(Problem::of(error, &*shared.broker).await);
        }
        return Err(Problem::malformed(format!(
            "\"to\" is {from}, where the messages are already; name another queue"
        )));
    }
    let request = Redrive { from, to, limit: parameters.limit, dry_run: parameters.dry_run };
    match shared.broker.redrive(request).await {
        Ok(redriven) => Ok(Json(json!({ "moved": redriven.moved, "skipped": redriven.skipped }))),
        Err(error) => Err(Problem::of(error, &*shared.broker).await),
    }
}
