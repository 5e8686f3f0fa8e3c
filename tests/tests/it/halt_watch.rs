//! The watch on the control flag: while it is interrupted nodes wait, without it they are halted.

use std::time::Duration;

use anyhow::ensure;
use haltline_client::{Code, Status};
use haltline_common::{control_watch::STALE_AFTER, js, types::Names};
use haltline_tests::{Site, checks, ledger, shapes, soon};
use serde_json::{Value, json};

use crate::COMMAND;

#[tokio::test]
async fn while_the_flag_cannot_be_read_nodes_wait() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = shapes::workflow(
        "interrupted",
        json!([
            { "id": "think", "type": "sleep", "params": { "duration": "600ms" } },
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } }, "depends_on": ["think"], "retry": { "attempts": 1 } },
        ]),
    )?;
    let id = site.submit(&chain, "interrupted", site.trading()).await?;
    soon("the first node runs", async || Ok(checks::seen(&site.client, &id, "node_started", "think").await?.is_some())).await?;
    site.nats.pause(true);
    // The time is the matter itself: the copy of the flag gets too old to trust.
    tokio::time::sleep(STALE_AFTER + Duration::from_millis(1500)).await;
    ensure!(ledger::arrivals(&site.ledger(), &id, "buy")?.all == 0, "an order was placed while nobody could have stopped it");
    site.nats.pause(false);
    let (record, events) = checks::ended(&site.client, "interrupted").await?;
    ensure!(record.status == Status::Completed, "{:?} {:?}", record.status, record.error);
    ensure!(
        events.iter().all(|e| e.attempt.unwrap_or(1) == 1),
        "waiting was counted as an attempt:\n{}",
        checks::kinds(&events).join("\n")
    );
    ensure!(!events.iter().any(|e| e.kind.as_str() == "node_retrying"), "{}", checks::kinds(&events).join("\n"));
    ensure!(ledger::arrivals(&site.ledger(), &id, "buy")?.filled == 1, "the order");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_worker_that_was_cut_off_obeys_the_halt() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let slow = shapes::workflow(
        "slow",
        json!([
            { "id": "think", "type": "sleep", "params": { "duration": "600ms" } },
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } }, "depends_on": ["think"] },
        ]),
    )?;
    let id = site.submit(&slow, "slow", site.trading()).await?;
    soon("the first node runs", async || Ok(checks::seen(&site.client, &id, "node_started", "think").await?.is_some())).await?;
    // The worker is cut off, as by a partition: it can neither hear of the halt nor tell.
    site.process("worker-1")?.pause(true);
    site.client.set_flag(haltline_common::types::control::Level::Halt, "cut off", "test").await?;
    tokio::time::sleep(STALE_AFTER + Duration::from_millis(500)).await;
    site.process("worker-1")?.pause(false);
    let (record, _) = checks::ended(&site.client, "slow").await?;
    ensure!(record.status == Status::Halted, "{:?}", record.status);
    ensure!(ledger::arrivals(&site.ledger(), &id, "buy")?.all == 0, "an order was placed after the halt");
    site.done();
    Ok(())
}

#[tokio::test]
async fn without_the_control_bucket_everything_is_halted() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    // Nobody tells a watch that its bucket is gone: it takes its time-out to find out, within which the
    // copy of the flag still counts.
    let slow = shapes::waiting("slow", "3500ms", "3500ms")?;
    let id = site.submit(&slow, "slow", site.trading()).await?;
    soon("a node runs", async || Ok(checks::seen(&site.client, &id, "node_started", "other").await?.is_some())).await?;
    let stream = Names::bucket_stream(&site.link().names.control_bucket());
    let _: Value = js::api(site.link(), &format!("STREAM.DELETE.{stream}"), &Value::Null).await?;
    let (record, events) = checks::ended(&site.client, "slow").await?;
    ensure!(record.status == Status::Halted, "{:?}\n{}", record.status, checks::kinds(&events).join("\n"));
    ensure!(ledger::arrivals(&site.ledger(), &id, "buy")?.all == 0, "an order was placed");
    let refused = site.client.submit(shapes::submission(&slow, "next", site.trading())).await;
    ensure!(refused.as_ref().is_err_and(|e| e.code == Code::EmergencyHalted), "{refused:?}");

    // `ensure` makes the bucket again, halted: whether there was a halt is not known any more.
    ensure!(site.caller().call(&["ensure"]).await?.code == Some(0), "ensure");
    ensure!(!site.client.flag().await?.state.runs(), "the new flag allows");
    let told = site.caller().call(&["resume", "--reason", "bucket made again"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    // Each watch finds the new bucket in its own time, and a worker that has not yet ends runs as halted.
    let revision = site.client.flag().await?.revision;
    soon("the worker has seen it", async || {
        Ok(site.client.workers().await?.iter().any(|w| w.gate == "open" && w.control_revision == revision))
    })
    .await?;
    let again = shapes::chain("again")?;
    site.client.put_workflow(&again).await?;
    soon("runs are accepted again", async || {
        let accepted = site.client.submit(shapes::submission(&again, "again", site.trading())).await;
        Ok(accepted.is_ok())
    })
    .await?;
    let (record, _) = checks::ended(&site.client, "again").await?;
    ensure!(record.status == Status::Completed, "{:?} {:?}", record.status, record.reason);
    site.done();
    Ok(())
}
