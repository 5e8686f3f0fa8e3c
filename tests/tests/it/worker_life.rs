//! Workers come and go: presence, handing back, being killed and being cut off.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::{clock, history, js, types::Names};
use haltline_tests::{Site, checks, ledger, shapes, soon, until};
use serde_json::{Value, json};

use crate::COMMAND;

async fn present(site: &Site, id: &str) -> anyhow::Result<bool> {
    Ok(site.client.workers().await?.iter().any(|w| w.worker_id == id))
}

#[tokio::test]
async fn a_worker_is_listed_while_it_lives() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    let list = site.client.workers().await?;
    let of = list.iter().find(|w| w.worker_id == "worker-1").context("not listed")?;
    ensure!(of.gate == "open" && of.slots.contains_key("paper_order") && !of.draining, "{of:?}");
    site.process("worker-1")?.terminate();
    until("a worker that left is not listed", Duration::from_secs(3), async || Ok((!present(&site, "worker-1").await?).then_some(())))
        .await?;
    soon("it has ended", async || Ok(!site.process("worker-1")?.runs())).await?;

    site.spawn("worker-2", &["worker", "--id", "worker-2", "--types", "sleep,log"], None)?;
    soon("the second is listed", async || present(&site, "worker-2").await).await?;
    site.process("worker-2")?.kill();
    // Its entry expires ten seconds after it was written last.
    until("a killed worker is not listed", Duration::from_secs(15), async || Ok((!present(&site, "worker-2").await?).then_some(())))
        .await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_stopping_worker_hands_back_at_once() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1", "--slots-for", "sleep=1"], None)?;
    site.ready(1).await?;
    // One that waits for its next attempt, one that runs, one that waits for a slot.
    let waits = shapes::workflow(
        "waits",
        json!([
            { "id": "n", "type": "fail", "params": { "error_type": "Timeout", "attempts": 1 }, "retry": { "attempts": 2, "delay": "50s", "factor": 1 } }
        ]),
    )?;
    let naps = shapes::workflow(
        "naps",
        json!([
            { "id": "a", "type": "static" }, { "id": "nap", "type": "sleep", "params": { "duration": "2s" }, "depends_on": ["a"] },
            { "id": "b", "type": "log", "params": { "message": "woke" }, "depends_on": ["nap"] },
        ]),
    )?;
    let waiting = site.submit(&waits, "waits", json!({})).await?;
    let first = site.submit(&naps, "first", json!({})).await?;
    soon("the first naps", async || Ok(checks::seen(&site.client, &first, "node_started", "nap").await?.is_some())).await?;
    let second = site.submit(&naps, "second", json!({})).await?;
    soon("the second wants to nap", async || Ok(checks::seen(&site.client, &second, "node_started", "nap").await?.is_some())).await?;
    soon("the other waits", async || Ok(checks::seen(&site.client, &waiting, "node_retrying", "n").await?.is_some())).await?;
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    site.ready(2).await?;

    site.process("worker-1")?.terminate();
    let began = Instant::now();
    until("the second worker goes on with the next attempt", Duration::from_secs(3), async || {
        let events = site.client.events(&waiting).await?;
        Ok(events.into_iter().find(|(_, e)| e.attempt == Some(2) && e.worker_id.as_deref() == Some("worker-2")))
    })
    .await?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(1), "handed over after {took:?}");
    for (key, napped_at) in [("first", "worker-1"), ("second", "worker-2")] {
        let (record, events) = checks::ended(&site.client, key).await?;
        ensure!(record.status == Status::Completed, "{key}: {record:?}");
        let by = |node: &str| {
            events
                .iter()
                .find(|e| e.kind.as_str() == "node_completed" && e.node_id.as_deref() == Some(node))
                .and_then(|e| e.worker_id.clone())
        };
        ensure!(by("nap").as_deref() == Some(napped_at), "{key}: napped at {:?}", by("nap"));
        ensure!(by("b").as_deref() == Some("worker-2"), "{key}: went on at {:?}", by("b"));
    }
    // Had it not been handed back at once, its nap would have begun three seconds later.
    ensure!(began.elapsed() < Duration::from_millis(4500), "the second's nap began late: {:?}", began.elapsed());
    soon("the first worker has ended", async || Ok(!site.process("worker-1")?.runs())).await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_worker_that_was_cut_off_does_not_trade_twice() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let slow = shapes::workflow(
        "slow",
        json!([
            { "id": "think", "type": "sleep", "params": { "duration": "500ms" } },
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } }, "depends_on": ["think"] },
        ]),
    )?;
    let id = site.submit(&slow, "k", site.trading()).await?;
    soon("it thinks", async || Ok(checks::seen(&site.client, &id, "node_started", "think").await?.is_some())).await?;
    site.process("worker-1")?.pause(true);
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    let (record, _) = checks::ended(&site.client, "k").await?;
    ensure!(record.status == Status::Completed, "{record:?}");
    // The first one wakes up and believes to hold the task still.
    site.process("worker-1")?.pause(false);
    soon("it is back", async || Ok(site.client.workers().await?.iter().any(|w| w.worker_id == "worker-1" && w.in_flight == 0))).await?;
    let next = shapes::chain("next")?;
    site.run(&next, "next", site.trading()).await?;
    let (again, events) = checks::ended(&site.client, "k").await?;
    ensure!(again == record, "the record changed: {again:?}");
    let arrived = ledger::arrivals(&site.ledger(), &id, "buy")?;
    ensure!(arrived.filled == 1, "{arrived:?}\n{}", checks::kinds(&events).join("\n"));
    site.done();
    Ok(())
}

