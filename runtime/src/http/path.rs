//! What the path of a request names.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::delivery::QueueName;
use crate::subjects::Subject;

/// Parts of the longest path of a route.
const PARTS_MAX: usize = 4;

/// What is between the slashes of a path.
#[derive(Clone, Copy)]
pub(super) struct PathParts<'p> {
    parts: [&'p str; PARTS_MAX],
    count: usize,
}

impl<'p> PathParts<'p> {
    /// None if there are more than in any route, or if it does not begin with a slash.
    pub(super) fn of(path: &'p str) -> Option<PathParts<'p>> {
        let mut parts = [""; PARTS_MAX];
        let mut count = 0;
        let mut rest = path.strip_prefix('/')?;
        loop {
            let end = memchr::memchr(b'/', rest.as_bytes());
            *parts.get_mut(count)? = &rest[..end.unwrap_or(rest.len())];
            count += 1;
            match end {
                Some(end) => rest = &rest[end + 1..],
                None => return Some(PathParts { parts, count }),
            }
        }
    }

    /// Whether these are of a route as it is documented: there, a part in braces stands for whatever is not empty.
    pub(super) fn are_of(&self, documented: &PathParts<'_>) -> bool {
        let fits = |(part, wanted): (&&str, &&str)| part == wanted || (wanted.starts_with('{') && !part.is_empty());
        self.count == documented.count && self.parts.iter().zip(&documented.parts).take(self.count).all(fits)
    }
}

/// What a path names: its second part, decoded. None if that is not UTF-8. Only routes with such a part ask.
pub(super) fn named(path: &str) -> Option<Cow<'_, str>> {
    let part = PathParts::of(path).map_or("", |all| all.parts[1]);
    percent_decode_str(part).decode_utf8().ok()
}

/// What the path names, whatever it is.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Named, Problem> {
        match named(parts.uri.path()) {
            Some(name) => Ok(Named(name.into_owned())),
            None => Err(Problem::malformed("what the path names is not UTF-8")),
        }
    }
}

/// The queue in the path. Whether it exists is the broker's to say.
pub(super) struct Queue(pub(super) QueueName);

impl<S: Send + Sync> FromRequestParts<S> for Queue {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Queue, Problem> {
        let name = named(parts.uri.path()).ok_or_else(|| {
            Problem::malformed("the queue in the path is not UTF-8; its name has only ASCII characters")
        })?;
        QueueName::new(&name).map(Queue).map_err(|error| Problem::malformed(error.to_string()))
    }
}

/// The subject in the path.
pub(super) struct SubjectPath(pub(super) Subject);

impl<S: Send + Sync> FromRequestParts<S> for SubjectPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<SubjectPath, Problem> {
        let text = named(parts.uri.path()).ok_or_else(|| {
            Problem::malformed("the subject in the path is not UTF-8; its tokens have only ASCII characters")
        })?;
        Subject::new(&text).map(SubjectPath).map_err(|error| Problem::malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_routes_part_by_part() {
        for (documented, path, is_it) in [
            ("/queues", "/queues", true),
            ("/queues", "/queues/", false),
            ("/queues", "/", false),
            ("/queues/{queue}", "/queues/a%20b", true),
            ("/queues/{queue}", "/queues/", false),
            ("/queues/{queue}", "/queues/a/", false),
            ("/queues/{queue}/messages", "/queues/a/messages", true),
            ("/queues/{queue}/messages", "/queues//messages", false),
            ("/queues/{queue}/messages", "/queues/a/messages/batch", false),
            ("/queues/{queue}/messages", "/queues/a", false),
            ("/queues/{queue}/messages", "queues/a/messages", false),
            ("/queues/{queue}/claim/event", "/queues/a/claim/event", true),
            ("/queues/{queue}/claim/event", "/queues/a/claim/event/", false),
        ] {
            let documented = PathParts::of(documented).unwrap();
            assert_eq!(PathParts::of(path).is_some_and(|parts| parts.are_of(&documented)), is_it, "{path}");
        }
        assert_eq!(named("/queues/a%20b/messages").as_deref(), Some("a b"));
        assert_eq!(named("/queues/%ff"), None);
    }

    #[test]
    fn every_route_names_its_thing_in_the_second_part() {
        for route in crate::http::routes() {
            let named = route.path.split('/').position(|part| part.starts_with('{'));
            assert!(named.is_none_or(|at| at == 2), "{}", route.path);
            assert!(route.path.matches('{').count() <= 1, "{}", route.path);
        }
    }
}
