//! `POST /deliveries/{lease}/ack|retry|extend|dead-letter`: what became of a claimed message; and `POST /deliveries` for
//! many at once. A lease that has expired or was settled is refused with 409.
//!
//! How often a message is tried is the client's to decide: it sees the attempt. What it gives up goes to `<queue>.dead`, as
//! from a consumer, and can be redriven from there.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::auth::Principal;
use super::claim::{duration, lease_duration};
use super::leases::{Held, Token};
use super::limits::{
    BODY_BYTES_MAX, DELAY_MAX, PARAMETERS_BYTES_MAX, REASON_CHARS_MAX, REASON_REQUEST_BYTES_MAX, SETTLEMENTS_MAX,
};
use super::path::Named;
use super::problem::Problem;
use super::{Shared, body};
use crate::auth::Action;
use crate::broker::{Broker, BrokerError, QueueLimits};
use crate::dead_letter::Facts;
use crate::delivery::{QueueName, Resolution, Settlement};
use crate::time::{now_ms, rfc3339};

/// What a dead letter says if its client does not.
const REASON_DEFAULT: &str = "the client gave it up";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    delay: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLetter {
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extend {
    lease: Option<String>,
}

/// One answer of many.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    lease: String,
    outcome: OutcomeName,
    delay: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OutcomeName {
    Ack,
    Retry,
    DeadLetter,
}

/// What a client says of a message.
enum Outcome {
    Ack,
    Retry(Duration),
    DeadLetter(String),
}

/// A request about one delivery.
pub(super) struct Asked {
    shared: Shared,
    principal: Principal,
    token: Token,
    headers: HeaderMap,
    body: Body,
}

impl FromRequest<Shared> for Asked {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Asked, Problem> {
        let (mut parts, body) = request.into_parts();
        let Named(lease) = Named::from_request_parts(&mut parts, shared).await?;
        let token = lease.parse()?;
        let principal = Principal::from_request_parts(&mut parts, shared).await?;
        Ok(Asked { shared: shared.clone(), principal, token, headers: parts.headers, body })
    }
}

impl Asked {
    /// The body; an empty one is all defaults.
    async fn parameters<T: Default + DeserializeOwned>(&mut self, bytes_max: usize, says: &str) -> Result<T, Problem> {
        let body = std::mem::take(&mut self.body);
        body::parameters(&self.shared, &self.headers, body, bytes_max, says).await
    }

    async fn settle(self, outcome: Outcome) -> Result<Json<Value>, Problem> {
        match settle(&self.shared, &self.principal, vec![(self.token, outcome)]).await.pop() {
            Some((_, Ok(held))) => Ok(Json(json!({ "id": held.id.to_string() }))),
            Some((_, Err(problem))) => Err(problem),
            None => Err(stale()),
        }
    }
}

/// The message is done.
pub(super) async fn ack(mut asked: Asked) -> Result<Json<Value>, Problem> {
    let Nothing {} = asked.parameters(PARAMETERS_BYTES_MAX, "nothing, or {}").await?;
    asked.settle(Outcome::Ack).await
}

/// The attempt has failed: the message comes again.
pub(super) async fn retry(mut asked: Asked) -> Result<Json<Value>, Problem> {
    let Retry { delay } = asked.parameters(PARAMETERS_BYTES_MAX, "{\"delay\":\"30s\"}, optional").await?;
    asked.settle(Outcome::Retry(delay_duration(delay)?)).await
}

/// The message is given up.
pub(super) async fn dead_letter(mut asked: Asked) -> Result<Json<Value>, Problem> {
    let DeadLetter { reason } = asked.parameters(REASON_REQUEST_BYTES_MAX, "{\"reason\":TEXT}, optional").await?;
    asked.settle(Outcome::DeadLetter(reason_text(reason)?)).await
}

/// The lease lasts longer.
pub(super) async fn extend(mut asked: Asked) -> Result<Json<Value>, Problem> {
    let Extend { lease } = asked.parameters(PARAMETERS_BYTES_MAX, "{\"lease\":\"30s\"}, optional").await?;
    let lease = lease.map_or(Ok(Duration::from_secs(30)), |text| lease_duration(&text))?;
    let Asked { shared, principal, token, .. } = asked;
    let held = shared.leases.get(token).ok_or_else(stale)?;
    principal.require(Action::Consume, held.queue.as_str())?;
    shared.broker.extend(held.lease, lease).map_err(|error| Problem::broker(&error))?;
    shared.leases.extend(token, lease);
    let expires_at_ms = now_ms() + lease.as_millis() as u64;
    Ok(Json(json!({ "id": held.id.to_string(), "lease_expires_at": rfc3339(expires_at_ms) })))
}

/// What became of many. Each is settled by itself: one that is refused does not hold up the others.
pub(super) async fn settle_many(
    State(shared): State<Shared>,
    principal: Principal,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Json<Value>, Problem> {
    let bytes = body::read(&headers, request_body, BODY_BYTES_MAX, shared.timeouts.body).await?;
    // Objects first: serde takes an array of the values in order for an object.
    let parsed = serde_json::from_slice::<Vec<serde_json::Map<String, Value>>>(&bytes);
    let parsed = parsed.and_then(|all| all.into_iter().map(|one| serde_json::from_value(one.into())).collect());
    let wanted: Vec<One> = parsed.map_err(|error: serde_json::Error| {
        Problem::malformed(format!(
            "the body is not what it should be: {error}; send [{{\"lease\":LEASE,\"outcome\":\"ack\"}},…], where an outcome \
             is \"ack\", \"retry\" (with \"delay\") or \"dead-letter\" (with \"reason\")"
        ))
    })?;
    if wanted.is_empty() || wanted.len() > SETTLEMENTS_MAX {
        let detail = format!("there are {} answers; send 1 to {SETTLEMENTS_MAX}", wanted.len());
        return Err(Problem::malformed(detail));
    }
    // All are read before any is settled: a request that is malformed changes nothing.
    let mut answers = Vec::with_capacity(wanted.len());
    for (index, one) in wanted.into_iter().enumerate() {
        let place = |problem: Problem| problem.at(&format!("answer {index}")).with("index", index);
        answers.push(read(one).map_err(place)?);
    }
    let mut results: Vec<Value> = Vec::with_capacity(answers.len());
    let settled = settle(&shared, &principal, answers).await;
    for (token, answer) in settled {
        results.push(match answer {
            Ok(held) => json!({ "lease": token.to_string(), "status": 200, "id": held.id.to_string() }),
            Err(problem) => {
                let (status, detail) = problem.summary();
                json!({ "lease": token.to_string(), "status": status, "detail": detail })
            }
        });
    }
    Ok(Json(json!({ "results": results })))
}

fn read(one: One) -> Result<(Token, Outcome), Problem> {
    let One { lease, outcome, delay, reason } = one;
    let of_another = |field: &str| Err(Problem::malformed(format!("{field:?} says nothing for this outcome")));
    if delay.is_some() && outcome != OutcomeName::Retry {
        return of_another("delay");
    }
    if reason.is_some() && outcome != OutcomeName::DeadLetter {
        return of_another("reason");
    }
    let outcome = match outcome {
        OutcomeName::Ack => Outcome::Ack,
        OutcomeName::Retry => Outcome::Retry(delay_duration(delay)?),
        OutcomeName::DeadLetter => Outcome::DeadLetter(reason_text(reason)?),
    };
    Ok((lease.parse()?, outcome))
}

fn delay_duration(text: Option<String>) -> Result<Duration, Problem> {
    text.map_or(Ok(Duration::ZERO), |text| duration("delay", &text, Duration::ZERO, DELAY_MAX))
}

fn reason_text(text: Option<String>) -> Result<String, Problem> {
    match text {
        Some(text) if text.chars().count() > REASON_CHARS_MAX => {
            let detail = format!("\"reason\" has more than {REASON_CHARS_MAX} characters; shorten it");
            Err(Problem::malformed(detail))
        }
        text => Ok(text.unwrap_or_else(|| REASON_DEFAULT.to_owned())),
    }
}

/// Settles each by itself, in one call. The answers stand in the same order.
async fn settle(
    shared: &Shared,
    principal: &Principal,
    wanted: Vec<(Token, Outcome)>,
) -> Vec<(Token, Result<Held, Problem>)> {
    let mut answers: Vec<(Token, Result<Held, Problem>)> = Vec::with_capacity(wanted.len());
    let (mut settlements, mut indices) = (Vec::new(), Vec::new());
    for (token, outcome) in wanted {
        match prepare(shared, principal, token, outcome).await {
            Ok((held, resolution, counted)) => {
                let (lease, sends, state) = (held.lease, Vec::new(), Vec::new());
                settlements.push(Settlement { lease, resolution, sends, state, state_reads: Vec::new() });
                indices.push((answers.len(), counted));
                answers.push((token, Ok(held)));
            }
            Err(problem) => answers.push((token, Err(problem))),
        }
    }
    // Nobody may be waiting for the answers any more: what was begun is done all the same, or put back.
    let settled = shared.broker.settle(settlements).await;
    for ((index, counted), settled) in indices.into_iter().zip(settled) {
        let (token, answer) = &mut answers[index];
        match (settled, &answer) {
            (Ok(()), _) => shared.meters.settled(counted),
            (Err(BrokerError::LeaseLost), _) => *answer = Err(stale()),
            (Err(error), Ok(held)) => {
                shared.leases.put_back(*token, held.clone());
                *answer = Err(Problem::broker(&error));
            }
            (Err(error), Err(_)) => *answer = Err(Problem::broker(&error)),
        }
    }
    answers
}

/// Takes the delivery out of those that are held, and says what is to be put on record.
async fn prepare(
    shared: &Shared,
    principal: &Principal,
    token: Token,
    outcome: Outcome,
) -> Result<(Held, Resolution, super::metrics::Settled), Problem> {
    let held = shared.leases.get(token).ok_or_else(stale)?;
    principal.require(Action::Consume, held.queue.as_str())?;
    let (resolution, counted) = match outcome {
        Outcome::Ack => (Resolution::Ack, super::metrics::Settled::Acked),
        Outcome::Retry(delay) => (Resolution::Retry { delay }, super::metrics::Settled::Retried),
        Outcome::DeadLetter(reason) => {
            let queue = dead_letter_queue(&*shared.broker, &held.queue).await?;
            let now_ms = now_ms();
            let facts = Facts {
                source_queue: &held.queue,
                consumer: "",
                module_hash: "",
                attempts: held.attempt,
                reason: &reason,
                stderr: "",
                first_failed_at_ms: held.first_failed_at_ms.unwrap_or(now_ms),
                last_failed_at_ms: now_ms,
            };
            (Resolution::DeadLetter { queue, facts: facts.attributes() }, super::metrics::Settled::DeadLettered)
        }
    };
    // Of two who have the same token, one gets it.
    let held = shared.leases.take(token).ok_or_else(stale)?;
    Ok((held, resolution, counted))
}

/// `<queue>.dead`, made when it is first needed.
async fn dead_letter_queue(broker: &dyn Broker, queue: &QueueName) -> Result<QueueName, Problem> {
    let dead = QueueName::new(&format!("{queue}.dead")).map_err(|error| {
        Problem::malformed(format!("there is no dead-letter queue for {queue}: {error}; ack or retry the message"))
    })?;
    let made = match broker.queue(&dead).await {
        Ok(found) if found.declared => Ok(()),
        Ok(_) | Err(BrokerError::NoSuchQueue(_)) => broker.declare(&dead, QueueLimits::DEAD_LETTERS).await,
        Err(error) => Err(error),
    };
    made.map(|()| dead).map_err(|error| Problem::broker(&error))
}

fn stale() -> Problem {
    let detail = "the lease has expired, or the message was settled with it; it comes again if it was not done";
    Problem::new(StatusCode::CONFLICT, "lease-lost", "The lease is lost", detail)
}
