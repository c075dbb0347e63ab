//! One route: what it is called, what it needs, what the documentation says of it, and who answers.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post};

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
    large_answers: bool,
}

impl Route {
    /// `GET`; axum answers `HEAD` with it too.
    pub(super) fn get<T: 'static, H: Handler<T, Shared>>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route { method: Method::GET, path, needs, doc, answers: get(handler), large_answers: false }
    }

    /// `POST`.
    pub(super) fn post<T: 'static, H: Handler<T, Shared>>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route { method: Method::POST, path, needs, doc, answers: post(handler), large_answers: false }
    }

    /// `DELETE`.
    pub(super) fn delete<T: 'static, H: Handler<T, Shared>>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route { method: Method::DELETE, path, needs, doc, answers: delete(handler), large_answers: false }
    }

    /// What it answers counts, see [`answers`].
    pub(super) fn with_large_answers(mut self) -> Route {
        self.large_answers = true;
        self
    }

    /// Adds it to a router, behind the check of what it needs.
    pub(super) fn add_to(self, router: Router<Shared>, shared: &Shared) -> Router<Shared> {
        let check = middleware::from_fn_with_state((shared.clone(), self.needs), auth::check);
        let counted = |routed: MethodRouter<_>| routed.layer(middleware::from_fn(answers::bound));
        let answers = if self.large_answers { counted(self.answers) } else { self.answers };
        // Whoever may not do it is refused before anything else.
        router.route(self.path, answers.layer(check))
    }
}
