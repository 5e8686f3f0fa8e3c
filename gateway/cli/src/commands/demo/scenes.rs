//! The scenes. Each checks what it shows; the first thing that does not hold ends it.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use anyhow::{Context as _, bail, ensure};
use haltline_common::types::{control::Level, error::Code, event::EventType, record::Status};

use super::{stage::Stage, workflows};

/// Days of the autumn of 2008, when prices moved.
const DAY_OF_PANIC: &str = "2008-10-10";

/// One run: eight events, one fill.
pub async fn basic(stage: &mut Stage) -> anyhow::Result<String> {
    let definition = workflows::buy_below("demo_basic", "bot-basic", "1000")?;
    let outcome = stage.run(&definition, "AAPL", DAY_OF_PANIC).await?;
    let events = stage.events(&outcome.execution_id).await?;
    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
    let want = [
        "execution_started",
        "node_started",
        "node_completed",
        "node_started",
        "node_completed",
        "node_started",
        "effect_intended",
        "effect_settled",
        "node_completed",
        "execution_completed",
    ];
    ensure!(kinds == want, "the events are {kinds:?}");
    let arrivals = stage.arrivals(&outcome.execution_id).await?;
    ensure!(arrivals.len() == 1, "the market saw {} orders", arrivals.len());
    let close = outcome.outputs["price"]["close"].clone();
    let mut text = format!(
        "AAPL closed at {close} on {DAY_OF_PANIC}; bought 10 in {} ms, 8 events and the order's intent and outcome:\n",
        outcome.duration_ms.unwrap_or(0.0)
    );
    for e in &events {
        let node = e.node_id.as_deref().map(|n| format!(" {n}")).unwrap_or_default();
        let took = e.duration_ms.map(|d| format!(" ({d} ms)")).unwrap_or_default();
        let _ = writeln!(text, "{} {}{node}{took}", e.timestamp, e.kind.as_str());
    }
    Ok(text)
}

/// Halted: refused, nothing written, no order. Resumed: a good run.
pub async fn halt(stage: &mut Stage) -> anyhow::Result<String> {
    let definition = workflows::buy_below("demo_halt", "bot-halt", "1000")?;
    stage.client.put_workflow(&definition).await?;
    let before = stage.get("/v1/executions?limit=500").await?;
    stage.client.set_flag(Level::Halt, "demo: the operator pressed halt", "demo").await?;
    let refused = match stage.submit(&definition, "IBM", DAY_OF_PANIC).await {
        Ok(id) => bail!("{id} was accepted while halted"),
        Err(e) => e.downcast::<haltline_client::ApiError>().context("refused with something else")?,
    };
    ensure!(refused.code == Code::EmergencyHalted, "refused with {refused}");
    for part in ["state", "reason", "by", "at"] {
        ensure!(!refused.detail[part].is_null(), "the refusal does not name {part}: {}", refused.detail);
    }
    let after = stage.get("/v1/executions?limit=500").await?;
    ensure!(before == after, "a refused submission left something behind");
    stage.client.set_flag(Level::Normal, "demo: all clear", "demo").await?;
    let outcome = stage.run(&definition, "IBM", DAY_OF_PANIC).await?;
    Ok(format!("refused with \"{}\"\nresumed; {} then completed", refused.message, outcome.execution_id))
}

/// The record and the events are the same after every process was ended and started again.
pub async fn restart(stage: &mut Stage) -> anyhow::Result<String> {
    let definition = workflows::buy_below("demo_restart", "bot-restart", "1000")?;
    let id = stage.run(&definition, "IBM", DAY_OF_PANIC).await?.execution_id;
    let (record, events) = (stage.client.record(&id).await?, stage.events(&id).await?);
    stage.restart().await?;
    let again = stage.client.record(&id).await?;
    ensure!(again == record, "the record changed: {again:?}");
    ensure!(stage.events(&id).await? == events, "the events changed");
    let latest = stage.client.latest(&definition.id).await?.context("no latest execution")?;
    ensure!(latest.correlation.execution_id == id, "the latest execution is {}", latest.correlation.execution_id);
    Ok(format!("{id}: status {}, {} nodes, {} events, read back from KV and log", again.status.as_str(), again.results.len(), events.len()))
}

