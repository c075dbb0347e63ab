//! `kind = "webhook"`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ProducerSpans, choice};
use crate::config::producers::{SignatureStyle, WebhookConfig};
use crate::config::read::grants::{VARIABLE_RULE, names_a_variable};
use crate::config::reader::{TableReader, Value, excerpt, name};

const TOLERANCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// What Stripe's own libraries take.
const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);

const PATH_BYTES_MAX: usize = 256;
/// Secrets of one webhook: the one in use, and those before and after it.
const SECRETS_MAX: usize = 4;
/// As many as leave room for other attributes.
const HEADERS_MAX: usize = 24;

/// The first parts of paths that belong to the API, now or in the design.
pub(crate) const API_PATHS: [&str; 15] = [
    "queues",
    "subjects",
    "consumers",
    "producers",
    "deliveries",
    "healthz",
    "readyz",
    "metrics",
    "openapi.json",
    "dashboard",
    "events",
    "sqs",
    "replay",
    "api",
    "assets",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Github,
    Stripe,
    None,
}

/// Reads the keys of this kind.
pub(super) fn read(table: &TableReader<'_>, spans: &mut ProducerSpans) -> Option<WebhookConfig> {
    let path_value = table.require("path", "\"/hooks/github\"");
    spans.path = path_value.as_ref().map(|value| value.span.clone());
    let path = path_value.and_then(|value| path(&value));
    let signature = signature(table, spans);
    let id_header = match table.get("id_header") {
        Some(value) => Some(header(&value, "\"X-Request-Id\"")?),
        None => None,
    };
    let mut headers = Vec::new();
    for item in table.get("headers").iter().flat_map(|value| value.items("[\"X-GitHub-Event\"]")) {
        let Some(header) = header(&item, "\"X-GitHub-Event\"") else { continue };
        if headers.contains(&header) {
            item.refuse(format!("{} is named twice", name(&header)), "name it once");
        } else if headers.len() == HEADERS_MAX {
            item.refuse(format!("there are more than {HEADERS_MAX} headers"), "name those that the consumer needs");
            break;
        } else {
            headers.push(header);
        }
    }
    Some(WebhookConfig { path: path?, signature: signature?, id_header, headers })
}

fn signature(table: &TableReader<'_>, spans: &mut ProducerSpans) -> Option<SignatureStyle> {
    let style = table.require("signature", "\"github\"").and_then(|value| {
        let choices = [("github", Style::Github), ("stripe", Style::Stripe), ("none", Style::None)];
        choice(&value, "a style of signatures", &choices)
    })?;
    let tolerance = table.get("tolerance");
    if let Some(value) = tolerance.as_ref().filter(|_| style != Style::Stripe) {
        let message = "`tolerance` has no effect: only Stripe's signatures have a time";
        value.refuse_key(message, "remove it");
    }
    if style == Style::None {
        if let Some(value) = table.get("secret_env") {
            let message = "`secret_env` has no effect with `signature = \"none\"`";
            value.refuse_key(message, "write the provider's style, or remove it");
        }
        return Some(SignatureStyle::None);
    }
    let tolerance = tolerance.map_or(Some(TOLERANCE_DEFAULT), |value| value.duration(TOLERANCE));
    let secret_env = secrets(&table.require("secret_env", "\"GITHUB_WEBHOOK_SECRET\"")?, spans)?;
    Some(match style {
        Style::Stripe => SignatureStyle::Stripe { secret_env, tolerance: tolerance? },
        _ => SignatureStyle::Github { secret_env },
    })
}

/// The names of variables, each once.
fn secrets(value: &Value<'_>, spans: &mut ProducerSpans) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let items = value.texts("[\"GITHUB_WEBHOOK_SECRET\", \"GITHUB_WEBHOOK_SECRET_OLD\"]");
    for item in &items {
        let secret = item.text("\"GITHUB_WEBHOOK_SECRET\"")?;
        if !names_a_variable(secret.value) {
            item.refuse(format!("{} can't name an environment variable", name(secret.value)), VARIABLE_RULE);
            return None;
        }
        if names.iter().any(|other| *other == secret.value) {
            item.refuse(format!("{} is named twice", name(secret.value)), "name it once");
            return None;
        }
        if names.len() == SECRETS_MAX {
            let hint = "name the secret that is in use, and the one that it replaces for as long as both are";
            item.refuse(format!("there are more than {SECRETS_MAX} secrets"), hint);
            return None;
        }
        spans.secret_env.push(secret.span);
        names.push(secret.value.to_owned());
    }
    if names.is_empty() && value.is_empty_array() {
        value.refuse("there is no secret to check signatures with", "name the environment variable that holds it");
    }
    (!names.is_empty()).then_some(names)
}

/// A path of its own, written in one way only.
fn path(value: &Value<'_>) -> Option<String> {
    let text = value.text("\"/hooks/github\"")?.value;
    let refuse = |message: String, hint: &str| {
        value.refuse(message, hint);
        None
    };
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
    };
    let parts = text.strip_prefix('/').filter(|rest| rest.split('/').all(plain) && text.len() <= PATH_BYTES_MAX);
    let Some(parts) = parts else {
        let hint = "write \"/\" and names of letters, digits, `-`, `_`, `.` and `~` between single slashes, such as \
                    \"/hooks/github\"";
        return refuse(format!("{:?} is not a path for a webhook", excerpt(text)), hint);
    };
    let first = parts.split('/').next().unwrap_or_default();
    if API_PATHS.contains(&first) {
        return refuse(format!("what is below \"/{first}\" belongs to the API"), "write a path below \"/hooks\"");
    }
    Some(text.to_owned())
}

/// The name of a header, in lower case.
fn header(value: &Value<'_>, example: &str) -> Option<String> {
    let text = value.text(example)?.value;
    let header = http::HeaderName::from_bytes(text.as_bytes()).ok();
    let header = header.filter(|header| !header.as_str().starts_with(linecook_store::ATTRIBUTE_PREFIX_RESERVED));
    if header.is_none() {
        let message = format!("{:?} can't be kept as a header of a webhook", excerpt(text));
        value.refuse(message, format!("write the name of a header that the provider sends, such as {example}"));
    }
    header.map(|header| header.as_str().to_owned())
}
