//! Writing frames: gathered, flushed together, and given up when the client takes nothing.

use std::{pin::pin, task::Poll, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{SinkExt, stream::SplitSink};
use haltline_common::types::feed::{Bye, ServerFrame, close};
use tokio_util::sync::CancellationToken;

use super::frames;

/// A client that takes nothing for this long is closed.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// A goodbye must not hold up the end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is gone.
    Gone,
    /// Close with this code and reason.
    Close(u16, &'static str),
    /// The gateway stops.
    Stop,
}

/// The writing half of a socket.
pub(super) struct Writer {
    sink: SplitSink<WebSocket, Message>,
    stop: CancellationToken,
}

impl Writer {
    /// Around a socket.
    pub fn new(sink: SplitSink<WebSocket, Message>, stop: CancellationToken) -> Self {
        Self { sink, stop }
    }

    /// Puts a frame into the socket's buffer, which is written out when it is full.
    pub async fn feed(&mut self, frame: String) -> Result<(), End> {
        bounded(&self.stop, self.sink.feed(Message::Text(frame.into()))).await
    }

    /// Writes the buffer out.
    pub async fn flush(&mut self) -> Result<(), End> {
        bounded(&self.stop, self.sink.flush()).await
    }

    /// Says goodbye, as far as the client still listens.
    pub async fn close(mut self, end: End) {
        let goodbye = async {
            let (code, reason) = match end {
                End::Gone => return,
                End::Close(code, reason) => (code, reason),
                End::Stop => (close::SHUTDOWN, "shutdown"),
            };
            let again = close::again(code);
            let bye = Bye { code, reason: reason.into(), reconnect: again, after_ms: again.then(reconnect_after) };
            if self.sink.feed(Message::Text(frames::text(&ServerFrame::Bye(bye)).into())).await.is_err() {
                return;
            }
            let _ = self.sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        };
        // A client that takes nothing is left to its fate.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

async fn bounded(stop: &CancellationToken, write: impl Future<Output = Result<(), axum::Error>>) -> Result<(), End> {
    let mut write = pin!(write);
    // Mostly there is room: then neither timer nor anything else is needed.
    if let Poll::Ready(outcome) = futures_util::poll!(&mut write) {
        return outcome.map_err(|_| End::Gone);
    }
    tokio::select! {
        biased;
        outcome = tokio::time::timeout(STALLED_AFTER, write) => match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Close(close::SLOW, "no progress for 30 s")),
        },
        () = stop.cancelled() => Err(End::Stop),
    }
}

/// Milliseconds to wait before reconnecting: spread, so that not everyone comes at once.
fn reconnect_after() -> u64 {
    500 + (uuid::Uuid::new_v4().as_u128() % 2500) as u64
}
