//! The client's end of a connection. A client may shut its sending side and still wait for its answer, so the server goes on
//! after that. A claim that waits must not: whoever has gone would get messages that nobody handles until their leases expire.

use std::future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The connection that a request came over; none where nobody knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer(Option<Arc<TcpStream>>);

impl Peer {
    pub(super) fn new(stream: &Arc<TcpStream>) -> Peer {
        Peer(Some(stream.clone()))
    }

    /// Ends when the client sends nothing more. If it has sent the next request already, it is still there.
    pub(super) async fn gone(&self) {
        if let Some(stream) = &self.0
            && !matches!(stream.peek(&mut [0]).await, Ok(1..))
        {
            return;
        }
        future::pending::<()>().await;
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Peer, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// A stream that others may look at while it is read and written.
#[derive(Debug)]
pub(super) struct Watched(pub(super) Arc<TcpStream>);

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &*self.0;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let room = buf.remaining();
            // Somebody else may have found out that it is not ready after all.
            let mut read = Err(io::ErrorKind::WouldBlock.into());
            // As tokio reads a stream of its own: what is less than there was room for was all there is, and saying so saves
            // the call that would find nothing. What arrives from now on is an event of its own.
            _ = stream.try_io(Interest::READABLE, || {
                read = stream.try_read_buf(buf);
                match read {
                    Ok(bytes) if 0 < bytes && bytes < room => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

/// What is copied rather than gathered by the system.
const SHORT_BYTES: usize = 512;

/// Puts pieces one after the other, if there is room for all of them.
fn gather<'t>(pieces: &[IoSlice<'_>], together: &'t mut [u8]) -> Option<&'t [u8]> {
    let mut bytes = 0;
    for piece in pieces {
        together.get_mut(bytes..bytes + piece.len())?.copy_from_slice(piece);
        bytes += piece.len();
    }
    Some(&together[..bytes])
}

impl Watched {
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The head and the body of a short answer: sending one piece costs the system less than gathering two.
        let mut together = [0; SHORT_BYTES];
        if let Some(bytes) = gather(bufs, &mut together) {
            return self.poll_with(cx, |stream| stream.try_write(bytes));
        }
        self.poll_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pieces_are_put_together_and_long_ones_are_left() {
        let mut together = [0; 4];
        let pieces = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd"), IoSlice::new(b"e")];
        assert_eq!(gather(&pieces[..3], &mut together), Some(&b"abcd"[..]));
        assert_eq!(gather(&pieces, &mut together), None);
    }
}
