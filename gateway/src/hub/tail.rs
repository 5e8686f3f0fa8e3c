//! Fills the ring from the log's tail.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use haltline_common::{
    js, metrics,
    retry::Reconnect,
    tail::{Item, Options, Start, Tail},
    types::Names,
};

use super::{Head, Hub, LogEvent, stored};

/// Messages read back at the start, so that a restarted gateway can replay from memory at once.
const PREFILL: u64 = 2000;
/// Items taken under one lock.
const BATCH: usize = 512;

/// Follows the log for ever.
pub(super) async fn follow(hub: Arc<Hub>) {
    let stream = hub.link.names.events_stream();
    let mut delays = Reconnect::new(Duration::from_secs(1));
    let state = loop {
        match js::stream_info(&hub.link, &stream).await {
            Ok(info) => break info.state,
            Err(e) => tracing::warn!(stream, error = %e, "cannot read the log's state yet"),
        }
        tokio::time::sleep(delays.next_delay()).await;
    };
    let before = state.last_seq.saturating_sub(PREFILL).max(state.first_seq.saturating_sub(1));
    write(&hub, |ring| ring.begin(before, false));
    let options = Options {
        stream,
        filter: String::new(), // everything, so that a hole is seen
        start: Start::Seq(before + 1),
        heartbeat: Duration::from_secs(1),
        buffer: 4096,
        reader: "gateway_events".into(),
        headers_only: false,
    };
    let mut tail = Tail::start(&hub.link, options);
    let _ = hub.health.set(tail.health());
    let mut items = Vec::with_capacity(BATCH);
    let mut read = Vec::with_capacity(BATCH);
    while tail.next_many(&mut items, BATCH).await > 0 {
        let mut ready = false;
        // Parsed before the lock is taken: readers hold it for microseconds.
        for item in items.drain(..) {
            match item {
                Item::Message(m) => {
                    let event = if Names::is_command(&m.subject) { None } else { stored::read(m.seq, &m.payload) };
                    read.push(Step::Message(m.seq, event));
                }
                Item::Reset => {
                    tracing::error!("the log's stream was recreated: clients are told, reading starts over");
                    read.push(Step::Reset);
                }
                Item::CaughtUp { .. } => ready = true,
                Item::Lost { reason, .. } => {
                    tracing::warn!(reason, "the tail of the log is interrupted; live events wait until it is back")
                }
            }
        }
        let head = write(&hub, |ring| {
            for step in read.drain(..) {
                match step {
                    Step::Message(seq, event) => ring.push(seq, event),
                    Step::Reset => ring.begin(0, true),
                }
            }
            Head { epoch: ring.epoch(), seq: ring.head() }
        });
        metrics::TAIL_SEQ.set(head.seq);
        if ready {
            hub.ready.store(true, Ordering::Release);
        }
        hub.head.send_if_modified(|old| std::mem::replace(old, head) != head || ready);
    }
}

enum Step {
    Message(u64, Option<LogEvent>),
    Reset,
}

fn write<T>(hub: &Hub, change: impl FnOnce(&mut super::ring::Ring) -> T) -> T {
    change(&mut hub.ring.write().unwrap_or_else(PoisonError::into_inner))
}