/// One id joins record, events, order and what the gateway tells.
pub async fn correlation(stage: &mut Stage) -> anyhow::Result<String> {
    let definition = workflows::buy_below("demo_correlation", "bot-corr", "1000")?;
    let id = stage.run(&definition, "AAPL", DAY_OF_PANIC).await?.execution_id;
    for e in stage.events(&id).await? {
        ensure!(e.execution_id == id && e.bot_id == "bot-corr" && e.strategy_id == "dips", "{} is not correlated", e.id);
    }
    let arrivals = stage.arrivals(&id).await?;
    let key = arrivals.first().and_then(|a| a["key"].as_str()).unwrap_or_default().to_owned();
    ensure!(key == format!("{id}/buy"), "the order's client id is `{key}`");
    let told = stage.get(&format!("/v1/executions/{id}")).await?;
    ensure!(told["execution_id"] == id.as_str(), "the gateway tells {}", told["execution_id"]);
    Ok(format!("{id} is on the record, 10 events, the order ({key}) and the gateway's answer"))
}

/// Three at once: own ids, own events, own orders.
pub async fn concurrent(stage: &mut Stage) -> anyhow::Result<String> {
    let mut ids = Vec::new();
    for (n, symbol) in ["AAPL", "IBM", "AAPL"].into_iter().enumerate() {
        let definition = workflows::buy_below(&format!("demo_concurrent_{n}"), &format!("bot-{n}"), "1000")?;
        ids.push((stage.submit(&definition, symbol, DAY_OF_PANIC).await?, format!("bot-{n}")));
    }
    for (id, bot) in &ids {
        let outcome = stage.outcome(id).await?;
        ensure!(outcome.status == Status::Completed, "{id} ended {}", outcome.status.as_str());
        let events = stage.events(id).await?;
        ensure!(events.len() == 10 && events.iter().all(|e| e.bot_id == *bot), "{id} has events of others");
        ensure!(stage.arrivals(id).await?.len() == 1, "{id} has not exactly one order");
    }
    let distinct: BTreeSet<&String> = ids.iter().map(|(id, _)| id).collect();
    ensure!(distinct.len() == 3, "ids are shared");
    Ok(ids.iter().map(|(id, bot)| format!("{id} of {bot}: 10 events, 1 order")).collect::<Vec<_>>().join("\n"))
}

/// The worker that runs a node dies; another one finishes, and the order is placed once.
pub async fn killed_worker(stage: &mut Stage) -> anyhow::Result<String> {
    let definition = workflows::slow("demo_killed", "2s")?;
    let id = stage.submit(&definition, "AAPL", DAY_OF_PANIC).await?;
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    let victim = loop {
        let events = stage.client.events(&id).await?;
        let thinking = events.iter().find(|(_, e)| e.kind == EventType::NodeStarted && e.node_id.as_deref() == Some("think"));
        if let Some((_, e)) = thinking {
            break e.worker_id.clone().context("the event names no worker")?;
        }
        ensure!(tokio::time::Instant::now() < until, "the node did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stage.kill(&victim);
    let killed = tokio::time::Instant::now();
    let outcome = stage.outcome(&id).await?;
    ensure!(outcome.status == Status::Completed, "{id} ended {}: {:?}", outcome.status.as_str(), outcome.error);
    let took = killed.elapsed();
    let events = stage.events(&id).await?;
    let finisher = events
        .iter()
        .find(|e| e.kind == EventType::NodeCompleted && e.node_id.as_deref() == Some("think"))
        .and_then(|e| e.worker_id.clone())
        .context("the node has no result")?;
    ensure!(finisher != victim, "the dead worker finished");
    ensure!(events.len() == 10, "{} events", events.len());
    let arrivals = stage.arrivals(&id).await?;
    ensure!(arrivals.len() == 1, "the order arrived {} times", arrivals.len());
    Ok(format!("{victim} was killed in the middle of a node; {finisher} finished {id} {took:.1?} later: 10 events, 1 order"))
}
