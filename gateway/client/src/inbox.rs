//! One subscription for every answer this client waits for: a subscription per request would cost
//! two more protocol lines and a server-side entry each.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use haltline_common::Link;
use tokio_util::task::AbortOnDropHandle;

use crate::{ApiError, unavailable};

/// Who waits, by number; `None` once the connection is closed.
type Waiters = Mutex<Option<HashMap<u64, Arc<Mutex<Slot>>>>>;

/// What a ticket has been told last: of an acceptance and the end, the end is all that counts.
#[derive(Default)]
struct Slot {
    told: Option<Message>,
    waiting: Option<Waker>,
    closed: bool,
}

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
    number: u64,
    slot: Arc<Mutex<Slot>>,
    waiters: Arc<Waiters>,
}

impl Inbox {
    /// Subscribes.
    pub async fn open(link: &Link) -> Result<Self, ApiError> {
        let prefix = link.client.new_inbox();
        let messages = link.client.subscribe(format!("{prefix}.*")).await.map_err(unavailable)?;
        let waiters: Arc<Waiters> = Arc::new(Mutex::new(Some(HashMap::new())));
        let task = AbortOnDropHandle::new(tokio::spawn(distribute(messages, prefix.len() + 1, waiters.clone())));
        Ok(Self { prefix, next: AtomicU64::new(0), waiters, _task: task })
    }

    /// A new subject to wait on.
    pub fn ticket(&self) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::<Mutex<Slot>>::default();
        match &mut *lock(&self.waiters) {
            Some(waiters) => drop(waiters.insert(number, slot.clone())),
            None => lock(&slot).closed = true,
        }
        Ticket { subject: format!("{}.{number}", self.prefix), number, slot, waiters: self.waiters.clone() }
    }
}

impl Ticket {
    /// What was told last, and not taken yet; `None` once the connection is closed. Cancel safe.
    pub async fn told(&self) -> Option<Message> {
        poll_fn(|cx| {
            let mut slot = lock(&self.slot);
            match slot.told.take() {
                None if !slot.closed => {
                    slot.waiting = Some(cx.waker().clone());
                    Poll::Pending
                }
                told => Poll::Ready(told),
            }
        })
        .await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(waiters) = &mut *lock(&self.waiters) {
            waiters.remove(&self.number);
        }
    }
}

/// Nothing that holds a lock can panic half-way through a change, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn distribute(mut messages: Subscriber, skip: usize, waiters: Arc<Waiters>) {
    while let Some(message) = messages.next().await {
        let number = message.subject.get(skip..).and_then(|n| n.parse::<u64>().ok());
        let slot = number.and_then(|n| lock(&waiters).as_ref()?.get(&n).cloned());
        if let Some(slot) = slot {
            tell(&slot, |slot| slot.told = Some(message));
        }
    }
    for slot in lock(&waiters).take().into_iter().flatten().map(|(_, slot)| slot) {
        tell(&slot, |slot| slot.closed = true);
    }
}

fn tell(slot: &Mutex<Slot>, what: impl FnOnce(&mut Slot)) {
    let mut slot = lock(slot);
    what(&mut slot);
    let waiting = slot.waiting.take();
    drop(slot);
    if let Some(waker) = waiting {
        waker.wake();
    }
}
