//! One route: what it is called, what it needs, what the documentation says of it, and who answers.

use std::marker::PhantomData;

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::response::IntoResponse;

use super::Shared;
use super::answers;
use super::auth::{self, Needs};
use super::openapi::Doc;
use super::path::PathParts;
use super::peer::Peer;
use super::router::Answer;

/// See [`super::routes`].
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Of the path.
    pub(super) parts: PathParts<'static>,
    pub(super) needs: Needs,
    pub(super) doc: &'static Doc,
    handler: Box<dyn Answers>,
    large_answers: bool,
    waits: bool,
}

impl Route {
    /// `GET`, and `HEAD` with it.
    pub(super) fn get<T: 'static, H: Handler<T, Shared, Future = Answer> + Sync>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route::new(Method::GET, path, needs, doc, handler)
    }

    /// `POST`.
    pub(super) fn post<T: 'static, H: Handler<T, Shared, Future = Answer> + Sync>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route::new(Method::POST, path, needs, doc, handler)
    }

    /// `DELETE`.
    pub(super) fn delete<T: 'static, H: Handler<T, Shared, Future = Answer> + Sync>(
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        Route::new(Method::DELETE, path, needs, doc, handler)
    }

    fn new<T: 'static, H: Handler<T, Shared, Future = Answer> + Sync>(
        method: Method,
        path: &'static str,
        needs: Needs,
        doc: &'static Doc,
        handler: H,
    ) -> Route {
        let handler = Box::new(Handling { handler, extracted: PhantomData });
        let parts = PathParts::of(path).expect("no path of a route has more parts than all routes");
        Route { method, path, parts, needs, doc, handler, large_answers: false, waits: false }
    }

    /// What it answers counts, and is refused if there is too much of that, see [`answers`]. It is the one refusal that
    /// comes before the check of who asks.
    pub(super) fn with_large_answers(mut self) -> Route {
        self.large_answers = true;
        self
    }

    /// It may wait before it answers, so it gets to know the [`Peer`].
    pub(super) fn that_waits(mut self) -> Route {
        self.waits = true;
        self
    }

    /// Answers a request that is this route's.
    pub(super) fn answer(&self, mut request: Request, shared: Shared, peer: &Peer) -> Answer {
        if self.large_answers
            && let Err(problem) = answers::check_room()
        {
            return Box::pin(async { problem.into_response() });
        }
        if let Err(problem) = auth::check(&shared, self.needs, &mut request) {
            return Box::pin(async { problem.into_response() });
        }
        if self.waits {
            request.extensions_mut().insert(peer.clone());
        }
        let answer = self.handler.answer(request, shared);
        if self.large_answers { Box::pin(answers::count(answer)) } else { answer }
    }
}

/// A handler, whatever it takes out of the request.
trait Answers: Send + Sync {
    fn answer(&self, request: Request, shared: Shared) -> Answer;
}

struct Handling<H, T> {
    handler: H,
    extracted: PhantomData<fn() -> T>,
}

impl<T: 'static, H: Handler<T, Shared, Future = Answer> + Sync> Answers for Handling<H, T> {
    fn answer(&self, request: Request, shared: Shared) -> Answer {
        // A function without anything of its own: there is nothing to copy.
        self.handler.clone().call(request, shared)
    }
}
