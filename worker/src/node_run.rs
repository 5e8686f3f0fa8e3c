//! One attempt of one node: slot, time-out, cancel, panic.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use haltline_common::clock;
use haltline_core::{NodeOutcome, TaskRun};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, NodeError},
    flight::Flight,
};

/// How long a cancelled node may take to end by itself.
const COOPERATE: Duration = Duration::from_millis(150);

/// How an attempt ended.
pub enum Attempted {
    /// With an outcome, after so many milliseconds.
    Ended(NodeOutcome, f64),
    /// Its effect was refused because the flag could not be read: not an attempt.
    Unsure,
    /// The worker stops.
    GivenUp,
    /// The venue refused the fencing token: a newer delivery of this task was there.
    Stale,
}

/// Runs an attempt.
pub async fn attempt(
    flight: &Flight,
    run: &TaskRun,
    index: usize,
    attempt: u32,
    inputs: Map<String, Value>,
    cancel: &CancellationToken,
) -> Attempted {
    let task = run.task();
    let node = &task.nodes[index];
    let (Some(implementation), Some(slots)) = (flight.registry.get(&node.kind), flight.slots.get(&node.kind)) else {
        let message = format!("this worker has no node type `{}`", node.kind);
        return Attempted::Ended(failed("UnknownType", message, false), 0.0);
    };
    let permit = tokio::select! {
        permit = slots.acquire() => permit,
        () = flight.draining.cancelled() => return Attempted::GivenUp,
    };
    let ctx = Context {
        correlation: task.correlation.clone(),
        node_id: node.id.clone(),
        params: node.params.clone(),
        inputs,
        attempt,
        token: run.token(),
        deadline: task.deadline,
        traceparent: task.traceparent.clone(),
        cancel: cancel.clone(),
        control: Some(flight.control.clone()),
    };
    let limit = Duration::from_millis(node.timeout_ms);
    let started = Instant::now();
    let running = AssertUnwindSafe(tokio::time::timeout(limit, implementation.run(&ctx))).catch_unwind();
    tokio::pin!(running);
    // Also without a word from the coordinator. One more, so that the deadline has passed then.
    let left = Duration::from_millis(task.deadline.millis_since(clock::now()).saturating_add(1));
    let ended = tokio::select! {
        ended = &mut running => Some(ended),
        () = cancel.cancelled() => tokio::time::timeout(COOPERATE, &mut running).await.ok(),
        () = tokio::time::sleep(left) => {
            cancel.cancel();
            tokio::time::timeout(COOPERATE, &mut running).await.ok()
        }
    };
    drop(permit);
    let took = clock::millis(started.elapsed());
    if flight.abandon.is_cancelled() && !matches!(ended, Some(Ok(Ok(Ok(_))))) {
        return Attempted::GivenUp;
    }
    let outcome = match ended {
        None | Some(Ok(Ok(Err(NodeError::Cancelled)))) => NodeOutcome::Cancelled,
        Some(Ok(Ok(Ok(outputs)))) => NodeOutcome::Completed(outputs),
        Some(Ok(Ok(Err(NodeError::Halted(flag))))) => NodeOutcome::Halted(flag),
        Some(Ok(Ok(Err(NodeError::Failed { error_type, .. })))) if error_type == "StaleToken" => return Attempted::Stale,
        Some(Ok(Ok(Err(NodeError::Unsure(_))))) => return Attempted::Unsure,
        Some(Ok(Ok(Err(NodeError::Failed { error_type, message, retryable })))) => NodeOutcome::Failed { error_type, message, retryable },
        Some(Ok(Err(_))) => failed("Timeout", format!("node `{}` did not end within {limit:?}", node.id), true),
        Some(Err(panic)) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
            failed("Panic", format!("node type `{}` panicked: {}", node.kind, text.unwrap_or_default()), false)
        }
    };
    if let NodeOutcome::Failed { error_type, message, .. } = &outcome {
        tracing::info!(
            execution_id = task.correlation.execution_id,
            node_id = node.id,
            attempt,
            error_type,
            message,
            "node attempt failed"
        );
    }
    Attempted::Ended(outcome, took)
}

fn failed(error_type: &str, message: String, retryable: bool) -> NodeOutcome {
    NodeOutcome::Failed { error_type: error_type.into(), message, retryable }
}
