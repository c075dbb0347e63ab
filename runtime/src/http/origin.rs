//! Requests that a browser sends for somebody else. A loopback port without tokens trusts this machine, and a web page that
//! is open in this machine's browser is not of this machine: it can resolve its own name to 127.0.0.1 (DNS rebinding), which
//! `Host` tells, or send across origins without reading the answer, which `Origin` tells.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Shared;
use super::problem::Problem;

/// Refuses what a browser sends for somebody else. With tokens there is nothing to check: no page has one by accident. Nor
/// can a page sign what a webhook takes, and who calls a webhook knows this machine by the name of a proxy or a tunnel.
pub(super) fn check(shared: &Shared, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    if shared.auth.is_on() || shared.webhooks.is_signed(path) {
        return Ok(());
    }
    examine(headers, &shared.host_names.borrow())
}

fn examine(headers: &HeaderMap, names: &[String]) -> Result<(), Problem> {
    // A client of HTTP/1.0 has none; a browser always has.
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    if !is_ours(host, names) {
        let detail = "the Host header names neither an address nor localhost; put the name into `host_names` under \
                      [runtime] if it is this runtime's, or set up [runtime.auth]";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-host", "Foreign host", detail));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let same = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, of)| of.as_bytes() == host.as_bytes());
    if !same {
        let detail = "the request comes from a web page of another origin, which may use this API only with a token: set up \
                      [runtime.auth]";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin", detail));
    }
    Ok(())
}

fn is_ours(host: &HeaderValue, names: &[String]) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        // A colon within the brackets belongs to the address.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || names.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_and_its_own_pages_pass() {
        let names = ["queues.internal".to_owned()];
        let examine = |host: Option<&'static str>, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(host.map(|host| (header::HOST, HeaderValue::from_static(host))));
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            super::examine(&headers, &names).is_ok()
        };
        for (host, good) in [
            ("127.0.0.1:7878", true),
            ("127.0.0.1", true),
            ("[::1]:7878", true),
            ("[::1]", true),
            ("localhost:7878", true),
            ("LOCALHOST.", true),
            ("app.localhost", true),
            ("queues.internal:7878", true),
            ("evil.example:7878", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("", false),
        ] {
            assert_eq!(examine(Some(host), None), good, "{host}");
        }
        assert!(examine(None, None));
        assert!(examine(Some("localhost:7878"), Some("http://localhost:7878")));
        for origin in ["http://evil.example", "http://localhost:3000", "null", "http://localhost:7878.evil.example"] {
            assert!(!examine(Some("localhost:7878"), Some(origin)), "{origin}");
        }
    }
}
