//! What a running node sees: its inputs, who it is, and the door to side effects.

use std::sync::Arc;

use haltline_common::{
    control_watch::ControlWatch,
    fault, metrics,
    types::{
        Timestamp,
        control::{Flag, Gate},
        event::Correlation,
    },
};
use haltline_core::Settled;
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

/// One attempt of one node.
pub struct Context {
    /// Execution, workflow, bot and strategy.
    pub correlation: Correlation,
    /// The node.
    pub node_id: String,
    /// Parameters from the definition.
    pub params: Map<String, Value>,
    /// Resolved inputs.
    pub inputs: Map<String, Value>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Fencing token: higher is newer; a venue refuses a lower one than it has seen.
    pub token: u64,
    /// When the whole task must have started.
    pub deadline: Timestamp,
    /// W3C trace context.
    pub traceparent: String,
    /// Cancelled when the execution is cancelled or the worker gives up draining.
    pub cancel: CancellationToken,
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
    /// What risk limits say it takes ([`Node::order`](crate::Node::order)) is reserved first; where they do not allow it, this
    /// fails with `RiskLimitExceeded`, and nothing is sent. That it is about to happen is stored before it does, and its outcome after it. What `perform`
    /// gives as an error counts as "it may have happened", unless the error says otherwise
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
        self.allowed()?;
        let Some(effects) = &self.effects else {
            if self.control.is_none() {
                return perform().await;
            }
            let message = "the node's type says that it does nothing outside; let it describe itself as one that acts";
            return Err(NodeError::fatal("UndeclaredEffect", message).not_done());
        };
        if let Some(reserve) = &self.reserve {
            reserve.before(self).await?;
            fault::point("worker.reserved");
        }
        let index = effects.intend(self.idempotency_key()).await?;
        // Storing it took time, in which the flag may have changed.
        if let Err(refusal) = self.allowed() {
            effects.settle(index, Settled::NotDone).await;
            return Err(refusal);
        }
        fault::point("worker.effect");
        effects.performing(index);
        let outcome = perform().await;
        fault::point("worker.effect_done");
        match &outcome {
            Ok(_) | Err(NodeError::Failed { happened: Happened::Yes, .. }) => effects.settle(index, Settled::Done).await,
            Err(NodeError::Failed { happened: Happened::No, .. } | NodeError::Halted(_) | NodeError::Unsure(_)) => {
                effects.settle(index, Settled::NotDone).await;
            }
            Err(NodeError::Failed { happened: Happened::Unknown, .. } | NodeError::Cancelled | NodeError::Unknown(_)) => {}
        }
        outcome
    }

    /// Whether a side effect may happen now.
    fn allowed(&self) -> Result<(), NodeError> {
        match self.control.as_ref().map(ControlWatch::gate) {
            Some(Gate::Halted(flag)) => {
                metrics::GUARD_REFUSALS.inc();
                return Err(NodeError::Halted(flag));
            }
            Some(Gate::Unsure(why)) => return Err(NodeError::Unsure(why)),
            Some(Gate::Open) | None => {}
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
                bot_id: String::new(),
                strategy_id: String::new(),
            },
            node_id: "node".into(),
            params,
            inputs,
            attempt: 1,
            token: 1,
            deadline: Timestamp(i64::MAX),
            traceparent: String::new(),
            cancel: CancellationToken::new(),
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
