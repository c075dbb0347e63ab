//! Finds who answers a request. All paths are short and name one thing at most, the second part of the path: so a look
//! through the table does, and a request goes from there to its handler without a copy or a box of its own.

use std::pin::Pin;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use super::path::PathParts;
use super::peer::Peer;
use super::problem::Problem;
use super::route::Route;
use super::{Shared, producers, routes};

/// What a handler answers, some time.
pub(super) type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Knows all routes.
pub(super) struct Router {
    routes: Vec<Route>,
    shared: Shared,
}

impl Router {
    pub(super) fn new(shared: Shared) -> Router {
        Router { routes: routes(), shared }
    }

    /// Answers a request. What is checked of every request has been checked before ([`super::server`]).
    pub(super) fn answer(&self, request: Request, peer: &Peer) -> Answer {
        let path = request.uri().path();
        let is_head = request.method() == Method::HEAD;
        let method = if is_head { &Method::GET } else { request.method() };
        let here = PathParts::of(path)
            .map(|parts| self.routes.iter().filter(move |route| parts.are_of(&route.parts)))
            .into_iter()
            .flatten();
        let shared = self.shared.clone();
        match here.clone().find(|route| route.method == *method) {
            Some(route) if is_head => Box::pin(without_body(route.answer(request, shared, peer))),
            Some(route) => route.answer(request, shared, peer),
            // No route of the API: a webhook's, or nothing.
            None if here.clone().next().is_none() => producers::webhook.call(request, shared),
            None => {
                let problem = Problem::method_not_allowed(request.method().as_str(), path);
                let problem = problem.header(header::ALLOW, allowed(here.map(|route| &route.method)));
                Box::pin(async { problem.into_response() })
            }
        }
    }
}

/// `HEAD` is answered like `GET`: with the length of the body, and without it.
async fn without_body(answer: Answer) -> Response {
    let mut response = answer.await;
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}

fn allowed<'m>(methods: impl Iterator<Item = &'m Method>) -> HeaderValue {
    let names: Vec<&str> = methods.map(Method::as_str).collect();
    let text = names.join(",").replace("GET", "GET,HEAD");
    HeaderValue::try_from(text).expect("names of methods are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_one_route_at_most() {
        let routes = routes();
        for route in &routes {
            // A word in the place of what the path names: no other route takes it.
            let request = route.path.replace(['{', '}'], "");
            let parts = PathParts::of(&request).unwrap();
            let takes = |other: &&Route| other.method == route.method && parts.are_of(&other.parts);
            assert_eq!(routes.iter().filter(takes).count(), 1, "{request}");
        }
    }
}
