//! `kind = "webhook"`: a route of its own on the listener; each request that is signed becomes a message.
//!
//! | key | meaning |
//! | --- | --- |
//! | `path` | the route, such as `"/hooks/github"`; paths of the API and of other webhooks are refused |
//! | `signature` | `"github"` (`X-Hub-Signature-256`), `"stripe"` (`Stripe-Signature`), or `"none"`, which takes anything from anybody |
//! | `secret_env` | the environment variable that holds the secret; the file never does. Several (`["NEW", "OLD"]`) while it is being replaced: each is good |
//! | `tolerance` | with `"stripe"`: how far the time of signing may be from now; `"5m"` by default |
//! | `id_header` | the header that names a delivery; `X-GitHub-Delivery` with `"github"`. With `"stripe"` the event's `id` is used without it |
//! | `headers` | headers that are kept, as attributes with their names in lower case; others are not |
//!
//! A request is answered with 202 and the message's id once the message is durable, with 200 and the first id if its
//! delivery was there before (within the queue's `dedup_window`), and with 401 if its signature is not right. The body is
//! kept as it is, with its `Content-Type`; it may be as large as that of any other message. Bearer tokens play no part
//! here: the signature says who it is.

mod signature;

use std::collections::BTreeMap;
use std::env;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;

pub use self::signature::{SignatureError, Verifier};
use super::clock::Clock;
use crate::config::ProducerConfig;
use crate::config::producers::{SignatureStyle, Target, WebhookConfig};
use crate::delivery::NewMessage;
use crate::delivery::limits::{
    ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, CONTENT_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX,
};
use crate::status::producers::{ProducerEntry, ProducerState};

const GITHUB_DELIVERY: &str = "x-github-delivery";

/// The routes of all webhooks. HTTP asks here for what it does not know itself.
#[derive(Debug, Default)]
pub struct Webhooks {
    // Written when the file is applied, read by each request to an unknown path.
    routes: RwLock<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    by_path: BTreeMap<String, Arc<Webhook>>,
    closed: bool,
}

/// What there is at a path.
#[derive(Debug, Clone)]
pub enum Route {
    /// A webhook.
    Webhook(Arc<Webhook>),
    /// A webhook of a runtime that is stopping.
    Closed,
}

/// One webhook.
#[derive(Debug)]
pub struct Webhook {
    name: String,
    target: Target,
    content_type: Option<Box<str>>,
    key: Option<Box<str>>,
    attributes: Vec<(Box<str>, Box<str>)>,
    verifier: Verifier,
    signed: bool,
    id: DeliveryId,
    headers: Vec<String>,
    entry: Arc<ProducerEntry>,
}

/// Where a request says which delivery it is.
#[derive(Debug)]
enum DeliveryId {
    Header(String),
    /// The `id` of the event in the body.
    EventId,
    Nowhere,
}

/// Why a request does not become a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not signed as it should be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A header that is to be kept is too long or no text.
    #[error("the header {name} {problem}")]
    Header {
        /// Which one.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Webhooks {
    /// What there is at a path, if anything.
    pub fn at(&self, path: &str) -> Option<Route> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let webhook = routes.by_path.get(path)?;
        Some(if routes.closed { Route::Closed } else { Route::Webhook(webhook.clone()) })
    }

    /// Whether there is a webhook at a path that takes only what is signed.
    pub fn is_signed(&self, path: &str) -> bool {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.by_path.get(path).is_some_and(|webhook| webhook.signed)
    }

    pub(super) fn replace(&self, webhooks: impl IntoIterator<Item = (String, Arc<Webhook>)>) {
        let by_path = webhooks.into_iter().collect();
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Routes { by_path, closed: false };
    }

    /// From now on nothing is taken.
    pub(super) fn close(&self) {
        self.routes.write().unwrap_or_else(PoisonError::into_inner).closed = true;
    }
}

