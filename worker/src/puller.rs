//! Pulls tasks of one type: never more than there are free slots for, with requests open at the
//! server so that a task arrives the moment it is stored.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use haltline_common::types::Names;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{flight::Flight, task};

/// How long the server keeps a request open.
const EXPIRES: Duration = Duration::from_secs(20);

/// How long handing back what was not started may take.
const HAND_BACK: Duration = Duration::from_secs(1);

/// Pulls until `flight.draining`.
pub async fn pull(flight: Arc<Flight>, kind: String, slots: usize, tracker: TaskTracker) {
    loop {
        let inbox = flight.link.client.new_inbox();
        match flight.link.client.subscribe(inbox.clone()).await {
            Ok(sub) => {
                let (finished_tx, finished) = mpsc::unbounded_channel();
                let puller = Puller {
                    flight: flight.clone(),
                    request: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", flight.link.names.tasks_stream(), Names::task_consumer(&kind)),
                    inbox,
                    slots,
                    credit: 0,
                    running: 0,
                    heard: Instant::now(),
                    reconnects: flight.link.reconnects(),
                    finished_tx,
                };
                puller.run(sub, finished, &tracker).await;
            }
            Err(e) => {
                tracing::warn!(kind, error = %e, "cannot subscribe; trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        if flight.draining.is_cancelled() {
            return;
        }
    }
}

struct Puller {
    flight: Arc<Flight>,
    request: String,
    inbox: String,
    slots: usize,
    /// Tasks asked for that have not come.
    credit: usize,
    running: usize,
    heard: Instant,
    reconnects: u64,
    /// Bounded by the number of running tasks.
    finished_tx: mpsc::UnboundedSender<()>,
}

impl Puller {
    async fn run(mut self, mut sub: Subscriber, mut finished: mpsc::UnboundedReceiver<()>, tracker: &TaskTracker) {
        let draining: CancellationToken = self.flight.draining.clone();
        let mut look = tokio::time::interval(Duration::from_millis(500));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.ask().await;
            tokio::select! {
                () = draining.cancelled() => break,
                message = sub.next() => {
                    let Some(message) = message else { return };
                    self.heard = Instant::now();
                    self.take(message, tracker);
                }
                Some(()) = finished.recv() => self.running = self.running.saturating_sub(1),
                _ = look.tick() => {
                    let reconnects = self.flight.link.reconnects();
                    if reconnects != self.reconnects || self.heard.elapsed() > EXPIRES + Duration::from_secs(5) {
                        // The server forgot our requests, or its answer was lost: ask anew.
                        self.reconnects = reconnects;
                        self.credit = 0;
                        self.heard = Instant::now();
                    }
                }
            }
        }
        // What was sent to us in the meantime goes back at once.
        let hand_back = async {
            let _ = sub.unsubscribe().await;
            while let Some(message) = sub.next().await {
                if let Some(reply) = message.reply.filter(|_| message.status.is_none()) {
                    let _ = self.flight.link.client.publish(reply, "-NAK".into()).await;
                }
            }
        };
        // Without a connection nobody ends the subscription.
        let _ = tokio::time::timeout(HAND_BACK, hand_back).await;
    }

    /// Asks for what fits, in few requests: only once a quarter of the slots is free.
    async fn ask(&mut self) {
        let free = self.slots.saturating_sub(self.running + self.credit);
        if free == 0 || (free < self.slots.div_ceil(4) && self.credit > 0) {
            return;
        }
        let body = json!({ "batch": free, "expires": EXPIRES.as_nanos() as u64 }).to_string();
        let client = &self.flight.link.client;
        if client.publish_with_reply(self.request.clone(), self.inbox.clone(), body.into()).await.is_ok() {
            self.credit += free;
        }
    }

    fn take(&mut self, message: Message, tracker: &TaskTracker) {
        if let Some(status) = message.status {
            // The end of a request: it says how much of it was not used.
            let unused = message
                .headers
                .as_ref()
                .and_then(|h| h.get("Nats-Pending-Messages"))
                .and_then(|v| v.as_str().parse::<usize>().ok())
                .unwrap_or(self.credit);
            self.credit = self.credit.saturating_sub(unused);
            if !matches!(status.as_u16(), 404 | 408) {
                tracing::debug!(status = status.as_u16(), description = message.description, "pull request ended");
            }
            return;
        }
        self.credit = self.credit.saturating_sub(1);
        self.running += 1;
        let (flight, finished) = (self.flight.clone(), self.finished_tx.clone());
        // Boxed: spawning moves a future about, and this one has some kilobytes.
        let work = Box::pin(task::run(flight, message));
        tracker.spawn(async move {
            work.await;
            let _ = finished.send(());
        });
    }
}
