//! The HTTP API. It checks what comes in, asks the broker, and says what came of it.
//!
//! A send is answered only after the broker has made it durable. Everything has a limit ([`limits`]), and every error is
//! `application/problem+json` ([`problem`]).

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::watch;

use self::auth::Needs;
use self::leases::Leases;
use self::limits::Timeouts;
use self::metrics::Meters;
use self::route::Route;
use crate::auth::Action::{Admin, Consume, Send};
use crate::auth::Auth;
use crate::broker::Broker;
use crate::producers::webhook::Webhooks;
use crate::status::Board;
use crate::subjects::Subjects;

mod answers;
mod auth;
mod batch;
mod body;
mod claim;
mod cloudevents;
mod consumers;
mod deliveries;
mod fields;
pub mod headers;
mod health;
mod history;
mod leases;
pub mod limits;
mod metrics;
mod openapi;
mod origin;
mod path;
mod peek;
mod peer;
pub mod problem;
mod producers;
mod purge;
mod queues;
mod redrive;
mod replay;
mod route;
mod router;
mod send;
mod server;
mod subjects;
mod timer;
pub mod tls;

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
    /// Which queues subscribe to what.
    pub subjects: Arc<Subjects>,
    /// Whose requests are answered.
    pub auth: Arc<Auth>,
    /// Names that clients without tokens may know this machine by, beside `localhost`; in lower case.
    pub host_names: watch::Receiver<Arc<[String]>>,
}

/// What every handler gets. It is cloned for each request, so it is one pointer.
#[derive(Clone)]
struct Shared(Arc<Parts>);

/// See [`Shared`].
struct Parts {
    broker: Arc<dyn Broker>,
    board: Arc<Board>,
    webhooks: Arc<Webhooks>,
    subjects: Arc<Subjects>,
    auth: Arc<Auth>,
    host_names: watch::Receiver<Arc<[String]>>,
    timeouts: Timeouts,
    leases: Arc<Leases>,
    meters: Arc<Meters>,
    /// True once the server is to stop: nothing waits for messages any more.
    stopping: watch::Receiver<bool>,
}

impl Deref for Shared {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// All routes: what each needs, and what the documentation says of it.
fn routes() -> Vec<Route> {
    use openapi as doc;
    vec![
        Route::get("/queues", Needs::Token, &doc::LIST_QUEUES, queues::list).with_large_answers(),
        Route::get("/queues/{queue}", Needs::Token, &doc::QUEUE, queues::one),
        Route::delete("/queues/{queue}", Needs::For(Admin), &doc::DELETE_QUEUE, purge::delete),
        Route::get("/queues/{queue}/messages", Needs::For(Consume), &doc::PEEK, peek::peek).with_large_answers(),
        Route::post("/queues/{queue}/messages", Needs::For(Send), &doc::SEND, send::send),
        Route::delete("/queues/{queue}/messages", Needs::For(Admin), &doc::PURGE, purge::purge),
        Route::post("/queues/{queue}/messages/batch", Needs::For(Send), &doc::SEND_BATCH, batch::send),
        Route::post("/queues/{queue}/claim", Needs::For(Consume), &doc::CLAIM, claim::claim)
            .with_large_answers()
            .that_waits(),
        Route::post("/queues/{queue}/claim/event", Needs::For(Consume), &doc::CLAIM_EVENT, claim::claim_event)
            .with_large_answers()
            .that_waits(),
        Route::post("/queues/{queue}/redrive", Needs::For(Admin), &doc::REDRIVE, redrive::redrive),
        Route::post("/queues/{queue}/replay", Needs::For(Admin), &doc::REPLAY, replay::replay),
        Route::post("/subjects/{subject}/messages", Needs::For(Send), &doc::SEND_TO_SUBJECT, subjects::send),
        Route::post(
            "/subjects/{subject}/messages/batch",
            Needs::For(Send),
            &doc::SEND_BATCH_TO_SUBJECT,
            subjects::send_batch,
        ),
        // What a lease is of, the handler knows, and asks whether the token is good for it.
        Route::post("/deliveries", Needs::Token, &doc::SETTLE, deliveries::settle_many).with_large_answers(),
        Route::post("/deliveries/{lease}/ack", Needs::Token, &doc::ACK, deliveries::ack),
        Route::post("/deliveries/{lease}/retry", Needs::Token, &doc::RETRY, deliveries::retry),
        Route::post("/deliveries/{lease}/extend", Needs::Token, &doc::EXTEND, deliveries::extend),
        Route::post("/deliveries/{lease}/dead-letter", Needs::Token, &doc::DEAD_LETTER, deliveries::dead_letter),
        Route::get("/consumers", Needs::Token, &doc::CONSUMERS, consumers::list).with_large_answers(),
        Route::post("/consumers/{name}/pause", Needs::Token, &doc::PAUSE, consumers::pause),
        Route::post("/consumers/{name}/resume", Needs::Token, &doc::RESUME, consumers::resume),
        // Of a consumer that is gone, nobody knows the queue any more that a token could be for.
        Route::delete("/consumers/{name}/state", Needs::Everything, &doc::DROP_STATE, purge::drop_state),
        Route::get("/producers", Needs::Token, &doc::PRODUCERS, producers::list).with_large_answers(),
        Route::get("/healthz", Needs::Nothing, &doc::HEALTH, health::health),
        Route::get("/readyz", Needs::Nothing, &doc::READY, health::ready),
        Route::get("/metrics", Needs::Everything, &doc::METRICS, metrics::metrics).with_large_answers(),
        Route::get("/openapi.json", Needs::Token, &doc::OPENAPI, openapi::openapi).with_large_answers(),
    ]
}

impl Shared {
    fn new(app: App, timeouts: Timeouts, stopping: watch::Receiver<bool>) -> Shared {
        let App { broker, board, webhooks, subjects, auth, host_names } = app;
        let (leases, meters) = (Arc::default(), Arc::default());
        Shared(Arc::new(Parts {
            broker,
            board,
            webhooks,
            subjects,
            auth,
            host_names,
            timeouts,
            leases,
            meters,
            stopping,
        }))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_webhook_can_take_a_path_of_the_api() {
        for route in super::routes() {
            let first = route.path.split('/').nth(1).unwrap_or_default();
            assert!(crate::config::API_PATHS.contains(&first), "{} is missing in API_PATHS", route.path);
        }
    }
}
