//! A small HTTP server on a free loopback port, in the clear or over TLS with a certificate of its own authority.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto};

/// Answers until the test ends:
///
/// | path | answer |
/// | --- | --- |
/// | `/echo` | 200; a line with method, path and `Host`, then the body of the request |
/// | `/redirect?URL` | 302 to the URL |
/// | `/large` | 200; 512 KiB of `x`, without a length |
/// | `/slow` | nothing, for a minute |
/// | anything else | 404 |
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

/// A certificate for `localhost` and 127.0.0.1, and the authority that signed it.
pub(crate) struct Authority {
    pem: String,
    tls: Arc<ServerConfig>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        Authority { pem: authority.pem(), tls: Arc::new(tls) }
    }

    /// Writes the authority's own certificate to a file.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }
}

impl Web {
    /// In the clear.
    pub(crate) fn http() -> Web {
        Web::start(None)
    }

    /// Over TLS.
    pub(crate) fn https(authority: &Authority) -> Web {
        Web::start(Some(authority.tls.clone()))
    }

    fn start(tls: Option<Arc<ServerConfig>>) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web =
            Web { address: listener.local_addr().unwrap(), requests: Arc::default(), connections: Arc::default() };
        let (requests, connections) = (web.requests.clone(), web.connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, tls) = (requests.clone(), tls.clone());
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    match tls {
                        Some(tls) => serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &requests),
                        None => serve(stream, &requests),
                    }
                });
            }
        });
        web
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Requests that were received so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// One request. The client may go at any time.
fn serve(stream: impl Read + Write, requests: &AtomicUsize) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.trim().is_empty() => break,
            Ok(_) => head.push(line.trim().to_owned()),
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let field = |name: &str| {
        head.iter()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
    };
    let body = match field("content-length") {
        Some(length) => read_some(&mut stream, length.parse().unwrap()),
        None if field("transfer-encoding").is_some() => read_chunks(&mut stream),
        None => Vec::new(),
    };
    let request = head[0].clone();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, location, answer) = match path.split_once('?').unwrap_or((path, "")) {
        ("/echo", _) => {
            let line = request.strip_suffix(" HTTP/1.1").unwrap_or(&request);
            let host = field("host").unwrap_or_default();
            (200, None, [format!("{line} {host}\n").into_bytes(), body].concat())
        }
        ("/redirect", to) => (302, Some(to.to_owned()), Vec::new()),
        ("/large", _) => (200, None, vec![b'x'; 512 << 10]),
        ("/slow", _) => {
            thread::sleep(Duration::from_secs(60));
            return;
        }
        _ => (404, None, Vec::new()),
    };
    let location = location.map_or(String::new(), |to| format!("location: {to}\r\n"));
    let length = if path == "/large" { String::new() } else { format!("content-length: {}\r\n", answer.len()) };
    let stream = stream.get_mut();
    _ = write!(stream, "HTTP/1.1 {status} Status\r\n{location}{length}connection: close\r\n\r\n")
        .and_then(|()| stream.write_all(&answer))
        .and_then(|()| stream.flush());
}

fn read_some(stream: &mut impl BufRead, length: u64) -> Vec<u8> {
    let mut body = Vec::new();
    _ = stream.take(length).read_to_end(&mut body);
    body
}

fn read_chunks(stream: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut length = String::new();
        if stream.read_line(&mut length).is_err() {
            return body;
        }
        let Ok(length) = u64::from_str_radix(length.trim(), 16) else { return body };
        let mut chunk = Vec::new();
        if stream.take(length + 2).read_to_end(&mut chunk).is_err() || length == 0 {
            return body;
        }
        chunk.truncate(length as usize);
        body.extend(chunk);
    }
}
