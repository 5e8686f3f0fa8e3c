//! One attempt of one node: slot, time-out, cancel, panic, and side effects that are in doubt.
//!
//! Where an effect may have happened, the node's type is asked first; if it cannot tell, the node is
//! repeated with the same key if it declares that to be harmless, and otherwise its outcome is unknown.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use haltline_common::{
    clock,
    planted::{Bug, planted},
    retry,
    types::{definition::RetryPolicy, risk::Noted},
};
use haltline_core::{Intent, NodeOutcome, Settled, TaskRun};
use serde_json::{Map, Value};

use crate::{
    context::{Context, Guarded, NodeError},
    effects::{Effects, Left},
    flight::{Entered, Flight},
    registry::{Node, Resolved},
    reserve::{Came, Reserve},
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
    /// It was only asked what became of an effect.
    Asked,
}

/// What is wanted of an attempt.
#[derive(Clone, Copy, PartialEq)]
pub enum Wanted {
    /// That it runs.
    Run,
    /// That it finds out what became of its effect, as a flag keeps it from running.
    Ask,
}

/// Runs an attempt; also what it left in the log.
pub async fn attempt(
    flight: &Arc<Flight>,
    run: &TaskRun,
    index: usize,
    attempt: u32,
    inputs: Map<String, Value>,
    entered: &Entered,
    wanted: Wanted,
) -> (Attempted, Option<Left>, Vec<Noted>) {
    let task = run.task();
    let node = &task.nodes[index];
    let (Some(implementation), Some(slots)) = (flight.registry.get(&node.kind), flight.slots.get(node.kind.as_str())) else {
        let message = format!("this worker has no node type `{}`", node.kind);
        return (Attempted::Ended(failed("UnknownType", message, false), 0.0), None, Vec::new());
    };
    let permit = tokio::select! {
        // A free slot and a node that ends at once need no timer and no wait for anyone: first in line.
        biased;
        permit = slots.acquire() => permit,
        () = flight.draining.cancelled() => return (Attempted::GivenUp, None, Vec::new()),
    };
    // What does nothing outside pays nothing for it.
    let acts = flight.registry.acts(&node.kind);
    let in_doubt = run.in_doubt();
    let effects = acts.then(|| {
        let intent = run.intend(clock::now());
        let suffix = run.message_id(&intent).split_off(intent.id.len());
        Arc::new(Effects::new(flight.clone(), entered.id(), intent, suffix, run.intended(), in_doubt.clone()))
    });
    let reserve = acts.then(|| Arc::new(Reserve::new(flight.door.clone(), implementation.clone())));
    let ctx = Context {
        correlation: task.correlation.clone(),
        node_id: node.id.clone(),
        params: node.params.clone(),
        inputs,
        attempt,
        token: run.token(),
        deadline: task.deadline,
        traceparent: task.traceparent.clone(),
        cancel: entered.cancel.clone(),
        inputs_until: run.inputs_until(),
        guarded: Guarded::of(task, index),
        effect_deadline: AtomicI64::new(i64::MAX),
        control: Some(flight.control.clone()),
        effects,
        reserve,
    };
    // From here on an effect may start: the lease is kept fresh.
    let _wish = flight.control.holder().filter(|_| acts).map(|holder| holder.wish());
    let started = Instant::now();
    let work = Attempt {
        flight,
        run,
        node: implementation.as_ref(),
        kind: &node.kind,
        policy: node.retry,
        limit: Duration::from_millis(node.timeout_ms),
        ctx,
    };
    let attempted = match wanted {
        Wanted::Run => work.all(in_doubt.last()).await,
        Wanted::Ask => match Box::pin(work.ask(in_doubt.last())).await {
            // Who did not answer is asked again.
            None | Some(Done::Outcome(NodeOutcome::Failed { .. } | NodeOutcome::Cancelled)) => Done::Other(Attempted::Asked),
            Some(known) => known,
        },
    };
    drop(permit);
    let attempted = match attempted {
        Done::Outcome(outcome) => Attempted::Ended(outcome, clock::millis(started.elapsed())),
        Done::Other(other) => other,
    };
    if let Attempted::Ended(NodeOutcome::Failed { error_type, message, .. } | NodeOutcome::Unknown { error_type, message }, _) = &attempted
    {
        tracing::info!(
            execution_id = task.correlation.execution_id.as_str(),
            node_id = node.id.as_str(),
            attempt,
            error_type,
            message,
            "node attempt failed"
        );
    }
    let noted = work.settle_risk(&attempted).await;
    // What a newer delivery has overtaken says nothing any more.
    let left = match &work.ctx.effects {
        Some(effects) if !matches!(attempted, Attempted::Stale) => Some(Box::pin(effects.leave()).await),
        _ => None,
    };
    (attempted, left, noted)
}

