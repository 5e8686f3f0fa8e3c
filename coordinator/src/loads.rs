//! Reading an execution back: its record, its plan, and what the log has of it.

use std::{sync::Arc, time::Duration};

use haltline_common::{
    Link, history, kv,
    planted::{Bug, planted},
    retry::Reconnect,
    types::SmolStr,
};
use haltline_core::{Loaded, LogMessage, Plan};

use crate::plans;

/// Loads until it succeeds: an execution that cannot be read now must not be forgotten.
pub async fn load(link: Link, id: SmolStr, key: Option<SmolStr>, cached: impl Fn(&str, &str) -> Option<Arc<Plan>>) -> (SmolStr, Loaded) {
    let mut delays = Reconnect::new(Duration::from_secs(2));
    loop {
        match try_load(&link, &id, key.as_deref(), &cached).await {
            Ok(loaded) => return (id, loaded),
            Err(why) => {
                tracing::warn!(execution_id = id.as_str(), why, "cannot read an execution back; trying again");
                tokio::time::sleep(delays.next_delay()).await;
            }
        }
    }
}

async fn try_load(link: &Link, id: &str, key: Option<&str>, cached: &impl Fn(&str, &str) -> Option<Arc<Plan>>) -> Result<Loaded, String> {
    let record = kv::record(link, id).await.map_err(|e| e.to_string())?;
    let Some((record, revision)) = record else {
        tracing::warn!(execution_id = id, "the log has inputs of an execution that has no record; ignored");
        return Ok(Loaded { record: None, plan: None, queued: Vec::new(), history: Vec::new(), anothers: false });
    };
    if Loaded::is_anothers(&record, key) {
        return Ok(Loaded::anothers(record, revision));
    }
    let (workflow, version) = (&record.correlation.workflow_id, &record.workflow_version);
    let plan = match cached(workflow, version) {
        Some(plan) => plan,
        None => plans::fetch(link, workflow, Some(version)).await.map_err(|e| e.to_string())?,
    };
    // In this order: a task that ends in between is gone from the queue, but its result is in the log.
    let queued = history::queued(link, id).await.map_err(|e| e.to_string())?;
    let mut history = history::read(link, id).await.map_err(|e| e.to_string())?;
    if planted(Bug::EventLeftOut) {
        history.pop();
    }
    let history = history
        .into_iter()
        .map(|(seq, entry)| match entry {
            history::Entry::Event(mut e) => {
                if planted(Bug::TokenUnchecked) {
                    e.token = None;
                }
                (seq, LogMessage::Event(e))
            }
            history::Entry::Command(c) => (seq, LogMessage::Command(c)),
        })
        .collect();
    Ok(Loaded { record: Some((record, revision)), plan: Some(plan), queued, history, anothers: false })
}
