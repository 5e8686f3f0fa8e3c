//! Running workflows: order, parallelism, attempts, time-outs, failures, cancels.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::history;
use haltline_tests::{Site, checks, ledger, port, shapes, soon};
use serde_json::json;

use crate::COMMAND;

/// The events of a chain of three: eight, and what became of the order of the third.
const EVENTS: [&str; 10] = [
    "execution_started",
    "node_started price",
    "node_completed price",
    "node_started cheap",
    "node_completed cheap",
    "node_started buy",
    "effect_intended buy",
    "effect_settled buy",
    "node_completed buy",
    "execution_completed",
];

#[tokio::test]
async fn three_nodes_give_their_events_in_order() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let outcome = site.run(&shapes::chain("trade")?, "k", site.trading()).await?;
    ensure!(outcome.status == Status::Completed, "{outcome:?}");
    ensure!(outcome.outputs["buy"]["status"] == "filled", "{:?}", outcome.outputs);
    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(checks::kinds(&events) == EVENTS, "{:?}", checks::kinds(&events));
    ensure!(events.iter().all(|e| e.bot_id == "bot" && e.strategy_id == "dips" && e.workflow_id == "trade"), "correlation");
    ensure!(record.results == outcome.outputs && record.nodes_completed == 3, "{record:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn tasks_of_single_nodes_give_the_same_events() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator", &["coordinator", "--per-node-tasks"], None)?;
    site.spawn("worker-1", &["worker"], None)?;
    site.ready(1).await?;
    site.spawn_market().await?;
    site.run(&shapes::chain("trade")?, "k", site.trading()).await?;
    let (_, events) = checks::ended(&site.client, "k").await?;
    ensure!(checks::kinds(&events) == EVENTS, "{:?}", checks::kinds(&events));
    // Each result ends a task of its own: start and result, and of the order its intent and outcome.
    let of = |e: &haltline_common::types::event::Event| if e.node_id.as_deref() == Some("buy") { 4 } else { 2 };
    let alone = events.iter().filter(|e| e.kind.as_str() == "node_completed").all(|e| e.task_events == Some(of(e)) && e.segment.is_empty());
    ensure!(alone, "{events:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn parallel_nodes_run_in_parallel() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let sleep = |n: usize| json!({ "id": format!("s{n}"), "type": "sleep", "params": { "duration": "500ms" } });
    let four = shapes::workflow("four", (0..4).map(sleep).collect())?;
    let outcome = site.run(&four, "k", json!({})).await?;
    let took = outcome.duration_ms.context("no duration")?;
    ensure!(outcome.status == Status::Completed && (500.0..1500.0).contains(&took), "{took} ms: {outcome:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn what_may_pass_is_tried_three_times() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    // By default, with delays of one and two seconds.
    let timeout = shapes::workflow("timeout", json!([{ "id": "n", "type": "fail", "params": { "error_type": "Timeout" } }]))?;
    let nobody = format!("http://127.0.0.1:{}/", port::free());
    let connection = shapes::workflow("connection", json!([{ "id": "n", "type": "http", "params": { "url": nobody } }]))?;
    let other = shapes::workflow("other", json!([{ "id": "n", "type": "fail", "params": { "error_type": "Odd" } }]))?;
    let once = shapes::workflow(
        "once",
        json!([{ "id": "n", "type": "fail", "params": { "error_type": "Timeout" }, "retry": { "attempts": 1 } }]),
    )?;
    let recovers = shapes::workflow(
        "recovers",
        json!([{ "id": "n", "type": "fail", "params": { "error_type": "Timeout", "attempts": 1 }, "retry": { "delay": "20ms" } }]),
    )?;
    let all = [(&timeout, 3, false), (&connection, 3, false), (&other, 1, false), (&once, 1, false), (&recovers, 2, true)];
    for (definition, ..) in all {
        site.submit(definition, &definition.id, json!({})).await?;
    }
    for (definition, attempts, good) in all {
        let (record, events) = checks::ended(&site.client, &definition.id).await?;
        let name = &definition.id;
        let count = |kind: &str| events.iter().filter(|e| e.kind.as_str() == kind).count();
        ensure!(record.status == if good { Status::Completed } else { Status::Failed }, "{name}: {record:?}");
        ensure!(count("node_started") == attempts && count("node_retrying") == attempts - 1, "{name}: {:?}", checks::kinds(&events));
        let numbers: Vec<u32> = events.iter().filter(|e| e.kind.as_str() == "node_started").filter_map(|e| e.attempt).collect();
        ensure!(numbers == (1..=attempts as u32).collect::<Vec<_>>(), "{name}: {numbers:?}");
    }
    let (record, _) = checks::ended(&site.client, "connection").await?;
    ensure!(record.error_type.as_deref() == Some("Connection"), "{record:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_node_ends_at_its_timeout() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let hangs = shapes::workflow(
        "hangs",
        json!([{ "id": "n", "type": "sleep", "params": { "duration": "30s" }, "timeout": "200ms", "retry": { "attempts": 2, "delay": "10ms" } }]),
    )?;
    let outcome = site.run(&hangs, "k", json!({})).await?;
    ensure!(outcome.status == Status::Failed && outcome.error_type.as_deref() == Some("Timeout"), "{outcome:?}");
    ensure!(outcome.duration_ms.is_some_and(|ms| (400.0..5000.0).contains(&ms)), "{outcome:?}");
    // The whole execution has a limit, too: after it no node starts.
    let mut late = shapes::workflow(
        "late",
        json!([
            { "id": "a", "type": "sleep", "params": { "duration": "400ms" } },
            { "id": "b", "type": "static", "depends_on": ["a"] },
        ]),
    )?;
    late.timeout = Some(haltline_common::types::Millis(200));
    let outcome = site.run(&late, "late", json!({})).await?;
    ensure!(outcome.status == Status::TimedOut && outcome.error_type.as_deref() == Some("DeadlineExceeded"), "{outcome:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_failure_keeps_what_depends_on_it_from_starting() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    let buy = |inputs| json!({ "id": "buy", "type": "paper_order", "params": { "side": "buy", "quantity": "1", "symbol": "IBM" }, "inputs": inputs });
    let market = json!({ "input": "market" });
    let failing = shapes::workflow(
        "failing",
        json!([
            { "id": "bad", "type": "fail", "params": { "message": "on purpose" } },
            { "id": "next", "type": "log", "params": { "message": "never" }, "depends_on": ["bad"] },
            buy(json!({ "market": market, "signal": { "node": "next", "output": "message" } })),
        ]),
    )?;
    // Inputs that are not there: of the execution, of an earlier node of the same task, of a joined one.
    let no_input = shapes::workflow("no_input", json!([buy(json!({ "market": market, "limit_price": { "input": "nothing" } }))]))?;
    let no_output = shapes::workflow(
        "no_output",
        json!([
            { "id": "a", "type": "static" }, buy(json!({ "market": market, "signal": { "node": "a", "output": "nothing" } })),
        ]),
    )?;
    let no_joined = shapes::workflow(
        "no_joined",
        json!([
            { "id": "a", "type": "static" }, { "id": "b", "type": "static", "params": { "outputs": { "x": 1 } } },
            buy(json!({ "market": market, "signal": { "node": "a", "output": "nothing" }, "limit_price": { "node": "b", "output": "x" } })),
        ]),
    )?;
    for (definition, node, error_type, says) in [
        (&failing, "bad", "Failed", "on purpose"),
        (&no_input, "buy", "MissingInput", "limit_price"),
        (&no_output, "buy", "MissingInput", "signal"),
        (&no_joined, "buy", "MissingInput", "signal"),
    ] {
        let name = &definition.id;
        let outcome = site.run(definition, name, site.trading()).await?;
        let (record, events) = checks::ended(&site.client, name).await?;
        ensure!(record.status == Status::Failed && record.failed_node.as_deref() == Some(node), "{name}: {record:?}");
        ensure!(record.error_type.as_deref() == Some(error_type), "{name}: {record:?}");
        ensure!(record.error.as_deref().is_some_and(|e| e.contains(says)), "{name}: {record:?}");
        ensure!(checks::kinds(&events).last().is_some_and(|k| k == "execution_failed"), "{name}: {:?}", checks::kinds(&events));
        if node == "bad" {
            ensure!(
                checks::kinds(&events) == ["execution_started", "node_started bad", "node_failed bad", "execution_failed"],
                "{:?}",
                checks::kinds(&events)
            );
        }
        ensure!(ledger::arrivals(&site.ledger(), &outcome.execution_id, "buy")?.all == 0, "{name}: an order was placed");
    }
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_cancel_reaches_a_node_that_waits() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let definition = shapes::workflow(
        "naps",
        json!([
            { "id": "nap", "type": "sleep", "params": { "duration": "1h" }, "timeout": "2h" },
            { "id": "next", "type": "log", "params": { "message": "never" }, "depends_on": ["nap"] },
        ]),
    )?;
    let id = site.submit(&definition, "k", json!({})).await?;
    soon("it naps", async || Ok(checks::seen(&site.client, &id, "node_started", "nap").await?.is_some())).await?;
    let began = Instant::now();
    let told = site.caller().call(&["executions", "cancel", &id, "--reason", "enough", "--by", "test"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    let (record, events) = checks::ended(&site.client, "k").await?;
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    ensure!(record.status == Status::Cancelled, "{record:?}");
    ensure!(record.reason.as_deref().is_some_and(|r| r.contains("enough") && r.contains("test")), "{record:?}");
    let kinds = checks::kinds(&events);
    ensure!(kinds == ["execution_started", "node_started nap", "node_refused nap", "execution_cancelled"], "{kinds:?}");
    // Running code is reached within a fifth of a second.
    let (_, command) = history::commands(site.link(), &id).await?.into_iter().next().context("no command")?;
    let refused = events.iter().find(|e| e.kind.as_str() == "node_refused").context("not refused")?;
    let took = refused.timestamp.millis_since(command.timestamp);
    ensure!(took < 200, "the cancel reached the node after {took} ms");
    // What has ended stays as it is.
    site.client.cancel(&id, "again", "test").await?;
    let next = shapes::workflow("next", json!([{ "id": "a", "type": "static" }]))?;
    site.run(&next, "next", json!({})).await?;
    ensure!(checks::ended(&site.client, "k").await?.0 == record, "a cancel changed what had ended");
    site.done();
    Ok(())
}
