//! Answers that may be large: they are in memory until the client has read them, and a client may take its time. So all of
//! them together have a bound, as the bodies of requests have; beyond it such requests are refused with 503.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::body::{Body, HttpBody, to_bytes};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::limits::ANSWERED_BYTES_MAX;
use super::problem::Problem;

/// Bytes of answers that are not on their way through the socket yet.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// An answer that counts until the last user has let go of it.
struct Counted(Bytes);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.0.len(), Relaxed);
    }
}

/// Refuses if there are too many already. An answer is made without waiting for anything, so that there are never more
/// than the bound and one for each thread.
pub(super) fn check_room() -> Result<(), Problem> {
    if BYTES.load(Relaxed) < ANSWERED_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::busy("too many large answers are not read by their clients yet; ask again in a second"))
}

/// Counts an answer that may be large.
pub(super) async fn count(answer: impl Future<Output = Response>) -> Response {
    let (head, body) = answer.await.into_parts();
    // All answers are whole; this is where one that is not would be seen.
    debug_assert!(body.size_hint().exact().is_some());
    match to_bytes(body, usize::MAX).await {
        Ok(bytes) => {
            BYTES.fetch_add(bytes.len(), Relaxed);
            Response::from_parts(head, Body::from(Bytes::from_owner(Counted(bytes))))
        }
        Err(error) => Problem::busy(format!("the answer could not be made: {error}")).into_response(),
    }
}
