//! Reading request bodies: never more than a limit, never longer than a timeout.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::limits::DISCARDED_BYTES_MAX;
use super::problem::Problem;
use crate::config::units::format_size;

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
            _ = tokio::time::timeout(timeout, discard(body)).await;
        }
        return Err(too_large());
    }
    let receive = async {
        let mut received = BytesMut::with_capacity(announced.unwrap_or(0) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::malformed(format!("the body ended too early: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            if received.len() + data.len() > bytes_max {
                discard(body).await;
                return Err(too_large());
            }
            received.extend_from_slice(data);
        }
        Ok(received.freeze())
    };
    tokio::time::timeout(timeout, receive).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} seconds; send it again", timeout.as_secs_f64());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body took too long", detail))
    })
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
