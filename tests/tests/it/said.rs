//! What a worker says, and does, about effects that are open while a flag stands.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use haltline_client::Status;
use haltline_common::{
    control_watch::{ControlWatch, LeaseTimes},
    types::{
        control::{Lease, Level, OpenEffect, Scope},
        event::EventType,
    },
};
use haltline_tests::{Relay, Site, checks, shapes, soon};
use serde_json::json;

use crate::COMMAND;

const WITHIN: Duration = Duration::from_secs(10);
/// Between two things said.
const APART: Duration = Duration::from_millis(20);

#[tokio::test]
async fn what_becomes_of_open_effects_is_said_fifty_times_a_second_at_most() -> anyhow::Result<()> {
    let site = Site::bare(COMMAND).await?;
    let link = site.link();
    let mut said = link.client.subscribe(link.names.seen("busy")).await?;
    let mut control = ControlWatch::start_holding(link, "busy", LeaseTimes::default());
    ensure!(control.ready(WITHIN).await, "the flags were not read");
    let flag = site.client.raise(&Scope::Bot("other".into()), Level::Halt, "op", "stands").await?;
    soon("the flag is here", async || Ok(control.revision() >= flag.revision)).await?;
    let holder = control.holder().context("no holder")?;
    let effect: OpenEffect = serde_json::from_value(json!({
        "execution_id": "exec_1", "node_id": "buy", "key": "k", "since": "2026-11-23T00:00:00.000Z", "workflow_id": "w", "effect": "opens_risk",
    }))?;
    let (began, mut changes) = (Instant::now(), 0);
    let mut due = tokio::time::interval(Duration::from_millis(2));
    while began.elapsed() < Duration::from_secs(2) {
        due.tick().await;
        holder.open(effect.clone()).settled();
        changes += 2;
    }
    let _last = holder.open(OpenEffect { key: "last".into(), ..effect });
    let mut count = 0;
    loop {
        let message = tokio::time::timeout(WITHIN, said.next()).await.context("the last one is not said")?.context("cut off")?;
        let lease: Lease = serde_json::from_slice(&message.payload)?;
        count += 1;
        if lease.open.iter().any(|o| o.key == "last") {
            ensure!(lease.seen >= flag.revision, "{lease:?}");
            break;
        }
    }
    let most = began.elapsed().as_millis() / APART.as_millis() + 2; // the flag itself, and what was begun
    ensure!(count <= most, "{changes} changes were said {count} times, {most} at most");
    ensure!(count >= 10, "{changes} changes were said {count} times");
    ensure!(changes > 4 * count, "{changes} changes are too few to show a bound of {most}");
    site.done();
    Ok(())
}

/// An order that takes risk away may go on under `reducing`, and what follows it may not: it goes by its own flags, and its
/// attempts are counted.
#[tokio::test]
async fn who_may_go_on_is_tried_again_by_its_own_flags_whatever_follows_it() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let port = site.market_url().rsplit(':').next().context("a port")?.parse()?;
    let relay = Relay::start(port).await?;
    relay.hold(true);
    let order = |id: &str, side: &str, effect: &str, after: &[&str]| {
        json!({ "id": id, "type": "paper_order", "effect": effect, "depends_on": after, "retry": { "attempts": 3 },
                "params": { "side": side, "quantity": "1", "symbol": "IBM", "market": relay.url, "timeout": "400ms" } })
    };
    let definition =
        shapes::workflow("turns", json!([order("sell", "sell", "reduces_risk", &[]), order("buy", "buy", "opens_risk", &["sell"])]))?;
    site.submit(&definition, "turns", json!({})).await?;
    soon("the order is on its way", async || Ok(relay.arrived() > 0)).await?;
    site.client.raise(&Scope::Global, Level::Reducing, "op", "less").await?;
    // Nobody answers, neither to the order nor to the question: three attempts, then nobody knows, and what follows may not run.
    let (record, events) = checks::ended(&site.client, "turns").await?;
    let retried: Vec<u32> = events.iter().filter(|e| e.kind == EventType::NodeRetrying).filter_map(|e| e.attempt).collect();
    ensure!(retried == [1, 2], "{record:?}\n{}", checks::kinds(&events).join("\n"));
    ensure!(record.status == Status::Halted, "{record:?}");
    ensure!(record.unknown_nodes.iter().any(|n| n.node_id == "sell" && n.attempt == 3), "{record:?}");
    site.done();
    Ok(())
}
