//! What a running node sees: its inputs, who it is, and the door to side effects.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use haltline_common::{
    clock,
    control_watch::{ControlWatch, Opened},
    fault,
    planted::{Bug, planted},
    types::{
        Effect, SmolStr, Timestamp,
        control::{Flag, Gate, OnHalt, OpenEffect, Place},
        event::Correlation,
        task::Task,
    },
};
use haltline_core::{STALE_INPUT, Settled};
use rust_decimal::Decimal;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::{effects::Effects, reserve::Reserve};

/// What a node gives, by output name.
pub type Outputs = Map<String, Value>;

/// Whether a side effect that failed happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It certainly did not: nothing was sent, or the receiver refused it.
    No,
    /// It certainly did; what came back is of no use.
    Yes,
    /// Nobody knows, as when no answer came in time.
    Unknown,
}

/// Why an attempt did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NodeError {
    /// It failed. Whether it is tried again depends on `retryable` and the node's policy.
    #[error("{message}")]
    Failed {
        /// Stable kind, as `Timeout`, `Connection`, `InvalidInput`.
        error_type: String,
        /// One sentence that names the cause.
        message: String,
        /// Whether another attempt can succeed.
        retryable: bool,
        /// Whether the side effect that failed so happened; of no meaning outside of
        /// [`Context::effect`].
        happened: Happened,
    },
    /// The flag refused the side effect; nothing was done.
    #[error("EmergencyHalted: {}", .0.sentence())]
    Halted(Flag),
    /// The flag could not be read for certain; nothing was done. The worker waits and runs the same
    /// attempt again.
    #[error("the control flag cannot be read for certain: {0}")]
    Unsure(String),
    /// The execution was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Whether the node's side effect happened cannot be told: an operator has to say.
    #[error("it is not known whether the side effect happened: {0}")]
    Unknown(String),
}

impl NodeError {
    /// A failure that no repeat can help. Of a side effect: it may have happened, unless
    /// [`NodeError::not_done`] is said of it.
    pub fn fatal(error_type: &str, message: impl Into<String>) -> Self {
        Self::Failed { error_type: error_type.into(), message: message.into(), retryable: false, happened: Happened::Unknown }
    }
    /// A failure to connect or to get an answer in time: worth another attempt. Of a side effect: it may
    /// have happened, unless [`NodeError::not_done`] is said of it.
    pub fn retryable(error_type: &str, message: impl Into<String>) -> Self {
        Self::Failed { error_type: error_type.into(), message: message.into(), retryable: true, happened: Happened::Unknown }
    }
    /// An input or parameter that is not what the type needs.
    pub fn invalid(name: &str, message: impl std::fmt::Display) -> Self {
        Self::fatal("InvalidInput", format!("`{name}` {message}")).not_done()
    }
    /// The same, of a side effect that certainly did not happen: nothing was sent, or it was refused.
    pub fn not_done(self) -> Self {
        self.happened(Happened::No)
    }
    /// The same, of a side effect that certainly happened, with an answer that is of no use.
    pub fn done(self) -> Self {
        self.happened(Happened::Yes)
    }
    fn happened(mut self, value: Happened) -> Self {
        if let Self::Failed { happened, .. } = &mut self {
            *happened = value;
        }
        self
    }
}

/// What the flags have to know of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guarded {
    node_type: SmolStr,
    venue: SmolStr,
    effect: Effect,
    allowed_while_halted: bool,
    on_halt: Option<OnHalt>,
}

impl Guarded {
    /// Of the i-th node of a task.
    pub fn of(task: &Task, i: usize) -> Self {
        let node = &task.nodes[i];
        Self {
            node_type: node.kind.clone(),
            venue: node.venue.clone(),
            effect: node.effect,
            allowed_while_halted: node.allowed_while_halted,
            on_halt: task.on_halt,
        }
    }

    fn place<'a>(&'a self, c: &'a Correlation) -> Place<'a> {
        Place {
            node_type: &self.node_type,
            venue: &self.venue,
            effect: self.effect,
            allowed_while_halted: self.allowed_while_halted,
            on_halt: self.on_halt,
            ..Place::of(c)
        }
    }

    fn open_effect(&self, ctx: &Context) -> OpenEffect {
        OpenEffect {
            execution_id: ctx.correlation.execution_id.clone(),
            node_id: ctx.node_id.clone(),
            key: ctx.idempotency_key(),
            since: clock::now(),
            workflow_id: ctx.correlation.workflow_id.clone(),
            bot_id: ctx.correlation.bot_id.clone(),
            strategy_id: ctx.correlation.strategy_id.clone(),
            venue: self.venue.clone(),
            node_type: self.node_type.clone(),
            effect: self.effect,
            allowed_while_halted: self.allowed_while_halted,
        }
    }
}

