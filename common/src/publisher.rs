//! An [`Outbox`] that many tasks share: each awaits the answer to its own write.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Link,
    outbox::{Outbox, Stored, Write, WriteError},
};

/// Writes waiting to be sent; writers beyond it wait their turn.
const QUEUE_MAX: usize = 4096;

type Answer = oneshot::Sender<Result<Stored, WriteError>>;

/// Handle to a shared outbox. Cheap to clone; the outbox ends with the last handle.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::Sender<(Write, Answer)>,
}

impl Publisher {
    /// Starts the task that owns the outbox.
    pub async fn start(link: &Link) -> Result<Self, async_nats::SubscribeError> {
        let mut outbox = Outbox::<Answer>::open(link).await?;
        let (queue, mut incoming) = mpsc::channel::<(Write, Answer)>(QUEUE_MAX);
        tokio::spawn(async move {
            let mut open = true;
            while open || !outbox.is_empty() {
                tokio::select! {
                    biased;
                    (answer, outcome) = outbox.next(), if !outbox.is_empty() => {
                        let _ = answer.send(outcome); // the writer may have gone
                        while let Some((answer, outcome)) = outbox.next().now_or_never() {
                            let _ = answer.send(outcome);
                        }
                    }
                    next = incoming.recv(), if open => match next {
                        Some((write, answer)) => {
                            outbox.send(answer, write).await;
                            // What came with it leaves with it.
                            while let Ok((write, answer)) = incoming.try_recv() {
                                outbox.send(answer, write).await;
                            }
                            outbox.flush().await;
                        }
                        None => open = false,
                    },
                }
            }
        });
        Ok(Self { queue })
    }

    /// Queues a write, in order; the receipt resolves with the server's answer. Returns once the write
    /// is queued, so that several can be pipelined.
    pub async fn send(&self, write: Write) -> Receipt {
        let (answer, outcome) = oneshot::channel();
        // If it cannot be queued, `answer` is dropped, and the receipt says so.
        let _ = self.queue.send((write, answer)).await;
        Receipt(outcome)
    }

    /// Sends a write and awaits its answer.
    pub async fn write(&self, write: Write) -> Result<Stored, WriteError> {
        self.send(write).await.await
    }
}

/// Resolves with the answer to a write.
pub struct Receipt(oneshot::Receiver<Result<Stored, WriteError>>);

impl Future for Receipt {
    type Output = Result<Stored, WriteError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|answered| answered.unwrap_or(Err(WriteError::Closed)))
    }
}
