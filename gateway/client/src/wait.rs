//! Running a workflow and waiting for its end. The coordinator tells the end on a subject of this
//! client's inbox; since that message is a hint that can be lost, the record is read as well.

use std::time::Duration;

use haltline_common::{
    fault, kv,
    types::{SmolStr, definition::Definition, limits::EXECUTION_MS_MAX},
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{Accepted, ApiError, Client, Code, Outcome, Submit, inbox::Ticket, submit::Answer};

/// First look at the record while the end will be told: rarely needed, so late.
const LOOK_TOLD: Duration = Duration::from_millis(500);
/// First look when it will not be told.
const LOOK_UNTOLD: Duration = Duration::from_millis(20);
/// Looks at the record are at most this far apart.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// As long as an execution can last.
const FOR_EVER: Duration = Duration::from_millis(EXECUTION_MS_MAX);

impl Client {
    /// Stores `definition` (unless this client has done so before) and runs it to its end, however
    /// long that takes; wrap it in a time-out of your own to stop waiting, which does not stop the
    /// execution. A failed, halted or cancelled execution is an `Ok` with that status.
    ///
    /// # Errors
    /// As [`Client::put_workflow`] and [`Client::submit`].
    pub async fn execute(&self, definition: &Definition, input: Value, bot_id: Option<&str>) -> Result<Outcome, ApiError> {
        if !self.shared.known.has(definition) {
            self.put_workflow(definition).await?;
        }
        let submit = Submit {
            workflow_id: definition.id.clone(),
            version: Some(definition.version.clone()),
            input,
            bot_id: bot_id.map(SmolStr::from),
            strategy_id: None,
            key: uuid::Uuid::new_v4().to_string().into(),
            notify: None,
        };
        self.run(submit, FOR_EVER).await
    }

    /// Submits and waits up to `limit` for the end. When the time is over the outcome says
    /// `running`; the execution goes on.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub async fn run(&self, mut submit: Submit, limit: Duration) -> Result<Outcome, ApiError> {
        let mut told = self.shared.inbox.ticket();
        // On the subject that the acceptance is told on: if the end comes soon, it is all that is told.
        submit.notify = Some(told.subject.clone().into());
        let until = Instant::now() + limit;
        let answer = self.submit_with(&submit, &mut told).await?;
        fault::point("client.wait");
        let accepted = match answer {
            Answer::Ended(outcome) => return Ok(outcome),
            Answer::Accepted(accepted) => accepted,
        };
        // A repeated submission's end is told to whoever was first: another client, maybe.
        let first = if accepted.repeated { LOOK_UNTOLD } else { LOOK_TOLD };
        self.follow(accepted, Some(told), first, until).await
    }

    /// Waits up to `limit` for an execution's end. When the time is over the outcome says `running`.
    ///
    /// # Errors
    /// `UnknownExecution`; `Unavailable` if the record could not be read even once.
    pub async fn wait(&self, execution_id: &str, limit: Duration) -> Result<Outcome, ApiError> {
        let until = Instant::now() + limit;
        let outcome = self.outcome(execution_id).await?;
        if outcome.status.is_terminal() {
            return Ok(outcome);
        }
        let accepted = Accepted { execution_id: outcome.execution_id, status: outcome.status, repeated: true };
        self.follow(accepted, None, LOOK_UNTOLD, until).await
    }

    async fn follow(&self, accepted: Accepted, mut told: Option<Ticket>, first: Duration, until: Instant) -> Result<Outcome, ApiError> {
        let id = accepted.execution_id;
        let mut delay = if accepted.status.is_terminal() { Duration::ZERO } else { first };
        let mut seen = None;
        loop {
            let look = (Instant::now() + delay).min(until);
            if let Some(ticket) = &mut told {
                match tokio::time::timeout_at(look, ticket.told()).await {
                    Ok(Some(message)) => match serde_json::from_slice::<Outcome>(&message.payload) {
                        Ok(outcome) if outcome.execution_id == id => return Ok(outcome),
                        // An answer to a repeated request, or not readable: the record is what counts, so look at it now.
                        _ => {}
                    },
                    Ok(None) => told = None,
                    Err(_) => {}
                }
            } else {
                tokio::time::sleep_until(look).await;
            }
            match self.outcome(&id).await {
                Ok(outcome) if outcome.status.is_terminal() => return Ok(outcome),
                Ok(outcome) => seen = Some(outcome),
                Err(e) if e.code == Code::Unavailable => tracing::debug!(execution_id = id.as_str(), error = %e, "looking again"),
                Err(e) => return Err(e),
            }
            if Instant::now() >= until {
                return Ok(seen.unwrap_or_else(|| running(id, accepted.status)));
            }
            delay = (delay * 2).clamp(LOOK_UNTOLD, LOOK_MAX);
        }
    }

    async fn outcome(&self, execution_id: &str) -> Result<Outcome, ApiError> {
        let record = kv::record(&self.shared.link, execution_id).await?;
        record.map(|(r, _)| Outcome::from(&r)).ok_or_else(|| crate::read::unknown_execution(execution_id))
    }
}

/// What is known when the record could not be read.
fn running(execution_id: SmolStr, status: crate::Status) -> Outcome {
    Outcome {
        execution_id,
        status,
        duration_ms: None,
        outputs: std::sync::Arc::default(),
        outputs_omitted: false,
        error: None,
        error_type: None,
        nodes_failed: 0,
        errors: Vec::new(),
        reason: None,
        unknown_nodes: Vec::new(),
    }
}
