//! What the keeper tells: events of the log, and the workflow that is to run at a halt.

use std::time::Duration;

use haltline_common::{
    Link,
    confirmation::Report,
    control,
    outbox::Write,
    publisher::Publisher,
    types::{
        SmolStr, Timestamp,
        control::{Flag, Level, Scope},
        event::{Correlation, Event, EventType, event_id},
        submit::{Reply, Submit},
    },
};
use serde_json::json;

use crate::perform;

/// Tries to submit what is to run at a halt: other coordinators may be taking its shard.
const TRIES: usize = 20;
const AGAIN: Duration = Duration::from_millis(500);

fn event(kind: EventType, id: String, flag: &Flag, at: Timestamp) -> Event {
    let id_of = |kind: &str| if flag.scope.kind() == kind { flag.scope.id().into() } else { SmolStr::default() };
    // Whoever follows a bot hears of its halt.
    let of = Correlation { workflow_id: id_of("workflow"), bot_id: id_of("bot"), strategy_id: id_of("strategy"), ..Correlation::default() };
    let mut event = Event::new(kind, id, &of, at);
    event.scope = (!flag.scope.is_global()).then(|| flag.scope.clone());
    event.revision = Some(flag.revision);
    event.new_state = Some(flag.state.as_str().into());
    event.reason = Some(flag.reason.clone());
    event.by = Some(flag.by.clone());
    event
}

async fn store(publisher: &Publisher, link: &Link, event: &Event) {
    let write = Write::with_id(link.names.control_events(), event.id.as_str(), perform::json(event));
    if let Err(e) = publisher.write(write).await {
        tracing::error!(id = event.id, error = %e, "an event about a control flag could not be stored");
    }
}

/// `emergency_state_changed`.
pub async fn changed(publisher: &Publisher, link: &Link, flag: &Flag, before: Level, stored_at: Timestamp) {
    let id = event_id::control(&flag.scope.key(), flag.revision);
    let mut event = event(EventType::EmergencyStateChanged, id, flag, flag.at.unwrap_or(stored_at));
    event.previous_state = Some(before.as_str().into());
    store(publisher, link, &event).await;
}

/// `halt_confirmed`.
pub async fn confirmed(publisher: &Publisher, link: &Link, flag: &Flag, report: &Report, at: Timestamp) {
    let id = event_id::confirmed(&flag.scope.key(), flag.revision);
    let mut event = event(EventType::HaltConfirmed, id, flag, at);
    event.workers = Some(report.workers as u32);
    event.confirmed = Some(report.confirmed as u32);
    event.duration_ms = Some(report.elapsed_ms);
    store(publisher, link, &event).await;
}

/// Submits the workflow that is to run when this scope is halted, if there is one. The key of the submission is the
/// flag's revision, so that it runs once, whoever asks how often.
pub async fn run_on_halt(link: &Link, flag: &Flag) {
    let wanted = match control::on_halt_run(link, &flag.scope).await {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return,
        Err(e) => {
            tracing::error!(scope = %flag.scope, error = e.message, "what is to run at a halt could not be read");
            return;
        }
    };
    let mut input = wanted.input.clone();
    input.insert("halt".into(), json!({ "scope": flag.scope, "state": flag.state, "reason": flag.reason, "revision": flag.revision }));
    let id_of = |kind: &str| Some(flag.scope.id().into()).filter(|_| flag.scope.kind() == kind);
    let submit = Submit {
        workflow_id: wanted.workflow.clone().into(),
        version: None,
        input: input.into(),
        bot_id: id_of("bot"),
        strategy_id: id_of("strategy"),
        key: format!("on_halt/{}/{}", flag.scope.key(), flag.revision).into(),
        notify: None,
    };
    let link = link.clone();
    let scope = flag.scope.clone();
    tokio::spawn(async move { ask(&link, &scope, &submit).await });
}

async fn ask(link: &Link, scope: &Scope, submit: &Submit) {
    let subject = link.names.submit(submit.shard(link.names.shards()));
    let body = serde_json::to_vec(submit).unwrap_or_default();
    for _ in 0..TRIES {
        if let Ok(answer) = link.client.request(subject.clone(), body.clone().into()).await {
            match serde_json::from_slice::<Reply>(&answer.payload) {
                Ok(Reply::Ok(accepted)) => {
                    tracing::warn!(%scope, workflow = submit.workflow_id.as_str(), execution_id = accepted.execution_id.as_str(), "runs because of the halt");
                    return;
                }
                Ok(Reply::Error(e)) if !e.code.retryable() => {
                    tracing::error!(%scope, workflow = submit.workflow_id.as_str(), error = e.message, "what is to run at a halt was refused");
                    return;
                }
                Ok(Reply::Error(_)) | Err(_) => {}
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
    tracing::error!(%scope, workflow = submit.workflow_id.as_str(), "what is to run at a halt could not be submitted");
}
