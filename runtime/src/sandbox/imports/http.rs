//! `wasi:http/outgoing-handler`: each request is checked against the grants before anything is looked up or connected.
//! A redirect is an answer like any other: if the guest follows it, that is its next request.

use std::sync::Arc;

use hyper::Request;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use super::connection::{self, Reach, Refused, Target};
use crate::config::{Host, Hosts, HttpGrant, Scheme};
use crate::sandbox::grants::{Grant, is_public};
use crate::sandbox::limits::{HTTP_BODY_CHUNK_BYTES, HTTP_CONNECTIONS_MAX};
use crate::sandbox::state::Outside;

type Response = hyper::Response<WasiBody>;
/// What goes on after the response: nothing, since the response's body drives its connection.
type Afterwards = Box<dyn Future<Output = Result<()>> + Send>;

impl WasiHttpHooks for Outside {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response, Afterwards)>> + Send> {
        let checked = self.check(&request).and_then(|target| Ok((target, self.connection()?)));
        let (target, connection) = match checked {
            Ok(checked) => checked,
            Err(error) => return Box::new(std::future::ready(Err(error))),
        };
        let (settings, access) = (self.settings.clone(), self.access.clone());
        Box::new(async move {
            match connection::send(&target, request, options.unwrap_or_default(), &access, connection).await {
                Ok(response) => Ok((response, Box::new(std::future::ready(Ok(()))) as Afterwards)),
                Err(Refused::Failed(error)) => Err(error),
                Err(Refused::Private) => {
                    let name = target.grant();
                    let what = format!(
                        "an HTTP request to {name} was refused: it is not at a public address, and granted by a `*` only"
                    );
                    access.tell_denied(&settings, Grant::Http, &name, &what);
                    Err(Error::DestinationIpProhibited)
                }
            }
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        HTTP_BODY_CHUNK_BYTES
    }

    // What goes wrong on the way is for the guest to know; the default would write to the log each time.

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        if error.is_timeout() { ErrorCode::HttpResponseTimeout } else { ErrorCode::HttpProtocolError }
    }

    fn p2_error_from_connect(&mut self, _error: &std::io::Error) -> ErrorCode {
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _error: &std::io::Error) -> ErrorCode {
        ErrorCode::TlsProtocolError
    }
}

impl Outside {
    /// Where the request goes, if that is granted.
    fn check(&self, request: &Request<WasiBody>) -> Result<Target> {
        let uri = request.uri();
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(Error::HttpRequestUriInvalid),
        };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = Host::parse(authority.host()).ok_or(Error::HttpRequestUriInvalid)?;
        // With a user name, the host is not where it begins. Nobody needs one, and readers fall for it.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("" | ":") => scheme.default_port(),
            Some(_) => authority.port_u16().filter(|port| *port > 0).ok_or(Error::HttpRequestUriInvalid)?,
            None => return Err(Error::HttpRequestUriInvalid),
        };
        let Some(reach) = reach(&self.settings.grants.http, scheme, &host, port) else {
            let name = connection::grant(scheme, &host, port);
            let what = format!("an HTTP request to {name} was refused: it is not granted");
            self.access.tell_denied(&self.settings, Grant::Http, &name, &what);
            return Err(Error::HttpRequestDenied);
        };
        Ok(Target { scheme, host, port, reach })
    }

    /// The right to one more connection.
    fn connection(&mut self) -> Result<Arc<()>> {
        let connections = self.connections.get_or_insert_default();
        if Arc::strong_count(connections) > HTTP_CONNECTIONS_MAX {
            self.limit_hit = true;
            return Err(Error::ConnectionLimitReached);
        }
        Ok(connections.clone())
    }
}

/// How far the grants of a scheme and a port go for a host; `None` if it is not granted.
fn reach(grants: &[HttpGrant], scheme: Scheme, host: &Host, port: u16) -> Option<Reach> {
    let grants =
        || grants.iter().filter(|grant| (grant.scheme, grant.port) == (scheme, port)).map(|grant| &grant.hosts);
    let mut by_star = false;
    for hosts in grants().filter(|hosts| hosts.contain(host)) {
        match hosts {
            Hosts::One(_) => return Some(Reach::Anywhere),
            Hosts::Below(_) | Hosts::All => by_star = true,
        }
    }
    let by_themselves = grants().filter_map(|hosts| match hosts {
        Hosts::One(Host::Address(address)) => Some(*address),
        _ => None,
    });
    match host {
        // A private address that was called by itself, through a `*`, is not granted at all.
        Host::Address(address) if !is_public(*address) => None,
        _ => by_star.then(|| Reach::Public { and: by_themselves.collect() }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_grant_by_name_reaches_further_than_one_by_a_star() {
        let grant = |hosts, port| HttpGrant { scheme: Scheme::Https, hosts, port };
        let name = |name: &str| Host::parse(name).unwrap();
        let grants = [
            grant(Hosts::All, 443),
            grant(Hosts::One(name("intranet.example")), 443),
            grant(Hosts::One(name("10.0.0.1")), 8443),
            grant(Hosts::Below("example".to_owned()), 8443),
        ];
        let reach = |host: &str, port| super::reach(&grants, Scheme::Https, &name(host), port);
        let public = |and: &[&str]| Some(Reach::Public { and: and.iter().map(|text| text.parse().unwrap()).collect() });
        assert_eq!(reach("api.example", 443), public(&[]));
        assert_eq!(reach("intranet.example", 443), Some(Reach::Anywhere));
        assert_eq!(reach("intranet.example", 8443), public(&["10.0.0.1"]));
        assert_eq!(reach("1.1.1.1", 443), public(&[]));
        assert_eq!(reach("10.0.0.1", 443), None);
        assert_eq!(reach("10.0.0.1", 8443), Some(Reach::Anywhere));
        assert_eq!(reach("10.0.0.2", 8443), None);
        assert_eq!(reach("api.example", 80), None);
        assert_eq!(super::reach(&grants, Scheme::Http, &name("api.example"), 443), None);
        assert!("10.0.0.1".parse::<IpAddr>().is_ok_and(|address| !is_public(address)));
    }
}
