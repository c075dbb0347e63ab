//! Connections: how many, how long, and how they end.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

#[cfg(target_os = "linux")]
use super::limits::UNREAD_PATIENCE;
use super::limits::{CONNECTIONS_MAX, HEADERS_BYTES_MAX, Timeouts};
use super::peer::{Peer, Watched};
use super::problem::Problem;
use super::router::{Answer, Router};
use super::timer::HeadersTimer;
use super::tls::Tls;
use super::{App, Shared, headers, origin};

/// Serves until `shutdown` resolves; then stops accepting and lets running requests finish, within
/// [`Timeouts::shutdown`].
///
/// # Errors
/// The listener does not work. A connection that breaks is its client's affair.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_with(listener, app, None, Timeouts::default(), shutdown).await
}

/// As [`serve`], over TLS if there is a certificate, and with other timeouts.
///
/// # Errors
/// The listener does not work.
pub async fn serve_with(
    listener: TcpListener,
    app: App,
    tls: Option<Arc<Tls>>,
    timeouts: Timeouts,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // A listener that has no address never accepts: say so now.
    listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let shared = Shared::new(app, timeouts, stopping);
    let router = Arc::new(Router::new(shared.clone()));
    let http = protocol(timeouts);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(connections_max()));
    // Dropping the set, also when this future is dropped, ends what is left in it.
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            // Takes the results of ended connections out of the set.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = &mut shutdown => break,
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            refuse(&stream, tls.is_some());
            continue;
        };
        let stream = Arc::new(stream);
        let service = Answering { shared: shared.clone(), router: router.clone(), peer: Peer::new(&stream) };
        let (mut http, watcher, stream) = (http.clone(), graceful.watcher(), Watched(stream));
        http.timer(HeadersTimer::default());
        match tls.as_ref().map(|tls| tls.acceptor()) {
            None => {
                let connection = http.serve_connection(TokioIo::new(stream), service);
                connections.spawn(end(place, watcher.watch(connection)));
            }
            Some(acceptor) => {
                connections.spawn(async move {
                    match tokio::time::timeout(timeouts.headers, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let connection = http.serve_connection(TokioIo::new(stream), service);
                            end(place, watcher.watch(connection)).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                });
            }
        }
    }
    // Claims that wait for messages end now, without any.
    stop.send_replace(true);
    drop(listener);
    if tokio::time::timeout(timeouts.shutdown, graceful.shutdown()).await.is_err() {
        tracing::warn!("stopped with {} HTTP requests that did not end in time", connections.len());
    }
    Ok(())
}

/// Of the files that the process may open, the queues and the consumers must find some, whatever clients do.
fn connections_max() -> usize {
    use rustix::process::{Resource, getrlimit};
    const CONNECTIONS_MIN: usize = 16;
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
    CONNECTIONS_MAX.min(files / 2).max(CONNECTIONS_MIN)
}

/// Answers the requests of one connection.
struct Answering {
    shared: Shared,
    router: Arc<Router>,
    /// Each request knows the connection that it came over.
    peer: Peer,
}

impl Answering {
    /// What is checked of every request, wherever it goes.
    fn check(&self, request: &Request<Incoming>) -> Result<(), Problem> {
        headers::check_size(request.headers())?;
        origin::check(&self.shared, request.uri().path(), request.headers())
    }
}

impl Service<Request<Incoming>> for Answering {
    type Response = Response;
    type Error = Infallible;
    type Future = Whole;

    fn call(&self, request: Request<Incoming>) -> Whole {
        Whole(match self.check(&request) {
            Ok(()) => self.router.answer(request.map(Body::new), &self.peer),
            Err(problem) => Box::pin(async { problem.into_response() }),
        })
    }
}

/// An answer as hyper wants it: it never fails.
struct Whole(Answer);

impl Future for Whole {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

/// A connection until its end; `_place` is free then.
async fn end<E: std::fmt::Display>(_place: OwnedSemaphorePermit, connection: impl Future<Output = Result<(), E>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// There are as many connections as there may be: says so, as far as it can be said without waiting. A client that wants to
/// speak TLS first is left with a closed connection.
fn refuse(stream: &TcpStream, tls: bool) {
    if tls {
        return;
    }
    let body = "{\"type\":\"urn:linecook:problem:busy\",\"title\":\"Too much at once\",\"status\":503,\
                \"detail\":\"there are too many connections; close some, or try again in a second\"}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {}\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        super::problem::CONTENT_TYPE,
        body.len()
    );
    // The socket is new, so there is room for this in its buffer.
    _ = stream.try_write(answer.as_bytes());
}

/// HTTP/1.1 with its limits. They are beyond what `headers::check_size` allows, so that whoever is a little over gets an
/// explanation, and whoever is far over gets a bare 431. The number of headers has hyper's own limit, 100: for any other
/// that is set it allocates the room for all of them for each request.
fn protocol(timeouts: Timeouts) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(timeouts.headers)
        .max_buf_size(2 * HEADERS_BYTES_MAX)
        // A client that has shut its sending side still waits for its answer (`… | nc`).
        .half_close(true);
    http
}

/// The next connection. Errors of accepting are those of a single connection, or pass (no file descriptors left).
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and whole: waiting to fill a packet only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection closed at once");
                }
                cut_off_later(&stream);
                return stream;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept HTTP connections; trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Lets the system end the connection of a client that takes nothing any more, so that the answer that waits for it does not
/// stay in memory. A client that reads, however slowly, is not meant.
fn cut_off_later(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_PATIENCE.as_millis() as u32) {
        tracing::debug!(%error, "a connection that is not read will not be cut off");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
