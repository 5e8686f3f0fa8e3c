//! Submitting and cancelling: request and reply with the shard's coordinator, repeated with the
//! same key until it answers.

use std::time::{Duration, Instant};

use async_nats::StatusCode;
use bytes::Bytes;
use haltline_common::{
    definitions::check_depth,
    fault,
    types::{
        ids::check_id,
        limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, TEXT_BYTES_MAX},
        submit::{Cancel, Reply, Resolve},
    },
};
use serde::Serialize;

use crate::{Accepted, ApiError, Client, Code, Outcome, Submit, inbox::Ticket, unavailable};

/// How long the first try waits for its answer: a healthy coordinator answers within milliseconds.
/// Nothing says that a request was lost with the server, of several, that had it.
const TRY_MIN: Duration = Duration::from_secs(1);
/// How long the others wait: one that is busy is not to be asked more than that.
const TRY_MAX: Duration = Duration::from_secs(2);
/// Delay before the second try; doubles up to [`DELAY_MAX`].
const DELAY_MIN: Duration = Duration::from_millis(20);
/// A coordinator that comes back is noticed within this time.
const DELAY_MAX: Duration = Duration::from_millis(500);

impl Client {
    /// Submits an execution. Returns once its acceptance is stored. Repeating it with the same key
    /// gives the same execution.
    ///
    /// # Errors
    /// `Invalid` and `TooLarge` before anything is sent; whatever the coordinator answers, as
    /// `EmergencyHalted`, `UnknownWorkflow`, `Conflict` or `Overloaded`; `Unavailable` if nobody
    /// answered in time: the execution may or may not exist, repeat with the same key to know.
    pub async fn submit(&self, submit: Submit) -> Result<Accepted, ApiError> {
        self.submit_with(&submit, &mut self.shared.inbox.ticket()).await.map(Answer::accepted)
    }

    /// As [`Client::submit`]. If `notify` is the ticket's subject, the end may be told instead.
    pub(crate) async fn submit_with(&self, submit: &Submit, ticket: &mut Ticket) -> Result<Answer, ApiError> {
        check(submit)?;
        let body = encode(submit, "input")?;
        let names = &self.shared.link.names;
        // Not by the execution's id: that is the coordinator's to draw.
        fault::point("client.submit");
        self.ask(names.submit(submit.shard(names.shards())), body, ticket).await
    }

    /// Ends an execution as cancelled. Returns once the request is stored; nodes that run already
    /// end first. An execution that has ended stays as it is.
    ///
    /// # Errors
    /// `UnknownExecution`, or as [`Client::submit`].
    pub async fn cancel(&self, execution_id: &str, reason: &str, by: &str) -> Result<Accepted, ApiError> {
        if reason.len() > TEXT_BYTES_MAX {
            return Err(ApiError::invalid("reason", format!("is longer than {TEXT_BYTES_MAX} bytes")));
        }
        let cancel = Cancel { execution_id: execution_id.into(), reason: reason.into(), by: by.into() };
        let names = &self.shared.link.names;
        let mut ticket = self.shared.inbox.ticket();
        self.ask(names.cancel(names.shard(execution_id)), encode(&cancel, "reason")?, &mut ticket).await.map(Answer::accepted)
    }

    /// Says what became of a node whose outcome is unknown. Returns once that is stored; the execution
    /// goes on from it.
    ///
    /// # Errors
    /// `Invalid` and `TooLarge` before anything is sent; `UnknownExecution`; `Conflict` if the node does
    /// not wait for it, with where it stands; or as [`Client::submit`].
    pub async fn resolve(&self, resolve: &Resolve) -> Result<Accepted, ApiError> {
        resolve.check()?;
        let names = &self.shared.link.names;
        let mut ticket = self.shared.inbox.ticket();
        self.ask(names.resolve(names.shard(&resolve.execution_id)), encode(resolve, "outputs")?, &mut ticket).await.map(Answer::accepted)
    }

    /// Asks until there is an answer or the time is over.
    async fn ask(&self, subject: String, body: Bytes, ticket: &mut Ticket) -> Result<Answer, ApiError> {
        let until = Instant::now() + self.timeout;
        let (mut delay, mut limit) = (DELAY_MIN, TRY_MIN);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let error = match self.try_once(&subject, &body, ticket, limit.min(left)).await {
                // Both pass by themselves: a coordinator is starting, or has lost its watch for now.
                Err(e) if matches!(e.code, Code::Unavailable | Code::ControlUnsure) => e,
                answer => return answer,
            };
            if Instant::now() + delay >= until {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(DELAY_MAX);
            limit = TRY_MAX;
        }
    }

