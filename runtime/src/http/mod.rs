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
use crate::status::Board;
use crate::subjects::Subjects;

mod batch;
mod body;
mod consumers;
mod fields;
pub mod headers;
mod health;
pub mod limits;
mod path;
mod peek;
pub mod problem;
mod purge;
mod queues;
mod redrive;
mod send;
mod server;
mod subjects;

pub use self::server::{serve, serve_with};

/// What the API speaks for.
#[derive(Clone)]
pub struct App {
    /// The queues.
    pub broker: Arc<dyn Broker>,
    /// The consumers.
    pub board: Arc<Board>,
    /// Which queues subscribe to what.
    pub subjects: Arc<Subjects>,
}

/// What every handler gets.
#[derive(Clone)]
struct Shared {
    broker: Arc<dyn Broker>,
    board: Arc<Board>,
    subjects: Arc<Subjects>,
    timeouts: Timeouts,
}

/// The routes.
fn router(app: App, timeouts: Timeouts) -> Router {
    Router::new()
        .route("/queues", get(queues::list))
        .route("/queues/{queue}", get(queues::one))
        .route("/queues/{queue}/messages", get(peek::peek).post(send::send).delete(purge::purge))
        .route("/queues/{queue}/messages/batch", post(batch::send))
        .route("/subjects/{subject}/messages", post(subjects::send))
        .route("/subjects/{subject}/messages/batch", post(subjects::send_batch))
        .route("/queues/{queue}/redrive", post(redrive::redrive))
        .route("/consumers", get(consumers::list))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Problem::method_not_allowed(method.as_str(), uri.path())
        })
        .fallback(async |uri: Uri| Problem::no_such_route(uri.path()))
        .layer(middleware::from_fn(headers::check_size))
        .with_state(Shared { broker: app.broker, board: app.board, subjects: app.subjects, timeouts })
}
