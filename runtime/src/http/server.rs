//! Connections: how many, how long, and how they end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::limits::{CONNECTIONS_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, Timeouts};
use super::{App, router};

/// Serves until `shutdown` resolves; then stops accepting and lets running requests finish, within
/// [`Timeouts::shutdown`].
///
/// # Errors
/// The listener does not work. A connection that breaks is its client's affair.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_with(listener, app, Timeouts::default(), shutdown).await
}

/// As [`serve`], with other timeouts.
///
/// # Errors
/// The listener does not work.
pub async fn serve_with(
    listener: TcpListener,
    app: App,
    timeouts: Timeouts,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // A listener that has no address never accepts: say so now.
    listener.local_addr()?;
    let router = router(app, timeouts);
    let http = protocol(timeouts);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(connections_max()));
    // Dropping the set, also when this future is dropped, ends what is left in it.
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // The place first: a connection that nobody serves is better left in the backlog.
        let accept = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            accepted = accept => accepted,
            // Takes the results of ended connections out of the set.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = &mut shutdown => break,
        };
        let connection = http.serve_connection(TokioIo::new(stream), service(&router));
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
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
    CONNECTIONS_MAX.min(files / 4).max(CONNECTIONS_MIN)
}

fn service(router: &Router) -> TowerToHyperService<Router> {
    TowerToHyperService::new(router.clone())
}

/// HTTP/1.1 with its limits. They are twice what `headers::check_size` allows, so that whoever is a little over gets an
/// explanation, and whoever is far over gets a bare 431.
fn protocol(timeouts: Timeouts) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(timeouts.headers)
        .max_headers(2 * HEADERS_MAX)
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

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
