//! The HTTP API on a free port of the loopback interface, with a broker in memory behind it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use linecook::http::limits::Timeouts;
use linecook::http::{App, serve_with};
use linecook::status::Board;
use linecook::subjects::Subjects;
use tokio::sync::oneshot;

use crate::fake_broker::FakeBroker;

/// A server that stops when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) board: Arc<Board>,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<()>>,
}

impl Server {
    /// With the queues `signups`, `images` and `signups.dead`.
    pub(crate) fn start() -> Server {
        Server::with(Timeouts::default())
    }

    /// As `start`, with other timeouts.
    pub(crate) fn with(timeouts: Timeouts) -> Server {
        let broker = Arc::new(FakeBroker::new(&["signups", "images", "signups.dead"]));
        let board = Arc::new(Board::default());
        let (stop, stopped) = oneshot::channel();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let host_names = tokio::sync::watch::Sender::new(["x".to_owned()].into()).subscribe();
        let subjects = Arc::new(Subjects::default());
        let app = App {
            broker: Arc::clone(&broker) as _,
            board: Arc::clone(&board),
            webhooks: Arc::default(),
            subjects,
            auth: Arc::default(),
            host_names,
        };
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                serve_with(listener, app, None, timeouts, async { _ = stopped.await }).await.unwrap();
            });
        });
        Server { address, broker, board, stop: Some(stop), ended: Some(ended) }
    }

    /// Tells it to stop.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
    }

    /// Waits until it has stopped.
    pub(crate) fn wait(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if !std::thread::panicking() {
            self.wait();
        }
    }
}
