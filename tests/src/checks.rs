//! What must hold of an execution however often things died while it ran.

use std::{collections::HashSet, time::Duration};

use anyhow::ensure;
use haltline_client::{ApiError, Client, Code, Record};
use haltline_common::types::event::Event;

use crate::until;

/// The record follows the terminal event, and the other way round, within milliseconds; a
/// coordinator that died in between comes back within seconds.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);

/// The one execution of a key, once it has ended and its history is whole.
///
/// # Errors
/// When there are several, or it does not end, or its history has gaps, repeats or two ends.
pub async fn ended(client: &Client, key: &str) -> anyhow::Result<(Record, Vec<Event>)> {
    let record = until("the execution has ended", WHOLE_WITHIN, async || {
        let Some(all) = readable(client.executions(1000).await)? else { return Ok(None) };
        let found: Vec<Record> = all.into_iter().filter(|r| r.key == key).collect();
        ensure!(found.len() <= 1, "{} executions of one key: {found:?}", found.len());
        Ok(found.into_iter().next().filter(|r| r.status.is_terminal()))
    })
    .await?;
    let id = &record.correlation.execution_id;
    let events = until("the execution's history is whole", WHOLE_WITHIN, async || {
        let Some(events) = readable(client.events(id).await)? else { return Ok(None) };
        let last = events.iter().any(|(_, e)| e.kind.is_terminal());
        Ok((last && events.len() >= record.event_count.unwrap_or(0) as usize).then_some(events))
    })
    .await?;
    let events: Vec<Event> = events.into_iter().map(|(_, e)| e).collect();
    whole(&record, &events)?;
    Ok((record, events))
}

/// What was read; `None` if nobody answers, as while nats-server comes back.
fn readable<T>(read: Result<T, ApiError>) -> anyhow::Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.code == Code::Unavailable => {
            // Shown if the test fails: by then it is the only trace.
            eprintln!("looking again: {}", e.message);
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// That record and events of an ended execution agree and are complete.
///
/// # Errors
/// With what does not hold.
pub fn whole(record: &Record, events: &[Event]) -> anyhow::Result<()> {
    let list = || events.iter().map(|e| e.id.as_str()).collect::<Vec<_>>().join("\n  ");
    let ids: HashSet<&str> = events.iter().map(|e| e.id.as_str()).collect();
    ensure!(ids.len() == events.len(), "an event is given twice:\n  {}", list());
    ensure!(
        record.event_count == Some(ids.len() as u32),
        "the record tells {:?} events, there are {}:\n  {}",
        record.event_count,
        ids.len(),
        list()
    );
    let ends: Vec<&Event> = events.iter().filter(|e| e.kind.is_terminal()).collect();
    ensure!(ends.len() == 1, "{} terminal events:\n  {}", ends.len(), list());
    ensure!(
        ends[0].event_count == record.event_count,
        "the terminal event tells {:?} events, the record {:?}",
        ends[0].event_count,
        record.event_count
    );
    ensure!(
        ends[0].status.as_deref() == Some(record.status.as_str()),
        "the terminal event tells {:?}, the record {:?}",
        ends[0].status,
        record.status
    );
    ensure!(ends[0].results.as_ref() == Some(&record.results), "terminal event and record differ in their results");
    let id = &record.correlation.execution_id;
    ensure!(events.iter().all(|e| e.execution_id == *id), "events of others:\n  {}", list());
    Ok(())
}

/// The kinds of events, in order, as `node_started price`.
pub fn kinds(events: &[Event]) -> Vec<String> {
    let name = |e: &Event| match &e.node_id {
        Some(node) if !e.kind.is_terminal() => format!("{} {node}", e.kind.as_str()),
        _ => e.kind.as_str().to_owned(),
    };
    events.iter().map(name).collect()
}

/// Whether the log has an event of a kind about a node by now.
///
/// # Errors
/// When it cannot be read.
pub async fn seen(client: &Client, execution_id: &str, kind: &str, node: &str) -> anyhow::Result<Option<Event>> {
    let Some(events) = readable(client.events(execution_id).await)? else { return Ok(None) };
    Ok(events.into_iter().map(|(_, e)| e).find(|e| e.kind.as_str() == kind && e.node_id.as_deref() == Some(node)))
}
