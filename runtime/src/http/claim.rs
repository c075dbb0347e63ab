//! `POST /queues/{queue}/claim`: clients that work a queue off. They get messages under a lease, and say with it what became
//! of them (`deliveries`). A queue that has a consumer is worked off by that.
//!
//! Messages come as JSON, as a batch of events with `Accept: application/cloudevents-batch+json`, or as one event with
//! `Accept: application/cloudevents+json`. `POST /queues/{queue}/claim/event` answers with one event in binary mode. One
//! event has its lease in the header `Linecook-Lease`; where there is none, the answer is 204.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cloudevents::{About, Wanted};
use super::fields::whole_number;
use super::leases::Token;
use super::limits::{
    CLAIM_BYTES_MAX, CLAIM_MESSAGES_MAX, LEASE_MAX, LEASE_MIN, LEASES_MAX, PARAMETERS_BYTES_MAX, WAIT_MAX,
};
use super::path::Queue;
use super::peek::show_content;
use super::peer::Peer;
use super::problem::Problem;
use super::{Shared, answers, body, cloudevents};
use crate::config::units::{format_duration, parse_duration};
use crate::delivery::{Delivery, QueueName, Resolution, Settlement};
use crate::time::{now_ms, rfc3339};

/// Messages that are claimed in one step: bodies are counted between steps.
const STEP: usize = 16;
const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// The body; an empty one is all defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(default, deserialize_with = "whole_number")]
    max: Option<usize>,
    lease: Option<String>,
    wait: Option<String>,
}

/// The same for one event.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParametersOfOne {
    lease: Option<String>,
    wait: Option<String>,
}

/// Leases messages, and waits for the first one if it is asked to.
pub(super) async fn claim(
    State(shared): State<Shared>,
    Queue(queue): Queue,
    peer: Peer,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Problem> {
    let says = "{\"max\":N,\"lease\":\"30s\",\"wait\":\"0s\"}, all optional";
    let parameters = body::parameters(&shared, &headers, request_body, PARAMETERS_BYTES_MAX, says).await?;
    answer(&shared, &peer, &queue, parameters, Wanted::of(&headers, Wanted::Json)).await
}

/// Leases one message, as an event.
pub(super) async fn claim_event(
    State(shared): State<Shared>,
    Queue(queue): Queue,
    peer: Peer,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Problem> {
    let says = "{\"lease\":\"30s\",\"wait\":\"0s\"}, both optional";
    let ParametersOfOne { lease, wait } =
        body::parameters(&shared, &headers, request_body, PARAMETERS_BYTES_MAX, says).await?;
    let parameters = Parameters { max: Some(1), lease, wait };
    answer(&shared, &peer, &queue, parameters, Wanted::of(&headers, Wanted::Binary)).await
}

async fn answer(
    shared: &Shared,
    peer: &Peer,
    queue: &QueueName,
    parameters: Parameters,
    wanted: Wanted,
) -> Result<Response, Problem> {
    let max = parameters.max.unwrap_or(1);
    if !(1..=CLAIM_MESSAGES_MAX).contains(&max) {
        return Err(Problem::malformed(format!("\"max\" is {max}; it may be 1 to {CLAIM_MESSAGES_MAX}")));
    }
    let lease = parameters.lease.map_or(Ok(LEASE_DEFAULT), |text| lease_duration(&text))?;
    let wait = parameters.wait.map_or(Ok(Duration::ZERO), |text| duration("wait", &text, Duration::ZERO, WAIT_MAX))?;
    if let Some(consumer) = shared.board.consumer_of(queue.as_str()) {
        let detail =
            format!("queue {queue} is worked off by the consumer {consumer}; claim from a queue that has none");
        return Err(Problem::new(StatusCode::CONFLICT, "has-consumer", "The queue has a consumer", detail)
            .with("consumer", consumer));
    }
    let throttled = || {
        let detail =
            format!("{LEASES_MAX} messages are claimed and not settled; settle some, or let their leases expire");
        Problem::throttled(detail)
    };
    let room = shared.leases.room().min(max).min(wanted.messages_max());
    if room == 0 {
        return Err(throttled());
    }
    let deliveries = match take(shared, peer, queue, room, lease, wait).await {
        Ok(deliveries) => deliveries,
        Err(error) => return Err(Problem::of(error, &*shared.broker).await),
    };
    if let Err(problem) = answers::check_room() {
        // Others read too slowly, which it has not known while it waited.
        give_back(shared, &deliveries).await;
        return Err(problem);
    }
    let tokens = shared.leases.add(queue, &deliveries, lease).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no-random", "No random numbers", error.to_string())
    })?;
    if tokens.len() < deliveries.len() {
        // Other clients have taken the room since.
        give_back(shared, &deliveries[tokens.len()..]).await;
        if tokens.is_empty() {
            return Err(throttled());
        }
    }
    let begin = |(delivery, token): &(Delivery, Token)| {
        let has_begun = shared.broker.begin(delivery.lease);
        if !has_begun {
            // Its lease is over already, so that it is nobody's.
            shared.leases.take(*token);
        }
        has_begun
    };
    let deliveries: Vec<_> = deliveries.into_iter().zip(tokens).filter(begin).collect();
    shared.meters.claimed(deliveries.len() as u64);
    let lease_expires_at_ms = now_ms() + lease.as_millis() as u64;
    let mut claimed = deliveries.iter().map(|(delivery, token)| About {
        queue,
        delivery,
        lease: token.to_string(),
        lease_expires_at_ms,
    });
    let answer = match wanted {
        Wanted::Json => {
            let shown: Vec<_> = claimed.map(|about| show(&about)).collect();
            return Ok(Json(json!({ "messages": shown })).into_response());
        }
        Wanted::Batch => {
            let events: Vec<_> = claimed.map(|about| cloudevents::event(&about)).collect();
            let answer = |text: String| ([(header::CONTENT_TYPE, cloudevents::BATCH)], text).into_response();
            serde_json::to_string(&events).map(answer)
        }
        Wanted::Binary | Wanted::Structured => match claimed.next() {
            Some(about) => about.answer(wanted == Wanted::Binary),
            None => return Ok(StatusCode::NO_CONTENT.into_response()),
        },
    };
    answer.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding", "Can't be written", error.to_string())
    })
}