impl Webhook {
    /// Reads the secrets from the environment. None if one is not there, which the entry says.
    pub(super) fn new(
        config: &ProducerConfig,
        webhook: &WebhookConfig,
        entry: Arc<ProducerEntry>,
        clock: Arc<dyn Clock>,
    ) -> Option<Webhook> {
        let mut secrets = Vec::new();
        for variable in webhook.signature.secret_env() {
            match env::var(variable) {
                Ok(secret) if !secret.is_empty() => secrets.push(secret),
                _ => {
                    let error = format!("{variable} is not set in the environment, or is empty");
                    entry.error(ProducerState::Failed, &error);
                    tracing::error!(producer = config.name, "the webhook takes nothing: {error}");
                    return None;
                }
            }
        }
        let id = match (&webhook.id_header, &webhook.signature) {
            (Some(header), _) => DeliveryId::Header(header.clone()),
            (None, SignatureStyle::Github { .. }) => DeliveryId::Header(GITHUB_DELIVERY.to_owned()),
            (None, SignatureStyle::Stripe { .. }) => DeliveryId::EventId,
            (None, SignatureStyle::None) => DeliveryId::Nowhere,
        };
        let attribute = |(name, value): &(String, String)| (name.as_str().into(), value.as_str().into());
        Some(Webhook {
            name: config.name.clone(),
            target: config.target.clone(),
            content_type: config.content_type.as_deref().map(Into::into),
            key: config.key.as_deref().map(Into::into),
            attributes: config.attributes.iter().map(attribute).collect(),
            verifier: Verifier::new(&webhook.signature, &secrets, clock),
            signed: webhook.signature != SignatureStyle::None,
            id,
            headers: webhook.headers.clone(),
            entry,
        })
    }

    /// Where its messages go.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its line on the board.
    pub fn entry(&self) -> &ProducerEntry {
        &self.entry
    }

    /// The message that a request makes, if its signature is right.
    ///
    /// # Errors
    /// It does not become a message.
    pub fn message(&self, headers: &HeaderMap, body: Bytes) -> Result<NewMessage, Refused> {
        self.verifier.verify(headers, &body)?;
        let content_type = match &self.content_type {
            Some(configured) => Some(configured.clone()),
            None => text(headers, header::CONTENT_TYPE.as_str(), CONTENT_TYPE_BYTES_MAX)?.map(Into::into),
        };
        let mut attributes = self.attributes.clone();
        for name in &self.headers {
            let Some(value) = text(headers, name, ATTRIBUTE_VALUE_BYTES_MAX)? else { continue };
            // What is configured is not for a request to change.
            if attributes.len() < ATTRIBUTES_MAX && !attributes.iter().any(|(other, _)| **other == **name) {
                attributes.push((name.as_str().into(), value.into()));
            }
        }
        let prefix = format!("webhook/{}/", self.name);
        let id = match &self.id {
            DeliveryId::Header(name) => {
                text(headers, name, IDEMPOTENCY_KEY_BYTES_MAX - prefix.len())?.map(str::to_owned)
            }
            DeliveryId::EventId => event_id(&body).filter(|id| prefix.len() + id.len() <= IDEMPOTENCY_KEY_BYTES_MAX),
            DeliveryId::Nowhere => None,
        };
        Ok(NewMessage {
            body,
            content_type,
            key: self.key.clone(),
            attributes,
            idempotency_key: id.filter(|id| !id.is_empty()).map(|id| format!("{prefix}{id}").into()),
            delay_ms: 0,
        })
    }
}

/// The value of a header, if it is there.
fn text<'h>(headers: &'h HeaderMap, name: &str, bytes_max: usize) -> Result<Option<&'h str>, Refused> {
    let refuse = |problem| Err(Refused::Header { name: name.to_owned(), problem });
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return refuse("is there twice");
    }
    if value.len() > bytes_max {
        return refuse("is too long to be kept");
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => refuse("is not UTF-8"),
    }
}

/// The `id` of a Stripe event.
fn event_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        id: String,
    }
    serde_json::from_slice::<Event>(body).ok().map(|event| event.id)
}

#[cfg(test)]
mod tests;
