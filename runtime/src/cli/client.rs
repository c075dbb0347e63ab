//! Talks to a running runtime over its HTTP API, at the address that `queue.toml` says.

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, io};

use serde_json::Value;
use tokio_rustls::rustls::crypto;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

use super::{Context, Failed};
use crate::config::{self, ConfigErrors, Endpoint};

/// How long it may take to get a connection. The runtime is on this machine, or close.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take. A redrive of a large queue is the longest.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a connection that nobody uses is kept for the next request.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// An answer that is larger is none of ours: a peek is the largest, and a binary body grows in it by a third.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The API of one runtime.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    address: SocketAddr,
    /// Scheme, host and port.
    base: String,
    token: Option<String>,
    /// What is wrong with `queue.toml`. A runtime that was started before that can still be asked.
    config_errors: Option<ConfigErrors>,
}

/// Where the token is, if not in a file. Never on the command line, which everybody on this machine can read.
const TOKEN_VARIABLE: &str = "LINECOOK_TOKEN";

impl Client {
    /// For the runtime that this `queue.toml` starts, or started before somebody edited it. Nothing is sent yet.
    pub fn new(context: &Context) -> Result<Client, Failed> {
        let (endpoint, config_errors) = match config::load(&context.config_path) {
            Ok(config) => (config.runtime.into(), None),
            Err(errors) => (config::endpoint(&context.config_path)?, Some(errors)),
        };
        let Endpoint { listen, tls, ca_file } = endpoint;
        let address = reachable(listen);
        let (base, tls) = match &tls {
            None => (format!("http://{address}"), TlsConfig::default()),
            Some(tls) => (format!("https://{}:{}", tls.name, address.port()), trust(tls, ca_file.as_deref())?),
        };
        let config = Agent::config_builder()
            .tls_config(tls)
            // A refusal has a body that says why.
            .http_status_as_error(false)
            .max_redirects(0)
            // The runtime is not behind the proxy that the environment may name.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REQUEST_TIMEOUT))
            // Well before the runtime closes an idle connection: a request must not meet a closing one.
            .max_idle_age(IDLE_MAX)
            .build();
        // The name is what the certificate is for; where it leads to, the file says.
        let agent = Agent::with_parts(config, DefaultConnector::default(), Fixed(address));
        Ok(Client { agent, address, base, token: token(context)?, config_errors })
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Result<Value, Failed> {
        self.run(self.request("GET", path, &[], Vec::new())?)
    }

    /// `POST`.
    pub fn post(&self, path: &str, headers: &[(String, String)], body: Vec<u8>) -> Result<Value, Failed> {
        self.run(self.request("POST", path, headers, body)?)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Result<Value, Failed> {
        self.run(self.request("DELETE", path, &[], Vec::new())?)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Result<Request<Vec<u8>>, Failed> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(body).map_err(|error| {
            Failed::new("can't make the request")
                .because(error)
                .hint("keys, attributes and content types are plain text")
        })
    }

    fn run(&self, request: Request<Vec<u8>>) -> Result<Value, Failed> {
        let sends = request.method() != "GET";
        let mut response = self.agent.run(request).map_err(|error| self.unreachable(error, sends))?;
        let body = self.read(&mut response, sends)?;
        let status = response.status();
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() && answer.is_object() {
            return Ok(answer);
        }
        match answer["detail"].as_str() {
            Some(detail) => {
                let failed = Failed::new(format!("{} ({})", detail, status.as_u16()));
                Err(match status.as_u16() {
                    401 => failed.hint(format!("put the token into {TOKEN_VARIABLE}, or into a file for --token-file")),
                    _ => failed,
                })
            }
            None => {
                Err(Failed::new(format!("{} answers, but not as a Linecook runtime does ({status})", self.address))
                    .hint("does another program listen there? `listen` in queue.toml sets the address"))
            }
        }
    }

    fn read(&self, response: &mut Response<Body>, sends: bool) -> Result<Vec<u8>, Failed> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        body.map_err(|error| self.unreachable(error, sends))
    }

    fn unreachable(&self, error: ureq::Error, sends: bool) -> Failed {
        let address = self.address;
        let nobody = match &error {
            ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            ureq::Error::Timeout(ureq::Timeout::Connect) | ureq::Error::ConnectionFailed => true,
            _ => false,
        };
        if nobody && let Some(errors) = &self.config_errors {
            return errors.clone().into();
        }
        if nobody {
            return Failed::new(format!(
                "no runtime answers at {address} (listen in queue.toml): is `linecook run` running?"
            ));
        }
        let cause: Box<dyn StdError + Send + Sync> = error.into();
        let failed = Failed::new(format!("the runtime at {address} did not answer in full")).because(cause);
        if sends {
            failed.hint("it may have done what it was asked to: look with `linecook status` before you repeat it")
        } else {
            failed.hint("the runtime's own log may say more")
        }
    }
}

/// Leads every name to the one address that there is.
#[derive(Debug)]
struct Fixed(SocketAddr);

impl Resolver for Fixed {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

/// Trusts the certificates of the runtime's own file, which may lead to its authority, and those of `ca_file`.
fn trust(tls: &config::TlsConfig, ca_file: Option<&Path>) -> Result<TlsConfig, Failed> {
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    for path in [Some(tls.files.cert.as_path()), ca_file].into_iter().flatten() {
        let pem = fs::read(path)
            .map_err(|error| Failed::new(format!("can't read the certificate {}", path.display())).because(error))?;
        for item in parse_pem(&pem).flatten() {
            if let PemItem::Certificate(certificate) = item {
                roots.push(certificate);
            }
        }
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(crypto::ring::default_provider()))
        .build())
}

/// From the file, or from the environment; none if neither has one.
fn token(context: &Context) -> Result<Option<String>, Failed> {
    let text = match &context.token_file {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| Failed::new(format!("can't read the token file {}", path.display())).because(error))?,
        None => match env::var(TOKEN_VARIABLE) {
            Ok(text) => text,
            Err(env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(Failed::new(format!("{TOKEN_VARIABLE} is no token")).because(error)),
        },
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let from = context.token_file.as_ref().map_or(TOKEN_VARIABLE.to_owned(), |path| path.display().to_string());
        return Err(Failed::new(format!("{from} holds no token")).hint("`linecook token new` makes one"));
    }
    Ok(Some(token.to_owned()))
}

/// A name as one part of a path.
pub fn path_segment(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(encode).collect()
}

/// Where a listener on every address is reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_over_loopback() {
        for (listen, at) in [
            ("127.0.0.1:7878", "127.0.0.1:7878"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), at);
        }
    }
}
