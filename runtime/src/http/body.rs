//! Reading request bodies: never more than a limit, never longer than a timeout, and never more than
//! [`BUFFERED_BYTES_MAX`] of all requests together. What has arrived counts until the last user of the body has let go of
//! it; what was only announced does not, so that nobody takes room by promising much.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::Shared;
use super::limits::{BUFFERED_BYTES_MAX, DISCARDED_BYTES_MAX};
use super::problem::Problem;
use crate::config::units::format_size;

/// Bytes that bodies have taken. Nobody waits for room, so a count will do; relaxed, as it guards nothing but itself.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What is reserved at once for a body whose length is known. Longer ones grow.
const RESERVED_BYTES_MAX: u64 = 64 << 10;

/// How long a body is read on that will not be taken.
const DISCARD_PATIENCE: Duration = Duration::from_secs(2);

/// Room that is taken until this is dropped.
#[derive(Default)]
struct Room(usize);

impl Room {
    /// Takes more. Answers whether there was so much.
    fn take(&mut self, bytes: usize) -> bool {
        let add = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= BUFFERED_BYTES_MAX);
        let is_taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if is_taken {
            self.0 += bytes;
        }
        is_taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A body, and the room that it takes.
struct Counted {
    bytes: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Receives a whole body of at most `bytes_max`.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Bytes, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        // It is not kept, and without it nobody could read the body.
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-encoding",
            "Content-Encoding is not supported",
            "Content-Encoding is not kept with a message; send the body without it, and say in Content-Type what it is",
        ));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let too_large = || {
        let limit = format_size(bytes_max as u64);
        Problem::too_large(format!("the body is larger than {limit} ({bytes_max} bytes); send less in one request"))
            .with("bytes_max", bytes_max)
    };
    if announced.is_some_and(|length| length > bytes_max as u64) {
        // Who waits for "100 Continue" gets the answer instead, and sends nothing.
        if !headers.contains_key(header::EXPECT) {
            _ = tokio::time::timeout(timeout.min(DISCARD_PATIENCE), discard(body)).await;
        }
        return Err(too_large());
    }
    let receive = async {
        let mut received = Vec::with_capacity(announced.unwrap_or(0).min(RESERVED_BYTES_MAX) as usize);
        let mut room = Room::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::malformed(format!("the body ended too early: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            if received.len() + data.len() > bytes_max {
                _ = tokio::time::timeout(DISCARD_PATIENCE, discard(body)).await;
                return Err(too_large());
            }
            if !room.take(data.len()) {
                // What it has taken is for the others, who would all be refused otherwise.
                drop((room, received));
                // Nobody waits long for what is thrown away; what takes no time is, so that the answer is read.
                _ = tokio::time::timeout(DISCARD_PATIENCE, discard(body)).await;
                return Err(Problem::busy("too many large bodies are on their way; send this one again in a second"));
            }
            received.extend_from_slice(data);
        }
        Ok(match received.is_empty() {
            true => Bytes::new(),
            false => Bytes::from_owner(Counted { bytes: received, _room: room }),
        })
    };
    let mut receive = pin!(receive);
    // A small body comes with the headers: then nothing has to be timed.
    if let Some(received) = receive.as_mut().now_or_never() {
        return received;
    }
    tokio::time::timeout(timeout, receive).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} seconds; send it again", timeout.as_secs_f64());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body took too long", detail))
    })
}

/// The parameters in a JSON body; an empty one is all defaults. `wanted` says what may be sent.
pub(super) async fn parameters<T: Default + DeserializeOwned>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    wanted: &str,
) -> Result<T, Problem> {
    let bytes = read(headers, body, bytes_max, shared.timeouts.body).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    if bytes.trim_ascii_start().starts_with(b"[") {
        // Serde takes an array of the values in order for the object.
        return Err(Problem::malformed(format!("the body is an array; send {wanted}")));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::malformed(format!("the body is not what it should be: {error}; send {wanted}")))
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}
