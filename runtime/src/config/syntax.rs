//! Texts that are no TOML at all: the parser's errors in our style.

use super::errors::ConfigError;

/// One error for each line: what follows on the same line is a consequence.
pub(super) fn errors(text: &str, found: &[toml::de::Error]) -> Vec<ConfigError> {
    let mut errors: Vec<_> = found
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(text.len()..text.len());
            let message = error.message().trim().replace('\n', ", ");
            ConfigError::at(span, format!("this is not valid TOML: {message}"))
        })
        .collect();
    let start = |error: &ConfigError| error.span.as_ref().map_or(0, |span| span.start.min(text.len()));
    errors.sort_by_key(start);
    errors.dedup_by(|later, earlier| !text.as_bytes()[start(earlier)..start(later)].contains(&b'\n'));
    errors
}
