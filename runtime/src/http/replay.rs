//! `POST /queues/{queue}/replay`: copies of acknowledged messages are sent again.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Principal;
use super::fields::whole_number;
use super::history::span;
use super::limits::{PARAMETERS_BYTES_MAX, REPLAY_ID_BYTES_MAX, REPLAY_MESSAGES_MAX};
use super::path::Queue;
use super::problem::Problem;
use super::{Shared, body};
use crate::auth::Action;
use crate::delivery::QueueName;
use crate::history::{Replay, Replayed, replay as send_copies};
use crate::time::{now_ms, rfc3339};

const EXPECTED: &str = "{\"from\":TIME,\"to\":TIME,\"into\":QUEUE,\"limit\":N,\"after\":POSITION,\"dry_run\":BOOL,\
                        \"replay_id\":TEXT}, all optional";

/// The body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    from: Option<String>,
    to: Option<String>,
    into: Option<String>,
    #[serde(default, deserialize_with = "whole_number")]
    limit: Option<usize>,
    #[serde(default, deserialize_with = "whole_number")]
    after: Option<usize>,
    #[serde(default)]
    dry_run: bool,
    replay_id: Option<String>,
}

/// Sends copies of up to [`REPLAY_MESSAGES_MAX`] messages. `next` says where the next request goes on; `from`, `to` and
/// `replay_id` must be the same then.
pub(super) async fn replay(
    State(shared): State<Shared>,
    Queue(from): Queue,
    principal: Principal,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Json<Value>, Problem> {
    let parameters: Parameters =
        body::parameters(&shared, &headers, request_body, PARAMETERS_BYTES_MAX, EXPECTED).await?;
    let request = request(from, parameters)?;
    if request.into != request.from {
        principal.require(Action::Send, request.into.as_str())?;
    }
    // Both queues are looked for before anything is sent.
    for queue in [&request.from, &request.into] {
        if let Err(error) = shared.broker.queue(queue).await {
            return Err(Problem::of(error, &*shared.broker).await);
        }
    }
    match send_copies(&*shared.broker, &request).await {
        Ok(replayed) => Ok(Json(answer(&request, replayed))),
        Err(failed) => {
            let problem = Problem::of(failed.error, &*shared.broker).await;
            Err(problem.with("replay", answer(&request, failed.done)))
        }
    }
}

fn request(from: QueueName, parameters: Parameters) -> Result<Replay, Problem> {
    let into = match parameters.into {
        Some(into) => QueueName::new(&into).map_err(|error| Problem::malformed(format!("\"into\": {error}")))?,
        None => from.clone(),
    };
    if parameters.limit == Some(0) {
        return Err(Problem::malformed("\"limit\" is 0; send 1 or more, or leave it out to replay all"));
    }
    // What was acknowledged in this millisecond was acknowledged by now. What comes later are copies.
    let (from_ms, to_ms) = span(parameters.from.as_deref(), parameters.to.as_deref(), now_ms() + 1)?;
    let id = match parameters.replay_id {
        Some(id) if (1..=REPLAY_ID_BYTES_MAX).contains(&id.len()) => id,
        Some(_) => {
            return Err(Problem::malformed(format!("\"replay_id\" has 1 to {REPLAY_ID_BYTES_MAX} bytes")));
        }
        None => format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
    };
    let limit = parameters.limit.unwrap_or(usize::MAX).min(REPLAY_MESSAGES_MAX);
    let Parameters { dry_run, .. } = parameters;
    let after = parameters.after.map(|after| after as u64);
    Ok(Replay { from, into, from_ms, to_ms, after, limit, dry_run, id })
}

fn answer(request: &Replay, done: Replayed) -> Value {
    let Replayed { replayed, duplicates, unreadable, next } = done;
    json!({
        "replay_id": request.id,
        "replayed": replayed,
        "duplicates": duplicates,
        "unreadable": unreadable,
        "from": rfc3339(request.from_ms),
        "to": rfc3339(request.to_ms),
        "next": next,
    })
}