fn settle(opened: Option<Opened>) {
    if let Some(opened) = opened {
        opened.settled();
    }
}

/// How long a side effect waits for a lease before its attempt begins anew.
const LEASE_WITHIN: Duration = Duration::from_secs(2);
/// By how much a receiver's clock may be behind: so much longer an effect without an answer counts as open.
const SKEW: Duration = Duration::from_millis(500);

/// One attempt of one node.
pub struct Context {
    /// Execution, workflow, bot and strategy.
    pub correlation: Correlation,
    /// The node.
    pub node_id: SmolStr,
    /// Parameters from the definition.
    pub params: Arc<Map<String, Value>>,
    /// Resolved inputs.
    pub inputs: Map<String, Value>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Fencing token: higher is newer; a venue refuses a lower one than it has seen.
    pub token: u64,
    /// When the whole task must have started.
    pub deadline: Timestamp,
    /// W3C trace context.
    pub traceparent: SmolStr,
    /// Cancelled when the execution is cancelled or the worker gives up draining.
    pub cancel: CancellationToken,
    /// After it its inputs are older than the node allows.
    pub(crate) inputs_until: Option<Timestamp>,
    pub(crate) guarded: Guarded,
    /// In milliseconds, of the effect that is being performed.
    pub(crate) effect_deadline: AtomicI64,
    pub(crate) control: Option<ControlWatch>,
    pub(crate) effects: Option<Arc<Effects>>,
    pub(crate) reserve: Option<Arc<Reserve>>,
}

