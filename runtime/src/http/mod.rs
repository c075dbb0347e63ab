//! The HTTP API. It checks what comes in, asks the broker, and says what came of it.
//!
//! A send is answered only after the broker has made it durable. Everything has a limit ([`limits`]), and every error is
//! `application/problem+json` ([`problem`]).

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post};

use self::limits::Timeouts;
use self::problem::Problem;
use crate::broker::Broker;
use crate::producers::webhook::Webhooks;
use crate::status::Board;

mod batch;
mod body;
mod consumers;
mod fields;
pub mod headers;
mod health;
mod history;
pub mod limits;
mod path;
mod peek;
pub mod problem;
mod producers;
mod purge;
mod queues;
mod redrive;
mod replay;
mod send;
mod server;

pub use self::server::{serve, serve_with};

/// What the API speaks for.
#[derive(Clone)]
pub struct App {
    /// The queues.
    pub broker: Arc<dyn Broker>,
    /// The consumers and the producers.
    pub board: Arc<Board>,
    /// The routes of webhooks.
    pub webhooks: Arc<Webhooks>,
}

/// What every handler gets.
#[derive(Clone)]
struct Shared {
    broker: Arc<dyn Broker>,
    board: Arc<Board>,
    webhooks: Arc<Webhooks>,
    timeouts: Timeouts,
}

/// The routes.
fn router(app: App, timeouts: Timeouts) -> Router {
    Router::new()
        .route("/queues", get(queues::list))
        .route("/queues/{queue}", get(queues::one).delete(purge::delete))
        .route("/queues/{queue}/messages", get(peek::peek).post(send::send).delete(purge::purge))
        .route("/queues/{queue}/messages/batch", post(batch::send))
        .route("/queues/{queue}/redrive", post(redrive::redrive))
        .route("/queues/{queue}/replay", post(replay::replay))
        .route("/consumers", get(consumers::list))
        .route("/producers", get(producers::list))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Problem::method_not_allowed(method.as_str(), uri.path())
        })
        .fallback(producers::webhook)
        .layer(middleware::from_fn(headers::check_size))
        .with_state(Shared { broker: app.broker, board: app.board, webhooks: app.webhooks, timeouts })
}
