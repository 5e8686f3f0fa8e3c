//! Histories of real runs, downloaded and stepped through offline: the core finds the end that was
//! recorded. With `HALTLINE_GOLDEN` naming a folder the files are kept there: the core's tests replay
//! those of every version (`coordinator/core/tests/golden`).

use std::path::PathBuf;

use anyhow::{Context, ensure};
use haltline_client::Status;
use haltline_common::types::{Millis, control::Level, definition::Definition};
use haltline_tests::{Site, checks, shapes, soon};
use serde_json::{Value, json};

use crate::COMMAND;

/// A node that may be depended on.
fn number(id: &str, depends_on: &[&str]) -> Value {
    json!({ "id": id, "type": "static", "params": { "outputs": { "n": id } }, "depends_on": depends_on })
}

fn fan(id: &str, wide: usize) -> anyhow::Result<Definition> {
    let names: Vec<String> = (0..wide).map(|i| format!("n{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let nodes: Vec<Value> =
        [number("first", &[])].into_iter().chain(all.iter().map(|n| number(n, &["first"]))).chain([number("last", &all)]).collect();
    shapes::workflow(id, json!(nodes))
}

/// What ended is downloaded and replayed; the file.
pub async fn replayed(site: &Site, key: &str, status: Status) -> anyhow::Result<PathBuf> {
    let (record, events) = checks::ended(&site.client, key).await?;
    ensure!(record.status == status, "{key}: {:?} {:?}\n{}", record.status, record.error, checks::kinds(&events).join("\n"));
    let file = folder(site)?.join(format!("{key}.jsonl"));
    let name = file.to_string_lossy().into_owned();
    let told = site.caller().call(&["executions", "history", &record.correlation.execution_id, "--download", &name]).await?;
    ensure!(told.code == Some(0), "{key}: {told:?}");
    let told = site.caller().call(&["replay", &name, "--json"]).await?;
    ensure!(told.code == Some(0), "{key}: {told:?}");
    let verdict: Value = serde_json::from_str(told.out.lines().last().context("nothing told")?)?;
    ensure!(verdict["verdict"]["decided"] == status.as_str() && verdict["agrees"] == true, "{key}: {verdict}");
    Ok(file)
}

#[allow(clippy::disallowed_methods, reason = "documented above: where recorded histories are kept")]
fn folder(site: &Site) -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("HALTLINE_GOLDEN").map_or_else(|| site.folder().join("golden"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[tokio::test]
async fn recorded_ends_are_found_again() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    site.spawn_market().await?;
    site.run(&shapes::chain("chain")?, "chain", site.trading()).await?;
    let file = replayed(&site, "chain", Status::Completed).await?;
    site.run(&shapes::parallel("diamond")?, "diamond", site.trading()).await?;
    replayed(&site, "diamond", Status::Completed).await?;
    site.run(&fan("fan", 20)?, "fan", json!({})).await?;
    replayed(&site, "fan", Status::Completed).await?;
    site.run(&shapes::retrying("retried")?, "retried", site.trading()).await?;
    replayed(&site, "retried", Status::Completed).await?;
    // Its worker tells start and end: the core finds the same.
    site.run(&shapes::computing("whole")?, "whole", json!({})).await?;
    replayed(&site, "whole", Status::Completed).await?;
    let failing = shapes::workflow(
        "failing",
        json!([
            number("one", &[]),
            { "id": "bad", "type": "fail", "params": { "attempts": 9, "error_type": "Timeout" },
              "retry": { "attempts": 3, "delay": "20ms" }, "depends_on": ["one"] },
            number("never", &["bad"]),
        ]),
    )?;
    site.run(&failing, "failed", json!({})).await?;
    replayed(&site, "failed", Status::Failed).await?;

    let admitting = shapes::workflow(
        "admitting",
        json!([
            { "id": "bad", "type": "fail", "params": { "attempts": 9 }, "on_error": "skip" },
            number("skipped", &["bad"]),
            { "id": "used", "type": "fail", "params": { "attempts": 9 }, "on_error": { "use": { "n": 1 } } },
            number("last", &["used"]),
        ]),
    )?;
    site.run(&admitting, "admitted", json!({})).await?;
    replayed(&site, "admitted", Status::CompletedWithErrors).await?;
    let mut late = shapes::waiting("late", "30s", "10ms")?;
    late.timeout = Some(Millis(700));
    site.submit(&late, "timed_out", site.trading()).await?;
    replayed(&site, "timed_out", Status::TimedOut).await?;

    let slow = |id: &str| shapes::waiting(id, "30s", "10ms");
    let id = site.submit(&slow("stopped")?, "cancelled", site.trading()).await?;
    soon("it runs", async || Ok(checks::seen(&site.client, &id, "node_completed", "other").await?.is_some())).await?;
    site.client.cancel(&id, "not wanted", "test").await?;
    replayed(&site, "cancelled", Status::Cancelled).await?;
    let halting = shapes::waiting("halting", "1s", "10ms")?;
    let id = site.submit(&halting, "halted", site.trading()).await?;
    soon("it runs", async || Ok(checks::seen(&site.client, &id, "node_completed", "other").await?.is_some())).await?;
    site.client.set_flag(Level::Halt, "a drill", "test").await?;
    replayed(&site, "halted", Status::Halted).await?;
    site.client.set_flag(Level::Normal, "over", "test").await?;

    // A worker dies between two nodes: another one goes on; then the coordinator dies as well.
    let nodes = json!([
        number("one", &[]),
        { "id": "two", "type": "sleep", "params": { "duration": "500ms" }, "depends_on": ["one"] },
        number("three", &["two"]),
        number("four", &["two", "three"]),
    ]);
    let crashed = shapes::workflow("crashed", nodes)?;
    let id = site.submit(&crashed, "recovered", json!({})).await?;
    soon("it runs", async || Ok(checks::seen(&site.client, &id, "node_started", "two").await?.is_some())).await?;
    site.process("worker-1")?.kill();
    site.process("coordinator")?.kill();
    site.spawn("coordinator-2", &["coordinator"], None)?;
    site.spawn("worker-2", &["worker", "--id", "worker-2"], None)?;
    replayed(&site, "recovered", Status::Completed).await?;

    refusals(&site, &file).await?;
    site.done();
    Ok(())
}

/// What is not such a file, or tells another end.
async fn refusals(site: &Site, file: &std::path::Path) -> anyhow::Result<()> {
    let caller = site.caller();
    let name = file.to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file)?;
    let none = caller.call(&["executions", "history", "exec_none_00000000", "--download", &format!("{name}.new")]).await?;
    ensure!(none.code == Some(4), "{none:?}");
    let other = caller.write(&text.replace(r#""status":"completed""#, r#""status":"failed""#))?;
    let told = caller.call(&["replay", &other]).await?;
    ensure!(told.code == Some(1) && told.out.contains("differs: status"), "{told:?}");
    let cut: Vec<&str> = text.lines().filter(|l| !l.contains("node_completed")).collect();
    let told = caller.call(&["replay", &caller.write(&cut.join("\n"))?]).await?;
    ensure!(told.code == Some(1) && told.out.contains("the core finds no end"), "{told:?}");
    for (wrong, says) in [("", "ends before its head"), ("{}", "line 1"), (&text.replacen(r#""v":1"#, r#""v":9"#, 1)[..], "form 9")] {
        let told = caller.call(&["replay", &caller.write(wrong)?]).await?;
        ensure!(told.code == Some(2) && told.err.contains(says), "{told:?}");
    }
    Ok(())
}
