//! One route: what it is called, what it needs, what the documentation says of it, and who answers.

use std::future::{Ready, ready};

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use futures_util::future::Either;

use super::Shared;
use super::answers;
use super::auth::{self, Needs};
use super::openapi::Doc;

/// See [`super::routes`].
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    pub(super) doc: &'static Doc,
    answers: MethodRouter<Shared>,
}

impl Route {
    /// `GET`; axum answers `HEAD` with it too.
    pub(super) fn get<T: 'static, H: Handler<T, Shared>>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route { method: Method::GET, path, needs, doc, answers: get(Guarded { needs, handler }) }
    }

    /// `POST`.
    pub(super) fn post<T: 'static, H: Handler<T, Shared>>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route { method: Method::POST, path, needs, doc, answers: post(Guarded { needs, handler }) }
    }

    /// `DELETE`.
    pub(super) fn delete<T: 'static, H: Handler<T, Shared>>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route { method: Method::DELETE, path, needs, doc, answers: delete(Guarded { needs, handler }) }
    }

    /// What it answers counts, and is refused if there is too much of that, see [`answers`]. It is the one refusal that
    /// comes before the check of who asks.
    pub(super) fn with_large_answers(mut self) -> Route {
        self.answers = self.answers.layer(middleware::from_fn(answers::bound));
        self
    }

    /// Adds it to a router.
    pub(super) fn add_to(self, router: Router<Shared>) -> Router<Shared> {
        router.route(self.path, self.answers)
    }
}

/// A handler behind the check of what its route needs. A middleware would do the same, and copy and box what it wraps for
/// every request.
#[derive(Clone)]
struct Guarded<H> {
    needs: Needs,
    handler: H,
}

impl<T: 'static, H: Handler<T, Shared>> Handler<T, Shared> for Guarded<H> {
    type Future = Either<Ready<Response>, H::Future>;

    fn call(self, request: Request, shared: Shared) -> Self::Future {
        match auth::check(&shared, self.needs, request) {
            Ok(request) => Either::Right(self.handler.call(request, shared)),
            Err(problem) => Either::Left(ready(problem.into_response())),
        }
    }
}
