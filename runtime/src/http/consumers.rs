//! `GET /consumers`: what the consumers are doing, and which `queue.toml` they come from; `POST /consumers/{name}/pause` and
//! `…/resume`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Shared;
use super::auth::Principal;
use super::path::Named;
use super::problem::Problem;
use crate::auth::Action;
use crate::config::nearest;

/// What is told of an error in `queue.toml` to those who may not do everything.
const LAST_ERROR_HIDDEN: &str = "queue.toml has an error; a token with the scope \"admin\" may see which";

/// All consumers, by name; of those whose queue the token may see.
pub(super) async fn list(State(shared): State<Shared>, principal: Principal) -> Json<Value> {
    let mut consumers = shared.board.all();
    consumers.retain(|consumer| principal.may_see(&consumer.queue));
    let mut config = shared.board.config();
    if !principal.may_all() {
        // It quotes the file, with what is not for everybody.
        config.last_error = config.last_error.map(|_| LAST_ERROR_HIDDEN.to_owned());
    }
    Json(json!({ "consumers": consumers, "config": config }))
}

/// The consumer claims nothing more; what runs ends.
pub(super) async fn pause(
    State(shared): State<Shared>,
    Named(name): Named,
    principal: Principal,
) -> Result<Json<Value>, Problem> {
    set(shared, name, &principal, true).await
}

/// The consumer claims again.
pub(super) async fn resume(
    State(shared): State<Shared>,
    Named(name): Named,
    principal: Principal,
) -> Result<Json<Value>, Problem> {
    set(shared, name, &principal, false).await
}

async fn set(shared: Shared, name: String, principal: &Principal, paused: bool) -> Result<Json<Value>, Problem> {
    let consumers = shared.board.all();
    let Some(consumer) = consumers.iter().find(|consumer| consumer.name == name) else {
        let shown: String = name.chars().take(80).collect();
        let meant = nearest(&name, consumers.iter().map(|consumer| consumer.name.as_str()));
        let hint =
            meant.map_or_else(|| "declare it in queue.toml".to_owned(), |meant| format!("did you mean {meant}?"));
        let detail = format!("there is no consumer {shown:?}; {hint}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-consumer", "No such consumer", detail));
    };
    principal.require(Action::Admin, &consumer.queue)?;
    let answer = json!({ "name": name, "paused": paused });
    let board = shared.board.clone();
    let set = tokio::task::spawn_blocking(move || board.pauses().set(&name, paused)).await;
    let set = set.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    set.map(|()| Json(answer)).map_err(|error| {
        let detail = format!("it can't be put on record, so nothing has changed: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not-recorded", "Not on record", detail)
    })
}