/// They are ready again as if they had not been claimed.
async fn give_back(shared: &Shared, deliveries: &[Delivery]) {
    let release = |delivery: &Delivery| Settlement {
        lease: delivery.lease,
        resolution: Resolution::Release,
        sends: Vec::new(),
        state: Vec::new(),
        state_reads: Vec::new(),
    };
    // One that is refused comes again when its lease ends.
    shared.broker.settle(deliveries.iter().map(release).collect()).await;
}

/// Claims in steps, until there are enough messages or enough bytes.
async fn take(
    shared: &Shared,
    peer: &Peer,
    queue: &QueueName,
    max: usize,
    lease: Duration,
    wait: Duration,
) -> Result<Vec<Delivery>, crate::broker::BrokerError> {
    let broker = &shared.broker;
    // So that an unknown queue is one also for those who don't wait.
    broker.queue(queue).await?;
    let first = broker.claim(queue, max.min(STEP), lease);
    let mut claimed = if wait.is_zero() {
        first.now_or_never().transpose()?.unwrap_or_default()
    } else {
        let mut stopping = shared.stopping.clone();
        tokio::select! {
            biased;
            // Whoever has gone, and whoever is told that the runtime stops, gets nothing that would have to expire.
            () = peer.gone() => Vec::new(),
            _ = stopping.wait_for(|stopping| *stopping) => Vec::new(),
            claimed = tokio::time::timeout(wait, first) => claimed.unwrap_or_else(|_| Ok(Vec::new()))?,
        }
    };
    let mut bytes: usize = claimed.iter().map(|delivery| delivery.message.body.len()).sum();
    while !claimed.is_empty() && claimed.len() < max && bytes < CLAIM_BYTES_MAX {
        let more = broker.claim(queue, (max - claimed.len()).min(STEP), lease).now_or_never();
        // What is claimed already is worth more than the reason why there is no more.
        let Some(Ok(more)) = more.filter(|more| more.as_ref().is_ok_and(|more| !more.is_empty())) else { break };
        bytes += more.iter().map(|delivery| delivery.message.body.len()).sum::<usize>();
        claimed.extend(more);
    }
    Ok(claimed)
}

/// The duration of a lease.
pub(super) fn lease_duration(text: &str) -> Result<Duration, Problem> {
    duration("lease", text, LEASE_MIN, LEASE_MAX)
}

/// A duration within limits.
pub(super) fn duration(field: &str, text: &str, min: Duration, max: Duration) -> Result<Duration, Problem> {
    let duration =
        parse_duration(text).map_err(|error| Problem::malformed(format!("{field:?}: {error}; {}", error.hint())))?;
    if !(min..=max).contains(&duration) {
        let (min, max) = (format_duration(min), format_duration(max));
        return Err(Problem::malformed(format!("{field:?} is {text:?}; it may be {min:?} to {max:?}")));
    }
    Ok(duration)
}

fn show(about: &About<'_>) -> Value {
    let mut shown = show_content(&about.delivery.message);
    shown["lease"] = about.lease.as_str().into();
    shown["lease_expires_at"] = rfc3339(about.lease_expires_at_ms).into();
    shown["attempt"] = about.delivery.attempt.into();
    shown
}
