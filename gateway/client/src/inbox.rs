//! One subscription for every answer this client waits for: a subscription per request would cost
//! two more protocol lines and a server-side entry each.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use haltline_common::Link;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::{ApiError, unavailable};

type Waiters = Mutex<HashMap<u64, oneshot::Sender<Message>>>;

/// The subscription and who waits on it.
pub(crate) struct Inbox {
    prefix: String,
    next: AtomicU64,
    waiters: Arc<Waiters>,
    _task: AbortOnDropHandle<()>,
}

/// A subject that is answered once, and the wait for it. Dropping it ends the wait.
pub(crate) struct Ticket {
    /// Where the answer is to be sent.
    pub subject: String,
    /// The answer.
    pub answer: oneshot::Receiver<Message>,
    number: u64,
    waiters: Arc<Waiters>,
}

impl Inbox {
    /// Subscribes.
    pub async fn open(link: &Link) -> Result<Self, ApiError> {
        let prefix = link.client.new_inbox();
        let messages = link.client.subscribe(format!("{prefix}.*")).await.map_err(unavailable)?;
        let waiters = Arc::new(Waiters::default());
        let task = AbortOnDropHandle::new(tokio::spawn(distribute(messages, prefix.len() + 1, waiters.clone())));
        Ok(Self { prefix, next: AtomicU64::new(0), waiters, _task: task })
    }

    /// A new subject to wait on.
    pub fn ticket(&self) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.waiters).insert(number, sender);
        Ticket { subject: format!("{}.{number}", self.prefix), answer, number, waiters: self.waiters.clone() }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.waiters).remove(&self.number);
    }
}

/// Nothing that holds the lock can panic half-way through a change, so a poisoned map is still whole.
fn lock(waiters: &Waiters) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Message>>> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn distribute(mut messages: Subscriber, skip: usize, waiters: Arc<Waiters>) {
    while let Some(message) = messages.next().await {
        let number = message.subject.get(skip..).and_then(|n| n.parse::<u64>().ok());
        let waiter = number.and_then(|n| lock(&waiters).remove(&n));
        if let Some(waiter) = waiter {
            let _ = waiter.send(message); // it may have given up just now
        }
    }
}