/// More than any of this takes.
const TIME: Duration = Duration::from_secs(20);
/// How long the tasks of a killed worker may wait for another one.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_killed_worker_s_tasks_run_elsewhere_within_two_seconds() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    site.ready(2).await?;
    let long = shapes::workflow("long", json!([{ "id": "think", "type": "sleep", "params": { "duration": "8s" }, "timeout": "10m" }]))?;
    let (mut dead, mut healthy) = (Vec::new(), Vec::new());
    for n in 0..24 {
        let id = site.submit(&long, &format!("k{n}"), json!({})).await?;
        let started = until("it runs", TIME, async || checks::seen(&site.client, &id, "node_started", "think").await).await?;
        if started.worker_id.as_deref() == Some("worker-1") { dead.push(id) } else { healthy.push(id) }
    }
    ensure!(!dead.is_empty() && !healthy.is_empty(), "{} and {}", dead.len(), healthy.len());
    let link = site.link().clone();
    site.process("worker-1")?.kill();
    let killed = clock::now();
    for id in &dead {
        let claim =
            until("another worker claims it", TIME, async || Ok(history::commands(&link, id).await?.into_iter().next().map(|(_, c)| c)))
                .await?;
        let after = claim.timestamp.millis_since(killed);
        ensure!(claim.by.starts_with("worker-2/") && Duration::from_millis(after) < ELSEWHERE_WITHIN, "{claim:?} after {after} ms");
    }
    for n in 0..24 {
        let (record, _) = checks::ended(&site.client, &format!("k{n}")).await?;
        ensure!(record.status == Status::Completed, "{record:?}");
    }
    // Whoever was healthy went on undisturbed.
    for id in &healthy {
        ensure!(history::commands(&link, id).await?.is_empty(), "{id} was claimed");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_worker_whose_entry_cannot_be_written_keeps_its_tasks() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    site.ready(2).await?;
    let long = shapes::workflow("long", json!([{ "id": "think", "type": "sleep", "params": { "duration": "9s" } }]))?;
    // What a bucket without a leader is to a worker: nobody answers its writes.
    let stream = Names::bucket_stream(&site.link().names.workers_bucket());
    let _: Value = js::api(site.link(), &format!("STREAM.DELETE.{stream}"), &Value::Null).await?;
    let mut all = Vec::new();
    for n in 0..6 {
        all.push(site.submit(&long, &format!("k{n}"), json!({})).await?);
    }
    for (n, id) in all.iter().enumerate() {
        let (record, _) = checks::ended(&site.client, &format!("k{n}")).await?;
        ensure!(record.status == Status::Completed, "{record:?}");
        ensure!(history::commands(site.link(), id).await?.is_empty(), "{id} was claimed");
    }
    site.done();
    Ok(())
}
