//! Executions that are one task: who tells their start and end.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::{history, types::json};
use haltline_tests::{Site, checks, shapes, until};
use serde_json::json;

use crate::COMMAND;

#[tokio::test]
async fn a_chain_that_only_computes_is_one_message_of_the_log() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let outcome = site.run(&shapes::computing("compute")?, "k", json!({})).await?;
    ensure!(outcome.status == Status::Completed, "{outcome:?}");
    let log = history::raw(site.link(), &outcome.execution_id).await?;
    let [(_, subject, body)] = &log[..] else { anyhow::bail!("{} messages: {log:?}", log.len()) };
    ensure!(*subject == site.link().names.input(&outcome.execution_id), "{subject}");
    ensure!(json::lines(body).count() == 8, "{}", String::from_utf8_lossy(body));
    let (record, events) = checks::ended(&site.client, "k").await?;
    let (first, last) = (events.first().context("no event")?, events.last().context("no event")?);
    ensure!(first.kind.as_str() == "execution_started" && first.node_count == Some(3) && first.timestamp == record.started_at, "{first:?}");
    ensure!(first.workflow_version.as_deref() == Some("1") && first.traceparent.is_some(), "{first:?}");
    ensure!(last.kind.as_str() == "execution_completed" && last.status.as_deref() == Some("completed"), "{last:?}");
    ensure!(last.event_count == Some(8) && record.event_count == Some(8), "{last:?}");
    ensure!(last.results.as_ref() == Some(&record.results) && last.duration_ms == record.duration_ms, "{last:?} {record:?}");
    ensure!(Some(last.timestamp) == record.finished_at, "{last:?} {record:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn who_watches_is_told_that_an_execution_waits_for_a_worker() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.ready(0).await?;
    let id = site.submit(&shapes::computing("compute")?, "k", json!({})).await?;
    until("the start is told", Duration::from_secs(5), async || {
        Ok(history::events(site.link(), &id).await?.first().is_some_and(|(_, e)| e.kind.as_str() == "execution_started").then_some(()))
    })
    .await?;
    // Its worker finds the start there, and tells the rest.
    site.spawn("worker-1", &["worker"], None)?;
    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(record.status == Status::Completed && events.len() == 8, "{record:?} {:?}", checks::kinds(&events));
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_cancel_before_any_worker_came_is_final() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.ready(0).await?;
    let id = site.submit(&shapes::computing("compute")?, "k", json!({})).await?;
    site.client.cancel(&id, "not wanted any more", "test").await?;
    site.spawn("worker-1", &["worker"], None)?;
    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(record.status == Status::Cancelled && record.nodes_completed == 0, "{record:?}");
    ensure!(checks::kinds(&events).first().is_some_and(|k| k == "execution_started"), "{:?}", checks::kinds(&events));
    site.done();
    Ok(())
}
