//! What a failure means: `on_error` of each kind, and executions whose time is over.

use std::time::Duration;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::{
    history::{self, Entry},
    types::{Millis, definition::Definition, event::CommandType},
};
use haltline_tests::{Site, checks, shapes, soon, until};
use serde_json::{Value, json};

use crate::COMMAND;

/// How late a deadline may be noticed.
const LATE_MS_MAX: u64 = 500;

fn log(id: &str, depends_on: Value) -> Value {
    json!({ "id": id, "type": "log", "params": { "message": id }, "depends_on": depends_on })
}

#[tokio::test]
async fn a_failure_under_skip_skips_what_depends_on_it() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    // A diamond: one of its sides fails.
    let diamond = shapes::workflow(
        "diamond",
        json!([
            { "id": "top", "type": "static", "params": { "outputs": { "n": 1 } } },
            { "id": "left", "type": "fail", "depends_on": ["top"], "params": { "message": "no price", "error_type": "Timeout" },
              "retry": { "attempts": 2, "delay": "10ms" }, "on_error": "skip" },
            { "id": "right", "type": "log", "inputs": { "message": { "node": "top", "output": "n" } } },
            log("join", json!(["left", "right"])),
            log("below", json!(["join"])),
        ]),
    )?;
    let caller = site.caller();
    let file = caller.write(&serde_json::to_string(&diamond)?)?;
    let told = caller.call(&["run", &file, "--key", "diamond"]).await?;
    ensure!(told.code == Some(0), "{told:?}");
    ensure!(told.out.contains("completed_with_errors") && told.out.contains("left (skip): Timeout: no price"), "{told:?}");
    let (record, events) = checks::ended(&site.client, "diamond").await?;
    ensure!(record.status == Status::CompletedWithErrors, "{record:?}");
    ensure!((record.nodes_completed, record.nodes_failed, record.nodes_skipped) == (2, 1, 2), "{record:?}");
    let [error] = &record.errors[..] else { anyhow::bail!("{record:?}") };
    ensure!((error.node_id.as_str(), error.error_type.as_str(), error.on_error.as_str()) == ("left", "Timeout", "skip"), "{error:?}");
    ensure!(record.results.len() == 2 && record.error.is_none() && record.failed_node.is_none(), "{record:?}");
    let kinds = checks::kinds(&events);
    for kind in ["node_retrying left", "node_failed left", "node_skipped join", "node_skipped below", "execution_completed"] {
        ensure!(kinds.iter().filter(|k| *k == kind).count() == 1, "{kind}: {kinds:?}");
    }
    ensure!(!kinds.iter().any(|k| k == "node_started join" || k == "node_started below"), "{kinds:?}");
    let skipped = events.iter().find(|e| e.node_id.as_deref() == Some("below")).context("below")?;
    ensure!(skipped.id == format!("{}/below/skipped", record.correlation.execution_id), "{skipped:?}");
    ensure!(skipped.reason.as_deref().is_some_and(|r| r.contains("`left`")), "{skipped:?}");

    let fine = shapes::workflow("fine", json!([log("a", json!([]))]))?;
    site.run(&fine, "fine", json!({})).await?;
    let listed = caller.call(&["executions", "list", "--status", "completed_with_errors", "--json"]).await?;
    ensure!(listed.out.contains("\"diamond\"") && !listed.out.contains("\"fine\""), "{listed:?}");
    let refused = caller.call(&["executions", "list", "--status", "finished"]).await?;
    ensure!(refused.code == Some(2) && refused.err.contains("timed_out"), "{refused:?}");
    site.tend().await?;
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_failure_under_continue_or_use_lets_the_rest_go_on() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let continues = shapes::workflow(
        "continues",
        json!([
            { "id": "shaky", "type": "fail", "on_error": "continue" },
            log("only_after", json!(["shaky"])),
            { "id": "needs", "type": "log", "inputs": { "message": { "node": "shaky", "output": "text" } }, "on_error": "skip" },
            log("behind", json!(["needs"])),
        ]),
    )?;
    let outcome = site.run(&continues, "continues", json!({})).await?;
    ensure!(outcome.status == Status::CompletedWithErrors && outcome.nodes_failed == 2, "{outcome:?}");
    ensure!(outcome.outputs.keys().eq(["only_after"]), "{outcome:?}");
    let missing = outcome.errors.iter().find(|e| e.node_id == "needs").context("needs")?;
    ensure!(missing.error_type == "MissingInput" && missing.error.contains("`shaky` failed"), "{missing:?}");
    let (_, events) = checks::ended(&site.client, "continues").await?;
    ensure!(checks::kinds(&events).contains(&"node_skipped behind".to_owned()), "{:?}", checks::kinds(&events));

    // Without an `on_error` of its own, the node that misses an input fails the execution.
    let closed = shapes::workflow(
        "closed",
        json!([
            { "id": "shaky", "type": "fail", "on_error": "continue" },
            { "id": "needs", "type": "log", "inputs": { "message": { "node": "shaky", "output": "text" } } },
        ]),
    )?;
    let outcome = site.run(&closed, "closed", json!({})).await?;
    ensure!(outcome.status == Status::Failed && outcome.error_type.as_deref() == Some("MissingInput"), "{outcome:?}");

    // In the middle of a chain, which is one task otherwise.
    let stands_in = shapes::workflow(
        "stands-in",
        json!([
            { "id": "first", "type": "static", "params": { "outputs": { "n": 1 } } },
            { "id": "price", "type": "fail", "depends_on": ["first"], "on_error": { "use": { "close": "12.5" } } },
            { "id": "cheap", "type": "threshold", "params": { "max": 100 }, "inputs": { "value": { "node": "price", "output": "close" } } },
            { "id": "tell", "type": "log", "inputs": { "message": { "node": "cheap", "output": "value" } } },
        ]),
    )?;
    let outcome = site.run(&stands_in, "stands-in", json!({})).await?;
    ensure!(outcome.status == Status::CompletedWithErrors, "{outcome:?}");
    ensure!(json!(outcome.outputs["tell"]) == json!({ "message": "12.5" }), "{outcome:?}");
    ensure!(!outcome.outputs.contains_key("price") && outcome.errors[0].on_error == "use", "{outcome:?}");
    checks::ended(&site.client, "stands-in").await?;

    // What stops an execution is no failure of a node.
    let naps = shapes::workflow(
        "naps",
        json!([
            { "id": "nap", "type": "sleep", "params": { "duration": "1h" }, "timeout": "2h", "on_error": { "use": { "slept_ms": 0 } } },
            log("next", json!(["nap"])),
        ]),
    )?;
    let id = site.submit(&naps, "naps", json!({})).await?;
    soon("it naps", async || Ok(checks::seen(&site.client, &id, "node_started", "nap").await?.is_some())).await?;
    site.client.cancel(&id, "enough", "test").await?;
    let (record, _) = checks::ended(&site.client, "naps").await?;
    ensure!(record.status == Status::Cancelled && record.errors.is_empty(), "{record:?}");

    // Definitions are refused with the field and the remedy.
    for (nodes, field) in [
        (json!([{ "id": "a", "type": "fail", "on_error": "ignore" }]), "nodes[0].on_error"),
        (json!([{ "id": "a", "type": "fail", "on_error": { "use": 5 } }]), "nodes[0].on_error"),
    ] {
        let e = shapes::workflow("refused", nodes).expect_err("refused");
        ensure!(e.to_string().contains(field) && e.to_string().contains("`skip`"), "{e}");
    }
    let lacks = shapes::workflow(
        "lacks",
        json!([
            { "id": "a", "type": "fail", "on_error": { "use": { "x": 1 } } },
            { "id": "b", "type": "log", "inputs": { "message": { "node": "a", "output": "y" } } },
        ]),
    )?;
    let e = site.client.put_workflow(&lacks).await.expect_err("refused");
    ensure!(e.message.contains("nodes[0].on_error.use") && e.message.contains("`y`"), "{e}");
    site.done();
    Ok(())
}

