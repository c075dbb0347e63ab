//! Talks to a running runtime over its HTTP API, at the address that `queue.toml` says.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use super::{Context, Failed};
use crate::config::{self, ConfigErrors};

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
    /// What is wrong with `queue.toml`. A runtime that was started before that can still be asked.
    config_errors: Option<ConfigErrors>,
}

impl Client {
    /// For the runtime that this `queue.toml` starts, or started before somebody edited it. Nothing is sent yet.
    pub fn new(context: &Context) -> Result<Client, Failed> {
        let (listen, config_errors) = match config::load(&context.config_path) {
            Ok(config) => (config.runtime.listen, None),
            Err(errors) => (config::address(&context.config_path)?, Some(errors)),
        };
        let config = Agent::config_builder()
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
        Ok(Client { agent: Agent::new_with_config(config), address: reachable(listen), config_errors })
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
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
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
            Some(detail) => Err(Failed::new(format!("{} ({})", detail, status.as_u16()))),
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
