//! One subscription for every answer this client waits for: a subscription per request would cost
//! two more protocol lines and a server-side entry each.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use haltline_common::Link;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{ApiError, unavailable};

/// Who waits, by number. What was told last counts: of an acceptance and the end, the end is all that does.
type Waiters = Mutex<HashMap<u64, watch::Sender<Option<Message>>>>;

/// The subscription and who waits on it.
pub(crate) struct Inbox {
    prefix: String,
    next: AtomicU64,
    waiters: Arc<Waiters>,
    _task: AbortOnDropHandle<()>,
}

/// A subject for answers, and the wait for them. Dropping it ends the wait.
pub(crate) struct Ticket {
    /// Where answers are to be sent.
    pub subject: String,
    told: watch::Receiver<Option<Message>>,
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
        let (sender, told) = watch::channel(None);
        lock(&self.waiters).insert(number, sender);
        Ticket { subject: format!("{}.{number}", self.prefix), told, number, waiters: self.waiters.clone() }
    }
}

impl Ticket {
    /// What was told last, and not taken yet; `None` once the connection is closed. Cancel safe.
    pub async fn told(&mut self) -> Option<Message> {
        self.told.changed().await.ok()?;
        self.told.borrow_and_update().clone()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.waiters).remove(&self.number);
    }
}

/// Nothing that holds the lock can panic half-way through a change, so a poisoned map is still whole.
fn lock(waiters: &Waiters) -> MutexGuard<'_, HashMap<u64, watch::Sender<Option<Message>>>> {
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn distribute(mut messages: Subscriber, skip: usize, waiters: Arc<Waiters>) {
    while let Some(message) = messages.next().await {
        let number = message.subject.get(skip..).and_then(|n| n.parse::<u64>().ok());
        if let Some(number) = number
            && let Some(waiter) = lock(&waiters).get(&number)
        {
            waiter.send_replace(Some(message));
        }
    }
    // The connection was closed: nobody is told any more.
    lock(&waiters).clear();
}
