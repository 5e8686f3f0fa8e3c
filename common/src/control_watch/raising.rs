//! Flags that are about to be raised: who raises one by Haltline says so to the whole fleet before it looks at what is
//! there, and before it writes.
//!
//! That is a hint only: the write may be refused, nothing says that no hint was missed, and who writes a flag by other means
//! gives none. It never opens anything. But the server looks for a flag in the stream for each worker's consumer in
//! turn, and passes a hint on to all at once: the last worker of a fleet refuses milliseconds sooner.

use async_nats::Subscriber;
use futures_util::StreamExt;
use haltline_types::control::{Level, Scope};
use serde::{Deserialize, Serialize};

use crate::Link;

/// What is said of a flag that is about to be raised.
#[derive(Serialize, Deserialize)]
struct Raising {
    /// What it will cover.
    scope: Scope,
    /// Its level, unless a graver one is there.
    state: Level,
}

/// Says that a flag is about to be raised, if that keeps anything from starting.
pub(crate) async fn announce(link: &Link, scope: &Scope, state: Level) {
    let raising = Raising { scope: scope.clone(), state };
    if !state.runs()
        && let Ok(body) = serde_json::to_vec(&raising)
    {
        // Without it they hear of the flag itself.
        let _ = link.client.publish(link.names.raising(), body.into()).await;
    }
}

/// Listens to that; without it the watch alone tells.
pub(super) async fn listen(link: &Link) -> Option<Subscriber> {
    let listening = link.client.subscribe(link.names.raising()).await;
    listening.inspect_err(|e| tracing::warn!(error = %e, "flags about to be raised are not heard; the watch tells of them")).ok()
}

/// The next one that may keep something from starting. Cancel safe.
pub(super) async fn next(listening: &mut Option<Subscriber>) {
    while let Some(subscriber) = listening {
        match subscriber.next().await {
            // What cannot be read counts as a halt.
            Some(m) if serde_json::from_slice::<Raising>(&m.payload).is_ok_and(|r| r.state.runs()) => {}
            Some(_) => return,
            None => *listening = None,
        }
    }
    std::future::pending().await
}
