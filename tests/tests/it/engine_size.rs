//! Wide, long and large workflows, and those that are too large.

use std::time::{Duration, Instant};

use anyhow::ensure;
use haltline_client::{Code, Status};
use haltline_common::types::limits::NODES_MAX;
use haltline_tests::{Site, checks, shapes};
use serde_json::{Value, json};

use crate::COMMAND;

#[tokio::test]
async fn a_fan_of_three_hundred() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let mut nodes = vec![json!({ "id": "root", "type": "static", "params": { "outputs": { "x": 1 } } })];
    nodes
        .extend((0..300).map(|n| json!({ "id": format!("n{n}"), "type": "static", "inputs": { "x": { "node": "root", "output": "x" } } })));
    let names: Vec<String> = (0..300).map(|n| format!("n{n}")).collect();
    nodes.push(json!({ "id": "join", "type": "static", "depends_on": names }));
    let outcome = site.run(&shapes::workflow("fan", nodes.into())?, "k", json!({})).await?;
    ensure!(outcome.status == Status::Completed && outcome.outputs.len() == 302, "{:?} {:?}", outcome.status, outcome.error);
    let (_, events) = checks::ended(&site.client, "k").await?;
    ensure!(events.len() == 2 + 2 * 302, "{} events", events.len());
    site.done();
    Ok(())
}

#[tokio::test]
async fn a_chain_of_forty() -> anyhow::Result<()> {
    let mut site = Site::start(COMMAND).await?;
    // Segments end where a worker lacks the next type: these two share the chain.
    site.process("worker-1")?.kill();
    site.spawn("worker-static", &["worker", "--types", "static"], None)?;
    site.spawn("worker-log", &["worker", "--types", "log"], None)?;
    let node = |n: usize| {
        let kind = if n % 10 == 9 { "log" } else { "static" };
        let mut node = json!({ "id": format!("n{n}"), "type": kind, "params": { "message": "here" } });
        if n > 0 {
            node["depends_on"] = json!([format!("n{}", n - 1)]);
        }
        node
    };
    let outcome = site.run(&shapes::workflow("chain", (0..40).map(node).collect())?, "k", json!({})).await?;
    ensure!(outcome.status == Status::Completed, "{outcome:?}");
    let (_, events) = checks::ended(&site.client, "k").await?;
    let started: Vec<String> =
        events.iter().filter(|e| e.kind.as_str() == "node_started").filter_map(|e| Some(e.node_id.as_ref()?.to_string())).collect();
    ensure!(started == (0..40).map(|n| format!("n{n}")).collect::<Vec<_>>(), "{started:?}");
    ensure!(events.len() == 82, "{} events", events.len());
    site.done();
    Ok(())
}

#[tokio::test]
async fn as_many_nodes_as_are_allowed_and_one_more() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let nodes = |n: usize| -> Value { (0..n).map(|n| json!({ "id": format!("n{n}"), "type": "static" })).collect() };
    let refused = site.client.put_workflow(&shapes::workflow("more", nodes(NODES_MAX + 1))?).await;
    ensure!(refused.as_ref().is_err_and(|e| e.code == Code::Invalid && e.field.as_deref() == Some("nodes")), "{refused:?}");
    let began = Instant::now();
    let outcome = site.run(&shapes::workflow("many", nodes(NODES_MAX))?, "k", json!({})).await?;
    ensure!(outcome.status == Status::Completed, "{:?} {:?}", outcome.status, outcome.error);
    ensure!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let (record, _) = checks::ended(&site.client, "k").await?;
    ensure!(record.nodes_completed as usize == NODES_MAX, "{}", record.nodes_completed);
    site.done();
    Ok(())
}

#[tokio::test]
async fn outputs_and_inputs_that_are_too_large_fail_closed() -> anyhow::Result<()> {
    let site = Site::start(COMMAND).await?;
    let text = |kb: usize| "x".repeat(kb * 1024);
    // Outputs that are small, each, and too large together are a failure of their node: none of them goes by reference.
    let many: serde_json::Map<_, _> = (0..67).map(|n| (format!("x{n}"), text(3).into())).collect();
    let many = json!([{ "id": "a", "type": "static", "params": { "outputs": many } }]);
    let outcome = site.run(&shapes::workflow("large", many)?, "large", json!({})).await?;
    ensure!(outcome.status == Status::Failed && outcome.error_type.as_deref() == Some("OutputTooLarge"), "{:?}", outcome.error);
    // Results that do not fit one message are left out of the record, and said to be.
    let wide = |id: &str, n: usize| {
        let outputs: serde_json::Map<_, _> = (0..n).map(|n| (format!("x{n}"), text(3).into())).collect();
        json!({ "id": id, "type": "static", "params": { "outputs": outputs } })
    };
    let eight = (0..8).map(|n| wide(&format!("n{n}"), 22)).chain([json!({ "id": "end", "type": "static" })]).collect();
    let outcome = site.run(&shapes::workflow("sum", eight)?, "sum", json!({})).await?;
    ensure!(
        outcome.status == Status::Completed && outcome.outputs_omitted && outcome.outputs.is_empty(),
        "{:?} {:?}",
        outcome.status,
        outcome.error
    );
    let (_, events) = checks::ended(&site.client, "sum").await?;
    ensure!(events.iter().filter(|e| e.outputs.is_some()).count() == 9, "the outputs are not in the events");
    // Inputs of one task above the limit: one node takes the same outputs many times.
    let inputs: serde_json::Map<_, _> =
        (0..300).map(|n| (format!("i{n}"), json!({ "node": "big", "output": format!("x{}", n % 20) }))).collect();
    let nodes = json!([
        wide("big", 20),
        { "id": "copies", "type": "static", "inputs": inputs },
        { "id": "other", "type": "static", "depends_on": ["big"] },
    ]);
    let outcome = site.run(&shapes::workflow("inputs", nodes)?, "inputs", json!({})).await?;
    ensure!(
        outcome.status == Status::Failed && outcome.error_type.as_deref() == Some("MissingInput"),
        "{:?} {:?}",
        outcome.status,
        outcome.error
    );
    // An input of the execution above half a message is refused before anything is stored.
    let one = shapes::workflow("one", json!([{ "id": "a", "type": "static" }]))?;
    site.client.put_workflow(&one).await?;
    for kb in [460, 1000] {
        let refused = site.client.submit(shapes::submission(&one, "big", json!({ "x": text(kb) }))).await;
        ensure!(refused.as_ref().is_err_and(|e| e.code == Code::TooLarge && e.field.as_deref() == Some("input")), "{kb}: {refused:?}");
    }
    site.done();
    Ok(())
}