impl Context {
    /// The same for every attempt of this node in this execution: what makes a repeated effect
    /// recognisable.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.correlation.execution_id, self.node_id)
    }

    /// Where the node is, for flags and risk limits.
    pub(crate) fn place(&self) -> Place<'_> {
        self.guarded.place(&self.correlation)
    }

    /// An input, else the parameter of that name. `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.inputs.get(name).or_else(|| self.params.get(name)).filter(|v| !v.is_null())
    }

    /// The same, which must be there.
    pub fn require(&self, name: &str) -> Result<&Value, NodeError> {
        self.get(name).ok_or_else(|| {
            NodeError::fatal("MissingInput", format!("`{name}` is neither an input nor a parameter of node `{}`", self.node_id))
        })
    }

    /// A text that must be there.
    pub fn text(&self, name: &str) -> Result<&str, NodeError> {
        self.require(name)?.as_str().ok_or_else(|| NodeError::invalid(name, "must be a text"))
    }

    /// A decimal number that must be there, from a JSON number or a text.
    pub fn decimal(&self, name: &str) -> Result<Decimal, NodeError> {
        to_decimal(name, self.require(name)?)
    }

    /// A decimal number, if it is there.
    pub fn decimal_opt(&self, name: &str) -> Result<Option<Decimal>, NodeError> {
        self.get(name).map(|v| to_decimal(name, v)).transpose()
    }

    /// Performs a side effect, if the control flag allows it at this very moment. The only door to
    /// the world outside: what does not pass here is not stopped by a halt, and not on record.
    ///
    /// What risk limits say it takes ([`Node::order`](crate::Node::order)) is reserved first; where they do
    /// not allow it, this fails with `RiskLimitExceeded`, and nothing is sent. That it is about to happen is
    /// stored before it does, and its outcome after it. What `perform` gives as an error counts as "it may have happened", unless the error says otherwise
    /// ([`NodeError::not_done`]); then the node's type is asked before anything is repeated
    /// ([`Node::resolve`](crate::Node::resolve)). Send [`Context::idempotency_key`] and
    /// [`Context::token`] along. A node with more than one effect must be able to tell, and repeat, all of
    /// them by its one key: one effect a node is the rule.
    ///
    /// While the flag cannot be read for certain this refuses with [`NodeError::Unsure`]: pass it on.
    pub async fn effect<T, F>(&self, perform: impl FnOnce() -> F) -> Result<T, NodeError>
    where
        F: Future<Output = Result<T, NodeError>>,
    {
        self.leased().await;
        self.allowed()?;
        let Some(effects) = &self.effects else {
            if self.control.is_none() {
                return perform().await;
            }
            let message = "the node's type says that it does nothing outside; let it declare an effect";
            return Err(NodeError::fatal("UndeclaredEffect", message).not_done());
        };
        if let Some(reserve) = &self.reserve {
            reserve.before(self).await?;
            fault::point("worker.reserved");
        }
        // Named by confirmations before anything of it is stored, so that none can overlook it.
        let mut opened = self.control.as_ref().and_then(ControlWatch::holder).map(|h| h.open(self.guarded.open_effect(self)));
        let index = match effects.intend(self.idempotency_key()).await {
            Ok(index) => index,
            Err(refusal) => {
                settle(opened);
                return Err(refusal);
            }
        };
        // Storing it took time, in which a flag may have changed, or the lease have come to its end.
        if let Err(refusal) = self.allowed().or_else(|e| if planted(Bug::NoSecondCheck) { Ok(()) } else { Err(e) }) {
            effects.settle(index, Settled::NotDone).await;
            settle(opened);
            return Err(refusal);
        }
        if let (Some(opened), Some(holder)) = (&mut opened, self.control.as_ref().and_then(ControlWatch::holder)) {
            // Who does not look at the lease does not know that it has ended.
            let left = if planted(Bug::NoSecondCheck) { LEASE_WITHIN } else { holder.left() };
            opened.performing(left + SKEW);
            self.effect_deadline.store(clock::now().0 + left.as_millis() as i64, Ordering::Release);
        }
        fault::point("worker.effect");
        effects.performing(index);
        let outcome = perform().await;
        fault::point("worker.effect_done");
        let settled = match &outcome {
            Ok(_) | Err(NodeError::Failed { happened: Happened::Yes, .. }) => Some(Settled::Done),
            Err(NodeError::Failed { happened: Happened::No, .. } | NodeError::Halted(_) | NodeError::Unsure(_)) => Some(Settled::NotDone),
            Err(NodeError::Failed { happened: Happened::Unknown, .. } | NodeError::Cancelled | NodeError::Unknown(_)) => None,
        };
        if let Some(settled) = settled {
            effects.settle(index, settled).await;
            settle(opened);
        }
        outcome
    }

    /// Until when a receiver may take the effect that is being performed: send it along. Whoever gets it
    /// later, from a process that was frozen in between, must refuse it; a halt counts on that.
    ///
    /// `None` outside of an effect, and in a unit test.
    pub fn effect_deadline(&self) -> Option<Timestamp> {
        Some(self.effect_deadline.load(Ordering::Acquire)).filter(|ms| *ms != i64::MAX).map(|ms| Timestamp(ms.min(self.deadline.0)))
    }

    /// Waits for a flag that is on its way, and for a lease, if the worker has none yet.
    async fn leased(&self) {
        if let Some(control) = &self.control {
            control.arrived().await;
        }
        if let Some(holder) = self.control.as_ref().and_then(ControlWatch::holder).filter(|h| !h.is_held()) {
            tokio::select! {
                _ = holder.held_within(LEASE_WITHIN) => {}
                () = self.cancel.cancelled() => {}
            }
        }
    }

    /// Whether a side effect may happen now.
    fn allowed(&self) -> Result<(), NodeError> {
        if let Some(until) = self.inputs_until.filter(|until| clock::now() > *until) {
            let message = format!("an input was good until {until}, and is older than the node's max_input_age now");
            return Err(NodeError::fatal(STALE_INPUT, message).not_done());
        }
        if let Some(control) = &self.control {
            let gate = control.guard(&self.place());
            control.count(&gate);
            match gate {
                Gate::Open => {}
                Gate::Halted(flag) => return Err(NodeError::Halted(flag)),
                Gate::Unsure(why) => return Err(NodeError::Unsure(why)),
            }
        }
        // A worker that stalled may have lost the task to another one.
        if self.cancel.is_cancelled() || self.effects.as_ref().is_some_and(|e| !e.is_held()) {
            return Err(NodeError::Cancelled);
        }
        Ok(())
    }

    /// A context for a node's own unit tests: no worker, no server, an open gate.
    pub fn for_test(params: Map<String, Value>, inputs: Map<String, Value>) -> Self {
        Self {
            correlation: Correlation {
                execution_id: "exec_test_00000000".into(),
                workflow_id: "test".into(),
                bot_id: "".into(),
                strategy_id: "".into(),
            },
            node_id: "node".into(),
            params: params.into(),
            inputs,
            attempt: 1,
            token: 1,
            deadline: Timestamp(i64::MAX),
            traceparent: "".into(),
            cancel: CancellationToken::new(),
            inputs_until: None,
            guarded: Guarded::default(),
            effect_deadline: AtomicI64::new(i64::MAX),
            control: None,
            effects: None,
            reserve: None,
        }
    }
}

/// Reads a decimal: from a text, or from a JSON number by its shortest decimal form.
pub fn to_decimal(name: &str, value: &Value) -> Result<Decimal, NodeError> {
    let text = match value {
        Value::String(s) => s.trim().to_owned(),
        Value::Number(n) => n.to_string(),
        _ => return Err(NodeError::invalid(name, "must be a number, or a text with one")),
    };
    text.parse::<Decimal>()
        .or_else(|_| Decimal::from_scientific(&text))
        .map_err(|e| NodeError::invalid(name, format!("`{text}` is not a decimal number: {e}")))
}
