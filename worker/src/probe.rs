//! The guard looked at from inside a worker, for `haltline bench --halt`: when it first refuses at a
//! flag, and how long a check takes. Only in a worker that was told to.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use async_nats::Message;
use futures_util::StreamExt;
use haltline_common::{
    Link, clock,
    control_watch::ControlWatch,
    types::{
        Effect,
        control::{Gate, OnHalt, Place},
    },
};
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

/// How long a lease is waited for at once where the flags allow everything again.
const LEASE_WITHIN: Duration = Duration::from_secs(1);
/// Checks that may be asked for at once.
const CALLS_MAX: u64 = 10_000_000;
/// Checks between two looks at the rest of the worker.
const CALLS_AT_ONCE: u64 = 10_000;

static ARMED: AtomicBool = AtomicBool::new(false);

/// Workers that this process starts from now on look at their guard.
pub fn arm() {
    ARMED.store(true, Ordering::Release);
}

/// What such a worker tells, once its guard is open (again).
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// The worker.
    pub worker_id: String,
    /// The flag's revision at which the guard refused; 0 at the start.
    pub revision: u64,
    /// When that was first seen, in nanoseconds since 1970 by the wall clock.
    pub refused_at: i64,
}

/// How long checks took.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timed {
    /// How many.
    pub calls: u64,
    /// All of them, in nanoseconds.
    pub nanos: u64,
    /// How many of them allowed.
    pub open: u64,
}

/// What an order of this bench would be checked for: something in every scope.
pub const PLACE: Place<'static> = Place {
    strategy_id: "bench-strategy",
    bot_id: "bench-bot",
    workflow_id: "bench",
    venue: "paper",
    node_type: "paper_order",
    effect: Effect::OpensRisk,
    allowed_while_halted: false,
    on_halt: Some(OnHalt::Abort),
};

/// Starts looking, if it was told to.
pub(crate) fn start(link: &Link, worker_id: &str, control: &ControlWatch) -> Option<AbortOnDropHandle<()>> {
    let looking = look(link.clone(), worker_id.to_owned(), control.clone());
    ARMED.load(Ordering::Acquire).then(|| AbortOnDropHandle::new(tokio::spawn(looking)))
}

async fn look(link: Link, worker_id: String, mut control: ControlWatch) {
    // As while effects are due: the lease is kept fresh.
    let _wish = control.holder().map(|holder| holder.wish());
    let mut asked = match link.client.subscribe(link.names.guard_timed(&worker_id)).await {
        Ok(asked) => asked,
        Err(e) => return tracing::error!(error = %e, "the guard cannot be looked at"),
    };
    let mut last = 0;
    let mut told = Some(Told { worker_id: worker_id.clone(), revision: 0, refused_at: 0 });
    // Since when it refuses; a flag on its way is obeyed before it has a revision.
    let mut refused_at = 0;
    loop {
        let gate = control.guard(&PLACE);
        let leased = matches!(gate, Gate::Unsure(_)) && !control.is_flag_coming();
        if refused_at == 0 && (control.is_flag_coming() || matches!(gate, Gate::Halted(_))) {
            refused_at = clock::now_nanos();
        }
        match gate {
            Gate::Halted(flag) if flag.revision > last => {
                last = flag.revision;
                told = Some(Told { worker_id: worker_id.clone(), revision: last, refused_at });
            }
            Gate::Halted(_) | Gate::Unsure(_) => {}
            // Told when all is quiet again: a hundred reports at once would delay what is measured.
            Gate::Open => {
                refused_at = 0;
                tell(&link, told.take()).await;
            }
        }
        let holder = control.holder().cloned();
        let lease = async {
            match holder.filter(|_| leased) {
                Some(holder) => _ = holder.held_within(LEASE_WITHIN).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = control.changed() => {}
            () = lease => {}
            Some(message) = asked.next() => answer(&link, message, &control).await,
        }
    }
}

async fn tell(link: &Link, told: Option<Told>) {
    if let Some(body) = told.and_then(|told| serde_json::to_vec(&told).ok())
        && let Err(e) = link.client.publish(link.names.guard_told(), body.into()).await
    {
        tracing::warn!(error = %e, "what the guard did could not be told");
    }
}

/// Answers a request, which says how many checks to time.
async fn answer(link: &Link, message: Message, control: &ControlWatch) {
    let calls = std::str::from_utf8(&message.payload).ok().and_then(|n| n.parse().ok()).unwrap_or(0).min(CALLS_MAX);
    let mut timed = Timed { calls, nanos: 0, open: 0 };
    let mut left = calls;
    while left > 0 {
        let now = left.min(CALLS_AT_ONCE);
        let began = Instant::now();
        timed.open +=
            (0..now).map(|_| u64::from(std::hint::black_box(control.guard(std::hint::black_box(&PLACE))) == Gate::Open)).sum::<u64>();
        timed.nanos += u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        left -= now;
        tokio::task::yield_now().await;
    }
    if let (Some(reply), Ok(body)) = (message.reply, serde_json::to_vec(&timed)) {
        // Whoever asked sees that no answer comes.
        let _ = link.client.publish(reply, body.into()).await;
    }
}
