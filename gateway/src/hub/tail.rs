//! Fills the ring from the log's tail.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use haltline_common::{
    js, metrics,
    retry::Reconnect,
    tail::{Item, Options, Start, Tail},
    types::feed::{Epoch, Reason},
};

use super::{
    Head, Hub,
    stored::{self, Stored},
    turns::Turns,
};

/// Messages read back at the start, so that clients who come back after a restart are served from
/// memory at once.
const PREFILL: u64 = 10_000;
/// Items taken under one lock.
const BATCH: usize = 512;

/// Follows the log for ever.
pub(super) async fn follow(hub: Arc<Hub>) {
    let stream = hub.link.names.events_stream();
    let mut delays = Reconnect::new(Duration::from_secs(1));
    let info = loop {
        match js::stream_info(&hub.link, &stream).await {
            Ok(info) => break info,
            Err(e) => tracing::warn!(stream, error = %e, "cannot read the log's state yet"),
        }
        tokio::time::sleep(delays.next_delay()).await;
    };
    let before = info.state.last_seq.saturating_sub(PREFILL).max(info.state.first_seq.saturating_sub(1));
    let mut epoch = Epoch::of(&stream, &info.created);
    write(&hub, |ring| ring.begin(before, epoch));
    let options = Options {
        stream: stream.clone(),
        filter: String::new(), // everything, so that a hole is seen
        start: Start::Seq(before + 1),
        heartbeat: Duration::from_secs(1),
        buffer: 4096,
        reader: "gateway_events".into(),
        headers_only: false,
    };
    let mut created = info.created;
    let mut tail = Tail::start_on(&hub.link, options.clone(), Some(created.clone()));
    hub.watch(tail.health());
    let mut items = Vec::with_capacity(BATCH);
    let mut steps = Vec::with_capacity(BATCH);
    let mut last = before;
    // Whether the stream may have lost its end since the last message, and used its sequences again.
    let mut doubtful = false;
    let mut turns = Turns::new();
    loop {
        tokio::select! {
            () = turns.come() => {
                turns.take(&hub.groups, *hub.head.borrow());
                continue;
            }
            got = tail.next_many(&mut items, BATCH) => if got == 0 {
                return;
            }
        }
        let mut ready = false;
        // Parsed before the lock is taken: readers hold it for microseconds.
        for item in std::mem::take(&mut items) {
            if doubtful && !matches!(item, Item::Lost { .. }) {
                doubtful = false;
                // A stream that was replaced says so itself.
                if !matches!(item, Item::Reset { .. }) && is_other(&hub, epoch, last).await {
                    tracing::error!(last, "the log has lost its end and used its sequences again: clients are told, reading starts over");
                    last = 0;
                    steps.push(Step::Reset(epoch));
                    let from_the_first = Options { start: Start::Seq(1), ..options.clone() };
                    tail = Tail::start_on(&hub.link, from_the_first, Some(created.clone()));
                    hub.watch(tail.health());
                    break;
                }
            }
            match item {
                Item::Message(m) => {
                    if m.seq > last + 1 {
                        look(&hub, epoch, last, m.seq, &mut steps).await;
                    }
                    last = last.max(m.seq);
                    steps.push(Step::Message(stored::delivered(epoch, &m)));
                }
                Item::Reset { created: now } => {
                    tracing::error!("the log's stream was recreated: clients are told, reading starts over");
                    created = now;
                    epoch = Epoch::of(&stream, &created);
                    last = 0;
                    steps.push(Step::Reset(epoch));
                }
                Item::CaughtUp { last_seq } => {
                    // The newest messages may be gone: nothing would come behind which their places are passed.
                    if last_seq > last {
                        look(&hub, epoch, last, last_seq + 1, &mut steps).await;
                        last = last_seq;
                    }
                    ready = true;
                }
                Item::Lost { reason, .. } => {
                    tracing::warn!(reason, "the tail of the log is interrupted; live events wait until it is back");
                    doubtful = true;
                }
            }
        }
        let head = write(&hub, |ring| {
            for step in steps.drain(..) {
                match step {
                    Step::Message(m) => ring.push(m.seq, m.tag, m.events),
                    Step::Hole(next, reason) => ring.hole(next, reason),
                    Step::Reset(epoch) => ring.begin(0, epoch),
                }
            }
            Head { generation: ring.generation(), epoch: ring.epoch(), seq: ring.head() }
        });
        metrics::TAIL_SEQ.set(head.seq);
        turns.more(&hub.groups, head);
        if ready {
            hub.ready.store(true, Ordering::Release);
        }
        hub.tell(head, ready);
    }
}

/// Whether the message at `seq` is not the one that was read there.
async fn is_other(hub: &Hub, epoch: Epoch, seq: u64) -> bool {
    let Some(ours) = hub.cursor(seq).tag else { return false };
    match stored::first_from(&hub.link, epoch, seq).await {
        Ok(Some(m)) => m.seq == seq && m.tag != ours,
        _ => false,
    }
}

/// The tail passed over what lies between `after` and `next`: looks at the stream before that is
/// called missing.
async fn look(hub: &Hub, epoch: Epoch, after: u64, next: u64, steps: &mut Vec<Step>) {
    let mut after = after;
    while after + 1 < next {
        match stored::first_from(&hub.link, epoch, after + 1).await {
            Ok(Some(m)) if m.seq < next => {
                if m.seq > after + 1 {
                    steps.push(Step::Hole(m.seq, reason(hub, m.seq).await));
                }
                after = m.seq;
                steps.push(Step::Message(m));
            }
            Ok(_) => break,
            Err(error) => {
                tracing::warn!(after, next, error, "cannot look for what the tail passed over: it counts as missing");
                break;
            }
        }
    }
    if after + 1 < next {
        let reason = reason(hub, next).await;
        tracing::warn!(after, next, ?reason, "messages of the log are missing: clients are told");
        steps.push(Step::Hole(next, reason));
    }
}

/// Why there is nothing before `next`.
async fn reason(hub: &Hub, next: u64) -> Reason {
    match js::stream_info(&hub.link, &hub.link.names.events_stream()).await {
        Ok(info) if next <= info.state.first_seq => Reason::Retention,
        _ => Reason::Purged,
    }
}

enum Step {
    Message(Stored),
    Hole(u64, Reason),
    Reset(Epoch),
}

fn write<T>(hub: &Hub, change: impl FnOnce(&mut super::ring::Ring) -> T) -> T {
    change(&mut hub.ring.write().unwrap_or_else(PoisonError::into_inner))
}
