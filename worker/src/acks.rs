//! Acknowledgements of finished tasks leave a little later, together: for the last task of a queue that is removed
//! nats-server begins a new file, which costs it a sixth of all that a short workflow does, and comes while the
//! coordinator waits for the result that was stored just before. With a later task in the queue it does not.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Client, Subject};
use haltline_common::fault;
use tokio::{sync::Notify, time::Instant};

/// How long one may wait: several times what a short workflow takes. What a worker that dies leaves unacknowledged
/// others read the log for, and find done.
const HOLD: Duration = Duration::from_millis(5);
/// So many leave at once, which bounds what a worker that dies leaves, whatever its rate.
const MOST: usize = 256;

/// Tasks of which all that they told is stored, not acknowledged yet.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Where the server hears of each.
    replies: Vec<Subject>,
    /// When they are to leave; none if there are none.
    due: Option<Instant>,
}

impl Acks {
    /// The lock is never held across anything that can panic or wait.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The delivery with `reply` is to be acknowledged.
    pub fn add(&self, reply: Subject) {
        let mut waiting = self.waiting();
        waiting.replies.push(reply);
        if waiting.replies.len() == MOST {
            waiting.due = Some(Instant::now());
        } else if waiting.due.is_none() {
            waiting.due = Some(Instant::now() + HOLD);
        } else {
            return;
        }
        self.changed.notify_one();
    }

    /// Waits until they are to leave.
    pub async fn due(&self) {
        loop {
            let due = self.waiting().due;
            let Some(due) = due else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                () = self.changed.notified() => {}
            }
        }
    }

    /// Sends all. What the server does not hear it gives to another worker, which finds it done.
    pub async fn send(&self, client: &Client) {
        let waiting = std::mem::take(&mut *self.waiting());
        for reply in waiting.replies {
            fault::point("worker.ack");
            let _ = client.publish(reply, "+ACK".into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_leave_together_after_a_while_or_once_they_are_many() {
        let acks = Arc::new(Acks::default());
        let began = Instant::now();
        let waits = tokio::spawn({
            let acks = acks.clone();
            async move { acks.due().await }
        });
        tokio::task::yield_now().await;
        acks.add("one".into());
        tokio::time::advance(HOLD / 2).await;
        acks.add("two".into());
        waits.await.expect("it does not panic");
        assert!(began.elapsed() >= HOLD && began.elapsed() < HOLD * 3 / 2, "the second one does not wait for as long again");
        assert_eq!(std::mem::take(&mut *acks.waiting()).replies.len(), 2);

        let mut due = pin!(acks.due());
        assert!(tokio::time::timeout(HOLD * 10, &mut due).await.is_err(), "none is there");
        let began = Instant::now();
        for _ in 0..MOST {
            acks.add("one of many".into());
        }
        due.await;
        assert!(began.elapsed() < HOLD);
    }
}
