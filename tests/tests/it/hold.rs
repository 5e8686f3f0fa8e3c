//! What holds goes on after a resume, and reads again what got too old meanwhile; what cannot be read again is refused.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::types::{
    control::OnHalt,
    definition::Definition,
    event::{Event, EventType},
};
use haltline_tests::{Site, checks, http, shapes, soon};
use serde_json::{Value, json};

use crate::{COMMAND, replay::replayed};

/// A quote, something that takes its time, and an order at the quote's price, which may be two seconds old. `wait`
/// depends on the quote, or runs beside it.
fn trade(site: &Site, id: &str, chained: bool) -> anyhow::Result<Definition> {
    let market = site.market_url();
    let after = if chained { json!(["quote"]) } else { json!([]) };
    let mut definition = shapes::workflow(
        id,
        json!([
            { "id": "quote", "type": "http", "params": { "url": format!("{market}/price/IBM"), "extract": { "close": "/close", "date": "/date" } } },
            // Computed from it, for what a limit costs: it must be of the same reading.
            { "id": "ok", "type": "threshold", "params": { "min": 1 }, "inputs": { "value": { "node": "quote", "output": "close" } } },
            { "id": "wait", "type": "sleep", "params": { "duration": "700ms" }, "depends_on": after },
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM", "market": market },
              "inputs": { "limit_price": { "node": "quote", "output": "close" }, "signal": { "node": "ok", "output": "pass" } },
              "depends_on": ["wait"], "max_input_age": "2s", "retry": { "attempts": 1 } },
        ]),
    )?;
    definition.on_halt = Some(OnHalt::Hold);
    Ok(definition)
}

/// Lines of the market's ledger about the order of an execution.
fn orders(site: &Site, id: &str) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(site.ledger()).context("the ledger")?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line["execution_id"] == id).collect())
}

fn of<'e>(events: &'e [Event], kind: EventType, node: &str) -> Vec<&'e Event> {
    events.iter().filter(|e| e.kind == kind && e.node_id.as_deref() == Some(node)).collect()
}

async fn status(site: &Site, id: &str, expected: Status) -> anyhow::Result<bool> {
    Ok(site.client.record(id).await?.status == expected)
}

#[tokio::test]
async fn what_holds_reads_again_what_got_too_old_and_orders_once() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let cases = [("read_again_chain", true), ("read_again", false)];
    let mut ids = Vec::new();
    for (key, chained) in cases {
        ids.push(site.submit(&trade(&site, key, chained)?, key, json!({})).await?);
    }
    soon("both are read", async || {
        let mut all = true;
        for id in &ids {
            all &= checks::seen(&site.client, id, "node_completed", "quote").await?.is_some();
        }
        Ok(all)
    })
    .await?;
    let told = site.caller().call(&["halt", "--reason", "wait"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    // The market moves on while they hold, for longer than a quote may be old.
    let moved = http::client()?.post(format!("{}/clock/advance", site.market_url())).json(&json!({ "bars": 5 })).send().await?;
    ensure!(moved.status().is_success(), "{moved:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    for id in &ids {
        soon("its record says that it waits", async || status(&site, id, Status::Waiting).await).await?;
        ensure!(orders(&site, id)?.is_empty(), "an order was placed during the halt");
    }
    let told = site.caller().call(&["resume", "--reason", "go on"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    for ((key, _), id) in cases.iter().zip(&ids) {
        let (record, events) = checks::ended(&site.client, key).await?;
        let list = checks::kinds(&events).join("\n");
        ensure!(record.status == Status::Completed && record.nodes_completed == 4, "{key}: {record:?}\n{list}");
        let stale = of(&events, EventType::NodeStale, "buy");
        ensure!(stale.len() == 1 && stale[0].read_again.len() == 2, "{key}: {stale:?}\n{list}");
        ensure!(stale[0].error.as_deref().is_some_and(|r| r.contains("max_input_age")), "{key}: {stale:?}");
        // Both are read once more; what only waited is not.
        let read = of(&events, EventType::NodeCompleted, "quote");
        ensure!(read.len() == 2 && of(&events, EventType::NodeCompleted, "ok").len() == 2, "{key}:\n{list}");
        ensure!(of(&events, EventType::NodeCompleted, "wait").len() == 1, "{key}:\n{list}");
        ensure!(read[0].attempt == Some(1) && read[1].attempt == Some(2) && read[1].token > read[0].token, "{key}: {read:?}");
        let prices: Vec<Value> = read.iter().filter_map(|e| e.outputs.as_ref()?.get("close").cloned()).collect();
        ensure!(prices.len() == 2 && prices[0] != prices[1], "{key}: the market did not move: {prices:?}");
        // One order, at the price that was read after the resume; that is what the record says, too.
        let placed = orders(&site, id)?;
        ensure!(placed.len() == 1 && placed[0]["outcome"] == "accepted", "{key}: {placed:?}");
        let decimal = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned).parse::<f64>().unwrap_or_default();
        ensure!((decimal(&placed[0]["limit_price"]) - decimal(&prices[1])).abs() < 1e-9, "{key}: {placed:?} {prices:?}");
        ensure!(record.results["quote"]["close"] == prices[1], "{key}: {:?}", record.results);
        // A coordinator that steps through the history finds the same end.
        replayed(&site, key, Status::Completed).await?;
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn an_input_that_only_acting_again_would_renew_is_refused() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let market = site.market_url();
    let mut definition = shapes::workflow(
        "acts",
        json!([
            { "id": "first", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM", "market": market } },
            { "id": "wait", "type": "sleep", "params": { "duration": "700ms" }, "depends_on": ["first"] },
            { "id": "second", "type": "paper_order", "params": { "side": "sell", "quantity": "1", "symbol": "IBM", "market": market },
              "inputs": { "limit_price": { "node": "first", "output": "price" } }, "depends_on": ["wait"], "max_input_age": "2s" },
        ]),
    )?;
    definition.on_halt = Some(OnHalt::Hold);
    let id = site.submit(&definition, "acts", json!({})).await?;
    soon("it waits", async || Ok(checks::seen(&site.client, &id, "node_started", "wait").await?.is_some())).await?;
    let told = site.caller().call(&["halt", "--reason", "wait"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let told = site.caller().call(&["resume", "--reason", "go on"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let (record, events) = checks::ended(&site.client, "acts").await?;
    let list = checks::kinds(&events).join("\n");
    ensure!(record.status == Status::Failed && record.error_type.as_deref() == Some("StaleInput"), "{record:?}\n{list}");
    ensure!(of(&events, EventType::NodeStale, "second").is_empty(), "{list}");
    let placed = orders(&site, &id)?;
    ensure!(placed.len() == 1, "the first order was repeated, or the second one placed: {placed:?}");
    site.done();
    Ok(())
}
