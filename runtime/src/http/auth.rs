//! Who asks, and whether they may: each route says what it needs (`routes`), and a request without it is refused before
//! anything of it is read.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;

use super::Shared;
use super::path;
use super::problem::Problem;
use crate::auth::{Action, Checked, Token};
use crate::time::now_ms;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: whoever watches a process can't always show a token.
    Nothing,
    /// Any token. What it is good for decides how much of the answer it gets.
    Token,
    /// A token for this, with the queue or the subject in the path.
    For(Action),
    /// A token for everything.
    Everything,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Principal {
    /// Nobody has to say who they are.
    Anyone,
    /// Whoever has this token.
    Holder(Arc<Token>),
}

impl Principal {
    /// Refuses those who may not do this.
    pub(super) fn require(&self, action: Action, name: &str) -> Result<(), Problem> {
        match self {
            Principal::Holder(token) if !token.may(action, name) => {
                let name: String = name.chars().take(256).collect();
                Err(forbidden(format!("{action}:{name}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether they may do everything.
    pub(super) fn may_all(&self) -> bool {
        match self {
            Principal::Anyone => true,
            Principal::Holder(token) => token.may_all(),
        }
    }

    /// Whether they may see that there is this queue.
    pub(super) fn may_see(&self, queue: &str) -> bool {
        match self {
            Principal::Anyone => true,
            Principal::Holder(token) => token.may_see(queue),
        }
    }
}

impl FromRequestParts<Shared> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Principal, Problem> {
        match parts.extensions.get::<Principal>() {
            Some(principal) => Ok(principal.clone()),
            // A route that was forgotten is closed.
            None if shared.auth.is_on() => Err(unauthorized("no token was checked", None)),
            None => Ok(Principal::Anyone),
        }
    }
}

/// Lets a request through to its handler if it may go there, and says in it who asks.
pub(super) fn check(shared: &Shared, needs: Needs, request: &mut Request) -> Result<(), Problem> {
    if needs == Needs::Nothing || !shared.auth.is_on() {
        return Ok(());
    }
    let principal = admit(shared, needs, request)?;
    request.extensions_mut().insert(principal);
    Ok(())
}

fn admit(shared: &Shared, needs: Needs, request: &Request) -> Result<Principal, Problem> {
    let token = match shared.auth.check(bearer(request.headers())?, now_ms()) {
        Checked::Good(token) => token,
        Checked::Expired => return Err(unauthorized("the token has expired", Some("invalid_token"))),
        Checked::Unknown => return Err(unauthorized("the token is not one of queue.toml's", Some("invalid_token"))),
    };
    let principal = Principal::Holder(token.clone());
    match needs {
        Needs::Nothing | Needs::Token => {}
        Needs::Everything if token.may_all() => {}
        Needs::Everything => return Err(forbidden("admin".to_owned())),
        Needs::For(action) => {
            // What is no name at all is for the handler to refuse; it is nothing that a scope names.
            principal.require(action, &path::named(request.uri().path()).unwrap_or_default())?;
        }
    }
    Ok(principal)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized("the request has no token", None));
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.ok_or_else(|| unauthorized("the Authorization header is not \"Bearer TOKEN\"", Some("invalid_request")))
}

/// 401. `error` is that of RFC 6750, if a token was shown at all.
fn unauthorized(why: &str, error: Option<&'static str>) -> Problem {
    let challenge = match error {
        Some("invalid_token") => HeaderValue::from_static("Bearer realm=\"linecook\", error=\"invalid_token\""),
        Some(_) => HeaderValue::from_static("Bearer realm=\"linecook\", error=\"invalid_request\""),
        None => HeaderValue::from_static("Bearer realm=\"linecook\""),
    };
    let detail = format!("{why}; send \"Authorization: Bearer TOKEN\" with one that `linecook token new` made");
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed", detail)
        .header(header::WWW_AUTHENTICATE, challenge)
}

/// 403.
fn forbidden(scope: String) -> Problem {
    let detail = format!("the token is not good for this; it would need the scope {scope:?}");
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
        .header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"linecook\", error=\"insufficient_scope\""),
        )
        .with("scope", scope)
}
