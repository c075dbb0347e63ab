//! Texts that are no TOML at all: the parser's errors in our style.

use super::errors::ConfigError;

/// One error for each line: what follows on the same line is a consequence.
pub(super) fn errors(text: &str, found: &[toml::de::Error]) -> Vec<ConfigError> {
    let mut errors: Vec<_> = found
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(text.len()..text.len());
            let message = error.message().trim().replace('\n', ", ");
            let message = message.strip_suffix(", expected nothing").unwrap_or(&message);
            ConfigError::at(span, format!("this is not valid TOML: {message}")).hint(hint(message))
        })
        .collect();
    let start = |error: &ConfigError| error.span.as_ref().map_or(0, |span| span.start.min(text.len()));
    errors.sort_by_key(start);
    errors.dedup_by(|later, earlier| !text.as_bytes()[start(earlier)..start(later)].contains(&b'\n'));
    errors
}

/// The parser's messages are read for the hint only: an unknown one gets the general rule.
fn hint(message: &str) -> &'static str {
    if message.contains("duplicate key") {
        "a key or a table may stand there once: remove one, or put both together"
    } else if message.contains("string") {
        "text stands between two quotes on one line: name = \"value\""
    } else if message.contains("table") {
        "a table begins with its name in brackets on a line of its own: [queues.signups]"
    } else {
        "the file is made of `key = value` lines below [table] lines; text stands in quotes"
    }
}
