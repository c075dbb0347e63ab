//! One HTTP/1.1 request over a connection of its own, to an address that was checked: the name is resolved once, and what
//! it resolved to is what is connected to.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, fs, io};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use crate::config::{Host, Hosts, HttpGrant, Scheme};
use crate::sandbox::grants::{Access, is_public};

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
    /// Which addresses it may have.
    pub(super) reach: Reach,
}

/// How far the grants of a target go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// To whatever address the host has: it is granted by its very name or address.
    Anywhere,
    /// To public addresses, as it is granted by a `*`, and to those that are granted by themselves.
    Public {
        /// The latter.
        and: Vec<IpAddr>,
    },
}

impl Reach {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Reach::Anywhere => true,
            Reach::Public { and } => is_public(address) || and.contains(&address.to_canonical()),
        }
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Refused {
    /// The host has private addresses only, and may not be called there.
    Private,
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Failed(error)
    }
}

impl Target {
    /// What grants it, as in `queue.toml`.
    pub(super) fn grant(&self) -> String {
        grant(self.scheme, &self.host, self.port)
    }
}

/// What grants a server, as in `queue.toml`.
pub(super) fn grant(scheme: Scheme, host: &Host, port: u16) -> String {
    HttpGrant { scheme, hosts: Hosts::One(host.clone()), port }.to_string()
}

/// How HTTPS is spoken.
pub(in crate::sandbox) fn tls_config(ca_file: Option<&Path>) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    Ok(config)
}

/// Who HTTPS trusts: the roots of Mozilla's program, and the certificates of a file in PEM.
fn roots(ca_file: Option<&Path>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    if let Some(path) = ca_file {
        let refuse = |error: &dyn fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("ca_file {}: {error}", path.display()))
        };
        let pem = fs::read(path).map_err(|error| refuse(&error))?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|error| refuse(&error))?).map_err(|error| refuse(&error))?;
        }
        if roots.len() == before {
            return Err(refuse(&"there is no certificate in it"));
        }
    }
    Ok(roots)
}

/// Sends a request. `connection` is kept until its connection is closed.
pub(super) async fn send(
    target: &Target,
    request: Request<WasiBody>,
    options: RequestOptions,
    access: &Access,
    connection: Arc<()>,
) -> Result<Response<WasiBody>, Refused> {
    let connected = within(options.connect_timeout, Error::ConnectionTimeout, async {
        let stream = connect(target, &access.lookups).await?;
        match target.scheme {
            Scheme::Http => Ok::<_, Refused>(Stream::Plain(stream)),
            Scheme::Https => {
                let tls = TlsConnector::from(access.tls.clone()).connect(server_name(&target.host)?, stream).await;
                Ok(Stream::Tls(Box::new(tls.map_err(tls_error)?)))
            }
        }
    });
    let exchanged = match connected.await? {
        Stream::Plain(stream) => exchange(stream, request, options, connection).await,
        Stream::Tls(stream) => exchange(*stream, request, options, connection).await,
    };
    Ok(exchanged?)
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Waits for up to as long as the guest has asked for; what is longer, the timeout of the delivery cuts off.
async fn within<T, E: From<Error>>(
    limit: Option<Duration>,
    late: Error,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(late.into())),
        None => work.await,
    }
}

/// The addresses of a name. The system's resolver holds a thread for as long as it takes, whether or not anybody waits for
/// it any more: so the permit is kept until it has come back, and slow names can't take all threads.
pub(super) async fn look_up(name: &str, port: u16, lookups: &Arc<Semaphore>) -> io::Result<Vec<SocketAddr>> {
    let permit = lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
    let name = name.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(permit);
        found
    });
    found.await.map_err(io::Error::other)?
}

async fn connect(target: &Target, lookups: &Arc<Semaphore>) -> Result<TcpStream, Refused> {
    let addresses = match &target.host {
        Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
        Host::Name(name) => {
            let found = look_up(name, target.port, lookups).await;
            found.map_err(|_| Error::DnsError {
                rcode: Some("the name can't be resolved".to_owned()),
                info_code: None,
            })?
        }
    };
    if addresses.is_empty() {
        return Err(Error::DestinationNotFound.into());
    }
    let allowed: Vec<_> = addresses.into_iter().filter(|address| target.reach.contains(address.ip())).collect();
    if allowed.is_empty() {
        return Err(Refused::Private);
    }
    let stream = TcpStream::connect(allowed.as_slice()).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationUnavailable,
        _ => Error::ConnectionRefused,
    })?;
    // A request is written in a few pieces; waiting for more of them would delay the last.
    _ = stream.set_nodelay(true);
    Ok(stream)
}

fn server_name(host: &Host) -> Result<ServerName<'static>, Error> {
    match host {
        Host::Address(address) => Ok(ServerName::from(*address)),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid),
    }
}

fn tls_error(error: io::Error) -> Error {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: Some(format!("{alert:?}")) }
        }
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}

async fn exchange<S>(
    stream: S,
    mut request: Request<WasiBody>,
    options: RequestOptions,
    connection: Arc<()>,
) -> Result<Response<WasiBody>, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // How it ends, the response or its body says.
    let driver = spawn(async move {
        _ = driver.await;
        drop(connection);
    });
    // Only a proxy wants to hear the whole of it.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let answered = async { sender.send_request(request).await.map_err(Error::from) };
    let response = within(options.first_byte_timeout, Error::ConnectionReadTimeout, answered).await?;
    Ok(response.map(|incoming| {
        let patience = options.between_bytes_timeout.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        ResponseBody { incoming, patience, _driver: driver }.boxed_unsync()
    }))
}

/// The body of a response. Its connection lives as long.
struct ResponseBody {
    incoming: Incoming,
    /// How long to wait between two frames, and until when for the next.
    patience: Option<(Duration, Pin<Box<Sleep>>)>,
    _driver: AbortOnDropJoinHandle<()>,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some((limit, until)) = &mut this.patience {
                    until.as_mut().reset(Instant::now() + *limit);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => match &mut this.patience {
                Some((_, until)) => {
                    ready!(until.as_mut().poll(cx));
                    Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
                }
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(roots: &RootCertStore) -> Vec<String> {
        roots.roots.iter().map(|root| String::from_utf8_lossy(&root.subject).into_owned()).collect()
    }

    #[test]
    fn without_a_file_the_public_roots_are_trusted() {
        let subjects = subjects(&roots(None).unwrap());
        assert!(subjects.len() >= 100, "{}", subjects.len());
        for name in ["ISRG Root X1", "ISRG Root X2", "DigiCert Global Root G2", "GTS Root R1", "Amazon Root CA 1"] {
            assert!(subjects.iter().any(|subject| subject.contains(name)), "{name} is not among {subjects:?}");
        }
        assert!(!subjects.iter().any(|subject| subject.contains("Linecook")));
    }

    #[test]
    fn the_certificates_of_a_file_are_trusted_beside_them() {
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "Linecook's own");
        let authority = authority.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        fs::write(&file, authority.pem()).unwrap();
        let (alone, with) = (subjects(&roots(None).unwrap()), subjects(&roots(Some(&file)).unwrap()));
        assert_eq!(with[..alone.len()], alone);
        assert!(
            with[alone.len()].contains("Linecook's own") && with.len() == alone.len() + 1,
            "{:?}",
            &with[alone.len()..]
        );
    }
}
