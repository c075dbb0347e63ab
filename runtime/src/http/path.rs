//! What the path of a request names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::problem::Problem;
use crate::delivery::QueueName;
use crate::subjects::Subject;

/// The queue in the path. Whether it exists is the broker's to say.
pub(super) struct Queue(pub(super) QueueName);

impl<S: Send + Sync> FromRequestParts<S> for Queue {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Queue, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| {
            Problem::malformed("the queue in the path is not UTF-8; its name has only ASCII characters")
        })?;
        QueueName::new(&name).map(Queue).map_err(|error| Problem::malformed(error.to_string()))
    }
}

/// The subject in the path.
pub(super) struct SubjectPath(pub(super) Subject);

impl<S: Send + Sync> FromRequestParts<S> for SubjectPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<SubjectPath, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| {
            Problem::malformed("the subject in the path is not UTF-8; its tokens have only ASCII characters")
        })?;
        Subject::new(&text).map(SubjectPath).map_err(|error| Problem::malformed(error.to_string()))
    }
}
