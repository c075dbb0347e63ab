//! Who reaches the listener, and how: `host_names`, `[runtime.auth]` and `[runtime.tls]`.

use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::auth::{Scope, Token};
use crate::config::keys::Table;
use crate::config::reader::{TableReader, Value, excerpt, name};
use crate::config::{Host, TlsConfig};
use crate::http::tls::TlsFiles;

/// Names that clients may call this machine by.
pub(super) fn host_names(table: &TableReader<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for item in table.get("host_names").iter().flat_map(|value| value.items("[\"queues.internal\"]")) {
        let Some(text) = item.text("\"queues.internal\"") else { continue };
        match Host::parse(text.value) {
            Some(Host::Name(name)) if !name.contains('*') => names.push(name),
            _ => item.refuse(
                format!("{:?} is no host name", excerpt(text.value)),
                "write a name without a port, such as \"queues.internal\"; addresses and localhost need not be named",
            ),
        }
    }
    names
}

/// The tokens, by name.
pub(super) fn tokens(table: TableReader<'_>) -> Vec<Token> {
    let value = table.require("tokens", "{ NAME = { sha256 = \"…\", scopes = [\"send\"] } }");
    let named = value.iter().flat_map(|value| value.named("[runtime.auth.tokens.NAME]"));
    let read = |value: Value<'_>| token(value.key, value.table(Table::Token)?);
    let tokens: Vec<Token> = named.filter_map(read).collect();
    let is_empty = value.as_ref().is_some_and(Value::is_empty_table);
    if let Some(value) = value.filter(|_| is_empty) {
        value.refuse_key("there is no token, so that nobody could do anything", "make one with `linecook token new`");
    }
    table.finish();
    tokens
}

fn token(name: &str, table: TableReader<'_>) -> Option<Token> {
    let hash = table.require("sha256", "\"…\"").and_then(|value| {
        let text = value.text("\"…\"")?;
        let hash = text.value.parse().ok();
        if hash.is_none() {
            let hint =
                "it has 64 hexadecimal digits; `linecook token new` prints it. The token itself stays out of this file";
            value.refuse("`sha256` is not the hash of a token", hint);
        }
        hash
    });
    let mut scopes: Vec<Scope> = Vec::new();
    let value = table.require("scopes", "[\"send:orders.*\"]");
    for item in value.iter().flat_map(|value| value.items("[\"send:orders.*\"]")) {
        let Some(text) = item.text("\"send:orders.*\"") else { continue };
        match text.value.parse() {
            Ok(scope) => scopes.push(scope),
            Err(error) => item.refuse(
                format!("{:?} is no scope: {error}", excerpt(text.value)),
                "write send, consume or admin, and after a colon the queues or subjects: \"send:orders.*\"",
            ),
        }
    }
    let expires = table.get("expires").and_then(|value| {
        let text = value.text("\"2027-01-31T00:00:00Z\"")?;
        let at = humantime::parse_rfc3339(text.value).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if at.is_none() {
            value.refuse(
                format!("{}: {:?} is no time", self::name("expires"), excerpt(text.value)),
                "write it in UTC, such as \"2027-01-31T00:00:00Z\"",
            );
        }
        at
    });
    table.finish();
    let expires_at_ms = expires.map(|at| at.as_millis() as u64);
    Some(Token { name: name.to_owned(), hash: hash?, scopes, expires_at_ms })
}

/// The certificate. `folder` is what relative paths are relative to.
pub(super) fn tls(table: TableReader<'_>, folder: &Path) -> Option<TlsConfig> {
    let cert = table.require("cert", "\"cert.pem\"").and_then(|value| value.path("\"cert.pem\""));
    let key = table.require("key", "\"key.pem\"").and_then(|value| value.path("\"key.pem\""));
    let name = table.get("name").and_then(|value| {
        let text = value.text("\"queues.example\"")?;
        let host = Host::parse(text.value);
        if host.is_none() {
            let hint = "write the name that the certificate is for, such as \"queues.example\"";
            value.refuse(format!("{:?} is no host name", excerpt(text.value)), hint);
        }
        host.map(|host| host.to_string())
    });
    table.finish();
    let files = TlsFiles { cert: folder.join(cert?.value), key: folder.join(key?.value) };
    Some(TlsConfig { files, name: name.unwrap_or_else(|| "localhost".to_owned()) })
}
