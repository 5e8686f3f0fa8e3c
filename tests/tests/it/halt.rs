//! The emergency halt: whatever the flag's value is, only a plain allowance runs.

use std::time::Duration;

use anyhow::ensure;
use async_nats::HeaderMap;
use haltline_client::{Code, Status};
use haltline_common::{
    outbox::Write,
    publisher::Publisher,
    types::{
        Names,
        control::{GLOBAL_KEY, Level, OnHalt},
    },
};
use haltline_tests::{Site, checks, ledger, shapes, soon, until};
use serde_json::json;

use crate::COMMAND;

type Headers = &'static [(&'static str, &'static str)];

/// Writes the flag's value as any NATS client can: no library of ours, no compare-and-swap.
async fn put(site: &Site, headers: Headers, value: &'static [u8]) -> anyhow::Result<()> {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let subject = Names::kv_subject(&site.link().names.control_bucket(), GLOBAL_KEY);
    let write = Write::repeatable(subject, map, value);
    Publisher::start(site.link()).await?.write(write).await?;
    Ok(())
}

#[tokio::test]
async fn whatever_is_no_allowance_refuses() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let chain = shapes::chain("trade")?;
    site.client.put_workflow(&chain).await?;
    let values: [(&str, Headers, &'static [u8]); 8] = [
        ("a plain word", &[], b"HALT"),
        ("a plain word of another kind", &[], b"shutdown\n"),
        ("a deleted key", &[("KV-Operation", "DEL")], b""),
        ("a purged key", &[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")], b""),
        ("no JSON", &[], b"{ malformed"),
        ("no text", &[], b"\xff\xfe\x00"),
        ("an unknown state", &[], br#"{"state":"fine"}"#),
        ("nothing", &[], b""),
    ];
    for (n, (what, headers, value)) in values.into_iter().enumerate() {
        put(&site, headers, value).await?;
        let flag = site.client.flag().await?;
        ensure!(!flag.state.runs(), "{what}: {flag:?}");
        // The coordinator hears of it within milliseconds; until then it may accept.
        soon("the coordinator refuses", async || {
            let key = format!("probe-{n}-{}", uniq());
            let refused = site.client.submit(shapes::submission(&chain, &key, site.trading())).await.err();
            Ok(refused.is_some_and(|e| e.code == Code::EmergencyHalted))
        })
        .await?;
        let after_probes = site.client.executions(1000).await?.len();
        let refused = site.client.submit(shapes::submission(&chain, &format!("refused-{n}"), site.trading())).await;
        let e = refused.err().ok_or_else(|| anyhow::anyhow!("{what}: accepted"))?;
        ensure!(e.code == Code::EmergencyHalted, "{what}: {e:?}");
        ensure!(!e.detail["state"].is_null() && !e.detail["reason"].is_null(), "{what}: the refusal does not say why: {e:?}");
        ensure!(site.client.executions(1000).await?.len() == after_probes, "{what}: a refused submission left something");
        let told = site.caller().call(&["submit", "trade", "--json"]).await?;
        ensure!(told.code == Some(3) && told.out.contains("EmergencyHalted"), "{what}: {told:?}");
        ensure!(site.caller().call(&["status", "--json"]).await?.code == Some(3), "{what}: status");

        let resume = ["resume", "--reason", "next value", "--by", "test"];
        if flag.state == Level::Shutdown {
            // Only a second confirmation leads out.
            ensure!(site.caller().call(&resume).await?.code != Some(0), "{what}: left without a confirmation");
            ensure!(site.client.flag().await?.state == Level::Shutdown, "{what}: the refused resume changed something");
        }
        let told = site.caller().call(&[&resume[..], &["--confirm", "global"]].concat()).await?;
        ensure!(told.code == Some(0), "{what}: {told:?}");
        let good = until("a run is accepted again", Duration::from_secs(10), async || {
            match site.client.submit(shapes::submission(&chain, &format!("good-{n}"), site.trading())).await {
                Ok(accepted) => Ok(Some(accepted)),
                Err(e) if e.code == Code::EmergencyHalted => Ok(None),
                Err(e) => Err(e.into()),
            }
        })
        .await?;
        let (record, _) = checks::ended(&site.client, &format!("good-{n}")).await?;
        ensure!(record.status == Status::Completed, "{what}: the run after it ended {:?} {:?}", record.status, record.reason);
        ensure!(ledger::arrivals(&site.ledger(), &good.execution_id, "buy")?.filled == 1, "{what}: the order after it");
    }
    site.done();
    Ok(())
}

/// Numbers that are not used twice.
pub fn uniq() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn a_halt_ends_what_runs() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    // A chain in one task, and branches that a coordinator joins: both stop after the running node.
    let chain = shapes::workflow(
        "chain",
        json!([
            { "id": "think", "type": "sleep", "params": { "duration": "1500ms" } },
            { "id": "log", "type": "log", "params": { "message": "no" }, "depends_on": ["think"] },
            { "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" },
              "inputs": { "market": { "input": "market" } }, "depends_on": ["log"] },
        ]),
    )?;
    let joined = shapes::waiting("joined", "1500ms", "1500ms")?;
    let a = site.submit(&chain, "chain", site.trading()).await?;
    let b = site.submit(&joined, "joined", site.trading()).await?;
    soon("all nodes run", async || {
        let think = checks::seen(&site.client, &a, "node_started", "think").await?;
        let one = checks::seen(&site.client, &b, "node_started", "one").await?;
        let other = checks::seen(&site.client, &b, "node_started", "other").await?;
        Ok(think.and(one).and(other).is_some())
    })
    .await?;
    let told = site.caller().call(&["halt", "--reason", "a drill", "--by", "test"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    for key in ["chain", "joined"] {
        let (record, events) = checks::ended(&site.client, key).await?;
        let kinds = checks::kinds(&events);
        ensure!(record.status == Status::Halted, "{key}: {:?}\n{}", record.status, kinds.join("\n"));
        ensure!(kinds.last().is_some_and(|k| k == "execution_halted"), "{key}:\n{}", kinds.join("\n"));
        ensure!(record.reason.as_deref().is_some_and(|r| r.contains("a drill") && r.contains("test")), "{key}: {:?}", record.reason);
        let started = kinds.iter().filter(|k| k.starts_with("node_started")).count();
        ensure!(started == if key == "chain" { 1 } else { 2 }, "{key}: nodes started after the halt:\n{}", kinds.join("\n"));
        ensure!(ledger::arrivals(&site.ledger(), &record.correlation.execution_id, "buy")?.all == 0, "{key}: an order was placed");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_halt_during_the_last_node_is_not_completed() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    // Without a node that acts a halt lets it go on, unless it says otherwise.
    let mut last = shapes::workflow(
        "last",
        json!([
            { "id": "first", "type": "static" },
            { "id": "last", "type": "sleep", "params": { "duration": "1s" }, "depends_on": ["first"] },
        ]),
    )?;
    last.on_halt = Some(OnHalt::Abort);
    let id = site.submit(&last, "last", json!({})).await?;
    soon("the last node runs", async || Ok(checks::seen(&site.client, &id, "node_started", "last").await?.is_some())).await?;
    site.client.set_flag(Level::Halt, "during the last node", "test").await?;
    let (record, events) = checks::ended(&site.client, "last").await?;
    ensure!(record.status == Status::Halted, "{:?}\n{}", record.status, checks::kinds(&events).join("\n"));
    // What it did is told all the same.
    ensure!(record.results.contains_key("last") && record.nodes_completed == 2, "{record:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_graver_level_stays_and_alert_runs() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let one = shapes::workflow("one", json!([{ "id": "a", "type": "static" }]))?;
    site.client.set_flag(Level::Alert, "watch closely", "test").await?;
    ensure!(site.run(&one, "alert", json!({})).await?.status == Status::Completed, "alert does not run");
    site.client.set_flag(Level::Shutdown, "for good", "test").await?;
    let flag = site.client.set_flag(Level::Halt, "lesser", "test").await?;
    ensure!(flag.state == Level::Shutdown, "a halt lowered a shutdown: {flag:?}");
    let lowered = site.client.set_flag(Level::Alert, "lower", "test").await;
    ensure!(lowered.as_ref().is_err_and(|e| e.code == Code::Conflict), "alert lowered a shutdown: {lowered:?}");
    // Every change is an event of the log, in order.
    let events = site.link().names.control_events();
    soon("the changes are events", async || {
        let info = haltline_common::js::api::<serde_json::Value>(
            site.link(),
            &format!("STREAM.INFO.{}", site.link().names.events_stream()),
            &json!({ "subjects_filter": events }),
        )
        .await?;
        Ok(info["state"]["subjects"][&events].as_u64().unwrap_or(0) >= 2)
    })
    .await?;
    site.done();
    Ok(())
}