enum Done {
    Outcome(NodeOutcome),
    Other(Attempted),
}

impl From<NodeOutcome> for Done {
    fn from(outcome: NodeOutcome) -> Self {
        Self::Outcome(outcome)
    }
}

struct Attempt<'a> {
    flight: &'a Flight,
    run: &'a TaskRun,
    node: &'a dyn Node,
    kind: &'a str,
    policy: RetryPolicy,
    limit: Duration,
    ctx: Context,
}

impl Attempt<'_> {
    /// What was reserved becomes what it came to; what the result says about risk.
    async fn settle_risk(&self, attempted: &Attempted) -> Vec<Noted> {
        let (Some(reserve), Some(effects)) = (&self.ctx.reserve, &self.ctx.effects) else { return Vec::new() };
        let came = match attempted {
            // A newer delivery goes on with the same key: what is reserved is its.
            Attempted::Stale => Came::InDoubt,
            Attempted::Ended(NodeOutcome::Completed(outputs), _) => Came::Completed(outputs),
            _ if effects.is_unsettled() => Came::InDoubt,
            Attempted::Ended(NodeOutcome::Failed { error_type, .. }, _) => Came::Failed { error_type, done: effects.is_done() },
            _ if effects.is_done() => Came::Failed { error_type: "", done: true },
            Attempted::Ended(..) | Attempted::Unsure | Attempted::GivenUp | Attempted::Asked => Came::NotDone,
        };
        Box::pin(reserve.after(&self.ctx, came)).await
    }

    /// Asks about what is in doubt; what the node comes to by the answer, and nothing if it may run.
    async fn ask(&self, in_doubt: Option<&Intent>) -> Option<Done> {
        let (effects, intent) = self.ctx.effects.as_ref().zip(in_doubt.filter(|_| !planted(Bug::BlindRepeat)))?;
        match self.bounded(self.node.resolve(&self.ctx, intent)).await {
            Ok(Resolved::Done(outputs)) => {
                effects.settle_earlier(Settled::Done).await;
                Some(NodeOutcome::Completed(outputs).into())
            }
            // It was stored as done: what contradicts that is no ground to do it again.
            Ok(Resolved::NotDone) if self.run.in_doubt().iter().any(|i| i.done) => {
                let why = "the log says that it happened, and who was asked says that it did not";
                Some(unknown("UnknownOutcome", why.into()).into())
            }
            Ok(Resolved::NotDone) => {
                effects.settle_earlier(Settled::NotDone).await;
                None
            }
            Ok(Resolved::Unknown(_)) if self.node.idempotent(&self.ctx) => None,
            Ok(Resolved::Unknown(why)) => Some(unknown("UnknownOutcome", why).into()),
            Err(error) => Some(error),
        }
    }

    /// Runs the node, with all that an effect calls for if it may have one.
    async fn all(&self, in_doubt: Option<&Intent>) -> Done {
        match &self.ctx.effects {
            Some(effects) => Box::pin(self.acting(effects, in_doubt)).await,
            None => self.bounded(self.node.run(&self.ctx)).await.map_or_else(|e| e, |outputs| NodeOutcome::Completed(outputs).into()),
        }
    }

    /// Asks about what is in doubt, runs, and asks about what the run left in doubt.
    async fn acting(&self, effects: &Effects, in_doubt: Option<&Intent>) -> Done {
        if let Some(known) = self.ask(in_doubt).await {
            return known;
        }
        let ended = self.bounded(self.node.run(&self.ctx)).await;
        let error = match ended {
            Ok(outputs) => return NodeOutcome::Completed(outputs).into(),
            Err(error) => error,
        };
        let Done::Outcome(NodeOutcome::Failed { error_type, message, retryable }) = &error else { return error };
        if !effects.is_unsettled() {
            return error;
        }
        let again = *retryable && self.run.has_attempts_left();
        if again && (self.node.resolves() || self.node.idempotent(&self.ctx)) {
            return error;
        }
        if self.node.resolves() {
            // The last word: it was sent just now and may still be on its way, so not at once.
            return self.last_word(effects, error_type, message).await;
        }
        unknown(error_type, message.clone()).into()
    }

    /// There is no attempt left: what became of the effect decides how the node ends.
    async fn last_word(&self, effects: &Effects, error_type: &str, message: &str) -> Done {
        let Some(intent) = effects.last_unsettled() else { return failed(error_type, message.to_owned(), false).into() };
        let wait = retry::delay_after(&self.policy, self.ctx.attempt);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.flight.draining.cancelled() => return Done::Other(Attempted::GivenUp),
            () = self.ctx.cancel.cancelled() => return NodeOutcome::Cancelled.into(),
        }
        match self.bounded(self.node.resolve(&self.ctx, &intent)).await {
            Ok(Resolved::Done(outputs)) => {
                effects.settle_all(Settled::Done).await;
                NodeOutcome::Completed(outputs).into()
            }
            Ok(Resolved::NotDone) => {
                effects.settle_all(Settled::NotDone).await;
                failed(error_type, message.to_owned(), false).into()
            }
            Ok(Resolved::Unknown(why)) => unknown(error_type, format!("{message}; {why}")).into(),
            Err(Done::Outcome(NodeOutcome::Failed { message: why, .. })) => {
                unknown(error_type, format!("{message}; asked what became of it: {why}")).into()
            }
            Err(other) => other,
        }
    }

    /// Runs code of the node's type within the node's time-out, until it is cancelled.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, NodeError>>) -> Result<T, Done> {
        let running = AssertUnwindSafe(tokio::time::timeout(self.limit, work)).catch_unwind();
        tokio::pin!(running);
        let cancel = &self.ctx.cancel;
        // Also without a word from the coordinator. One more, so that the deadline has passed then.
        let left = Duration::from_millis(self.ctx.deadline.millis_since(clock::now()).saturating_add(1));
        let ended = tokio::select! {
            biased;
            ended = &mut running => Some(ended),
            () = cancel.cancelled() => tokio::time::timeout(COOPERATE, &mut running).await.ok(),
            () = tokio::time::sleep(left) => {
                cancel.cancel();
                tokio::time::timeout(COOPERATE, &mut running).await.ok()
            }
        };
        let outcome = match ended {
            Some(Ok(Ok(Ok(value)))) => return Ok(value),
            _ if self.flight.abandon.is_cancelled() => return Err(Done::Other(Attempted::GivenUp)),
            None | Some(Ok(Ok(Err(NodeError::Cancelled)))) => NodeOutcome::Cancelled,
            Some(Ok(Ok(Err(NodeError::Halted(flag))))) => NodeOutcome::Halted(flag),
            Some(Ok(Ok(Err(NodeError::Unsure(_))))) => return Err(Done::Other(Attempted::Unsure)),
            Some(Ok(Ok(Err(NodeError::Unknown(why))))) => unknown("UnknownOutcome", why),
            Some(Ok(Ok(Err(NodeError::Failed { error_type, .. })))) if error_type == "StaleToken" => {
                return Err(Done::Other(Attempted::Stale));
            }
            Some(Ok(Ok(Err(NodeError::Failed { error_type, message, retryable, .. })))) => failed(&error_type, message, retryable),
            Some(Ok(Err(_))) => failed("Timeout", format!("node `{}` did not end within {:?}", self.ctx.node_id, self.limit), true),
            Some(Err(panic)) => failed("Panic", format!("node type `{}` panicked: {}", self.kind, text(panic.as_ref())), false),
        };
        Err(outcome.into())
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn failed(error_type: &str, message: String, retryable: bool) -> NodeOutcome {
    NodeOutcome::Failed { error_type: error_type.into(), message, retryable }
}

fn unknown(error_type: &str, message: String) -> NodeOutcome {
    NodeOutcome::Unknown { error_type: error_type.into(), message }
}