fn hour(id: &str, timeout: u64) -> anyhow::Result<Definition> {
    let nap = json!({ "id": "nap", "type": "sleep", "params": { "duration": "1h" }, "timeout": "2h", "on_error": "continue" });
    let definition = shapes::workflow(id, json!([nap, log("next", json!(["nap"]))]))?;
    Ok(Definition { timeout: Some(Millis(timeout)), ..definition })
}

#[tokio::test]
async fn a_running_node_ends_with_the_execution_s_time() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let id = site.submit(&hour("late", 1000)?, "late", json!({})).await?;
    let (record, events) = checks::ended(&site.client, "late").await?;
    ensure!(record.correlation.execution_id == id && record.status == Status::TimedOut, "{record:?}");
    let took = record.finished_at.context("an end")?.millis_since(record.started_at);
    ensure!((1000..=1000 + LATE_MS_MAX).contains(&took), "ended after {took} ms");
    ensure!(record.error_type.as_deref() == Some("DeadlineExceeded") && record.errors.is_empty(), "{record:?}");
    let kinds = checks::kinds(&events);
    ensure!(kinds == ["execution_started", "node_started nap", "node_refused nap", "execution_timed_out"], "{kinds:?}");
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_task_that_nobody_takes_times_out() -> anyhow::Result<()> {
    let mut site = Site::bare(COMMAND).await?;
    site.spawn("coordinator", &["coordinator"], None)?;
    site.spawn("worker-1", &["worker", "--id", "worker-1", "--types", "log"], None)?;
    site.ready(1).await?;
    let id = site.submit(&hour("never", 500)?, "never", json!({})).await?;
    let deadline = site.client.record(&id).await?.started_at.0 + 500;
    // Without anybody who could tell it.
    let command = until("the coordinator says that its time is over", Duration::from_secs(10), async || {
        let log = history::read(site.link(), &id).await?;
        Ok(log.into_iter().find_map(|(_, entry)| match entry {
            Entry::Command(c) if c.kind == CommandType::Timeout => Some(c),
            _ => None,
        }))
    })
    .await?;
    let late = command.timestamp.0 - deadline;
    ensure!((1..=LATE_MS_MAX as i64).contains(&late), "{late} ms after its deadline");
    // Whoever takes it now does not run it.
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    let (record, events) = checks::ended(&site.client, "never").await?;
    ensure!(record.status == Status::TimedOut, "{record:?}");
    ensure!(!checks::kinds(&events).iter().any(|k| k.starts_with("node_started")), "{:?}", checks::kinds(&events));
    site.done();
    Ok(())
}
