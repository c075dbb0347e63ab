//! `GET /healthz` (should this process live on?) and `GET /readyz` (does it do its work?).

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Shared;
use super::problem::Problem;
use crate::broker::{Broker, BrokerError};
use crate::status::ConsumerState;

/// Healthy unless the engine has stopped.
pub(super) async fn health(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    engine(&*shared.broker)?;
    Ok(Json(json!({ "status": "ok" })))
}

/// Ready once the engine runs and every consumer has loaded its first module, or has failed to: a broken module is the
/// consumer's state, and must not take the sends of all others away. Nor must one that is added later.
pub(super) async fn ready(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    engine(&*shared.broker)?;
    let loading = shared.board.starting();
    let refuse = |name, title, detail| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, name, title, detail));
    if !loading.is_empty() {
        let detail = format!("still loading: {}; messages are taken and wait for them", loading.join(", "));
        return refuse("loading", "Not ready yet", detail).map_err(|problem| problem.with("consumers", loading));
    }
    if shared.board.all().iter().any(|consumer| consumer.state == ConsumerState::Draining) {
        return refuse("stopping", "Stopping", "the runtime is stopping".to_owned());
    }
    Ok(Json(json!({ "status": "ready" })))
}

fn engine(broker: &dyn Broker) -> Result<(), Problem> {
    broker.failure().map_or(Ok(()), |why| Err(Problem::broker(&BrokerError::Stopped(why))))
}