    /// An answer to an earlier try counts as well: it is the same request.
    async fn try_once(&self, subject: &str, body: &Bytes, ticket: &mut Ticket, limit: Duration) -> Result<Answer, ApiError> {
        let client = &self.shared.link.client;
        client.publish_with_reply(subject.to_owned(), ticket.subject.clone(), body.clone()).await.map_err(unavailable)?;
        let message = match tokio::time::timeout(limit, ticket.told()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(unavailable("the connection was closed")),
            Err(_) => {
                return Err(unavailable(
                    "no coordinator answered in time; it is not known whether the request took effect: repeat it with the same key",
                ));
            }
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(unavailable("no coordinator is running for this shard; nothing was changed"));
        }
        if let Ok(outcome) = serde_json::from_slice(&message.payload) {
            return Ok(Answer::Ended(outcome));
        }
        match serde_json::from_slice(&message.payload) {
            Ok(Reply::Ok(accepted)) => Ok(Answer::Accepted(accepted)),
            Ok(Reply::Error(e)) => Err(e),
            Err(e) => Err(ApiError::new(Code::Internal, format!("the coordinator's answer is malformed: {e}"))),
        }
    }
}

/// What a coordinator answers.
pub(crate) enum Answer {
    /// The request was accepted.
    Accepted(Accepted),
    /// It was, and the execution has ended since.
    Ended(Outcome),
}

impl Answer {
    fn accepted(self) -> Accepted {
        match self {
            Self::Accepted(accepted) => accepted,
            Self::Ended(o) => Accepted { execution_id: o.execution_id, status: o.status, repeated: false },
        }
    }
}

fn encode(request: &impl Serialize, field: &str) -> Result<Bytes, ApiError> {
    let json = serde_json::to_vec(request).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
    if json.len() > MESSAGE_BYTES_MAX {
        let message = format!("the request has {} bytes, more than {MESSAGE_BYTES_MAX}", json.len());
        return Err(ApiError { field: Some(field.into()), ..ApiError::new(Code::TooLarge, message) });
    }
    Ok(Bytes::from(json))
}

/// What can be told without asking anyone.
fn check(submit: &Submit) -> Result<(), ApiError> {
    check_id(&submit.workflow_id).map_err(|e| ApiError::invalid("workflow_id", e))?;
    let optional = [("version", &submit.version), ("bot_id", &submit.bot_id), ("strategy_id", &submit.strategy_id)];
    for (field, id) in optional {
        if let Some(id) = id.as_deref().filter(|id| !id.is_empty()) {
            check_id(id).map_err(|e| ApiError::invalid(field, e))?;
        }
    }
    if submit.key.is_empty() || submit.key.len() > KEY_BYTES_MAX {
        return Err(ApiError::invalid("key", format!("must have 1 to {KEY_BYTES_MAX} bytes")));
    }
    if !submit.input.is_null() && !submit.input.is_object() {
        return Err(ApiError::invalid("input", "must be an object, or null"));
    }
    check_depth(&submit.input).map_err(|e| ApiError { field: Some("input".into()), ..e })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn submit(input: Value, key: &str) -> Submit {
        Submit { workflow_id: "w".into(), version: None, input, bot_id: None, strategy_id: None, key: key.into(), notify: None }
    }

    #[test]
    fn bad_submissions_name_their_field() {
        let field = |s: &Submit| check(s).err().and_then(|e| e.field);
        assert_eq!(field(&submit(json!({}), "k")), None);
        assert_eq!(field(&submit(Value::Null, "k")), None);
        assert_eq!(field(&submit(json!([1]), "k")).as_deref(), Some("input"));
        assert_eq!(field(&submit(json!({}), "")).as_deref(), Some("key"));
        assert_eq!(field(&submit(json!({}), &"k".repeat(KEY_BYTES_MAX + 1))).as_deref(), Some("key"));
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!({ "a": deep });
        }
        assert_eq!(field(&submit(deep, "k")).as_deref(), Some("input"));
        let big = submit(json!({ "a": "x".repeat(MESSAGE_BYTES_MAX) }), "k");
        assert_eq!(encode(&big, "input").err().map(|e| e.code), Some(Code::TooLarge));
    }
}
